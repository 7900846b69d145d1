"""Does ECPO keep a policy step bounded where GRPO does not? Objectives by how far the sampler lags.

    python -m onerec.bench.stability --run RUN [--share I/N] --out part.json
    python -m onerec.bench.stability --join part-*.json --out onerec/bench/results/stability.json

All arms start from the pre-trained checkpoint of RUN, see the same next-token batches, contexts and
seeds, and run the same grid of learning rates at lags 0, 20, 250 and 1,000 updates (the paper sends
weights every 1,000). Norms are those before clipping, of the objective alone and of the whole step.
At lag 0 the ratio is 1 and GRPO is ECPO, so it is not run there again.

A comparison is void where fewer than 1% of the items with a negative advantage have a ratio above
1 + epsilon + delta: then the early clip never acted. Lag 0 is exempt: no ratio leaves 1 there, no
clip is expected to act, and what is compared is the KL term alone. An arm explodes when its largest
norm is above 50 times the start and its next-token loss is worse than ECPO's by more than the
interval over seeds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from onerec.assembly import setting_of
from onerec.bench.generate import commit, write
from onerec.bench.mistakes import (
    read_results,
    refuse_below_one,
    refuse_no_amount,
    told_in_a_line,
)
from onerec.bench.paired import interval
from onerec.common import pick_device, set_threads
from onerec.errors import RunError
from onerec.loop import loop
from onerec.pipeline.align import Aligning, policy_config
from onerec.runs import open_run

ARMS = ("ecpo", "grpo", "grpo_kl")
LAGS = (0, 20, 250, 1_000)
RATES = (1e-3, 3e-3)
SEEDS = (0, 1, 2)
STEPS = {0: 300, 20: 300, 250: 600, 1_000: 1_100}
USERS, GROUP, WEIGHT = 32, 64, 0.3
START = 10  # steps whose median norm is the start
TAIL = 100  # steps at the end over which losses and rewards are averaged
VOID, EXPLODED = 0.01, 50.0
WORDS = {
    "void": f"beyond is below {VOID}: the early clip never acted; at lag 0, where none can, no "
    "line is called so",
    "explodes": f"policy_norm_growth is above {EXPLODED:g} in the median of the seeds, and "
    "next_token_minus_ecpo lies above 0",
}
KEPT = ("grad_norm", "policy_norm", "next_token", "reward", "beyond", "outside", "ratio_max")


@dataclass(frozen=True)
class Case:
    """One training of the comparison."""

    objective: str
    lag: int
    rate: float
    seed: int


def cases(seeds: Sequence[int] = SEEDS) -> list[Case]:
    """Every training, the long ones first."""
    grid = itertools.product(sorted(LAGS, reverse=True), ARMS, RATES, seeds)
    return [Case(o, lag, r, s) for lag, o, r, s in grid if not (lag == 0 and o == "grpo")]


def train(run_name: str, case: Case, home: Path | None, steps: int, clip: float) -> dict[str, Any]:
    """One case: the trace of every step, and what the end was like."""
    run = open_run(run_name, home)
    setting = setting_of(run, home)
    recipe = replace(
        setting.recipe,
        seed=case.seed,
        align=replace(
            setting.recipe.align,
            users=USERS,
            group=GROUP,
            weight=WEIGHT,
            tilt=0.0,
            objective=case.objective,
            lag=case.lag,
            learning_rate=case.rate,
            format_items=0,
        ),
    )
    device = pick_device(recipe.device)
    policy = replace(policy_config(recipe, setting.dataset), measure_norm=True)
    aligning = Aligning(run, replace(setting, recipe=recipe), device, policy=policy)
    trace: dict[str, list[float]] = {name: [] for name in KEPT}
    begun, stopped = time.perf_counter(), ""
    try:
        for result in loop(
            aligning.trainee(), steps=steps, clip=clip, seed=case.seed, device=device
        ):
            values = {**result.values, "grad_norm": result.grad_norm}
            for name in KEPT:
                trace[name].append(round(values[name], 6))
    except RunError as error:  # not finite: the step is not made, and that is a result
        stopped = str(error)
    measured = aligning.evaluate(len(trace["reward"]))
    return {
        "objective": case.objective,
        "lag": case.lag,
        "rate": case.rate,
        "seed": case.seed,
        "steps": len(trace["reward"]),
        "stopped": stopped,
        **measured,
        "trace": trace,
        "seconds": round(time.perf_counter() - begun, 1),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
    }


def summary(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line per objective, lag and rate: medians over seeds, and the verdict."""
    lines = []
    keys = sorted({(r["lag"], r["rate"], r["objective"]) for r in runs})
    for lag, rate, objective in keys:
        mine = [r for r in runs if (r["lag"], r["rate"], r["objective"]) == (lag, rate, objective)]
        base = [r for r in runs if (r["lag"], r["rate"], r["objective"]) == (lag, rate, "ecpo")]
        norms = [np.array(r["trace"]["policy_norm"]) for r in mine]
        whole = [np.array(r["trace"]["grad_norm"]) for r in mine]
        growth = [float(n.max() / np.median(n[:START])) for n in norms]
        beyond = float(np.mean([np.mean(r["trace"]["beyond"]) for r in mine]))
        low, high = difference(mine, base)
        line = {
            "lag": lag,
            "rate": rate,
            "objective": objective,
            "seeds": len(mine),
            "policy_norm_max": float(np.median([n.max() for n in norms])),
            "policy_norm_median": float(np.median([np.median(n) for n in norms])),
            "policy_norm_growth": [round(g, 1) for g in growth],
            "grad_norm_max": float(np.median([n.max() for n in whole])),
            "grad_norm_median": float(np.median([np.median(n) for n in whole])),
            "next_token": float(np.mean([tail(r, "next_token") for r in mine])),
            "next_token_minus_ecpo": [round(low, 4), round(high, 4)],
            "reward": float(np.mean([tail(r, "reward") for r in mine])),
            "valid_recall@10": float(np.mean([r.get("valid_recall@10", np.nan) for r in mine])),
            "valid_reward": float(np.mean([r.get("valid_reward", np.nan) for r in mine])),
            "beyond": beyond,
            "not_finite": sum(bool(r["stopped"]) for r in mine),
        }
        line["void"] = lag > 0 and beyond < VOID
        line["explodes"] = bool(np.median(growth) > EXPLODED and low > 0)
        lines.append(line)
    return lines


