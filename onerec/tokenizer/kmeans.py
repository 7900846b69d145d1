"""k-means on any device, in bounded memory.

Lloyd's iterations from a greedy k-means++ start. An (n, k) matrix of distances never exists, and on
a CPU most of them are not computed (`bounds`); sums are in float64 and in a fixed order, so a seed
gives the same centroids again on the same device. Left out: mini-batches; `stream_kmeans` reads
more rows than memory holds and `balanced_kmeans` makes clusters of one size.

Shapes: n vectors, d dimensions, k clusters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from onerec.errors import DataError, RecipeError
from onerec.tokenizer.bounds import GroupBounds, few_open, groups, worth_bounds
from onerec.tokenizer.distances import (
    chunk_rows,
    inertia_of,
    nearest,
    nearest_labels,
    squared,
    sum_of_squares,
)

INITS = ("k-means++", "k-means||", "near-mean", "random")
NEAR = 0.25
"""The near-mean start leaves so much of a random row's way from the mean; ours."""
SEED_ROWS_PER_CLUSTER, SEED_ROWS = 64, 2**17
"""The k-means++ start looks for seeds among so many random rows per cluster and in all; ours."""
ROUNDS = 64
"""The k-means|| start draws its seeds in so many rounds; ours."""


@dataclass(frozen=True)
class KMeansResult:
    """What `kmeans` found."""

    centroids: Tensor  # (k, d) float32
    labels: Tensor  # (n,) int64, equal to assign(x, centroids)
    inertia: float  # sum of squared distances to the own centroid
    iterations: int  # Lloyd iterations made
    repaired: int  # how often an empty cluster was given a new centroid


def kmeans(
    x: Tensor,
    k: int,
    *,
    iterations: int = 25,
    generator: torch.Generator,
    init: str = "k-means++",
    tolerance: float = 1e-6,
) -> KMeansResult:
    """Cluster the rows of x (n, d) into k clusters.

    Stops early when no label changes or the inertia falls by less than `tolerance` of itself. An
    empty cluster moves to a row drawn with a probability proportional to its squared distance to
    its own centroid, the rule of the start (ours); with fewer distinct rows than k some stay empty.

    Raises:
        RecipeError: fewer rows than clusters, or an unknown init.
        DataError: a value that is not finite.
        ValueError: x is not a matrix, or k or iterations is below 1.
    """
    check_vectors(x, k, iterations, init)
    centroids = start(x, k, generator, init)
    return lloyd(x, centroids, iterations=iterations, generator=generator, tolerance=tolerance)


def lloyd(
    x: Tensor,
    centroids: Tensor,
    *,
    iterations: int,
    generator: torch.Generator,
    tolerance: float = 1e-6,
) -> KMeansResult:
    """`kmeans` of x (n, d) from the given centroids (k, d); x and centroids are not checked.

    On a GPU the iterations take their products in TF32, whose rounding can give a row that lies
    between two centroids to either; the labels and the inertia at the end are float32's.
    """
    k, repaired, made, before = len(centroids), 0, 0, math.inf
    lengths = sum_of_squares(x)
    old_labels: Tensor | None = None
    sums: Tensor | None = None
    members: Tensor | None = None
    bounds: GroupBounds | None = None
    settled = False
    for _ in range(iterations):
        made += 1
        if settled and old_labels is not None:
            bounds = bounds or GroupBounds(x, centroids, old_labels)
            labels = bounds.step(centroids)[0]
        else:
            labels = nearest_labels(x, centroids, rounded=True, before=old_labels)
        sums = new_sums(x, labels, k, sums, old_labels)
        counts = torch.bincount(labels, minlength=k)
        inertia = lengths - float(_explained(centroids, sums, counts))
        full, left = counts > 0, centroids
        centroids = torch.where(full[:, None], sums / counts.clamp(min=1)[:, None], centroids)
        centroids = centroids.float()
        if worth_bounds(x, k) and not settled:
            members = groups(centroids) if members is None else members
            settled = few_open(x, members, left, centroids)
        moved = 0
        if len(empty := torch.nonzero(~full)[:, 0]):
            moved = repair(x, centroids, squared(x, left, labels), empty, generator)
        repaired += moved
        same = old_labels is not None and bool(torch.equal(labels, old_labels))
        if moved == 0 and (same or before - inertia <= tolerance * inertia):
            break
        before, old_labels = inertia, labels
    if bounds is None:
        labels = assign(x, centroids)
    else:  # the same with less to compute
        labels = _first_of_equal(centroids)[bounds.step(centroids)[0]]
    inertia = inertia_of(x, centroids, labels)
    return KMeansResult(centroids, labels, inertia, made, repaired)


