"""The reward stage: what it leaves, that it repeats, and when it has nothing to learn."""

import json

import numpy as np
import pytest
import torch
import toy_home
from safetensors.torch import load_file

from onerec.assembly import setting_of
from onerec.data.dataset import dataset_path, write_dataset
from onerec.pipeline import run_stage
from onerec.pipeline.pscore import VOICE, fused_gauc, product_gauc
from onerec.rewards import RewardModel
from onerec.runs import open_run


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
