"""Claiming a run, its status and metrics, and obeying those who watch."""

import dataclasses
import json
import multiprocessing
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from onerec.errors import RunError
from onerec.run_writer import Control, RunWriter
from onerec.runs import Run
from onerec.sections import RoutingConfig

DESCRIPTION = {
    "name": "tiny",
    "recipe": {"train": {"steps": 10}, "shape": (1, 2)},
    "seed": 0,
    "dataset": {"name": "toy", "fingerprint": "f"},
    "versions": {"numpy": "2"},
}


def claim(path: Path) -> RunWriter:
    return RunWriter.claim(path, DESCRIPTION)


def test_a_new_run_needs_a_description_and_keeps_it(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="needs --recipe and --dataset"):
        RunWriter.claim(tmp_path / "r")
    assert not (tmp_path / "r").exists(), "a refused start leaves nothing behind"
    with claim(tmp_path / "r") as writer:
        assert writer.run.recipe()["seed"] == 0
        assert writer.run.status().state == "running"
    with RunWriter.claim(tmp_path / "r") as writer:
        assert writer.run.recipe()["name"] == "tiny"


def test_going_on_with_other_settings_names_the_first_difference(tmp_path: Path) -> None:
    with claim(tmp_path / "r"):
        pass
    with RunWriter.claim(tmp_path / "r", {**DESCRIPTION, "versions": {"numpy": "3"}}):
        pass  # other versions are no other run
    other = {**DESCRIPTION, "recipe": {"train": {"steps": 11}, "shape": (1, 2)}}
    with pytest.raises(RunError, match=r"train\.steps = 10, now asked for 11"):
        RunWriter.claim(tmp_path / "r", other)
    with pytest.raises(RunError, match=r"dataset\.fingerprint = f, now asked for g"):
        RunWriter.claim(
            tmp_path / "r", {**DESCRIPTION, "dataset": {"name": "toy", "fingerprint": "g"}}
        )


def test_a_section_that_is_newer_than_the_run_has_its_default_there(tmp_path: Path) -> None:
    with claim(tmp_path / "r"):
        pass
    routing = dataclasses.asdict(RoutingConfig())
    newer = {**DESCRIPTION, "recipe": {**DESCRIPTION["recipe"], "routing": routing}}
    with RunWriter.claim(tmp_path / "r", newer):
        pass
    newer["recipe"]["routing"] = {**routing, "router": "softmax"}
    with pytest.raises(
        RunError, match=r"made with routing\.router = loss_free, now asked for softmax"
    ):
        RunWriter.claim(tmp_path / "r", newer)


def test_a_setting_that_is_newer_than_the_run_has_its_default_there(tmp_path: Path) -> None:
    old = {**DESCRIPTION, "recipe": {**DESCRIPTION["recipe"], "history": {"short_length": 20}}}
    with RunWriter.claim(tmp_path / "r", old):
        pass
    newer = {"short_length": 20, "lifelong_length": 0}
    asked = {**old, "recipe": {**old["recipe"], "history": newer}}
    with RunWriter.claim(tmp_path / "r", asked):
        pass
    asked["recipe"]["history"] = {**newer, "lifelong_length": 50}
    with pytest.raises(RunError, match=r"history\.lifelong_length = 0, now asked for 50"):
        RunWriter.claim(tmp_path / "r", asked)


def test_a_second_writer_is_told_who_holds_the_run(tmp_path: Path) -> None:
    with claim(tmp_path / "r") as writer:
        with pytest.raises(RunError, match=f"held by process {psutil.Process().pid} on"):
            claim(tmp_path / "r")
        assert writer.run.status().state == "running", "the refused start changed nothing"
    with claim(tmp_path / "r"):
        pass


def test_a_claim_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    code = (
        "import sys, os; from pathlib import Path; from onerec.run_writer import RunWriter; "
        f"RunWriter.claim(Path(sys.argv[1]), {DESCRIPTION!r}); os._exit(9)"
    )
    path = tmp_path / "r"
    assert subprocess.run([sys.executable, "-c", code, str(path)]).returncode == 9
    assert Run(path).status().state == "interrupted"
    assert (path / "writer.json").is_file()
    with claim(path) as writer:
        assert writer.run.status().state == "running"
    assert not (path / "writer.json").exists()


def _try_claim(path: Path, tried: Any, won: "multiprocessing.SimpleQueue[bool]") -> None:
    tried.wait(20)  # all start at once
    try:
        writer = claim(path)
    except RunError:
        won.put(False)
        tried.wait(20)
        return
    won.put(True)
    tried.wait(20)  # who wins holds it until all have tried, however late they are
    writer.__exit__(None, None, None)


