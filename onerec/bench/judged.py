"""Alignment on a real log, judged by another family: trees that know later days and other users.

    python -m onerec.bench.judged --log kuairand --home H [--kuairand FOLDER] --out FILE
    python -m onerec.bench.judged --log world --home H [--items 6000 --users 9000] --out FILE

A log does not tell what would have come of an item that was never shown, so a reward model's gain
is no proof. Here LightGBM is the judge. It learns, from the rows of the test days of one half of
the users, what people did then; it says of the other half's lists what they would do. Policy and
reward model have seen the days before alone, and the judge's users' later rows not at all. On a
world the same protocol stands beside the truth: `error` is the judged gain minus the true one.

Every arm (see `arms`) starts from one pre-trained policy; its step is chosen on valid and it stands
beside `none` of the same seed and step. Of the lists' first 10 and 32 items: the judge's mean
probability of a long view, its mean of the weighted label that P-Score learned, the reward model's
own means, and `log_exposure`, the mean ln(1 + training exposures) of an item: whether the gain is
popularity.

Shapes: N rows, M users, K items of a list, F features.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onerec.assembly import Setting, setting_of
from onerec.bench.arms import NONE, choose, in_parts, named_arms, train_arm, write_part
from onerec.bench.generate import commit, machine_name, write
from onerec.bench.mistakes import refuse_below_one, told_in_a_line
from onerec.bench.paired import interval
from onerec.bench.pscore import import_kuairand
from onerec.bench.trees import TREES, Table, Trees
from onerec.bench.world import _found as found_kuairand
from onerec.bench.worth import at_step, own_means, worth
from onerec.common import pick_device, set_threads
from onerec.data.sources.world import make_world_dataset, world_of
from onerec.data.split import Cases
from onerec.metrics import auc, recall_at_k
from onerec.pipeline import run as run_stages
from onerec.pipeline.align import Aligning
from onerec.recipes import parse_overrides, recipe
from onerec.rewards import FUSED, RewardModel, candidate_features
from onerec.runs import Run, open_run
from onerec.world import WorldConfig

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

RUN = "judged"
ARMS = (NONE, "long_view", "pscore")
CUTS = (10, 32)
LABELS = ("long_view", FUSED)
MOST_USERS = 2_000
SETTINGS = {
    "tokenizer.codebook_size": "128",
    "train.steps": "600",
    "reward.steps": "100",
    "reward.batch_size": "1024",
    "reward.learning_rate": "0.003",
    "align.steps": "100",
    "align.users": "32",
    "align.group": "64",
    "align.search": "constrained",
    "align.format_items": "0",
    "align.weight": "0.3",
    "align.learning_rate": "0.0002",
    "evaluate.valid_users": "2000",
    "baselines.names": "popularity",
}


@dataclass
class Judge:
    """Trees for each of `LABELS`, and how well they rank held-out rows of the judged users."""

    models: dict[str, Any]
    reward: RewardModel
    auc: dict[str, float]
    rows: int

    def __call__(self, cases: Cases, lists: Ints) -> dict[str, Floats]:
        """What it says of lists (M, K): (M, K) for each label."""
        table = candidate_features(self.reward, cases.user, cases.end, lists)
        flat = table.reshape(-1, table.shape[-1])
        return {
            name: np.asarray(model.predict(flat), dtype=np.float64).reshape(lists.shape)
            for name, model in self.models.items()
        }


def halves(n_users: int) -> tuple[Ints, Ints]:
    """Users whose rows the judge learns from, and users whom it judges; the same for every seed."""
    order = np.random.default_rng(0).permutation(n_users)
    return np.sort(order[: n_users // 2]), np.sort(order[n_users // 2 :])


def make_judge(reward: RewardModel, trials: int = len(TREES)) -> Judge:
    """Learn from the later rows of one half; a fifth of its users choose among the settings."""
    log = reward.exposures.split.log
    rows = reward.exposures.test_rows()
    learns, judged = (np.isin(log.user[rows], half) for half in halves(log.n_users))
    held = learns & (log.user[rows] % 5 == 0)
    tuning = {
        "train": Table(reward, rows[learns & ~held]),
        "valid": Table(reward, rows[held]),
    }
    final = {"train": Table(reward, rows[learns]), "test": Table(reward, rows[judged])}
    trees = Trees(tuning, final, trials)
    weights = reward.model.weights.double().cpu().numpy()
    k = reward.behaviours.index("long_view")
    models = {
        "long_view": trees.fitted("long_view", lambda table: table.label(k)),
        FUSED: trees.fitted(FUSED, lambda table: table.weighted(weights)),
    }
    yes, known = final["test"].label(k)
    score = np.asarray(models["long_view"].predict(final["test"].x))
    ours = reward.logged(rows[judged])["long_view"]
    found = {
        "judge": round(auc(yes[known] > 0, score[known]), 5),
        "reward_model": round(auc(yes[known] > 0, ours[known]), 5),
    }
    return Judge(models, reward, found, int(learns.sum()))


def judged_cases(setting: Setting) -> Cases:
    """Test users of the other half, at most `MOST_USERS`."""
    cases = setting.split.test
    there = np.flatnonzero(np.isin(cases.user, halves(setting.split.log.n_users)[1]))
    return cases.take(there[:MOST_USERS])


def prepare(
    log: str, home: Path, folder: Path | None, items: int, users: int, changes: dict[str, str]
) -> Run:
    """The dataset, and the run that every arm starts from; what is there stays."""
    place = home / "datasets"
    if not (place / log).exists():
        if log == "world":
            make_world_dataset(log, WorldConfig(n_items=items, n_users=users), home)
        else:
            folder = folder or found_kuairand()
            if folder is None:
                raise FileNotFoundError("KuaiRand's logs are not here; name the folder: --kuairand")
            import_kuairand(folder, home)
    settings = SETTINGS | ({"content.text": "none"} if log != "world" else {}) | changes
    stages = ("tokenize", "pretrain", "reward")
    return run_stages(f"{RUN}_{log}", recipe("small", settings), log, home=home, stages=stages)


def one(
    log: str, home: Path, arm: str, seed: int, parts: dict[int, dict[str, Any]]
) -> dict[str, Any]:
    """One arm and seed: trained, chosen on valid beside `none` (in `parts`), judged."""
    run = open_run(f"{RUN}_{log}", home)
    setting = setting_of(run, home)
    judge = make_judge(RewardModel.load(run, setting, pick_device(setting.recipe.device)))
    trained = train_arm(run, setting, arm, seed)
    step = max(trained.kept)
    done: dict[str, Any] = {"arm": arm, "seed": seed, "judge": {"auc": judge.auc}}
    done["judge"]["rows"] = judge.rows
    if arm == NONE:
        earlier = sorted(set(trained.kept) - {0, step})
        done["at"] = {each: measure(trained.at(each), judge) for each in earlier}
    else:
        base = {int(s): value[0] for s, value in parts[seed]["valid"].items()}
        step = choose(trained.valid, base)
    return {
        **done,
        "step": step,
        "valid": {s: list(value) for s, value in trained.valid.items()},
        "seconds": trained.seconds,
        **measure(trained.at(step), judge),
    }


def measure(aligning: Aligning, judge: Judge) -> dict[str, Any]:
    """Lists of the judged users, seen by the judge, by the reward model and, on a world, truly."""
    setting, cases = aligning.setting, judged_cases(aligning.setting)
    lists = aligning.recommender.lists(cases, max(CUTS)).items
    world = world_of(setting.dataset)
    seen = {"judged": judge(cases, lists), "own": own_means(aligning.reward, cases, lists)}
    if world is not None:
        seen["true"] = worth(world, cases, lists, aligning.reward)
    shown = np.bincount(
        setting.split.log.item[setting.split.train], minlength=setting.dataset.n_items
    )
    recall = recall_at_k(lists[:, :10], cases.target_offsets, cases.target_items, 10)
    result: dict[str, Any] = {"recall@10": float(recall.mean()), "users": len(cases)}
    for cut in CUTS:
        result[f"log_exposure@{cut}"] = float(np.log1p(shown[lists[:, :cut]]).mean())
        for by, found in seen.items():
            for label in LABELS:
                result[f"{by}_{label}@{cut}"] = float(found[label][:, :cut].mean())
    return result


def summary(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """By arm, paired with `none` of the same seed and step: changes with 95% intervals."""
    without = {part["seed"]: part for part in parts if part["arm"] == NONE}
    result: dict[str, Any] = {}
    for arm in sorted({part["arm"] for part in parts} - {NONE}):
        mine = [part for part in parts if part["arm"] == arm and part["seed"] in without]
        base = [at_step(without[part["seed"]], part["step"]) for part in mine]
        keys = [key for key in base[0] if "@" in key]
        gain = {
            key: [part[key] - other[key] for part, other in zip(mine, base, strict=True)]
            for key in keys
        }
        line: dict[str, Any] = {"seeds": len(mine), "steps": [part["step"] for part in mine]}
        line["gain"] = {key: interval(gain[key]) for key in keys}
        line["share"] = {
            key: interval([g / other[key] for g, other in zip(gain[key], base, strict=True)])
            for key in keys
        }
        if any(key.startswith("true_") for key in keys):
            line["error"] = {
                f"{label}@{cut}": interval(
                    [
                        judged - true
                        for judged, true in zip(
                            gain[f"judged_{label}@{cut}"], gain[f"true_{label}@{cut}"], strict=True
                        )
                    ]
                )
                for label in LABELS
                for cut in CUTS
            }
        result[arm] = line
    base = list(without.values())
    result[NONE] = {key: interval([part[key] for part in base]) for key in base[0] if "@" in key}
    return result


@told_in_a_line
def main(argv: Sequence[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="alignment on a log, judged by trees")
    parser.add_argument("--log", choices=("kuairand", "world"), required=True)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--kuairand", type=Path)
    parser.add_argument("--items", type=int, default=6_000)
    parser.add_argument("--users", type=int, default=9_000)
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument(
        "--set", nargs="*", action="extend", default=[], help="settings of the run, KEY=VALUE"
    )
    parser.add_argument("--one", help="ARM:SEED, in this process")
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args(argv)
    set_threads(1 if chosen.one else None)
    folder = chosen.out.with_suffix(".parts")
    if chosen.one:
        arm, _, seed = chosen.one.rpartition(":")
        write_part(one(chosen.log, chosen.home, arm, int(seed), _found(chosen.out)), chosen.out)
        return
    refuse_below_one(chosen, ("seeds", "jobs"))
    arms = [arm for arm in named_arms(chosen.arms) if arm != NONE]
    changes = parse_overrides(chosen.set)
    sizes = (chosen.items, chosen.users)
    prepare(chosen.log, chosen.home, chosen.kuairand, *sizes, changes)
    words = ["--log", chosen.log, "--home", str(chosen.home)]
    for group in ([NONE], arms):  # what the others are compared with comes first
        work = [f"{arm}:{seed}" for seed in range(chosen.seeds) for arm in group]
        parts = in_parts("judged", words, work, folder, chosen.jobs)
    told = {
        "command": " ".join(
            ["python -m onerec.bench.judged --log", chosen.log, "--seeds", str(chosen.seeds)]
            + (["--set", *chosen.set] if chosen.set else [])
        ),
        "commit": commit(),
        "device": machine_name(),
        "users": parts[0]["users"],
        "judge": parts[0]["judge"],
    }
    means = [{key: value for key, value in part.items() if key != "judge"} for part in parts]
    write({**told, "summary": summary(parts), "arms": means}, chosen.out)


def _found(part: Path) -> dict[int, dict[str, Any]]:
    """The parts of `none` beside a part, by seed."""
    found = {}
    for path in part.parent.glob(f"{NONE}-*.json"):
        read = json.loads(path.read_text())
        found[int(read["seed"])] = read
    return found


if __name__ == "__main__":
    raise SystemExit(main())
