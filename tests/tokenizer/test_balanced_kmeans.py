"""Balanced k-means: Algorithm 1 by hand, sizes always, and the scaling assignment beside it."""

import itertools
import time
from typing import Any

import pytest
import torch
from torch import Tensor

from onerec.errors import RecipeError
from onerec.tokenizer import balanced_kmeans as module
from onerec.tokenizer import kmeans as plain
from onerec.tokenizer.balanced_kmeans import algorithm_1, balanced_kmeans, sizes_of, transport


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=generator(seed))


def cost(x: Tensor, centroids: Tensor, labels: Tensor) -> float:
    return float((x - centroids[labels]).double().square().sum())


def test_a_round_of_algorithm_1_by_hand() -> None:
    """The first cluster takes the two nearest to 1; of the three left the next takes those by 0."""
    x = torch.tensor([[0.0], [1.0], [2.0], [9.0], [10.0]])
    labels, means = algorithm_1(x, torch.tensor([[1.0], [0.0]]))
    assert labels.tolist() == [0, 0, 0, 1, 1]  # sizes 3 and 2: 1, then 0 and 2 at the same distance
    assert means.tolist() == [[1.0], [9.5]]
    labels, means = algorithm_1(x[:4], torch.tensor([[10.0], [0.0]]))
    assert labels.tolist() == [1, 1, 0, 0]
    assert means.tolist() == [[5.5], [0.5]]


def test_equal_distances_go_by_row_in_algorithm_1() -> None:
    """7 and 3 are as far from 5; 3 was nearer to the first centroid, but 7 is the earlier row."""
    labels, _ = algorithm_1(
        torch.tensor([[7.0], [3.0], [0.0]]), torch.tensor([[0.0], [5.0], [9.0]])
    )
    assert labels.tolist() == [1, 2, 0]


def test_a_full_cluster_keeps_those_whose_next_choice_costs_most() -> None:
    """Three rows ask for 0: going to 10 costs -5, 0 and 1 another 200, 100 and 80."""
    x, centroids = torch.tensor([[-5.0], [0.0], [1.0], [9.0]]), torch.tensor([[0.0], [10.0]])
    labels, _ = transport(x, centroids, torch.zeros(2), passes=0)
    assert labels.tolist() == [0, 0, 1, 1]


def test_the_odd_row_goes_to_the_cluster_that_most_ask_for() -> None:
    """Of five rows three are nearer to 10."""
    x, centroids = torch.tensor([[0.0], [1.0], [9.0], [10.0], [11.0]]), torch.tensor([[0.0], [10]])
    labels, _ = transport(x, centroids, torch.zeros(2), passes=0)
    assert labels.tolist() == [0, 0, 1, 1, 1]


def test_algorithm_1_equals_the_obvious_loop() -> None:
    x, centroids = randn(53, 3), randn(7, 3, 1)
    left, expected = list(range(53)), {}
    for cluster, size in enumerate([8, 8, 8, 8, 7, 7, 7]):
        left.sort(key=lambda row: float((x[row] - centroids[cluster]).square().sum()))
        expected |= dict.fromkeys(left[:size], cluster)
        left = left[size:]
    labels, means = algorithm_1(x, centroids)
    assert labels.tolist() == [expected[row] for row in range(53)]
    torch.testing.assert_close(means, torch.stack([x[labels == k].mean(0) for k in range(7)]))


@pytest.mark.parametrize("assignment", ["transport", "greedy"])
@pytest.mark.parametrize(("n", "k"), [(60, 6), (61, 6), (65, 6), (6, 6), (7, 1), (200, 199)])
def test_sizes_differ_by_at_most_one(assignment: str, n: int, k: int) -> None:
    x = randn(n, 3) ** 3  # skewed: plain k-means would be far from balanced
    result = balanced_kmeans(x, k, generator=generator(), assignment=assignment)
    assert sorted(torch.bincount(result.labels, minlength=k).tolist()) == sorted(sizes_of(n, k))
    assert result.inertia == pytest.approx(cost(x, result.centroids, result.labels), rel=1e-5)


@pytest.mark.parametrize("x", [torch.full((50, 3), 0.1), randn(5, 3).repeat(10, 1)])
def test_equal_rows_are_balanced_too(x: Tensor) -> None:
    for assignment in ("transport", "greedy"):
        result = balanced_kmeans(x, 8, generator=generator(), assignment=assignment)
        assert torch.bincount(result.labels).tolist().count(6) == 6


