"""Cutting a log: by hand, against a slow reference, and proofs that nothing leaks."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onerec.data.log import Interactions, user_offsets
from onerec.data.split import Cases, Split, make_split
from onerec.errors import DataError

Array = npt.NDArray[Any]


def make_log(
    user: list[int],
    item: list[int],
    time: list[int] | None = None,
    positive: list[int] | None = None,
    part: list[int] | None = None,
    n_users: int | None = None,
) -> Interactions:
    columns: dict[str, Array] = {}
    if time is not None:
        columns["timestamp"] = np.array(time, dtype=np.int64)
    if part is not None:
        columns["split"] = np.array(part, dtype=np.int8)
    users = n_users or max(user) + 1
    array = np.array(user, dtype=np.int32)
    return Interactions(
        user=array,
        item=np.array(item, dtype=np.int32),
        offsets=user_offsets(array, users),
        n_users=users,
        n_items=max(item) + 2,
        columns=columns,
        positive=np.array(positive if positive is not None else [1] * len(user), dtype=bool),
        positive_rule="click",
    )


def cases(split: Split, which: Cases) -> list[tuple[int, list[int], list[int]]]:
    """(user, items of the history, items to be found) of each case."""
    log = split.log
    return [
        (
            int(user),
            log.item[log.offsets[user] : end].tolist(),
            which.target_items[which.target_offsets[i] : which.target_offsets[i + 1]].tolist(),
        )
        for i, (user, end) in enumerate(zip(which.user, which.end, strict=True))
    ]


def test_leave_one_out_by_hand() -> None:
    log = make_log(
        user=[0, 0, 0, 0, 0, 1, 1, 2, 2, 2],
        item=[1, 2, 3, 4, 5, 1, 2, 6, 7, 8],
        positive=[1, 0, 1, 1, 0, 1, 1, 1, 1, 1],
    )
    split = make_split(log, "leave_one_out")
    assert cases(split, split.test) == [(0, [1, 2, 3], [4]), (2, [6, 7], [8])]
    assert cases(split, split.valid) == [(0, [1, 2], [3]), (2, [6], [7])]
    assert split.train.tolist() == [1, 1, 0, 0, 0, 1, 1, 1, 0, 0]  # user 1 is only trained on
    assert np.flatnonzero(split.fit_items).tolist() == [1, 2, 6]
    assert split.counts["users_train_only"] == 1


def test_temporal_by_hand() -> None:
    log = make_log(
        user=[0, 0, 0, 0, 0, 1, 1, 1, 2, 2],
        item=[1, 2, 3, 3, 4, 5, 6, 7, 8, 9],
        time=[0, 1, 8, 9, 9, 2, 3, 6, 7, 8],
        positive=[1, 1, 1, 1, 0, 1, 1, 1, 1, 1],
    )
    split = make_split(log, "temporal", valid_share=0.2, test_share=0.4)
    # Times in order: 0 1 2 3 | 6 7 | 8 8 9 9.
    assert (split.counts["valid_from"], split.counts["test_from"]) == (6, 8)
    assert cases(split, split.valid) == [(1, [5, 6], [7])]
    # Of user 0, item 3 twice is one target and item 4 is no positive.
    assert cases(split, split.test) == [(0, [1, 2], [3]), (2, [8], [9])]
    assert split.train.tolist() == [1, 1, 0, 0, 0, 1, 1, 0, 0, 0]
    assert split.counts["valid_users_without_history"] == 1  # user 2 came late
    assert np.flatnonzero(split.fit_items).tolist() == [1, 2, 5, 6]


def test_given_by_hand() -> None:
    """The parts may interleave in time; rows of no part are never read."""
    log = make_log(
        user=[0, 0, 0, 0, 0, 1, 1, 2],
        item=[1, 2, 3, 4, 5, 6, 7, 8],
        part=[2, 0, 1, 0, -1, 0, 2, 2],
    )
    split = make_split(log, "given")
    assert split.log.item.tolist() == [2, 4, 3, 1, 5, 6, 7, 8]
    assert cases(split, split.valid) == [(0, [2, 4], [3])]
    assert cases(split, split.test) == [(0, [2, 4, 3], [1]), (1, [6], [7])]
    assert split.counts["rows_of_no_part"] == 1
    assert split.counts["test_users_without_history"] == 1
    assert split.train_log().item.tolist() == [2, 4, 6]


def test_given_without_valid_rows_takes_them_from_the_end_of_train() -> None:
    log = make_log(
        user=[0, 0, 0, 0, 1, 1],
        item=[1, 2, 3, 4, 5, 6],
        positive=[1, 1, 0, 1, 1, 1],
        part=[0, 0, 0, 2, 0, 2],
    )
    split = make_split(log, "given")
    assert cases(split, split.valid) == [(0, [1], [2])]
    assert cases(split, split.test) == [(0, [1, 2, 3], [4]), (1, [5], [6])]
    # User 1 has one train row; as his valid target it would have no history, so it stays in train.
    assert split.counts["valid_from_train"] == 1


def test_auto_takes_what_the_data_allow() -> None:
    user, item = [0] * 5 + [1] * 5, list(range(10))
    time = [0, 2, 4, 6, 8, 1, 3, 5, 7, 9]
    assert make_split(make_log(user, item, time, part=[0, 0, 0, 1, 2] * 2)).rule == "given"
    assert make_split(make_log(user, item, time), valid_share=0.2, test_share=0.2).rule == (
        "temporal"
    )
    assert make_split(make_log(user, item)).rule == "leave_one_out"
    one_after_another = make_log([0] * 5 + [1] * 5, item, list(range(10)))
    assert make_split(one_after_another, test_share=0.5, valid_share=0.1).rule == "leave_one_out"


def test_auto_leaves_one_out_where_many_events_share_few_times() -> None:
    """Times of two or three days were taken for a temporal split, which then refused the log."""
    user, item = [0] * 6 + [1] * 6, list(range(12))
    days = make_log(user, item, [1, 1, 1, 2, 2, 2] * 2)
    with pytest.raises(DataError, match="leave a part empty"):
        make_split(days, "temporal")
    assert make_split(days).rule == "leave_one_out"


def test_refusals() -> None:
    plain = make_log([0, 0, 0], [1, 2, 3])
    with pytest.raises(DataError, match="need exact timestamps, but it has no times"):
        make_split(plain, "temporal")
    inexact = make_log([0, 0, 0], [1, 2, 3], [1, 2, 3])
    inexact.columns["exact_time"] = np.array([1, 0, 1], dtype=np.int8)
    with pytest.raises(DataError, match=r"only give the order; use --set evaluate\.split="):
        make_split(inexact, "temporal")
    with pytest.raises(DataError, match=r"no split column; use --set evaluate\.split=leave"):
        make_split(plain, "given")
    with pytest.raises(DataError, match="0 train and 3 test rows"):
        make_split(make_log([0, 0, 0], [1, 2, 3], part=[2, 2, 2]), "given")
    with pytest.raises(DataError, match="no user has 3 positives"):
        make_split(make_log([0, 0, 0], [1, 2, 3], positive=[1, 0, 1]), "leave_one_out")
    with pytest.raises(DataError, match="leave a part empty"):
        make_split(make_log([0, 0, 0], [1, 2, 3], [5, 5, 5]), "temporal")
    with pytest.raises(DataError, match="split rule 'random'"):
        make_split(plain, "random")
    with pytest.raises(DataError, match="together below 1"):
        make_split(plain, "leave_one_out", valid_share=0.5, test_share=0.5)


def test_cases_taken_keep_their_targets() -> None:
    whole = Cases(np.array([3, 5, 8]), np.array([10, 20, 30]), np.array([0, 2, 2, 5]), np.arange(5))
    part = whole.take(np.array([2, 0]))
    assert part.user.tolist() == [8, 3]
    assert part.target_offsets.tolist() == [0, 3, 5]
    assert part.target_items.tolist() == [2, 3, 4, 0, 1]


@st.composite
def logs(draw: st.DrawFn) -> Interactions:
    """Small logs: few users, repeats, ties in time, users without events, odd parts."""
    n_users = draw(st.integers(1, 5))
    n = draw(st.integers(3, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    user = np.sort(rng.integers(0, n_users, n))
    time = rng.integers(0, draw(st.integers(1, 30)), n)
    time = time[np.lexsort((time, user))]
    return make_log(
        user.tolist(),
        rng.integers(0, 8, n).tolist(),
        time.tolist(),
        (rng.random(n) < draw(st.sampled_from([0.3, 0.8, 1.0]))).astype(int).tolist(),
        rng.integers(-1, 3, n).tolist(),
        n_users=n_users + draw(st.integers(0, 2)),
    )


@given(logs(), st.sampled_from(["leave_one_out", "temporal", "given"]))
@settings(max_examples=300, deadline=None, database=None)
def test_nothing_that_is_tested_is_trained_on_or_read(log: Interactions, rule: str) -> None:
    """Holds for every rule: the rows of targets are in no train row and in no history, train and
    valid come before test, and the tokenizer sees items of train rows only."""
    try:
        split = make_split(log, rule, valid_share=0.2, test_share=0.2)
    except DataError:
        assume(False)
    log, offsets, train = split.log, split.log.offsets, split.train
    assert (split.train_end >= offsets[:-1]).all()
    assert (split.train_end <= offsets[1:]).all()
    assert set(np.flatnonzero(split.fit_items)) == set(log.item[train])
    for name, which in (("valid", split.valid), ("test", split.test)):
        assert len(np.unique(which.user)) == len(which)
        for i, (user, end) in enumerate(zip(which.user, which.end, strict=True)):
            targets = which.target_items[which.target_offsets[i] : which.target_offsets[i + 1]]
            assert offsets[user] < end <= offsets[user + 1]  # a history, and his own
            assert end >= split.train_end[user]  # no train row comes after the history
            rows = target_rows(split, int(user), int(end), name)
            assert set(targets) == set(log.item[rows])
            assert len(set(targets)) == len(targets)
            assert (rows >= end).all()
            assert not train[rows].any()
            assert log.positive[rows].all()
    valid_end = dict(zip(split.valid.user, split.valid.end, strict=True))
    for user, end in zip(split.test.user, split.test.end, strict=True):
        assert end >= valid_end.get(user, 0)
    if rule == "temporal":
        time = log.columns["timestamp"]
        assert time[train].max(initial=-1) < split.counts["valid_from"]
        assert time[~train].min(initial=10**9) >= split.counts["valid_from"]
        for which, begin in ((split.valid, "valid_from"), (split.test, "test_from")):
            for user, end in zip(which.user, which.end, strict=True):
                assert time[offsets[user] : end].max() < split.counts[begin]


def target_rows(split: Split, user: int, end: int, name: str) -> Array:
    """The rows that a case asks for, found from the definition of its rule."""
    log = split.log
    mine = np.arange(log.offsets[user], log.offsets[user + 1])
    positives = mine[log.positive[mine]]
    if split.rule == "leave_one_out":
        return positives[-1:] if name == "test" else positives[-2:-1]
    if split.rule == "temporal":
        time = log.columns["timestamp"]
        begin, stop = split.counts["valid_from"], split.counts["test_from"]
        if name == "test":
            begin, stop = stop, int(time.max()) + 1
        return positives[(time[positives] >= begin) & (time[positives] < stop)]
    part = log.columns["split"]
    if name == "valid" and "valid_from_train" in split.counts:
        return positives[positives == end]
    return positives[part[positives] == (2 if name == "test" else 1)]


def test_temporal_equals_a_slow_reference() -> None:
    rng = np.random.default_rng(0)
    user = np.sort(rng.integers(0, 40, 2000))
    time = rng.permutation(2000)
    time = time[np.lexsort((time, user))]
    positive = (rng.random(2000) < 0.4).astype(int)
    item = rng.integers(0, 100, 2000)
    log = make_log(user.tolist(), item.tolist(), time.tolist(), positive.tolist())
    split = make_split(log, "temporal")
    first_valid, first_test = 1600, 1800
    expected = []
    for one in range(40):
        mine = np.flatnonzero(user == one)
        history = [int(item[row]) for row in mine if time[row] < first_test]
        wanted = [int(item[row]) for row in mine if time[row] >= first_test and positive[row]]
        if history and wanted:
            expected.append((one, history, list(dict.fromkeys(wanted))))
    assert cases(split, split.test) == expected
    assert split.train.sum() == first_valid
