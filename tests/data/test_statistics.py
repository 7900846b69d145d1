"""Counts of what came before, against slow loops; a row never counts itself."""

import numpy as np

from onerec.data.log import Interactions, user_offsets
from onerec.data.statistics import PRIOR, Statistics

USERS, ITEMS = 6, 5
NAMES = ("click", "like")


def make_log(seed=0, rows=80, timed=True):
    rng = np.random.default_rng(seed)
    user = np.sort(rng.integers(USERS, size=rows)).astype(np.int32)
    time = np.concatenate(
        [np.sort(rng.permutation(1_000)[: (user == u).sum()]) for u in range(USERS)]
    )
    columns = {name: rng.integers(-1, 2, size=rows).astype(np.int8) for name in NAMES}
    if timed:
        columns["timestamp"] = time.astype(np.int64)
    item = rng.integers(ITEMS, size=rows).astype(np.int32)
    offsets = user_offsets(user, USERS)
    return Interactions(user, item, offsets, USERS, ITEMS, columns, item >= 0, "every row")


def slow(log, rows, usual):
    """log(1 + n) and smoothed log-odds against the usual, of the chosen rows."""
    found = [np.log1p(len(rows))]
    for name, rate in zip(NAMES, usual, strict=True):
        answers = log.columns[name][rows]
        yes, known = (answers == 1).sum(), (answers >= 0).sum()
        smooth = (yes + PRIOR * rate) / (known + PRIOR)
        found.append(np.log(smooth / (1 - smooth)) - np.log(rate / (1 - rate)))
    return np.array(found)


def test_item_counts_are_those_of_earlier_training_rows():
    log = make_log()
    train = np.random.default_rng(1).random(len(log)) < 0.7
    found = Statistics(log, train, NAMES)
    time = log.columns["timestamp"]
    got = found.item_at(np.arange(len(log)))
    for row in range(len(log)):
        same = train & (log.item == log.item[row])
        rows = np.flatnonzero(same & (time < time[row])) if train[row] else np.flatnonzero(same)
        tied = train[row] and (same & (time == time[row])).sum() > 1
        if not tied:
            assert np.allclose(got[row], slow(log, rows, found.usual), atol=1e-5)
    for item in range(ITEMS):
        rows = np.flatnonzero(train & (log.item == item))
        assert np.allclose(found.item[item], slow(log, rows, found.usual), atol=1e-5)


def test_user_counts_are_those_of_the_rows_before_the_end():
    log = make_log(2)
    found = Statistics(log, np.ones(len(log), dtype=bool), NAMES)
    user = np.array([0, 2, 5, 5])
    end = np.array([log.offsets[0], log.offsets[3], log.offsets[5] + 3, log.offsets[6]])
    got = found.user_at(user, end)
    for row, (u, e) in enumerate(zip(user, end, strict=True)):
        rows = np.arange(log.offsets[u], e)
        assert np.allclose(got[row], slow(log, rows, found.usual), atol=1e-5)


def test_a_row_does_not_know_its_own_outcome():
    """The bug that makes a ranker look perfect in training and useless in serving."""
    log, other = make_log(3), make_log(3)
    row = int(np.flatnonzero(log.columns["click"] == 0)[0])
    other.columns["click"][row] = 1
    train = np.ones(len(log), dtype=bool)
    one, two = Statistics(log, train, NAMES), Statistics(other, train, NAMES)
    two.usual = one.usual  # what everybody does shifts a little with any row
    again = Statistics(other, train, NAMES)
    counts = np.abs(one.item_at(np.array([row])) - again.item_at(np.array([row])))
    assert counts.max() < 0.02  # the usual rate alone
    end = np.array([row])
    user = log.user[end]
    assert np.abs(one.user_at(user, end) - again.user_at(user, end)).max() < 0.02


def test_without_times_the_place_in_the_history_stands_in():
    log = make_log(4, timed=False)
    found = Statistics(log, np.ones(len(log), dtype=bool), NAMES)
    first = log.offsets[:-1][np.diff(log.offsets) > 0]
    assert (found.item_at(first)[:, 0] <= np.log1p(USERS)).all()
    assert np.isfinite(found.item_at(np.arange(len(log)))).all()


def test_an_unknown_item_is_as_usual():
    log = make_log(5)
    train = log.item != 3
    assert np.allclose(Statistics(log, train, NAMES).item[3], 0.0)
