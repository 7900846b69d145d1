"""Curves, thinning, the latest values and the progress of stages."""

import json
import shutil
from pathlib import Path

import fake_run
import numpy as np
import pytest

from onerec.explain import training
from onerec.runs import STAGES, Run
from onerec.viz import training as viz


def test_curves_are_the_lines_of_the_log(run: Run) -> None:
    frame, raw = training.curves(run), run.metrics("pretrain")
    loss = frame[frame["metric"] == "loss"]
    assert loss["value"].tolist() == raw["loss"].tolist()
    assert loss["step"].tolist() == list(range(1, fake_run.STEPS + 1))
    assert frame[frame["metric"] == "valid_recall@10"]["step"].tolist() == [20, 40, 60]
    assert not set(frame["metric"]) & {"stage", "step", "of", "seconds"}
    assert training.curves(run, points=10).groupby("metric").size().max() <= 10
    assert training.curves(run, "align").empty


@pytest.mark.parametrize("points", [4, 7, 100, 2000])
def test_thinning_keeps_ends_and_extremes_within_the_limit(points: int) -> None:
    values = np.random.default_rng(0).normal(size=5003)
    values[1234] = 99  # one spike
    kept = training.thin(values, points)
    assert len(kept) <= points
    assert {0, 1234, 5002, int(values.argmin())} <= set(kept.tolist())
    assert (np.diff(kept) > 0).all()


def test_few_values_stay_as_they_are() -> None:
    assert training.thin(np.arange(4.0), 4).tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="at least 4"):
        training.thin(np.arange(9.0), 3)


def test_the_latest_values_and_the_time_left(run: Run, tmp_path: Path) -> None:
    last = training.latest(run)
    assert (last["step"], last["of"], last["seconds"], last["eta_seconds"]) == (60, 60, 30.0, 0.0)
    assert last["valid_recall@10"] == 0.3
    half = Run(shutil.copytree(run.path, tmp_path / "half"))
    lines = (half.path / "metrics.jsonl").read_text().splitlines()[:30]
    (half.path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert training.latest(half)["eta_seconds"] == pytest.approx(30 * 0.5)  # half a second a step
    assert training.latest(Run(tmp_path)) == {}


def test_progress_follows_stamps_first_and_the_status_second(run: Run, tmp_path: Path) -> None:
    assert training.progress(run)["state"].tolist() == ["done"] * len(STAGES)
    part = Run(shutil.copytree(run.path, tmp_path / "part"))
    for folder in ("pretrain", "evaluate", "recommend"):
        (part.path / folder / "done.json").unlink()
    status = json.loads((part.path / "status.json").read_text())
    status |= {"state": "running", "stage": "pretrain", "step": 15, "of": 60}
    (part.path / "status.json").write_text(json.dumps(status))
    frame = training.progress(part)
    state = frame.set_index("stage")["state"]
    assert [state[s] for s in ("tokenize", "pretrain", "evaluate", "recommend")] == [
        *("done", "interrupted", "waiting", "waiting")
    ]
    assert frame.set_index("stage")["share"][["pretrain", "recommend"]].tolist() == [0.25, 0]
    assert frame["seconds"][0] == 10


def test_a_stage_that_was_skipped_is_not_said_to_have_been_done_in_no_time(run: Run) -> None:
    frame = training.progress(run)
    assert frame.loc[frame["skipped"], "stage"].tolist() == ["reward", "align"]
    assert " → Reward: left out → Align: left out → ✓ Evaluate" in viz.stages(frame)


def test_checkpoints_of_all_stages_with_the_chosen_one(run: Run, tmp_path: Path) -> None:
    own = Run(shutil.copytree(run.path, tmp_path / "own"))
    for path in own.path.glob("*/checkpoint-*"):
        path.unlink()
    assert training.checkpoints(own).empty
    for step in (20, 60):
        path = own.path / "pretrain" / f"checkpoint-{step:06d}.safetensors"
        path.write_bytes(b"0" * 2**20)
        path.with_suffix(".json").write_text("{}")
    done = own.path / "pretrain" / "done.json"
    done.write_text(json.dumps({"checkpoint": "checkpoint-000020.safetensors"}))
    frame = training.checkpoints(own)
    assert frame["step"].tolist() == [20, 60]
    assert frame["stage"].tolist() == ["pretrain"] * 2
    assert frame["mebibytes"].tolist() == [1.0, 1.0]
    assert frame["chosen"].tolist() == [True, False]
