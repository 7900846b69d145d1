"""Most popular: the same list for everybody, by the training positives of each item.

A half-life lets old events fade. It is a share of the training rows in time order and not a number
of days, so one grid fits a week of video logs and ten years of reviews alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onerec.baselines.ranking import Histories, IntArray, rank_all, tie_order, top_k

if TYPE_CHECKING:
    from onerec.data.dataset import Interactions
    from onerec.data.split import Cases, Split


@dataclass(frozen=True)
class PopularityConfig:
    """`half_life`: after this share of the training rows an event counts half; None: no fading."""

    half_life: float | None = None


GRID = tuple(PopularityConfig(h) for h in (None, 0.1, 0.02, 0.3, 0.05, 0.01, 0.5, 0.005))


class Popularity:
    """The training positives of each item, counted."""

    name = "popularity"

    def __init__(self, scores: Tensor, ties: Tensor) -> None:
        self.scores = scores  # (n,) float32
        self.ties = ties  # (n,)

    def recommend(self, split: Split, cases: Cases, k: int, exclude_seen: bool = False) -> IntArray:
        """Ranked items `(M, k)`; seen items make the only difference between two users."""
        if not exclude_seen:
            one = top_k(self.scores[None], k, self.ties).numpy()
            return np.repeat(one, len(cases.user), axis=0)

        def score(histories: Histories) -> Tensor:
            return self.scores.repeat(histories.size, 1)

        return rank_all(score, split.log, cases, k, self.ties, exclude_seen=True)


def fit(split: Split, config: PopularityConfig, generator: torch.Generator) -> Popularity:
    """Count the positives of the training rows, each with the weight of its age.

    Data without timestamps have no common clock, so there every event has weight 1.

    Raises:
        ValueError: a half-life that is not above 0.
    """
    weight = np.ones(len(split.log.item))
    if config.half_life is not None:
        if config.half_life <= 0:
            raise ValueError(f"half_life {config.half_life}: must be above 0, or None")
        weight = 0.5 ** (_age(split.log, split.train) / config.half_life)
    counted = split.train & split.log.positive
    scores = np.bincount(
        split.log.item[counted], weights=weight[counted], minlength=split.log.n_items
    )
    return Popularity(
        torch.from_numpy(scores.astype(np.float32)), tie_order(len(scores), generator)
    )


def _age(log: Interactions, train: NDArray[np.bool_]) -> NDArray[np.float64]:
    """For each row `(N,)`: which share of the training rows is later; 0 for all without a clock."""
    if "timestamp" not in log.columns:
        return np.zeros(len(log.item))
    timestamp = log.columns["timestamp"]
    clock = np.sort(timestamp[train])
    later = len(clock) - np.searchsorted(clock, timestamp, side="right")
    return np.asarray(later / max(1, len(clock)), dtype=np.float64)