def test_transport_comes_to_the_best_of_all_balanced_assignments() -> None:
    """Nine rows to three centroids, one far away: all 1680 ways to do it, and prices come to rest.

    An iteration has few passes; the prices go on in the next.
    """
    for seed in range(3):
        x, centroids = randn(9, 2, seed), randn(3, 2, seed + 50)
        ways = (labels for labels in itertools.product(range(3), repeat=9))
        even = (torch.tensor(way) for way in ways if all(way.count(k) == 3 for k in range(3)))
        best = min(cost(x, centroids, labels) for labels in even)
        labels, _ = transport(x, centroids, torch.zeros(3), passes=400)
        assert cost(x, centroids, labels) <= 1.001 * best


def test_a_cap_comes_to_the_best_of_all_assignments_that_keep_it() -> None:
    """Nine rows, at most four to each of three centroids."""
    for seed in range(3):
        x, centroids = randn(9, 2, seed), randn(3, 2, seed + 50)
        ways = (torch.tensor(labels) for labels in itertools.product(range(3), repeat=9))
        kept = (way for way in ways if int(torch.bincount(way).max()) <= 4)
        best = min(cost(x, centroids, way) for way in kept)
        labels, prices = transport(x, centroids, torch.zeros(3), passes=400, most=4)
        assert int(torch.bincount(labels).max()) <= 4
        assert cost(x, centroids, labels) <= 1.001 * best
        assert float(prices.min()) >= 0


@pytest.mark.parametrize("cap", [1.01, 1.2, 2.0])
def test_no_cluster_exceeds_the_cap_and_all_rows_have_one(cap: float) -> None:
    x = randn(605, 3) ** 3  # skewed: plain k-means would be far from balanced
    result = balanced_kmeans(x, 20, generator=generator(), cap=cap)
    sizes = torch.bincount(result.labels, minlength=20)
    assert int(sizes.max()) == max(31, int(cap * 605 / 20))
    assert int(sizes.sum()) == 605
    assert result.inertia == pytest.approx(cost(x, result.centroids, result.labels), rel=1e-5)


def test_a_cap_that_comes_to_whole_rows_is_not_a_row_less() -> None:
    assert int(1.15 * 200 / 10) == 22, "the product is 22.999..."
    x = torch.randn(200, 3, generator=generator()).exp()
    sizes = torch.bincount(balanced_kmeans(x, 10, generator=generator(), cap=1.15).labels)
    assert int(sizes.max()) == 23


def test_error_falls_with_the_cap_down_to_that_of_plain_k_means() -> None:
    x = randn(600, 3) ** 3
    free = plain.kmeans(x, 20, generator=generator(), tolerance=0)
    found = [
        balanced_kmeans(x, 20, generator=generator(), cap=cap).inertia for cap in (1.0, 1.5, 3.0)
    ]
    assert found[0] > found[1] > found[2]
    no_limit = balanced_kmeans(x, 20, generator=generator(), cap=20.0, tolerance=0)
    assert no_limit.inertia == pytest.approx(free.inertia, rel=1e-5)


def test_a_cluster_that_nobody_wants_moves_where_only_a_cap_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "start", lambda x, k, *more: 100 * torch.eye(k)[:, :2] + x[0])
    x = randn(90, 2)
    result = balanced_kmeans(x, 5, generator=generator(), cap=3.0)
    assert result.repaired >= 1
    assert int(torch.bincount(result.labels, minlength=5).min()) > 0


def test_a_cluster_that_nobody_wants_stays_until_it_is_moved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun = torch.tensor([[0.0, 0.0], [100.0, 100.0]])
    monkeypatch.setattr(module, "start", lambda *given: begun.clone())
    result = balanced_kmeans(randn(30, 2), 2, iterations=1, generator=generator(), cap=2.0)
    assert result.labels.tolist() == [0] * 30
    assert result.centroids[1].tolist() == [100.0, 100.0]


def test_prices_go_on_from_the_iteration_before(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Tensor] = []
    told = [torch.zeros(12)]

    def watched(x: Tensor, centroids: Tensor, prices: Tensor, **more: Any) -> tuple[Tensor, ...]:
        labels, after = transport(x, centroids, prices, **more)
        given.append(prices)
        told.append(after)
        return labels, after

    monkeypatch.setattr(module, "transport", watched)
    result = balanced_kmeans(randn(300, 4), 12, generator=generator())
    assert len(given) == result.iterations > 2
    assert all(one.equal(before) for one, before in zip(given, told[:-1], strict=True))


