"""Less of a kind, and what it costs: the industrial reward over alpha and f, beside a plain filter.

    python -m onerec.bench.industrial --run RUN [--seeds 3 --steps 100 --jobs 2] --out FILE

RUN is a run on a world, with reward model and pre-trained policy. A set of items (those of one
category) is shown more often than somebody wants. Each case aligns the policy from the pre-trained
checkpoint with the reward of the set's items times alpha while the set's share of the step's items
passes f (V1 section 4.3.3), with the batches and seeds of alpha = 1, and measures on the test users

    exposure    the set's share of all lists' first ten
    watch       true watch time of a list, as the world expects it

The paper takes 9.6% off the exposure without a loss of watch time. `at_the_papers_cut` is read off
the curve, between the two alphas around it, for each seed. The plain filter leaves the policy alone
and drops each of the set's items from a list with the probability that gives the same exposure; the
next item moves up.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onerec.assembly import setting_of
from onerec.bench.arms import in_parts, write_part
from onerec.bench.generate import commit, machine_name, write
from onerec.bench.mistakes import refuse_below_one, told_in_a_line
from onerec.bench.paired import interval
from onerec.bench.worth import known_world
from onerec.common import pick_device, set_threads
from onerec.data.sources.world import KnownWorld
from onerec.data.split import Cases
from onerec.loop import loop
from onerec.metrics import recall_at_k
from onerec.pipeline.align import Aligning, listed_items, policy_config
from onerec.pipeline.rivals import LISTED
from onerec.runs import open_run

ALPHAS = (1.0, 0.95, 0.9, 0.8, 0.6, 0.3, 0.0)
LIMITS = (0.0, 0.1, 0.2)
COLUMN, VALUE = "category", "cars"
CUT = 0.096  # V1 section 4.3.3
RANKS = 10
USERS, GROUP = 16, 64
ALIGN: dict[str, Any] = {  # what the results were measured with, whatever the run's recipe says
    "search": "sample",
    "reward": "pscore",
    "objective": "ecpo",
    "weight": 0.3,
    "tilt": 0.0,
    "format_items": 3,
    "lag": 0,
    "learning_rate": 5e-4,
}

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def train(
    run_name: str, alpha: float, limit: float, seed: int, home: Path | None, steps: int
) -> dict[str, Any]:
    """One case, measured on the test users."""
    run = open_run(run_name, home)
    setting = setting_of(run, home)
    world, base = known_world(setting), setting.recipe
    align = replace(base.align, users=USERS, group=GROUP, steps=steps, **ALIGN)
    industrial = replace(
        base.industrial, column=COLUMN, value=VALUE, alpha=alpha, limit=limit if alpha < 1 else 1.0
    )
    recipe = replace(base, seed=seed, align=align, industrial=industrial)
    setting = replace(setting, recipe=recipe)
    device = pick_device(recipe.device)
    aligning = Aligning(run, setting, device, policy=policy_config(recipe, setting.dataset))
    for _ in loop(aligning.trainee(), steps=steps, seed=seed, device=device):
        pass
    cases = setting.split.test
    listed = listed_items(setting.dataset, COLUMN, VALUE)
    assert listed is not None
    kind = listed.numpy()
    lists = aligning.recommender.lists(cases, LISTED).items
    valid = setting.split.valid
    tuned = aligning.recommender.lists(valid, RANKS).items
    result: dict[str, Any] = {
        "alpha": alpha,
        "limit": limit,
        "seed": seed,
        **_measured(world, cases, lists[:, :RANKS], kind),
        "valid_recall@10": _recall(tuned, valid),
    }
    if alpha == 1:
        random = np.random.default_rng(seed)
        result["filter"] = [
            {"share": share, **_measured(world, cases, filtered(lists, kind, share, random), kind)}
            for share in (0.05, 0.1, 0.15, 0.2)
        ]
    return result


def filtered(lists: Ints, kind: Bools, share: float, random: np.random.Generator) -> Ints:
    """The first ten of each list (M, k) once a `share` of the set's items is left out at random."""
    dropped = kind[np.maximum(lists, 0)] & (lists >= 0) & (random.random(lists.shape) < share)
    order = np.argsort(dropped, axis=1, kind="stable")[:, :RANKS]
    return np.take_along_axis(lists, order, axis=1)


def _measured(world: KnownWorld, cases: Cases, lists: Ints, kind: Bools) -> dict[str, float]:
    there = lists >= 0
    seen = kind[np.maximum(lists, 0)] & there
    lists = np.ascontiguousarray(lists)
    watch = world.truth(cases.user, cases.end, lists)["play_ms"] * there
    return {
        "exposure": float(seen.sum() / there.sum()),
        "watch_s": float(watch.sum(1).mean() / 1000),
        "recall@10": _recall(lists, cases),
    }


