"""How often users and items got each behaviour before a moment: features of a ranker.

A rate is known only from what came before. For a row of the log, an item's rate counts the training
rows of that item with an earlier time (of equal times, those that stand before it), and a user's
the user's own rows before it, so a row never counts itself. For serving, an item's rate counts all
training rows. Where times are not exact, the place in the user's own history stands in for the time
(ours).

A rate is smoothed towards that of the whole log and given as the difference of log-odds, so 0 means
"as usual" and an unknown item is as usual. Columns: log(1 + exposures), then one per behaviour.

Shapes: N rows of the log, K behaviours, S = K + 1 columns, U users, n items.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from onerec.data.log import Interactions

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]

PRIOR = 10.0  # exposures at the usual rate that everybody is given; ours


class Statistics:
    """Counts over a log whose rows stand by user and time.

    Args:
        log: all events.
        train: (N,) bool, rows that an item's counts may use.
        behaviours: names of columns of the log (int8: -1 unknown, 0 no, 1 yes).
    """

    def __init__(
        self, log: Interactions, train: NDArray[np.bool_], behaviours: Sequence[str]
    ) -> None:
        self.behaviours = tuple(behaviours)
        answers = [np.asarray(log.columns[name]) for name in self.behaviours]
        yes = np.stack([answer == 1 for answer in answers], axis=1).astype(np.float32)  # (N, K)
        known = np.stack([answer >= 0 for answer in answers], axis=1).astype(np.float32)
        seen = known[train].sum(0, dtype=np.float64)
        usual = (yes[train].sum(0, dtype=np.float64) + 0.5) / (seen + 1.0)
        self.usual: Doubles = usual  # (K,)
        counts = np.concatenate([np.ones((len(log), 1), np.float32), known, yes], axis=1)
        running = np.zeros((len(log) + 1, counts.shape[1]))
        np.cumsum(counts, axis=0, out=running[1:])
        self._running = running
        self._offsets = log.offsets
        self._user = log.user
        per_item = np.stack(
            [np.bincount(log.item[train], column[train], log.n_items) for column in counts.T],
            axis=1,
        ).astype(np.float64)
        self.item: Floats = self._columns(per_item)  # (n, S)
        self._item_at_row = self._columns(_earlier(log, train, counts, per_item))  # (N, S)

    def user_at(self, user: Ints, end: Ints) -> Floats:
        """Statistics of users (B,) from their rows before `end` (B,): (B, S)."""
        return self._columns(self._running[end] - self._running[self._offsets[user]])

    def item_at(self, rows: Ints) -> Floats:
        """Statistics of the items of log rows (B,), as they were known at that time: (B, S)."""
        return self._item_at_row[rows]

    def _columns(self, counts: Doubles) -> Floats:
        """(..., 1 + 2 K) counts of exposures, known and yes -> (..., S)."""
        k = len(self.behaviours)
        exposures, known, yes = counts[..., :1], counts[..., 1 : k + 1], counts[..., k + 1 :]
        rate = (yes + PRIOR * self.usual) / (known + PRIOR)
        odds = np.log(rate / (1 - rate)) - np.log(self.usual / (1 - self.usual))
        return np.concatenate([np.log1p(exposures), odds], axis=-1).astype(np.float32)


def _earlier(
    log: Interactions, train: NDArray[np.bool_], counts: Floats, per_item: Doubles
) -> Doubles:
    """(N, C): the counts of each row's item over earlier training rows; over all of them for rows
    that are not trained on."""
    result = per_item[log.item]
    rows = np.flatnonzero(train)
    order = rows[np.lexsort((_moment(log)[rows], log.item[rows]))]
    item = log.item[order]
    before = np.cumsum(counts[order], axis=0, dtype=np.float64) - counts[order]
    first = np.searchsorted(item, np.arange(log.n_items))
    start = before[np.minimum(first, max(len(order) - 1, 0))][item] if len(order) else before
    result[order] = before - start
    return result


def _moment(log: Interactions) -> Ints:
    if log.exact_time:
        return np.asarray(log.columns["timestamp"], dtype=np.int64)
    return np.arange(len(log)) - log.offsets[log.user]
