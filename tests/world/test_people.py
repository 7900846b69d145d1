"""The users: interests begin, end and come back; what is seen of them tells a little."""

import numpy as np

from onerec.world import WorldConfig
from onerec.world.catalogue import make_catalogue
from onerec.world.people import PAST_EPISODES, SLOTS, active_degree, make_people


def people(**settings):
    config = WorldConfig(n_items=600, n_users=1_500, **settings)
    catalogue = make_catalogue(config)
    return make_people(config, catalogue), catalogue


def test_interests_at_a_day_are_those_that_began_last():
    drawn, _ = people()
    day = np.array([0.0, 7.5, 29.9])
    users = np.array([3, 3, 11])
    held = drawn.interests(users, day)
    for row in range(3):
        for slot in range(SLOTS):
            begun = np.flatnonzero(drawn.start_day[users[row], slot] <= day[row])
            assert held[row, slot] == drawn.exemplar[users[row], slot, begun[-1]]


def test_every_user_holds_interests_from_the_first_day():
    drawn, _ = people()
    assert np.all(np.isneginf(drawn.start_day[:, :, : PAST_EPISODES + 1]))
    assert np.all(drawn.start_day[:, :, PAST_EPISODES + 1 :] > 0)
    assert np.all(np.diff(drawn.start_day[:, :, PAST_EPISODES + 1 :], axis=2) > 0)


def come_back(drawn):
    """Share of the interests that the slot had before the last one."""
    before = [
        (drawn.exemplar[:, :, e, None] == drawn.exemplar[:, :, : e - 1]).any(axis=2)
        for e in range(2, drawn.exemplar.shape[2])
    ]
    return float(np.stack(before, axis=2).mean())


def test_old_interests_come_back_as_often_as_the_setting_says():
    assert come_back(people(old_interest_weight=0.0)[0]) < 0.1
    assert abs(come_back(people(old_interest_weight=0.5)[0]) - 0.5) < 0.08
    assert come_back(people(old_interest_weight=1.0)[0]) == 1.0


def test_history_lengths_are_nearly_exponential():
    drawn, _ = people(mean_history=57.0)
    assert abs(drawn.events.mean() - 57) < 4
    assert abs(np.median(drawn.events) / drawn.events.mean() - 0.71) < 0.06
    assert drawn.events.min() >= 1


def test_what_is_seen_of_a_user_is_weakly_informative():
    drawn, catalogue = people()
    interest = catalogue.category[drawn.exemplar[:, 0, 0]]
    assert 0.4 < (drawn.declared_category == interest).mean() < 0.7
    assert 0.05 < abs(np.corrcoef(drawn.device, drawn.bias)[0, 1]) < 0.4
    degree = active_degree(drawn, np.random.default_rng(0))
    assert 0.3 < np.corrcoef(degree, np.log(drawn.events))[0, 1] < 0.8
