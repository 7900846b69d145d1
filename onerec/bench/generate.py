"""Users per second of constrained beam search: ours beside transformers' T5, in one run.

    python -m onerec.bench.generate --json [--out onerec/bench/results/generate_cpu.json]

Where there is a GPU, the sizes of `onerec.bench.generate_gpu` are searched there, but with --cpu.
Both have 4 + 4 layers of width 128 with 4 heads and gated feed-forwards of width 256, random
weights, 3 x 256 codes of 12,101 items and a history of 60. Both return the 10 best items of a beam.
The peer is `T5ForConditionalGeneration.generate` with a `prefix_allowed_tokens_fn` that looks up a
dict made beforehand. It reads a history of 60 tokens, as many positions as we have events; with
three tokens per event, as TIGER has it, it would read 180 and be slower. Each side runs at the
batch size that was fastest for it in a sweep; then the two take turns, so that whatever else the
machine does falls on both. What is compared is the median over the turns. `results` are taken as a
program finds the process, `results_with_kept_memory` (widest beam) after `common.keep_memory`,
which both sides profit from, and T5 more, as its tensors are larger. `one_user` says how long the
recipe `small` takes for one user at beam 50, from raw ids to the list (`bench.serving`).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from onerec.bench.mistakes import refuse_below_one, told_in_a_line
from onerec.common import generator, keep_memory, set_threads
from onerec.model.generate import beam_search
from onerec.model.onerec import Batch, Events, ItemTable, OneRec, OneRecConfig, Vocabulary
from onerec.tokenizer.trie import Trie

LEVELS, CODES, ITEMS = 3, 256, 12_101  # the item count of Amazon Beauty
SHORT, POSITIVE = 20, 40  # together a history of 60
WIDTH, LAYERS, HEADS, HIDDEN = 128, 4, 4, 256
RETURNED = 10
ONE_BEAM = 50  # of one user's list

Search = Callable[[int, int], None]  # batch size, beams: generate once for that many users


def item_codes(items: int, seed: int) -> Tensor:
    """Random codes (items, L)."""
    return torch.randint(0, CODES, (items, LEVELS), generator=generator(seed))


def our_search(codes: Tensor, seed: int) -> tuple[Search, int]:
    """Our model's search and its number of parameters without item embeddings."""
    items = len(codes)
    table = ItemTable(torch.cat([torch.zeros(1, LEVELS, dtype=torch.int64), codes]))
    config = OneRecConfig(
        width=WIDTH,
        layers=LAYERS,
        decoder_layers=LAYERS,
        heads=HEADS,
        short_length=SHORT,
        positive_length=POSITIVE,
    )
    model = OneRec(config, Vocabulary((CODES,) * LEVELS, items), table).eval()
    model.init_weights(generator(seed))
    trie = Trie(codes, (CODES,) * LEVELS)
    random = generator(seed)

    def events(users: int, length: int) -> Events:
        item = torch.randint(1, items + 1, (users, length), generator=random)
        nothing = torch.zeros_like(item)
        return Events(item, nothing, nothing, torch.zeros(users, length, 0))

    def search(users: int, beams: int) -> None:
        batch = Batch(
            torch.zeros(users, 0, dtype=torch.int64),
            events(users, SHORT),
            events(users, POSITIVE),
            torch.zeros(users, 1, dtype=torch.int64),
        )
        result = beam_search(model, batch, trie, k=RETURNED, beam=beams)
        assert result.items.shape == (users, RETURNED)
        assert result.legal.all()

    embedded = model.pathways.features.tables["item"].weight
    assert isinstance(embedded, Tensor)
    return search, sum(p.numel() for p in model.parameters()) - embedded.numel()


def t5_config() -> Any:
    """T5 of our width, depth and heads over the tokens of L codes; token 0 is padding and start."""
    from transformers import T5Config

    config: Any = T5Config(
        vocab_size=1 + LEVELS * CODES,
        d_model=WIDTH,
        d_kv=WIDTH // HEADS,
        d_ff=HIDDEN,
        num_layers=LAYERS,
        num_decoder_layers=LAYERS,
        num_heads=HEADS,
        feed_forward_proj="gated-silu",
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=None,
    )
    config.decoder_start_token_id = 0
    return config


