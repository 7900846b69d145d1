"""Alignments that are compared: arms from one checkpoint, with the same batches, users and seeds.

An arm is a name of `ARMS`, or several joined by `+`; `@W` sets the weight of the policy's loss and
a second `@R` the learning rate: `pscore+beam@0.3@0.0001`. `tiltT` draws the policy to the
pre-trained one times reward^T, with any number above 0: `long_view+beam+tilt2.5@4`. `none` has the
same next-token steps and no reward, and is kept at every evaluated step, so that an arm whose
checkpoint is an early one stands beside `none` of the same step: equal next-token steps.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch

from onerec.assembly import Setting
from onerec.bench.mistakes import log_of
from onerec.common import pick_device
from onerec.errors import RecipeError, RunError
from onerec.loop import loop
from onerec.pipeline.align import Aligning, Valid, policy_config
from onerec.recipes import Recipe, recipe
from onerec.rewards import FUSED
from onerec.runs import Run
from onerec.settings import listed, nearest

NONE, TILT = "none", "tilt"
NUMBERS = ("weight", "learning_rate")  # of an arm, behind its name
LOOKS = 4  # on valid, in a training
SETTINGS = "settings"  # the file beside parts that says what they share; no part itself
LEAST_RECALL = 0.98  # of that without a reward
ARMS: dict[str, dict[str, Any]] = {
    NONE: {"weight": 0.0},
    "pscore": {"reward": FUSED},
    "long_view": {"reward": "long_view"},
    "grpo": {"objective": "grpo"},
    "gbpo": {"objective": "gbpo"},
    "dpo": {"objective": "dpo"},
    "beam": {"search": "beam"},
    "sampled": {"search": "sample"},
    "off_policy": {"lag": 1_000_000},  # the pre-trained reference draws
    "lag1000": {"lag": 1_000},
    **{f"g{size}": {"group": size} for size in (32, 128, 512, 2_048)},
    "u16": {"users": 16},  # with groups of 512 as many items a step as 64 users with 128
}


def arm_recipe(base: Recipe, arm: str, seed: int) -> Recipe:
    """The recipe of an arm such as `pscore+beam@0.3@0.0001`.

    Raises:
        RecipeError: a part of the name that is not known, or a number that is none.
    """
    names, *numbers = arm.split("@")
    changes: dict[str, Any] = {}
    for name in names.split("+"):
        if name in ARMS:
            changes |= ARMS[name]
        elif name.startswith(TILT):
            changes["tilt"] = _number(name.removeprefix(TILT), arm)
        else:
            raise RecipeError(
                f"no arm {arm!r}: {name!r}{nearest(name, ARMS)}; there are {listed(ARMS)}, "
                f"{TILT}T and several joined by '+'"
            )
    if len(numbers) > len(NUMBERS):
        raise RecipeError(f"no arm {arm!r}: at most a weight and a learning rate behind '@'")
    changes |= dict(zip(NUMBERS, (_number(text, arm) for text in numbers), strict=False))
    return replace(base, seed=seed, align=replace(base.align, **changes))


def _number(text: str, arm: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise RecipeError(f"no arm {arm!r}: {text!r} is no number from 0 on")
    return value


def named_arms(text: str) -> list[str]:
    """The arms of a list with commas, each of which `arm_recipe` knows.

    Raises:
        RecipeError: one of them it does not know.
    """
    arms = text.split(",")
    for arm in arms:
        arm_recipe(recipe("small"), arm, 0)
    return arms


@dataclass
class Trained:
    """An arm after its training; `aligning` holds the weights of the step asked for last."""

    aligning: Aligning
    curve: list[dict[str, float]] = field(default_factory=list)
    kept: dict[int, dict[str, torch.Tensor]] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def valid(self) -> dict[int, Valid]:
        """recall@10 and reward on valid, by step."""
        return self.aligning.valid

    def at(self, step: int) -> Aligning:
        """The alignment with the weights of an evaluated step."""
        self.aligning.alignment.model.load_state_dict(self.kept[step])
        return self.aligning

    def keep(self, step: int) -> dict[str, float]:
        """Measure on valid and keep the weights."""
        measured = self.aligning.evaluate(step)
        state = self.aligning.alignment.model.state_dict()
        self.kept[step] = {name: tensor.detach().clone() for name, tensor in state.items()}
        return measured


def train_arm(
    run: Run, setting: Setting, arm: str, seed: int, steps: int | None = None, looks: int = LOOKS
) -> Trained:
    """Align one arm from the run's pre-trained policy; evaluated `looks` times on valid.

    The learning rate falls over `steps`, by default the recipe's.
    """
    chosen = arm_recipe(setting.recipe, arm, seed)
    steps = steps or chosen.align.steps
    chosen = replace(chosen, align=replace(chosen.align, steps=steps))
    setting = replace(setting, recipe=chosen)
    device = pick_device(chosen.device)
    policy = policy_config(chosen, setting.dataset)
    trained = Trained(Aligning(run, setting, device, policy=policy))
    begun = time.perf_counter()
    trained.keep(0)
    for result in loop(trained.aligning.trainee(), steps=steps, seed=seed, device=device):
        if result.step % max(1, steps // looks) == 0:
            measured = trained.keep(result.step)
            trained.curve.append({"step": result.step, **result.values, **measured})
    trained.seconds = round(time.perf_counter() - begun, 1)
    return trained


def choose(valid: dict[int, Valid], base: dict[int, float]) -> int:
    """The step with the most reward that keeps its recall; else the one that loses least."""
    share = {s: value.recall / max(base[s], 1e-9) for s, value in valid.items() if s in base and s}
    fit = [s for s in share if share[s] >= LEAST_RECALL]
    return max(fit, key=lambda s: valid[s].reward) if fit else max(share, key=lambda s: share[s])


def in_parts(
    module: str,
    words: Sequence[str],
    work: Sequence[str],
    folder: Path,
    jobs: int,
    settings: Mapping[str, Any] | None = None,
    only: bool = False,
) -> list[dict[str, Any]]:
    """Every case of `work` by a process of its own, `jobs` at once; what is done is not repeated.

    A case is `python -m onerec.bench.MODULE WORDS --one CASE --out PART`. Returns the parts of all
    calls with this folder, in the order of their file names; with `only` those of `work` alone, in
    its order. `settings` is what they must share to be compared, by default the words. What a case
    says on stderr stands beside its part. Where there are several GPUs each process sees one of
    them as cuda:0, and they have as many processes each; a recipe that names one by number is
    refused then: set CUDA_VISIBLE_DEVICES instead.

    Raises:
        RecipeError: `jobs` is below 1.
        RunError: the folder has parts of other settings.
        CalledProcessError: a case failed; the others' parts stay.
    """
    if jobs < 1:
        raise RecipeError(f"--jobs {jobs}: at least 1")
    folder.mkdir(parents=True, exist_ok=True)
    _refuse_others(folder, dict(settings or {"words": list(words)}))
    free: SimpleQueue[dict[str, str]] = SimpleQueue()
    for place in _places(jobs):
        free.put(place)

    def path_of(case: str) -> Path:
        return folder / f"{case.replace(':', '-')}.json"

    def one(case: str) -> None:
        part = path_of(case)
        if part.exists():
            return
        command = [sys.executable, "-m", f"onerec.bench.{module}", *words, "--one", case]
        log, place = log_of(part), free.get()
        try:
            with log.open("w") as stderr:
                whole, env = [*command, "--out", str(part)], {**os.environ, **place}
                subprocess.run(whole, check=True, stderr=stderr, env=env)
        finally:
            free.put(place)
            if not log.stat().st_size:
                log.unlink()

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, work))
    found = map(path_of, work) if only else sorted(folder.glob("*.json"))
    return [json.loads(path.read_text()) for path in found]


def _places(jobs: int) -> list[dict[str, str]]:
    """What each of `jobs` processes is told of GPUs: one each, in turn; nothing of one alone."""
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = list(map(str, range(torch.cuda.device_count()))) if told is None else told.split(",")
    if len(names) < 2:
        return [{} for _ in range(jobs)]
    return [{"CUDA_VISIBLE_DEVICES": names[job % len(names)]} for job in range(jobs)]


def _refuse_others(folder: Path, settings: dict[str, Any]) -> None:
    """Keep the settings of a folder's parts beside them; refuse others later."""
    path, wanted = folder / SETTINGS, json.dumps(settings, sort_keys=True)
    if not path.exists():
        path.write_text(wanted)
    elif path.read_text() != wanted:
        raise RunError(
            f"{folder} was made with other settings: {path.read_text()}, not {wanted}; "
            "delete it or choose another --out"
        )


def write_part(done: dict[str, Any], path: Path) -> None:
    """A part that is there is whole."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(done))
    temporary.replace(path)
