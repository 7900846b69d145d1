"""The papers' model sizes counted, and what the lazy decoder saves.

    python -m onerec.bench.sizes [--json] [--out FILE]

First table: each recipe's parameters, part by part, beside the size in its name. V1 by the reading
of its text that fits: SwiGLU experts of 8/3 D in every decoder block (0.935B) and in every second
block of both sides (2.633B). V2: SwiGLU of 4 D, code tables three embeddings wide. Tables of event
features, which depend on the data, are left out; what is missing to the name is printed, not added.

Second table: each lazy decoder beside the encoder-decoder of the same width, codes and parameters
whose halves weigh about the same (V2's 1:1). Operations of training and values kept for the
backward pass are `onerec.count`'s, for full contexts in float32. Nothing is trained here.

    here                 the targets of a context share the decoder's first position
    own_first_position   each target has its own, as V2 has it
    as_v2                V2's appendix: 6 x weights x tokens, own first positions, no attention
                         scores, no products for the keys and values of cross-attention
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from onerec.bench.generate import as_json, commit, write
from onerec.bench.mistakes import told_in_a_line
from onerec.count import Cardinalities, Counter
from onerec.model.sizes import ContextConfig, ffn_hidden
from onerec.paper_recipes import PAPER_RECIPES
from onerec.recipes import Recipe

NAMED = {  # parameters that the papers' names promise
    "onerec_0_015b": 0.015e9,
    "onerec_0_121b": 0.121e9,
    "onerec_0_935b": 0.935e9,
    "onerec_2_633b": 2.633e9,
    "lazy_0_1b": 0.1e9,
    "lazy_0_2b": 0.2e9,
    "lazy_0_5b": 0.5e9,
    "lazy_1b": 1e9,
}
CONTEXTS = ((512, 5), (405, 5), (405, 1))  # positions, targets
PRINTED = {  # V2 Table 2 at 512 positions and 5 targets: encoder-decoder 1:1, then lazy
    "lazy_0_1b": {"gflops": (25.64, 1.98), "activations": (4.21e9, 0.31e9)},
    "lazy_0_5b": {"gflops": (142.73, 9.55), "activations": (10.79e9, 0.77e9)},
    "lazy_1b": {"gflops": (296.36, 18.89), "activations": (17.63e9, 1.24e9)},
}
DEEPEST = 64


def counter(recipe: Recipe) -> Counter:
    """With the papers' codes and no features that depend on the data."""
    tokenizer = recipe.tokenizer
    return Counter(recipe, Cardinalities((tokenizer.codebook_size,) * tokenizer.levels, 0))


def size(recipe: Recipe) -> dict[str, Any]:
    """One recipe's parameters: `total`, `active`, `parts` and the gap to its name."""
    counted = counter(recipe)
    total = counted.total()
    return {
        "named": NAMED[recipe.name],
        "total": total,
        "active": counted.active_total(),
        "gap_percent": round(100 * (total / NAMED[recipe.name] - 1), 2),
        "parts": {part: n for part, n in counted.parameters().items() if n},
    }


def equal_encoder_decoder(lazy: Recipe) -> Recipe:
    """The dense encoder-decoder of that width that is nearest in parameters and to equal halves.

    Parameters weigh four times as much as halves (ours).
    """
    width, target = lazy.model.width, counter(lazy).total()

    def shaped(encoder: int, decoder: int) -> Recipe:
        model = replace(
            lazy.model, kind="encoder_decoder", encoder_layers=encoder, decoder_layers=decoder
        )
        return replace(lazy, name="equal", model=model, context=ContextConfig())

    fixed = counter(shaped(1, 1)).total()
    one, other = ((4 + n) * width**2 + 3 * width * ffn_hidden(width) for n in (0, 4))
    base = fixed - one - other

    def distance(layers: tuple[int, int]) -> float:
        halves = layers[0] * one, layers[1] * other
        total = abs(math.log((base + sum(halves)) / target))
        return 4 * total + abs(math.log(halves[0] / halves[1]))

    depths = range(1, DEEPEST + 1)
    return shaped(*min(((e, d) for e in depths for d in depths), key=distance))


def as_v2(found: Counter, positions: int, targets: int) -> float:
    """Operations of one target by V2's appendix: 6 x weights x tokens."""
    parts, layers, width = found.parameters(), len(found.encoder), found.width
    encoder = parts["encoder_attention"] + layers * 3 * width * found.hidden
    decoder = parts["decoder_attention"] + parts["dense"] - layers * 3 * width * found.hidden
    per_target = found.levels * decoder + parts["heads"]
    context = encoder + parts.get("context_processor", 0)
    return 6.0 * (context * positions / targets + per_target)


