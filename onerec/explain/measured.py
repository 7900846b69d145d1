"""What was measured at scale and ships with the library, as tables: more than a small run can show.

Each function reads one file of `onerec/bench/results`; the benchmark of that name has made it.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd

from onerec.explain import paper_tables
from onerec.explain.paper_tables import CUTS

RESULTS = Path(__file__).resolve().parents[1] / "bench" / "results"
HELD = 0.98  # of the valid recall without a reward: the rule of `bench.arms`


def stability(folder: Path = RESULTS) -> pd.DataFrame:
    """lag, rate, objective, seed, growth, low, high, beyond, void, explodes: `bench.stability`.

    `growth` is the largest norm of the policy's gradient over that of the first steps, before
    clipping; `low` and `high` are the 95% interval over seeds of the next-token loss minus ECPO's;
    `beyond` is the share of items with A < 0 above 1 + epsilon + delta. `attrs["note"]` says under
    which conditions.
    """
    found, rows = _read(folder, "stability"), []
    for line in found["lines"]:
        low, high = line["next_token_minus_ecpo"]
        for seed, growth in enumerate(line["policy_norm_growth"]):
            same = {name: line[name] for name in ("lag", "rate", "objective")}
            told = {name: line[name] for name in ("beyond", "void", "explodes")}
            rows.append(same | {"seed": seed, "growth": growth, "low": low, "high": high} | told)
    frame = pd.DataFrame(rows)
    frame.attrs["note"] = found.get("note", "")
    return frame


def legality(folder: Path = RESULTS) -> pd.DataFrame:
    """arm, step, legality, end: the curves of `bench.legality`, and the mean share at the end.

    Step 0 is the policy before alignment, the same for all. The arm `frozen` draws nothing while it
    trains and has its end alone.
    """
    found = _read(folder, "legality")
    rows = []
    for arm, line in found["arms"].items():
        end = line["legality"][0]
        steps = [0, *line.get("curve_steps", ()), found["steps"]]
        values = [found["before"]["legality"], *line.get("curve", ()), end]
        rows += [
            {"arm": arm, "step": step, "legality": value, "end": end}
            for step, value in zip(steps, values, strict=True)
        ]
    return pd.DataFrame(rows)


def worth(folder: Path = RESULTS) -> pd.DataFrame:
    """arm, k, headroom, recall, held; true and predicted, each with its _low and _high.

    `true` and `predicted` are gains of alignment in the mean over the first k items, each arm by
    the reward it was trained on: the truth's, and what the reward model says of the same lists.
    `headroom` is the share that is closed of the way to the best possible k items, `recall` the
    relative change of recall@10 on test. `held`: in every seed the step that was taken has
    `HELD` of the valid recall of the same step without a reward. Made by `bench.worth`.
    """
    result, rows = _read(folder, "worth"), []
    held = _held(result["arms"])
    for arm, line in result["summary"].items():
        target = "long_view" if arm.startswith("long_view") else "pscore"
        for cut in CUTS:
            found = line[f"{target}@{cut}"]
            gain, own = found["gain"], found["own_gain"]
            rows.append(
                {
                    "arm": arm,
                    "k": cut,
                    "true": gain["mean"],
                    "true_low": gain["low"],
                    "true_high": gain["high"],
                    "predicted": own["mean"],
                    "predicted_low": own["low"],
                    "predicted_high": own["high"],
                    "headroom": found["headroom_closed"]["mean"],
                    "recall": line["recall_change"]["mean"],
                    "held": held[arm],
                }
            )
    return pd.DataFrame(rows)


def worth_tables(folder: Path = RESULTS) -> pd.DataFrame:
    """The paper's tables of alignment, ours beside; see `paper_tables.tables` for the columns.

    Made by `bench.worth` with arms of several groups and searches. `attrs["note"]` says under which
    conditions, `attrs["command"]` with which arms.
    """
    found = _read(folder, "worth_tables")
    frame = paper_tables.tables(found)
    frame.attrs |= {"note": found.get("note", ""), "command": found.get("command", "")}
    return frame


def worth_pairs(folder: Path = RESULTS) -> pd.DataFrame:
    """The part of `worth_tables` that is not about groups; see `paper_tables.pairs`."""
    return paper_tables.pairs(worth_tables(folder))


def _held(arms: list[dict[str, Any]]) -> dict[str, bool]:
    """Arm -> whether all its seeds kept valid recall."""

    def part(arm: dict[str, Any]) -> tuple[int, int]:
        return arm.get("prepared", 0), arm["seed"]

    plain = {part(arm): arm["valid"] for arm in arms if arm["arm"] == "none"}
    held: dict[str, bool] = {}
    for arm in arms:
        step = str(arm["step"])
        base = plain.get(part(arm), {}).get(step)  # none where it was not written down
        kept = base is not None and arm["valid"][step][0] >= HELD * base[0]
        held[arm["arm"]] = held.get(arm["arm"], True) and kept
    return held


def _read(folder: Path, name: str) -> dict[str, Any]:
    text = (folder / f"{name}.json").read_text()
    result: dict[str, Any] = json.loads(text, object_hook=_of_one)
    return result


def _of_one(found: dict[str, Any]) -> dict[str, Any]:
    """An interval of one value, whose ends are null, has ends that are not known."""
    return {k: math.nan if v is None and k in ("low", "high") else v for k, v in found.items()}
