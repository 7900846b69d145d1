"""Training speed beside transformers' T5 at TIGER's shape, and what each learns in equal time.

    python -m onerec.bench.train_peer --json [--rounds 5] [--learn SECONDS] [--out FILE]

Both have 4 + 4 layers of width 128 with 4 heads and gated feed-forwards of width 256; a sample is a
history of up to 20 items and one next item, a batch has 64. Three rows: T5 and ours with a history
of 60 tokens, three codes an item, and ours as it is meant to be, one position an item. The rows
take turns, each `STEPS` steps a turn with forward, backward, clipping and AdamW through the same
loop, so that whatever else the machine does falls on all; compared are medians, and the ratio of
each round. What stands for a code starts at its centroid in all three, as onerec has it.

`--learn` then trains each row for as many seconds from the start on a world's sequences, at each of
`RATES`, and reports recall@10 by constrained beam search: the rate is chosen on the items before
the last ones, the number is of the last ones. Of items that share their codes T5 names one; ours
lists them all, as everywhere here.

Shapes: U users, H = 20 items of history, L = 3 codes an item.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from onerec.bench.generate import (
    CODES,
    HEADS,
    HIDDEN,
    LAYERS,
    LEVELS,
    WIDTH,
    as_json,
    commit,
    cpu_name,
    t5_config,
)
from onerec.bench.generate import write as write_result
from onerec.bench.mistakes import refuse_below_one, told_in_a_line
from onerec.common import generator, set_threads
from onerec.data.sources.world import make_world_dataset
from onerec.loop import Trainee, loop
from onerec.model.generate import beam_search
from onerec.model.onerec import Batch, Events, ItemTable, OneRec, OneRecConfig, Vocabulary
from onerec.pipeline import run as run_stages
from onerec.recipes import recipe
from onerec.tokenizer.trie import Trie
from onerec.train.optim import OptimConfig, make_adamw
from onerec.world import WorldConfig

HISTORY, BATCH, STEPS, BEAM = 20, 64, 5, 20
RATES = (1e-4, 3e-4, 1e-3, 3e-3)
ROWS = ("t5", "same_tokens", "one_position")

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Sequences:
    """`codes` (n, L) of items, and of each user the items that he took, oldest first.

    `codebooks` (L, N, d): the centroids at which codes start; without any they start at random.
    """

    codes: Tensor
    taken: list[Ints]
    codebooks: Tensor | None = None

    def cut(self, users: Ints, ends: Ints) -> tuple[Tensor, Tensor]:
        """Histories (B, H) of items before place `ends`, -1 in front, and the item there (B,)."""
        history = np.full((len(users), HISTORY), -1, dtype=np.int64)
        for row, (user, end) in enumerate(zip(users.tolist(), ends.tolist(), strict=True)):
            last = self.taken[user][max(0, end - HISTORY) : end]
            history[row, HISTORY - len(last) :] = last
        target = np.array([self.taken[u][e] for u, e in zip(users, ends, strict=True)])
        return torch.from_numpy(history), torch.from_numpy(target)


class Row(nn.Module):
    """A model that is trained on histories (B, H) and next items (B,), and searched."""

    def loss(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        raise NotImplementedError

    def search(self, history: Tensor, k: int) -> Ints:
        """The k best items (B, k)."""
        raise NotImplementedError


class Ours(Row):
    """OneRec with one position an item, or with one for each code (`tokens`).

    In the second case a history is made of 3 x 256 pseudo items, one for each code of a level, with
    an embedding of their own, and the real items come after them in the table.
    """

    def __init__(self, codes: Tensor, tokens: bool) -> None:
        super().__init__()
        self.tokens = tokens
        self.first = LEVELS * CODES if tokens else 0
        blank = torch.zeros(1 + self.first, LEVELS, dtype=torch.int64)
        table = ItemTable(torch.cat((blank, codes)))
        self.register_buffer("codes", codes, persistent=False)
        config = OneRecConfig(
            width=WIDTH,
            layers=LAYERS,
            decoder_layers=LAYERS,
            heads=HEADS,
            short_length=HISTORY * (LEVELS if tokens else 1),
            positive_length=0,
        )
        sizes = (CODES,) * LEVELS
        reads = "item" if tokens else "codes"
        known = self.first if tokens else len(codes)
        self.model = OneRec(config, Vocabulary(sizes, known, item_input=reads), table)  # type: ignore[arg-type]
        self.trie = Trie(codes, sizes)

    def _batch(self, history: Tensor, target: Tensor) -> Batch:
        item = history + 1
        if self.tokens:
            code = self.codes[history.clamp(min=0)] + CODES * torch.arange(LEVELS)  # type: ignore[index]
            item = ((code + 1) * (history >= 0)[..., None]).flatten(1)
        nothing = torch.zeros_like(item)
        events = Events(item, nothing, nothing, torch.zeros(*item.shape, 0))
        none = Events(item[:, :0], nothing[:, :0], nothing[:, :0], torch.zeros(len(item), 0, 0))
        static = torch.zeros(len(item), 0, dtype=torch.int64)
        return Batch(static, events, none, target[:, None] + 1 + self.first)

    def loss(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        return self.model.loss(self._batch(*batch))

    @torch.no_grad()
    def search(self, history: Tensor, k: int) -> Ints:
        self.model.eval()
        batch = self._batch(history, torch.zeros(len(history), dtype=torch.int64))
        return beam_search(self.model, batch, self.trie, k=k, beam=BEAM).items.numpy()


class Peer(Row):
    """T5, which reads the codes of a history as tokens and writes those of the next item."""

    def __init__(self, codes: Tensor) -> None:
        super().__init__()
        from transformers import T5ForConditionalGeneration

        self.model: Any = T5ForConditionalGeneration(t5_config())
        self.register_buffer(
            "words", codes + 1 + CODES * torch.arange(LEVELS), persistent=False
        )  # (n, L)
        self.item_of: dict[tuple[int, ...], int] = {}
        self.after: dict[tuple[int, ...], list[int]] = {}
        for item, row in enumerate(self.words.tolist()):  # type: ignore[operator]
            self.item_of.setdefault(tuple(row), item)
            for level in range(LEVELS):
                self.after.setdefault(tuple(row[:level]), []).append(row[level])
        self.after = {prefix: sorted(set(words)) for prefix, words in self.after.items()}

    def _tokens(self, history: Tensor) -> Tensor:
        words: Tensor = self.words[history.clamp(min=0)]  # type: ignore[index]
        return (words * (history >= 0)[..., None]).flatten(1)

    def loss(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        tokens = self._tokens(batch[0])
        labels = self.words[batch[1]]  # type: ignore[index]
        found = self.model(input_ids=tokens, attention_mask=(tokens > 0).long(), labels=labels)
        return found.loss * LEVELS, {}

    @torch.no_grad()
    def search(self, history: Tensor, k: int) -> Ints:
        self.model.eval()
        tokens = self._tokens(history)
        found = self.model.generate(
            input_ids=tokens,
            attention_mask=(tokens > 0).long(),
            num_beams=BEAM,
            num_return_sequences=k,
            max_new_tokens=LEVELS,
            do_sample=False,
            prefix_allowed_tokens_fn=lambda _, prefix: self.after[tuple(prefix.tolist()[1:])],
        )
        items = [self.item_of.get(tuple(row[1:]), -1) for row in found.tolist()]
        return np.array(items).reshape(len(history), k)


def make_row(name: str, data: Sequences, seed: int) -> Row:
    """One of `ROWS` with fresh weights; what stands for a code starts at its centroid."""
    torch.manual_seed(seed)
    ours = Ours(data.codes, tokens=name == "same_tokens")
    ours.model.init_weights(generator(seed))
    if data.codebooks is not None:
        ours.model.start_from_codebooks(data.codebooks, generator(seed))
    rows = ours.model.codes.table.weight.detach()  # (L N, D)
    if name == "t5":
        peer = Peer(data.codes)
        if data.codebooks is not None:
            own = cast(Tensor, peer.model.shared.weight).data  # its deviation stays what it was
            own[1:] = rows * own.std() / rows.std()
        return peer
    if ours.tokens and data.codebooks is not None:
        items = ours.model.pathways.features.tables["item"].get_parameter("weight")
        items.data[1:] = rows
    return ours


class Drawn:
    """step -> a batch of a user's places in training, the same for the same seed."""

    def __init__(self, data: Sequences, held: int, seed: int) -> None:
        places = [(u, e) for u, taken in enumerate(data.taken) for e in range(1, len(taken) - held)]
        self.data, self.seed = data, seed
        self.user, self.end = np.array(places, dtype=np.int64).T

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        rows = np.random.default_rng((self.seed, step)).integers(len(self.user), size=BATCH)
        return self.data.cut(self.user[rows], self.end[rows])


