"""Beam search on a GPU: the papers' sizes and TIGER's, each beside transformers' T5 in one run.

    onerec bench generate --json [--only NAME ...] [--out FILE]       where there is a GPU

    onerec_0_935b   V1's model: all four pathways in 405 positions, 1,000,000 items, beam 512
    lazy_1b         V2's lazy decoder at 277 positions, as many items and beams
    tiger           4 + 4 layers of width 128 over 60 events, 3 x 256 codes of 12,101 items, beam 50
    ten_million     the first with 10,000,000 items in the trie

What is counted stands in `onerec.bench.serving`. All searches are CUDA graphs but for the row's
`eager`, and compiled but for `tiger` (two shapes took minutes to compile). `t5` is
transformers' `generate` over as many positions in bfloat16, with as many layers, heads and as wide;
its feed-forwards are those of our encoder, where ours has two experts of 2,688 in each decoder
block. It is asked without a constraint, and with a `prefix_allowed_tokens_fn` that looks up a dict
made beforehand, at the largest batch that is given here. Parts that are asked for alone (`--only`)
are measured alone.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from onerec.bench.generate import as_json, commit, prefix_function, write
from onerec.bench.mistakes import refuse_below_one
from onerec.bench.serving import Served
from onerec.common import generator
from onerec.errors import RecipeError
from onerec.model.sizes import ffn_hidden
from onerec.recipes import Recipe, recipe
from onerec.settings import nearest

TIGER = {
    "model.width": "128",
    "model.encoder_layers": "4",
    "model.decoder_layers": "4",
    "model.heads": "4",
    "model.experts": "0",
    "tokenizer.codebook_size": "256",
    "history.short_length": "20",
    "history.positive_length": "40",
    "history.lifelong_length": "0",
    "history.item_input": "codes",
}


@dataclass(frozen=True)
class Asked:
    """One row: a recipe at serving size. `peers` are T5's users at once, free and constrained."""

    recipe: str
    users: tuple[int, ...]
    items: int = 1_000_000
    beam: int = 512
    positions: int = 405
    changes: dict[str, str] = field(default_factory=dict)
    peers: tuple[int, int] | None = None
    latency: bool = True
    compiled: bool = True


ROWS = {
    "onerec_0_935b": Asked("onerec_0_935b", (128,), peers=(16, 2)),
    "lazy_1b": Asked("lazy_1b", (64,), positions=277, latency=False),
    "tiger": Asked("tiny", (4096,), 12_101, 50, 60, TIGER, peers=(64, 64), compiled=False),
    "ten_million": Asked("onerec_0_935b", (128,), items=10_000_000, latency=False),
}


def ours(asked: Asked, rounds: int, asks: int, device: torch.device) -> dict[str, Any]:
    """Our model's figures for one row."""
    chosen = recipe(asked.recipe, asked.changes)
    served = Served(chosen, asked.items, asked.beam, device, asked.compiled, graph=True)
    row: dict[str, Any] = {
        "recipe": asked.recipe,
        "changes": asked.changes,
        "parameters": served.counter.total(),
        "items": asked.items,
        "beam": asked.beam,
        "compiled": asked.compiled,
        "build_seconds": round(served.built, 1),
        "trie_bytes": sum(b.numel() * b.element_size() for b in served.trie.buffers()),
        "results": [served.measured(users, rounds, unconstrained=True) for users in asked.users],
    }
    if asked.latency:
        row["latency_milliseconds"] = served.latency(asks)
    served.compiled = served.graph = False
    row["eager"] = served.measured(asked.users[0], rounds, unconstrained=False)
    return row


