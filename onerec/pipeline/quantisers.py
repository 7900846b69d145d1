"""The quantisers side by side on a run's items: the same vectors, N and L, some seeds.

    onerec bench quantisers --run RUN

The result is RUN/cache/quantisers.json, replaced after each fit; started again with the same
setting it goes on where it was, and more seeds are added. Kinds: residual k-means, refined and
balanced by transport, RQ-VAE with TIGER's layers, and codebooks drawn by lot (rows of what the
levels before left, never moved). All numbers are of the items that a kind was fitted on, but
for `held_out_loss`: another fit leaves a fifth of the items out and is measured on them, since an
RQ-VAE of many weights may learn a small catalogue by heart. Losses are relative: mean squared
distance to the reconstruction over that to the mean vector. Purity is the share of items whose
category is the commonest of their first code; `chance` the same with the categories shuffled, since
many small codes are pure by luck. Seconds are those of the process, all threads together.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onerec.assembly import setting_of
from onerec.common import generator, pick_device, set_threads
from onerec.errors import DataError, RecipeError, RunError
from onerec.pipeline.session import Report, quiet
from onerec.run_files import read_json, write_json
from onerec.run_writer import RunWriter
from onerec.runs import Run, open_run
from onerec.tokenizer.balanced_rq_kmeans import BalancedRQKmeansConfig
from onerec.tokenizer.kmeans import assign, permutation
from onerec.tokenizer.quality import purity
from onerec.tokenizer.quantiser import Quantiser, make_quantiser, quantiser_config
from onerec.tokenizer.rq_kmeans import RQKmeans, RQKmeansConfig, quantisation_report
from onerec.tokenizer.rq_vae import RQVAE
from onerec.tokenizer.semantic_ids import make_semantic_ids

STAGE = "quantisers"
RESULT = "cache/quantisers.json"
KINDS = ("rq_kmeans", "refined", "balanced", "rq_vae", "random")
LEFT_OUT = 5  # one item of so many is not seen by the second fit
LEAST = 2 * LEFT_OUT  # items: one that is left out alone has no spread to be measured by
LEVEL_VALUES = ("utilisation", "entropy_nats", "perplexity", "dead_codes", "variance_explained")
Beat = Callable[[], None]


@dataclass(frozen=True)
class Items:
    """What is quantised: vectors (n, d), and categories (n,) by number where there are any."""

    vectors: Tensor
    category: NDArray[np.int64] | None

    def __post_init__(self) -> None:
        if len(self.vectors) < LEAST:
            raise DataError(
                f"quantisers are compared on at least {LEAST} items, of which a fifth is left out "
                f"of the fit; here are {len(self.vectors)}"
            )

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


@dataclass(frozen=True)
class Shape:
    """What is fitted: N codes a level, L levels, steps of an RQ-VAE."""

    size: int
    levels: int
    steps: int = 1_000


def compare_quantisers(
    name: str,
    home: Path | None = None,
    *,
    seeds: int = 3,
    kinds: Sequence[str] = KINDS,
    steps: int | None = None,
    device: str = "auto",
    report: Report = quiet,
) -> dict[str, Any]:
    """Measure `kinds` on the items of a finished tokenizer, and keep the result in the run's cache.

    `steps` of the RQ-VAE: by default those of the run's recipe. A process that watches may stop it
    between two fits (control.json of RUN/cache/quantisers).

    Raises:
        RunError: no such run, it has no tokenizer, or another process is at this comparison.
        RecipeError: an unknown kind, or less than one seed.
        DataError: fewer than `LEAST` items.
    """
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise RecipeError(f"quantiser {unknown[0]!r} is unknown; choose of {', '.join(KINDS)}")
    if seeds < 1:
        raise RecipeError(f"seeds={seeds}: at least one is measured")
    run = open_run(name, home)
    items, made = Items.of(run, home, device), run.report() or {}
    known_steps = (run.recipe().get("recipe") or {}).get("tokenizer", {}).get("steps", 1_000)
    shape = Shape(int(made["codebook_size"]), len(made["levels"]), steps or int(known_steps))
    setting = {"items": len(items.vectors), "dim": items.vectors.shape[1], **vars(shape)}
    rows = _known_rows(run, setting)
    todo = [(seed, kind) for seed in range(seeds) for kind in kinds]
    set_threads(None)
    with RunWriter.claim(run.path / "cache" / STAGE, {"name": STAGE}) as writer:
        for done, (seed, kind) in enumerate(todo):
            message = f"{kind.replace('_', ' ')}, seed {seed}"
            writer.set_status(STAGE, done, len(todo), message=message)
            report(STAGE, done, len(todo), {"message": message})
            if writer.obey() == "stop":
                writer.stop("stopped as asked; start it again to go on")
                break
            if (kind, seed) not in rows:
                rows[kind, seed] = measure(items, kind, shape, seed, writer.beat)
                _keep(run, setting, rows)
        else:
            writer.set_status(STAGE, len(todo), len(todo))
            report(STAGE, len(todo), len(todo), {})
            writer.finish()
    return read_json(run.path / RESULT)


def _known_rows(run: Run, setting: dict[str, Any]) -> dict[tuple[str, int], dict[str, Any]]:
    """What was measured before under the same setting."""
    path = run.path / RESULT
    found = read_json(path) if path.is_file() else {}
    rows = found["rows"] if found.get("setting") == setting else []
    return {(row["kind"], row["seed"]): row for row in rows}


def _keep(run: Run, setting: dict[str, Any], rows: dict[tuple[str, int], dict[str, Any]]) -> None:
    write_json(run.path / RESULT, {"setting": setting, "rows": list(rows.values())})


# ------------------------------------------------------------------------ one fit


def new_quantiser(kind: str, shape: Shape, seed: int) -> Quantiser:
    """One of `KINDS` that learns, or `algorithm_1` (balanced, as printed), not fitted."""
    name = "balanced" if kind == "algorithm_1" else kind
    config = quantiser_config(
        name, levels=shape.levels, codebook_size=shape.size, seed=seed, steps=shape.steps
    )
    if kind == "algorithm_1":
        assert isinstance(config, BalancedRQKmeansConfig)
        config = replace(config, assignment="greedy", init="random")
    return make_quantiser(name, config)


def by_lot(x: Tensor, shape: Shape, seed: int) -> RQKmeans:
    """Codebooks nobody fitted: rows drawn at random of what the levels before left of x (n, d)."""
    random, residual, books = generator(seed), x.clone(), []
    for _ in range(shape.levels):
        book = residual[permutation(len(x), random, x.device)[: shape.size]].clone()
        residual -= book[assign(residual, book)]
        books.append(book)
    config = RQKmeansConfig(shape.levels, shape.size, seed=seed)
    return RQKmeans.from_state(config, {"codebooks": torch.stack(books)})


def fitted(
    x: Tensor, kind: str, shape: Shape, seed: int, beat: Beat = lambda: None
) -> tuple[Quantiser, Tensor]:
    """A kind that has learned from x (n, d), and the codes (n, L) of x."""
    if kind == "random":
        made = by_lot(x, shape, seed)
        return made, made.transform(x)
    quantiser = new_quantiser(kind, shape, seed)
    if not isinstance(quantiser, RQVAE):
        return quantiser, quantiser.fit_transform(x)
    for _ in quantiser.training(x):
        beat()
    return quantiser, quantiser.transform(x)


def measure(
    items: Items, kind: str, shape: Shape, seed: int, beat: Beat = lambda: None
) -> dict[str, Any]:
    """One kind with one seed; see the module's docstring."""
    begun = time.process_time()
    quantiser, codes = fitted(items.vectors, kind, shape, seed, beat)
    seconds = time.process_time() - begun
    return {
        "kind": kind,
        "seed": seed,
        **measured(items, quantiser, codes, seed),
        "held_out_loss": held_out_loss(items.vectors, kind, shape, seed, beat),
        "seconds": round(seconds, 2),
    }


