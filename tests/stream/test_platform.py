"""Who answers: the same luck in every arm, truth beside what was drawn, and a log played back."""

import numpy as np
import pytest
import toy_home

from onerec.data.dataset import open_dataset
from onerec.data.sources.world import make_world_dataset, world_of
from onerec.errors import DataError
from onerec.stream.growing import grown
from onerec.stream.platform import ReplayPlatform, WorldPlatform
from onerec.world import WorldConfig


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    home = tmp_path_factory.mktemp("platform")
    config = WorldConfig(n_items=500, n_users=80, mean_history=20)
    return make_world_dataset("w", config, home)


def lists_of(users, k=4, seed=0):
    return np.random.default_rng(seed).integers(500, size=(len(users), k))


def test_the_same_people_come_in_every_arm_and_others_tomorrow(world):
    one, two = (WorldPlatform(world_of(world), seed=3, share=0.25) for _ in range(2))
    assert np.array_equal(one.visitors(world.log, 5), two.visitors(world.log, 5))
    assert not np.array_equal(one.visitors(world.log, 5), one.visitors(world.log, 6))
    another = WorldPlatform(world_of(world), seed=4, share=0.25)
    assert not np.array_equal(one.visitors(world.log, 5), another.visitors(world.log, 5))
    present = (np.diff(world.log.offsets) > 0).sum()
    assert len(one.visitors(world.log, 5)) == round(0.25 * present)


def test_luck_belongs_to_the_place_and_not_to_the_item(world):
    """Common random numbers: an item that both arms show at one place is answered alike."""
    platform = WorldPlatform(world_of(world), seed=3, share=0.25)
    users = platform.visitors(world.log, 0)
    a, b = lists_of(users), lists_of(users, seed=1)
    b[:, 0] = a[:, 0]
    one, two = (platform.answer(world.log, users, lists, 0).events for lists in (a, b))
    first = one["place"] == 0
    for name in ("click", "long_view", "play_ms", "timestamp"):
        assert np.array_equal(one[name][first], two[name][first])
    assert not np.array_equal(one["play_ms"], two["play_ms"])


def test_what_is_drawn_is_the_truth_on_average(world):
    known = world_of(world)
    users = np.arange(world.n_users)
    lists = lists_of(users, k=10)
    drawn, true = [], []
    for seed in range(30):
        values = (
            WorldPlatform(known, seed=seed, share=1.0).answer(world.log, users, lists, 0).values
        )
        drawn.append(values["watch_s"].mean())
        true.append(values["true_watch_s"].mean())
    assert np.ptp(true) < 1e-9  # no luck in it
    error = np.std(drawn) / np.sqrt(len(drawn))
    # the truth takes each item as the first of its topic, so it is a little above what is drawn
    assert abs(np.mean(drawn) - true[0]) < 5 * error + 0.02 * true[0]


def test_a_second_showing_tires(world):
    platform = WorldPlatform(world_of(world), seed=0, share=1.0)
    users = np.array([2, 5])
    lists = lists_of(users)
    first = platform.answer(world.log, users, lists, 0)
    log = grown(world.log, first.events)
    again = platform.answer(log, users, lists, 1)
    assert (again.values["true_long_view"] < first.values["true_long_view"]).all()


def test_an_empty_place_shows_nothing(world):
    platform = WorldPlatform(world_of(world), seed=0, share=1.0)
    lists = np.array([[3, -1], [-1, -1]])
    answers = platform.answer(world.log, np.array([0, 1]), lists, 0)
    assert answers.events["item"].tolist() == [3]
    assert answers.values["watch_s"][1] == 0


def test_a_log_is_played_back_by_days(world):
    log = world.log
    cut = np.quantile(log.columns["timestamp"], 0.8)
    train = log.columns["timestamp"] < cut
    platform = ReplayPlatform(log, train)
    assert sum(len(day) for day in platform.days) == (~train).sum()
    past = log.take(train)
    users = platform.visitors(past, 0)
    rows = platform.days[0]
    liked = rows[log.positive[rows]]
    user = int(next(u for u in log.user[liked] if u in users))
    lists = np.full((len(users), 2), -1)
    lists[np.searchsorted(users, user), 0] = log.item[liked][log.user[liked] == user][0]
    answers = platform.answer(past, users, lists, 0)
    assert answers.values["hits"].sum() == 1
    assert len(answers.events["user"]) == len(rows)
    with pytest.raises(DataError, match="days to play back"):
        platform.answer(past, users, lists, 99)


def test_a_log_without_times_is_refused(tmp_path):
    toy_home.make_dataset(tmp_path)
    log = open_dataset("toy", tmp_path).log
    log.columns["exact_time"] = np.zeros(len(log), dtype=np.int8)
    with pytest.raises(DataError, match="no exact times"):
        ReplayPlatform(log, np.ones(len(log), dtype=bool))
