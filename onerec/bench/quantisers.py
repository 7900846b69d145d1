"""The quantisers side by side on a run's content vectors: the same N, L and items, several seeds.

    python -m onerec.bench.quantisers --run RUN [--size 128 --levels 3 --seeds 3] --out FILE

Kinds: residual k-means, balanced by transport, balanced by Algorithm 1 (random start, as printed)
and RQ-VAE with TIGER's layers. All numbers are of the items that a kind was fitted on, but for
`held_out_loss`: another fit leaves a fifth of the items out and is measured on them, since an
RQ-VAE of many weights may learn a small catalogue by heart. Losses are relative: mean squared
distance to the reconstruction over that to the mean vector. Purity is the share of items whose
category is the commonest of their first code; `chance` the same with the categories shuffled, since
many small codes are pure by luck. Seconds are those of the process, all threads together.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onerec.assembly import setting_of
from onerec.bench.generate import commit, cpu_name, write
from onerec.bench.paired import interval
from onerec.common import pick_device, set_threads
from onerec.errors import RunError
from onerec.runs import Run, open_run
from onerec.tokenizer.balanced_rq_kmeans import BalancedRQKmeansConfig
from onerec.tokenizer.nearest_free import LastLevel
from onerec.tokenizer.quality import purity
from onerec.tokenizer.quantiser import Quantiser, make_quantiser, quantiser_config
from onerec.tokenizer.rq_kmeans import quantisation_report
from onerec.tokenizer.semantic_ids import make_semantic_ids

KINDS = ("rq_kmeans", "balanced", "algorithm_1", "rq_vae")
LEFT_OUT = 5  # one item of so many is not seen by the second fit


@dataclass(frozen=True)
class Items:
    """What is quantised: vectors (n, d), and categories (n,) by number where there are any."""

    vectors: Tensor
    category: NDArray[np.int64] | None

    @classmethod
    def of(cls, run: Run, home: Path | None = None, device: str = "auto") -> Items:
        vectors = run.vectors()
        if vectors is None:
            raise RunError(
                f"run {run.name!r} has no content vectors; `onerec tokenize --run {run.name}`"
            )
        items = setting_of(run, home).dataset.items
        x = torch.tensor(vectors, device=pick_device(device))
        return cls(x, categories(items["category"]) if "category" in items.columns else None)


def categories(column: Iterable[Any]) -> NDArray[np.int64] | None:
    """A number for each item's category: the first place of its list at which items differ.

    Items without one have a number of their own; None where all items are alike.
    """
    lists = [[] if value is None else list(value) for value in column]
    for place in range(max(map(len, lists), default=0)):
        names = [str(one[place]) if len(one) > place else "" for one in lists]
        known, numbers = np.unique(names, return_inverse=True)
        if len(known) > 1:
            return numbers.astype(np.int64)
    return None


def new_quantiser(kind: str, size: int, levels: int, steps: int, seed: int) -> Quantiser:
    """One of `KINDS`, not fitted."""
    name = "balanced" if kind == "algorithm_1" else kind
    config = quantiser_config(name, levels=levels, codebook_size=size, seed=seed, steps=steps)
    if kind == "algorithm_1":
        assert isinstance(config, BalancedRQKmeansConfig)
        config = replace(config, assignment="greedy", init="random")
    return make_quantiser(name, config)


def measure(
    items: Items, kind: str, size: int, levels: int, steps: int, seed: int
) -> dict[str, Any]:
    """One kind with one seed; see the module's docstring."""
    x = items.vectors
    begun = time.process_time()
    quantiser = new_quantiser(kind, size, levels, steps, seed)
    codes = quantiser.fit_transform(x)
    seconds = time.process_time() - begun
    report = _report(x, codes, quantiser)
    ids = make_semantic_ids(codes, quantiser.sizes)
    last = LastLevel.of(quantiser.encode(x), codes, quantiser.codebooks)
    free = make_semantic_ids(codes, quantiser.sizes, "nearest_free", last)
    after = _report(x, torch.from_numpy(free.codes).to(x.device), quantiser)
    result = {
        "loss": report["relative_reconstruction_loss"],
        "held_out_loss": _held_out(items, kind, size, levels, steps, seed),
        "utilisation": [level["utilisation"] for level in report["levels"]],
        "entropy_nats": [level["entropy_nats"] for level in report["levels"]],
        "share_sharing": ids.report["share_sharing"],
        "nearest_free": {
            "share_touched": free.report["share_touched"],
            "items_left": free.report["items_left"],
            "loss": after["relative_reconstruction_loss"],
        },
        "seconds": round(seconds, 2),
    }
    if items.category is not None:
        first = codes[:, 0].cpu().numpy()
        shuffled = np.random.default_rng(seed).permutation(items.category)
        result |= {"purity": purity(first, items.category), "chance": purity(first, shuffled)}
    return result


def _report(x: Tensor, codes: Tensor, quantiser: Quantiser) -> dict[str, Any]:
    return quantisation_report(x, codes, quantiser.codebooks, quantiser.decode)


def _held_out(items: Items, kind: str, size: int, levels: int, steps: int, seed: int) -> float:
    """The loss on the fifth of the items that a fit has not seen, over their own spread."""
    x = items.vectors
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)).to(x.device)
    seen, unseen = x[order[len(x) // LEFT_OUT :]], x[order[: len(x) // LEFT_OUT]]
    quantiser = new_quantiser(kind, min(size, len(seen)), levels, steps, seed).fit(seen)
    report = _report(unseen, quantiser.transform(unseen), quantiser)
    return float(report["relative_reconstruction_loss"])


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
        for name in ("utilisation", "entropy_nats"):
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


_PURE = ("purity", "chance")


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
    print(json.dumps(result) if asked.json else table(result))


if __name__ == "__main__":
    main()
