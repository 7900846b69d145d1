"""k-means: by hand, against the obvious loop, and on data that has nothing to cluster."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from onerec.errors import DataError, RecipeError
from onerec.tokenizer import bounds as bounds_module
from onerec.tokenizer import distances as distances_module
from onerec.tokenizer import kmeans as module
from onerec.tokenizer.bounds import GroupBounds
from onerec.tokenizer.distances import sum_of_squares
from onerec.tokenizer.kmeans import assign, cluster_sums, kmeans, lloyd, new_sums


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(n: int = 300, d: int = 5, k: int = 6, seed: int = 0) -> Tensor:
    centres = 10 * torch.randn(k, d, generator=generator(seed))
    return centres.repeat(n // k, 1) + 0.1 * torch.randn(n, d, generator=generator(seed + 1))


@pytest.mark.parametrize("init", ["k-means++", "k-means||", "random"])
def test_two_pairs_by_hand(init: str) -> None:
    x = torch.tensor([[0.0, 0.0], [0.0, 2.0], [10.0, 0.0], [10.0, 4.0]])
    result = kmeans(x, 2, generator=generator(3), init=init)
    order = result.centroids[:, 0].argsort()
    assert result.centroids[order].tolist() == [[0.0, 1.0], [10.0, 2.0]]
    assert result.inertia == 1 + 1 + 4 + 4
    assert result.labels[0] == result.labels[1] != result.labels[2] == result.labels[3]


def test_as_many_clusters_as_rows() -> None:
    x = blobs(30, 3)
    result = kmeans(x, 30, generator=generator())
    assert result.inertia == 0
    assert sorted(result.labels.tolist()) == list(range(30))


def test_seeds_of_a_round_lie_far_from_those_before() -> None:
    """40 far blobs, 64 seeds one at a time: k-means|| finds them as k-means++ does, random not."""
    x = blobs(4_000, 8, 40)
    found = {
        init: len(assign(module.start(x, 64, generator(1), init), blobs(40, 8, 40)).unique())
        for init in module.INITS
    }
    assert found["k-means||"] == found["k-means++"] == 40 > found["random"]


def test_seeds_drawn_in_rounds_end_near_those_drawn_one_by_one() -> None:
    """256 seeds in 64 rounds of 4, on rows without clusters."""
    x = torch.randn(6_000, 8, generator=generator())
    ends = {
        init: kmeans(x, 256, generator=generator(2), init=init).inertia for init in module.INITS
    }
    assert ends["k-means||"] < 1.02 * ends["k-means++"]
    first, again = (module.parallel_seeds(x, 256, generator(2)) for _ in range(2))
    assert torch.equal(first, again)
    assert len(first.unique(dim=0)) == 256


def test_near_the_mean_by_hand() -> None:
    x = torch.tensor([[0.0, 0.0], [8.0, 0.0], [4.0, 12.0]])  # mean (4, 4)
    assert module.near_mean(x.mean(0), x[:2]).tolist() == [[3.0, 3.0], [5.0, 3.0]]
    started = module.start(x, 3, generator(1), "near-mean")
    assert sorted(started.tolist()) == [[3.0, 3.0], [4.0, 6.0], [5.0, 3.0]]


def test_noise_in_many_dimensions_is_shared_evenly_from_near_the_mean() -> None:
    """The other starts leave one cluster at the mean that takes most rows: a residual's fate."""
    x = torch.randn(2_000, 384, generator=generator())
    ends = {init: kmeans(x, 64, generator=generator(2), init=init) for init in module.INITS}
    largest = {init: int(torch.bincount(end.labels).max()) for init, end in ends.items()}
    assert largest["near-mean"] < 2 * 2_000 / 64
    for init in ("k-means++", "k-means||", "random"):
        assert largest[init] > 2 * largest["near-mean"]
        assert ends["near-mean"].inertia < ends[init].inertia


def test_assign_equals_all_distances_in_float64() -> None:
    x, centroids = (
        torch.randn(500, 7, generator=generator()),
        torch.randn(33, 7, generator=generator(1)),
    )
    distances = (x.double()[:, None] - centroids.double()).square().sum(-1)
    assert assign(x, centroids).equal(distances.argmin(1))


