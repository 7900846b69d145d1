"""The live view: each state says what to do next, and a second's body is cheap."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import jobs
import psutil
import pytest
from peers import cpu_seconds, two_bare_figures
from streamlit.testing.v1 import AppTest

from onerec.runs import Run

PAGE = Path(__file__).resolve().parents[2] / "app" / "app_pages" / "train.py"


def with_status(home: Path, **values: object) -> Run:
    """The finished run, told to be in another state by this very process."""
    path = home / "runs" / "toy_run" / "status.json"
    now = {"pid": os.getpid(), "process_started": psutil.Process().create_time()}
    now |= {"heartbeat": time.time(), "stage": "pretrain", "step": 7, "of": 60}
    path.write_text(json.dumps(json.loads(path.read_text()) | now | values))
    return Run(path.parent)


def buttons(app: AppTest) -> set[str]:
    return {button.label for button in app.button}


@pytest.mark.parametrize(
    ("values", "state", "offered"),
    [
        ({"state": "running"}, "running", {"Pause", "Stop"}),
        ({"state": "paused"}, "paused", {"Go on", "One step", "Stop"}),
        ({"state": "running", "heartbeat": 1.0}, "stalled", {"End it now"}),
        ({"state": "running", "pid": 999_999_999}, "interrupted", {"Resume"}),
        ({"state": "failed", "message": "loss is not finite"}, "failed", {"Resume"}),
        ({"state": "stopped"}, "stopped", {"Resume"}),
        ({"state": "done"}, "done", set()),
    ],
)
def test_every_state_is_named_and_offers_the_next_step(
    use_home: Callable[..., Path],
    own_home: Path,
    values: dict[str, object],
    state: str,
    offered: set[str],
) -> None:
    use_home(own_home)
    with_status(own_home, **values)
    app = AppTest.from_file(str(PAGE), default_timeout=30).run()
    assert not app.exception
    assert any(f" {state}]" in heading.value for heading in app.header)
    controls = {"Pause", "Go on", "One step", "Stop", "Resume", "End it now"}
    assert buttons(app) & controls == offered
    form = next(box for box in app.expander if box.label == "Start a new run")
    assert form.proto.expanded is (state == "done"), "what needs a person stands in sight"
    if state == "failed":
        assert "loss is not finite" in [box.value for box in app.error]


def test_what_a_resumed_run_begins_with_is_said(
    use_home: Callable[..., Path], own_home: Path
) -> None:
    use_home(own_home)
    run = with_status(own_home, state="running", pid=999_999_999)

    def warned() -> str:
        app = AppTest.from_file(str(PAGE), default_timeout=30).run()
        return " ".join(box.value for box in app.warning)

    assert "goes on from the last checkpoint" in warned()
    for path in (run.path / "pretrain").glob("checkpoint-*"):
        path.unlink()
    assert "Resume begins the training anew" in warned()
    assert "smaller train.batch_size" in warned()


def words(app: AppTest) -> str:
    parts = (app.markdown, app.caption, app.info)
    return "\n".join(box.value for boxes in parts for box in boxes)


def test_the_stages_are_a_line_with_the_present_one_marked(
    use_home: Callable[..., Path], own_home: Path
) -> None:
    use_home(own_home)
    run = with_status(own_home, state="running")
    (run.path / "pretrain" / "done.json").unlink()
    app = AppTest.from_file(str(PAGE), default_timeout=30).run()
    assert "✓ Tokenize 10 s → **Pre-train: running** → " in words(app)
    assert "4.85 for 128" in words(app), "how to read the loss"


def test_before_the_first_step_of_pre_training_nothing_is_said_to_come_before_it(
    use_home: Callable[..., Path], own_home: Path
) -> None:
    use_home(own_home)
    run = with_status(own_home, state="running", step=0)
    (run.path / "metrics.jsonl").unlink()
    app = AppTest.from_file(str(PAGE), default_timeout=30).run()
    assert "The first steps are on their way" in words(app)
    assert "comes before the training" not in words(app)


def test_a_stop_is_told_in_the_words_of_the_page(
    use_home: Callable[..., Path], own_home: Path
) -> None:
    use_home(own_home)
    with_status(own_home, state="stopped", message="stopped as asked; run the same command")
    app = AppTest.from_file(str(PAGE), default_timeout=30).run()
    bars = [bar.proto.text for bar in app.get("progress")]
    assert bars == ["pretrain: step 7 of 60 · stopped as asked, its weights are saved"]
    assert "Left" not in metrics(app)


def test_a_finished_run_lists_its_checkpoints(
    use_home: Callable[..., Path], own_home: Path
) -> None:
    use_home(own_home)
    app = AppTest.from_file(str(PAGE), default_timeout=30).run()
    assert any(box.label.startswith("Checkpoints (") for box in app.expander)
    assert not app.get("progress"), "all stages are ticked"


def test_a_press_reaches_the_trainer_through_the_run_folder(
    use_home: Callable[..., Path], own_home: Path
) -> None:
    use_home(own_home)
    run = with_status(own_home, state="running")
    app = AppTest.from_file(str(PAGE), default_timeout=30).run()
    next(button for button in app.button if button.label == "Pause").click().run()
    assert json.loads((run.path / "control.json").read_text())["pause"] is True
    assert "Asked to pause" in words(app), "the press is seen before the trainer follows it"
    app.run()
    offered = {button.label: button.disabled for button in app.button}
    assert (offered["Pause"], offered["Stop"]) == (True, False)
    next(button for button in app.button if button.label == "Stop").click().run()
    assert "Asked to stop" in words(app)


def test_a_start_that_was_refused_is_explained_and_can_be_removed(
    use_home: Callable[..., Path], own_home: Path
) -> None:
    """There is nothing to resume: the trainer ended before it made the run."""
    use_home(own_home)
    path = own_home / "runs" / "refused"
    path.mkdir()
    (path / "log.txt").write_text("error: 'toy': no training target has a history\n")
    launch = {"pid": 999_999_999, "process_started": 1.0, "time": time.time(), "command": []}
    (path / "launch.json").write_text(json.dumps(launch))
    app = AppTest.from_file(str(PAGE), default_timeout=30)
    app.query_params["run"] = "refused"
    app.run()
    assert "no training target" in app.error[0].value
    assert "Resume" not in buttons(app)
    next(button for button in app.button if button.label == "Remove this run").click().run()
    assert not app.exception
    assert not path.exists()


def test_the_demo_can_be_watched_but_not_steered(
    use_home: Callable[..., Path], own_home: Path, tmp_path: Path
) -> None:
    use_home(tmp_path / "empty", own_home)
    with_status(own_home, state="stopped")
    app = AppTest.from_file(str(PAGE), default_timeout=30).run()
    assert "Resume" not in buttons(app)


def metrics(app: AppTest) -> dict[str, tuple[str, str]]:
    return {metric.label: (metric.value, metric.delta) for metric in app.metric}


def relogged(run: Run, **more: float | None) -> None:
    """The log once more, each line with `more`; None takes a value out."""
    path = run.path / "metrics.jsonl"
    lines = [json.loads(line) | more for line in path.read_text().splitlines()]
    kept = [{k: v for k, v in line.items() if v is not None} for line in lines]
    path.write_text("".join(json.dumps(line) + "\n" for line in kept))


@pytest.mark.parametrize("state", ["running", "done"])
def test_the_rate_is_shown_and_without_a_peak_no_utilisation(
    use_home: Callable[..., Path], own_home: Path, state: str
) -> None:
    use_home(own_home)
    with_status(own_home, state=state)
    app = AppTest.from_file(str(PAGE), default_timeout=30).run()
    assert metrics(app)["Arithmetic"] == ("16 GFLOP/s", "no peak known")
    assert "MFU" not in metrics(app)


def test_utilisation_is_shown_where_the_peak_is_known_and_a_run_without_it_follows(
    use_home: Callable[..., Path], own_home: Path
) -> None:
    use_home(own_home)
    run = with_status(own_home, state="done")
    relogged(run, mfu=0.253)
    app = AppTest.from_file(str(PAGE), default_timeout=30).run()
    assert metrics(app)["MFU"] == ("25.3%", "")
    assert metrics(app)["Arithmetic"] == ("16 GFLOP/s", "")
    app.session_state["live_more"] = "MFU"
    app.run()
    assert any("MFU in percent is 25.3" in text.value for text in app.markdown)
    relogged(run, mfu=None, flops_per_second=None)  # as a run of an earlier version
    app.run()
    assert not app.exception
    assert "Arithmetic" not in metrics(app)


def test_reading_the_state_of_a_run_is_cheap(own_home: Path) -> None:
    """Against two figures that read nothing, in the same run: about 2.4 times their CPU time."""
    from onerec.explain import training
    from onerec.viz import training as viz

    run = with_status(own_home, state="running")

    def body() -> None:
        jobs.status(run)
        curves = training.curves(run)
        training.latest(run)
        viz.losses(curves)
        viz.metric(curves, name="grad_norm")

    assert cpu_seconds(body) < 6 * cpu_seconds(two_bare_figures)
