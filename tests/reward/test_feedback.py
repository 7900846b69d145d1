"""Play times among plays of videos about as long, by hand and against a loop."""

import numpy as np
import pytest

from onerec.reward.feedback import PlayQuantiles, duration_bucket, feedback_advantage


def test_each_bucket_is_twice_as_long() -> None:
    seconds = np.array([0, 0.9, 1, 2.9, 3, 6.9, 7, 60])
    assert duration_bucket(seconds * 1000).tolist() == [0, 0, 1, 1, 2, 2, 3, 5]
    assert duration_bucket(np.array([-5.0])).tolist() == [0]


def test_quantiles_by_hand() -> None:
    """User 7 has three plays of videos of 3 to 7 s; two are enough here."""
    user = np.array([7, 7, 7, 8])
    made = PlayQuantiles(enough=2).fit(user, np.full(4, 4_000), np.array([1000, 2000, 3000, 500]))
    query = np.array([7, 7, 7, 7])
    q = made.quantile(query, np.full(4, 5_000), np.array([500, 1000, 2500, 9000]))
    assert q.tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])
    few = made.quantile(np.array([8, 9]), np.full(2, 5_000), np.array([500, 1500]))
    assert few.tolist() == pytest.approx([1 / 4, 2 / 4])  # everybody's four plays
    unseen = made.quantile(np.array([7, 7]), np.array([100, 900_000]), np.array([50, 50]))
    assert unseen.tolist() == [0.5, 0.5]


def test_quantiles_equal_a_loop() -> None:
    g = np.random.default_rng(0)
    past = [g.integers(0, 6, 400), g.integers(1, 60, 400) * 1000, g.integers(0, 30, 400) * 500]
    new = [g.integers(0, 8, 90), g.integers(1, 200, 90) * 1000, g.integers(0, 40, 90) * 500]
    made = PlayQuantiles(enough=15).fit(*past).quantile(*new)
    old_bucket, new_bucket = duration_bucket(past[1]), duration_bucket(new[1])
    for i in range(90):
        same = old_bucket == new_bucket[i]
        own = same & (past[0] == new[0][i])
        plays = past[2][own if own.sum() >= 15 else same]
        wanted = (plays <= new[2][i]).mean() if len(plays) else 0.5
        assert made[i] == pytest.approx(wanted)


def test_the_top_quarter_is_good_and_a_dislike_is_bad() -> None:
    q = np.array([0.1, 0.9, 0.5, 1.0, 0.2, 0.3, 0.4, 0.95])
    dislike = np.zeros(8, dtype=bool)
    dislike[[0, 3]] = True
    made = feedback_advantage(q, dislike)
    assert made.tolist() == [-1, 0, 0, -1, 0, 0, 0, 1]
    assert feedback_advantage(np.zeros(0), np.zeros(0, dtype=bool)).tolist() == []
    assert not feedback_advantage(np.full(8, 0.5), np.zeros(8, dtype=bool)).any()  # all alike


def test_plays_in_order_are_judged_by_what_came_before() -> None:
    """One bucket, two plays are enough; until then everybody's five stand in."""
    user = np.array([7, 7, 7, 7, 8])
    play, length = np.array([2000, 1000, 1500, 9000, 500]), np.full(5, 4_000)
    made = PlayQuantiles(enough=2).fit(user, length, play).in_order(user, length, play)
    assert made.tolist() == pytest.approx([4 / 5, 2 / 5, 1 / 2, 1, 1 / 5])


def test_plays_in_order_equal_a_loop() -> None:
    g = np.random.default_rng(1)
    user, length = g.integers(0, 6, 500), g.integers(1, 60, 500) * 1000
    play = g.integers(0, 30, 500) * 500
    made = PlayQuantiles(enough=9).fit(user, length, play).in_order(user, length, play)
    bucket = duration_bucket(length)
    for i in range(500):
        same = bucket == bucket[i]
        own = same & (user == user[i]) & (np.arange(500) < i)
        plays = play[own if own.sum() >= 9 else same]
        assert made[i] == pytest.approx((plays <= play[i]).mean())


def test_a_quantile_that_is_not_known_moves_no_threshold() -> None:
    q, dislike = np.array([np.nan, 0.1, 0.2, 0.3, np.nan]), np.array([0, 0, 0, 0, 1], dtype=bool)
    assert feedback_advantage(q, dislike).tolist() == [0, 0, 0, 1, -1]
    assert feedback_advantage(q[[0, 4]], dislike[[0, 4]]).tolist() == [0, -1]
