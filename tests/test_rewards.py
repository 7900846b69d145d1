"""A run's reward model: measured as others measure, refused where it does not belong."""

import copy
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from onerec.assembly import setting_of
from onerec.data.exposures import Exposures
from onerec.errors import RecipeError, RunError
from onerec.rewards import (
    CATEGORIES,
    FUSED,
    RewardModel,
    best_round,
    calibration,
    candidate_features,
    features,
    losses,
    measure,
    new_pscore,
    own_content,
    raised,
)
from onerec.runs import Run, open_run

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def reward(aligned):
    run = open_run("first", aligned)
    return RewardModel.load(run, setting_of(run), CPU)


def test_scores_are_probabilities_and_nobodys_codes_score_nothing(reward):
    log = reward.exposures.split.log
    user = np.array([0, 5, 9])
    scores = reward.score(user, log.offsets[user + 1], torch.tensor([[1, -1], [2, 2], [-1, 3]]))
    assert list(scores) == ["click", "like", FUSED]
    for value in scores.values():
        assert value.shape == (3, 2)
        assert ((value >= 0) & (value <= 1)).all()
        assert value[0, 1] == value[2, 0] == 0
        assert value[1, 0] == value[1, 1]


def test_co_consumption_is_not_read(aligned, tmp_path):
    """It was fitted on the rows that a reward model learns from, and would tell their answers."""
    run = open_run("first", aligned)
    kept = own_content(run)
    assert np.array_equal(kept, run.vectors()[:, :8])  # the text; co-consumption comes after it
    copy = Run(tmp_path / "runs" / "copy")
    shutil.copytree(run.path / "tokenizer", copy.path / "tokenizer")
    assert np.array_equal(own_content(copy), kept)
    report = copy.path / "tokenizer" / "report.json"
    told = json.loads(report.read_text())
    told["content"] = [told["content"][1] | {"dim": 16}]
    report.write_text(json.dumps(told))
    assert own_content(copy) is None
    assert own_content(Run(tmp_path / "runs" / "none")) is None


def test_a_logged_row_scores_as_it_does_as_a_candidate(reward):
    """Features differ only in what was known of the item then and now."""
    exposures = reward.exposures
    rows = exposures.valid_rows()[:8]
    log = exposures.split.log
    logged = reward.logged(rows)
    items = torch.from_numpy(log.item[rows].astype(np.int64))[:, None]
    now = reward.score(log.user[rows].astype(np.int64), rows, items)
    for name, value in logged.items():
        assert np.allclose(value, now[name][:, 0].numpy(), atol=1e-6)


def test_auc_is_that_of_scikit_learn(reward):
    rows = reward.exposures.valid_rows()
    found, scores = measure(reward, rows), reward.logged(rows)
    yes, known = reward.exposures.outcomes(rows)
    user = reward.exposures.split.log.user[rows]
    for k, name in enumerate(reward.behaviours):
        there = known[:, k]
        label = yes[there, k]
        assert found[name]["positives"] == label.sum()
        expected = roc_auc_score(label, scores[name][there])
        assert found[name]["auc"] == pytest.approx(expected)
        each, weight = [], []
        for who in np.unique(user[there]):
            mine = user[there] == who
            if 0 < label[mine].sum() < mine.sum():
                each.append(roc_auc_score(label[mine], scores[FUSED][there][mine]))
                weight.append(mine.sum())
        if each:
            assert found[name]["fused_gauc"] == pytest.approx(np.average(each, weights=weight))
    assert measure(reward, rows[:0]) == {}


def test_what_trees_read_is_known_at_the_moment_and_ends_in_categories(reward):
    """Logged or as a candidate: the item's own statistics apart, which a log knows as of then."""
    exposures, log = reward.exposures, reward.exposures.split.log
    rows = exposures.valid_rows()[:8]
    logged = features(reward, rows, at_once=3)
    items = log.item[rows].astype(np.int64)
    now = candidate_features(reward, log.user[rows].astype(np.int64), rows, items[:, None])
    table = reward.model.items
    expected = torch.stack((table.author, table.tag, table.duration), dim=-1)[items + 1]
    for found in (logged, now[:, 0]):
        assert found[:, -CATEGORIES:].tolist() == expected.tolist()
    columns = reward.model.vocabulary.statistics
    assert np.allclose(logged[:, :columns], now[:, 0, :columns], atol=1e-6)


def test_calibration_by_hand():
    bins = calibration(np.array([0.1, 0.4, 0.2, 0.9]), np.array([0, 1, 0, 1], dtype=bool), 2)
    assert bins == [
        {"predicted": pytest.approx(0.15), "observed": 0.0, "rows": 2},
        {"predicted": pytest.approx(0.65), "observed": 1.0, "rows": 2},
    ]


