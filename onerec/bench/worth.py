"""What alignment is really worth, on a world whose truth is known: one script for its tables.

    python -m onerec.bench.worth --home H --prepare [--items 50000 --users 36000]
    python -m onerec.bench.worth --home H --arms none,pscore,long_view --seeds 5 --jobs 8 --out F
    python -m onerec.bench.worth --join F F .. [--note TEXT] --out F

`--join` puts together what was measured with several numbers of steps after one preparation; each
arm stays paired with the `none` of its own file.

`--prepare` makes the world and a run with its tokenizer, pre-trained policy and reward model, where
every arm (see `arms`) starts. Of each arm and seed the step is kept that has the highest reward on
valid among those whose valid recall@10 is at least 98% of that of `none` at the same step and seed,
else the one whose recall comes nearest; what is reported was measured once, on test users, beside
`none` of the same seed and step.

Of each list of K items: the reward model's own mean, the truth's mean and its best item. The share
of the headroom closed is (arm - none) / (oracle - none), the oracle being the K items with the
highest truth. A list at random already holds a very good item, so the best of K proves little.

Shapes: M users, K items of a list.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from onerec.assembly import Setting, setting_of
from onerec.bench.arms import LOOKS, NONE, choose, in_parts, named_arms, train_arm, write_part
from onerec.bench.generate import commit, machine_name, write
from onerec.bench.mistakes import read_results, refuse_below_one, told_in_a_line
from onerec.bench.paired import interval
from onerec.common import generator, pick_device, set_threads
from onerec.data.sources.world import KnownWorld, make_world_dataset, world_of
from onerec.data.split import Cases
from onerec.errors import DataError, RecipeError, RunError
from onerec.metrics import recall_at_k
from onerec.pipeline import run as run_stages
from onerec.pipeline.align import Aligning
from onerec.pipeline.pretrain import sample_cases
from onerec.recipes import recipe
from onerec.rewards import FUSED, RewardModel
from onerec.runs import open_run
from onerec.world import WorldConfig

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DATASET, RUN = "large_world", "large"
CUTS = (32, 128, 512)
TEST_USERS, RECALL_USERS = 1_000, 10_000
WAIT_S = 240.0  # for the arm without a reward
AT_ONCE = 50  # users whose truth about every item is held at once
SETTINGS = {
    "tokenizer.codebook_size": "512",
    "model.width": "128",
    "train.steps": "1500",
    "train.batch_size": "768",
    "train.learning_rate": "0.002",
    "train.evaluate_every": "750",
    "train.checkpoint_every": "750",
    "reward.steps": "800",
    "reward.batch_size": "1024",
    "reward.rounds": "3",
    "align.steps": "600",
    "align.users": "64",
    "align.group": "128",
    "align.learning_rate": "0.0002",
    "align.weight": "0.3",
    "align.format_items": "0",
    "align.search": "constrained",
    "evaluate.valid_users": "8000",
    "baselines.names": "popularity",
}


def prepare(home: Path, world: WorldConfig, steps: int | None = None) -> None:
    """Make the world and the run that every arm starts from; what is there stays."""
    if not (home / "datasets" / DATASET).exists():
        make_world_dataset(DATASET, world, home)
    settings = dict(SETTINGS)
    if steps:
        settings |= {"train.steps": str(steps), "reward.steps": str(steps)}
    begun = time.perf_counter()

    def say(stage: str, step: int, of: int, values: Any) -> None:
        if step in (0, of) or step % 500 == 0:
            print(f"{time.perf_counter() - begun:6.0f} s {stage} {step}/{of} {values}", flush=True)

    stages = ("tokenize", "pretrain", "reward")
    run_stages(RUN, recipe("small", settings), DATASET, home=home, stages=stages, report=say)


def train(
    home: Path,
    arm: str,
    seed: int,
    steps: int | None = None,
    parts: Path | None = None,
    looks: int = LOOKS,
) -> dict[str, Any]:
    """Align one arm, choose its checkpoint on valid, and measure it on test users.

    `parts` is where the arm `none` leaves its result, or None to compare with the start.
    """
    run = open_run(RUN, home)
    trained = train_arm(run, setting_of(run, home), arm, seed, steps, looks)
    step = max(trained.kept)  # without a reward nothing is chosen
    done: dict[str, Any] = {"arm": arm, "seed": seed, "curve": trained.curve}
    valid = {s: list(value) for s, value in trained.valid.items()}
    if trained.aligning.config.weight:
        base = _without(parts, seed) or dict.fromkeys(trained.valid, trained.valid[0].recall)
        step = choose(trained.valid, base)
    else:
        if parts is not None:  # the others need not wait until it is measured
            write_part({"valid": valid}, _seen(parts, seed))
        earlier = sorted(set(trained.kept) - {0, step})
        done["at"] = {each: measure(trained.at(each), home) for each in earlier}
    return {
        **done,
        "step": step,
        "valid": valid,
        "seconds": trained.seconds,
        **measure(trained.at(step), home),
    }


def _without(parts: Path | None, seed: int) -> dict[int, float] | None:
    """Valid recall by step of the arm without a reward; RunError if it does not come."""
    if parts is None:
        return None
    path, until = _seen(parts, seed), time.monotonic() + WAIT_S
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.5)
    if not path.exists():
        raise RunError(
            f"{path}: the arm {NONE!r} of seed {seed}, which says how much recall an arm may lose, "
            f"is not there after {WAIT_S:.0f} s; run it first"
        )
    return {int(s): value[0] for s, value in json.loads(path.read_text())["valid"].items()}


def _seen(parts: Path, seed: int) -> Path:
    """What the arm without a reward saw of valid, there before it is measured on test."""
    done = parts / f"{NONE}-{seed}.json"
    return done if done.exists() else done.with_suffix(".valid")


def measure(aligning: Aligning, home: Path) -> dict[str, Any]:
    """Lists of the test users: recall, the reward model's own means, the truth's."""
    setting, recommender = aligning.setting, aligning.recommender
    cases = sample_cases(setting.split.test, RECALL_USERS)
    ranked = recommender.lists(cases, 10).items
    recall = recall_at_k(ranked, cases.target_offsets, cases.target_items, 10)
    cases = sample_cases(setting.split.test, TEST_USERS)
    lists = recommender.lists(cases, max(CUTS)).items
    world = known_world(setting)
    return {
        "recall@10": float(recall.mean()),
        **_of_lists(lists, cases, world, aligning.reward),
        "picked": _picked(lists, cases, world, aligning.reward),
    }


def _of_lists(lists: Ints, cases: Cases, world: KnownWorld, reward: RewardModel) -> dict[str, Any]:
    truth = worth(world, cases, lists, reward)
    own = own_means(reward, cases, lists)
    result: dict[str, Any] = {"mean": {}, "best": {}, "own": {}, "users": {}}
    for cut in (10, *CUTS):
        for name, value in truth.items():
            result["mean"][f"{name}@{cut}"] = float(value[:, :cut].mean())
            result["best"][f"{name}@{cut}"] = float(value[:, :cut].max(1).mean())
        for name, value in own.items():
            result["own"][f"{name}@{cut}"] = float(value[:, :cut].mean())
    for name, value in truth.items():  # for intervals over users
        result["users"][f"{name}@32"] = [round(float(v), 5) for v in value[:, :32].mean(1)]
    return result


def worth(world: KnownWorld, cases: Cases, lists: Ints, reward: RewardModel) -> dict[str, Floats]:
    """The truth of each item of lists (M, K): long view, play time, and P-Score's own target."""
    found = world.truth(cases.user, cases.end, lists)
    return _targets(found, reward)