def measured(items: Items, quantiser: Quantiser, codes: Tensor, seed: int) -> dict[str, Any]:
    """What the codes (n, L) of the fitted items say: loss, use per level, sharing, purity."""
    found = quantisation_report(items.vectors, codes, quantiser.codebooks, quantiser.decode)
    ids = make_semantic_ids(codes, quantiser.sizes)
    told: dict[str, Any] = {
        "loss": found["relative_reconstruction_loss"],
        "levels": [{name: level[name] for name in LEVEL_VALUES} for level in found["levels"]],
        "share_sharing": ids.report["share_sharing"],
        "largest_leaf": ids.report["largest_leaf"],
    }
    if items.category is not None:
        first = codes[:, 0].cpu().numpy()
        shuffled = np.random.default_rng(seed).permutation(items.category)
        told |= {"purity": purity(first, items.category), "chance": purity(first, shuffled)}
    return told


def held_out_loss(
    x: Tensor, kind: str, shape: Shape, seed: int, beat: Beat = lambda: None
) -> float | None:
    """The loss on the fifth of the items that a fit has not seen, over their own spread.

    None where these are all alike.
    """
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)).to(x.device)
    seen, unseen = x[order[len(x) // LEFT_OUT :]], x[order[: len(x) // LEFT_OUT]]
    small = replace(shape, size=min(shape.size, len(seen)))
    quantiser, _ = fitted(seen, kind, small, seed, beat)
    codes = quantiser.transform(unseen)
    found = quantisation_report(unseen, codes, quantiser.codebooks, quantiser.decode)
    loss: float | None = found["relative_reconstruction_loss"]
    return loss


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