def test_the_behaviour_that_lost_most_is_raised():
    weights = {"click": 1.0, "like": 1.0, "dislike": 0.0}
    base = {"click": 0.7, "like": 0.8}
    assert raised(weights, base, {"click": 0.69, "like": 0.7}, 2.0) == {**weights, "like": 2.0}
    assert raised(weights, base, {"click": 0.7, "like": 0.81}, 2.0) is None
    assert raised(weights, {}, {}, 2.0) is None
    assert raised({"click": 1.0}, {"click": 0.7}, {"click": 0.6}, 2.0) is None


def test_the_best_round_has_the_fewest_who_lose_then_the_least_lost_then_comes_first():
    base, weights = {"click": 0.7, "like": 0.8, "dislike": 0.9}, {"click": 1.0, "like": 1.0}
    weights["dislike"] = 0.0  # not wished for: it cannot lose

    def one(click, like):
        reached = {"click": click, "like": like, "dislike": 0.0}
        return {"weights": weights, "product_gauc": base, "gauc": reached}

    assert losses(weights, base, one(0.6, 0.8)["gauc"]) == {"click": pytest.approx(0.1)}
    assert best_round([one(0.69, 0.79), one(0.5, 0.9), one(0.6, 0.9), one(0.6, 0.8)]) == 2
    assert best_round([one(0.5, 0.9), one(0.8, 0.9), one(0.9, 0.9)]) == 1
    assert best_round([{"weights": weights, "product_gauc": {}, "gauc": {}}]) == 0


@pytest.mark.parametrize("stop", [True, False])
def test_the_setting_decides_whether_the_fused_loss_reaches_the_towers(aligned, stop):
    setting = setting_of(open_run("first", aligned))
    config = replace(setting.recipe.reward, stop_gradient=stop)
    setting = replace(setting, recipe=replace(setting.recipe, reward=config))
    model = new_pscore(setting, ("click", "like"), None)
    reward = RewardModel(model, Exposures(setting.contexts(CPU), setting.split, ("click", "like")))
    pairs = reward.exposures.rows(reward.exposures.training_rows()[:32])
    model.fused_loss(pairs)[0].backward()
    grads = [parameter.grad for parameter in model.tower.parameters()]
    assert any(grad is not None and bool(grad.any()) for grad in grads) != stop


def test_a_reward_that_it_does_not_give_is_named(reward):
    assert reward.check("like") == "like"
    with pytest.raises(RecipeError, match="'long_view': this run's reward model gives pscore, cl"):
        reward.check("long_view")


def copied(aligned, tmp_path):
    return Run(shutil.copytree(aligned, tmp_path / "home") / "runs" / "first")


def test_another_dataset_is_refused(aligned, tmp_path):
    run = copied(aligned, tmp_path)
    setting = setting_of(run)
    done = run.path / "reward" / "done.json"
    said = json.loads(done.read_text())
    done.write_text(json.dumps({**said, "dataset": "f" * 64}))
    with pytest.raises(RunError, match="learned from another dataset"):
        RewardModel.load(run, setting, CPU)


def test_a_run_without_one_says_how_to_get_it(trained, aligned, tmp_path):
    run = open_run("first", trained)
    with pytest.raises(RunError, match=r"no reward model: reward\.steps=0"):
        RewardModel.load(run, setting_of(run), CPU)
    run = copied(aligned, tmp_path)
    (run.path / "reward" / "done.json").unlink()
    with pytest.raises(RunError, match="onerec reward --run first"):
        RewardModel.load(run, setting_of(run), CPU)


def test_a_cut_checkpoint_is_one_line(aligned, tmp_path):
    run = copied(aligned, tmp_path)
    setting = setting_of(run)
    file = next((run.path / "reward").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(RunError, match="damaged"):
        RewardModel.load(run, setting, CPU)


def test_the_fusion_may_be_narrower_or_wider(aligned):
    run = open_run("first", aligned)
    setting = setting_of(run)
    recipe = replace(setting.recipe, reward=replace(setting.recipe.reward, width=16))
    with pytest.raises(RunError, match="another recipe or tokenizer wrote it"):
        RewardModel.load(run, replace(setting, recipe=recipe), CPU)


def test_a_reward_that_is_no_number_is_told_in_one_line(reward):
    broken = RewardModel(copy.deepcopy(reward.model), reward.exposures)
    with torch.no_grad():
        for parameter in broken.model.parameters():
            parameter.fill_(torch.nan)
    with pytest.raises(RunError, match="is no number: train it again"):
        broken.score(np.zeros(1, np.int64), np.array([3]), torch.tensor([[1, 2]]))
