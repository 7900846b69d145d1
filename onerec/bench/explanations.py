"""Do attention and gradient say what an item was generated for? Judged by leaving events out.

    python -m onerec.bench.explanations --run R [--users 1000] [--most 20] --out FILE

For each of so many test users the first item of his list is explained (`onerec.attribution`). Truth
is leave-one-out: the item's log-probability with the whole history less that without one event.

    rank_correlation  Spearman's, with the truth over the events of a history, its mean over users:
                      of attention, of input times gradient, and of the events' order (newest first)
    deleted           nats of log-probability that are lost when the 1, 5, 10, 20 events that a
                      method names first are deleted, and `area`, the mean over 1 .. `--most`;
                      leave-one-out itself, attention, gradient, the newest, and at random
    over              the same as a difference by user from `random` and from `recent`

Intervals are bootstraps over users. Left out of the correlations, and counted: users with fewer
than three events that the model reads, and rankings without any difference.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from onerec.bench.generate import as_json, commit, cpu_name, write
from onerec.bench.mistakes import refuse_below_one, told_in_a_line
from onerec.common import set_threads
from onerec.explanation import METHODS, Explanation, explain
from onerec.metrics import bootstrap_interval
from onerec.pipeline.pretrain import sample_cases
from onerec.recommend import Recommender
from onerec.runs import open_run

Floats = NDArray[np.float64]

TRUTH, RIVALS = METHODS[0], (*METHODS[1:], "recent")
CURVES = (*METHODS, "recent", "random")
DEPTHS = (1, 5, 10, 20)
FEWEST = 3  # events that a ranking needs


def correlations(found: Explanation) -> dict[str, float]:
    """Spearman's with the truth, by rival; NaN where there is nothing to rank."""
    read = found.events[found.events["read"]]
    scores = {name: read[name].to_numpy() for name in METHODS} | {"recent": read["event"]}
    truth = scores[TRUTH]
    if len(read) < FEWEST or np.ptp(truth) == 0:
        return dict.fromkeys(RIVALS, float("nan"))
    return {
        name: float(spearmanr(truth, scores[name]).statistic)
        if np.ptp(scores[name]) > 0
        else float("nan")
        for name in RIVALS
    }


def lost(found: Explanation, most: int) -> dict[str, Floats]:
    """Nats that are lost after 0, 1 .. `most` deletions, by method: (most + 1,).

    Where a history has fewer events its last value stays.
    """
    table = found.curves.pivot(index="deleted", columns="method", values="log_prob")
    curves = table.to_numpy(dtype=np.float64)  # (m + 1, methods)
    full = np.concatenate([curves, np.repeat(curves[-1:], most + 1 - len(curves), axis=0)])
    return {str(name): full[0, i] - full[:, i] for i, name in enumerate(table.columns)}


def summary(
    ranks: Sequence[dict[str, float]], curves: Sequence[dict[str, Floats]], most: int
) -> dict[str, Any]:
    """Means over users with their intervals."""
    random = np.random.default_rng(0)

    def told(values: Floats) -> dict[str, float]:
        low, high = bootstrap_interval(values, random)
        return {
            "mean": round(float(values.mean()), 4),
            "low": round(low, 4),
            "high": round(high, 4),
        }

    correlation: dict[str, Any] = {}
    for name in RIVALS:
        values = np.array([one[name] for one in ranks])
        known = values[np.isfinite(values)]
        correlation[name] = (told(known) if len(known) else {}) | {"users": len(known)}
    whole = {name: np.stack([one[name] for one in curves]) for name in CURVES}  # (users, most + 1)
    measures = {name: {"area": own[:, 1:].mean(1)} for name, own in whole.items()}
    for name, own in whole.items():
        measures[name] |= {str(depth): own[:, depth] for depth in DEPTHS if depth <= most}
    return {
        "rank_correlation": correlation,
        "deleted": {
            name: {key: told(values) for key, values in own.items()}
            for name, own in measures.items()
        },
        "over": {
            base: {
                name: told(measures[name]["area"] - measures[base]["area"])
                for name in CURVES
                if name != base
            }
            for base in ("random", "recent")
        },
    }


def run(
    name: str,
    *,
    home: Path | None = None,
    users: int = 1_000,
    most: int = 20,
    words: Sequence[str] = (),
) -> dict[str, Any]:
    """Measure a run and return one JSON-able dict."""
    begun, threads = time.perf_counter(), set_threads()
    recommender = Recommender.load(open_run(name, home), home)
    cases = sample_cases(recommender.setting.split.test, users)
    lists = recommender.lists(cases, 1)
    ranks, curves, events = [], [], []
    for user, end, item in zip(cases.user, cases.end, lists.items[:, 0], strict=True):
        history = recommender.prompts.before(int(user), int(end))
        found = explain(recommender, history, int(item), most=most)
        ranks.append(correlations(found))
        curves.append(lost(found, most))
        events.append(int(found.events["read"].sum()))
    return {
        "benchmark": "explanations",
        "command": " ".join(["python -m onerec.bench.explanations", *words]),
        "commit": commit(),
        "device": f"{cpu_name()}, {threads} threads",
        "run": name,
        "recipe": recommender.setting.recipe.name,
        "dataset": recommender.setting.dataset.name,
        "users": len(ranks),
        "events_read": round(float(np.mean(events)), 1),
        "most": most,
        **summary(ranks, curves, most),
        "seconds": round(time.perf_counter() - begun, 1),
    }


@told_in_a_line
def main(argv: Sequence[str] | None = None) -> int:
    """The command line; prints a line for each method."""
    parser = argparse.ArgumentParser(description="attention and gradient against leave-one-out")
    parser.add_argument("--run", required=True)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--users", type=int, default=1_000)
    parser.add_argument("--most", type=int, default=20, help="events that are deleted at most")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args(argv)
    refuse_below_one(chosen, ("users", "most"))
    result = run(
        chosen.run,
        home=chosen.home,
        users=chosen.users,
        most=chosen.most,
        words=sys.argv[1:] if argv is None else argv,
    )
    if chosen.out is not None:
        write(result, chosen.out)
    if chosen.json:
        print(as_json(result))
        return 0
    for name in RIVALS:
        own = result["rank_correlation"][name]
        print(f"{name}: rank correlation with leave-one-out {own.get('mean')}")
    for name in CURVES:
        print(f"{name}: {result['deleted'][name]['area']['mean']} nats lost")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