@pytest.mark.parametrize("chunk", [1, 7, 100, 499, 500, 9999])
def test_assign_is_the_same_in_any_chunk(chunk: int) -> None:
    x, centroids = (
        torch.randn(500, 7, generator=generator()),
        torch.randn(33, 7, generator=generator(1)),
    )
    assert assign(x, centroids, chunk).equal(assign(x, centroids))


def test_ties_go_to_the_lowest_index() -> None:
    centroids = torch.tensor([[2.0], [0.0], [2.0], [0.0]])
    assert assign(torch.tensor([[0.0], [2.0], [1.0]]), centroids).tolist() == [1, 0, 0]


def test_equal_centroids_are_one_whatever_their_column() -> None:
    """A matrix product may round two equal columns differently: the lowest must still win."""
    one = torch.randn(40, 19, generator=generator())
    twice = torch.cat([one, one])
    assert module._first_of_equal(twice).tolist() == [*range(40), *range(40)]
    labels = assign(one.repeat(20, 1) + 0.01, twice)
    assert labels.max() < 40
    assert labels[:40].tolist() == list(range(40))


def slow_lloyd(x: np.ndarray, centroids: np.ndarray, iterations: int) -> np.ndarray:
    for _ in range(iterations):
        label = [
            min(range(len(centroids)), key=lambda k: ((row - centroids[k]) ** 2).sum()) for row in x
        ]
        groups = [x[[own == k for own in label]] for k in range(len(centroids))]
        centroids = np.stack(
            [g.mean(0) if len(g) else c for g, c in zip(groups, centroids, strict=True)]
        )
    return centroids


@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_equals_the_obvious_loop(iterations: int) -> None:
    x = torch.randn(120, 4, generator=generator(2))
    start = x[torch.randperm(120, generator=generator(0))[:7]]  # what init="random" takes
    result = kmeans(x, 7, generator=generator(0), init="random", iterations=iterations, tolerance=0)
    expected = slow_lloyd(x.double().numpy(), start.double().numpy(), iterations)
    np.testing.assert_allclose(result.centroids.numpy(), expected, atol=1e-5)
    assert result.labels.equal(assign(x, result.centroids))
    assert result.inertia == pytest.approx(
        float((x - result.centroids[result.labels]).square().sum())
    )


def test_inertia_never_rises_and_the_best_of_all_partitions_bounds_it() -> None:
    x = torch.tensor([[0.0], [1.0], [2.5], [7.0], [7.5], [20.0]])
    partitions = itertools.product(range(3), repeat=6)
    best = min(
        sum(
            float(
                (
                    x[[i for i in range(6) if p[i] == k]]
                    - x[[i for i in range(6) if p[i] == k]].mean()
                )
                .square()
                .sum()
            )
            for k in set(p)
        )
        for p in partitions
    )
    found = [
        kmeans(x, 3, generator=generator(2), iterations=i, tolerance=0).inertia for i in (1, 2, 9)
    ]
    assert found == sorted(found, reverse=True)
    assert found[-1] == pytest.approx(best)


def test_start_finds_every_blob_where_a_random_one_often_does_not() -> None:
    x = blobs(600, 5, 20)
    good = [kmeans(x, 20, generator=generator(seed)).inertia for seed in range(5)]
    poor = [
        kmeans(x, 20, generator=generator(seed), init="random", iterations=3).inertia
        for seed in range(5)
    ]
    assert max(good) < 2 * 600 * 5 * 0.1**2
    assert np.median(poor) > 5 * max(good)


def test_the_same_seed_gives_the_same_bits() -> None:
    x = torch.randn(2000, 8, generator=generator())
    one, two = (kmeans(x, 50, generator=generator(7)) for _ in range(2))
    assert one.centroids.equal(two.centroids)
    assert one.labels.equal(two.labels)
    assert not kmeans(x, 50, generator=generator(8)).centroids.equal(one.centroids)


