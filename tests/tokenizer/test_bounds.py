"""Bounds spare distances and change no label: each step against all distances in float64."""

import pytest
import torch
from torch import Tensor

from onerec.tokenizer import bounds as module
from onerec.tokenizer.bounds import GroupBounds, few_open, worth_bounds
from onerec.tokenizer.distances import nearest
from onerec.tokenizer.kmeans import cluster_sums


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def topics(n: int = 3_000, d: int = 9) -> Tensor:
    centres = torch.randn(100, d, generator=generator())
    return centres.repeat(n // 100, 1) + 0.3 * torch.randn(n, d, generator=generator(1))


def moved(x: Tensor, centroids: Tensor, labels: Tensor) -> Tensor:
    sums, counts = cluster_sums(x, labels, len(centroids))
    means = (sums / counts.clamp(min=1)[:, None]).float()
    return torch.where((counts > 0)[:, None], means, centroids)


def check(x: Tensor, centroids: Tensor, found: tuple[Tensor, Tensor]) -> None:
    """The label is a nearest centroid to within rounding, the distance that to it."""
    distances = (x.double()[:, None] - centroids.double()).square().sum(-1)
    labels, squared = found
    own = distances.gather(1, labels[:, None])[:, 0]
    scale = x.double().square().sum(1).max()
    assert float((own - distances.amin(1)).max()) <= 1e-6 * float(scale)
    torch.testing.assert_close(squared.double(), own, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("offset", [0.0, 30.0])
@pytest.mark.parametrize("whole", [-1.0, 0.6, 1.0])  # always, where it pays, never
def test_every_step_finds_the_nearest(
    offset: float, whole: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Far from the origin squared distances are poor in float32: bounds must leave room for it."""
    monkeypatch.setattr(module, "ENTRIES", 9 * 700)  # chunks that do not divide the rows
    monkeypatch.setattr(module, "WHOLE", whole)
    x = topics() + offset
    centroids = x[:256].clone()
    labels, _ = nearest(x, centroids)
    bounds = GroupBounds(x, centroids, labels)
    for step in range(9):
        centroids = moved(x, centroids, labels)
        if step == 4:  # a repaired cluster jumps
            centroids[7] = x[2_500]
        labels, distances = bounds.step(centroids)
        check(x, centroids, (labels, distances))
    assert labels.equal(nearest(x, centroids)[0])


def test_threads_find_what_one_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    x = topics()
    centroids = x[torch.randperm(len(x), generator=generator(2))[:256]].clone()
    monkeypatch.setattr(module, "ENTRIES", 2_000)  # chunks of 222 rows
    steps = {}
    for count in (1, 3):
        monkeypatch.setattr(module.distances, "workers", lambda x, count=count: count)
        bounds, at = GroupBounds(x, centroids, torch.zeros(len(x), dtype=torch.int64)), centroids
        for _ in range(4):
            found = bounds.step(at)
            at = moved(x, at, found[0])
        steps[count] = (*found, bounds.lower)
    assert steps[1][0].equal(steps[3][0])
    for one, three in zip(steps[1], steps[3], strict=True):
        torch.testing.assert_close(one, three, rtol=1e-5, atol=1e-4)


def test_a_start_from_any_labels() -> None:
    x = topics(600)
    centroids = x[:256].clone()
    bounds = GroupBounds(x, centroids, torch.zeros(600, dtype=torch.int64))
    found = bounds.step(centroids)
    check(x, centroids, found)
    assert found[0][:256].tolist() == list(range(256))  # a row that is a centroid is its own


def test_most_distances_are_spared_once_centroids_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    x = topics()
    centroids = x[:256].clone()
    labels, _ = nearest(x, centroids)
    bounds = GroupBounds(x, centroids, labels)
    scored: list[int] = []
    product = module.distances.scores

    def watched(lengths: Tensor, rows: Tensor, twice: Tensor) -> Tensor:
        scored.append(len(rows) * len(twice))
        return product(lengths, rows, twice)

    group = GroupBounds._scores

    def watched_group(self: GroupBounds, g: int, rows: Tensor, labels: Tensor) -> Tensor:
        found = group(self, g, rows, labels)
        scored.append(found.numel())
        return found

    monkeypatch.setattr(module.distances, "scores", watched)
    monkeypatch.setattr(GroupBounds, "_scores", watched_group)
    shares = []
    for _ in range(12):
        centroids = moved(x, centroids, labels)
        scored.clear()
        labels, _ = bounds.step(centroids)
        shares.append(sum(scored) / (len(x) * 256))
    assert shares[0] >= 1
    assert shares[-1] < 0.1


def test_of_equal_centroids_one_is_found() -> None:
    x = topics(600)
    centroids = x[:128].repeat(2, 1)
    labels, _ = nearest(x, centroids)
    found = GroupBounds(x, centroids, labels).step(centroids)
    check(x, centroids, found)
    assert (found[0] % 128).equal(labels % 128)


@pytest.mark.parametrize(("k", "shape"), [(256, (4, 64)), (64, (1, 64)), (4096, (32, 128))])
def test_groups_are_of_one_size_and_hold_all(k: int, shape: tuple[int, int]) -> None:
    groups = module.groups(torch.randn(k, 3, generator=generator()))
    assert groups.shape == shape
    assert sorted(groups.flatten().tolist()) == list(range(k))


def test_groups_are_neighbourhoods() -> None:
    centres = 50 * torch.randn(4, 5, generator=generator())
    order = torch.randperm(256, generator=generator(2))
    centroids = (centres.repeat(64, 1) + torch.randn(256, 5, generator=generator(1)))[order]
    groups = module.groups(centroids)
    assert all(len((order[group] % 4).unique()) == 1 for group in groups)


def test_where_bounds_are_worth_it() -> None:
    x = torch.zeros(2, 2)
    assert worth_bounds(x, 256)
    assert not worth_bounds(x, 128)
    assert not worth_bounds(x, 300)  # not in whole groups
    assert not worth_bounds(torch.empty(2, 2, device="meta"), 256)


def test_bounds_wait_until_a_move_leaves_few_of_them_open() -> None:
    """Two groups far from each other: which of the 4 x 2 bounds a move leaves open, by hand."""
    rows = torch.tensor([[0.0], [1.0], [100.0], [101.0]])
    centroids = torch.tensor([[0.2], [1.2], [100.2], [101.2]])
    members = torch.tensor([[0, 1], [2, 3]])
    open_share = []
    for moved in (0.1, 0.9, 50.0, 101.0):
        shares = []
        for least in (0.0, 0.01, 0.26, 0.51, 0.76, 1.01):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(module, "OPEN", least)
                shares.append(few_open(rows, members, centroids - moved, centroids))
        open_share.append(shares.index(True))
    # .9: the own group of rows 1 and 101, whose other centroid is .8 away; 50: of all; 101: all
    assert open_share == [1, 2, 3, 5], "of 8: none, 2, 4, 8"


def test_a_row_that_left_a_group_finds_the_centroid_that_it_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By hand, groups {0, 1} and {2, 3}: the row at 40 leaves centroid 1, 39 away, for centroid 2.

    Its bound of the first group was 40, the way to centroid 0: kept, it hides centroid 1 from the
    row once centroid 2 is 39.5 away.
    """
    monkeypatch.setattr(module, "GROUP", 2)
    monkeypatch.setattr(module, "WHOLE", 1.0)
    places = torch.tensor([[0.0], [1.0], [100.0], [101.0]])
    bounds = GroupBounds(torch.tensor([[40.0]]), places, torch.tensor([1]))
    labels = []
    for third in (100.0, 40.5, 79.5):
        places = torch.tensor([[0.0], [1.0], [third], [101.0]])
        labels += bounds.step(places)[0].tolist()
    assert labels == [1, 2, 1]
