"""How people answer: by hand, share by share, and draws that keep to the probabilities."""

import numpy as np

from onerec.world import WorldConfig, make_world
from onerec.world.response import BUTTONS, CLICK_S, LONG_VIEW_S, _dot, _play_ms, _sigmoid


def pairs(world, n, seed=0):
    rng = np.random.default_rng(seed)
    users = rng.integers(world.people.n_users, size=n)
    return users, rng.integers(world.catalogue.n_items, size=n), rng


def test_the_share_of_affinity_that_content_does_not_tell(small_world):
    users, items, rng = pairs(small_world, 20_000)
    held = small_world.people.interests(users, rng.random(len(users)) * 20)
    content, hidden = small_world.model.parts(users, items, held)
    affinity = small_world.model.affinity(users, items, held)
    assert abs(affinity.var() - 1.0) < 0.08
    assert abs(0.3 * hidden.var() / affinity.var() - 0.3) < 0.03
    assert abs(np.corrcoef(content, hidden)[0, 1]) < 0.05


def test_without_the_share_only_content_counts():
    world = make_world(WorldConfig(n_items=500, n_users=50, off_content_share=0.0))
    users, items, _ = pairs(world, 500)
    held = world.people.interests(users, np.zeros(len(users)))
    content, _ = world.model.parts(users, items, held)
    np.testing.assert_allclose(world.model.affinity(users, items, held), content)


def test_affinities_to_all_items_are_those_of_the_pairs(small_world):
    users = np.array([4, 9])
    held = small_world.people.interests(users, np.array([3.0, 8.0]))
    every = small_world.model.all_affinities(users, held)
    n = small_world.catalogue.n_items
    for row in range(2):
        one = small_world.model.affinity(
            np.full(n, users[row]), np.arange(n), np.tile(held[row], (n, 1))
        )
        np.testing.assert_allclose(every[row], one, rtol=2e-3, atol=2e-3)


def test_positive_by_hand(small_world):
    users, items, _ = pairs(small_world, 50)
    zero = np.zeros(50, dtype=np.int64)
    affinity = np.linspace(-2, 2, 50)
    p = small_world.model.probabilities(users, items, affinity, zero, zero)
    positive = small_world.model.positive(users, items, affinity, zero, zero)
    for row in range(50):
        silent = np.prod([1 - p[name][row] / p["click"][row] for name in BUTTONS])
        clicked_only = p["click"][row] - p["long_view"][row]
        np.testing.assert_allclose(positive[row], p["long_view"][row] + clicked_only * (1 - silent))


def test_repeats_and_more_of_the_same_satiate(small_world):
    users, items, _ = pairs(small_world, 100)
    zero = np.zeros(100, dtype=np.int64)
    fresh = small_world.model.positive(users, items, np.zeros(100), zero, zero)
    again = small_world.model.positive(users, items, np.zeros(100), zero + 1, zero)
    third = small_world.model.positive(users, items, np.zeros(100), zero + 2, zero)
    same = small_world.model.positive(users, items, np.zeros(100), zero, zero + 3)
    assert np.all(again < fresh)
    assert np.all(third < again)
    assert np.all(same < fresh)


def test_draws_follow_the_probabilities(small_world):
    users, items, rng = pairs(small_world, 50_000)
    answer = small_world.respond(users, items, rng)
    for name, drawn in answer.draws.items():
        expected = answer.probabilities[name].mean()
        deviation = np.sqrt(expected / len(users))
        assert abs(drawn.mean() - expected) < 5 * deviation, name


def test_behaviours_agree_with_each_other_and_with_the_play_time(small_world):
    users, items, rng = pairs(small_world, 20_000)
    answer = small_world.respond(users, items, rng)
    click, long_view = answer.draws["click"], answer.draws["long_view"]
    seconds = small_world.catalogue.duration_ms[items] / 1000
    play = answer.play_ms / 1000
    assert not (long_view & ~click).any()
    assert not (answer.draws["dislike"] & click).any()
    assert not any((answer.draws[name] & ~click).any() for name in BUTTONS)
    assert np.all(play[long_view] >= np.minimum(LONG_VIEW_S, seconds)[long_view] - 0.01)
    assert np.all(play[click] >= np.minimum(CLICK_S, seconds)[click] - 0.01)
    assert np.all(play[~click] < np.minimum(CLICK_S, seconds)[~click])
    assert np.all(play >= 0)


def test_play_time_by_hand():
    # 100 s long, P(click) .5, P(long view) .3: one draw in each class.
    p = {"click": np.full(4, 0.5), "long_view": np.full(4, 0.3)}
    watched = np.array([0.95, 0.4, 0.299, 0.01])
    play = _play_ms(np.random.default_rng(0), watched, p, np.full(4, 100_000)) / 1000
    assert play[0] == 0  # far from a click: not started
    np.testing.assert_allclose(play[1], CLICK_S + (LONG_VIEW_S - CLICK_S) * 0.5, atol=0.01)
    assert LONG_VIEW_S <= play[2] < LONG_VIEW_S + 0.1  # only just a long view
    assert play[3] >= 100  # the end was seen


def test_sigmoid():
    np.testing.assert_allclose(_sigmoid(np.array([0.0, np.log(3)])), [0.5, 0.75])


def test_inner_products_are_those_of_a_library():
    rng = np.random.default_rng(0)
    one, other = rng.standard_normal((5, 7)), rng.standard_normal((5, 9))
    i, j = rng.integers(7, size=20), rng.integers(9, size=20)
    expected = np.einsum("wb,wb->b", one[:, i], other[:, j])
    np.testing.assert_allclose(_dot(one, i, other, j), expected)


def test_the_expected_play_time_is_the_mean_of_what_is_drawn():
    from onerec.world.response import expected_play_ms

    rng = np.random.default_rng(3)
    for seconds in (5.0, 12.0, 90.0, 400.0):
        for click, long_view in ((0.5, 0.3), (0.9, 0.85), (0.05, 0.01)):
            n = 400_000
            p = {"click": np.full(n, click), "long_view": np.full(n, long_view)}
            duration = np.full(n, int(1000 * seconds))
            drawn = _play_ms(rng, rng.random(n), p, duration) + 0.5  # whole milliseconds, cut off
            mean = expected_play_ms({k: v[:1] for k, v in p.items()}, duration[:1])[0]
            error = drawn.std() / np.sqrt(n)
            assert abs(drawn.mean() - mean) < 5 * error
