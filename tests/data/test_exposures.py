"""Pairs from the log: what is known at the time, and which rows are whose."""

import numpy as np
import pytest
import torch
import toy_home

from onerec.assembly import Setting
from onerec.data.dataset import open_dataset
from onerec.data.exposures import ENOUGH, ExposureBatches, Exposures, learnable, with_positive

NAMES = ("click", "like")


@pytest.fixture
def setting(tmp_path):
    toy_home.make_dataset(tmp_path)
    return Setting.of(toy_home.make_recipe(), open_dataset("toy", tmp_path))


@pytest.fixture
def exposures(setting):
    return Exposures(setting.contexts("cpu"), setting.split, NAMES)


def test_a_pair_holds_what_was_shown_and_what_came_of_it(setting, exposures):
    log = setting.split.log
    rows = exposures.training_rows()[:20]
    pairs = exposures.rows(rows)
    assert (pairs.items[:, 0].numpy() - 1 == log.item[rows]).all()
    like = log.columns["like"][rows]
    assert pairs.known[:, 0, 1].tolist() == (like >= 0).tolist()
    assert pairs.label[:, 0, 1].bool().tolist() == (like == 1).tolist()
    newest = pairs.batch.short.item[:, :].gather(
        1, ((pairs.batch.short.item > 0).sum(1, keepdim=True) - 1)
    )
    assert (newest[:, 0].numpy() - 1 == log.item[rows - 1]).all()  # the event before, not this one


def test_a_candidate_has_the_features_of_its_moment(setting, exposures):
    user = np.array([0, 3])
    end = setting.split.log.offsets[user + 1]
    items = torch.tensor([[4, -1, 7], [2, 2, 0]])
    pairs = exposures.candidates(user, end, items)
    assert pairs.items.tolist() == [[5, 0, 8], [3, 3, 1]]
    table = torch.from_numpy(exposures.statistics.item)
    assert pairs.item_statistics[0, 0].equal(table[4])
    assert pairs.item_statistics[0, 1].abs().sum() == 0
    assert pairs.label.shape == (2, 3, 0)


def test_training_rows_stand_before_valid_rows_and_those_before_test(setting, exposures):
    split = setting.split
    train, valid = exposures.training_rows(), exposures.valid_rows()
    assert split.train[train].all()
    assert not split.train[valid].any()
    ends = dict(zip(split.test.user.tolist(), split.test.end.tolist(), strict=True))
    assert all(row < ends[int(split.log.user[row])] for row in valid)
    assert len(exposures.valid_rows(5)) == 5


def test_batches_are_a_function_of_the_step(exposures):
    one, two = (ExposureBatches(exposures, 16, seed=3) for _ in range(2))
    assert one(7).items.equal(two(7).items)
    assert not one(7).items.equal(one(8).items)


def test_only_what_has_both_outcomes_can_be_learned(setting):
    log = setting.split.log
    log.columns["follow"] = np.zeros(len(log), dtype=np.int8)
    log.columns["forward"] = np.full(len(log), -1, dtype=np.int8)
    log.columns["forward"][: 2 * ENOUGH] = [0, 1] * ENOUGH
    found = learnable(log, np.ones(len(log), dtype=bool))
    assert found.names == ("click", "like", "forward")
    assert "0 events with it" in found.left_out["follow"]


def test_ratings_have_one_behaviour_the_positive(setting):
    log = setting.split.log
    assert with_positive(log) is log
    for name in NAMES:
        del log.columns[name]
    columns = with_positive(log).columns
    assert (columns["positive"] == log.positive).all()


def test_test_rows_are_those_that_no_part_before_has(setting, exposures):
    test = exposures.test_rows()
    earlier = {*exposures.training_rows().tolist(), *exposures.valid_rows().tolist()}
    assert len(test) > 0
    assert not earlier & set(test.tolist())
    ends = dict(zip(setting.split.test.user.tolist(), setting.split.test.end.tolist(), strict=True))
    assert all(row >= ends[int(setting.split.log.user[row])] for row in test)
