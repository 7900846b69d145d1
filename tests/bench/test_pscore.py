"""P-Score beside trees: same rows, same features, and the sums of the comparison."""

import json

import numpy as np
import pytest
import toy_home

from onerec.bench import pscore
from onerec.data.dataset import open_dataset
from onerec.pipeline import run_stage

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
        assert line["met"] == (not line["judged"] or difference >= -pscore.MARGIN)
    json.dumps(compared, allow_nan=False)


def test_both_get_the_same_number_of_trials(compared):
    assert len(compared["pscore_trials"]) == 2
    numbers = map(str, range(len(compared["behaviours"])))
    assert set(compared["tree_trials"]) == {*numbers, "weighted label"}


def test_the_fused_score_stands_beside_trees_and_a_product(compared):
    fused = compared["fused"]
    for rival in ("pscore", "lightgbm", "product"):
        assert set(fused[rival]) == set(compared["behaviours"])


def test_a_product_of_powers_by_hand():
    scores = {"click": np.array([0.5, 0.2]), "like": np.array([0.1, 0.4])}
    found = pscore._product(scores, {"click": 1.0, "like": 0.5})
    np.testing.assert_allclose(np.exp(found), [0.5 * 0.1**0.5, 0.2 * 0.4**0.5])


def test_without_the_logs_it_says_so(monkeypatch):
    monkeypatch.setattr(pscore, "found_kuairand", lambda: None)
    with pytest.raises(FileNotFoundError, match="--kuairand"):
        pscore.run()
