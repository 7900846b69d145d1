"""Groups for the policy out of the log: what people really were shown next, and what it was worth.

OneRec-V2's preference alignment from real feedback (V2 section 3.3): nothing is generated, a
user's own next plays are the group, and `onerec.reward.feedback` says which of them were good.

Shapes: N rows of the log, n items, R rows that may be read, B contexts, G items of a group.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onerec.data.dataset import Dataset, Interactions
from onerec.data.features import item_seconds
from onerec.data.split import Split
from onerec.errors import DataError
from onerec.reward.feedback import PlayQuantiles, feedback_advantage

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

WHAT = "feedback of the log"


class LoggedFeedback:
    """The rows of a log that may be read, each with the quantile of its play and its dislike.

    A quantile is a play's among the plays that its user had made before it, of videos in the same
    bucket of duration. Where he had made fewer than `onerec.reward.feedback.ENOUGH`, everybody's
    readable plays of the bucket stand in, the later ones too (ours, with that module's settings).
    A row that lacks play time or duration is neither long nor a past; its dislike still counts.

    Args:
        log: the log whose rows a context's `end` counts (a split's own, not the dataset's).
        rows: the rows that may be read, as a mask (N,) or as numbers; others never enter, neither
            as somebody's past nor into a group.
        item_duration_ms: (n,), used where the log has no `duration_ms` of its own; NaN is unknown.

    Raises:
        DataError: none of the rows has a play time, or none of those has a duration.
    """

    def __init__(
        self,
        log: Interactions,
        rows: NDArray[np.bool_] | Ints,
        item_duration_ms: NDArray[Any] | None = None,
    ) -> None:
        chosen = np.zeros(len(log), dtype=bool)
        chosen[rows] = True
        self.rows = np.flatnonzero(chosen)  # (R,)
        self._offsets = np.searchsorted(self.rows, log.offsets)  # (U + 1,)
        self.item = log.item[self.rows].astype(np.int64)
        unknown = np.full(len(log), -1, dtype=np.int8)
        self.dislike = log.columns.get("dislike", unknown)[self.rows] == 1
        play = _column(log, "play_ms")[self.rows]
        duration = _column(log, "duration_ms")[self.rows]
        if item_duration_ms is not None:
            own = np.asarray(item_duration_ms, dtype=np.float64)[self.item]
            duration = np.where(np.isnan(duration), own, duration)
        if np.isnan(play).all():
            raise DataError(
                f"{WHAT}: no training row has a play_ms; give the log play times, or take groups "
                "that the model makes"
            )
        known = ~np.isnan(play) & ~np.isnan(duration)
        if not known.any():
            raise DataError(
                f"{WHAT}: no play has a duration; give the items or the log duration_ms, or take "
                "groups that the model makes"
            )
        past = log.user[self.rows][known], duration[known], play[known]
        self.quantile = np.full(len(self.rows), np.nan)
        self.quantile[known] = PlayQuantiles().fit(*past).in_order(*past)

    @classmethod
    def of(cls, dataset: Dataset, split: Split) -> LoggedFeedback:
        """That of a split's training rows, with the durations of the catalogue."""
        return cls(split.log, split.train, item_seconds(dataset) * 1000.0)

    def groups(self, user: Ints, end: Ints, size: int) -> tuple[Ints, Floats]:
        """What the users (B,) were shown from row `end` (B,) on, and how good it was.

        Advantages are +1 for a play above the top quarter of all rows of this batch, -1 for a
        dislike, else 0. An item that a user was shown twice stands there twice.

        Returns:
            items (B, G) int64, -1 where a user has no more rows; advantage (B, G) float32, 0 there.
        """
        if size < 1:
            raise ValueError(f"size={size}: a group needs at least 1 item")
        place = np.searchsorted(self.rows, end)[:, None] + np.arange(size)  # (B, G) in `rows`
        there = place < self._offsets[user + 1][:, None]
        place = place[there]
        items = np.full(there.shape, -1, dtype=np.int64)
        items[there] = self.item[place]
        advantage = np.zeros(there.shape, dtype=np.float32)
        advantage[there] = feedback_advantage(self.quantile[place], self.dislike[place])
        return items, advantage


def _column(log: Interactions, name: str) -> NDArray[np.float64]:
    """A column of numbers (N,), NaN where it is not known or not there."""
    return np.asarray(log.columns.get(name, np.full(len(log), np.nan)), dtype=np.float64)
