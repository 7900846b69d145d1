"""Histories that stand in no log: typed by hand, or a user's own with events taken out, put in, or
in another order.

A `History` points into a log: each event has an item and a time of its own and does what some row
of the log did (play time, labels, everything a model reads of it). So an edited history goes
through the very code that a logged one does: `contexts_of` makes a log of it and a `Contexts` over
that. A history that nobody edited gives the batch that the log itself would.

What is not known of a typed event is ours to say: it does what a typical positive event of the log
did (`Typical`), one typical gap after the event before it. Times stay with the places: of events in
another order, the first has the first time.

Shapes: T events of a history, F static features, B histories.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from onerec.data.batches import Contexts, Features
from onerec.data.dataset import Dataset, Interactions
from onerec.data.features import UserFeatures
from onerec.data.snapshots import Snapshots
from onerec.errors import DataError

Ints = NDArray[np.int64]

LOOKED_AT = 2**20  # rows of a log that decide what is typical
NEW = -1  # the event number of one that was put in


@dataclass(frozen=True)
class Typical:
    """What a typed event does: as row `row` of the log, `gap_ms` after the event before it."""

    row: int
    gap_ms: int

    @classmethod
    def of(cls, log: Interactions, features: Features) -> Typical:
        """The first row with the commonest play time and labels among positives, and the median
        gap between a user's events; both from the first `LOOKED_AT` rows."""
        rows = np.flatnonzero(log.positive[:LOOKED_AT])
        rows = rows if len(rows) else np.arange(min(len(log), LOOKED_AT))
        if not len(rows):
            raise DataError("the log has no events, so nothing says what a typed event does")
        labels = features.event.labels[rows].astype(np.int64)
        bits = labels @ (1 << np.arange(labels.shape[1], dtype=np.int64))
        kind = features.event.play[rows] << labels.shape[1] | bits
        _, first, count = np.unique(kind, return_index=True, return_counts=True)
        gap = 0
        if features.timed:
            time, user = log.columns["timestamp"][:LOOKED_AT], log.user[:LOOKED_AT]
            gaps = np.diff(time)[user[1:] == user[:-1]]
            gap = int(np.median(gaps)) if len(gaps) else 0
        return cls(int(rows[first[count.argmax()]]), gap)


@dataclass(frozen=True)
class History:
    """Events of one user, oldest first, and his static features (F,).

    `item` (T,) index; `time` (T,) ms, ascending, all 0 where the log has no exact times; `row` (T,)
    of the log whose behaviour an event has; `number` (T,) which event it was before editing, `NEW`
    for one that was put in.
    """

    item: Ints
    time: Ints
    row: Ints
    number: Ints
    static: Ints

    def __len__(self) -> int:
        return len(self.item)

    @classmethod
    def of_user(cls, log: Interactions, features: Features, user: int, end: int) -> History:
        """What a user did before row `end` of the log."""
        row = np.arange(log.offsets[user], end, dtype=np.int64)
        time = log.columns["timestamp"][row] if features.timed else np.zeros(len(row), np.int64)
        item = log.item[row].astype(np.int64)
        number = np.arange(len(row), dtype=np.int64)
        return cls(item, time.astype(np.int64), row, number, features.user.codes[user])

    @classmethod
    def typed(cls, items: Sequence[int], typical: Typical, static: Ints) -> History:
        """Items (T,) one after the other, the last one the newest."""
        nothing = np.zeros(0, dtype=np.int64)
        return cls(nothing, nothing, nothing, nothing, static).plus(items, typical)

    def plus(self, items: Sequence[int], typical: Typical) -> History:
        """With items behind the newest event."""
        count, newest = len(items), int(self.time[-1]) if len(self) else 0
        time = newest + typical.gap_ms * np.arange(1, count + 1, dtype=np.int64)
        return replace(
            self,
            item=np.concatenate([self.item, np.asarray(items, dtype=np.int64)]),
            time=np.concatenate([self.time, time]),
            row=np.concatenate([self.row, np.full(count, typical.row, dtype=np.int64)]),
            number=np.concatenate([self.number, np.full(count, NEW, dtype=np.int64)]),
        )

    def take(self, places: Sequence[int] | Ints) -> History:
        """Some of the events, in that order; the times go by place, so that they still ascend."""
        chosen = np.asarray(places, dtype=np.int64)
        return replace(
            self,
            item=self.item[chosen],
            time=np.sort(self.time[chosen]),
            row=self.row[chosen],
            number=self.number[chosen],
        )


