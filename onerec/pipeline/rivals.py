"""The baselines of a run: tuned on valid, listed for the cases that are reported, kept on disk.

A companion that trains them beside the policy trains the reward model first.

Each leaves baselines/<name>.safetensors (its lists) and baselines/<name>.json (what was tried),
written last, so that a finished one is never trained twice.

A narrow model gains little from a second thread (on two cores, `tiny`: 102 ms a step with one, 106
with two; `small`: 288 and 237), so where there is another core a `Companion`, a process of its own,
trains the baselines while OneRec trains, each with one thread. It writes the same files by the
same function, and it ends when the process that started it does.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from onerec.assembly import Setting, setting_of
from onerec.baselines import item_knn, popularity, sasrec
from onerec.baselines.ranking import Baseline
from onerec.checkpoint import load_tensors, save_tensors
from onerec.common import cores, generator, keep_memory, pick_device, set_threads
from onerec.data.exposures import learnable, with_positive
from onerec.data.split import Cases
from onerec.errors import DataError
from onerec.evaluate import Tuned, tune
from onerec.pipeline.pscore import CURVE, FOLDER, train_pscore
from onerec.recipes import Recipe
from onerec.run_files import read_json, write_json
from onerec.runs import Run

LISTED = 20  # ranks that are kept
NARROW = 128  # a model below this width trains on one thread
POLL_SECONDS = 0.05
SHORT = 100  # a training of fewer steps is over before a companion has begun


@dataclass(frozen=True)
class Rival:
    """A finished baseline: its lists (M, LISTED) and the seconds that tuning and listing took."""

    lists: NDArray[np.int64]
    seconds: float


def cases_of(setting: Setting) -> Cases:
    """The cases of the part that the recipe names.

    Raises:
        DataError: the split leaves nobody to evaluate.
    """
    part = setting.recipe.evaluate.part
    cases: Cases = getattr(setting.split, part)
    if not len(cases):
        raise DataError(
            f"{setting.dataset.name!r}: the split {setting.split.rule!r} leaves no user with a "
            f"{part} target and a history; try --set evaluate.split=leave_one_out"
        )
    return cases


def train_rival(folder: Path, setting: Setting, name: str, device: torch.device) -> Rival:
    """Tune a baseline on valid, list its items and write both into `folder`."""
    begun = time.perf_counter()
    config = setting.recipe.evaluate
    grid, fit = _grid_and_fit(setting, name, device)
    chosen = setting.recipe.baselines
    trials = min(chosen.sasrec_trials if name == "sasrec" else chosen.trials, len(grid))
    tuned: Tuned[Any] = tune(
        grid, fit, setting.split, trials=trials, exclude_seen=config.filter_seen
    )
    lists = tuned.model.recommend(setting.split, cases_of(setting), LISTED, config.filter_seen)
    lists = np.ascontiguousarray(lists, dtype=np.int64)
    seconds = time.perf_counter() - begun
    said = {"name": name, "config": vars(tuned.config), "trials": tuned.trials, "seconds": seconds}
    save_tensors(folder / f"{name}.safetensors", {"lists": torch.from_numpy(lists)})
    write_json(folder / f"{name}.json", said)
    return Rival(lists, seconds)


def finished_rival(folder: Path, name: str) -> Rival | None:
    """What an earlier process or the companion left, if it is whole."""
    if not (folder / f"{name}.json").is_file():
        return None
    lists = load_tensors(folder / f"{name}.safetensors")["lists"].numpy()
    return Rival(lists, float(read_json(folder / f"{name}.json")["seconds"]))


def _grid_and_fit(
    setting: Setting, name: str, device: torch.device
) -> tuple[tuple[Any, ...], Callable[[Any], Baseline]]:
    """The grid of a baseline and how one of its settings is fitted."""
    seed = setting.recipe.seed
    if name == "popularity":
        return popularity.GRID, lambda c: popularity.fit(setting.split, c, generator(seed))
    if name == "item_knn":
        # Counting common users is most of the work, and there are only two ways to count.
        overlap = functools.cache(lambda positives: item_knn.co_users(setting.split, positives))
        return item_knn.GRID, lambda c: item_knn.fit(
            setting.split, c, generator(seed), overlap(c.positives_only)
        )
    chosen = setting.recipe.baselines
    size: dict[str, Any] = {
        "width": chosen.sasrec_width,
        "steps": chosen.sasrec_steps,
        "batch_size": chosen.sasrec_batch_size,
    }
    grid = tuple(replace(c, **size) for c in sasrec.GRID)
    return grid, lambda c: sasrec.fit(setting.split, c, generator(seed), device=device)


def threads_for(recipe: Recipe, device: torch.device) -> int | None:
    """One CPU thread for a narrow model, else as many as there are (None)."""
    return 1 if device.type == "cpu" and recipe.model.width < NARROW else None


def worth_a_companion(recipe: Recipe, device: torch.device) -> bool:
    """Whether a second process shortens the run: a narrow model, a long training, a free core."""
    if threads_for(recipe, device) is None or recipe.train.steps < SHORT:
        return False
    return cores() > 1


class Companion:
    """A process that trains the baselines of a run. Call `stop` when it is no longer wanted."""

    def __init__(self, run: Run) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "onerec.pipeline.rivals", str(run.path)],
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
    sys.stdin.buffer.read()  # returns when the other end of the pipe is gone
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
