"""k-means over rows that come in pieces, again and again, and never stand in memory together.

`kmeans` itself: the same start and the same iterations, so the same centroids but for the rounding
of sums, which are in float64. What differs is the repair: an empty cluster moves to a row that the
pass before drew (by a random key for each row, in their order, from a generator of its own), where
`kmeans` draws among all. Beside the pieces stand the rows among which the start looks for seeds
(`kmeans.start_rows`) and, while it is drawn, their order: 8 bytes a row.

Shapes: d dimensions, k clusters, m rows of a piece.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from onerec.errors import DataError, RecipeError
from onerec.tokenizer.distances import nearest
from onerec.tokenizer.kmeans import (
    KMeansResult,
    assign,
    check_init,
    cluster_sums,
    permutation,
    start_from,
    start_rows,
)

REPAIRS = 256
"""At most so many empty clusters are repaired in one iteration; ours."""

Pieces = Callable[[], Iterator[Tensor]]


def kmeans_stream(
    pieces: Pieces,
    k: int,
    *,
    iterations: int = 25,
    generator: torch.Generator,
    init: str = "k-means++",
    tolerance: float = 1e-6,
) -> KMeansResult:
    """Cluster the rows that each call of `pieces` gives, as (m, d) float32, into k clusters.

    The result's `labels` are empty: `assign` gives those of any rows.

    Raises:
        RecipeError: fewer rows than clusters, or an unknown init.
        DataError: a value that is not finite, or passes of different length.
    """
    centroids, rows = _start(pieces, k, generator, init)
    drawing = torch.Generator().manual_seed(generator.initial_seed())
    repaired, made, before = 0, 0, math.inf
    for _ in range(iterations):
        made += 1
        sums = torch.zeros(centroids.shape, dtype=torch.float64, device=centroids.device)
        counts = torch.zeros(k, dtype=torch.int64, device=centroids.device)
        inertia, spare = 0.0, _Sample(min(REPAIRS, k), drawing)
        for piece in _same_length(pieces, rows):
            labels, distances = nearest(piece, centroids)
            more, count = cluster_sums(piece, labels, k)
            sums += more
            counts += count
            inertia += float(distances.sum(dtype=torch.float64))
            spare.add(piece, distances)
        full = counts > 0
        centroids = torch.where(full[:, None], sums / counts.clamp(min=1)[:, None], centroids)
        centroids = centroids.float()
        empty = torch.nonzero(~full)[:, 0]
        moved = min(len(empty), len(spare.rows))
        if moved:
            centroids[empty[:moved]] = spare.rows[:moved]
        repaired += moved
        if moved == 0 and before - inertia <= tolerance * inertia:
            break
        before = inertia
    inertia = sum(
        float((piece - centroids[assign(piece, centroids)]).square().sum(dtype=torch.float64))
        for piece in _same_length(pieces, rows)
    )
    none = torch.zeros(0, dtype=torch.int64, device=centroids.device)
    return KMeansResult(centroids, none, inertia, made, repaired)


def _start(pieces: Pieces, k: int, generator: torch.Generator, init: str) -> tuple[Tensor, int]:
    """The first centroids (k, d) and a pass's number of rows: one pass to count, one to draw."""
    check_init(init)
    count, total = 0, torch.zeros(())
    for piece in pieces():
        finite = torch.isfinite(piece).all(1)
        if not bool(finite.all()):
            row = count + int((~finite).nonzero()[0, 0])
            raise DataError(
                f"content vector {row} has a value that is not finite; mend it or leave it out"
            )
        total = piece.sum(0, dtype=torch.float64) + total.to(piece.device)
        count += len(piece)
    if count < k:
        raise RecipeError(
            f"{k} codes cannot be made from {count} vectors; "
            f"choose a codebook of at most {count} codes"
        )
    wanted = permutation(count, generator, torch.device("cpu"))[: start_rows(k, init)]
    ordered, places = wanted.sort()
    rows, begin = torch.empty(len(wanted), len(total), device=total.device), 0
    for piece in _same_length(pieces, count):
        low, high = torch.searchsorted(ordered, torch.tensor([begin, begin + len(piece)])).tolist()
        own = ordered[low:high] - begin
        rows[places[low:high].to(rows.device)] = piece[own.to(piece.device)].float()
        begin += len(piece)
    return start_from(rows, k, generator, init, (total / count).float()), count


def _same_length(pieces: Pieces, rows: int) -> Iterator[Tensor]:
    """One pass; refuses one that is not as long as the first."""
    count = 0
    for piece in pieces():
        count += len(piece)
        yield piece
    if count != rows:
        raise DataError(
            f"a pass over the vectors gave {count} rows and the first gave {rows}; "
            "each call must give the same arrays again"
        )


class _Sample:
    """Rows drawn without replacement, each with a probability proportional to its weight.

    The `size` largest of log(u) / weight, u uniform (Efraimidis & Spirakis 2006), the largest
    first; rows of weight 0 never.
    """

    def __init__(self, size: int, generator: torch.Generator) -> None:
        self.size, self.generator = size, generator
        self.rows = torch.zeros(0, 0)
        self._keys = torch.zeros(0, dtype=torch.float64)

    def add(self, rows: Tensor, weights: Tensor) -> None:
        """Offer rows (m, d) with weights (m,) of at least 0."""
        u = torch.rand(
            len(rows), dtype=torch.float64, generator=self.generator, device=self.generator.device
        )
        keys = u.to(rows.device).clamp(min=1e-300).log() / weights.double()
        able = weights > 0
        if len(self._keys) == self.size:
            able &= keys > self._keys[-1]
        if not bool(able.any()):
            return
        keys, rows = keys[able], rows[able]
        if len(self._keys):
            keys, rows = torch.cat([self._keys, keys]), torch.cat([self.rows, rows])
        best = torch.argsort(keys, descending=True, stable=True)[: self.size]
        self._keys, self.rows = keys[best], rows[best]
