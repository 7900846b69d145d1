"""What a new item's codes are worth: items without a row in training, ranked among themselves.

    python -m onerec.bench.cold --runs RUN ... [--home H] [--part valid] [--out FILE]

Cold items are those that no training row has; the tokenizer was not fitted on them, and their codes
were no target. Cases are those of the part with such a target; what a user has done before includes
cold items where he had met them. Each scorer ranks all cold items that he has not met:

    model      by the probability of their codes (beam search over their trie, as wide as it is)
    shuffled   the same, with the cold items' codes dealt anew among them
    content    by the cosine of their vector and the mean of the user's last 20 positive ones
    chance     what a ranking at random expects

`recall@10` is the share of a case's cold targets in the first ten, `rank` their mean place over
their number (0 first, 1 last). A case has the mean of its runs; intervals are over cases and, of
differences, over runs too (`runs`). What stands in the open, among all items, is `open`: recall@10
of cold targets by the whole trie.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from onerec.bench.generate import as_json, commit, machine_name, write
from onerec.bench.mistakes import told_in_a_line
from onerec.bench.paired import bounds, interval
from onerec.common import autocast, evaluating
from onerec.data.batches import case_batches
from onerec.data.split import Cases
from onerec.errors import DataError, RunError
from onerec.model.generate import beam_search
from onerec.recommend import Recommender
from onerec.runs import Run, open_run
from onerec.tokenizer.trie import Trie

K = 10
LAST = 20  # positive events that stand for a user's taste, as the short pathway's length
BATCH = 64
SCORERS = ("model", "shuffled", "content", "chance")
MEASURES = ("recall@10", "rank")

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Asked:
    """Cases with a cold target: `items` (c,) are cold, `targets` of each case places in them."""

    cases: Cases
    items: Ints
    targets: list[Ints]


def asked_of(recommender: Recommender, part: str) -> Asked:
    """The cases of valid or test that a cold item answers.

    Raises:
        DataError: there are no such items, or no such case.
    """
    split = recommender.setting.split
    cases: Cases = getattr(split, part)
    items = np.flatnonzero(~split.fit_items)
    place = np.full(len(split.fit_items), -1)
    place[items] = np.arange(len(items))
    ends = zip(cases.target_offsets[:-1], cases.target_offsets[1:], strict=True)
    of_cases = [place[cases.target_items[a:b]] for a, b in ends]
    of_cases = [targets[targets >= 0] for targets in of_cases]
    rows = np.array([row for row, targets in enumerate(of_cases) if len(targets)], dtype=np.int64)
    if not len(rows):
        raise DataError(
            f"{part} has no target without a training row ({len(items)} items are without); a run "
            "with a split by time has some: --set evaluate.split=temporal"
        )
    nothing = np.zeros(len(rows) + 1, dtype=np.int64)
    chosen = Cases(cases.user[rows], cases.end[rows], nothing, nothing[:0])
    return Asked(chosen, items, [of_cases[row] for row in rows])


def by_model(recommender: Recommender, asked: Asked, order: Ints) -> Ints:
    """Ranks (M, c) of cold items, 0 first, where item i has the codes of `order[i]`."""
    codes = torch.from_numpy(recommender.ids.codes[asked.items[order]])
    trie = Trie(codes, recommender.ids.sizes).to(recommender.device)
    ranks = np.zeros((len(asked.cases), len(order)), dtype=np.int64)
    with evaluating(recommender.model), autocast(recommender.device):
        for rows, user, end in case_batches(recommender.contexts, asked.cases, BATCH):
            batch = recommender.contexts.batch(user, end)
            found = beam_search(
                recommender.model, batch, trie, k=len(order), beam=max(trie.nodes_per_level)
            )
            places = np.arange(len(order))[None].repeat(len(user), axis=0)
            np.put_along_axis(ranks[rows], found.items.cpu().numpy(), places, axis=1)
    return ranks


def by_content(recommender: Recommender, asked: Asked, vectors: Floats) -> Ints:
    """Ranks (M, c) by the likeness of contents."""
    log, rows = recommender.setting.split.log, []
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
    for user, end in zip(asked.cases.user, asked.cases.end, strict=True):
        own = np.arange(log.offsets[user], end)
        own = own[log.positive[own]][-LAST:]
        taste = unit[log.item[own]].mean(axis=0) if len(own) else np.zeros(unit.shape[1])
        rows.append(np.argsort(np.argsort(-(unit[asked.items] @ taste), kind="stable")))
    return np.stack(rows)


def unmet(recommender: Recommender, asked: Asked) -> NDArray[np.bool_]:
    """Which cold items (M, c) a user has not met before."""
    log = recommender.setting.split.log
    met = [
        np.isin(asked.items, log.item[log.offsets[user] : end])
        for user, end in zip(asked.cases.user, asked.cases.end, strict=True)
    ]
    return ~np.stack(met)


def measured(ranks: Ints, free: NDArray[np.bool_], targets: list[Ints]) -> dict[str, Floats]:
    """By case: recall@10, and the mean rank of targets among what is free, from 0 to 1."""
    recall, rank = [], []
    for order, open_, wanted in zip(ranks, free, targets, strict=True):
        left = wanted[open_[wanted]]
        before = np.array([(order[open_] < order[one]).sum() for one in left])
        recall.append(float((before < K).mean()) if len(left) else np.nan)
        rank.append(float(before.mean() / max(1, open_.sum() - 1)) if len(left) else np.nan)
    return {"recall@10": np.array(recall), "rank": np.array(rank)}


def expected(free: NDArray[np.bool_]) -> dict[str, Floats]:
    """What a ranking at random gives."""
    count = free.sum(axis=1)
    return {"recall@10": np.minimum(1.0, K / count.clip(1)), "rank": np.full(len(count), 0.5)}


def one_run(run: Run, home: Path | None, part: str, seed: int) -> dict[str, Any]:
    """By scorer and measure the values of all cases, and recall in the open."""
    recommender = Recommender.load(run, home)
    asked, vectors = asked_of(recommender, part), run.vectors()
    assert vectors is not None
    free, count = unmet(recommender, asked), len(asked.items)
    dealt = np.random.default_rng(seed).permutation(count)
    found = {
        "model": measured(by_model(recommender, asked, np.arange(count)), free, asked.targets),
        "shuffled": measured(by_model(recommender, asked, dealt), free, asked.targets),
        "content": measured(
            by_content(recommender, asked, vectors.astype(np.float64)), free, asked.targets
        ),
        "chance": expected(free),
    }
    lists = recommender.lists(asked.cases, K)
    hits = [
        float(np.isin(asked.items[wanted], items).mean())
        for wanted, items in zip(asked.targets, lists.items, strict=True)
    ]
    known = ~np.isnan(found["model"]["rank"])
    values = {s: {n: v[known] for n, v in by.items()} for s, by in found.items()}
    return {"items": count, "values": values, "open": float(np.mean(hits))}


def summary(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over cases and runs, and what the model has over the others, with intervals."""
    result: dict[str, Any] = {
        "cold_items": parts[0]["items"],
        "cases": len(parts[0]["values"]["model"]["rank"]),
        "open_recall@10": [round(part["open"], 5) for part in parts],
    }
    for scorer in SCORERS:
        line: dict[str, Any] = {}
        for name in MEASURES:
            own = [part["values"][scorer][name] for part in parts]
            line[name] = interval(np.mean(own, axis=0).tolist())
            if scorer != "model":
                apart = [p["values"]["model"][name] - p["values"][scorer][name] for p in parts]
                line[f"model_less_{name}"] = interval(np.mean(apart, axis=0).tolist())
                line[f"model_less_{name}"]["runs"] = interval([float(a.mean()) for a in apart])
        result[scorer] = line
    return result


