"""A log that grows while people are served: new events join the old ones, order and rules kept.

Shapes: N old events, F new ones, U users, n items.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onerec.assembly import Setting
from onerec.data.batches import Features
from onerec.data.log import Interactions, positive_rows, user_offsets
from onerec.data.schema import BEHAVIOURS
from onerec.data.split import Cases, Split

Array = NDArray[Any]


def grown(log: Interactions, events: dict[str, Array]) -> Interactions:
    """The log with more events, sorted by user and time; equal times keep their order.

    Args:
        events: user, item (F,) and any of the log's columns; a column that is not there is unknown.
    """
    user = np.concatenate([log.user, events["user"].astype(log.user.dtype)])
    item = np.concatenate([log.item, events["item"].astype(log.item.dtype)])
    columns = {
        name: np.concatenate([old, _like(old, name, events)]) for name, old in log.columns.items()
    }
    order = np.lexsort((columns["timestamp"], user))
    user, item = user[order], item[order]
    columns = {name: column[order] for name, column in columns.items()}
    positive, rule = positive_rows(columns, len(user), log.positive_rule)
    return Interactions(
        user=user,
        item=item,
        offsets=user_offsets(user, log.n_users),
        n_users=log.n_users,
        n_items=log.n_items,
        columns=columns,
        positive=positive,
        positive_rule=rule,
    )


def _like(old: Array, name: str, events: dict[str, Array]) -> Array:
    if name in events:
        return events[name].astype(old.dtype)
    unknown = -1 if name in BEHAVIOURS or name == "split" else np.nan
    if name == "exact_time":
        unknown = 1
    return np.full(len(events["user"]), unknown).astype(old.dtype)


def setting_with(setting: Setting, log: Interactions) -> Setting:
    """The setting over a grown log: every row is past, so every row may be trained on."""
    none = np.zeros(0, dtype=np.int64)
    nobody = Cases(none, none, np.zeros(1, dtype=np.int64), none)
    split = Split(
        rule=setting.split.rule,
        log=log,
        train_end=log.offsets[1:].copy(),
        valid=nobody,
        test=nobody,
        fit_items=setting.split.fit_items,
    )
    return replace(setting, split=split, features=Features.of(setting.dataset, log))


def cases_at_the_end(log: Interactions, users: NDArray[np.int64]) -> Cases:
    """Users (M,) who come back now, with all that they did."""
    none = np.zeros(len(users) + 1, dtype=np.int64)
    return Cases(users, log.offsets[users + 1], none, none[:0])
