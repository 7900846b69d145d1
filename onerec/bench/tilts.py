"""Which tilt and which weight: chosen on valid, before anything is measured on test.

    python -m onerec.bench.worth --home H --prepare --world-seed 1
    python -m onerec.bench.tilts --home H --steps 200 --looks 5 --seeds 2 --jobs 14 --out F
    python -m onerec.bench.worth --home H --arms none,$(jq -r '.chosen|join(",")' F) --out G ...

Arms start where those of `worth` do, with seeds of their own. Of each the step is taken that
`arms.choose` takes, beside `none` of the same seed and step. An arm holds where its valid recall@10
is `MEAN_SHARE` of that of `none` in the mean over seeds and `arms.LEAST_RECALL` in each: an arm
that only just holds would fail with other seeds. Of those that hold, the one with the most reward
on valid is chosen, for each reward. Test users are not read.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onerec.assembly import setting_of
from onerec.bench.arms import (
    LEAST_RECALL,
    LOOKS,
    NONE,
    choose,
    in_parts,
    named_arms,
    train_arm,
    write_part,
)
from onerec.bench.generate import commit, cpu_name, write
from onerec.bench.mistakes import refuse_below_one, told_in_a_line
from onerec.bench.worth import RUN
from onerec.common import pick_device, set_threads
from onerec.pipeline.align import Valid
from onerec.pipeline.pretrain import device_name
from onerec.runs import open_run

FIRST_SEED = 100  # those of `worth` count from 0
MEAN_SHARE = 0.99
GRID = {"long_view": (2, 2.5, 3), "pscore": (3, 4)}
WEIGHTS = (4, 10)


def grid() -> list[str]:
    """The arms that are tried where none are named."""
    return [
        f"{reward}+beam+tilt{tilt}@{weight}"
        for reward, tilts in GRID.items()
        for tilt in tilts
        for weight in WEIGHTS
    ]


def summary(parts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each arm: chosen steps, recall as a share of that of `none`, reward, both by seed.

    Raises:
        KeyError: a seed has no arm without a reward.
    """
    valid = {
        (part["arm"], part["seed"]): {int(s): Valid(*v) for s, v in part["valid"].items()}
        for part in parts
    }
    rows = []
    for arm in sorted({name for name, _ in valid} - {NONE}):
        row: dict[str, Any] = {"arm": arm, "steps": [], "recall_share": [], "reward": []}
        for seed in sorted(seed for name, seed in valid if name == arm):
            base = {step: value.recall for step, value in valid[NONE, seed].items()}
            step = choose(valid[arm, seed], base)
            row["steps"].append(step)
            share = valid[arm, seed][step].recall / max(base[step], 1e-9)
            row["recall_share"].append(round(share, 4))
            row["reward"].append(round(valid[arm, seed][step].reward, 5))
        shares = row["recall_share"]
        row["holds"] = bool(np.mean(shares) >= MEAN_SHARE and min(shares) >= LEAST_RECALL)
        rows.append(row)
    return rows


def chosen_arms(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Of each reward the arm that holds with the most reward; a reward may have none."""
    best: dict[str, dict[str, Any]] = {}
    for row in rows:
        reward = row["arm"].partition("+")[0]
        if row["holds"] and np.mean(row["reward"]) > np.mean(
            best.get(reward, {"reward": -1})["reward"]
        ):
            best[reward] = row
    return [best[reward]["arm"] for reward in sorted(best)]


def train(home: Path, arm: str, seed: int, steps: int | None, looks: int) -> dict[str, Any]:
    """Align one arm; what was seen of valid by step."""
    run = open_run(RUN, home)
    trained = train_arm(run, setting_of(run, home), arm, seed, steps, looks)
    valid = {step: list(value) for step, value in trained.valid.items()}
    return {"arm": arm, "seed": seed, "valid": valid, "seconds": trained.seconds}


@told_in_a_line
def main(argv: Sequence[str] | None = None) -> int:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="tilt and weight of an alignment, by valid alone")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--arms", default=",".join(grid()), help="beside the one without a reward")
    parser.add_argument("--steps", type=int, help="instead of the recipe's")
    parser.add_argument("--looks", type=int, default=LOOKS, help="on valid, of each arm")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--one", help="ARM:SEED, in this process")
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args(argv)
    set_threads(1 if chosen.one else None)
    if chosen.one:
        arm, _, seed = chosen.one.rpartition(":")
        told = train(chosen.home, arm, int(seed), chosen.steps, chosen.looks)
        write_part(told, chosen.out)
        return 0
    refuse_below_one(chosen, ("seeds", "jobs", "looks"))
    arms = [NONE, *named_arms(chosen.arms)]
    seeds = range(FIRST_SEED, FIRST_SEED + chosen.seeds)
    work = [f"{arm}:{seed}" for seed in seeds for arm in arms]
    words = ["--home", str(chosen.home), "--looks", str(chosen.looks)]
    words += ["--steps", str(chosen.steps)] if chosen.steps else []
    parts = in_parts("tilts", words, work, chosen.out.with_suffix(".parts"), chosen.jobs)
    rows = summary(parts)
    asked = " ".join(sys.argv[1:] if argv is None else argv)
    device = pick_device("auto")
    told = {
        "command": f"python -m onerec.bench.tilts {asked}",
        "commit": commit(),
        "device": device_name(device) if device.type == "cuda" else cpu_name(),
        "mean_share": MEAN_SHARE,
        "least_share": LEAST_RECALL,
        "chosen": chosen_arms(rows),
        "rows": rows,
        "arms": parts,
    }
    write(told, chosen.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