@told_in_a_line
def main(argv: Sequence[str] | None = None) -> int:
    """The command line; prints a line for each scorer."""
    parser = argparse.ArgumentParser(description="what a new item's codes are worth")
    parser.add_argument("--runs", nargs="+", required=True, help="trained runs of one dataset")
    parser.add_argument("--home", type=Path, help="of runs and datasets")
    parser.add_argument("--part", choices=("valid", "test"), default="valid")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--out", type=Path, help="also write it to this file")
    chosen = parser.parse_args(argv)
    runs = [open_run(name, chosen.home) for name in chosen.runs]
    parts = [one_run(run, chosen.home, chosen.part, seed) for seed, run in enumerate(runs)]
    if len({len(part["values"]["model"]["rank"]) for part in parts}) > 1:
        raise RunError("--runs: these have other cases; give runs of one dataset and one split")
    result = {
        "benchmark": "cold",
        "command": " ".join(
            ["python -m onerec.bench.cold", *(sys.argv[1:] if argv is None else argv)]
        ),
        "commit": commit(),
        "device": machine_name(),
        "dataset": runs[0].recipe()["dataset"],
        "part": chosen.part,
        "results": summary(parts),
    }
    if chosen.out is not None:
        write(result, chosen.out)
    if chosen.json:
        print(as_json(result))
        return 0
    for scorer in SCORERS:
        line = result["results"][scorer]
        less = line.get("model_less_recall@10")
        beside = "" if less is None else f"; model {less['mean']:+.4f} {bounds(less)}"
        print(f"{scorer:<10}recall@10 {line['recall@10']['mean']:.4f}{beside}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