def prefix_function(tokens: Tensor) -> Callable[[int, Tensor], list[int]]:
    """For `generate`: what may follow a prefix of the items' tokens (items, L), from a dict."""
    children: dict[tuple[int, ...], set[int]] = {}
    for row in tokens.tolist():
        for level in range(len(row)):
            children.setdefault(tuple(row[:level]), set()).add(row[level])
    allowed = {prefix: sorted(codes) for prefix, codes in children.items()}

    def after(_: int, prefix: Tensor) -> list[int]:
        return allowed[tuple(prefix.tolist()[1:])]

    return after


def peer_search(codes: Tensor, seed: int) -> tuple[Search, int]:
    """T5's search with a prefix function over a dict, and its number of parameters."""
    from transformers import T5ForConditionalGeneration

    tokens = codes + 1 + CODES * torch.arange(LEVELS)  # token 0 is padding and start
    allowed_after = prefix_function(tokens)
    config = t5_config()
    torch.manual_seed(seed)
    model: Any = T5ForConditionalGeneration(config).train(False)
    random, legal = generator(seed), {tuple(row) for row in tokens.tolist()}

    def search(users: int, beams: int) -> None:
        history = torch.randint(1, config.vocab_size, (users, SHORT + POSITIVE), generator=random)
        with torch.inference_mode():
            result = model.generate(
                input_ids=history,
                num_beams=beams,
                num_return_sequences=RETURNED,
                max_new_tokens=LEVELS,
                do_sample=False,
                prefix_allowed_tokens_fn=allowed_after,
            )
        assert isinstance(result, Tensor)
        assert result.shape == (users * RETURNED, 1 + LEVELS)
        assert all(tuple(row[1:]) in legal for row in result[:RETURNED].tolist())

    return search, sum(p.numel() for p in model.parameters())


def rate(search: Search, users: int, beams: int, seconds: float) -> float:
    """Users per second over at least `seconds`, and at least one batch."""
    begin, done = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - begin) < seconds or not done:
        search(users, beams)
        done += users
    return done / elapsed


def sweep(search: Search, sizes: Sequence[int], beams: int, seconds: float) -> dict[int, float]:
    """Batch size -> users per second: the best of three turns, after one that is not counted."""
    rates = {}
    for users in sizes:
        search(users, beams)
        rates[users] = max(rate(search, users, beams, seconds / 3) for _ in range(3))
    return rates


def compare(
    searches: dict[str, Search],
    sizes: dict[str, Sequence[int]],
    beams: int,
    rounds: int,
    seconds: float,
) -> dict[str, Any]:
    """Both sides at their best batch size, taking turns for `rounds` rounds."""
    sweeps = {name: sweep(search, sizes[name], beams, seconds) for name, search in searches.items()}
    batch = {name: max(rates, key=rates.__getitem__) for name, rates in sweeps.items()}
    turns: dict[str, list[float]] = {name: [] for name in searches}
    for _ in range(rounds):
        for name, search in searches.items():
            turns[name].append(rate(search, batch[name], beams, seconds))
    ours, peer = (statistics.median(turns[name]) for name in ("onerec", "t5"))
    ratios = sorted(a / b for a, b in zip(turns["onerec"], turns["t5"], strict=True))
    return {
        "beams": beams,
        "onerec_users_per_second": round(ours, 1),
        "t5_users_per_second": round(peer, 1),
        "ratio": round(ours / peer, 2),
        "ratio_of_rounds": [round(value, 2) for value in ratios],
        "batch": batch,
        "sweep": {
            name: {size: round(value, 1) for size, value in rates.items()}
            for name, rates in sweeps.items()
        },
    }


def run(
    *,
    beams: Sequence[int] = (10, 50),
    rounds: int = 5,
    seconds: float = 1.5,
    threads: int = 2,
    items: int = ITEMS,
    seed: int = 0,
    our_sizes: Sequence[int] = (32, 64, 128, 256, 512),
    peer_sizes: Sequence[int] = (4, 8, 16, 24, 32, 48),
    asks: int = 100,
    words: Sequence[str] = (),
) -> dict[str, Any]:
    """Measure and return one JSON-able dict; `results` has one entry per beam width."""
    import transformers

    threads = set_threads(min(threads, set_threads()))
    waits = one_user(items, asks)
    codes = item_codes(items, seed)
    (ours, our_parameters), (peer, peer_parameters) = (
        our_search(codes, seed),
        peer_search(codes, seed),
    )
    searches = {"onerec": ours, "t5": peer}
    sizes = {"onerec": our_sizes, "t5": peer_sizes}
    return {
        "benchmark": "generate",
        "command": " ".join(["python -m onerec.bench.generate", *words]),
        "commit": commit(),
        "device": f"{cpu_name()}, {threads} thread{'s' if threads > 1 else ''}",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "seed": seed,
        "setting": {
            "layers": f"{LAYERS}+{LAYERS}",
            "width": WIDTH,
            "codes": f"{LEVELS}x{CODES}",
            "history": SHORT + POSITIVE,
            "items": items,
            "returned": RETURNED,
        },
        "parameters": {"onerec": our_parameters, "t5": peer_parameters},
        "one_user": waits,
        "results": [compare(searches, sizes, beam, rounds, seconds) for beam in beams],
        "results_with_kept_memory": _with_kept_memory(searches, sizes, max(beams), rounds, seconds),
    }