def t5(asked: Asked, rounds: int, device: torch.device) -> dict[str, Any]:
    """The peer's users a second, without a constraint and with one."""
    from transformers import T5Config, T5ForConditionalGeneration

    assert asked.peers is not None
    chosen: Recipe = recipe(asked.recipe, asked.changes)
    model, levels, size = chosen.model, chosen.tokenizer.levels, chosen.tokenizer.codebook_size
    config: Any = T5Config(
        vocab_size=1 + levels * size,
        d_model=model.width,
        d_kv=model.width // model.heads,
        d_ff=ffn_hidden(model.width),
        num_layers=model.encoder_layers,
        num_decoder_layers=model.decoder_layers,
        num_heads=model.heads,
        feed_forward_proj="gated-silu",
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=None,
    )
    config.decoder_start_token_id = 0
    torch.manual_seed(0)
    peer: Any = T5ForConditionalGeneration(config)
    peer = peer.to(device, torch.bfloat16).eval()
    codes = torch.randint(0, size, (asked.items, levels), generator=generator(0))
    allowed = prefix_function(codes + 1 + size * torch.arange(levels))
    result: dict[str, Any] = {"parameters": sum(p.numel() for p in peer.parameters())}
    for name, users, function in zip(
        ("users_per_second", "constrained_users_per_second"),
        asked.peers,
        (None, allowed),
        strict=True,
    ):
        history = torch.randint(1, config.vocab_size, (users, asked.positions), device=device)

        def search(history: torch.Tensor = history, function: object = function) -> None:
            with torch.inference_mode():
                peer.generate(
                    input_ids=history,
                    num_beams=asked.beam,
                    num_return_sequences=asked.beam,
                    max_new_tokens=levels,
                    do_sample=False,
                    prefix_allowed_tokens_fn=function,
                )

        result[name] = round(users / _median(search, rounds), 2)
        result[f"{name}_at"] = users
    return result


def _median(work: Callable[[], None], rounds: int) -> float:
    """Seconds of a call, after one that is not counted."""
    work()
    taken = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        work()
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def run(
    names: Sequence[str] = tuple(ROWS), rounds: int = 7, asks: int = 200, words: Sequence[str] = ()
) -> dict[str, Any]:
    """Measure and return one JSON-able dict; `results` has one entry for each name.

    Raises:
        RecipeError: no such row, or no GPU.
    """
    for name in names:
        if name not in ROWS:
            raise RecipeError(f"no row {name!r}{nearest(name, ROWS)}; there are {', '.join(ROWS)}")
    if not torch.cuda.is_available():
        raise RecipeError("these sizes are searched on a GPU, and none is visible here")
    device, rows = torch.device("cuda"), {}
    for name in names:
        rows[name] = ours(ROWS[name], rounds, asks, device)
        _let_go()
        if ROWS[name].peers is not None:
            rows[name]["t5"] = t5(ROWS[name], 3, device)
            _let_go()
    return {
        "benchmark": "generate",
        "command": " ".join(["onerec bench generate", *words]),
        "commit": commit(),
        "device": torch.cuda.get_device_name(device),
        "versions": {"torch": torch.__version__},
        "results": rows,
    }


def _let_go() -> None:
    gc.collect()
    torch.cuda.empty_cache()


def options(parser: argparse.ArgumentParser) -> None:
    """What the command understands only where there is a GPU."""
    parser.add_argument("--only", nargs="+", default=list(ROWS), metavar="NAME", help="rows (GPU)")
    parser.add_argument("--asks", type=int, default=200, help="of one user, for the latency")


def told(chosen: argparse.Namespace, out: Path | None, words: Sequence[str]) -> int:
    """Run what was asked for, write and print it."""
    refuse_below_one(chosen, ("asks", "rounds"))
    result = run(chosen.only, chosen.rounds, chosen.asks, words)
    if out is not None:
        write(result, out)
    if chosen.json:
        print(as_json(result))
        return 0
    for name, row in result["results"].items():
        for one in row["results"]:
            peer = row.get("t5", {}).get("constrained_users_per_second")
            beside = "" if peer is None else f"; T5 with a constraint {peer:,}"
            print(
                f"{name:<15}{one['users_per_second']:>10,} users a second at {one['users']}, "
                f"MFU {one['mfu']}{beside}"
            )
    return 0
