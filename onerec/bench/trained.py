"""The pipeline's own pre-training as a benchmark of arms sees it: prepared, watched, measured.

`routers`, `pathways` and `code_quality` train their arms here, so that they cannot differ in how.
The last weights count. Loss is that of a code in nats on valid targets (`bench.lazy.valid_loss`),
without label smoothing and losses of routers.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from onerec.assembly import Setting, setting_of
from onerec.bench.dense import sizes
from onerec.bench.generate import cpu_name
from onerec.bench.lazy import valid_loss
from onerec.bench.paired import bounds, interval
from onerec.common import pick_device
from onerec.errors import DataError
from onerec.loop import StepResult, loop
from onerec.pipeline import run as run_stages
from onerec.pipeline.feeding import prepare_stream
from onerec.pipeline.pretrain import Pretraining, device_name, next_token_order, sample_cases
from onerec.pipeline.session import Session
from onerec.recipes import Recipe
from onerec.run_writer import RunWriter
from onerec.runs import Run

COMPARED = ("loss", "recall@10")


def tokenized(name: str, config: Recipe, dataset: str, home: Path | None) -> Run:
    """The run whose tokenizer every part uses; what is there stays.

    Raises:
        OneRecError: there is nobody in valid, or see `onerec.pipeline.run`.
    """
    run = run_stages(name, config, dataset, home=home, stages=("tokenize",))
    setting = setting_of(run, home)
    if not len(setting.split.valid):
        raise DataError(f"{dataset!r}: nobody in valid to measure on; use another split")
    if not setting.fits(pick_device(setting.recipe.device)):  # by one process, not by every part
        prepare_stream(setting, run, next_token_order(setting))
    return run


def measured_on(setting: Setting, users: int) -> Setting:
    """The setting with at most `users` cases in valid, 0 for all, and each of them measured."""
    valid = sample_cases(setting.split.valid, users or len(setting.split.valid))
    evaluate = replace(setting.recipe.evaluate, valid_users=max(1, len(valid)))
    return replace(
        setting,
        recipe=replace(setting.recipe, evaluate=evaluate),
        split=replace(setting.split, valid=valid),
    )


def new_training(run: Run, setting: Setting) -> Pretraining:
    """The pipeline's own pre-training, of which nothing is saved."""
    return Pretraining(Session(RunWriter(run.path), setting, pick_device(setting.recipe.device)))


def train(training: Pretraining) -> Iterator[StepResult]:
    """From the first step to the last, with nothing between two steps."""
    with training.batches() as batches:
        yield from loop(
            training.trainee(batches),
            steps=training.config.steps,
            clip=training.optim.clip,
            seed=training.setting.recipe.seed,
            device=training.session.device,
        )


def watch(results: Iterable[StepResult], steps: int, name: str) -> list[float]:
    """Seconds of each step, without those of printing."""
    taken: list[float] = []
    before = time.perf_counter()
    for result in results:
        taken.append(time.perf_counter() - before)
        if result.step % max(1, steps // 4) == 0:
            told = f"{sum(taken):6.0f} s {name} {result.step}/{steps} loss {result.loss:.3f}"
            print(told, flush=True)
        before = time.perf_counter()
    return taken


def timed(training: Pretraining, taken: Sequence[float]) -> dict[str, Any]:
    """Where steps were taken, and how long they took."""
    device = training.session.device
    return {
        "device": device_name(device) if device.type == "cuda" else cpu_name(),
        "step_ms": round(1e3 * statistics.median(taken), 4),
        "seconds": round(sum(taken), 3),
    }


def measure(training: Pretraining) -> dict[str, Any]:
    """A trained model on valid, and its size."""
    model, setting = training.model, training.setting
    model.config = replace(model.config, label_smoothing=0.0)
    recall = training.evaluate(training.config.steps)["valid_recall@10"]
    return {
        "loss": round(valid_loss(model, setting), 5),
        "recall@10": round(recall, 5),
        "users": len(setting.split.valid),
        **sizes(model),
    }


def digest(*parts: Any) -> str:
    """A hash of what decides the parts of a comparison, as JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def by_seed(parts: Iterable[Mapping[str, Any]]) -> dict[str, dict[int, Any]]:
    """arm -> seed -> part."""
    found: dict[str, dict[int, Any]] = {}
    for one in parts:
        found.setdefault(one["arm"], {})[one["seed"]] = one
    return found


def differences(
    mine: Mapping[int, Any], others: Mapping[int, Any], names: Sequence[str] = COMPARED
) -> dict[str, Any]:
    """Mine less the other's, paired by seed."""
    seeds = sorted(set(mine) & set(others))
    return {
        name: interval([mine[seed][name] - others[seed][name] for seed in seeds]) for name in names
    }


def apart(found: Mapping[str, Mapping[str, float]]) -> str:
    """Differences with their intervals, for people."""
    return " ".join(f"{d['mean']:+.4f} {bounds(d)}" for d in found.values())
