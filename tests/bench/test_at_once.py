"""Rows of a user at one moment: the same rows, the first as it was logged."""

import numpy as np
import torch

from onerec.assembly import setting_of
from onerec.bench.at_once import AtOnce
from onerec.rewards import RewardModel
from onerec.runs import open_run


def test_rows_of_a_user_are_ranked_at_one_moment(aligned):
    """The first row of a user has the score it has as logged; a model that knows all gets 1."""
    run = open_run("first", aligned)
    reward = RewardModel.load(run, setting_of(run), torch.device("cpu"))
    rows = reward.exposures.test_rows()
    at_once = AtOnce(reward, rows)
    log = reward.exposures.split.log
    assert at_once.items[at_once.of_row, at_once.place].tolist() == log.item[rows].tolist()
    assert at_once.user[at_once.of_row].tolist() == log.user[rows].tolist()
    first = np.flatnonzero(at_once.place == 0)
    np.testing.assert_allclose(
        at_once.scores["click"][first], reward.logged(rows[first])["click"], atol=1e-6
    )
    yes, known = reward.exposures.outcomes(rows)
    assert known[:, 0].all()
    assert at_once.gauc(0, yes[:, 0].astype(float)) == 1.0

    perfect = yes[:, 0].astype(float)
    told = at_once.difference(0, perfect, -perfect)
    assert told == {"mean": 1.0, "low": 1.0, "high": 1.0}
    noise = np.random.default_rng(0).random(len(rows))
    told = at_once.difference(0, perfect, noise)
    gap = 1.0 - at_once.gauc(0, noise)
    np.testing.assert_allclose(told["mean"], gap, atol=1e-5)
    assert told["low"] < gap < told["high"]

    class Sum:
        def predict(self, table):
            return table.sum(1)

    assert at_once.of(Sum()).shape == rows.shape
