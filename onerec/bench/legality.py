"""Does the format reward keep generated codes legal? Four rules, drawn without the trie.

    python -m onerec.bench.legality --run RUN [--steps 300 --seeds 3 --arms ARM ..] --out FILE
    python -m onerec.bench.legality --join FILE FILE .. --out FILE

All arms start from RUN's pre-trained checkpoint with the same batches, contexts and seeds; items
are sampled over all codes at temperature 1, whatever RUN's recipe says, and an illegal one leaves
the P-Score's group in every arm. A curve is the legality of what was drawn for training, with
`--lag` by the copy that serves; `legality` is that of the policy in training, at the end. `--join`
puts together what was measured alike. Arms (V1 section 2.4; K = 5 of a group of 128):

    none       no format reward
    random     a random K of the group: legal ones are worth 1, illegal ones are dropped
    top        the K most probable of the group
    punished   all of the group: legal 1, illegal -1 (the squeezing that the paper argues against)
    frozen     no policy loss at all: next-token training alone

The paper reports below 50% without the reward, a steady rise to 95% with a random K, and a rise
followed by a fall for the top K.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from onerec.alignment import AlignBatch
from onerec.assembly import setting_of
from onerec.bench.generate import commit, machine_name, write
from onerec.bench.mistakes import (
    read_results,
    refuse_below_one,
    refuse_no_amount,
    refuse_unlike,
    told_in_a_line,
)
from onerec.common import pick_device, set_threads
from onerec.loop import loop
from onerec.pipeline.align import Aligning, policy_config
from onerec.runs import open_run
from onerec.sections import SamplingConfig

GROUP, USERS, CHOSEN = 128, 16, 5
ARMS: dict[str, dict[str, Any]] = {
    "none": {"format_items": 0},
    "random": {"format_items": CHOSEN},
    "top": {"format_items": CHOSEN, "format_by": "probability"},
    "punished": {"format_items": GROUP, "format_illegal": -1.0},
    "frozen": {"weight": 0.0},
}
WEIGHT, RATE, SEARCH = 0.3, 5e-4, "sample"  # over all codes
SAMPLING = SamplingConfig(temperature=1.0, top_p=1.0, icepop=0.0)  # the policy's own probabilities
WINDOW, POINTS = 20, 60  # of a curve: steps in a mean, and how many are kept
ALIKE = (
    *("command", "commit", "device", "recipe", "group", "chosen", "steps", "weight", "lag"),
    *("search", "temperature", "before"),
)


def train(
    run_name: str,
    arm: str,
    seed: int,
    home: Path | None,
    steps: int,
    weight: float = WEIGHT,
    lag: int = 0,
) -> dict[str, Any]:
    """One arm: the legality of every step's groups, and recall and reward at the end."""
    run = open_run(run_name, home)
    setting = setting_of(run, home)
    align = replace(
        setting.recipe.align,
        users=USERS,
        group=GROUP,
        weight=weight,
        tilt=0.0,
        lag=lag,
        search=SEARCH,
        steps=steps,
        learning_rate=RATE,
    )
    recipe = replace(setting.recipe, seed=seed, align=align, sampling=SAMPLING)
    device = pick_device(recipe.device)
    policy = replace(policy_config(recipe, setting.dataset), **ARMS[arm])
    aligning = Aligning(run, replace(setting, recipe=recipe), device, policy=policy)
    begun = time.perf_counter()
    curve = [
        round(result.values["legality"], 5) if policy.weight else 0.0
        for result in loop(aligning.trainee(), steps=steps, seed=seed, device=device)
    ]
    drawn = legality(aligning, seed)
    return {
        "arm": arm,
        "seed": seed,
        "curve": curve if policy.weight else [],
        "legality": drawn,
        **aligning.evaluate(steps),
        "seconds": round(time.perf_counter() - begun, 1),
    }


@torch.no_grad()
def legality(aligning: Aligning, seed: int, batches: int = 10) -> float:
    """Share of legal items among samples of the policy in training, for contexts of valid users."""
    alignment, valid = aligning.alignment, aligning.setting.split.valid
    alignment.send()  # what serves is what trains from here on
    random = np.random.default_rng(seed)
    shares = []
    for number in range(batches):
        rows = random.choice(len(valid), size=min(USERS, len(valid)), replace=False)
        user, end = valid.user[rows], valid.end[rows]
        context = aligning.contexts.batch(torch.from_numpy(user), torch.from_numpy(end))
        drawn = alignment.rollout(AlignBatch(context, user, end, context, seed + number))
        shares.append(float((drawn.item >= 0).float().mean()))
    return float(np.mean(shares))


