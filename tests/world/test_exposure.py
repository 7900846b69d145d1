"""The logging policy: its probabilities are those of its draws."""

import numpy as np

from onerec.world.exposure import REDRAWS, SKIP_SEEN, Groups, count_before, repeats


def test_count_before_by_hand():
    assert count_before(np.array([7, 3, 7, 7, 3])).tolist() == [0, 0, 1, 2, 1]
    assert count_before(np.array([], dtype=np.int64)).tolist() == []


def test_repeats_count_the_same_user_and_item():
    user, item = np.array([0, 0, 1, 0]), np.array([5, 5, 5, 4])
    assert repeats(user, item, 10).tolist() == [0, 1, 0, 0]


def test_a_group_draws_its_items_by_the_attention_of_the_day():
    attention = np.array([[1.0, 2.0, 3.0, 0.0], [0.0, 5.0, 0.0, 5.0]])
    groups = Groups.by(np.array([1, 0, 1, 0]), 2, attention)
    uniform = np.array([0.1, 0.3, 0.2, 0.9])
    day, group = np.array([0, 0, 1, 1]), np.array([1, 1, 0, 0])
    # Day 0, group 1: item 0 has 1 of 4, item 2 has 3. Day 1, group 0: items 1 and 3 alike.
    assert groups.draw(day, group, uniform).tolist() == [0, 2, 1, 3]


def test_a_group_without_items_that_day_draws_from_all():
    attention = np.array([[1.0, 1.0, 0.0]])
    groups = Groups.by(np.array([0, 0, 1]), 2, attention)
    drawn = groups.draw(np.array([0, 0]), np.array([1, 1]), np.array([0.2, 0.8]))
    assert sorted(drawn.tolist()) == [0, 1]


def test_probabilities_are_the_frequencies_of_the_draws(small_world):
    policy, people = small_world.policy, small_world.people
    user, day, n = 17, 6, 60_000
    users = np.full(n, user)
    rng = np.random.default_rng(1)
    held = people.interests(users, np.full(n, float(day)))
    intent = np.searchsorted([0.5, 0.8], rng.random(n))
    drawn = policy._draw_once(rng, users, np.full(n, day), held, intent)
    seen = np.bincount(drawn, minlength=small_world.catalogue.n_items) / n
    expected = policy.probabilities(np.array([user]), np.array([float(day)]), held[:1])[0]
    np.testing.assert_allclose(expected.sum(), 1.0, rtol=1e-5)
    assert np.abs(seen - expected).sum() < 0.08  # total variation of 60,000 draws of 600 items
    assert seen[expected == 0].sum() == 0


def test_the_policy_avoids_what_the_user_has_had(small_world):
    policy, people, n = small_world.policy, small_world.people, 40
    user = np.repeat(np.arange(people.n_users), n)
    day = np.full(len(user), 5)
    held = people.interests(user, day.astype(np.float64))
    intent = np.zeros(len(user), dtype=np.int64)
    share = [
        (
            repeats(user, draw(rng, user, day, held, intent), small_world.catalogue.n_items) > 0
        ).mean()
        for draw, rng in (
            (policy._draw_once, np.random.default_rng(0)),
            (policy.draw, np.random.default_rng(0)),
        )
    ]
    assert share[1] < 0.6 * share[0]
    assert SKIP_SEEN > 0.5
    assert REDRAWS >= 1


def test_nothing_is_shown_before_it_is_published(small_world, small_log):
    day = (small_log["timestamp"] - small_world.config.start_ms) // 86_400_000
    published = small_world.catalogue.published_day[small_log["item"]]
    late = published > day + 1.0  # the policy knows days, a session may pass midnight
    assert not late.any()
