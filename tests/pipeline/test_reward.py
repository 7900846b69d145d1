"""The reward stage: what it leaves, that it repeats, and when it has nothing to learn."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import toy_home
from safetensors.torch import load_file

from onerec.assembly import setting_of
from onerec.data.dataset import dataset_path, write_dataset
from onerec.data.exposures import learnable, with_positive
from onerec.pipeline import pscore, run_stage
from onerec.pipeline.pscore import VOICE, fused_gauc, product_gauc, train_pscore
from onerec.reward.pscore import PScore
from onerec.rewards import RewardModel
from onerec.runs import Run, open_run

CPU = torch.device("cpu")


def rewarded(home, name="r", **changes):
    recipe = toy_home.make_recipe({**toy_home.ALIGNED, **changes})
    return run_stage("reward", name, recipe=recipe, dataset="toy", home=home)


def test_report_and_stamp_say_what_was_learned(aligned):
    run = open_run("first", aligned)
    report = json.loads((run.path / "reward" / "report.json").read_text())
    assert report["part"] == "valid"
    assert list(report["behaviours"]) == ["click", "like"]
    assert set(report["weights"]) == {"click", "like"}
    assert all(weight > 0 for weight in report["weights"].values())
    assert report["rounds"][0]["weights"] == {"click": 1.0, "like": 1.0}
    best = report["rounds"][report["best"]]
    assert report["weights"] == best["weights"]
    assert report["converged"] == (bool(best["gauc"]) and not report["losing"])
    assert sum(part["rows"] for part in report["calibration"]["click"]) <= report["rows"]
    done = run.done("reward")
    assert done is not None
    assert done["behaviours"] == ["click", "like"]
    metrics = run.metrics("reward")
    assert metrics["step"].tolist() == list(range(1, 21))
    assert {"loss", "click", "like", "fused", "grad_norm", "lr"} <= set(metrics.columns)


def test_a_second_time_gives_the_same_weights(aligned, home):
    ours, theirs = open_run("first", aligned), rewarded(home)
    name = f"reward/{(ours.done('reward') or {})['checkpoint']}"
    a, b = load_file(ours.path / name), load_file(theirs.path / name)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_without_steps_it_is_skipped_and_says_so(home):
    run = rewarded(home, **{"reward.steps": "0"})
    assert (run.done("reward") or {})["skipped"] == "reward.steps=0"


def test_data_whose_every_row_is_a_success_are_skipped_with_the_reason(tmp_path):
    log, items, users = toy_home.tables()
    log = log.drop(columns=["click", "like"])
    write_dataset(dataset_path("plain", tmp_path), "plain", log, items, users, source="toy")
    recipe = toy_home.make_recipe(toy_home.ALIGNED)
    run = run_stage("align", "p", recipe=recipe, dataset="plain", home=tmp_path)
    why = (run.done("reward") or {})["skipped"]
    assert "every event of this dataset is a success" in why or "no behaviour has both" in why
    assert (run.done("align") or {})["skipped"] == why


def test_a_behaviour_with_one_class_is_named_and_left_out(tmp_path):
    log, items, users = toy_home.tables()
    log["follow"] = False
    write_dataset(dataset_path("toy", tmp_path), "toy", log, items, users, source="toy")
    run = rewarded(tmp_path)
    report = json.loads((run.path / "reward" / "report.json").read_text())
    assert "follow" not in report["behaviours"]
    assert report["left_out"]["follow"].startswith("0 events with it")


def test_behaviours_with_few_positives_have_no_voice(aligned):
    run = open_run("first", aligned)
    reward = RewardModel.load(run, setting_of(run), torch.device("cpu"))
    rows = reward.exposures.valid_rows()
    yes, _ = reward.exposures.outcomes(rows)
    loud = {n for k, n in enumerate(reward.behaviours) if yes[:, k].sum() >= VOICE}
    assert set(product_gauc(reward, rows)) == loud
    assert fused_gauc(reward, rows, []) == {}
    assert product_gauc(reward, np.zeros(0, dtype=np.int64)) == {}


def trained_with(aligned, tmp_path, monkeypatch, reached, **changes):
    """The model of a reward stage whose fused score is said to reach these GAUCs, round by round.

    Returns it with its report, its state whenever it was measured, and what was saved.
    """
    run = open_run("first", aligned)
    setting = setting_of(run)
    config = replace(setting.recipe.reward, **{"rounds": len(reached) - 1, **changes})
    setting = replace(setting, recipe=replace(setting.recipe, reward=config))
    copy = Run(tmp_path / "runs" / "copy")
    shutil.copytree(run.path / "tokenizer", copy.path / "tokenizer")
    states, kept, told = [], [], iter(reached)

    def said(trained, rows, names):
        states.append({k: v.clone() for k, v in trained.model.state_dict().items()})
        return dict(zip(names, next(told), strict=True))

    monkeypatch.setattr(pscore, "product_gauc", lambda *_: {"click": 0.7, "like": 0.8})
    monkeypatch.setattr(pscore, "fused_gauc", said)
    found = learnable(with_positive(setting.split.log), setting.split.train)
    train_pscore(copy, setting, found, CPU, lambda *_: None, kept.append)
    report = json.loads((copy.path / "reward" / "report.json").read_text())
    saved = load_file(copy.path / "reward" / report["checkpoint"])
    return kept[0].model, report, states, saved


def test_where_no_round_satisfies_everybody_the_best_is_kept(aligned, tmp_path, monkeypatch):
    reached = [(0.6, 0.9), (0.69, 0.9), (0.65, 0.9), (0.8, 0.7)]  # click, like; 0.7 and 0.8 needed
    model, report, states, saved = trained_with(aligned, tmp_path, monkeypatch, reached)
    rounds = report["rounds"]
    assert [one["weights"]["click"] for one in rounds] == [1.0, 1.5, 2.25, 3.375]
    assert [state["weights"].tolist() for state in states] == [
        list(one["weights"].values()) for one in rounds
    ], "each round was trained with its weights"
    assert (report["best"], report["converged"], report["losing"]) == (1, False, ["click"])
    assert report["weights"] == rounds[1]["weights"]
    assert dict(zip(("click", "like"), model.weights.tolist(), strict=True)) == report["weights"]
    for name, value in model.state_dict().items():
        assert torch.equal(value, states[1][name])
        assert torch.equal(value, saved[f"model.{name}"])
    assert not torch.equal(states[1]["fusion.1.weight"], states[3]["fusion.1.weight"])
    assert torch.equal(states[1]["tower.first"], states[3]["tower.first"]), "towers stand still"


def test_rounds_end_as_soon_as_nobody_loses(aligned, tmp_path, monkeypatch):
    reached = [(0.6, 0.9), (0.7, 0.8), (0.0, 0.0)]
    model, report, _, _ = trained_with(aligned, tmp_path, monkeypatch, reached)
    assert (report["best"], report["converged"], report["losing"]) == (1, True, [])
    assert len(report["rounds"]) == 2
    assert model.weights.tolist() == [1.5, 1.0]


def test_without_the_stop_the_towers_learn_in_the_rounds_too(aligned, tmp_path, monkeypatch):
    reached = [(0.6, 0.9), (0.7, 0.9)]
    why = "of the fused loss alone they would forget what they foretell"
    monkeypatch.setattr(PScore, "fused_loss", lambda *_: pytest.fail(why))
    _, _, states, _ = trained_with(aligned, tmp_path, monkeypatch, reached, stop_gradient=False)
    assert not torch.equal(states[0]["tower.first"], states[1]["tower.first"])


@pytest.mark.parametrize("step", [5])
def test_a_stop_leaves_nothing_half_done(home, step):
    recipe = toy_home.make_recipe(toy_home.ALIGNED)

    def stop(stage, now, of, values):
        if stage == "reward" and now == step:
            open_run("s", home).control(stop=True)

    run = run_stage("reward", "s", recipe=recipe, dataset="toy", home=home, report=stop)
    assert run.status().state == "stopped"
    assert not run.is_done("reward")
    run.control(stop=False)
    again = run_stage("reward", "s", home=home)
    assert again.is_done("reward")