def before(run_name: str, home: Path | None) -> dict[str, float]:
    """Of the pre-trained policy: legality, and the share of all code sequences that are legal."""
    run = open_run(run_name, home)
    setting = setting_of(run, home)
    align = replace(setting.recipe.align, users=USERS, group=GROUP, search=SEARCH)
    recipe = replace(setting.recipe, align=align, sampling=SAMPLING)
    aligning = Aligning(run, replace(setting, recipe=recipe), pick_device(recipe.device))
    trie = aligning.recommender.trie
    possible = float(np.prod([float(size) for size in trie.sizes]))
    return {"legality": legality(aligning, 0), "legal_share_of_codes": trie.n_leaves / possible}


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """By arm: legality at the end (mean, least, most over seeds), and the curve's highest point.

    `curve` is a running mean over `WINDOW` steps; `curve_steps` are the middles of its windows.
    """
    result = {}
    for arm in ARMS:
        mine = [run for run in runs if run["arm"] == arm]
        if not mine:
            continue
        end = [run["legality"] for run in mine]
        line: dict[str, Any] = {
            "seeds": len(mine),
            "legality": [float(np.mean(end)), min(end), max(end)],
            "valid_recall@10": float(np.mean([run["valid_recall@10"] for run in mine])),
            "valid_reward": float(np.mean([run["valid_reward"] for run in mine])),
        }
        if mine[0]["curve"]:
            curve = np.mean([run["curve"] for run in mine], axis=0)
            window = min(WINDOW, len(curve))
            smooth = np.convolve(curve, np.ones(window) / window, "valid")
            middle = np.arange(len(smooth)) + window // 2
            best, shown = int(smooth.argmax()), slice(None, None, max(1, len(smooth) // POINTS))
            line["highest"] = {"step": int(middle[best]), "legality": float(smooth[best])}
            line["curve_steps"] = middle[shown].tolist()
            line["curve"] = [round(float(value), 4) for value in smooth[shown]]
        result[arm] = line
    return result


def joined(paths: Sequence[Path]) -> dict[str, Any]:
    """The first result with the arms of all of them, in the order of `ARMS`.

    Raises:
        RunError: a file is missing or is no JSON object.
        DataError: a file is no result of this benchmark, was measured otherwise than the first, or
            has an arm that is there already.
    """
    parts = read_results(paths, "arms")
    each = [
        (path, part | {"arm": arm})
        for path, part in zip(paths, parts, strict=True)
        for arm in part["arms"]
    ]
    refuse_unlike([path for path, _ in each], [one for _, one in each], ALIKE, other_than="arm")
    arms = {name: line for part in parts for name, line in part["arms"].items()}
    return parts[0] | {"arms": {name: arms[name] for name in ARMS if name in arms}}


@told_in_a_line
def main(words: Sequence[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="what the format reward does to legality")
    parser.add_argument("--run")
    parser.add_argument("--home", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--weight", type=float, default=WEIGHT, help="of the policy's loss")
    parser.add_argument("--lag", type=int, default=0, help="updates between two sent policies")
    parser.add_argument("--join", nargs="*", type=Path, help="results of single arms, put together")
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args(words)
    if chosen.join:
        write(joined(chosen.join), chosen.out)
        return
    if chosen.run is None:
        parser.error("--run is needed")
    refuse_below_one(chosen, ("seeds", "steps"))
    refuse_no_amount(chosen, ["weight", "lag"])
    set_threads(1)
    start = before(chosen.run, chosen.home)
    print(json.dumps(start), flush=True)
    runs = []
    told = {
        "command": f"python -m onerec.bench.legality --steps {chosen.steps} --seeds {chosen.seeds}",
        "commit": commit(),
        "device": machine_name(),
        "recipe": open_run(chosen.run, chosen.home).recipe()["name"],
        "group": GROUP,
        "chosen": CHOSEN,
        "steps": chosen.steps,
        "weight": chosen.weight,
        "lag": chosen.lag,
        "search": SEARCH,
        "temperature": SAMPLING.temperature,
        "before": start,
    }
    for seed in range(chosen.seeds):
        for arm in chosen.arms:
            runs.append(
                train(chosen.run, arm, seed, chosen.home, chosen.steps, chosen.weight, chosen.lag)
            )
            write({**told, "arms": summary(runs)}, chosen.out)
            said = {k: runs[-1][k] for k in ("arm", "seed", "legality", "seconds")}
            print(json.dumps(said), flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