def _targets(found: dict[str, Floats], reward: RewardModel) -> dict[str, Floats]:
    weights = dict(zip(reward.behaviours, reward.model.weights.tolist(), strict=True))
    total = sum(weights.values())
    fused = sum(weight * found[name] for name, weight in weights.items()) / total
    return {"long_view": found["long_view"], FUSED: fused, "play_ms": found["play_ms"]}


def own_means(reward: RewardModel, cases: Cases, lists: Ints) -> dict[str, Floats]:
    """What the reward model says of lists (M, K): long view and fused, (M, K) each."""
    parts: dict[str, list[Floats]] = {"long_view": [], FUSED: []}
    for begin in range(0, len(lists), AT_ONCE):
        rows = slice(begin, begin + AT_ONCE)
        scored = reward.score(cases.user[rows], cases.end[rows], torch.from_numpy(lists[rows]))
        for name, found in parts.items():
            found.append(scored[name].double().cpu().numpy())
    return {name: np.concatenate(found) for name, found in parts.items()}


def _picked(
    lists: Ints, cases: Cases, world: KnownWorld, reward: RewardModel
) -> dict[str, dict[str, float]]:
    """Ten items of 512 by the reward model, as a ranker behind the generator would pick them."""
    result = {}
    for name, score in own_means(reward, cases, lists).items():
        order = np.argsort(-score, axis=1, kind="stable")[:, :10]
        ten = np.take_along_axis(lists, order, axis=1)
        truth = worth(world, cases, ten, reward)
        result[f"by_{name}"] = {key: float(value.mean()) for key, value in truth.items()}
    return result


