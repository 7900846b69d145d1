"""Residual k-means with balanced clusters: every code of a level stands for as many items.

OneRec's first paper (V0), arXiv 2502.18965, Algorithm 1, level by level on what the levels before
left. The items that the codebooks are fitted on have the balanced codes (`fit_transform`), which
need not be the nearest; `transform` gives any other item the nearest, since one item alone cannot
be balanced. Which of the two the paper means for its own items we do not know.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from onerec.tokenizer.balanced_kmeans import balanced_kmeans, check_balance
from onerec.tokenizer.kmeans import KMeansResult
from onerec.tokenizer.rq_kmeans import RQKmeans, RQKmeansConfig


@dataclass(frozen=True)
class BalancedRQKmeansConfig(RQKmeansConfig):
    """`assignment` is transport, or greedy: Algorithm 1 (with `init` random, as printed).

    `cap` is a cluster's most members as a multiple of the mean; 1: all alike.
    """

    assignment: str = "transport"
    cap: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_balance(self.assignment, self.cap)


class BalancedRQKmeans(RQKmeans):
    """L codebooks whose clusters of the fitted items differ by one item, or keep the cap."""

    config: BalancedRQKmeansConfig
    whole = "balanced"  # who gets a code depends on all other items

    def __init__(self, config: BalancedRQKmeansConfig) -> None:
        super().__init__(config)

    def _cluster(self, residual: Tensor, generator: torch.Generator) -> KMeansResult:
        return balanced_kmeans(
            residual,
            self.config.codebook_size,
            iterations=self.config.iterations,
            generator=generator,
            init=self.config.init,
            assignment=self.config.assignment,
            cap=self.config.cap,
        )

    def fit_transform(self, x: Tensor) -> Tensor:
        """Learn from x (n, d) and return its balanced codes (n, L)."""
        return self._fit(x)
