"""Beam search of a recipe's model at serving size: users a second, utilisation, latency.

    python -m onerec.bench.serving --json [--recipe onerec_0_935b] [--items 1000000] [--beam 512]
                                   [--users 64 128] [--compile] [--graph] [--unconstrained]
                                   [--out FILE]

Random weights, random semantic IDs and full histories: speed does not depend on what they say.
`users_per_second` goes from raw ids to ranked items; `ready_users_per_second` begins with what the
encoder reads, the pathways' tokens (the encoder itself is always in). `mfu` counts the products of
`Counter.search_flops` over the device's dense bfloat16 peak, null where no peak is known;
`ready_mfu` those of `ready`, without the pathways. `constraint_cost` is the share of time that the
trie adds to choosing among all codes. Latency is that of one user asked for alone.

With --compile each shape is compiled at its first search, whose seconds stand in `first_seconds`;
with --graph a search is a CUDA graph (`onerec.model.captured`).
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onerec.assembly import model_config, new_model
from onerec.bench.generate import as_json, commit, cpu_name, write
from onerec.bench.mistakes import refuse_below_one, told_in_a_line
from onerec.bench.train import peak_memory
from onerec.common import autocast, evaluating, generator, pick_device, set_threads
from onerec.cost import mfu, peak_rate
from onerec.count import Cardinalities, Counter
from onerec.model.batch import ClusteredEvents
from onerec.model.captured import CapturedSearch
from onerec.model.generate import Generated, beam_search
from onerec.model.onerec import Batch, Events, ItemTable, OneRec, Vocabulary
from onerec.recipes import Recipe, parse_overrides, recipe
from onerec.tokenizer.trie import Trie

PATHWAYS = ("pathways", "qformer")  # what a search from raw ids has before the encoder
KINDS = 16  # of a time, a play and a duration
BEHAVIOURS = 6


def model_and_trie(chosen: Recipe, items: int, seed: int = 0) -> tuple[OneRec, Trie]:
    """The recipe's model with random weights, and the trie of random semantic IDs."""
    sizes = (chosen.tokenizer.codebook_size,) * chosen.tokenizer.levels
    codes = torch.randint(0, sizes[0], (items, len(sizes)), generator=generator(seed))
    first = torch.zeros(1, len(sizes), dtype=torch.int64)
    kind = torch.randint(1, KINDS, (items + 1,), generator=generator(seed))
    table = ItemTable(torch.cat((first, codes)), duration=kind)
    features = {"n_time": KINDS, "n_play": KINDS, "n_duration": KINDS, "behaviours": BEHAVIOURS}
    read = {"item_input": chosen.history.item_input, "tied_output": chosen.model.tied_output}
    vocabulary = Vocabulary(sizes, items, **features, **read)  # type: ignore[arg-type]
    return new_model(model_config(chosen), vocabulary, table).eval(), Trie(codes, sizes)


def contexts(chosen: Recipe, items: int, users: int, device: torch.device, seed: int = 1) -> Batch:
    """Full histories of random items."""
    random = torch.Generator(device).manual_seed(seed)

    def ids(places: int, most: int) -> Tensor:
        return torch.randint(1, most, (users, places), generator=random, device=device)

    def events(places: int) -> Events:
        label = torch.rand(users, places, BEHAVIOURS, generator=random, device=device)
        return Events(ids(places, items), ids(places, KINDS), ids(places, KINDS), label.round())

    history, long = chosen.history, None
    if history.lifelong_length:
        places = history.lifelong_length
        own = ids(places, 2), ids(places, KINDS)
        long = ClusteredEvents(**vars(events(places)), tag=own[0] * 0, duration=own[1])
    return Batch(
        static=torch.zeros(users, 0, dtype=torch.int64, device=device),
        short=events(history.short_length),
        positive=events(history.positive_length),
        target=ids(1, items),
        lifelong=long,
    )