@pytest.mark.parametrize("dead_claim", [False, True])
def test_of_many_that_start_at_once_one_wins(tmp_path: Path, dead_claim: bool) -> None:
    path = tmp_path / "r"
    if dead_claim:
        with claim(path):
            pass
        own = json.dumps({"pid": 999_999_999, "process_started": 1.0, "host": socket.gethostname()})
        (path / "writer.json").write_text(own)
    context = multiprocessing.get_context("fork")
    won, tried = context.SimpleQueue(), context.Barrier(4)
    racers = [context.Process(target=_try_claim, args=(path, tried, won)) for _ in range(4)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(20)
    assert sorted(won.get() for _ in racers) == [False, False, False, True]


def test_the_end_is_done_stopped_or_failed(tmp_path: Path) -> None:
    with claim(tmp_path / "r") as writer:
        writer.finish("all stages")
    assert (writer.run.status().state, writer.run.status().message) == ("done", "all stages")
    with claim(tmp_path / "r") as writer:
        writer.set_status("pretrain", 3, 10)
    assert (writer.run.status().state, writer.run.status().step) == ("stopped", 3)
    with pytest.raises(RunError), claim(tmp_path / "r"):
        raise RunError("codebook 99 is larger than 12 items")
    assert writer.run.status().state == "failed"
    assert writer.run.status().message == "codebook 99 is larger than 12 items"
    with pytest.raises(ZeroDivisionError), claim(tmp_path / "r"):
        _ = 1 / 0
    assert writer.run.status().message == "ZeroDivisionError: division by zero"
    with pytest.raises(KeyboardInterrupt), claim(tmp_path / "r"):
        raise KeyboardInterrupt
    assert writer.run.status().state == "stopped"


def test_status_carries_stage_step_and_a_fresh_heartbeat(tmp_path: Path) -> None:
    with claim(tmp_path / "r") as writer:
        writer.set_status("pretrain", 2, 8, message="warm")
        status = writer.run.status()
        assert (status.stage, status.step, status.of, status.message) == ("pretrain", 2, 8, "warm")
        assert status.seconds_since_heartbeat is not None
        assert status.seconds_since_heartbeat < 5
        writer.beat(5)  # within the same second: not written yet
        assert writer.run.status().step == 2
        writer._written -= 2
        writer.beat(6)
        assert writer.run.status().step == 6


def test_metrics_are_lines_with_seconds_and_refuse_what_is_no_number(tmp_path: Path) -> None:
    with claim(tmp_path / "r") as writer:
        writer.set_status("pretrain", 0, 2)
        writer.log_metrics("pretrain", 1, 2, loss=2, seconds=1.5)
        writer.log_metrics("pretrain", 2, 2, loss=1.5)
        with pytest.raises(ValueError, match="JSON compliant"):
            writer.log_metrics("pretrain", 3, 2, loss=float("inf"))
        frame = writer.run.metrics("pretrain")
    assert list(frame["loss"]) == [2.0, 1.5]
    assert frame["seconds"][0] == 1.5
    assert 0 <= frame["seconds"][1] < 60


def test_rewinding_drops_later_steps_of_the_stage_and_a_torn_line(tmp_path: Path) -> None:
    with claim(tmp_path / "r") as writer:
        for step in (1, 2, 3):
            writer.log_metrics("pretrain", step, 3, loss=step)
        writer.log_metrics("evaluate", 9, 9)
        with open(writer.path / "metrics.jsonl", "a") as file:
            file.write('{"stage": "pret')
        writer.rewind_metrics("pretrain", 2)
        writer.log_metrics("pretrain", 3, 3, loss=33)
        frame = writer.run.metrics()
    assert list(frame["stage"]) == ["pretrain", "pretrain", "evaluate", "pretrain"]
    assert list(frame["step"]) == [1, 2, 9, 3]
    assert frame["loss"].iloc[-1] == 33


def test_pause_step_go_on_and_stop(tmp_path: Path) -> None:
    with claim(tmp_path / "r") as writer:
        run, states = writer.run, []
        assert writer.obey() == "go"
        run.control(steps=5)
        assert writer.obey() == "go", "steps asked for while running are no credit"

        def watcher(_: float) -> None:
            states.append(run.status().state)
            run.control(**asked.pop(0))

        run.control(pause=True)
        asked = [{}, {"steps": 2}]
        assert writer.obey(watcher) == "go"
        assert states == ["paused", "paused"]
        assert writer.control() == Control(pause=True, steps=1, stop=False)
        assert writer.obey(watcher) == "go"
        asked = [{"pause": False}]
        assert writer.obey(watcher) == "go"
        assert run.status().state == "running"
        run.control(pause=True)
        asked = [{"stop": True}]
        assert writer.obey(watcher) == "stop"


def test_a_new_writer_forgets_what_was_asked_of_the_last(tmp_path: Path) -> None:
    with claim(tmp_path / "r") as writer:
        writer.run.control(stop=True)
        assert writer.obey() == "stop"
    with claim(tmp_path / "r") as writer:
        assert writer.obey() == "go"


def test_done_stamps_and_log(tmp_path: Path) -> None:
    with claim(tmp_path / "r") as writer:
        assert not writer.is_done("tokenize")
        writer.mark_done("tokenize", items=12)
        assert (writer.path / "tokenizer" / "done.json").is_file()
        stamp = writer.run.done("tokenize")
        writer.log("hello")
    assert stamp is not None
    assert stamp["items"] == 12
    assert writer.is_done("tokenize")
    assert writer.run.log_tail().endswith(" hello")
