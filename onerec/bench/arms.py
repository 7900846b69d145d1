"""Alignments that are compared: arms from one checkpoint, with the same batches, users and seeds.

An arm is a name of `ARMS`, or several joined by `+`; `@W` sets the weight of the policy's loss and
a second `@R` the learning rate: `pscore+beam@0.3@0.0001`. `tiltT` draws the policy to the
pre-trained one times reward^T, with any number above 0: `long_view+beam+tilt2.5@4`. `none` has the
same next-token steps and no reward, and is kept at every evaluated step, so that an arm whose
checkpoint is an early one stands beside `none` of the same step: equal next-token steps.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from onerec.assembly import Setting
from onerec.common import pick_device
from onerec.errors import OneRecError, RunError
from onerec.loop import loop
from onerec.pipeline.align import Aligning, Valid, policy_config
from onerec.recipes import Recipe
from onerec.rewards import FUSED
from onerec.runs import Run

NONE, TILT = "none", "tilt"
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
    """The recipe of an arm such as `pscore+beam@0.3@0.0001`."""
    names, *numbers = arm.split("@")
    changes: dict[str, Any] = {}
    for name in names.split("+"):
        tilted = name.removeprefix(TILT)
        changes |= ARMS[name] if tilted == name else {"tilt": float(tilted)}
    changes |= dict(zip(("weight", "learning_rate"), map(float, numbers), strict=False))
    return replace(base, seed=seed, align=replace(base.align, **changes))


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
) -> list[dict[str, Any]]:
    """Every case of `work` by a process of its own, `jobs` at once; what is done is not repeated.

    A case is `python -m onerec.bench.MODULE WORDS --one CASE --out PART`. Returns the parts of all
    calls with this folder, in the order of their file names. `settings` is what they must share to
    be compared, by default the words.

    Raises:
        RunError: the folder has parts of other settings.
        CalledProcessError: a case failed; the others' parts stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _refuse_others(folder, dict(settings or {"words": list(words)}))

    def one(case: str) -> None:
        part = folder / f"{case.replace(':', '-')}.json"
        if not part.exists():
            command = [sys.executable, "-m", f"onerec.bench.{module}", *words, "--one", case]
            subprocess.run([*command, "--out", str(part)], check=True)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, work))
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


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


def failed(error: OneRecError | subprocess.CalledProcessError) -> int:
    """Say in one line what ended a comparison, a part by its case; the exit status."""
    if isinstance(error, OneRecError):
        print(f"error: {error}", file=sys.stderr)
        return 2
    case = error.cmd[error.cmd.index("--one") + 1]
    print(f"error: {case} failed, see above; the same command goes on", file=sys.stderr)
    return 1


def write_part(done: dict[str, Any], path: Path) -> None:
    """A part that is there is whole."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(done))
    temporary.replace(path)