def test_an_empty_cluster_is_repaired_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three starts on one point: two are empty after the first assignment."""
    x = blobs(60, 2, 3)
    monkeypatch.setattr(module, "greedy_seeds", lambda x, k, g: x[:1].repeat(k, 1))
    result = kmeans(x, 3, generator=generator())
    assert result.repaired == 2
    assert len(result.labels.unique()) == 3


def test_constant_data_is_one_cluster_at_no_distance() -> None:
    result = kmeans(torch.full((50, 3), 0.1), 4, generator=generator())
    assert result.inertia == 0
    assert result.labels.unique().tolist() == [0]
    assert result.repaired == 0
    assert result.centroids[0].equal(torch.full((3,), 0.1))


@pytest.mark.parametrize("init", module.INITS)
def test_fewer_distinct_rows_than_clusters(init: str) -> None:
    x = torch.randn(3, 6, generator=generator()).repeat(20, 1)
    result = kmeans(x, 8, generator=generator(), init=init)
    assert result.inertia == 0
    assert len(result.labels.unique()) == 3
    assert result.labels.equal(assign(x, result.centroids))


def test_half_precision_is_read_in_pieces() -> None:
    x = blobs().half()
    result = kmeans(x, 6, generator=generator())
    assert result.centroids.dtype == torch.float32
    assert result.inertia < 300 * 5 * 0.1**2 * 2


def test_memory_is_bounded_by_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No product of all rows with all centroids: the largest one has the rows of a chunk."""
    seen: list[int] = []
    product = distances_module.scores
    monkeypatch.setattr(distances_module, "chunk_rows", lambda x, columns: 64)

    def watched(lengths: Tensor, rows: Tensor, twice: Tensor) -> Tensor:
        seen.append(len(rows))
        return product(lengths, rows, twice)

    monkeypatch.setattr(distances_module, "scores", watched)
    kmeans(blobs(1200, 5, 6), 6, generator=generator())
    assert max(seen) == 64


def test_says_what_cannot_be_clustered() -> None:
    x = blobs(30, 3)
    with pytest.raises(
        RecipeError, match=r"31 codes cannot be made from 30 vectors; choose .* at most 30"
    ):
        kmeans(x, 31, generator=generator())
    with pytest.raises(
        RecipeError,
        match=r"init 'kmeans' is unknown; choose one of k-means\+\+, .*random",
    ):
        kmeans(x, 3, generator=generator(), init="kmeans")
    x[17, 1] = math.nan
    with pytest.raises(DataError, match="content vector 17 has a value that is not finite"):
        kmeans(x, 3, generator=generator())
    with pytest.raises(ValueError, match="must be"):
        kmeans(x[0], 3, generator=generator())


def test_close_to_scikit_learn() -> None:
    cluster = pytest.importorskip("sklearn.cluster")
    x = torch.randn(1500, 6, generator=generator())
    ours = min(kmeans(x, 20, generator=generator(seed)).inertia for seed in range(3))
    theirs = cluster.KMeans(20, n_init=3, random_state=0, max_iter=25).fit(x.numpy()).inertia_
    assert ours == pytest.approx(theirs, rel=0.01)


