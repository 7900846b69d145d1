"""Which centroid is nearest to each row, and how far: the dense pass of k-means.

Distances are computed for a chunk of rows at a time, so an (n, k) matrix never exists.

Shapes: n vectors, d dimensions, k centroids, c rows of a chunk.
"""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

from onerec.common import tensor_cores

BLOCK = 64
"""Columns at a time of `lowest` on a CPU."""
# MKL leaves a part of an AMD core unused; on Intel, known by its matrix tiles, it is faster.
ONEDNN = hasattr(torch.ops.mkldnn, "_linear_pointwise") and not torch.cpu._is_amx_tile_supported()


def chunk_rows(x: Tensor, columns: int) -> int:
    """Rows at a time such that rows * columns fits the cache of a CPU or a part of a GPU."""
    entries = 2**26 if x.is_cuda else 2**20
    return max(1, entries // max(columns, x.shape[1]))


def nearest(
    x: Tensor, centroids: Tensor, chunk: int | None = None, *, rounded: bool = False
) -> tuple[Tensor, Tensor]:
    """Label (n,) and squared distance (n,) float32 of each row to its nearest centroid.

    The label comes from |c|^2 - 2 x.c, one matrix product; the distance from the difference itself,
    so that it is 0 where a row lies on its centroid. `rounded` allows a GPU to take the product in
    TF32; the distance stays float32's.
    """
    lengths, twice = centroids.square().sum(1), -2 * centroids  # (k,), (k, d)
    labels, distances = [], []
    with tensor_cores() if rounded and x.is_cuda else contextlib.nullcontext():
        for part in torch.split(x, chunk or chunk_rows(x, len(centroids))):
            rows = part.float()  # (c, d)
            own = lowest(scores(lengths, rows, twice))  # (c, k) -> (c,)
            labels.append(own)
            distances.append((rows - centroids[own]).square().sum(1))
    return torch.cat(labels), torch.cat(distances)


def scores(lengths: Tensor, x: Tensor, twice: Tensor) -> Tensor:
    """|c|^2 - 2 x.c: lengths (k,), x (c, d) float32, twice = -2 c (k, d) -> (c, k).

    For shapes that come again: oneDNN makes a plan for each, which costs some milliseconds.
    """
    if ONEDNN and x.device.type == "cpu" and not (x.requires_grad or twice.requires_grad):
        found: Tensor = torch.ops.mkldnn._linear_pointwise(x, twice, lengths, "none", [], "")
        return found
    return torch.addmm(lengths, x, twice.T)


def lowest(values: Tensor) -> Tensor:
    """The column of each row's least value, the first of equals: (c, k) -> (c,) int64.

    `argmin` on a CPU goes value by value, the minimum alone by vectors: so the minimum of each
    block of columns comes first, and `argmin` reads one block per row.
    """
    columns = values.shape[1]
    if values.device.type != "cpu" or columns % BLOCK or columns == BLOCK:
        return values.argmin(1)
    blocks = values.view(len(values), -1, BLOCK)  # (c, k / BLOCK, BLOCK)
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