def trainee(row: Row, data: Sequences, rate: float, seed: int) -> Trainee[tuple[Tensor, Tensor]]:
    """The last two items of everybody are held out."""
    optim = OptimConfig(rate, warmup_steps=50)
    return Trainee(
        model=row,
        optimizer=make_adamw(row, optim),
        loss=row.loss,
        batch=Drawn(data, 2, seed),
        learning_rate=lambda step: rate * min(1.0, (step + 1) / optim.warmup_steps),
    )


def speeds(data: Sequences, rounds: int, seed: int = 0) -> dict[str, Any]:
    """Samples a second of each row, in turns."""
    rows = {name: make_row(name, data, seed) for name in ROWS}
    steps = {name: _stepper(row, data, seed) for name, row in rows.items()}
    for step in steps.values():
        step(STEPS)
    turns: dict[str, list[float]] = {name: [] for name in ROWS}
    for _ in range(rounds):
        for name, step in steps.items():
            begun = time.perf_counter()
            step(STEPS)
            turns[name].append(STEPS * BATCH / (time.perf_counter() - begun))
    result: dict[str, Any] = {}
    for name in ROWS:
        ratios = [a / b for a, b in zip(turns[name], turns["t5"], strict=True)]
        result[name] = {
            "parameters": sum(p.numel() for p in rows[name].parameters()),
            "samples_per_second": round(statistics.median(turns[name]), 1),
            "times_t5": round(statistics.median(ratios), 2),
            "times_t5_of_rounds": sorted(round(ratio, 2) for ratio in ratios),
        }
    return result


