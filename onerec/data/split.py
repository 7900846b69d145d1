"""Cutting a log into train, valid and test so that nothing that is tested is ever trained on.

Every rule leaves of each user a prefix for training, and gives cases: a user, where his history
ends, and the items to be found. Nothing here reads files or item features.
Legend: N events, U users, n items, M cases, T targets of all cases.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from onerec.data.dataset import Dataset, Interactions
from onerec.errors import DataError

RULES = ("auto", "given", "temporal", "leave_one_out")
MIN_POSITIVES = 3
_TRAIN, _VALID, _TEST = 0, 1, 2

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Cases:
    """Questions put to a recommender: given a user's history, which items come next?

    Attributes:
        user: (M,) int64.
        end: (M,) int64; the history of case i is rows `offsets[user[i]]:end[i]` of the log.
        target_offsets: (M + 1,) int64.
        target_items: (T,) int64; those of case i are `target_offsets[i]:target_offsets[i + 1]`,
            distinct, in the order of their first event.
    """

    user: Array
    end: Array
    target_offsets: Array
    target_items: Array

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: Array) -> Cases:
        """Some of the cases (indices)."""
        rows = np.asarray(rows, dtype=np.int64)
        lengths = np.diff(self.target_offsets)[rows]
        offsets = np.concatenate(([0], np.cumsum(lengths)))
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        picked = np.repeat(self.target_offsets[:-1][rows], lengths) + within
        return Cases(self.user[rows], self.end[rows], offsets, self.target_items[picked])


@dataclass(frozen=True)
class Split:
    """A log and its three parts. The train rows of user u are `offsets[u]:train_end[u]`.

    Attributes:
        rule: "given", "temporal" or "leave_one_out".
        log: the log that rows refer to; under `given` it is ordered by (user, part).
        train_end: (U,) int64.
        valid, test: the cases; the history of a test case includes what was valid.
        fit_items: (n,) bool, the items with a train row: a tokenizer, pairs and item statistics may
            use these and no others.
        counts: what was cut and what was left out.
    """

    rule: str
    log: Interactions
    train_end: Array
    valid: Cases
    test: Cases
    fit_items: Array
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def train(self) -> Array:
        """(N,) bool, the rows of `log` that a model may be trained on."""
        return _prefix_mask(self.log.offsets, self.train_end)

    def train_log(self) -> Interactions:
        """The train rows alone."""
        return self.log.take(self.train)


def make_split(
    data: Dataset | Interactions,
    rule: str = "auto",
    *,
    valid_share: float = 0.1,
    test_share: float = 0.1,
) -> Split:
    """Cut a log into train, valid and test.

    Rules:
        given: by the split column. Where it marks no row as valid, the last positive of each user's
            train rows becomes his valid target.
        temporal: two cuts in time, the same for all users, so that `valid_share` and `test_share`
            of the rows lie after them. Targets are a user's positives in the period, his history
            everything before it begins. Users without history are counted and skipped.
        leave_one_out: a user's last positive is his test target, the last but one his valid target;
            his history is everything before the target. Users with fewer than 3 positives are only
            trained on.
        auto: given where the log has a split column; else temporal where times are exact, the cuts
            leave no part empty, and at least half of the users with test targets have a history;
            else leave_one_out.

    Raises:
        DataError: the rule is unknown or the log has not what it needs.
    """
    log = data.log if isinstance(data, Dataset) else data
    if rule not in RULES:
        raise DataError(f"split rule {rule!r}: choose one of {', '.join(RULES)}")
    if min(valid_share, test_share) <= 0 or valid_share + test_share >= 1:
        raise DataError(
            f"valid_share {valid_share} and test_share {test_share}: both must be above 0 and "
            "together below 1"
        )
    if rule == "given" or (rule == "auto" and "split" in log.columns):
        return _given(log)
    if rule == "leave_one_out":
        return _leave_one_out(log)
    if rule == "temporal":
        return _temporal(log, valid_share, test_share)
    if log.exact_time and _cut_is_fair(log, valid_share, test_share):
        return _temporal(log, valid_share, test_share)
    return _leave_one_out(log)


def _leave_one_out(log: Interactions) -> Split:
    positives = np.flatnonzero(log.positive)
    per_user = np.bincount(log.user[positives], minlength=log.n_users)
    last = np.cumsum(per_user) - 1  # (U,) place of each user's last positive in `positives`
    users = np.flatnonzero(per_user >= MIN_POSITIVES)
    if not len(users):
        raise DataError(
            f"leave_one_out: no user has {MIN_POSITIVES} positives ({log.positive_rule}), which it "
            "needs for train, valid and test"
        )
    test_rows, valid_rows = positives[last[users]], positives[last[users] - 1]
    train_end = log.offsets[1:].copy()
    train_end[users] = valid_rows
    return _finish(
        "leave_one_out",
        log,
        train_end,
        valid=_one_target(log, users, valid_rows),
        test=_one_target(log, users, test_rows),
        users_train_only=int(((np.diff(log.offsets) > 0) & (per_user < MIN_POSITIVES)).sum()),
    )


def _temporal(log: Interactions, valid_share: float, test_share: float) -> Split:
    if not log.exact_time:
        what = "some times only give the order" if "timestamp" in log.columns else "it has no times"
        raise DataError(
            f"temporal split: the data need exact timestamps, but {what}; use --set "
            f"evaluate.split={'given' if 'split' in log.columns else 'leave_one_out'}"
        )
    valid_from, test_from = _cuts(log, valid_share, test_share)
    part = _parts(log, valid_from, test_from)
    if len(np.unique(part)) < 3:
        raise DataError(
            f"temporal split: the cuts at {valid_from} and {test_from} ms leave a part empty, "
            "since many events share one time; use --set evaluate.split=leave_one_out"
        )
    return _by_part("temporal", log, part, {"valid_from": valid_from, "test_from": test_from})


def _given(log: Interactions) -> Split:
    if "split" not in log.columns:
        raise DataError(
            "given split: the data have no split column; "
            "use --set evaluate.split=leave_one_out or temporal"
        )
    part = log.columns["split"]
    present = np.bincount(part + 1, minlength=4)[1:]
    if not present[_TRAIN] or not present[_TEST]:
        raise DataError(
            f"given split: the split column marks {present[_TRAIN]} train and {present[_TEST]} "
            "test rows and needs both; use --set evaluate.split=leave_one_out"
        )
    rank = np.where(part < 0, _TEST + 1, part)  # rows of no part stand last and are never read
    order = np.lexsort((rank, log.user))
    log, rank = log.reorder(order), rank[order]
    extra = {"rows_of_no_part": int((rank > _TEST).sum())}
    if not present[_VALID]:
        rank, extra["valid_from_train"] = _valid_from_train(log, rank)
    return _by_part("given", log, rank, extra)


def _valid_from_train(log: Interactions, rank: Array) -> tuple[Array, int]:
    """Move each user's last positive train row, and what follows it, into the valid part."""
    candidates = np.flatnonzero((rank == _TRAIN) & log.positive)
    start = np.full(log.n_users, len(log), dtype=np.int64)
    start[log.user[candidates]] = candidates  # the last one stands
    possible = (start < len(log)) & (start > log.offsets[:-1])  # a history is left
    rows = np.arange(len(log))
    moved = (rank == _TRAIN) & possible[log.user] & (rows >= start[log.user])
    return np.where(moved, _VALID, rank), int(possible.sum())


