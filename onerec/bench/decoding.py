"""What a wider beam buys, what other ways of decoding give up, and what bfloat16 changes.

    python -m onerec.bench.decoding --run R [--users 1000] [--beams 8 32 128 512] --out FILE

On test users of a run, what they have seen left out as the recipe says:

    beams      K items by a beam of K, at least 10 wide: `recall@10` (of fewer items: of these),
               `recall@K`, `hit@K` (a target is among them),
               and on a world with known truth `best@K` and `mean@K`, the share of long views of the
               best and of all K; seconds a user as a ratio to the narrowest beam. The paper's
               Table 4 (Pass@K, "best of K generated") is beside it as `paper`: its own reward
               models' lvtr and P-Score.
    methods    ten items each: beam search, diverse beams (4 groups, penalty 1), draws (temperature
               1; top-p .9; p^2), first ten distinct ones of `DRAWS`. `recall@10`, `coverage@10`,
               `items` that are there of ten, and `tags`: different tags among them
    precision  bfloat16 against float32: extrapolated rank-biased overlap (p = .9) of the lists of
               ten, the share of equal lists, and the difference in recall@10

Intervals are bootstraps over users.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onerec.bench.generate import as_json, commit, cpu_name, write
from onerec.bench.mistakes import refuse_below_one, told_in_a_line
from onerec.common import evaluating, set_threads
from onerec.data.batches import case_batches
from onerec.data.sources.world import world_of
from onerec.data.split import Cases
from onerec.metrics import (
    bootstrap_interval,
    coverage_at_k,
    hit_at_k,
    rank_biased_overlap,
    recall_at_k,
)
from onerec.model.batch import Batch
from onerec.model.diverse import diverse_beam_search
from onerec.model.generate import beam_search
from onerec.model.power import power_distribution
from onerec.model.sample import sample
from onerec.pipeline.pretrain import sample_cases
from onerec.recommend import BATCH, Recommender
from onerec.runs import open_run

Ints = NDArray[np.int64]
Search = Callable[[Batch, Tensor | None], Tensor]

RANKS, DRAWS, SUPPORT = 10, 64, 256
GROUPS, PENALTY = 4, 1.0
PAPER = {
    "8": {"lvtr": 0.3675, "p_score": 0.0811},
    "64": {"lvtr": 0.4927, "p_score": 0.2051},
    "512": {"lvtr": 0.5351, "p_score": 0.3375},
    "1024": {"lvtr": 0.5443, "p_score": 0.3859},
}


def lists(served: Recommender, cases: Cases, search: Search, half: bool) -> Ints:
    """(M, k) items of a search, in bfloat16 or not."""
    kind, parts = served.device.type, []
    hidden = served.setting.recipe.evaluate.filter_seen
    with torch.no_grad(), evaluating(served.model):
        for _, user, end in case_batches(served.contexts, cases, BATCH):
            batch = served.contexts.batch(user, end)
            seen = served.seen(user, end) if hidden else None
            with torch.autocast(kind, dtype=torch.bfloat16, enabled=half):
                parts.append(search(batch, seen).cpu())
    return torch.cat(parts).numpy()


def beam(served: Recommender, k: int) -> Search:
    """k items by a beam of k."""

    def search(batch: Batch, seen: Tensor | None) -> Tensor:
        given = {"k": k, "beam": max(k, RANKS), "exclude": seen}
        return beam_search(served.model, batch, served.trie, **given).items  # type: ignore[arg-type]

    return search


def first_distinct(drawn: Tensor, seen: Tensor | None, k: int = RANKS) -> Tensor:
    """The first k distinct items of draws (B, G) that are not in `seen` (B, X): (B, k), else -1."""
    rows = []
    left_out = [set()] * len(drawn) if seen is None else [set(row) for row in (seen - 1).tolist()]
    for row, known in zip(drawn.tolist(), left_out, strict=True):
        kept = [item for item in dict.fromkeys(row) if item >= 0 and item not in known][:k]
        rows.append(kept + [-1] * (k - len(kept)))
    return torch.tensor(rows)


def methods(served: Recommender, seed: int = 0) -> dict[str, Search]:
    """Name -> ten items a user."""
    model, trie = served.model, served.trie
    wide = max(RANKS, served.setting.recipe.evaluate.beam)

    def plain(batch: Batch, seen: Tensor | None) -> Tensor:
        return beam_search(model, batch, trie, k=RANKS, beam=wide, exclude=seen).items

    def diverse(batch: Batch, seen: Tensor | None) -> Tensor:
        given = {"k": RANKS, "beam": wide, "groups": GROUPS, "penalty": PENALTY, "exclude": seen}
        return diverse_beam_search(model, batch, trie, **given).items  # type: ignore[arg-type]

    def drawn(top_p: float) -> Search:
        stream = torch.Generator(served.device).manual_seed(seed)

        def search(batch: Batch, seen: Tensor | None) -> Tensor:
            found = sample(model, batch, trie, group=DRAWS, generator=stream, top_p=top_p)
            return first_distinct(found.items, seen)

        return search

    of_power = torch.Generator(served.device).manual_seed(seed)

    def power(batch: Batch, seen: Tensor | None) -> Tensor:
        chances = power_distribution(model, batch, trie, alpha=2.0, beam=SUPPORT)
        return first_distinct(chances.sample(DRAWS, of_power).items, seen)

    return {
        "beam": plain,
        "diverse": diverse,
        "sample": drawn(1.0),
        "top_p": drawn(0.9),
        "power": power,
    }


def told(values: NDArray[np.float64], random: np.random.Generator) -> dict[str, float]:
    """Mean and interval over users."""
    low, high = bootstrap_interval(values, random)
    return {
        "mean": round(float(values.mean()), 5),
        "low": round(low, 5),
        "high": round(high, 5),
    }


def by_beams(served: Recommender, cases: Cases, beams: Sequence[int]) -> dict[str, Any]:
    """A row for each width."""
    world, random = world_of(served.setting.dataset), np.random.default_rng(0)
    targets = cases.target_offsets, cases.target_items
    half, rows, base = served.device.type == "cuda", {}, None
    lists(served, cases.take(np.arange(min(BATCH, len(cases)))), beam(served, RANKS), half)  # warm
    for k in beams:
        search, begun = beam(served, k), time.perf_counter()
        found = lists(served, cases, search, half)
        seconds = (time.perf_counter() - begun) / len(cases)
        base = base or seconds
        row = {
            "recall@10": told(recall_at_k(found, *targets, min(k, RANKS)), random),
            "recall@K": told(recall_at_k(found, *targets), random),
            "hit@K": told(hit_at_k(found, *targets), random),
            "time": round(seconds / base, 2),
        }
        if world is not None:
            truth = world.truth(cases.user, cases.end, found)["long_view"]
            row |= {"best@K": told(truth.max(1), random), "mean@K": told(truth.mean(1), random)}
        rows[str(k)] = row
    return rows


def by_methods(served: Recommender, cases: Cases) -> dict[str, Any]:
    """A row for each way of decoding."""
    random, targets = np.random.default_rng(0), (cases.target_offsets, cases.target_items)
    items = served.setting.dataset.items
    tags = items["category"].map(lambda path: tuple(path)[:1]) if "category" in items else None
    number = None if tags is None else tags.astype(str).astype("category").cat.codes.to_numpy()
    rows = {}
    for name, search in methods(served).items():
        found = lists(served, cases, search, served.device.type == "cuda")
        rows[name] = {
            "recall@10": told(recall_at_k(found, *targets), random),
            "coverage@10": round(coverage_at_k(found, len(items)), 4),
            "items": round(float((found >= 0).sum(1).mean()), 2),
        }
        if number is not None:
            different = [len(np.unique(number[row[row >= 0]])) for row in found]
            rows[name]["tags"] = told(np.array(different, dtype=np.float64), random)
    return rows


def precision(served: Recommender, cases: Cases) -> dict[str, Any]:
    """bfloat16 beside float32."""
    random, targets = np.random.default_rng(0), (cases.target_offsets, cases.target_items)
    search, threads = methods(served)["beam"], torch.get_num_threads()
    torch.set_num_threads(1)  # what autocast is told, other threads would not hear
    try:
        single, half = (lists(served, cases, search, bits) for bits in (False, True))
    finally:
        torch.set_num_threads(threads)
    change = recall_at_k(half, *targets) - recall_at_k(single, *targets)
    return {
        "rank_biased_overlap": told(rank_biased_overlap(single, half), random),
        "equal_lists": round(float((single == half).all(1).mean()), 4),
        "recall@10_change": told(change, random),
    }


def run(
    name: str,
    *,
    home: Path | None = None,
    users: int = 1_000,
    beams: Sequence[int] = (8, 32, 128, 512),
    words: Sequence[str] = (),
) -> dict[str, Any]:
    """Measure a run and return one JSON-able dict."""
    begun, threads = time.perf_counter(), set_threads()
    served = Recommender.load(open_run(name, home), home)
    cases = sample_cases(served.setting.split.test, users)
    on = f"{cpu_name()}, {threads} threads"
    on = torch.cuda.get_device_name(served.device) if served.device.type == "cuda" else on
    return {
        "benchmark": "decoding",
        "command": " ".join(["python -m onerec.bench.decoding", *words]),
        "commit": commit(),
        "device": on,
        "recipe": served.setting.recipe.name,
        "dataset": served.setting.dataset.name,
        "items": served.setting.dataset.n_items,
        "users": len(cases),
        "beams": by_beams(served, cases, beams),
        "paper": PAPER,
        "methods": by_methods(served, cases),
        "precision": precision(served, cases),
        "seconds": round(time.perf_counter() - begun, 1),
    }


def table(result: dict[str, Any]) -> Iterator[str]:
    """Lines to read."""
    for k, row in result["beams"].items():
        best = f", best@{k} {row['best@K']['mean']:.4f}" if "best@K" in row else ""
        yield (
            f"beam {k}: recall@10 {row['recall@10']['mean']:.4f}, hit@{k} "
            f"{row['hit@K']['mean']:.4f}{best}, time {row['time']}"
        )
    for name, row in result["methods"].items():
        tags = f", tags {row['tags']['mean']:.2f}" if "tags" in row else ""
        yield (
            f"{name}: recall@10 {row['recall@10']['mean']:.4f}, "
            f"coverage {row['coverage@10']:.3f}{tags}"
        )
    found = result["precision"]
    yield (
        f"bfloat16: overlap {found['rank_biased_overlap']['mean']:.4f}, "
        f"recall {found['recall@10_change']['mean']:+.5f}"
    )


@told_in_a_line
def main(argv: Sequence[str] | None = None) -> int:
    """The command line; prints a table."""
    parser = argparse.ArgumentParser(description="quality for cost of beams and other decoding")
    parser.add_argument("--run", required=True)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--users", type=int, default=1_000)
    parser.add_argument("--beams", type=int, nargs="+", default=[8, 32, 128, 512])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args(argv)
    refuse_below_one(chosen, ("users", "beams"))
    words = sys.argv[1:] if argv is None else argv
    given = {"home": chosen.home, "users": chosen.users, "beams": chosen.beams, "words": words}
    result = run(chosen.run, **given)
    if chosen.out is not None:
        write(result, chosen.out)
    print(as_json(result) if chosen.json else "\n".join(table(result)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
