"""What of the codes stands when items are added: keep the codebooks, move them, or fit anew?

    python -m onerec.bench.added --run RUN [--share 0.1] [--seeds 3] [--out FILE]

A random share of a run's items is taken for new. A quantiser is fitted on the others; then

    kept       its codebooks stay, and new items get codes by them
    moved      k-means goes on from its codebooks, level by level, on all items
    refit      a fit on all items, from the same seed
    reseeded   a fit on the old items alone, from another seed: what chance changes

`agreement` is the adjusted Rand index, by level, of the old items' groups (those that share their
first l codes) before and after, 1 where nothing moved; names of codes play no part. `same_codes` is
the share of old items with every code as before: what a model that was trained on codes still
knows. `new_error` and `old_error` are relative reconstruction losses, `new_sharing` the share
of new items whose ID another item has. Kinds are residual k-means and, without `moved`, balanced.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onerec.bench.generate import as_json, commit, machine_name, write
from onerec.bench.mistakes import refuse_below_one, told_in_a_line
from onerec.bench.paired import bounds, interval
from onerec.common import generator
from onerec.errors import RecipeError, RunError
from onerec.runs import open_run
from onerec.tokenizer.kmeans import lloyd
from onerec.tokenizer.quality import adjusted_rand, prefix_groups
from onerec.tokenizer.quantiser import make_quantiser, quantiser_config
from onerec.tokenizer.rq_kmeans import reconstruct, residual_codes

KINDS = {
    "rq_kmeans": ("kept", "moved", "refit", "reseeded"),
    "balanced": ("kept", "refit", "reseeded"),
}
OTHER = 1_000  # added to a seed for another one
ITERATIONS = 25


def moved(x: Tensor, codebooks: Tensor, seed: int) -> Tensor:
    """Codebooks (L, N, d) as k-means moves them on x (n, d), each level from where it stood."""
    residual, books = x.float().clone(), []
    for book in codebooks:
        found = lloyd(residual, book, iterations=ITERATIONS, generator=generator(seed))
        residual -= found.centroids[found.labels]
        books.append(found.centroids)
    return torch.stack(books)


def ways(kind: str, x: Tensor, new: Tensor, size: int, levels: int, seed: int) -> dict[str, Any]:
    """By way the codes (n, L) of all items of x (n, d), and what they stand for (n, d).

    `new` (n,) bool: items that `kept` and `reseeded` were not fitted on.
    """

    def made(on: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Of a fit on some items, which have the codes it gave them; others have the nearest."""
        shape = {"levels": levels, "codebook_size": size, "iterations": ITERATIONS}
        config = quantiser_config(kind, **shape, seed=seed)  # type: ignore[arg-type]
        quantiser = make_quantiser(kind, config)
        codes = torch.empty(len(x), levels, dtype=torch.int64, device=x.device)
        codes[on] = quantiser.fit_transform(x[on])
        if not on.all():
            codes[~on] = quantiser.transform(x[~on])
        return codes, quantiser.codebooks

    found = {"kept": made(~new, seed)}
    if "moved" in KINDS[kind]:
        books = moved(x, found["kept"][1], seed)
        found["moved"] = residual_codes(x, books), books
    found["refit"] = made(torch.ones_like(new), seed)
    found["reseeded"] = made(~new, seed + OTHER)
    return {way: (codes, reconstruct(codes, books)) for way, (codes, books) in found.items()}


def measured(x: Tensor, new: Tensor, found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The measures of each way; see the module's docstring."""
    before = found["kept"][0][~new].cpu().numpy()
    groups = prefix_groups(before)
    far = (x - x.mean(0)).square().sum(1)
    told = {}
    for way, (codes, stands) in found.items():
        after = codes[~new].cpu().numpy()
        lost = (x - stands).square().sum(1)
        _, place, count = np.unique(
            codes.cpu().numpy(), axis=0, return_inverse=True, return_counts=True
        )
        shared = count[place.reshape(-1)] > 1
        agreed = [adjusted_rand(a, b) for a, b in zip(groups, prefix_groups(after), strict=True)]
        told[way] = {
            "agreement": agreed,
            "same_codes": float((before == after).all(1).mean()),
            "old_error": float(lost[~new].sum() / far[~new].sum()),
            "new_error": float(lost[new].sum() / far[new].sum()),
            "new_sharing": float(shared[new.cpu().numpy()].mean()),
        }
    return told


def compare(x: Tensor, size: int, levels: int, share: float, seeds: int) -> dict[str, Any]:
    """By kind and way each measure with its interval over seeds.

    Raises:
        RecipeError: the share leaves no new items, or fewer old ones than codes.
    """
    count = round(share * len(x))
    if not count or len(x) - count < size:
        raise RecipeError(
            f"--share {share}: {count} of {len(x)} items would be new; there must be at least one, "
            f"and {size} old ones for as many codes"
        )
    result: dict[str, Any] = {}
    for kind, names in KINDS.items():
        parts = []
        for seed in range(seeds):
            new = torch.zeros(len(x), dtype=torch.bool)
            new[torch.randperm(len(x), generator=generator(seed))[:count]] = True
            parts.append(
                measured(x, new.to(x.device), ways(kind, x, new.to(x.device), size, levels, seed))
            )
        result[kind] = {way: _over([part[way] for part in parts]) for way in names}
    return {"items": len(x), "new": count, "size": size, "levels": levels, "results": result}


def _over(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Intervals over seeds; of `agreement` one a level."""
    plain = {
        name: interval([part[name] for part in parts]) for name in parts[0] if name != "agreement"
    }
    levels = zip(*(part["agreement"] for part in parts), strict=True)
    return {"agreement": [interval(level) for level in levels], **plain}


@told_in_a_line
def main(argv: Sequence[str] | None = None) -> int:
    """The command line; prints a line for each way."""
    parser = argparse.ArgumentParser(description="what of the codes stands when items are added")
    parser.add_argument("--run", required=True, help="a run whose tokenizer stage is done")
    parser.add_argument("--home", type=Path, help="of runs and datasets")
    parser.add_argument("--share", type=float, default=0.1, help="of the items, taken for new")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--out", type=Path, help="also write it to this file")
    words = list(sys.argv[1:] if argv is None else argv)
    chosen = parser.parse_args(words)
    refuse_below_one(chosen, ("seeds",))
    run = open_run(chosen.run, chosen.home)
    vectors, report = run.vectors(), run.report()
    if vectors is None or report is None:
        raise RunError(f"run {run.name!r} has no content vectors yet: run `onerec tokenize` first")
    size, levels = report["codebook_size"], len(report["levels"])
    x = torch.from_numpy(np.array(vectors, dtype=np.float32))
    result = {
        "benchmark": "added",
        "command": " ".join(["python -m onerec.bench.added", *words]),
        "commit": commit(),
        "device": machine_name(),
        "dataset": run.recipe()["dataset"],
        "share": chosen.share,
        "seeds": chosen.seeds,
        **compare(x, size, levels, chosen.share, chosen.seeds),
    }
    if chosen.out is not None:
        write(result, chosen.out)
    if chosen.json:
        print(as_json(result))
        return 0
    for kind, found in result["results"].items():
        for way, line in found.items():
            agreed = " ".join(f"{level['mean']:.3f}" for level in line["agreement"])
            print(
                f"{kind:<10}{way:<10}agreement {agreed}  same {line['same_codes']['mean']:.3f}  "
                f"error of new items {line['new_error']['mean']:.4f} {bounds(line['new_error'])}"
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
