"""Logged rows ranked as a request ranks its candidates: all of a user's rows at one moment.

Shapes: N rows, K behaviours.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from onerec.metrics import aucs_of_groups, grouped_auc
from onerec.rewards import RewardModel, candidate_features

Floats = NDArray[np.float64]
Interval = dict[str, float]
Ints = NDArray[np.int64]

USERS = 256  # scored at once


class AtOnce:
    """Test rows (N,) of a user as candidates of one moment: that of the first of them."""

    def __init__(self, reward: RewardModel, rows: Ints) -> None:
        self.reward, self.rows = reward, np.sort(rows)
        user = reward.exposures.split.log.user[self.rows].astype(np.int64)
        self.user, first, count = np.unique(user, return_index=True, return_counts=True)
        self.end, self.of_row = self.rows[first], np.repeat(np.arange(len(first)), count)
        self.place = np.arange(len(user)) - first[self.of_row]
        self.items = np.full((len(first), int(count.max())), -1, dtype=np.int64)
        self.items[self.of_row, self.place] = reward.exposures.split.log.item[self.rows]

    @cached_property
    def scores(self) -> dict[str, Floats]:
        """The reward model's scores of each behaviour and the fused one: (N,) each."""
        parts = []
        for begin in range(0, len(self.user), USERS):
            some = slice(begin, begin + USERS)
            offered = torch.from_numpy(self.items[some])
            parts.append(self.reward.score(self.user[some], self.end[some], offered))
        return {
            name: self._flat(torch.cat([part[name] for part in parts]).double().cpu().numpy())
            for name in parts[0]
        }

    def of(self, model: Any) -> Floats:
        """Those of trees."""
        table = candidate_features(self.reward, self.user, self.end, self.items)
        return np.asarray(model.predict(self._flat(table)), dtype=np.float64)

    def _flat(self, grid: Floats) -> Floats:
        found: Floats = grid[self.of_row, self.place]
        return found

    def gauc(self, k: int, score: Floats) -> float | None:
        """GAUC of behaviour k."""
        yes, known = self.reward.exposures.outcomes(self.rows)
        there = known[:, k]
        return grouped_auc(yes[there, k], score[there], self.of_row[there])

    def difference(self, k: int, ours: Floats, theirs: Floats, draws: int = 1_000) -> Interval:
        """GAUC of our scores (N,) less that of theirs, with its 95% interval over users."""
        yes, known = self.reward.exposures.outcomes(self.rows)
        there = known[:, k]
        label, user = yes[there, k], self.of_row[there]
        one, rows = aucs_of_groups(label, ours[there], user)
        two, _ = aucs_of_groups(label, theirs[there], user)
        apart = one - two
        count = np.random.default_rng(0).multinomial(
            len(rows), np.full(len(rows), 1 / len(rows)), draws
        )
        drawn = (count * rows) @ apart / (count @ rows)
        low, high = np.quantile(drawn, [0.025, 0.975])
        mean = float(np.average(apart, weights=rows))
        return {"mean": round(mean, 5), "low": round(float(low), 5), "high": round(float(high), 5)}
