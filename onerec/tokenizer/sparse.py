"""A sparse matrix by rows and its truncated SVD, with torch and numpy alone.

Only what text and co-consumption need: products with a dense matrix from the left and the right. A
row is a weighted bag of rows of the dense matrix, so the product is torch's embedding bag:
threaded, and summed in a fixed order.

Shapes: n rows, m columns, z stored values, r rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

OVERSAMPLE = 10
"""Directions beyond the rank that the randomised SVD carries along (Halko et al. 2011, §4.3)."""


@dataclass(frozen=True)
class SparseMatrix:
    """Values sorted by row: row i has column[start[i] : start[i + 1]] and the same of value."""

    start: NDArray[np.int64]  # (n + 1,)
    column: NDArray[np.int64]  # (z,)
    value: NDArray[np.float32]  # (z,)
    columns: int  # m

    @classmethod
    def from_triplets(
        cls,
        row: NDArray[np.int64],
        column: NDArray[np.int64],
        value: NDArray[np.float32],
        shape: tuple[int, int],
    ) -> SparseMatrix:
        """From (z,) rows, columns and values in any order; no pair may come twice."""
        order = np.argsort(row, kind="stable")
        start = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=shape[0]))])
        return cls(start, column[order], value[order].astype(np.float32), shape[1])

    @property
    def shape(self) -> tuple[int, int]:
        """(n, m)."""
        return len(self.start) - 1, self.columns

    @cached_property
    def row(self) -> NDArray[np.int64]:
        """(z,) the row of each value."""
        return np.repeat(np.arange(self.shape[0]), np.diff(self.start))

    @cached_property
    def transposed(self) -> SparseMatrix:
        """(m, n)."""
        return SparseMatrix.from_triplets(self.column, self.row, self.value, self.shape[::-1])

    def __matmul__(self, dense: Tensor) -> Tensor:
        """(n, m) @ (m, r) -> (n, r) float32."""
        return F.embedding_bag(
            torch.from_numpy(self.column),
            dense.float(),
            torch.from_numpy(self.start[:-1]),
            per_sample_weights=torch.from_numpy(self.value),
            mode="sum",
        )


def truncated_svd(
    matrix: SparseMatrix, rank: int, generator: torch.Generator, *, power_iterations: int = 4
) -> tuple[Tensor, Tensor, Tensor]:
    """The `rank` largest singular triplets: u (n, r), s (r,), v (m, r), s falling.

    Randomised range finder with power iterations (Halko, Martinsson & Tropp 2011, algorithms 4.4
    and 5.1). r is `rank`, or less where the matrix has fewer rows or columns. Each singular
    vector's sign is such that the largest entry of v is positive, so that the answer does not
    depend on the draw.
    """
    n, m = matrix.shape
    width = min(rank + OVERSAMPLE, n, m)
    basis = torch.randn(m, width, generator=generator)  # (m, w)
    left = torch.linalg.qr(matrix @ basis)[0]  # (n, w)
    for _ in range(power_iterations):
        left = torch.linalg.qr(matrix @ (matrix.transposed @ left))[0]
    small = (matrix.transposed @ left).T  # (w, m)
    u, s, vt = torch.linalg.svd(small, full_matrices=False)
    r = min(rank, width)
    u, s, v = (left @ u)[:, :r], s[:r], vt[:r].T
    peak = v.gather(0, v.abs().argmax(0, keepdim=True))
    sign = torch.where(peak < 0, -1.0, 1.0)  # (1, r)
    return u * sign, s, v * sign
