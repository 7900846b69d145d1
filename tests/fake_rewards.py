"""A reward model's files for a run folder that `fake_run` wrote, in the real format.

Three towers: click and long_view have enough positives, like has too few to be sure of; `follow`
was left out. The policy steps have a part for each tower and for the fused score; item 7 is one
that the recorded industrial rule halves.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fake_rollouts import CODES, LEVELS, rollout

from onerec.rollouts import Rollout, write_rollout

BEHAVIOURS = {"click": 400, "long_view": 150, "like": 12}
ROWS = 1000
STEPS = (1, 10)
WEIGHTS = {"pscore": 1.0, "click": 0.0, "long_view": 0.0, "like": 0.5}


def report() -> dict[str, Any]:
    """What `onerec.pipeline.reward` writes to report.json."""
    measured = {
        name: {"rows": ROWS, "positives": positives}
        | {"auc": 0.75 + place / 100, "gauc": 0.7 + place / 100}
        | {"fused_auc": 0.74 + place / 50, "fused_gauc": 0.72 - place / 100}
        for place, (name, positives) in enumerate(BEHAVIOURS.items())
    }
    product = {"click": 0.69, "long_view": 0.72}
    rounds = [
        {"weights": {"click": 1.0, "long_view": weight, "like": 1.0}}
        | {"gauc": {"click": 0.71, "long_view": reached}, "product_gauc": product}
        for weight, reached in ((1.0, 0.7), (1.5, 0.71))
    ]
    return {
        "part": "valid",
        "rows": ROWS,
        "behaviours": measured,
        "weights": rounds[-1]["weights"],
        "rounds": rounds,
        "best": 1,
        "converged": False,
        "losing": ["long_view"],
        "left_out": {"follow": "no row of train says yes"},
        "calibration": {name: _bins(count / ROWS) for name, count in BEHAVIOURS.items()},
    }


def _bins(rate: float) -> list[dict[str, float]]:
    """Ten parts whose predictions rise; the first one never happened, the last one is too high."""
    predicted = rate * np.linspace(0.02, 1.98, 10)
    observed = predicted.round(2)
    observed[0], observed[-1] = 0.0, 0.5 * predicted[-1]
    return [
        {"predicted": float(p), "observed": float(o), "rows": ROWS // 10}
        for p, o in zip(predicted, observed, strict=True)
    ]


def step(number: int) -> Rollout:
    """The groups of `fake_rollouts`, scored by the towers."""
    groups, random = rollout(number), np.random.default_rng(number)
    shape = tuple(groups.item.shape)
    parts = {name: random.random(shape) * scale for name, scale in _scales().items()}
    for part in parts.values():
        part[groups.item.numpy() < 0] = 0.0  # nobody's codes score nothing
        part[0] = part[0, 0]  # the first group is flat
    groups.parts = {name: torch.from_numpy(part).float() for name, part in parts.items()}
    groups.weights = dict(WEIGHTS)
    assert groups.codes.shape[-1] == LEVELS
    assert int(groups.codes.max()) < CODES
    return groups


def _scales() -> Mapping[str, float]:
    return {"pscore": 0.5, "click": 0.8, "long_view": 0.6, "like": 0.05}


def build(run: Path, *, steps: tuple[int, ...] = STEPS, rival: bool = False) -> Path:
    """Write the reward stage and some policy steps into a run folder."""
    folder = run / "reward"
    folder.mkdir(exist_ok=True)
    done = {"finished": 1.0, "checkpoint": "checkpoint-000020.safetensors", "seconds": 2.0}
    done |= {"behaviours": list(BEHAVIOURS), "dataset": "0" * 64}
    write(folder / "done.json", done)
    write(folder / "report.json", report())
    if rival:
        trees = {
            "click": {"trees": 90, "auc": 0.7, "gauc": 0.68},
            "long_view": {"trees": 80, "auc": None, "gauc": 0.73},
            "like": {"trees": 0, "auc": None, "gauc": None},
        }
        measured = {"part": "valid", "rows": {"train": 5 * ROWS, "valid": ROWS}, "seconds": 2.0}
        write(folder / "rival.json", {"model": "trees", "behaviours": trees, **measured})
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as log:
        log.writelines(json.dumps(_line(number)) + "\n" for number in range(1, 21))
    for number in steps:
        write_rollout(run / "rollouts" / f"step-{number:06d}.parquet", step(number))
    return run


def write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def _line(number: int) -> dict[str, object]:
    line: dict[str, object] = {"stage": "reward", "step": number, "of": 26, "seconds": number * 0.1}
    line |= dict.fromkeys(BEHAVIOURS, 0.7 * 0.95**number)
    return line | {"loss": 2.0, "fused": 0.69 - number / 100, "grad_norm": 1.0, "lr": 0.002}