def _by_part(rule: str, log: Interactions, part: Array, extra: dict[str, int]) -> Split:
    """A split of a log whose rows are, within each user, in the order of their parts."""
    train_end = log.offsets[:-1] + np.bincount(log.user[part == _TRAIN], minlength=log.n_users)
    valid_end = train_end + np.bincount(log.user[part == _VALID], minlength=log.n_users)
    valid, skipped_valid = _all_targets(log, part == _VALID, train_end)
    test, skipped_test = _all_targets(log, part == _TEST, valid_end)
    if not len(test):
        raise DataError(f"{rule} split: no user with a positive in the test part has a history")
    counts = {"valid_users_without_history": skipped_valid}
    counts["test_users_without_history"] = skipped_test
    return _finish(rule, log, train_end, valid=valid, test=test, **counts, **extra)


def _one_target(log: Interactions, users: Array, rows: Array) -> Cases:
    """One target a case: the item of the row at which the history ends."""
    return Cases(
        user=users.astype(np.int64),
        end=rows.astype(np.int64),
        target_offsets=np.arange(len(users) + 1, dtype=np.int64),
        target_items=log.item[rows].astype(np.int64),
    )


def _all_targets(log: Interactions, chosen: Array, begin: Array) -> tuple[Cases, int]:
    """A case for each user with positives among the chosen rows and with rows before `begin`.

    Returns the cases and how many users with positives had no history.
    """
    rows = np.flatnonzero(chosen & log.positive)
    user, item = log.user[rows].astype(np.int64), log.item[rows].astype(np.int64)
    _, first = np.unique(user * log.n_items + item, return_index=True)
    first.sort()
    user, item = user[first], item[first]
    has_history = begin > log.offsets[:-1]  # (U,)
    keep = has_history[user]
    skipped = len(np.unique(user[~keep]))
    user, item = user[keep], item[keep]
    users, counts = np.unique(user, return_counts=True)
    offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    return Cases(users, begin[users].astype(np.int64), offsets, item), skipped


