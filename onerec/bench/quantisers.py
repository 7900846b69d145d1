"""The quantisers side by side on a run's content vectors: the same N, L and items, several seeds.

    python -m onerec.bench.quantisers --run RUN [--size 128 --levels 3 --seeds 3] --out FILE

Kinds: residual k-means, balanced by transport, balanced by Algorithm 1 (random start, as printed)
and RQ-VAE with TIGER's layers. The numbers are those of `onerec.pipeline.quantisers`, which keeps
them for a run's page; here several seeds make an interval, and `nearest_free` is measured as well.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from onerec.bench.generate import as_json, commit, cpu_name, write
from onerec.bench.mistakes import refuse_below_one, told_in_a_line
from onerec.bench.paired import interval
from onerec.common import set_threads
from onerec.pipeline.quantisers import Items, Shape, fitted, held_out_loss, measured
from onerec.runs import open_run
from onerec.tokenizer.nearest_free import LastLevel
from onerec.tokenizer.rq_kmeans import quantisation_report
from onerec.tokenizer.semantic_ids import make_semantic_ids

KINDS = ("rq_kmeans", "balanced", "algorithm_1", "rq_vae")
_PURE, _BY_LEVEL = ("purity", "chance"), ("utilisation", "entropy_nats")


def measure(
    items: Items, kind: str, size: int, levels: int, steps: int, seed: int
) -> dict[str, Any]:
    """One kind with one seed; see the module's docstring."""
    x, shape = items.vectors, Shape(size, levels, steps)
    begun = time.process_time()
    quantiser, codes = fitted(x, kind, shape, seed)
    seconds = time.process_time() - begun
    told = measured(items, quantiser, codes, seed)
    last = LastLevel.of(quantiser.encode(x), codes, quantiser.codebooks)
    free = make_semantic_ids(codes, quantiser.sizes, "nearest_free", last)
    moved = torch.from_numpy(free.codes).to(x.device)
    after = quantisation_report(x, moved, quantiser.codebooks, quantiser.decode)
    return {
        **{name: told[name] for name in ("loss", "share_sharing", *_PURE) if name in told},
        **{name: [level[name] for level in told["levels"]] for name in _BY_LEVEL},
        "held_out_loss": held_out_loss(x, kind, shape, seed),
        "nearest_free": {
            "share_touched": free.report["share_touched"],
            "items_left": free.report["items_left"],
            "loss": after["relative_reconstruction_loss"],
        },
        "seconds": round(seconds, 2),
    }


def compare(
    items: Items, size: int, levels: int, steps: int = 1_000, seeds: int = 3
) -> dict[str, Any]:
    """The benchmark's JSON."""
    kinds = {}
    for kind in KINDS:
        found = [measure(items, kind, size, levels, steps, seed) for seed in range(seeds)]
        plain = ("loss", "held_out_loss", "share_sharing", "seconds", "purity", "chance")
        told: dict[str, Any] = {
            name: interval([one[name] for one in found]) for name in plain if name in found[0]
        }
        for name in _BY_LEVEL:
            told[name] = np.mean([one[name] for one in found], axis=0).round(5).tolist()
        told["nearest_free"] = {
            name: interval([one["nearest_free"][name] for one in found])
            for name in found[0]["nearest_free"]
        }
        kinds[kind] = told
    device = items.vectors.device
    return {
        "benchmark": "quantisers",
        "commit": commit(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
        "versions": {"torch": torch.__version__},
        "setting": {
            "items": len(items.vectors),
            "dim": items.vectors.shape[1],
            "size": size,
            "levels": levels,
            "steps": steps,
            "seeds": seeds,
            "threads": torch.get_num_threads(),
        },
        "max_entropy_nats": round(float(np.log(size)), 5),
        "kinds": kinds,
    }


def table(result: dict[str, Any]) -> str:
    """The comparison for people, a line per kind: means over the seeds."""
    lines = [
        f"{'kind':<12}{'loss':>8}{'held out':>10}{'used':>7}  {'entropy by level':<22}"
        f"{'sharing':>8}{'purity':>8}{'chance':>8}{'seconds':>9}"
    ]
    for kind, told in result["kinds"].items():
        entropy = " ".join(f"{value:.3f}" for value in told["entropy_nats"])
        pure = [f"{told[name]['mean']:.3f}" if name in told else "-" for name in _PURE]
        lines.append(
            f"{kind:<12}{told['loss']['mean']:>8.4f}{told['held_out_loss']['mean']:>10.4f}"
            f"{min(told['utilisation']):>7.1%}  {entropy:<22}{told['share_sharing']['mean']:>8.2%}"
            f"{pure[0]:>8}{pure[1]:>8}{told['seconds']['mean']:>9.2f}"
        )
    return "\n".join([*lines, f"ln N = {result['max_entropy_nats']:.3f}"])


@told_in_a_line
def main(words: Sequence[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="quantisers on a run's content vectors")
    parser.add_argument("--run", required=True, help="a run whose tokenizer stage is done")
    parser.add_argument("--home", type=Path, help="the folder of datasets and runs")
    parser.add_argument("--size", type=int, help="N; by default the run's")
    parser.add_argument("--levels", type=int, help="L; by default the run's")
    parser.add_argument("--steps", type=int, default=1_000, help="of the RQ-VAE")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--out", type=Path, help="also write it to this file")
    asked = parser.parse_args(words)
    refuse_below_one(asked, ("size", "levels", "steps", "seeds"))
    set_threads(asked.threads)
    run = open_run(asked.run, asked.home)
    items, report = Items.of(run, asked.home, asked.device), run.report() or {}
    size, levels = asked.size or report["codebook_size"], asked.levels or len(report["levels"])
    result = compare(items, size, levels, asked.steps, asked.seeds)
    result["command"] = (
        f"python -m onerec.bench.quantisers --run {asked.run} --size {size} --levels {levels} "
        f"--steps {asked.steps} --seeds {asked.seeds}"
    )
    if asked.out is not None:
        write(result, asked.out)
    print(as_json(result) if asked.json else table(result))


if __name__ == "__main__":
    raise SystemExit(main())
