"""Training a P-Score beside the policy gives what the stage itself would."""

import json
import shutil
import time

import pytest
import torch
import toy_home
from safetensors.torch import load_file

from onerec.pipeline import run_stage
from onerec.pipeline.companion import Companion
from onerec.runs import Run, open_run


@pytest.mark.slow
def test_the_companion_trains_the_same_model(aligned, tmp_path):
    """It begins as soon as the tokenizer is done, and leaves weights, report and curve."""
    home = tmp_path / "home"
    shutil.copytree(aligned, home)
    run = Run(home / "runs" / "first")
    before = load_file(next((run.path / "reward").glob("*.safetensors")))
    curve = open_run("first", aligned).metrics("reward")
    for folder in ("reward", "align", "evaluate", "recommend", "baselines", "rollouts"):
        shutil.rmtree(run.path / folder)
    companion = Companion(run)
    end = time.monotonic() + 60
    while companion.works() and not (run.path / "reward" / "report.json").is_file():
        assert time.monotonic() < end, "no report after a minute"
        time.sleep(0.02)
    companion.stop()  # it would wait for the stage's stamp, to list what comes after
    after = load_file(next((run.path / "reward").glob("*.safetensors")))
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[key], after[key], atol=1e-5) for key in before)
    lines = json.loads((run.path / "reward" / "curve.json").read_text())["lines"]
    assert [line["step"] for line in lines] == curve["step"].tolist()
    assert not run.is_done("reward")  # the stage stamps it, and takes over the curve
    run_stage("reward", "first", home=home)
    assert run.is_done("reward")


def test_a_report_comes_last(aligned):
    folder = open_run("first", aligned).path / "reward"
    report = json.loads((folder / "report.json").read_text())
    assert (folder / report["checkpoint"]).is_file()
    assert report["seconds"] > 0
    assert len(report["rounds"]) <= int(toy_home.ALIGNED["reward.rounds"]) + 1