def _recall(lists: Ints, cases: Cases) -> float:
    return float(recall_at_k(lists, cases.target_offsets, cases.target_items, RANKS).mean())


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """By f and alpha: changes against alpha = 1 of the same seed; what the paper's cut costs."""
    base = {run["seed"]: run for run in runs if run["alpha"] == 1}
    curve = []
    for limit, alpha in sorted({(run["limit"], run["alpha"]) for run in runs if run["alpha"] < 1}):
        mine = [run for run in runs if (run["limit"], run["alpha"]) == (limit, alpha)]
        pairs = [(run, base[run["seed"]]) for run in mine]
        line: dict[str, Any] = {"f": limit, "alpha": alpha, "seeds": len(mine)}
        for name in ("exposure", "watch_s", "recall@10", "valid_recall@10"):
            line[name] = interval([run[name] / other[name] - 1 for run, other in pairs])
        curve.append(line)
    limits = sorted({run["limit"] for run in runs if run["alpha"] < 1})
    return {
        "without": {
            name: interval([run[name] for run in base.values()])
            for name in ("exposure", "watch_s", "recall@10")
        },
        "changes": curve,
        "at_the_papers_cut": {
            **{f"f={limit}": _at_the_cut(runs, base, limit) for limit in limits},
            "filter": _filter_at_the_cut(base),
        },
    }


def _at_the_cut(
    runs: Sequence[dict[str, Any]], base: dict[int, dict[str, Any]], limit: float
) -> dict[str, Any]:
    """Change of watch time, and alpha, where the exposure falls by `CUT`; seeds that get there."""
    watch, alphas = [], []
    for seed, start in base.items():
        mine = [run for run in runs if run["seed"] == seed and run["limit"] == limit]
        mine = [start, *sorted((r for r in mine if r["alpha"] < 1), key=lambda r: -r["alpha"])]
        fall = [1 - run["exposure"] / start["exposure"] for run in mine]
        for k in range(1, len(mine)):
            if fall[k] >= CUT > fall[k - 1]:
                between = (CUT - fall[k - 1]) / (fall[k] - fall[k - 1])
                ends = [mine[j]["watch_s"] / start["watch_s"] - 1 for j in (k - 1, k)]
                watch.append(ends[0] + between * (ends[1] - ends[0]))
                ends = [mine[j]["alpha"] for j in (k - 1, k)]
                alphas.append(ends[0] + between * (ends[1] - ends[0]))
                break
    if not watch:
        return {"seeds": 0}
    return {"seeds": len(watch), "alpha": interval(alphas), "watch_s": interval(watch)}


def _filter_at_the_cut(base: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """The same of the plain filter, between the shares around the cut."""
    watch = []
    for start in base.values():
        fall = [1 - each["exposure"] / start["exposure"] for each in start["filter"]]
        lost = [each["watch_s"] / start["watch_s"] - 1 for each in start["filter"]]
        watch.append(float(np.interp(CUT, [0.0, *fall], [0.0, *lost])))
    return {"seeds": len(watch), "watch_s": interval(watch)}


@told_in_a_line
def main(words: Sequence[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="what the industrial reward does and costs")
    parser.add_argument("--run", required=True)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--alphas", type=float, nargs="+", default=ALPHAS)
    parser.add_argument("--limits", type=float, nargs="+", default=LIMITS)
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--one", help="ALPHA:LIMIT:SEED, in this process")
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args(words)
    set_threads(1 if chosen.one else None)
    if chosen.one:
        alpha, limit, seed = chosen.one.split(":")
        done = train(chosen.run, float(alpha), float(limit), int(seed), chosen.home, chosen.steps)
        write_part(done, chosen.out)
        return
    refuse_below_one(chosen, ("seeds", "jobs", "steps"))
    if 1 not in chosen.alphas or not all(0 <= alpha <= 1 for alpha in chosen.alphas):
        parser.error("--alphas lie from 0 to 1, and 1, with which the others compare, is needed")
    known_world(setting_of(open_run(chosen.run, chosen.home), chosen.home))  # or there is no truth
    grid = itertools.product(range(chosen.seeds), chosen.limits, chosen.alphas)
    first = chosen.limits[0]  # alpha = 1 is the same for every limit
    work = [f"{a}:{f}:{seed}" for seed, f, a in grid if a < 1 or f == first]
    command = ["--run", chosen.run, "--steps", str(chosen.steps)]
    command += ["--home", str(chosen.home)] if chosen.home else []
    folder = chosen.out.with_suffix(".parts")
    runs = in_parts("industrial", command, work, folder, chosen.jobs)
    told = {
        "command": f"python -m onerec.bench.industrial --steps {chosen.steps}",
        "commit": commit(),
        "device": machine_name(),
        "set": f"{COLUMN}={VALUE}",
    }
    write({**told, **summary(runs)}, chosen.out)


if __name__ == "__main__":
    raise SystemExit(main())
