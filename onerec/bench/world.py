"""The built-in world beside KuaiRand's logs: the same measurements on both, in one table.

    python -m onerec.bench.world --json [--out onerec/bench/results/world.json] [--kuairand FOLDER]

Marginals are those of KuaiRand's complete standard log of fourteen days; history lengths are the
published true lengths; recall is measured on the merged events with the split as given, by the same
baselines. Where the folder is not there, the column is left out, and the table says so.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from onerec.baselines import item_knn, popularity
from onerec.bench.click_models import areas, kuairand_rows, world_rows
from onerec.bench.generate import as_json, commit, cpu_name, write
from onerec.bench.mistakes import refuse_below_one, told_in_a_line
from onerec.common import generator, set_threads
from onerec.data.dataset import Dataset
from onerec.data.ingest import import_files
from onerec.data.sources.world import KnownWorld, make_world_dataset, world_of
from onerec.data.split import Split, make_split
from onerec.errors import DataError
from onerec.evaluate import RANKS, tune
from onerec.metrics import recall_at_k
from onerec.world import WorldConfig
from onerec.world.response import BEHAVIOURS

Array = NDArray[Any]

FOLDER = "kuairand_pure_partial"
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
TRIALS = 4
# Recall has to lie within this factor of KuaiRand's, an AUC within this distance.
RECALL_FACTOR, AUC_DISTANCE = 1.5, 0.03


def run(
    *,
    out: Path | None = None,
    kuairand: Path | None = None,
    config: WorldConfig | None = None,
    threads: int = 2,
    large: bool = True,
    words: Sequence[str] = (),
) -> dict[str, Any]:
    """Measure both sides; writes the result to `out` as well where it is given.

    Raises:
        DataError: `kuairand` is no folder, or see `onerec.data.ingest.import_files`.
    """
    threads = set_threads(min(threads, set_threads()))
    folder = kuairand or _found()
    if folder is not None and not folder.is_dir():
        raise DataError(f"{folder}: no such folder; --kuairand names that of KuaiRand's files")
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        result: dict[str, Any] = {
            "benchmark": "world",
            "command": " ".join(["python -m onerec.bench.world", *words]),
            "commit": commit(),
            "device": f"{cpu_name()}, {threads} thread{'s' if threads > 1 else ''}",
            "load": round(os.getloadavg()[0], 1),  # what else the machine did: it slows the speed
            "seed": (config or WorldConfig()).seed,
            "speed": _speeds(home, config, large),
        }
        dataset = make_world_dataset("world", config, home)
        result["fingerprint"] = dataset.fingerprint
        result["world"] = measure_world(dataset)
        result["kuairand"] = None if folder is None else measure_kuairand(folder, home)
    if folder is None:
        result["left_out"] = f"no {FOLDER} here: set ONEREC_TEST_DATA to the folder that holds it"
    if out is not None:
        write(result, out)
    return result


def measure_world(dataset: Dataset) -> dict[str, Any]:
    """Marginals, recall with both ends, and AUC of the world."""
    known = world_of(dataset)
    assert known is not None
    log, split = dataset.log, make_split(dataset, "temporal")
    in_train = log.columns["timestamp"] < split.counts["valid_from"]
    lengths = np.bincount(log.user[in_train], minlength=log.n_users)
    columns = {name: log.columns[name] for name in (*BEHAVIOURS, "play_ms", "duration_ms")}
    return {
        **marginals(columns, log.item, log.n_items),
        **{f"history {q:g}": float(v) for q, v in _quantiles(lengths[lengths > 0])},
        "history mean": float(lengths[lengths > 0].mean()),
        **recalls(split, known),
        **areas(world_rows(dataset, split)),
    }


def measure_kuairand(folder: Path, home: Path) -> dict[str, Any]:
    """The same of KuaiRand, by the columns of the published files."""
    with duckdb.connect() as connection:
        connection.execute("SET threads TO 2")
        log: dict[str, Any] = connection.execute(
            "SELECT item_id, is_click AS click, long_view, is_like AS like, is_follow AS follow, "
            "is_comment AS comment, is_forward AS forward, is_hate AS dislike, "
            "play_time_ms AS play_ms, duration_ms "
            f"FROM read_parquet('{folder / 'interactions.parquet'}')"
        ).fetchnumpy()
        lengths: Any = connection.execute(
            f"SELECT history_len FROM read_parquet('{folder / 'history.parquet'}')"
        ).fetchnumpy()["history_len"]
        n_items = connection.execute(
            f"SELECT max(item_id) + 1 FROM read_parquet('{folder / 'items.parquet'}')"
        ).fetchall()[0][0]
    dataset = import_files(
        folder / "events.parquet",
        folder / "items.parquet",
        folder / "users.parquet",
        name="kuairand",
        home=home,
    )
    return {
        **marginals(log, log["item_id"], n_items),
        **{f"history {q:g}": float(v) for q, v in _quantiles(lengths)},
        "history mean": float(lengths.mean()),
        **recalls(make_split(dataset, "given"), None),
        **areas(kuairand_rows(folder)),
    }


def marginals(columns: dict[str, Array], item: Array, n_items: int) -> dict[str, float]:
    """Rates of the behaviours, play time over duration, and how uneven popularity is."""
    found = {f"rate {name}": float(np.mean(columns[name] == 1)) for name in BEHAVIOURS}
    positive = np.zeros(len(item), dtype=bool)
    for name in ("long_view", "like", "follow", "comment", "forward"):
        positive |= columns[name] == 1
    found["rate positive"] = float(positive.mean())
    timed = columns["duration_ms"] > 0
    share = columns["play_ms"][timed] / columns["duration_ms"][timed]
    found |= {f"played {q:g}": float(v) for q, v in _quantiles(share)}
    counts = np.sort(np.bincount(item, minlength=n_items))[::-1].astype(np.float64)
    head = np.cumsum(counts) / counts.sum()
    found["share of top 1%"] = float(head[max(1, n_items // 100) - 1])
    found["share of top 10%"] = float(head[max(1, n_items // 10) - 1])
    found["gini"] = gini(counts)
    return found


def gini(counts: Array) -> float:
    """0 where all items are shown alike, towards 1 where one has it all."""
    ordered = np.sort(counts).astype(np.float64)
    n = len(ordered)
    weight = 2 * np.arange(1, n + 1) - n - 1
    return float((weight * ordered).sum() / (n * ordered.sum()))


def recalls(split: Split, known: KnownWorld | None) -> dict[str, float]:
    """Test recall@10 of the baselines, tuned on valid, and of the two ends where truth is known."""
    cases = split.test
    lists = {
        "popularity": tune(
            popularity.GRID, lambda c: popularity.fit(split, c, generator(0)), split, trials=TRIALS
        ).model.recommend(split, cases, RANKS),
        "item_knn": tune(
            item_knn.GRID, lambda c: item_knn.fit(split, c, generator(0)), split, trials=TRIALS
        ).model.recommend(split, cases, RANKS),
    }
    if known is not None:
        lists["random"] = known.random(cases.user, RANKS, generator(0))
        lists["oracle"] = known.oracle(cases.user, RANKS, cases.end)
    found = {
        f"recall@10 {name}": float(
            recall_at_k(ranked, cases.target_offsets, cases.target_items, RANKS).mean()
        )
        for name, ranked in lists.items()
    }
    found["test users"] = float(len(cases.user))
    found["targets per user"] = len(cases.target_items) / len(cases.user)
    return found


def verdicts(result: dict[str, Any]) -> dict[str, bool]:
    """Whether the world is as hard as KuaiRand, by the limits above; empty without KuaiRand."""
    ours, theirs = result["world"], result["kuairand"]
    if theirs is None:
        return {}
    found = {}
    for name in ("recall@10 popularity", "recall@10 item_knn"):
        ratio = ours[name] / theirs[name]
        found[name] = 1 / RECALL_FACTOR <= ratio <= RECALL_FACTOR
    for name in ("auc click", "auc long_view", "auc like"):
        found[name] = abs(ours[name] - theirs[name]) <= AUC_DISTANCE
    return found


def markdown(result: dict[str, Any]) -> str:
    """The table, world beside KuaiRand."""
    ours, theirs = result["world"], result["kuairand"]
    fits = verdicts(result)
    lines = ["| | world | KuaiRand | within limits |", "|---|---|---|---|"]
    for name, value in ours.items():
        other = "-" if theirs is None or name not in theirs else f"{theirs[name]:.4g}"
        held = {True: "yes", False: "no"}.get(fits[name], "") if name in fits else ""
        lines.append(f"| {name} | {value:.4g} | {other} | {held} |")
    for name, value in result["speed"].items():
        lines.append(f"| {name} | {value:,.0f} | | |")
    if theirs is None:
        lines.append(f"\nKuaiRand is left out: {result['left_out']}")
    return "\n".join(lines)


def _quantiles(values: Array) -> list[tuple[float, float]]:
    return list(zip(QUANTILES, np.quantile(values, QUANTILES), strict=True))


def _speeds(home: Path, config: WorldConfig | None, large: bool) -> dict[str, float]:
    """Interactions per second to the finished folder without covers; best of five, warm."""
    sizes = {"": config or WorldConfig()}
    if large:
        sizes[" (50,000 items)"] = WorldConfig(n_items=50_000, n_users=20_000)
    found = {}
    for label, size in sizes.items():
        rates = []
        for turn in range(5):
            start = time.perf_counter()
            made = make_world_dataset(f"speed-{size.n_items}-{turn}", size, home)
            rates.append(len(made.log.item) / (time.perf_counter() - start))
        found[f"interactions{label}"] = float(len(made.log.item))
        found[f"interactions per second{label}"] = max(rates)
    return found


def _found() -> Path | None:
    """The folder of real data: ONEREC_TEST_DATA, else ../shared/data beside the project."""
    named = os.environ.get("ONEREC_TEST_DATA")
    data = Path(named) if named else Path(__file__).resolve().parents[3] / "shared" / "data"
    return data / FOLDER if (data / FOLDER).is_dir() else None


@told_in_a_line
def main(argv: Sequence[str] | None = None) -> int:
    """The command line; prints a table, or one JSON object with --json."""
    parser = argparse.ArgumentParser(description="the built-in world beside KuaiRand")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--out", type=Path, help="also write it to this file")
    parser.add_argument("--kuairand", type=Path, help="the folder of KuaiRand's Parquet files")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(argv)
    refuse_below_one(options, ("threads",))
    words = sys.argv[1:] if argv is None else argv
    given = {"kuairand": options.kuairand, "threads": options.threads, "words": words}
    result = run(out=options.out, **given)
    print(as_json(result) if options.json else markdown(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