def compare(lazy: Recipe) -> dict[str, Any]:
    """A lazy decoder and its equal: operations and kept values per target, at each context."""
    equal = equal_encoder_decoder(lazy)
    sides = {"encoder_decoder": counter(equal), "lazy": counter(lazy)}
    return {
        "encoder_decoder": f"{equal.model.encoder_layers}+{equal.model.decoder_layers}",
        "width": lazy.model.width,
        "parameters": {name: c.total() for name, c in sides.items()},
        "printed_by_v2": PRINTED.get(lazy.name),
        "contexts": [_at(sides, *context) for context in CONTEXTS],
    }


def _at(sides: dict[str, Counter], positions: int, targets: int) -> dict[str, Any]:
    """Both sides at one context, as they are run here and as V2 counts."""
    row: dict[str, Any] = {"positions": positions, "targets": targets}
    for name, shared in (("here", True), ("own_first_position", False)):
        flops = {
            side: c.training_flops(positions - 1, targets, shared) / targets
            for side, c in sides.items()
        }
        kept = {
            side: 4 * sum(c.activations(positions - 1, targets, shared).values()) / targets
            for side, c in sides.items()
        }
        row[name] = {
            "gflops": {side: round(value / 1e9, 3) for side, value in flops.items()},
            "flops_ratio": _ratio(flops),
            "activation_bytes": {side: round(value) for side, value in kept.items()},
            "activation_ratio": _ratio(kept),
        }
    v2 = {side: as_v2(c, positions, targets) for side, c in sides.items()}
    gflops = {side: round(value / 1e9, 3) for side, value in v2.items()}
    return row | {"as_v2": {"gflops": gflops, "flops_ratio": _ratio(v2)}}


def _ratio(values: dict[str, float]) -> float:
    """How many times the encoder-decoder's the lazy decoder's is."""
    return round(values["encoder_decoder"] / values["lazy"], 2)


def run() -> dict[str, Any]:
    """Both tables as one JSON-able dict."""
    recipes = [make() for make in PAPER_RECIPES]
    return {
        "benchmark": "sizes",
        "command": "python -m onerec.bench.sizes " + " ".join(sys.argv[1:]),
        "commit": commit(),
        "device": "none: counted, not measured",
        "sizes": {recipe.name: size(recipe) for recipe in recipes},
        "lazy": {r.name: compare(r) for r in recipes if r.model.kind == "lazy"},
    }


def show(result: dict[str, Any]) -> None:
    """The tables as text."""
    for name, row in result["sizes"].items():
        parts = ", ".join(f"{part} {n / 1e6:.1f}M" for part, n in row["parts"].items())
        print(
            f"{name:<14} named {row['named'] / 1e9:.3f}B, counted {row['total'] / 1e9:.4f}B "
            f"({row['gap_percent']:+.1f}%), active {row['active'] / 1e9:.4f}B: {parts}"
        )
    for name, row in result["lazy"].items():
        mine = {side: f"{n / 1e9:.4f}B" for side, n in row["parameters"].items()}
        print(f"\n{name} {mine['lazy']} against {row['encoder_decoder']} blocks, ", end="")
        print(f"{mine['encoder_decoder']}; V2 prints {row['printed_by_v2'] or 'nothing'}")
        for line in row["contexts"]:
            here, own, v2 = line["here"], line["own_first_position"], line["as_v2"]
            gflops = here["gflops"]
            print(
                f"  {line['positions']} positions, {line['targets']} targets: GFLOPs a target "
                f"{gflops['encoder_decoder']} to {gflops['lazy']}, 1/{here['flops_ratio']}, "
                f"activations 1/{here['activation_ratio']}; each target with its own first "
                f"position 1/{own['flops_ratio']} and 1/{own['activation_ratio']}; as V2 counts "
                f"1/{v2['flops_ratio']}"
            )


@told_in_a_line
def main(argv: Sequence[str] | None = None) -> int:
    """The command line; prints the tables, or one JSON object with --json."""
    parser = argparse.ArgumentParser(description="the papers' sizes, and what a lazy decoder saves")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--out", type=Path, help="also write it to this file")
    options = parser.parse_args(argv)
    result = run()
    if options.out:
        write(result, options.out)
    if options.json:
        print(as_json(result))
    else:
        show(result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
