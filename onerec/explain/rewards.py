"""What a run's reward model learned: its towers, its calibration, its weights.

Reads reward/ (report.json, and rival.json where trees were trained on the same features) and the
lines of stage `reward` in metrics.jsonl. The composer, which ranks recorded groups by another
reward, stands in `onerec.explain.composer`, and is named here, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from onerec.errors import RunError
from onerec.explain import training
from onerec.explain.composer import (
    RECORDED,
    TOP,
    Composed,
    Rule,
    composed,
    composed_group,
    composed_parts,
    industrial_columns,
    industrial_values,
    recorded_weights,
    users,
)
from onerec.explain.query import empty
from onerec.runs import Run, read_json

__all__ = [
    "RECORDED",
    "TOP",
    "Composed",
    "Rule",
    "calibration",
    "composed",
    "composed_group",
    "composed_parts",
    "has_rival",
    "industrial_columns",
    "industrial_values",
    "learning",
    "left_out",
    "recorded_weights",
    "report",
    "rounds",
    "towers",
    "users",
    "verdict",
    "wilson",
]

FEW = 50  # positives on valid below which a behaviour has no voice (`onerec.pipeline.pscore`)
Z95 = 1.959964
TOWER_COLUMNS = (
    *("behaviour", "rows", "positives", "auc", "gauc", "fused_auc", "fused_gauc"),
    *("product_gauc", "rival_auc", "rival_gauc", "weight", "note"),
)
ROUND_COLUMNS = ("round", "behaviour", "weight", "gauc", "product_gauc", "kept", "gap")
CALIBRATION_COLUMNS = (
    *("behaviour", "bin", "predicted", "observed", "low", "high", "rows", "within"),
)


def report(run: Run) -> dict[str, Any]:
    """reward/report.json, {} where the stage was skipped or has not finished."""
    path = run.path / "reward" / "report.json"
    return read_json(path) if path.is_file() else {}


def has_rival(run: Run) -> bool:
    """Whether trees were measured beside the towers."""
    return (run.path / "reward" / "rival.json").is_file()


def towers(run: Run, *, rival: bool = True) -> pd.DataFrame:
    """One row per behaviour, that with most positives first; see `TOWER_COLUMNS`.

    auc and gauc of its own tower, fused_* of the fused score on this behaviour, product_gauc of
    all towers multiplied, rival_* of gradient-boosted trees where `rival` and they were trained;
    NaN where unknown. `weight` is the behaviour's in the fused loss.
    """
    with _whole(run):
        known = report(run)
        measured = known.get("behaviours") or {}
        trees: dict[str, Any] = {}
        if rival and has_rival(run):
            trees = read_json(run.path / "reward" / "rival.json")["behaviours"]
        product = _kept(known).get("product_gauc") or {} if known else {}
        rows = []
        for name, row in measured.items():
            entry = {"behaviour": name, **row, "product_gauc": product.get(name)}
            entry |= {f"rival_{key}": (trees.get(name) or {}).get(key) for key in ("auc", "gauc")}
            entry["weight"] = known["weights"][name]
            rows.append(entry | {"note": _note(row["positives"], entry["weight"])})
        frame = pd.DataFrame(rows, columns=list(TOWER_COLUMNS)) if rows else empty(TOWER_COLUMNS)
        numbers = dict.fromkeys(TOWER_COLUMNS[3:-1], "float64")
        frame = frame.astype(numbers).sort_values("positives", ascending=False, kind="stable")
        return frame.reset_index(drop=True)


def _note(positives: int, weight: float) -> str:
    few = f"only {positives} positive{'s' * (positives != 1)}: these numbers are noise"
    notes = [few] if positives < FEW else []
    notes += ["not wished for: it has no weight in the fused score"] if weight == 0 else []
    return "; ".join(notes)


def rounds(run: Run) -> pd.DataFrame:
    """round, behaviour, weight, gauc (fused score), product_gauc, kept, gap = gauc - product_gauc.

    Each round trains the fusion with its weights; the behaviour that lost most against the product
    of the towers gets more weight in the next; the model is that of the `kept` round. GAUCs are NaN
    for behaviours without a voice.
    """
    rows = []
    with _whole(run):
        known = report(run)
        for number, one in enumerate(known.get("rounds") or []):
            kept = one is _kept(known)
            reached, product = one.get("gauc") or {}, one.get("product_gauc") or {}
            for name, weight in one["weights"].items():
                pair = (float(part.get(name, np.nan)) for part in (reached, product))
                rows.append((number, name, float(weight), *pair, kept))
    if not rows:
        return empty(ROUND_COLUMNS)
    frame = pd.DataFrame(rows, columns=list(ROUND_COLUMNS[:-1]))
    return frame.assign(gap=frame["gauc"] - frame["product_gauc"])


def _kept(known: dict[str, Any]) -> dict[str, Any]:
    """The round whose model was kept; reports from before there was a choice kept the last."""
    found: dict[str, Any] = known["rounds"][known.get("best", -1)]
    return found


def verdict(run: Run) -> str:
    """Whether the weights satisfy Pantheon's rule, in one sentence; nothing where it is not told.

    Reports from before the rule was told say nothing.
    """
    with _whole(run):
        known = report(run)
        if "converged" not in known:
            return ""
        best, last = int(known["best"]), len(known["rounds"]) - 1
        if not known["rounds"][best]["gauc"]:
            return (
                "Whether the weights satisfy Pantheon's rule is not known: each behaviour has too "
                "few positives on valid."
            )
        if known["converged"]:
            return (
                f"With the weights of round {best} Pantheon's rule is satisfied: on no behaviour "
                "does the fused score lose against the product of the towers."
            )
        losing = ", ".join(name.replace("_", " ") for name in known["losing"])
        return (
            f"Pantheon's rule is not satisfied: after round {last} the fused score still lost, and "
            f"the weights of round {best} are kept, where the fewest behaviours lose, and least: "
            f"{losing}."
        )


def calibration(run: Run) -> pd.DataFrame:
    """Tenths of the rows by prediction: behaviour, bin, predicted, observed, low, high, rows.

    low and high are the 95% (Wilson) interval of what happened; `within`: the prediction lies in
    it.
    """
    rows = []
    with _whole(run):
        for name, bins in (report(run).get("calibration") or {}).items():
            for number, one in enumerate(bins, 1):
                predicted, observed = float(one["predicted"]), float(one["observed"])
                low, high = wilson(observed, int(one["rows"]))
                within = low <= predicted <= high
                row = (name, number, predicted, observed, low, high, int(one["rows"]), within)
                rows.append(row)
    columns = list(CALIBRATION_COLUMNS)
    return pd.DataFrame(rows, columns=columns) if rows else empty(columns)


def wilson(share: float, rows: int) -> tuple[float, float]:
    """The 95% interval of a share of `rows` rows."""
    square = Z95**2 / rows
    middle = (share + square / 2) / (1 + square)
    half = Z95 / (1 + square) * math.sqrt(share * (1 - share) / rows + square / (4 * rows))
    return max(0.0, middle - half), min(1.0, middle + half)


def left_out(run: Run) -> pd.DataFrame:
    """behaviour, why: what the dataset has, but no tower could learn."""
    with _whole(run):
        found = (report(run).get("left_out") or {}).items()
    return pd.DataFrame(list(found), columns=["behaviour", "why"]) if found else empty(
        ["behaviour", "why"]
    )  # fmt: skip


def learning(run: Run) -> pd.DataFrame:
    """metric, step, seconds, value: the loss of each tower, and of the fused score."""
    frame = training.curves(run, "reward")
    kept = ~frame["metric"].isin(["loss", "lr", "grad_norm"])
    return frame[kept].reset_index(drop=True)


@contextmanager
def _whole(run: Run) -> Iterator[None]:
    """Turn what a report lacks into one line that names the folder and the next command."""
    folder: Path = run.path / "reward"
    try:
        yield
    except (KeyError, ValueError, IndexError, TypeError, AttributeError) as error:
        raise RunError(
            f"{folder}: not a whole report ({error!r}); run `onerec reward --run {run.name}` again"
        ) from None
