"""Curves of trainings that should be one: how far apart their losses are, and how fast each was.

A curve is a mapping with `step` and `loss`, lists of equal length, as `curve_of` reads them.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from onerec.runs import Run

ONE, AGAIN = "one", "one_again"  # what all are compared with, and what is only like it
REGROUPED = "regrouped"  # it in another order of sums
KEPT = ("killed_at", "goes_on_from", "mfu", "peak_memory_bytes")
FAR = 0.1  # of the noise, at which a curve is no longer the same; ours
ALIKE = 2.0  # times what another order of sums does, up to which it is that; ours


def curve_of(run: Run, stage: str = "pretrain") -> dict[str, list[float]]:
    """`step` and `loss` of what a stage has logged."""
    found = run.metrics(stage)
    return {"step": found["step"].tolist(), "loss": found["loss"].tolist()}


def rates_of(run: Run, steps: int, stage: str = "pretrain") -> dict[str, float]:
    """Medians over the last half of the steps: `samples_per_second` and `mfu` where it is known."""
    found = run.metrics(stage)
    late = found[2 * found["step"] > steps]
    names = [name for name in ("samples_per_second", "mfu") if name in late]
    return {name: float(statistics.median(late[name])) for name in names}


def from_one(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """How far the loss of the other curve is from that of one, at the steps that both have.

    `largest` and `mean` of the absolute differences over all steps and over the last quarter, whose
    `drift` is the mean difference with its sign.
    """
    base = dict(zip(one["step"], one["loss"], strict=True))
    curve = dict(zip(other["step"], other["loss"], strict=True))
    apart = {step: curve[step] - base[step] for step in base if step in curve}
    late = [value for step, value in apart.items() if 4 * step > 3 * max(base)]

    def told(values: list[float]) -> dict[str, float]:
        sizes = [abs(value) for value in values]
        largest = max(sizes, default=float("nan"))
        return {"largest": round(largest, 7), "mean": round(_mean(sizes), 7)}

    end = told(late) | {"drift": round(_mean(late), 7)}
    return {"all": told(list(apart.values())), "last_quarter": end}


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else float("nan")


def summary(parts: Mapping[str, Mapping[str, Any]], compared: Sequence[str]) -> dict[str, Any]:
    """The arms beside `one`, and whether those `compared` have its curve; null where one lacks.

    The noise is how far `one_again` is from it; rounding, how far `regrouped` is.
    """
    one = parts.get(ONE)
    arms = {arm: _line(found, one, arm) for arm, found in parts.items()}
    noise = arms.get(AGAIN, {}).get("from_one")
    rounding = arms.get(REGROUPED, {}).get("from_one")
    result: dict[str, Any] = {"arms": arms, "noise": noise, "rounding": rounding}
    for what, measure, most in (("noise", noise, FAR), ("rounding", rounding, ALIKE)):
        within: dict[str, bool | None] = dict.fromkeys(compared)
        for arm in compared:
            near = arms.get(arm, {}).get("from_one")
            if near and measure:
                share = {n: near[n]["mean"] / max(1e-12, measure[n]["mean"]) for n in near}
                arms[arm][f"share_of_{what}"] = {n: round(value, 6) for n, value in share.items()}
                within[arm] = max(share.values()) <= most
        result[f"within_{what}"] = within
    return result


def _line(found: Mapping[str, Any], one: Mapping[str, Any] | None, arm: str) -> dict[str, Any]:
    line: dict[str, Any] = {}
    if "samples_per_second" in found:
        rate = found["samples_per_second"]
        line["samples_per_second"] = round(rate, 1)
        line["times_one"] = None if one is None else round(rate / one["samples_per_second"], 3)
    line |= {name: found[name] for name in KEPT if name in found}
    line["loss"] = {"first": round(found["loss"][0], 4), "last": round(found["loss"][-1], 4)}
    if one is not None and arm != ONE:
        line["from_one"] = from_one(one, found)
    return line


def table(arms: Mapping[str, Mapping[str, Any]]) -> str:
    """The arms of a summary for people, a line each."""
    lines = [f"{'arm':<11}{'samples/s':>10}{'times':>7}{'last loss':>11}  from one: mean, largest"]
    for arm, line in arms.items():
        rate, times = line.get("samples_per_second", "-"), line.get("times_one", "-")
        near = line.get("from_one", {}).get("all")
        apart = f"{near['mean']:.6f} {near['largest']:.6f}" if near else "-"
        lines.append(f"{arm:<11}{rate:>10}{times!s:>7}{line['loss']['last']:>11.4f}  {apart}")
    return "\n".join(lines)
