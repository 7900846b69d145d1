"""The dense pass: the nearest centroid against all distances, and the first of equals."""

import pytest
import torch

from onerec.tokenizer import distances
from onerec.tokenizer.distances import BLOCK, inertia_of, lowest, nearest, nearest_labels


def test_inertia_by_hand() -> None:
    x, centroids = torch.tensor([[0.0, 0.0], [3.0, 4.0]]), torch.tensor([[0.0, 1.0], [3.0, 0.0]])
    assert inertia_of(x, centroids, torch.tensor([0, 1])) == 1 + 16


@pytest.mark.parametrize("columns", [1, 7, BLOCK, 2 * BLOCK, 5 * BLOCK, 5 * BLOCK + 1])
def test_lowest_is_argmin_with_the_first_of_equals(columns: int) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(20, (300, columns), generator=generator).float()  # many ties
    first = [min(range(columns), key=lambda c: (row[c], c)) for row in scores.tolist()]
    assert lowest(scores).tolist() == first


def test_nearest_equals_all_distances_in_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    x, centroids = torch.randn(500, 7, generator=generator), torch.randn(128, 7)
    distances = (x.double()[:, None] - centroids.double()).square().sum(-1)
    labels, squared = nearest(x, centroids, chunk=99)
    assert labels.equal(distances.argmin(1))
    torch.testing.assert_close(squared.double(), distances.amin(1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("changed", [0, 20, 400])
def test_labels_before_stay_only_where_they_are_as_near_as_any(changed: int) -> None:
    generator = torch.Generator().manual_seed(1)
    x, centroids = (torch.randn(n, 7, generator=generator) for n in (500, 128))
    centroids[5] = centroids[90] = x[-1]  # equally near, and 5 the first
    own = (x.double()[:, None] - centroids.double()).square().sum(-1).argmin(1)
    before = own.clone()
    before[:changed] = torch.randint(128, (changed,), generator=generator)
    before[own == 5] = 90
    found = nearest_labels(x, centroids, 99, before=before)
    assert found[own != 5].equal(own[own != 5])
    chunk = found[own == 5][-1:]  # the last five rows, of which none has changed
    assert chunk.tolist() == [90]
    assert nearest_labels(x, centroids, 99).equal(own)


def test_chunks_on_threads_of_their_own_give_the_labels_of_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random = torch.Generator().manual_seed(4)
    x, centroids = torch.randn(500, 6, generator=random), torch.randn(32, 6, generator=random)
    monkeypatch.setattr(distances, "workers", lambda x: 1)
    alone = nearest_labels(x, centroids, 40)
    monkeypatch.setattr(distances, "workers", lambda x: 3)
    threads = torch.get_num_threads()
    assert nearest_labels(x, centroids.requires_grad_(), 40).equal(alone)
    assert nearest_labels(x, centroids, 40, before=alone.flip(0)).equal(alone)
    assert torch.get_num_threads() == threads