def _explained(centroids: Tensor, sums: Tensor, counts: Tensor) -> Tensor:
    """What centroids (k, d) take off the sum of squares of all rows, whose sums and counts are
    given: sum over clusters of 2 c.s - n |c|^2, in float64."""
    c = centroids.double()
    return (2 * c * sums).sum() - (counts * c.square().sum(1)).sum()


def assign(x: Tensor, centroids: Tensor, chunk: int | None = None) -> Tensor:
    """The nearest centroid of each row: x (n, d), centroids (k, d) -> (n,) int64.

    Equal centroids and equal distances give the lowest index. `chunk` is the number of rows at a
    time (default: what keeps the distances within a few MiB on a CPU and 256 MiB on a GPU).
    """
    return _first_of_equal(centroids)[nearest_labels(x, centroids, chunk)]


def check_vectors(x: Tensor, k: int, iterations: int, init: str) -> None:
    if x.ndim != 2 or k < 1 or iterations < 1:
        raise ValueError(
            f"x {tuple(x.shape)} must be (n, d), k {k} and iterations {iterations} >= 1"
        )
    check_init(init)
    if len(x) < k:
        raise RecipeError(
            f"{k} codes cannot be made from {len(x)} vectors; "
            f"choose a codebook of at most {len(x)} codes"
        )
    finite = torch.cat(
        [torch.isfinite(rows).all(1) for rows in torch.split(x, chunk_rows(x, x.shape[1]))]
    )
    if not bool(finite.all()):
        row = int((~finite).nonzero()[0, 0])
        raise DataError(
            f"content vector {row} has a value that is not finite; mend it or leave it out"
        )


def check_init(init: str) -> None:
    """Refuse a start that is not one of `INITS`."""
    if init not in INITS:
        raise RecipeError(f"k-means init {init!r} is unknown; choose one of {', '.join(INITS)}")


def _first_of_equal(centroids: Tensor) -> Tensor:
    """(k,) int64: for each centroid the lowest index that holds the same vector."""
    _, group = torch.unique(centroids, dim=0, return_inverse=True)
    index = torch.arange(len(group), device=group.device)
    first = torch.full_like(group, len(group)).scatter_reduce(0, group, index, "amin")
    return first[group]