def ends(home: Path) -> dict[str, Any]:
    """The two ends: K items at random, and the K with the highest truth, by each target."""
    run = open_run(RUN, home)
    setting = setting_of(run, home)
    reward = RewardModel.load(run, setting, pick_device(setting.recipe.device))
    cases = sample_cases(setting.split.test, TEST_USERS)
    world = known_world(setting)
    chance = worth(world, cases, world.random(cases.user, 512, generator(0)), reward)
    result: dict[str, Any] = {
        "random": {"mean": {}, "best": {}},
        "oracle": {"mean": {}, "best": {}},
    }
    for name, value in chance.items():
        for cut in (10, *CUTS):
            result["random"]["mean"][f"{name}@{cut}"] = float(value[:, :cut].mean())
            result["random"]["best"][f"{name}@{cut}"] = float(value[:, :cut].max(1).mean())
    tops: dict[str, list[Floats]] = {name: [] for name in chance}
    for begin in range(0, len(cases), AT_ONCE):
        part = cases.take(np.arange(begin, min(begin + AT_ONCE, len(cases))))
        every = np.tile(np.arange(setting.dataset.n_items), (len(part), 1))
        for name, value in _targets(world.truth_of_all(part.user, part.end), reward).items():
            assert value.shape == every.shape
            tops[name].append(-np.sort(-value, axis=1)[:, : max(CUTS)])
    for name, found in tops.items():
        value = np.concatenate(found)
        for cut in (10, *CUTS):
            result["oracle"]["mean"][f"{name}@{cut}"] = float(value[:, :cut].mean())
            result["oracle"]["best"][f"{name}@{cut}"] = float(value[:, 0].mean())
    return result


def summary(parts: Sequence[dict[str, Any]], ends: dict[str, Any]) -> dict[str, Any]:
    """By arm, paired with `none` of the same seed and step: gains with 95% intervals, and recall.

    `own_gain` is the gain by the reward model's own word, `predicted_minus_true` that minus the
    true one: reward hacking.
    """
    without = {part["seed"]: part for part in parts if part["arm"] == NONE}
    result: dict[str, Any] = {}
    for arm in sorted({part["arm"] for part in parts} - {NONE}):
        mine = [part for part in parts if part["arm"] == arm and part["seed"] in without]
        base = {part["seed"]: at_step(without[part["seed"]], part["step"]) for part in mine}
        line: dict[str, Any] = {"seeds": len(mine), "steps": [part["step"] for part in mine]}
        kept = [part["recall@10"] / base[part["seed"]]["recall@10"] - 1 for part in mine]
        line["recall_change"] = interval(kept)
        for target in ("long_view", FUSED, "play_ms"):
            for cut in CUTS:
                key = f"{target}@{cut}"
                gain = [part["mean"][key] - base[part["seed"]]["mean"][key] for part in mine]
                room = [
                    each / (ends["oracle"]["mean"][key] - base[part["seed"]]["mean"][key])
                    for each, part in zip(gain, mine, strict=True)
                ]
                line[key] = {"gain": interval(gain), "headroom_closed": interval(room)}
                line[key]["best_gain"] = interval(
                    [part["best"][key] - base[part["seed"]]["best"][key] for part in mine]
                )
                if key in mine[0]["own"]:
                    own = [part["own"][key] - base[part["seed"]]["own"][key] for part in mine]
                    apart = [a - b for a, b in zip(own, gain, strict=True)]
                    line[key]["own_gain"] = interval(own)
                    line[key]["predicted_minus_true"] = interval(apart)
        result[arm] = line
    return result


def at_step(without: dict[str, Any], step: int) -> dict[str, Any]:
    """What `none` measured after as many next-token steps."""
    earlier: dict[str, dict[str, Any]] = {str(s): v for s, v in without.get("at", {}).items()}
    return earlier.get(str(step), without)