def contexts_of(
    histories: Sequence[History],
    log: Interactions,
    features: Features,
    *,
    short_length: int,
    positive_length: int,
    snapshots: Snapshots | None = None,
    device: Any = "cpu",
) -> tuple[Contexts, Interactions]:
    """A log of histories, history i being user i, and the batches over it.

    A log without any event is given one of somebody else's, behind the histories.

    `log` and `features` are those that the histories point into. For `snapshots` see
    `onerec.lifelong`: they are of the log that is returned.
    """
    made, own = log_of(_with_an_event(histories), log, features)
    contexts = Contexts(
        made,
        own,
        short_length=short_length,
        positive_length=positive_length,
        snapshots=snapshots,
        device=device,
    )
    return contexts, made


def _with_an_event(histories: Sequence[History]) -> Sequence[History]:
    """The histories, and where none of them has an event, one more that has one.

    Contexts are gathered from the log's rows, also those of users who have none.
    """
    if not histories or any(map(len, histories)):
        return histories
    zero = np.zeros(1, dtype=np.int64)
    return [*histories, History(zero, zero, zero, zero, histories[0].static)]


def log_of(
    histories: Sequence[History], log: Interactions, features: Features
) -> tuple[Interactions, Features]:
    """The histories as a log and its features, history i being user i."""
    lengths = np.array([len(one) for one in histories], dtype=np.int64)
    row = np.concatenate([np.zeros(0, np.int64), *(one.row for one in histories)])
    item = np.concatenate([np.zeros(0, np.int64), *(one.item for one in histories)])
    columns = {name: values[row] for name, values in log.columns.items()}
    if "timestamp" in columns:
        columns["timestamp"] = np.concatenate([row[:0], *(one.time for one in histories)])
    made = Interactions(
        user=np.repeat(np.arange(len(histories), dtype=np.int32), lengths),
        item=item.astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        n_users=len(histories),
        n_items=log.n_items,
        columns=columns,
        positive=log.positive[row],
        positive_rule=log.positive_rule,
    )
    static = np.stack([one.static for one in histories]) if histories else np.zeros((0, 0))
    event = replace(
        features.event, play=features.event.play[row], labels=features.event.labels[row]
    )
    user = replace(features.user, codes=static.astype(np.int64))
    return made, replace(features, user=user, event=event)


def places(
    history: History, positive: NDArray[np.bool_], short: int, long: int
) -> tuple[Ints, ...]:
    """Which event stands where in the short (short,) and positive (long,) pathway, -1 for padding.

    `positive` (T,) bool. As `Contexts.batch` puts them: the newest, oldest first, padding behind.
    """
    found = []
    for events, length in (
        (np.arange(len(history), dtype=np.int64), short),
        (np.flatnonzero(positive).astype(np.int64), long),
    ):
        chosen = events[max(0, len(events) - length) :]
        found.append(np.concatenate([chosen, np.full(length - len(chosen), -1, dtype=np.int64)]))
    return tuple(found)


def static_codes(dataset: Dataset, features: UserFeatures, given: Mapping[str, Any]) -> Ints:
    """The static features (F,) of somebody who is no user.

    What is not given is unknown (0) where it is of some users, so that the model has learned what
    that means, and else what is commonest. A text must be a value that some user has; a number
    takes the bin of the user nearest to it.

    Raises:
        DataError: a column that is no feature, or a value that no user has.
    """
    columns = [np.bincount(column) for column in features.codes.T]
    codes = np.array([0 if count[0] else count.argmax() for count in columns], dtype=np.int64)
    for name, value in given.items():
        if name not in features.names:
            known = ", ".join(features.names) or "none"
            raise DataError(
                f"{name!r} is no user feature of dataset {dataset.name!r}; it has {known}"
            )
        column = dataset.users[name]
        number = isinstance(value, int | float) and np.isfinite(value)
        if pd.api.types.is_numeric_dtype(column) and number:
            apart = np.abs(column.to_numpy(np.float64, na_value=np.nan) - value)
            row = int(np.where(np.isnan(apart), np.inf, apart).argmin())
        else:
            same = np.flatnonzero(column.astype("string").fillna("").to_numpy() == str(value))
            if not len(same):
                some = ", ".join(sorted(column.dropna().astype(str).unique())[:8])
                raise DataError(f"no user has {name}={value!r}; there are {some}")
            row = int(same[0])
        codes[features.names.index(name)] = features.codes[row, features.names.index(name)]
    return codes
