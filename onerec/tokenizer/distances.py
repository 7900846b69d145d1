"""Which centroid is nearest to each row, and how far: the dense pass of k-means.

Distances are computed for a chunk of rows at a time, so an (n, k) matrix never exists.

Shapes: n vectors, d dimensions, k centroids, c rows of a chunk.
"""

from __future__ import annotations

import contextlib
import itertools

import torch
from torch import Tensor

from onerec.common import spread, tensor_cores

BLOCK = 64
"""Columns at a time of `lowest` on a CPU."""
FEW = 0.25
"""Of rows that change by less than this share alone the new column is looked for."""
# MKL leaves a part of an AMD core unused; on Intel, known by its matrix tiles, it is faster.
ONEDNN = hasattr(torch.ops.mkldnn, "_linear_pointwise") and not torch.cpu._is_amx_tile_supported()


def chunk_rows(x: Tensor, columns: int) -> int:
    """Rows at a time such that rows * columns fits the cache of a CPU or a part of a GPU."""
    entries = 2**26 if x.is_cuda else 2**20
    return max(1, entries // max(columns, x.shape[1]))


def workers(x: Tensor) -> int:
    """Threads for the chunks of x, one each: small operations do not share one well."""
    return 1 if x.is_cuda else torch.get_num_threads()


def nearest(
    x: Tensor, centroids: Tensor, chunk: int | None = None, *, rounded: bool = False
) -> tuple[Tensor, Tensor]:
    """Label (n,) and squared distance (n,) float32 of each row to its nearest centroid.

    The label is that of `nearest_labels`; the distance comes from the difference itself, so that it
    is 0 where a row lies on its centroid, and is float32's where the product is TF32's.
    """
    labels = nearest_labels(x, centroids, chunk, rounded=rounded)
    return labels, squared(x, centroids, labels)


def nearest_labels(
    x: Tensor,
    centroids: Tensor,
    chunk: int | None = None,
    *,
    rounded: bool = False,
    before: Tensor | None = None,
) -> Tensor:
    """The label (n,) of each row's nearest centroid, by |c|^2 - 2 x.c: one matrix product.

    `rounded` allows a GPU to take it in TF32. On a CPU labels `before` (n,) may stay where they are
    as near as any, which is faster.
    """
    x, centroids = x.detach(), centroids.detach()
    lengths, twice = centroids.square().sum(1), -2 * centroids  # (k,), (k, d)
    size = chunk or chunk_rows(x, len(centroids))

    def label(part: tuple[Tensor, Tensor | None]) -> Tensor:
        return lowest(scores(lengths, part[0].float(), twice), part[1])  # (c, k) -> (c,)

    old = itertools.repeat(None) if before is None else torch.split(before, size)
    parts = list(zip(torch.split(x, size), old, strict=False))
    with tensor_cores() if rounded and x.is_cuda else contextlib.nullcontext():
        return torch.cat(spread(label, parts, workers(x)))


def squared(x: Tensor, centroids: Tensor, labels: Tensor) -> Tensor:
    """Squared distance (n,) float32 of each row to the centroid of its label (n,)."""
    rows = chunk_rows(x, x.shape[1])
    return torch.cat(
        [
            (part.float() - centroids[own]).square().sum(1)
            for part, own in zip(torch.split(x, rows), torch.split(labels, rows), strict=True)
        ]
    )


def scores(lengths: Tensor, x: Tensor, twice: Tensor) -> Tensor:
    """|c|^2 - 2 x.c: lengths (k,), x (c, d) float32, twice = -2 c (k, d) -> (c, k).

    For shapes that come again: oneDNN makes a plan for each, which costs some milliseconds.
    """
    if ONEDNN and x.device.type == "cpu" and not (x.requires_grad or twice.requires_grad):
        found: Tensor = torch.ops.mkldnn._linear_pointwise(x, twice, lengths, "none", [], "")
        return found
    return torch.addmm(lengths, x, twice.T)


def lowest(values: Tensor, before: Tensor | None = None) -> Tensor:
    """The column of each row's least value, the first of equals: (c, k) -> (c,) int64.

    `argmin` on a CPU goes value by value, the minimum alone by vectors: so the minimum of each
    block of columns comes first, and `argmin` reads one block per row. Of rows whose column
    `before` (c,) has the least value nothing more is read.
    """
    if before is not None and values.device.type == "cpu":
        own = values.gather(1, before[:, None])[:, 0]
        rows = torch.nonzero(values.amin(1) < own)[:, 0]
        if len(rows) < FEW * len(values):
            return before.index_copy(0, rows, lowest(values[rows]))
    columns = values.shape[1]
    if values.device.type != "cpu" or columns % BLOCK or columns == BLOCK:
        return values.argmin(1)
    blocks = values.view(len(values), columns // BLOCK, BLOCK)
    block = blocks.amin(2).argmin(1)  # (c,)
    within: Tensor = blocks[torch.arange(len(values)), block]  # (c, BLOCK)
    return block * BLOCK + within.argmin(1)


def inertia_of(x: Tensor, centroids: Tensor, labels: Tensor) -> float:
    """Sum of the squared distances of x (n, d) to the centroids of its labels (n,)."""
    rows = chunk_rows(x, x.shape[1])
    parts = [
        (part.float() - centroids[own]).square().sum(dtype=torch.float64)
        for part, own in zip(torch.split(x, rows), torch.split(labels, rows), strict=True)
    ]
    return float(torch.stack(parts).sum())


def sum_of_squares(x: Tensor) -> float:
    """Of all numbers of x (n, d), in float64."""
    parts = [part.double().square().sum() for part in torch.split(x, chunk_rows(x, x.shape[1]))]
    return float(torch.stack(parts).sum())