def cluster_sums(x: Tensor, labels: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Sum (k, d) float64 and size (k,) of each cluster.

    A bag per cluster in the order of the rows: unlike index_add on a GPU, the same result each
    time.
    """
    sums = torch.zeros(k, x.shape[1], dtype=torch.float64, device=x.device)
    rows = max(k, chunk_rows(x, x.shape[1]))
    for part, own in zip(torch.split(x, rows), torch.split(labels, rows), strict=True):
        order = torch.argsort(own, stable=True)
        sizes = torch.bincount(own, minlength=k)
        sums += F.embedding_bag(order, part.double(), sizes.cumsum(0) - sizes, mode="sum")
    return sums, torch.bincount(labels, minlength=k)


def new_sums(
    x: Tensor, labels: Tensor, k: int, sums: Tensor | None, before: Tensor | None
) -> Tensor:
    """`cluster_sums` (k, d) of labels, from those of the labels before, where there are some.

    On a CPU only rows that changed are read: the rounding of a few float64 sums is all that tells.
    """
    if sums is None or before is None or x.device.type != "cpu":
        return cluster_sums(x, labels, k)[0]
    rows = torch.nonzero(labels != before)[:, 0]
    if 2 * len(rows) > len(x):
        return cluster_sums(x, labels, k)[0]
    part = x[rows]
    return sums + cluster_sums(part, labels[rows], k)[0] - cluster_sums(part, before[rows], k)[0]


def repair(
    x: Tensor, centroids: Tensor, distances: Tensor, empty: Tensor, generator: torch.Generator
) -> int:
    """Move empty centroids, in place, to rows drawn by squared distance; return how many."""
    wanted = min(len(empty), int((distances > 0).sum()))
    if wanted == 0:
        return 0
    drawn = torch.unique(_draw(distances, wanted, generator))  # distinct rows, maybe fewer
    centroids[empty[: len(drawn)]] = x[drawn].float()
    return len(drawn)


def _draw(weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` row numbers with replacement, each with a probability proportional to its weight."""
    cumulative = weights.double().cumsum(0)
    ticket = torch.rand(count, dtype=torch.float64, generator=generator, device=generator.device)
    ticket = ticket.to(weights.device) * cumulative[-1]
    return torch.searchsorted(cumulative, ticket, right=True).clamp(max=len(weights) - 1)


def permutation(n: int, generator: torch.Generator, device: torch.device) -> Tensor:
    return torch.randperm(n, generator=generator, device=generator.device).to(device)


def start(x: Tensor, k: int, generator: torch.Generator, init: str) -> Tensor:
    """The first centroids (k, d) float32 by one of `INITS`."""
    rows = x[permutation(len(x), generator, x.device)[: start_rows(k, init)]].float()
    mean = x.double().mean(0).float() if init == "near-mean" else None
    return start_from(rows, k, generator, init, mean)


def start_rows(k: int, init: str) -> int:
    """How many random rows a start looks at, where there are so many."""
    if init in ("random", "near-mean"):
        return k
    return min(SEED_ROWS_PER_CLUSTER * k, max(SEED_ROWS, k))


def start_from(
    rows: Tensor, k: int, generator: torch.Generator, init: str, mean: Tensor | None = None
) -> Tensor:
    """`start`, given its random rows (m, d) in random order, and the mean (d,) of all rows."""
    if init == "random":
        return rows
    if init == "near-mean":
        assert mean is not None
        return near_mean(mean, rows)
    seeds = greedy_seeds if init == "k-means++" else parallel_seeds
    return seeds(rows, k, generator)


def near_mean(mean: Tensor, rows: Tensor) -> Tensor:
    """Random rows (k, d) drawn towards the mean (d,) of all: mean + `NEAR` (row - mean). Ours.

    In many dimensions a row is a poor centroid, since any two rows are farther apart than each is
    from the mean. So whichever cluster grows first moves to the mean and takes nearly all rows,
    which is where residuals of the later levels end from the other starts. Near the mean the
    clusters begin as directions, and stay of a size. In few dimensions k-means++ is better.
    """
    return mean + NEAR * (rows - mean)


def greedy_seeds(rows: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Greedy k-means++ (Arthur & Vassilvitskii 2007, §5): (k, d) of rows (m, d) in random order.

    Each step draws 2 + ln k rows by their squared distance to the nearest seed and keeps the one
    that lowers the sum of these distances most.
    """
    lengths = rows.square().sum(1)
    tries = 2 + int(math.log(k))
    chosen = torch.zeros(k, dtype=torch.int64, device=rows.device)  # of random order: begin with 0
    apart = (rows - rows[0]).square().sum(1)  # (m,) squared distance to the nearest seed
    for i in range(1, k):
        candidate = _draw(apart, tries, generator)  # (t,)
        to = lengths + lengths[candidate, None] - 2 * rows[candidate] @ rows.T  # (t, m)
        best = candidate[torch.minimum(to, apart).sum(1).argmin()]
        chosen[i] = best
        apart = torch.minimum(apart, (rows - rows[best]).square().sum(1))
    return rows[chosen]


def parallel_seeds(rows: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """k-means|| (Bahmani et al., arXiv 1203.6402): (k, d) of rows (m, d) in random order.

    k / `ROUNDS` at a time are drawn at once by their squared distance to the nearest seed of the
    rounds before, and are the seeds: the paper draws more and clusters them again. Made for GPUs,
    where one seed at a time is thousands of small kernels.
    """
    chosen = torch.zeros(1, dtype=torch.int64, device=rows.device)  # of random order: begin with 0
    apart = (rows - rows[0]).square().sum(1)  # (m,) squared distance to the nearest seed
    while len(chosen) < k:
        wanted = min(math.ceil(k / ROUNDS), k - len(chosen), int((apart > 0).sum()))
        if wanted == 0:  # no more distinct rows
            return rows[chosen[torch.arange(k, device=rows.device).clamp(max=len(chosen) - 1)]]
        drawn = torch.unique(_draw(apart, wanted, generator))
        chosen = torch.cat((chosen, drawn))
        apart = torch.minimum(apart, nearest(rows, rows[drawn], rounded=True)[1])
        apart[drawn] = 0.0
    return rows[chosen]
