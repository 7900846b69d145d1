"""Sessions by hand, and the half with the least play time."""

import numpy as np
import pytest

from onerec.data.log import Interactions, user_offsets
from onerec.data.sessions import PAUSE_MS, kept_by_rsft, session_of
from onerec.errors import DataError


def make_log(user, time, play=None):
    user = np.array(user, dtype=np.int32)
    columns = {} if time is None else {"timestamp": np.array(time, dtype=np.int64)}
    if play is not None:
        columns["play_ms"] = np.array(play, dtype=np.float32)
    item = np.zeros(len(user), dtype=np.int32)
    n = int(user.max()) + 1
    return Interactions(user, item, user_offsets(user, n), n, 1, columns, item == 0, "every row")


USER = [0, 0, 0, 1, 1, 2]
TIME = [0, PAUSE_MS, 2 * PAUSE_MS + 1, 5, 6, 7]


def test_a_pause_is_half_an_hour():
    assert PAUSE_MS == 1_800_000


def test_a_pause_longer_than_half_an_hour_or_another_user_opens_a_session():
    assert session_of(make_log(USER, TIME)).tolist() == [0, 0, 1, 2, 2, 3]


def test_the_half_with_the_least_play_time_is_dropped():
    log = make_log(USER, TIME, [10, 10, 5, 1, 2, 90])  # sessions: 20, 5, 3, 90
    everything = np.ones(6, dtype=bool)
    assert kept_by_rsft(log, everything).tolist() == [True, True, False, False, False, True]
    assert kept_by_rsft(log, everything, 0.0).all()
    kept = kept_by_rsft(log, everything, 0.75)
    assert kept.tolist() == [False] * 5 + [True]


def test_only_the_chosen_rows_count():
    log = make_log(USER, TIME, [10, 10, 5, 1, 2, 90])
    rows = np.array([False, True, True, True, True, False])  # sessions: 10, 5, 3, none
    assert kept_by_rsft(log, rows).tolist() == [False, True, True, False, False, False]


def test_an_unknown_play_time_counts_as_nothing():
    log = make_log([0, 1], [0, 0], [np.nan, 1])
    assert kept_by_rsft(log, np.ones(2, dtype=bool)).tolist() == [False, True]


def test_refusals():
    rows = np.ones(6, dtype=bool)
    with pytest.raises(DataError, match="no play_ms"):
        kept_by_rsft(make_log(USER, TIME), rows)
    with pytest.raises(DataError, match="need timestamps"):
        session_of(make_log(USER, None))
    with pytest.raises(ValueError, match=r"dropped=1\.0"):
        kept_by_rsft(make_log(USER, TIME, [1] * 6), rows, 1.0)