class Served:
    """A model on a device that is asked for lists."""

    def __init__(
        self,
        chosen: Recipe,
        items: int,
        beam: int,
        device: torch.device,
        compiled: bool = False,
        graph: bool = False,
    ) -> None:
        begun = time.perf_counter()
        self.model, self.trie = model_and_trie(chosen, items)
        self.model, self.trie = self.model.to(device), self.trie.to(device)
        self.built = time.perf_counter() - begun
        self.chosen, self.items, self.beam = chosen, items, beam
        self.device, self.compiled, self.graph = device, compiled, graph
        self.counter = Counter(chosen, Cardinalities.of(self.model.vocabulary))

    def search(self, batch: Batch, constrained: bool = True) -> Callable[[], object]:
        """What one request for `batch` runs."""

        def search(batch: Batch) -> Generated:
            asked = {"k": self.beam, "beam": self.beam, "compiled": self.compiled}
            return beam_search(self.model, batch, self.trie, constrained=constrained, **asked)  # type: ignore[arg-type]

        if self.graph:
            captured = CapturedSearch(self.model, batch, search)
            return lambda: captured(batch)

        def asked() -> object:
            with autocast(self.device):
                return search(batch)

        return asked

    @contextlib.contextmanager
    def embedded(self, batch: Batch) -> Iterator[None]:
        """Inside, the pathways' tokens of the batch are there already."""
        with torch.no_grad(), evaluating(self.model), autocast(self.device):
            ready = self.model.embed(batch)
        self.model.embed = lambda batch: ready  # type: ignore[method-assign]
        try:
            yield
        finally:
            del self.model.embed

    def seconds(self, work: Callable[[], object], rounds: int) -> list[float]:
        """Of each of so many calls, the device idle before and after."""
        taken = []
        for _ in range(rounds):
            self._wait()
            begun = time.perf_counter()
            work()
            self._wait()
            taken.append(time.perf_counter() - begun)
        return taken

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def measured(self, users: int, rounds: int, unconstrained: bool) -> dict[str, Any]:
        """One batch size."""
        batch, parts = contexts(self.chosen, self.items, users, self.device), self._operations()
        with self._memory() as peak:
            begun = time.perf_counter()
            work = self.search(batch)
            work()
            first = time.perf_counter() - begun
            taken = statistics.median(self.seconds(work, rounds))
        del work  # a graph holds memory
        with self.embedded(batch):
            ready = self._taken(batch, rounds)
        result = {
            "users": users,
            "users_per_second": round(users / taken, 1),
            "ready_users_per_second": round(users / ready, 1),
            "milliseconds": round(1e3 * taken, 2),
            "first_seconds": round(first, 2),
            "flops_per_user": round(parts[0]),
            "mfu": self._share(parts[0] * users / taken),
            "ready_mfu": self._share(parts[1] * users / ready),
            "peak_memory_bytes": peak[0],
        }
        if unconstrained:
            without = self._taken(batch, rounds, constrained=False)
            result["unconstrained_users_per_second"] = round(users / without, 1)
            result["constraint_cost"] = round(taken / without - 1, 4)
        return result

    def _taken(self, batch: Batch, rounds: int, constrained: bool = True) -> float:
        """Median seconds of a search, after one that is not counted."""
        work = self.search(batch, constrained)
        work()
        return statistics.median(self.seconds(work, rounds))

    def _operations(self) -> tuple[float, float]:
        """Of one user's search, and without the pathways."""
        parts = self.counter.search_flops(self.beam)
        whole = sum(parts.values())
        return whole, whole - sum(parts.get(name, 0.0) for name in PATHWAYS)

    def _share(self, rate: float) -> float | None:
        """Of the device's peak, where that is known."""
        device = self.device
        known = peak_rate(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
        used = mfu(1.0, rate, known)
        return None if used is None else round(used, 4)

    @contextlib.contextmanager
    def _memory(self) -> Iterator[list[int]]:
        """A list that holds the peak of what was done inside, once it is left."""
        found: list[int] = []
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        yield found
        found.append(peak_memory(self.device))

    def latency(self, rounds: int) -> dict[str, float]:
        """Milliseconds of one user's list: the median and the worst of a hundred."""
        work = self.search(contexts(self.chosen, self.items, 1, self.device))
        self.seconds(work, 3)
        taken = np.array(self.seconds(work, rounds)) * 1e3
        return {f"p{share}": round(float(np.percentile(taken, share)), 2) for share in (50, 99)}


def run(
    *,
    name: str = "onerec_0_935b",
    items: int = 1_000_000,
    beam: int = 512,
    users: Sequence[int] = (64, 128),
    rounds: int = 7,
    asks: int = 100,
    compiled: bool = False,
    graph: bool = False,
    unconstrained: bool = False,
    changes: Mapping[str, str] | None = None,
    words: Sequence[str] = (),
) -> dict[str, Any]:
    """Measure and return one JSON-able dict."""
    threads, device = set_threads(), pick_device("auto")
    served = Served(recipe(name, dict(changes or {})), items, beam, device, compiled, graph)
    on = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    return {
        "benchmark": "serving",
        "command": " ".join(["python -m onerec.bench.serving", *words]),
        "commit": commit(),
        "device": on if device.type == "cuda" else f"{on}, {threads} threads",
        "recipe": name,
        "parameters": served.counter.total(),
        "items": items,
        "beam": beam,
        "compiled": compiled,
        "graph": graph,
        "build_seconds": round(served.built, 1),
        "results": [served.measured(size, rounds, unconstrained) for size in users],
        "latency_milliseconds": served.latency(asks) if asks else None,
    }


@told_in_a_line
def main(argv: Sequence[str] | None = None) -> int:
    """The command line; prints one JSON object with --json, else a line for each batch size."""
    parser = argparse.ArgumentParser(description="beam search at serving size")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--recipe", default="onerec_0_935b")
    parser.add_argument("--items", type=int, default=1_000_000, help="in the trie")
    parser.add_argument("--beam", type=int, default=512, help="and as many items are returned")
    parser.add_argument("--users", type=int, nargs="+", default=[64, 128], help="at once")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--asks", type=int, default=100, help="of one user, for the latency")
    parser.add_argument("--compile", action="store_true", help="by torch.compile")
    parser.add_argument("--graph", action="store_true", help="as a CUDA graph")
    parser.add_argument("--unconstrained", action="store_true", help="also without the trie")
    parser.add_argument("--set", nargs="*", action="extend", default=[], help="KEY=VALUE")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args(argv)
    refuse_below_one(chosen, ("items", "beam", "users", "rounds"))
    result = run(
        name=chosen.recipe,
        items=chosen.items,
        beam=chosen.beam,
        users=chosen.users,
        rounds=chosen.rounds,
        asks=chosen.asks,
        compiled=chosen.compile,
        graph=chosen.graph,
        unconstrained=chosen.unconstrained,
        changes=parse_overrides(chosen.set),
        words=sys.argv[1:] if argv is None else argv,
    )
    if chosen.out is not None:
        write(result, chosen.out)
    if chosen.json:
        print(as_json(result))
        return 0
    for row in result["results"]:
        print(
            f"{result['recipe']} on {result['device']}, beam {result['beam']}: "
            f"{row['users_per_second']:,} users a second at {row['users']}, MFU {row['mfu']}"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
