"""The whole: the same bytes for the same seed, the log in order, truth that can be asked."""

import numpy as np
import pytest

from onerec.world import World, WorldConfig, make_world
from onerec.world.exposure import SKIP_SEEN


def small(**settings):
    return make_world(WorldConfig(n_items=500, n_users=60, **settings))


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_log():
    first, again, other = (small(seed=seed).simulate() for seed in (1, 1, 2))
    assert all(first[name].tobytes() == again[name].tobytes() for name in first)
    assert first["item"].tobytes() != other["item"].tobytes()


def test_the_log_stands_by_user_and_time(small_world, small_log):
    same = np.diff(small_log["user"]) == 0
    assert np.all(np.diff(small_log["user"]) >= 0)
    assert np.all(np.diff(small_log["timestamp"])[same] >= 0)
    start = small_world.config.start_ms
    assert small_log["timestamp"].min() >= start
    assert len({len(column) for column in small_log.values()}) == 1
    assert np.array_equal(np.bincount(small_log["user"]), small_world.people.events)


def test_state_restores_the_world(small_world, small_log):
    copy = World.from_state(small_world.config, small_world.state())
    log = copy.simulate()
    assert all(np.array_equal(log[name], small_log[name]) for name in log)
    users, items = np.arange(20), np.arange(20)
    one = small_world.respond(users, items, np.random.default_rng(3))
    two = copy.respond(users, items, np.random.default_rng(3))
    assert np.array_equal(one.play_ms, two.play_ms)


def test_respond_answers_at_any_time(small_world):
    users, items = np.zeros(5, dtype=int), np.arange(5)
    rng = np.random.default_rng(0)
    early = small_world.respond(users, items, rng, days=0.0)
    late = small_world.respond(users, items, rng)
    assert set(early.probabilities) == set(early.draws) == set(late.draws)
    assert not np.array_equal(early.probabilities["click"], late.probabilities["click"])
    tired = small_world.respond(users, items, rng, repeats=np.full(5, 3))
    assert np.all(tired.probabilities["click"] < late.probabilities["click"])


def test_next_positive_is_exposure_times_response(small_world):
    users, days = np.array([7]), np.array([10.0])
    chance = small_world.next_positive(users, days)[0]
    np.testing.assert_allclose(chance.sum(), 1.0, rtol=1e-5)
    held = small_world.people.interests(users, days)
    shown = small_world.policy.probabilities(users, days, held)[0]
    n = len(shown)
    zero = np.zeros(n, dtype=np.int64)
    who, what = np.full(n, 7), np.arange(n)
    affinity = small_world.model.affinity(who, what, np.tile(held, (n, 1)))
    joint = shown * small_world.model.positive(who, what, affinity, zero, zero)
    np.testing.assert_allclose(chance, joint / joint.sum(), rtol=2e-3, atol=1e-7)


def test_what_was_seen_is_less_likely(small_world):
    users, days = np.array([7, 8]), np.array([10.0, 10.0])
    best = int(small_world.oracle(users, 1, days)[1, 0])
    before = small_world.next_positive(users, days)
    after = small_world.next_positive(users, days, (np.array([1]), np.array([best])))
    assert after[1, best] < before[1, best] * 2 * (1 - SKIP_SEEN)
    np.testing.assert_array_equal(after[0], before[0])


def test_oracle_ranks_by_that_chance_and_beats_popularity_and_random(small_world, small_log):
    users = np.arange(small_world.people.n_users)
    days = np.full(len(users), 15.0)
    ranked = small_world.oracle(users, 10, days)
    chance = small_world.next_positive(users, days)
    taken = np.take_along_axis(chance, ranked, axis=1)
    assert np.all(np.diff(taken, axis=1) <= 0)
    np.testing.assert_allclose(taken[:, 0], chance.max(axis=1))
    popular = np.argsort(-np.bincount(small_log["item"], minlength=chance.shape[1]))[:10]
    by_chance = taken.sum(axis=1).mean()
    assert by_chance > 1.5 * chance[:, popular].sum(axis=1).mean()
    drawn = small_world.random(users, 10, np.random.default_rng(0))
    assert all(len(set(row)) == 10 for row in drawn.tolist())
    assert by_chance > 5 * np.take_along_axis(chance, drawn, axis=1).sum(axis=1).mean()


def test_the_oracle_ranks_what_comes_next(small_world, small_log):
    # Each user's last positive, asked at its own time with what stood before as seen.
    users, days, targets, rows, items = [], [], [], [], []
    for user in range(small_world.people.n_users):
        mine = np.flatnonzero(small_log["user"] == user)
        positive = mine[small_log["long_view"][mine]]
        if len(positive):
            last = positive[-1]
            rows += [len(users)] * int(last - mine[0])
            items += small_log["item"][mine[0] : last].tolist()
            users.append(user)
            time = small_log["timestamp"][last] - small_world.config.start_ms
            days.append(time / 86_400_000)
            targets.append(small_log["item"][last])
    seen = np.array(rows), np.array(items)
    ranked = small_world.oracle(np.array(users), 10, np.array(days), seen)
    hit = (ranked == np.array(targets)[:, None]).any(axis=1).mean()
    assert hit > 0.15  # ten at random of 600 hit 0.017


@pytest.mark.parametrize("column", ["click", "long_view", "like"])
def test_every_behaviour_varies(small_log, column):
    assert 0 < small_log[column].mean() < 1


def test_the_truth_is_what_answers_are_drawn_from(small_world):
    users, days = np.array([3, 8, 8]), np.array([2.0, 5.0, 9.0])
    items = np.array([[1, 7], [1, 1], [30, 2]])
    repeats = np.array([[0, 2], [1, 0], [0, 0]])
    truth = small_world.truth(users, items, days, repeats)
    said = small_world.respond(
        np.repeat(users, 2),
        items.ravel(),
        np.random.default_rng(0),
        days=np.repeat(days, 2),
        repeats=repeats.ravel(),
    )
    for name, probability in said.probabilities.items():
        np.testing.assert_allclose(truth[name].ravel(), probability)
    assert (truth["positive"] >= truth["long_view"]).all()
    assert truth["long_view"][1, 0] < truth["long_view"][1, 1]  # had it once before
    assert (truth["play_ms"] > 0).all()