def tail(run: dict[str, Any], name: str) -> float:
    """The mean of a trace over the last steps."""
    return float(np.mean(run["trace"][name][-TAIL:]))


def difference(
    mine: Sequence[dict[str, Any]], base: Sequence[dict[str, Any]]
) -> tuple[float, float]:
    """95% interval (t, over seeds) of the next-token loss minus ECPO's, paired by seed."""
    theirs = {r["seed"]: tail(r, "next_token") for r in base}
    gaps = [tail(r, "next_token") - theirs[r["seed"]] for r in mine if r["seed"] in theirs]
    if len(gaps) < 2:
        return float("-inf"), float("inf")
    found = interval(gaps)
    return found["low"], found["high"]


def share(text: str) -> tuple[int, int]:
    """`I/N` as two numbers, for argparse, which tells a ValueError."""
    part, parts = map(int, text.split("/"))
    if not 0 <= part < parts:
        raise ValueError
    return part, parts


@told_in_a_line
def main(words: Sequence[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--run", help="a run whose pretrain and reward stages are done")
    parser.add_argument("--home", type=Path)
    parser.add_argument("--lags", type=int, nargs="+", default=LAGS, choices=LAGS)
    parser.add_argument("--objectives", nargs="+", default=ARMS, choices=ARMS)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, choices=RATES)
    parser.add_argument("--share", type=share, default="0/1", help="I/N: every N-th from the I-th")
    parser.add_argument("--steps", type=int, help="of every case; default by lag")
    parser.add_argument("--clip", type=float, default=1.0)
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    parser.add_argument("--join", nargs="*", type=Path, help="parts to put together")
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args(words)
    if chosen.join:
        runs = [run for part in read_results(chosen.join, "runs") for run in part["runs"]]
        told = {"command": "python -m onerec.bench.stability", "commit": commit()}
        device, lines = runs[0]["device"], summary(runs)
        write({**told, "device": device, "words": WORDS, "lines": lines}, chosen.out)
        return
    if chosen.run is None:
        parser.error("--run is needed")
    refuse_below_one(chosen, ("seeds", "steps"))
    refuse_no_amount(chosen, ["clip"])
    set_threads(1)
    part, parts = chosen.share
    runs = []
    wanted = [
        case
        for case in cases(range(chosen.seeds))
        if case.lag in chosen.lags
        and case.objective in chosen.objectives
        and case.rate in chosen.rates
    ]
    for case in wanted[part::parts]:
        steps = chosen.steps or STEPS[case.lag]
        runs.append(train(chosen.run, case, chosen.home, steps, chosen.clip))
        chosen.out.write_text(json.dumps({"runs": runs}))  # what is done stays if time runs out
        print(case, runs[-1]["seconds"], "s", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
