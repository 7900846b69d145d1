"""k-means whose clusters all have the same number of members, one more or less, or at most a cap.

Two ways to assign n rows to k clusters of floor(n / k) or ceil(n / k) rows:

- `greedy` is Algorithm 1 of OneRec's first paper (arXiv 2502.18965): clusters in turn take the
  nearest of the rows that are left. What is left for the last cluster may lie anywhere.
- `transport` scales and is ours: a price per cluster is added to its squared distances and moved
  until loads agree (Sinkhorn's iterations for entropic transport, blocked by rows, so that n x k
  numbers never stand together); then the few rows that still want a full cluster go to the cheapest
  with room. Sizes differ by at most one, however far the prices have come.

With a `cap` above 1 only what exceeds it is priced: a cluster has at most cap x n / k rows, and may
have as few as lie near. Equal sizes cost error where the rows are not spread equally; a cap keeps
most of the entropy and gives most of the error back. Ours, for `transport` alone.

Shapes: n vectors, d dimensions, k clusters.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from onerec.errors import RecipeError
from onerec.tokenizer.distances import chunk_rows, inertia_of
from onerec.tokenizer.kmeans import (
    KMeansResult,
    check_vectors,
    cluster_sums,
    repair,
    start,
)

ASSIGNMENTS = ("transport", "greedy")
PASSES = 8
"""Rounds of prices in an iteration; they go on from those of the iteration before."""
SMOOTHING = 0.1
"""Entropic smoothing as a share of the mean squared distance to the nearest centroid. Letting it
fall from 1 to .1 within an iteration was no better: prices go on from the iteration before."""


def balanced_kmeans(
    x: Tensor,
    k: int,
    *,
    iterations: int = 25,
    generator: torch.Generator,
    init: str = "k-means++",
    assignment: str = "transport",
    cap: float = 1.0,
    tolerance: float = 1e-4,
) -> KMeansResult:
    """Cluster the rows of x (n, d) into k clusters of floor(n / k) or ceil(n / k) rows.

    With a `cap` above 1, of at most cap n / k rows instead (rounded down, and at least ceil(n / k),
    without which there is no room for all); a cluster that nobody wants moves as in `kmeans`. Stops
    when no label changes (Algorithm 1) and, with `transport`, when the inertia no longer falls by
    `tolerance` of itself; the best iteration counts. `labels` are the balanced ones: a row may lie
    nearer to another centroid.

    Raises:
        RecipeError: fewer rows than clusters, an unknown init or assignment, a cap below 1 or one
            for `greedy`.
        DataError: a value that is not finite.
    """
    check_vectors(x, k, iterations, init)
    check_balance(assignment, cap)
    centroids = start(x, k, generator, init)
    prices = torch.zeros(k, device=x.device)
    whole = math.floor(cap * len(x) / k + 1e-9)  # 1.15 of 20 is 23, not 22.999…
    most = None if cap == 1.0 else max(math.ceil(len(x) / k), whole)
    best: tuple[float, Tensor, Tensor] | None = None
    old, before, made, repaired = None, math.inf, 0, 0
    for _ in range(iterations):
        made += 1
        if assignment == "greedy":
            labels, centroids = algorithm_1(x, centroids)
        else:
            labels, prices = transport(x, centroids, prices, most=most)
            sums, counts = cluster_sums(x, labels, k)
            means = (sums / counts.clamp(min=1)[:, None]).float()
            centroids = torch.where(counts[:, None] > 0, means, centroids)
        inertia = inertia_of(x, centroids, labels)
        if best is None or inertia < best[0]:
            best = (inertia, centroids.clone(), labels)
        moved = 0
        if most is not None and not bool(counts.all()):
            distances = (x - centroids[labels]).float().square().sum(1)
            moved = repair(x, centroids, distances, (counts == 0).nonzero()[:, 0], generator)
            repaired += moved
        same = old is not None and bool(torch.equal(labels, old))
        settled = assignment == "transport" and before - inertia <= tolerance * inertia
        if moved == 0 and (same or settled):
            break
        old, before = labels, inertia
    assert best is not None
    return KMeansResult(best[1], best[2], best[0], made, repaired)


def check_balance(assignment: str, cap: float) -> None:
    """Refuse an assignment that is not one of `ASSIGNMENTS`, and a cap that it cannot keep."""
    if assignment not in ASSIGNMENTS:
        raise RecipeError(
            f"balanced assignment {assignment!r} is unknown; choose {' or '.join(ASSIGNMENTS)}"
        )
    if not cap >= 1.0:
        raise RecipeError(
            f"the cap of a cluster's size is {cap:g} times the mean; it must be at least 1"
        )
    if cap > 1.0 and assignment != "transport":
        raise RecipeError(f"a cap of {cap:g} is for assignment transport; {assignment} takes 1")


def sizes_of(n: int, k: int) -> list[int]:
    """How many rows each of k clusters gets: the first n mod k one more than the others."""
    return [n // k + (place < n % k) for place in range(k)]


def algorithm_1(x: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """One round of Algorithm 1: labels (n,) and the new centroids (k, d).

    For cluster 1 to k: of the rows that are left take the nearest n / k, and their mean as the new
    centroid. Equal distances go by row. Each cluster reads all that is left: k steps, n k d.
    """
    labels = torch.empty(len(x), dtype=torch.int64, device=x.device)
    left = torch.arange(len(x), device=x.device)
    means = torch.empty_like(centroids)
    for cluster, size in enumerate(sizes_of(len(x), len(centroids))):
        rows = x[left].float()
        order = (rows - centroids[cluster]).square().sum(1).argsort(stable=True)
        means[cluster] = rows[order[:size]].mean(0, dtype=torch.float64)
        labels[left[order[:size]]] = cluster
        left = left[order[size:].sort().values]
    return labels, means


def transport(
    x: Tensor, centroids: Tensor, prices: Tensor, passes: int = PASSES, most: int | None = None
) -> tuple[Tensor, Tensor]:
    """Balanced labels (n,) at about the least sum of squared distances, and the prices (k,).

    Each of the `passes` is a Sinkhorn iteration: rows spread over clusters by
    softmax(-(distance + price) / e), and a price rises by e log(load / (n / k)). With `most`, which
    no cluster may exceed, by e log(load / most), and none falls below 0: an inequality's price.
    """
    n, k = len(x), len(centroids)
    lengths = centroids.square().sum(1)
    rows_at_once = chunk_rows(x, k)
    smoothing = SMOOTHING * _mean_distance(x, centroids, lengths, rows_at_once)
    if smoothing > 0:
        for _ in range(passes):
            load = torch.zeros(k, dtype=torch.float64, device=x.device)
            for rows in torch.split(x, rows_at_once):
                cost = torch.addmm(lengths + prices, rows.float(), centroids.T, alpha=-2)  # (c, k)
                load += torch.softmax(cost / -smoothing, 1).sum(0)
            over = load.clamp(min=1e-12) / (n / k if most is None else most)
            prices = prices + (smoothing * over.log()).float()
            if most is not None:
                prices = prices.clamp(min=0)
    return _round(x, centroids, prices, most), prices


def _mean_distance(x: Tensor, centroids: Tensor, lengths: Tensor, rows_at_once: int) -> float:
    total = 0.0
    for rows in torch.split(x, rows_at_once):
        part = rows.float()
        near = torch.addmm(lengths, part, centroids.T, alpha=-2).amin(1)
        total += float((near + part.square().sum(1)).clamp(min=0).sum(dtype=torch.float64))
    return total / len(x)


def _round(x: Tensor, centroids: Tensor, prices: Tensor, most: int | None) -> Tensor:
    """Labels (n,) such that sizes differ by at most one, or none exceeds `most`.

    Rows ask for the cheapest cluster (distance + price) that has room; a cluster that is asked by
    more than it has room for takes those whose next choice would cost them most; the others ask
    again. The clusters asked most get the odd rows. At most k rounds: each fills a cluster or
    places all.
    """
    n, k = len(x), len(centroids)
    labels = torch.full((n,), -1, dtype=torch.int64, device=x.device)
    left = torch.arange(n, device=x.device)
    base = centroids.square().sum(1) + prices
    room: Tensor | None = None
    while len(left):
        open_to = base if room is None else base.where(room > 0, math.inf)
        wanted, regret = _cheapest(x, left, centroids, open_to)
        if room is None:
            asked = torch.bincount(wanted, minlength=k)
            size = n // k if most is None else most
            room = torch.full((k,), size, dtype=torch.int64, device=x.device)
            if most is None:
                room[asked.argsort(descending=True, stable=True)[: n % k]] += 1
        order = regret.argsort(descending=True, stable=True)
        order = order[wanted[order].argsort(stable=True)]  # by cluster, the neediest first
        own = wanted[order]
        asked = torch.bincount(own, minlength=k)
        place = torch.arange(len(own), device=x.device) - (asked.cumsum(0) - asked)[own]
        taken = place < room[own]
        labels[left[order[taken]]] = own[taken]
        room = room - torch.bincount(own[taken], minlength=k)
        left = left[order[~taken].sort().values]
    return labels


def _cheapest(x: Tensor, rows: Tensor, centroids: Tensor, base: Tensor) -> tuple[Tensor, Tensor]:
    """For each of the rows the cluster of the least |x - c|^2 + price, and the gap to the next."""
    own, regret = [], []
    for part in torch.split(rows, chunk_rows(x, len(centroids))):
        cost = torch.addmm(base, x[part].float(), centroids.T, alpha=-2)  # (c, k) less |x|^2
        found = cost.topk(min(2, len(centroids)), largest=False)
        own.append(found.indices[:, 0])
        regret.append(found.values[:, -1] - found.values[:, 0])
    return torch.cat(own), torch.cat(regret)
