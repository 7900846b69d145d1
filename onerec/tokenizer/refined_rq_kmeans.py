"""Residual k-means whose levels are then fitted to each other, and whose codes are searched for.

Level by level is greedy twice. A codebook is fitted to what the levels before left, not to what the
levels after can still say; and an item takes the nearest first code even where the second nearest
leaves less in the end. Liu et al. 2015 (arXiv 1509.05195) search several paths when they encode;
fitting each codebook again to what all the others leave is the coordinate descent of additive
quantisation (Babenko & Lempitsky 2014). Here the two take turns, after plain residual k-means.
OneRec's papers have neither: that it is worth it is ours, and measured (`onerec.bench.tokenizer`).

Codes stay coarse to fine and codebooks are read as before: an item is the sum of its entries.

Shapes: n items, d dimensions, L levels, N codes per level, B paths, c rows of a chunk.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from onerec.errors import RecipeError
from onerec.tokenizer.distances import chunk_rows
from onerec.tokenizer.kmeans import cluster_sums
from onerec.tokenizer.rq_kmeans import RQKmeans, RQKmeansConfig, check_rows, reconstruct

SWEEPS = 3
"""How often each codebook is fitted to what the others leave, between two searches; ours."""


@dataclass(frozen=True)
class RefinedRQKmeansConfig(RQKmeansConfig):
    """`paths` are kept in the search for codes (1: the nearest, level by level).

    Rounds of search and fit end after `rounds`, or where the loss falls by less than `tolerance`.
    """

    paths: int = 8
    rounds: int = 12
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("paths", "rounds"):
            if getattr(self, name) < 1:
                raise RecipeError(
                    f"tokenizer {name} is {getattr(self, name)}; it must be at least 1"
                )


class RefinedRQKmeans(RQKmeans):
    """L codebooks of N codes, fitted together. Works on the device of the vectors."""

    config: RefinedRQKmeansConfig
    whole = "refined"  # the codes of all items are needed between two rounds

    def __init__(self, config: RefinedRQKmeansConfig) -> None:
        super().__init__(config)

    def _fit(self, x: Tensor) -> Tensor:
        """Learn from x (n, d); its codes (n, L)."""
        super()._fit(x)
        books = self.codebooks
        codes, loss = search(x, books, self.config.paths)
        for _ in range(self.config.rounds):
            fitted = fit_together(x, codes, books)
            found, less = search(x, fitted, self.config.paths)
            if less >= loss:  # the search is no exact one: a round may lose
                break
            gained, books, codes, loss = loss - less, fitted, found, less
            if gained <= self.config.tolerance * loss:
                break
        self._codebooks = books
        return codes

    def transform(self, x: Tensor) -> Tensor:
        """The codes of x (n, d), fitted on or not: (n, L) int64 on the device of x."""
        check_rows(x, self.codebooks)
        return search(x, self.codebooks.to(x.device), self.config.paths)[0]


def search(x: Tensor, codebooks: Tensor, paths: int) -> tuple[Tensor, float]:
    """Codes (n, L) of x (n, d) by a beam search over the levels, and the sum of squared errors.

    Each level keeps the `paths` partial sums that lie nearest to the item. With N ^ (L - 1) paths
    the codes are the best there are; with one they are `residual_codes`.
    """
    codes = torch.empty(len(x), len(codebooks), dtype=torch.int64, device=x.device)
    error, rows = 0.0, chunk_rows(x, max(codebooks.shape[1], x.shape[1]) * paths)
    for part, out in zip(torch.split(x, rows), torch.split(codes, rows), strict=True):
        left = part.detach().float()[:, None]  # (c, B, d): what each path leaves; B grows from 1
        taken = torch.zeros(len(part), 1, 0, dtype=torch.int64, device=x.device)
        own = torch.arange(len(part), device=x.device)[:, None]
        for book in codebooks:
            apart = left.square().sum(2, keepdim=True) - 2 * left @ book.T + book.square().sum(1)
            near = apart.flatten(1).topk(min(paths, apart[0].numel()), largest=False).indices
            path, code = near // len(book), near % len(book)  # (c, B)
            taken = torch.cat([taken[own, path], code[..., None]], 2)
            left = left[own, path] - book[code]
        best = left.square().sum(2).argmin(1)
        out.copy_(taken[own[:, 0], best])
        error += float(left[own[:, 0], best].square().sum(dtype=torch.float64))
    return codes, error


def fit_together(x: Tensor, codes: Tensor, codebooks: Tensor) -> Tensor:
    """Codebooks (L, N, d) for the codes (n, L) of x (n, d) as they are.

    Each entry in turn becomes the mean of what the other levels leave of its items. The error never
    rises; an unused entry stays.
    """
    books = codebooks.clone()
    for _ in range(SWEEPS):
        for level in range(len(books)):
            own = codes[:, level]
            left = x.float() - reconstruct(codes, books) + books[level][own]
            sums, counts = cluster_sums(left, own, books.shape[1])
            means = (sums / counts.clamp(min=1)[:, None]).float()
            books[level] = torch.where(counts[:, None] > 0, means, books[level])
    return books
