"""What a companion leaves is what is made here, and it ends with the process that started it."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy_home

from onerec.assembly import setting_of
from onerec.common import set_threads
from onerec.pipeline import run, stages
from onerec.pipeline.companion import Companion, worth_a_companion
from onerec.pipeline.rivals import (
    BEFORE,
    ENDS,
    finished_rival,
    list_before,
    made_before,
    threads_for,
    train_rival,
)
from onerec.recipes import recipe
from onerec.run_files import process_lives, read_json
from onerec.runs import Run, open_run

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
NAMES = ("popularity", "item_knn", "sasrec")


def without_times(said: dict[str, Any]) -> dict[str, Any]:
    trials = [{k: v for k, v in trial.items() if k != "seconds"} for trial in said["trials"]]
    return {"name": said["name"], "config": said["config"], "trials": trials}


def wait_for(what: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def test_a_companion_leaves_what_training_here_leaves(finished: Path, tmp_path: Path) -> None:
    done = open_run("first", finished)
    folder = done.path / "baselines"
    for file in folder.iterdir():
        file.unlink()
    companion = Companion(done)
    wait_for(lambda: not companion.works())
    companion.stop()
    setting = setting_of(done)
    set_threads(threads_for(setting.recipe, CPU))
    for name in NAMES:
        theirs = finished_rival(folder, name)
        here = train_rival(tmp_path, setting, name, CPU)
        assert theirs is not None
        assert np.array_equal(theirs.lists, here.lists)
        told = [read_json(where / f"{name}.json") for where in (folder, tmp_path)]
        assert without_times(told[0]) == without_times(told[1])


def test_a_run_with_a_companion_ends_with_the_numbers_of_one_without(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for name, wanted in (("alone", False), ("accompanied", True)):
        monkeypatch.setattr(stages, "worth_a_companion", lambda *_, answer=wanted: answer)
        made = run(name, toy_home.make_recipe(), "toy", home=home)
        result = made.evaluate()
        assert result is not None
        results.append({m: v["recall@10_ci"] for m, v in result["models"].items()})
        results.append({m: v["ndcg@10"] for m, v in result["models"].items()})
    assert results[:2] == results[2:]


def test_what_a_companion_cannot_do_is_done_here(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(Companion):
        def __init__(self, run: Run) -> None:
            self._process = subprocess.Popen([sys.executable, "-c", "1/0"], stdin=subprocess.PIPE)
            self._process.wait()

    monkeypatch.setattr(stages, "worth_a_companion", lambda *_: True)
    monkeypatch.setattr(stages, "Companion", Broken)
    result = run("b", toy_home.make_recipe(), "toy", home=home).evaluate()
    assert result is not None
    assert set(result["models"]) == {"onerec", *NAMES}


def test_a_companion_ends_with_the_process_that_started_it(finished: Path) -> None:
    """However it ends: the starter is killed while the companion still has work to do."""
    done = open_run("first", finished)
    for file in (done.path / "baselines").iterdir():
        file.unlink()
    starter = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from pathlib import Path\n"
            "from onerec.runs import Run; from onerec.pipeline.companion import Companion\n"
            f"c = Companion(Run(Path({str(done.path)!r}))); print(c._process.pid, flush=True)\n"
            "time.sleep(600)",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert starter.stdout is not None
    pid = int(starter.stdout.readline())
    started = started_at(pid)
    starter.kill()
    starter.wait()
    starter.stdout.close()
    wait_for(lambda: not process_lives(pid, started))


def started_at(pid: int) -> float:
    import psutil

    return float(psutil.Process(pid).create_time())


def test_stop_ends_it_at_once(finished: Path) -> None:
    companion = Companion(open_run("first", finished))
    companion.stop()
    assert not companion.works()


def test_only_a_narrow_model_with_a_long_training_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    tiny = recipe("tiny")
    assert worth_a_companion(tiny, CPU)
    assert threads_for(tiny, CPU) == 1
    wide = recipe("tiny", {"model.width": "128"})
    assert not worth_a_companion(wide, CPU)
    assert threads_for(wide, CPU) is None
    assert not worth_a_companion(tiny, torch.device("cuda"))
    assert not worth_a_companion(recipe("tiny", {"train.steps": "50"}), CPU)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert not worth_a_companion(tiny, CPU)
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    assert not worth_a_companion(tiny, CPU)


def test_a_companion_lists_the_policy_before_alignment_too(aligned: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(aligned, home)
    done = open_run("first", home)
    companion = Companion(done)
    wait_for(lambda: not companion.works())
    companion.stop()
    made = made_before(done, BEFORE)
    assert made is not None
    here = list_before(done, setting_of(done), CPU)
    assert np.array_equal(made[BEFORE], here[BEFORE])
    assert made_before(done, ENDS) == {}


def test_it_waits_for_what_it_is_told_by_the_reward_stage(aligned: Path, tmp_path: Path) -> None:
    """The stage is done a moment after pre-training: who looked once would list nothing."""
    home = tmp_path / "home"
    shutil.copytree(aligned, home)
    done = open_run("first", home)
    said = done.path / "reward" / "done.json"
    told = said.read_bytes()
    said.unlink()
    companion = Companion(done)
    wait_for(lambda: made_before(done, ENDS) is not None)
    assert companion.works()
    assert made_before(done, BEFORE) is None
    said.write_bytes(told)
    wait_for(lambda: not companion.works())
    companion.stop()
    assert made_before(done, BEFORE) is not None
