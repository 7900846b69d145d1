"""Compression of long histories: events a minute, memory and positions of a user, on one device.

    python -m onerec.bench.lifelong --events 100000 --users 8 --json [--device cuda] [--out FILE]

Users draw their events from a catalogue with a mixture of interests: topics of 64 dimensions, items
around them, each user with interests of his own in a tenth of the topics, and items of which a few
are popular. Made up, so that it needs no data; the content of real items may split less evenly.
`--limit` and `--length` are M and L_l. A first round is not counted. Memory is the most that was
taken beyond vectors and events: by tensors on a GPU, by the process on a CPU.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from onerec.bench.generate import as_json, commit, told_device, write
from onerec.bench.mistakes import refuse_below_one, told_in_a_line
from onerec.common import generator, pick_device, set_threads
from onerec.model.lifelong import LENGTH, LIMIT, Clusters, compress

TOPICS, SPREAD, INTERESTS = 300, 0.7, 0.1
SAMPLED_SECONDS = 0.005
_AT_ONCE = 64  # users whose events are drawn together


def histories(
    users: int, events: int, items: int, dim: int, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors (items, dim), items of all events (users * events,), offsets (users + 1,)."""
    random = generator(seed)
    topics = torch.randn(TOPICS, dim, generator=random)
    topic = torch.randint(0, TOPICS, (items,), generator=random)
    vectors = topics[topic] + SPREAD * torch.randn(items, dim, generator=random)
    popular = torch.rand(items, generator=random) ** 4  # a few items take most events
    drawn = []
    for begin in range(0, users, _AT_ONCE):
        count = min(_AT_ONCE, users - begin)
        interest = torch.rand(count, TOPICS, generator=random)
        interest = torch.where(interest < INTERESTS, interest, 0.0)[:, topic] * popular
        drawn += [
            row.multinomial(events, replacement=True, generator=random)
            if float(row.sum())
            else torch.randint(0, items, (events,), generator=random)
            for row in interest.double()
        ]
    return vectors, torch.cat(drawn), torch.arange(users + 1) * events


def measure(
    users: int,
    events: int,
    *,
    items: int = 200_000,
    dim: int = 64,
    limit: int = LIMIT,
    length: int = LENGTH,
    chunk: int | None = None,
    rounds: int = 3,
    device: str = "auto",
    seed: int = 0,
) -> dict[str, Any]:
    """The benchmark's JSON."""
    chosen = pick_device(device)
    vectors, item, offsets = histories(users, events, items, dim, seed)
    vectors, item, offsets = (tensor.to(chosen) for tensor in (vectors, item, offsets))
    seconds = []
    with PeakMemory(chosen) as memory:
        for _ in range(rounds + 1):
            begun = time.perf_counter()
            found = compress(vectors, item, offsets, limit=limit, length=length, chunk=chunk)
            if chosen.type == "cuda":
                torch.cuda.synchronize(chosen)
            seconds.append(time.perf_counter() - begun)
    taken = statistics.median(seconds[1:])
    return {
        "benchmark": "lifelong",
        "commit": commit(),
        "device": told_device(chosen),
        "versions": {"torch": torch.__version__},
        "seed": seed,
        "setting": {
            "users": users,
            "events": events,
            "items": items,
            "dim": dim,
            "limit": limit,
            "length": length,
            "chunk": chunk,
        },
        "events_per_minute": round(60 * users * events / taken),
        "seconds": [round(each, 3) for each in seconds[1:]],
        "peak_memory_mb": round(memory.bytes / 2**20, 1),
        "positions": _positions(found),
    }


def _positions(found: Clusters) -> dict[str, float]:
    """Positions of a user, and the share of the events that stand in one."""
    count = found.offsets.diff().double()
    return {
        "least": int(count.min()),
        "mean": round(float(count.mean()), 1),
        "most": int(count.max()),
        "events_of_the_largest": int(found.size.max()),
    }


class PeakMemory:
    """What the block takes at its peak, in `bytes`: of a GPU, else of the process, sampled."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.bytes = device, 0
        self._done = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> PeakMemory:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self._before = self._now()
        self._sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._sampler.join()
        if self.device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self.device) - self._before

    def _now(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device)
        return int(psutil.Process().memory_info().rss)

    def _sample(self) -> None:
        while self.device.type != "cuda" and not self._done.wait(SAMPLED_SECONDS):
            self.bytes = max(self.bytes, self._now() - self._before)


@told_in_a_line
def main(words: Sequence[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="hierarchical k-means of long histories")
    parser.add_argument("--events", type=int, default=100_000, help="of each user")
    parser.add_argument("--users", type=int, default=8)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--limit", type=int, default=LIMIT)
    parser.add_argument("--length", type=int, default=LENGTH)
    parser.add_argument(
        "--chunk", type=int, help="events at once; by default what suits the device"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--out", type=Path, help="also write it to this file")
    chosen = parser.parse_args(words)
    refuse_below_one(chosen, ("events", "users", "items", "dim", "length", "chunk", "rounds"))
    asked = vars(chosen)
    wanted, out, threads = (asked.pop(name) for name in ("json", "out", "threads"))
    set_threads(threads)
    result = measure(**asked)
    told = " ".join(f"--{name} {value}" for name, value in asked.items() if value is not None)
    result["command"] = f"python -m onerec.bench.lifelong {told}"
    if out is not None:
        write(result, out)
    if wanted:
        print(as_json(result))
        return
    positions = result["positions"]
    print(
        f"{result['device']}: {result['events_per_minute']:,} events a minute, "
        f"{result['peak_memory_mb']} MiB, {positions['least']} to {positions['most']} positions "
        "of a user"
    )


if __name__ == "__main__":
    raise SystemExit(main())
