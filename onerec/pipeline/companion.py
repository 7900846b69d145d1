"""A second process beside a run's own: reward model, baselines and lists, while OneRec trains.

A narrow model gains little from a second thread (on two cores, `tiny`: 102 ms a step with one, 106
with two; `small`: 288 and 237), so where there is another core a `Companion` works there, each with
one thread. It writes the files that the stages would write, by the same functions, and what it did
not get to is done by the stage that needs it. It ends when the process that started it does.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from onerec.assembly import Setting, setting_of
from onerec.common import cores, keep_memory, pick_device, set_threads
from onerec.data.exposures import learnable, with_positive
from onerec.pipeline.pscore import CURVE, FOLDER, train_pscore
from onerec.pipeline.rivals import (
    BEFORE,
    ENDS,
    finished_rival,
    keep_made,
    list_before,
    list_ends,
    threads_for,
    train_rival,
)
from onerec.recipes import Recipe
from onerec.run_files import write_json
from onerec.runs import Run

POLL_SECONDS = 0.05
SHORT = 100  # a training of fewer steps is over before a companion has begun


def worth_a_companion(recipe: Recipe, device: torch.device) -> bool:
    """Whether a second process shortens the run: a narrow model, a long training, a free core."""
    if threads_for(recipe, device) is None or recipe.train.steps < SHORT:
        return False
    return cores() > 1


class Companion:
    """The other process. Call `stop` when it is no longer wanted."""

    def __init__(self, run: Run) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "onerec.pipeline.companion", str(run.path)],
            stdin=subprocess.PIPE,  # a lifeline: it closes when this process ends, however it ends
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def works(self) -> bool:
        """Whether more may still come of it. What it failed at is done, and told, by the caller."""
        return self._process.poll() is None

    def stop(self) -> None:
        """End it, at once."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()


def _end_with_the_starter() -> None:
    os.read(0, 1)  # returns when the other end of the pipe is gone
    os._exit(1)


def _main(path: str) -> None:
    threading.Thread(target=_end_with_the_starter, daemon=True).start()
    run = Run(Path(path))
    setting = setting_of(run)
    device = pick_device(setting.recipe.device)
    keep_memory()
    set_threads(threads_for(setting.recipe, device))
    _reward_beside(run, setting, device)
    folder = run.path / "baselines"
    for name in setting.recipe.baselines.names:
        if finished_rival(folder, name) is None:
            train_rival(folder, setting, name, device)
    keep_made(run, ENDS, list_ends(setting))
    while not (run.is_done("pretrain") and run.is_done("reward")):
        time.sleep(POLL_SECONDS)
    if setting.recipe.align.steps and (run.done("reward") or {}).get("checkpoint"):
        keep_made(run, BEFORE, list_before(run, setting, device))


def _reward_beside(run: Run, setting: Setting, device: torch.device) -> None:
    """The reward model, which needs the tokenizer's vectors and not the policy."""
    found = learnable(with_positive(setting.split.log), setting.split.train)
    if not setting.recipe.reward.steps or not found.names or run.is_done("reward"):
        return
    while not run.is_done("tokenize"):
        time.sleep(POLL_SECONDS)
    lines: list[dict[str, float]] = []

    def tell(step: int, values: Mapping[str, float], logged: bool) -> None:
        if logged:
            lines.append({"step": step, **values})
            if step == setting.recipe.reward.steps:
                write_json(run.path / FOLDER / CURVE, {"lines": lines})

    train_pscore(run, setting, found, device, tell)


if __name__ == "__main__":
    _main(sys.argv[1])