def test_bounds_change_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 256 clusters most distances are not computed; without, all are."""
    x, start = blobs(4_000, 5, 400), generator(4)
    centroids = x[torch.randperm(len(x), generator=start)[:256]]
    found = []
    for bounded in (True, False):
        monkeypatch.setattr(module, "worth_bounds", lambda x, k, b=bounded: b)
        found.append(lloyd(x, centroids, iterations=12, generator=generator(), tolerance=0))
    assert found[0].labels.equal(found[1].labels)
    assert found[0].inertia == pytest.approx(found[1].inertia, rel=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_gpu_gives_the_same_bits_again_and_the_cpu_quality() -> None:
    x = torch.randn(20_000, 16, generator=generator())
    cpu = kmeans(x, 64, generator=generator(1))
    one, two = (kmeans(x.cuda(), 64, generator=generator(1)) for _ in range(2))
    assert one.centroids.equal(two.centroids)
    assert one.labels.equal(two.labels)
    assert one.inertia == pytest.approx(cpu.inertia, rel=0.01)


@pytest.mark.parametrize("iterations", [4, 40])
def test_when_bounds_begin_changes_no_cluster(
    monkeypatch: pytest.MonkeyPatch, iterations: int
) -> None:
    """From the second iteration on, once centroids hardly move, or never: until done, or cut."""
    x = torch.randn(3_000, 6, generator=torch.Generator().manual_seed(2))
    begun, found = [], []
    kept = module.GroupBounds

    def bounds(*of: Tensor) -> GroupBounds:
        begun.append(len(found))
        return kept(*of)

    monkeypatch.setattr(module, "GroupBounds", bounds)
    for least in (1.1, bounds_module.OPEN, 0.0):
        monkeypatch.setattr(bounds_module, "OPEN", least)
        found.append(lloyd(x, x[:256], iterations=iterations, generator=generator(0)))
    assert begun == ([0] if iterations == 4 else [0, 1]), "the last computes all distances"
    for one in found[1:]:
        assert torch.equal(one.labels, found[0].labels)
        torch.testing.assert_close(one.centroids, found[0].centroids)
        assert one.inertia == pytest.approx(found[0].inertia)
    assert torch.equal(found[0].labels, assign(x, found[0].centroids))


@pytest.mark.parametrize("changed", [0, 30, 900])
def test_sums_follow_the_rows_that_change(changed: int) -> None:
    x, stream = torch.randn(1_000, 5, generator=generator(3)), generator(4)
    before = torch.randint(20, (1_000,), generator=stream)
    labels = before.clone()
    labels[:changed] = torch.randint(20, (changed,), generator=stream)
    old, _ = cluster_sums(x, before, 20)
    found = new_sums(x, labels, 20, old, before)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, cluster_sums(x, labels, 20)[0], rtol=1e-12, atol=1e-12)
    assert torch.equal(old, cluster_sums(x, before, 20)[0]), "not changed in place"


def test_inertia_from_sums_is_that_of_distances_far_from_the_origin_too() -> None:
    """By hand: rows 0, 2 about 1 and row 10 about 7 have 1 + 1 + 9; then 1,000 to the right."""
    for offset in (0.0, 1_000.0):
        x = torch.tensor([[0.0], [2.0], [10.0]]) + offset
        centroids, labels = torch.tensor([[1.0], [7.0]]) + offset, torch.tensor([0, 0, 1])
        explained = module._explained(centroids, *cluster_sums(x, labels, 2))
        assert sum_of_squares(x) - float(explained) == pytest.approx(11.0, abs=1e-8)


def test_the_tolerance_is_relative_whatever_the_scale() -> None:
    """Rows a thousand times smaller stop as late: a tolerance of inertia itself stops at once."""
    x = torch.randn(500, 4, generator=generator())
    near, far = (kmeans(x * scale, 20, generator=generator(1)) for scale in (2.0**-12, 1.0))
    assert near.iterations == far.iterations > 5
    assert near.centroids.equal(far.centroids * 2.0**-12)


def test_an_iteration_that_repairs_is_not_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand, where any fall is too small to go on: the first two iterations repair, and without
    a third the last centroid would stay at .5, the mean of two rows of which one has left it."""
    rows = iter([11.0, 0.0])

    def one(x: Tensor, centroids: Tensor, far: Tensor, empty: Tensor, random: object) -> int:
        centroids[empty[0]] = next(rows)
        return 1

    monkeypatch.setattr(module, "repair", one)
    x = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
    found = lloyd(x, torch.full((3, 1), 5.0), iterations=9, generator=generator(), tolerance=99.0)
    assert (found.iterations, found.repaired, found.inertia) == (3, 2, 0.5)
    assert found.centroids[:, 0].tolist() == [0.0, 10.5, 1.0]


def test_each_seed_is_the_best_of_2_plus_ln_k_drawn_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 8 seeds each but the first from 2 + 2 rows; from one alone it is no greedy start."""
    drawn, draw = [], module._draw

    def watched(weights: Tensor, count: int, random: torch.Generator) -> Tensor:
        drawn.append(count)
        return draw(weights, count, random)

    monkeypatch.setattr(module, "_draw", watched)
    module.greedy_seeds(torch.randn(50, 3, generator=generator()), 8, generator())
    assert drawn == [4] * 7