def _stepper(row: Row, data: Sequences, seed: int) -> Callable[[int], None]:
    results = loop(trainee(row, data, RATES[2], seed), steps=10**9, seed=seed)

    def go(count: int) -> None:
        for _ in range(count):
            next(results)

    return go


def learned(data: Sequences, seconds: float, users: int, seed: int = 0) -> dict[str, Any]:
    """recall@10 of each row after `seconds` of training from the start."""
    some = np.flatnonzero([len(taken) > 3 for taken in data.taken])[:users]
    result: dict[str, Any] = {}
    for name in ROWS:
        tried: list[dict[str, float]] = []
        for rate in RATES:
            row = make_row(name, data, seed)
            begun, steps = time.perf_counter(), 0
            for done in loop(trainee(row, data, rate, seed), steps=10**9, seed=seed):
                steps = done.step
                if time.perf_counter() - begun >= seconds:
                    break
            held = [_recall(row, data, some, back) for back in (2, 1)]
            tried.append({"rate": rate, "steps": steps, "valid": held[0], "test": held[1]})
        best = max(tried, key=lambda one: one["valid"])
        result[name] = {"recall@10": best["test"], "rate": best["rate"], "tried": tried}
    return result


def _recall(row: Row, data: Sequences, users: Ints, back: int) -> float:
    """Share of users whose item `back` places before the end is among the first ten."""
    hits = []
    for begin in range(0, len(users), BATCH):
        some = users[begin : begin + BATCH]
        ends = np.array([len(data.taken[user]) - back for user in some])
        history, target = data.cut(some, ends)
        hits.append((row.search(history, 10) == target.numpy()[:, None]).any(1))
    return round(float(np.concatenate(hits).mean()), 4)


def world_sequences(world: WorldConfig) -> Sequences:
    """What the users of a world took, and the codes of its items."""
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        dataset = make_world_dataset("world", world, home)
        size = str(min(CODES, dataset.n_items // 4))
        chosen = recipe("small", {"tokenizer.codebook_size": size, "content.text": "none"})
        made = run_stages("t", chosen, "world", home=home, stages=("tokenize",))
        frame, codebooks = made.semantic_ids(), made.codebooks()
        codes = frame[[f"code_{level}" for level in range(1, LEVELS + 1)]].to_numpy(np.int64)
        log = dataset.log
        taken = [
            log.item[a:b][log.positive[a:b]].astype(np.int64)
            for a, b in zip(log.offsets[:-1], log.offsets[1:], strict=True)
        ]
    kept = [each for each in taken if len(each) > 3]
    centroids = torch.from_numpy(codebooks).float()
    unused = (0, 0, 0, CODES - centroids.shape[1])
    return Sequences(torch.from_numpy(codes.copy()), kept, F.pad(centroids, unused))


def run(
    *,
    rounds: int = 5,
    learn: float = 0.0,
    users: int = 1_000,
    out: Path | None = None,
    world: WorldConfig | None = None,
) -> dict[str, Any]:
    """Both comparisons; writes the result to `out` as well."""
    import transformers

    data = world_sequences(world or WorldConfig(n_items=6_000, n_users=4_000))
    threads = set_threads()
    result: dict[str, Any] = {
        "benchmark": "train_peer",
        "command": f"python -m onerec.bench.train_peer --rounds {rounds} --learn {learn:g}",
        "commit": commit(),
        "device": f"{cpu_name()}, {threads} threads",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "setting": {
            "layers": f"{LAYERS}+{LAYERS}",
            "width": WIDTH,
            "heads": HEADS,
            "hidden": HIDDEN,
            "history": HISTORY,
            "batch": BATCH,
            "items": len(data.codes),
        },
        "speed": speeds(data, rounds),
    }
    if learn:
        result["learned"] = {"seconds": learn, **learned(data, learn, users)}
    if out is not None:
        write_result(result, out)
    return result


@told_in_a_line
def main(argv: Sequence[str] | None = None) -> int:
    """The command line; prints one JSON object with --json, else a table."""
    parser = argparse.ArgumentParser(description="training beside transformers' T5")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--learn", type=float, default=0.0, help="seconds for each row and rate")
    parser.add_argument("--users", type=int, default=1_000)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args(argv)
    refuse_below_one(chosen, ("rounds", "users"))
    result = run(rounds=chosen.rounds, learn=chosen.learn, users=chosen.users, out=chosen.out)
    if chosen.json:
        print(as_json(result))
        return 0
    for name, line in result["speed"].items():
        recall = result.get("learned", {}).get(name, {}).get("recall@10", "")
        times = f"{line['times_t5']} x T5"
        print(f"{name:13} {line['samples_per_second']:7} a second, {times} {recall}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
