"""How far a reward can draw the pre-trained policy, and what it costs: nothing is trained.

    python -m onerec.bench.worth --home H --prepare
    python -m onerec.bench.frontier --home H --out FILE

Of each user the 512 most probable items of the policy before alignment are ordered by
log p + gamma log r: the policy times r^gamma, cut to a beam. `align.tilt` aims at that policy, so
this is what it could reach if the model could express it everywhere. r is the reward model's long
view, its fused P-Score, or the truth itself (a reward model without error). Told are recall@10 on
valid and test, and of the test lists the true long view of the first 32, the share of the headroom
closed (the oracle's 32 are the other end), and by how much the first two change, over users.

`rank_correlation`: Spearman's, of the reward model's long view with the truth inside a user's 512.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onerec.assembly import Setting, load_semantic_ids, setting_of, trained_model
from onerec.bench import worth
from onerec.bench.generate import commit, cpu_name, write
from onerec.bench.mistakes import told_in_a_line
from onerec.bench.paired import interval
from onerec.common import pick_device, set_threads
from onerec.data.split import Cases
from onerec.lifelong import with_lifelong
from onerec.lists import Lists
from onerec.metrics import recall_at_k
from onerec.pipeline.pretrain import device_name, sample_cases
from onerec.recommend import Recommender
from onerec.rewards import FUSED, RewardModel
from onerec.runs import open_run

Floats = NDArray[np.float64]

WIDE, RANKS, HEAD = 512, 10, 32
GAMMAS = (0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
REWARDS = ("long_view", FUSED, "truth")
LEAST = 1e-6  # rewards below count as this


def first(lists: Lists, reward: Floats, gamma: float, k: int) -> NDArray[np.int64]:
    """Places (M, k) of the items with the highest log p + gamma log r; -1 is nobody's and last."""
    score = lists.scores.astype(np.float64) + gamma * np.log(np.maximum(reward, LEAST))
    score = np.where(lists.items < 0, -np.inf, score)
    return np.argsort(-score, axis=1, kind="stable")[:, :k]


def recalls(lists: Lists, cases: Cases, reward: Floats, gamma: float) -> Floats:
    """recall@10 of each case (M,)."""
    ten = np.take_along_axis(lists.items, first(lists, reward, gamma, RANKS), axis=1)
    return recall_at_k(ten, cases.target_offsets, cases.target_items, RANKS)


def heads(lists: Lists, truth: Floats, reward: Floats, gamma: float) -> Floats:
    """The true long view of each case's first 32 (M,)."""
    there = np.where(lists.items < 0, 0.0, truth)
    head: Floats = np.take_along_axis(there, first(lists, reward, gamma, HEAD), axis=1).mean(1)
    return head


def rank_correlation(a: Floats, b: Floats) -> float:
    """Spearman's correlation within each row of (M, K), the mean over rows."""
    ranks = [np.argsort(np.argsort(values, axis=1, kind="stable"), axis=1) for values in (a, b)]
    one, two = (rank - rank.mean(1, keepdims=True) for rank in ranks)
    spread = np.sqrt((one**2).sum(1) * (two**2).sum(1))
    return float(((one * two).sum(1) / np.maximum(spread, 1e-12)).mean())


def _recommender(setting: Setting, home: Path) -> Recommender:
    run, device = open_run(worth.RUN, home), pick_device(setting.recipe.device)
    ids, popularity = load_semantic_ids(run)
    model = trained_model(run, setting, ids, "pretrain")
    return Recommender(with_lifelong(setting, run, device), ids, popularity, model, device)


def measure(home: Path) -> dict[str, Any]:
    """The benchmark's JSON but for who made it."""
    run = open_run(worth.RUN, home)
    setting = setting_of(run, home)
    device = pick_device(setting.recipe.device)
    recommender, world = _recommender(setting, home), worth.known_world(setting)
    reward = RewardModel.load(run, setting, device)
    parts = {
        "valid": sample_cases(setting.split.valid, worth.RECALL_USERS),
        "test": sample_cases(setting.split.test, worth.RECALL_USERS),
        "truth": sample_cases(setting.split.test, worth.TEST_USERS),
    }
    lists = {name: recommender.lists(cases, WIDE) for name, cases in parts.items()}
    own = {name: worth.own_means(reward, parts[name], lists[name].items) for name in parts}
    judged = parts["truth"]
    truth = world.truth(judged.user, judged.end, lists["truth"].items)["long_view"]
    oracle = worth.ends(home)["oracle"]["mean"][f"long_view@{HEAD}"]
    start = heads(lists["truth"], truth, truth, 0.0)
    rows = []
    for kind in REWARDS:
        for gamma in GAMMAS:
            head = heads(
                lists["truth"], truth, truth if kind == "truth" else own["truth"][kind], gamma
            )
            row: dict[str, Any] = {"reward": kind, "gamma": gamma, "long_view": float(head.mean())}
            row["gain"] = interval((head - start).tolist())
            row["headroom_closed"] = row["gain"]["mean"] / (oracle - float(start.mean()))
            for part in ("valid", "test") if kind != "truth" else ():
                told = lists[part], parts[part]
                found = recalls(*told, own[part][kind], gamma)
                before = recalls(*told, own[part][kind], 0.0)
                row[f"{part}_recall@10"] = float(found.mean())
                row[f"{part}_recall_change"] = interval((found - before).tolist())
            rows.append(row)
    correlation = rank_correlation(own["truth"]["long_view"], truth)
    made_by = device_name(device) if device.type == "cuda" else cpu_name()
    return {"device": made_by, "oracle": oracle, "rank_correlation": correlation, "rows": rows}


def table(found: dict[str, Any]) -> str:
    """A line per reward and gamma."""
    lines = [f"{'reward':<10}{'gamma':>6}{'valid':>8}{'test':>8}{'true':>8}{'headroom':>10}"]
    for row in found["rows"]:
        recall = [row.get(f"{part}_recall@10", float("nan")) for part in ("valid", "test")]
        lines.append(
            f"{row['reward']:<10}{row['gamma']:>6g}{recall[0]:>8.4f}{recall[1]:>8.4f}"
            f"{row['long_view']:>8.4f}{row['headroom_closed']:>10.1%}"
        )
    return "\n".join(lines)


@told_in_a_line
def main(argv: Sequence[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="what a tilt of the policy could reach")
    parser.add_argument("--home", type=Path, required=True, help="that of bench.worth --prepare")
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args(argv)
    set_threads(None)
    told = {"command": "python -m onerec.bench.frontier", "commit": commit()}
    found = {**told, **measure(chosen.home)}
    write(found, chosen.out)
    print(table(found))


if __name__ == "__main__":
    raise SystemExit(main())