def _cut(time: Array, share: float) -> int:
    """The time at which the given share of the rows lies before (ties fall after it)."""
    place = min(round(len(time) * share), len(time) - 1)
    return int(np.partition(time, place)[place])


def _cuts(log: Interactions, valid_share: float, test_share: float) -> tuple[int, int]:
    """The times at which valid and test begin."""
    time = log.columns["timestamp"]
    return _cut(time, 1 - valid_share - test_share), _cut(time, 1 - test_share)


def _parts(log: Interactions, valid_from: int, test_from: int) -> Array:
    """(N,) int8 part of each row by two cuts in time."""
    time = log.columns["timestamp"]
    return np.asarray((time >= valid_from).astype(np.int8) + (time >= test_from))


def _cut_is_fair(log: Interactions, valid_share: float, test_share: float) -> bool:
    """Whether no part is empty and half of the users with test targets have history before test."""
    part = _parts(log, *_cuts(log, valid_share, test_share))
    if len(np.unique(part)) < 3:
        return False
    after = part == _TEST
    tested = np.bincount(log.user[after & log.positive], minlength=log.n_users) > 0
    known = np.bincount(log.user[~after], minlength=log.n_users) > 0
    return bool(tested.any()) and (tested & known).sum() * 2 >= tested.sum()


def _prefix_mask(offsets: Array, end: Array) -> Array:
    """(N,) bool: rows `offsets[u]:end[u]` of each user."""
    change = np.zeros(offsets[-1] + 1, dtype=np.int32)
    np.add.at(change, offsets[:-1], 1)
    np.add.at(change, end, -1)
    return np.cumsum(change[:-1]) > 0


def _finish(
    rule: str, log: Interactions, train_end: Array, *, valid: Cases, test: Cases, **counts: int
) -> Split:
    train_end = train_end.astype(np.int64)
    fit_items = np.zeros(log.n_items, dtype=bool)
    train = _prefix_mask(log.offsets, train_end)
    fit_items[log.item[train]] = True
    counts = {
        "train_rows": int(train.sum()),
        "valid_users": len(valid),
        "test_users": len(test),
        "valid_targets": len(valid.target_items),
        "test_targets": len(test.target_items),
        "items_to_fit": int(fit_items.sum()),
        **counts,
    }
    return Split(rule, log, train_end, valid, test, fit_items, counts)
