"""The log of a dataset in columns: what each event is, and which events count as a success.

Events are sorted by (user, timestamp, position, source row), so those of one user are one slice.
Legend: N events, U users.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onerec.data.schema import BEHAVIOURS, EVERY_ROW, POSITIVE_BEHAVIOURS, SPLITS
from onerec.data.sql import columns_of, sql_path
from onerec.errors import DataError
from onerec.run_files import cursor

Array = npt.NDArray[Any]


def neighbours(counts: Array, limit: int) -> list[slice]:
    """Neighbouring users whose `counts` (U,) add up to at most `limit`, at least one user each."""
    ends = np.cumsum(counts)
    parts, first = [], 0
    while first < len(ends):
        before = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + limit, side="right")))
        parts.append(slice(first, last))
        first = last
    return parts


@dataclass(frozen=True)
class Interactions:
    """The log in columns. Rows of user u are `offsets[u]:offsets[u + 1]`, oldest first.

    Attributes:
        user, item: (N,) int32, dense indices.
        offsets: (U + 1,) int64.
        columns: name -> (N,). `timestamp` int64 in ms and `position` int64 where known;
            behaviours and `exact_time` int8 with -1 unknown, 0 no, 1 yes; `play_ms`, `duration_ms`
            and `rating` float32 with NaN unknown; `split` int8 with -1 none, 0 train, 1 valid,
            2 test.
        positive: (N,) bool, the events that count as a success.
        positive_rule: how `positive` was found, e.g. "long_view|like" or "rating>=4".
    """

    user: Array
    item: Array
    offsets: Array
    n_users: int
    n_items: int
    columns: dict[str, Array]
    positive: Array
    positive_rule: str

    def __len__(self) -> int:
        return len(self.user)

    @property
    def exact_time(self) -> bool:
        """Whether every event has a time that may be compared across users."""
        exact = self.columns.get("exact_time")
        return "timestamp" in self.columns and (exact is None or bool((exact == 1).all()))

    def take(self, rows: Array) -> Interactions:
        """The chosen rows (indices or a mask), in that order; it must keep the users in order."""
        user = self.user[rows]
        if len(user) and bool((np.diff(user) < 0).any()):
            raise ValueError("the rows taken are not in the order of the users")
        return Interactions(
            user=user,
            item=self.item[rows],
            offsets=user_offsets(user, self.n_users),
            n_users=self.n_users,
            n_items=self.n_items,
            columns={name: values[rows] for name, values in self.columns.items()},
            positive=self.positive[rows],
            positive_rule=self.positive_rule,
        )

    def reorder(self, permutation: Array) -> Interactions:
        """All rows in another order, which may only move events within their user."""
        if len(permutation) != len(self):
            raise ValueError(f"a permutation of {len(self)} rows is needed, got {len(permutation)}")
        return self.take(permutation)


def user_offsets(user: Array, n_users: int) -> Array:
    """(U + 1,) int64 start of each user's rows in a (N,) column sorted by user."""
    return np.searchsorted(user, np.arange(n_users + 1)).astype(np.int64)


def positive_rows(columns: dict[str, Array], rows: int, rule: str | None) -> tuple[Array, str]:
    """The (N,) bool positives of a log and the rule they follow.

    Without a rule: long_view, like, follow, comment or forward where the data has them, else
    click, else rating >= 4, else every row. A rule that no row meets is passed over.
    """
    if rule is not None:
        return _by_rule(columns, rows, rule), rule
    known = [name for name in POSITIVE_BEHAVIOURS if name in columns]
    candidates = ["|".join(known)] if known else []
    candidates += [name for name in ("click",) if name in columns]
    candidates += ["rating>=4"] if "rating" in columns else []
    for candidate in candidates:
        found = _by_rule(columns, rows, candidate)
        if found.any():
            return found, candidate
    return np.ones(rows, dtype=bool), EVERY_ROW


def _by_rule(columns: dict[str, Array], rows: int, rule: str) -> Array:
    if rule == EVERY_ROW:
        return np.ones(rows, dtype=bool)
    names = [rule.split(">=")[0]] if ">=" in rule else rule.split("|")
    missing = [name for name in names if name not in columns]
    if missing:
        raise DataError(f"positive rule {rule!r}: the log has no column {missing[0]}")
    if ">=" in rule:
        return np.asarray(columns[names[0]] >= float(rule.split(">=")[1]))
    return np.asarray(np.any([columns[name] == 1 for name in names], axis=0))


def read_log(path: Path, info: dict[str, Any]) -> Interactions:
    """Read interactions.parquet into columns; the ids stay on disk."""
    file = sql_path(path)
    with cursor() as connection:
        types = columns_of(connection, file)
        wanted = [_select(name, type_) for name, type_ in types.items() if not name.endswith("_id")]
        raw = connection.execute(f"SELECT {', '.join(wanted)} FROM {file}").fetchnumpy()
    columns = {name: np.ascontiguousarray(values) for name, values in raw.items()}
    user, item = columns.pop("user"), columns.pop("item")
    rows = info["rows"]
    if len(user) != rows["interactions"]:
        raise ValueError(f"{len(user)} interactions, dataset.json says {rows['interactions']}")
    known = {
        name: values
        for name, values in columns.items()
        if name not in BEHAVIOURS or bool((values >= 0).any())
    }
    positive, rule = positive_rows(known, len(user), info["positive"])
    return Interactions(
        user=user,
        item=item,
        offsets=user_offsets(user, rows["users"]),
        n_users=rows["users"],
        n_items=rows["items"],
        columns=known,
        positive=positive,
        positive_rule=rule,
    )


def _select(name: str, type_: str) -> str:
    """The SQL that turns a stored column into its array form, unknowns included."""
    if type_ == "BOOLEAN":
        return f'coalesce("{name}"::TINYINT, -1)::TINYINT AS "{name}"'
    if name in ("play_ms", "duration_ms", "rating"):
        return f'coalesce("{name}"::FLOAT, \'nan\'::FLOAT) AS "{name}"'
    if name == "split":
        cases = " ".join(f"WHEN '{part}' THEN {code}" for code, part in enumerate(SPLITS))
        return f"(CASE split {cases} ELSE -1 END)::TINYINT AS split"
    return f'"{name}"'
