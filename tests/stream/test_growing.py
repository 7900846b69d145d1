"""A grown log is the log that would have been written at once."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import toy_home

from onerec.assembly import Setting
from onerec.data.dataset import open_dataset
from onerec.data.snapshots import make_snapshots
from onerec.stream.growing import cases_at_the_end, grown, setting_with


@pytest.fixture
def setting(tmp_path):
    toy_home.make_dataset(tmp_path)
    return Setting.of(toy_home.make_recipe(), open_dataset("toy", tmp_path))


def rows(log, chosen):
    return {
        "user": log.user[chosen],
        "item": log.item[chosen],
        **{name: column[chosen] for name, column in log.columns.items()},
    }


def test_taking_events_out_and_giving_them_back_changes_nothing(setting):
    log = setting.dataset.log
    later = log.columns["timestamp"] > np.median(log.columns["timestamp"])
    again = grown(log.take(~later), rows(log, later))
    assert np.array_equal(again.user, log.user)
    assert np.array_equal(again.item, log.item)
    assert np.array_equal(again.offsets, log.offsets)
    assert np.array_equal(again.positive, log.positive)
    for name, column in log.columns.items():
        np.testing.assert_array_equal(again.columns[name], column)


def test_what_new_events_do_not_say_is_unknown(setting):
    log = setting.dataset.log
    new = {"user": np.array([3]), "item": np.array([5]), "timestamp": np.array([2**60])}
    more = grown(log, new)
    assert len(more) == len(log) + 1
    last = more.offsets[4] - 1
    assert (more.user[last], more.item[last]) == (3, 5)
    assert more.columns["like"][last] == -1
    assert not more.positive[last]


def test_all_rows_of_a_grown_log_may_be_trained_on_and_nobody_is_tested(setting):
    over = setting_with(setting, setting.dataset.log)
    assert over.split.train.all()
    assert len(over.split.test) == len(over.split.valid) == 0
    assert over.features.vocabulary((4, 4), 30) == setting.features.vocabulary((4, 4), 30)


def test_a_lifelong_history_stays_what_it_was_when_the_log_grows(tmp_path):
    """Snapshots hold the first so many events of a user, which new ones do not change."""
    toy_home.make_dataset(tmp_path, shortest=22)
    recipe = toy_home.make_recipe(toy_home.LIFELONG)
    setting = Setting.of(recipe, open_dataset("toy", tmp_path))
    log, features = setting.dataset.log, setting.features
    vectors = torch.randn(log.n_items, 4, generator=torch.Generator().manual_seed(0))
    snapshots = make_snapshots(
        log,
        features.item,
        features.event,
        np.ones(log.n_items),
        vectors,
        slice(0, log.n_users),
        limit=8,
        length=12,
    )
    setting = replace(setting, snapshots=snapshots)
    rng = np.random.default_rng(0)
    user = rng.integers(0, log.n_users, 300)
    new = {"user": user, "item": rng.integers(0, 30, 300), "timestamp": 2**50 + np.arange(300)}
    over = setting_with(setting, grown(log, new))
    someone = torch.tensor([5, 17, 30])
    held = torch.tensor([16, 21, 22])
    before = setting.contexts("cpu").batch(someone, torch.from_numpy(log.offsets)[someone] + held)
    begin = torch.from_numpy(over.split.log.offsets)[someone]
    after = over.contexts("cpu").batch(someone, begin + held)
    assert int((before.lifelong.item > 0).sum()) > 10
    for name, column in vars(after.lifelong).items():
        assert getattr(before.lifelong, name).equal(column), name


def test_a_visit_knows_everything_that_came_before(setting):
    log = setting.dataset.log
    cases = cases_at_the_end(log, np.array([0, 7]))
    assert cases.end.tolist() == [log.offsets[1], log.offsets[8]]
    assert len(cases.target_items) == 0
