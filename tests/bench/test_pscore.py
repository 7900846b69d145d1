"""P-Score beside trees: same rows, same features, and the sums of the comparison."""

import json

import numpy as np
import pytest
import torch
import toy_home

from onerec.assembly import setting_of
from onerec.bench import pscore
from onerec.bench.at_once import AtOnce
from onerec.bench.trees import Table
from onerec.data.dataset import open_dataset
from onerec.pipeline import run_stage
from onerec.rewards import RewardModel, candidate_features
from onerec.runs import open_run

lightgbm = pytest.importorskip("lightgbm")


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    from onerec.assembly import Setting

    home = tmp_path_factory.mktemp("pscore")
    toy_home.make_dataset(home)
    recipe = toy_home.make_recipe({"reward.width": "8"})
    run_stage("tokenize", "p", recipe=recipe, dataset="toy", home=home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pscore, "PSCORES", ((10, 8, 0.1, 1e-3), (5, 8, 0.1, 1e-3)))
        patch.setattr(pscore, "ENOUGH", 10)
        patch.setattr(pscore, "HEARD", 5)
        return pscore.compare(home, Setting.of(recipe, open_dataset("toy", home)), 2)


def test_every_behaviour_has_both_models_on_the_same_rows(compared):
    for line in compared["behaviours"].values():
        assert line["rows"] <= compared["rows"]["test"]
        difference = line["pscore"]["auc"] - line["lightgbm"]["auc"]
        assert line["auc_difference"] == pytest.approx(difference, abs=1e-5)
        assert line["auc_difference_ci"][0] <= line["auc_difference_ci"][1]
        assert line["judged"] == (line["positives"] >= 10)
        assert line["met"] == pscore.met(line)
    json.dumps(compared, allow_nan=False)


@pytest.mark.parametrize(
    ("judged", "auc", "within", "met"),
    [
        (True, 0.01, 0.0, True),
        (True, -0.005, -0.005, True),
        (True, -0.006, 0.1, False),
        (True, 0.1, -0.006, False),
        (False, -0.1, -0.1, True),
    ],
)
def test_what_counts_is_auc_and_the_order_within_users(judged, auc, within, met):
    line = {"judged": judged, "auc_difference": auc, "gauc_at_once_difference": {"mean": within}}
    assert pscore.met(line) == met


def test_both_get_the_same_number_of_trials(compared):
    assert len(compared["pscore_trials"]) == 2
    numbers = map(str, range(len(compared["behaviours"])))
    assert set(compared["tree_trials"]) == {*numbers, "weighted label"}


def test_the_fused_score_stands_beside_trees_and_a_product(compared):
    fused = compared["fused"]
    for rival in ("pscore", "lightgbm", "product"):
        assert set(fused[rival]) == set(compared["behaviours"])
        for one in fused[rival].values():
            assert 0 <= one["gauc_at_once"] <= 1
    assert fused["pscore"] != fused["product"] != fused["lightgbm"]


def test_fused_scores_are_ranked_at_one_moment_too(aligned):
    """By hand: the fused score and the product from candidates, the trees from their features."""
    run = open_run("first", aligned)
    reward = RewardModel.load(run, setting_of(run), torch.device("cpu"))
    rows = reward.exposures.test_rows()
    at_once = AtOnce(reward, rows)

    class ByColumn:
        final = {"test": Table(reward, rows)}  # noqa: RUF012

        def fitted(self, name, label):
            return self

        def scores(self, model):
            return self.predict(self.final["test"].x)

        def predict(self, x):
            return x[:, 1]

    told = pscore._fused(reward, rows, ByColumn(), reward.logged(rows), at_once, {"click": 1.0})
    offered = candidate_features(reward, at_once.user, at_once.end, at_once.items)
    towers = reward.score(at_once.user, at_once.end, torch.from_numpy(at_once.items))
    rivals = {"pscore": towers["pscore"].numpy(), "product": towers["click"].numpy()}
    for rival, grid in {**rivals, "lightgbm": offered[..., 1]}.items():
        score = grid[at_once.of_row, at_once.place]
        for k, name in enumerate(reward.behaviours):
            expected = pytest.approx(at_once.gauc(k, score), abs=1e-6)
            assert told[rival][name]["gauc_at_once"] == expected


def test_a_product_of_powers_by_hand():
    scores = {"click": np.array([0.5, 0.2]), "like": np.array([0.1, 0.4])}
    found = pscore._product(scores, {"click": 1.0, "like": 0.5})
    np.testing.assert_allclose(np.exp(found), [0.5 * 0.1**0.5, 0.2 * 0.4**0.5])


def test_without_the_logs_it_says_so(monkeypatch):
    monkeypatch.setattr(pscore, "found_kuairand", lambda: None)
    with pytest.raises(FileNotFoundError, match="--kuairand"):
        pscore.run()
