"""From a log to pairs of items: seconds of Swing and of both kinds of pairs, on the CPU.

    python -m onerec.bench.swing [--rows 1000000 --users 50000 --items 20000 --rounds 3] --json

The log is made up: how much a user takes is log-normal, how often an item is taken falls as
1 / (rank + 10), as in the heads and tails of real logs, and a repeated row counts once. Times are
medians over rounds; memory is the most that the process took beyond the log. Swing's limits are the
defaults of `SwingConfig`, and what they left out is told (`onerec.tokenizer.swing`).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from onerec.bench.generate import as_json, commit, told_device, write
from onerec.bench.lifelong import PeakMemory
from onerec.bench.mistakes import refuse_below_one, told_in_a_line
from onerec.common import generator, set_threads
from onerec.tokenizer.pairs import NEIGHBOURS, RECENT, item_to_item_pairs, user_to_item_pairs
from onerec.tokenizer.swing import swing

SPREAD = 1.0  # of the logarithm of a user's activity
HEAD = 10  # ranks by which popularity's fall is put off: no item in half of all rows

Ints = NDArray[np.int64]


def log_of(rows: int, users: int, items: int, seed: int) -> tuple[Ints, Ints]:
    """User and item of each row (rows,), a user's rows together, in the order he took them."""
    random = generator(seed)
    activity = (SPREAD * torch.randn(users, generator=random)).exp()
    user = activity.double().multinomial(rows, replacement=True, generator=random).sort().values
    fame = 1 / (torch.randperm(items, generator=random).double() + HEAD)
    return user.numpy(), fame.multinomial(rows, replacement=True, generator=random).numpy()


def measure(rows: int, users: int, items: int, rounds: int = 3, seed: int = 0) -> dict[str, Any]:
    """The benchmark's JSON."""
    user, item = log_of(rows, users, items, seed)
    seconds: dict[str, list[float]] = {"swing": [], "pairs": []}
    with PeakMemory(torch.device("cpu")) as memory:
        for _ in range(rounds):
            begun = time.perf_counter()
            similar = swing(user, item, items, generator(seed))
            made = time.perf_counter()
            alike = item_to_item_pairs(similar, NEIGHBOURS)
            taken = user_to_item_pairs(user, item, similar, RECENT)
            seconds["swing"].append(made - begun)
            seconds["pairs"].append(time.perf_counter() - made)
    medians = {name: round(statistics.median(all_), 3) for name, all_ in seconds.items()}
    return {
        "benchmark": "swing",
        "commit": commit(),
        "device": told_device(torch.device("cpu")),
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
        "setting": {"rows": rows, "users": users, "items": items, "seed": seed},
        "counts": similar.counts | {"similar_pairs": len(similar)},
        "pairs": {"item_to_item": len(alike), "user_to_item": len(taken)},
        "seconds": medians,
        "rows_per_minute": round(60 * rows / sum(medians.values())),
        "peak_memory_mb": round(memory.bytes / 2**20, 1),
    }


@told_in_a_line
def main(words: Sequence[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="from a log to pairs of items")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=50_000)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--out", type=Path, help="also write it to this file")
    chosen = parser.parse_args(words)
    refuse_below_one(chosen, ("rows", "users", "items", "rounds"))
    asked = vars(chosen)
    wanted, out, threads = (asked.pop(name) for name in ("json", "out", "threads"))
    set_threads(threads)
    result = measure(**asked)
    told = " ".join(f"--{name} {value}" for name, value in asked.items())
    result["command"] = f"python -m onerec.bench.swing {told}"
    if out is not None:
        write(result, out)
    if wanted:
        print(as_json(result))
        return
    print(
        f"{result['device']}: {result['counts']['cells']:,} pairs of a user and an item in "
        f"{sum(result['seconds'].values()):.1f} s, {result['rows_per_minute']:,} rows a minute, "
        f"{result['peak_memory_mb']} MiB"
    )


if __name__ == "__main__":
    raise SystemExit(main())