def one_user(items: int, asks: int) -> dict[str, Any]:
    """Milliseconds of one user's list, among so many items."""
    from onerec.bench.serving import Served  # which measures by what stands here
    from onerec.recipes import recipe

    served = Served(recipe("small"), items, ONE_BEAM, torch.device("cpu"))
    return {"recipe": "small", "beam": ONE_BEAM, "milliseconds": served.latency(asks)}


def _with_kept_memory(
    searches: dict[str, Search],
    sizes: dict[str, Sequence[int]],
    beams: int,
    rounds: int,
    seconds: float,
) -> list[dict[str, Any]]:
    """The widest beam again where the allocator gives nothing back: a setting few users know."""
    keep_memory()
    return [compare(searches, sizes, beams, rounds, seconds)]


def machine_name() -> str:
    """The GPU's name where there is one, else the processor's."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name()


def cpu_name() -> str:
    """The processor's name where Linux tells it, else what Python knows."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def told_device(device: torch.device) -> str:
    """A GPU's name, or the processor's and how many threads are used of it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{cpu_name()}, {threads} thread{'s' if threads > 1 else ''}"


def commit() -> str:
    """The commit of the working tree, `+` when it has changes; `unknown` outside git."""
    folder = Path(__file__).parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def as_json(value: Any, indent: int | None = None) -> str:
    """Strict JSON: what is not finite, as the interval of one value, is null."""

    def strict(each: Any) -> Any:
        if isinstance(each, dict):
            return {key: strict(one) for key, one in each.items()}
        if isinstance(each, list | tuple):
            return [strict(one) for one in each]
        return None if isinstance(each, float) and not math.isfinite(each) else each

    return json.dumps(strict(value), indent=indent, allow_nan=False)


def write(result: dict[str, Any], path: Path) -> None:
    """Write strict JSON (`as_json`) under a temporary name, then rename; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    try:
        temporary.write_text(as_json(result, indent=1) + "\n")
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


@told_in_a_line
def main(argv: Sequence[str] | None = None) -> int:
    """The command line; prints a table, or one JSON object with --json."""
    from onerec.bench import generate_gpu  # which measures by what stands here

    parser = argparse.ArgumentParser(description="constrained beam search against transformers' T5")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--out", type=Path, help="also write it to this file")
    parser.add_argument("--beams", type=int, nargs="+", default=[10, 50], help="widths")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each turn, at least")
    parser.add_argument("--cpu", action="store_true", help="as without a GPU")
    generate_gpu.options(parser)
    options = parser.parse_args(argv)
    if torch.cuda.is_available() and not options.cpu:
        return generate_gpu.told(options, options.out, sys.argv[1:] if argv is None else argv)
    refuse_below_one(options, ("asks", "beams", "rounds", "threads"))
    result = run(
        beams=options.beams,
        rounds=options.rounds,
        seconds=options.seconds,
        threads=options.threads,
        asks=options.asks,
        words=sys.argv[1:] if argv is None else argv,
    )
    if options.out:
        write(result, options.out)
    if options.json:
        print(as_json(result))
        return 0
    one = result["one_user"]
    told = ", ".join(f"{name} {value} ms" for name, value in one["milliseconds"].items())
    print(f"one user, {one['recipe']} at beam {one['beam']}: {told}")
    for kind in ("results", "results_with_kept_memory"):
        for row in result[kind]:
            print(
                f"{kind:<25}beam {row['beams']:>3}: onerec {row['onerec_users_per_second']:>7} "
                f"users/s, T5 {row['t5_users_per_second']:>6} users/s, {row['ratio']} times"
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