def test_a_cap_that_cannot_be_kept_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"cap.*is 0\.9 times the mean; it must be at least 1"):
        balanced_kmeans(randn(9, 2), 3, generator=generator(), cap=0.9)
    with pytest.raises(RecipeError, match="must be at least 1"):
        balanced_kmeans(randn(9, 2), 3, generator=generator(), cap=float("nan"))
    with pytest.raises(RecipeError, match=r"a cap of 1\.2 is for assignment transport; greedy"):
        balanced_kmeans(randn(9, 2), 3, generator=generator(), cap=1.2, assignment="greedy")


@pytest.mark.parametrize("seed", range(4))
def test_transport_ends_no_worse_than_algorithm_1(seed: int) -> None:
    """Within 1% above it, from the same start; in fact it is a tenth below."""
    x = randn(400, 4, seed)
    ours, theirs = (
        balanced_kmeans(x, 16, generator=generator(seed), init="random", assignment=how)
        for how in ("transport", "greedy")
    )
    assert ours.inertia <= 1.01 * theirs.inertia


def test_the_best_iteration_counts_and_not_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    x = randn(200, 3)
    second = balanced_kmeans(x, 8, iterations=2, generator=generator(), init="random")
    third = balanced_kmeans(x, 8, iterations=3, generator=generator(), init="random")
    assert not third.centroids.equal(second.centroids)
    inertia = iter([9.0, 5.0, 7.0])
    monkeypatch.setattr(module, "inertia_of", lambda *given: next(inertia))
    found = balanced_kmeans(x, 8, generator=generator(), init="random")
    assert (found.inertia, found.iterations) == (5.0, 3)
    assert found.centroids.equal(second.centroids)
    assert found.labels.equal(second.labels)


def test_algorithm_1_goes_on_until_no_label_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transport ends where the inertia no longer falls, here after two iterations."""
    x = randn(200, 3)
    centroids, rounds, old = plain.start(x, 8, generator(), "random"), 0, torch.zeros(0)
    while not torch.equal(labels := algorithm_1(x, centroids)[0], old):
        centroids, old, rounds = algorithm_1(x, centroids)[1], labels, rounds + 1
    assert rounds > 2
    monkeypatch.setattr(module, "inertia_of", lambda *given: 1.0)
    for how, made in (("greedy", rounds + 1), ("transport", 2)):
        found = balanced_kmeans(
            x, 8, iterations=99, generator=generator(), init="random", assignment=how
        )
        assert found.iterations == made


def test_balance_costs_little_where_clusters_are_of_one_size() -> None:
    x = (10 * randn(8, 4)).repeat(25, 1) + randn(200, 4, 1)
    balanced = balanced_kmeans(x, 8, generator=generator())
    assert balanced.inertia <= 1.02 * plain.kmeans(x, 8, generator=generator()).inertia


def test_a_round_of_transport_is_faster_where_clusters_are_many() -> None:
    """Algorithm 1 reads what is left once per cluster: 3.4 times the seconds where measured."""
    x, centroids = randn(6_000, 192), randn(256, 192, 1)

    def seconds(how: str) -> float:
        begun = time.process_time()
        if how == "greedy":
            algorithm_1(x, centroids)
        else:
            transport(x, centroids, torch.zeros(256))
        return time.process_time() - begun

    fastest = {how: min(seconds(how) for _ in range(2)) for how in ("transport", "greedy")}
    assert fastest["transport"] < fastest["greedy"]


def test_the_same_seed_gives_the_same_bits_and_blocks_do_not_matter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = randn(300, 5)
    one, two = (balanced_kmeans(x, 12, generator=generator(3)) for _ in range(2))
    assert one.centroids.equal(two.centroids)
    monkeypatch.setattr(module, "chunk_rows", lambda x, columns: 17)
    blocked = balanced_kmeans(x, 12, generator=generator(3))
    assert blocked.inertia == pytest.approx(one.inertia, rel=1e-3)


def test_all_distances_never_stand_together(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    product = torch.addmm
    monkeypatch.setattr(module, "chunk_rows", lambda x, columns: 64)

    def watched(*args: Tensor, **more: float) -> Tensor:
        seen.append(len(args[1]))
        return product(*args, **more)

    monkeypatch.setattr(torch, "addmm", watched)
    transport(randn(1000, 5), randn(6, 5, 1), torch.zeros(6))
    assert max(seen) == 64


def test_says_what_cannot_be_clustered() -> None:
    with pytest.raises(RecipeError, match="31 codes cannot be made from 30 vectors"):
        balanced_kmeans(randn(30, 3), 31, generator=generator())
    with pytest.raises(RecipeError, match="'auction' is unknown; choose transport or greedy"):
        balanced_kmeans(randn(30, 3), 3, generator=generator(), assignment="auction")