def known_world(setting: Setting) -> KnownWorld:
    world = world_of(setting.dataset)
    if world is None:
        raise DataError(
            f"{setting.dataset.name!r}: a log has no truth to compare with; make a world dataset"
        )
    return world


def joined(paths: Sequence[Path]) -> dict[str, Any]:
    """Results of one preparation; `prepared` tells with whose `none` an arm is paired.

    Raises:
        RunError, DataError: a file is missing or holds no such results, another world or reward
            model was measured, or an arm is in two of them.
    """
    parts = read_results(paths, "summary", "ends", "arms")
    first, found = parts[0], dict[str, Any]()
    for path, part in zip(paths, parts, strict=True):
        if part["ends"] != first["ends"]:
            raise DataError(f"{path}: another preparation than {paths[0]}; join those of one")
        if again := sorted(found.keys() & part["summary"].keys()):
            raise DataError(f"{path}: arm {again[0]!r} is in another file too; give it once")
        found |= part["summary"]
    return {
        "command": "; ".join(part["command"] for part in parts),
        **{name: first[name] for name in ("commit", "device") if name in first},
        "summary": found,
        "ends": first["ends"],
        "arms": [arm | {"prepared": n} for n, part in enumerate(parts) for arm in part["arms"]],
    }


def _command(words: Sequence[str]) -> str:
    """The command as others would give it: homes and files are theirs to name."""
    told, own = list(words), {"--home": "H", "--out": "FILE"}
    for place, word in enumerate(words[:-1]):
        told[place + 1] = own.get(word, told[place + 1])
    return " ".join(["python -m onerec.bench.worth", *told])


@told_in_a_line
def main(argv: Sequence[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="what alignment is worth on a known world")
    parser.add_argument("--home", type=Path)
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--users", type=int, default=36_000)
    parser.add_argument("--world-seed", type=int, default=0, help="of the world that is made")
    parser.add_argument("--steps", type=int, help="instead of the recipe's")
    parser.add_argument("--looks", type=int, default=LOOKS, help="on valid, of each arm")
    parser.add_argument("--arms", default="none,pscore,long_view")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--one", help="ARM:SEED, in this process")
    parser.add_argument("--join", nargs="*", type=Path, help="results of one preparation")
    parser.add_argument("--note", default="", help="said beside what is joined")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args(argv)
    refuse_below_one(chosen, ("items", "users", "steps", "looks", "seeds", "jobs"))
    if not (chosen.home or chosen.join):
        parser.error("--home is needed")
    set_threads(1 if chosen.one else None)
    if chosen.prepare:
        size = {"n_items": chosen.items, "n_users": chosen.users}
        prepare(chosen.home, WorldConfig(**size, seed=chosen.world_seed), chosen.steps)
        return
    if chosen.out is None:
        parser.error("--out is needed")
    if chosen.join:
        write(joined(chosen.join) | ({"note": chosen.note} if chosen.note else {}), chosen.out)
        return
    if chosen.one:
        arm, _, seed = chosen.one.rpartition(":")
        where = chosen.out.parent, chosen.looks
        write_part(train(chosen.home, arm, int(seed), chosen.steps, *where), chosen.out)
        return
    arms = named_arms(chosen.arms)
    if NONE not in arms:
        raise RecipeError(f"--arms {chosen.arms}: add {NONE!r}, which the others are compared with")
    arms.sort(key=lambda arm: arm != NONE)  # the others wait for it
    work = [f"{arm}:{seed}" for arm in arms for seed in range(chosen.seeds)]
    words = ["--home", str(chosen.home)]
    words += ["--steps", str(chosen.steps)] if chosen.steps else []
    words += ["--looks", str(chosen.looks)]
    parts = in_parts("worth", words, work, chosen.out.with_suffix(".parts"), chosen.jobs)
    told = {"command": _command(sys.argv[1:] if argv is None else argv), "commit": commit()}
    told["device"] = machine_name() + (f" ({chosen.jobs} processes)" if chosen.jobs > 1 else "")
    found = ends(chosen.home)
    means = [
        {key: value for key, value in part.items() if key not in ("users", "curve", "at")}
        for part in parts
    ]
    result = {**told, "summary": summary(parts, found), "ends": found, "arms": means}
    write(result, chosen.out)


if __name__ == "__main__":
    raise SystemExit(main())
