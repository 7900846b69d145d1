"""How the loss of the lazy decoder falls with its size: L(N) = E + A / N^a.

    python -m onerec.bench.scaling --run RUN [--sizes 1 3 10 30 100 300] [--samples S] --out FILE

Dataset, split and tokenizer are RUN's. Every size sees the same S training contexts once, in the
same order and batches. The learning rate is tuned at two sizes (`--tune-at`, one seed, on the same
contexts, by the loss on valid) and goes with 1 / sqrt(N), as V2's: c is the geometric mean of rate
sqrt(N) at the two. N counts in millions of parameters that are no rows of a table; output heads are
counted. Losses are per code in nats, on valid targets (`bench.lazy.valid_loss`).

The law is fitted by least squares (for each a on a grid the best E and A), its intervals are those
of a bootstrap over seeds within sizes, and the largest size is left out once and predicted.
V2 prints 3.13 + 3660 / N^.489 for N from 0.1B to 8B (its N in parameters, its data 6.4 billion
samples): the shape may be compared, not the numbers.

Shapes: six sizes, R seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from onerec.assembly import Setting, setting_of
from onerec.bench.arms import in_parts, write_part
from onerec.bench.generate import commit, machine_name, write
from onerec.bench.lazy import cardinalities, fit, valid_loss
from onerec.bench.mistakes import refuse_below_one, refuse_no_amount, told_in_a_line
from onerec.common import set_threads
from onerec.cost import TABLES
from onerec.count import Cardinalities, Counter
from onerec.data.batches import training_examples
from onerec.errors import RecipeError, RunError
from onerec.model.sizes import ContextConfig
from onerec.recipes import Recipe
from onerec.runs import Run, open_run
from onerec.sections import ModelConfig

SIZES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
RATES = (1e-3, 2e-3, 4e-3, 8e-3, 16e-3)  # at one million parameters; less at more, by 1 / sqrt(N)
HEAD, WIDEST = 32, 2_048  # width of a head, of a model
ASPECT, NEAR = 64, 0.08  # width over depth as V2's models have it; how far N may be off, as a log
SMALLEST_CONTEXT = 48  # width of a context token; V2's is .15 D
V2 = {"E": 3.13, "A": 3660.0, "a": 0.489}
EXPONENTS = np.linspace(0.02, 1.5, 297)
DRAWS = 1_000

Floats = NDArray[np.float64]


def shape(millions: float, base: Recipe, known: Cardinalities) -> Recipe:
    """A dense lazy decoder of about that many parameters without tables, shaped as V2's are.

    Among all widths, each as deep as comes nearest to the size, and of those within 8% of it the
    one whose width over depth is nearest to V2's; where there is none, the nearest size.
    """
    found = []
    for width in range(2 * HEAD, WIDEST + 1, HEAD):
        model = replace(
            base.model,
            kind="lazy",
            width=width,
            heads=width // HEAD,
            experts=0,
            label_smoothing=0.0,
            dropout=0.0,
        )
        context = ContextConfig(width=max(SMALLEST_CONTEXT, 3 * round(width / 20)))

        def deep(depth: int, model: ModelConfig = model, of: ContextConfig = context) -> Recipe:
            return replace(base, model=replace(model, decoder_layers=depth), context=of)

        one, two = (size_of(deep(depth), known) for depth in (1, 2))
        depth = max(1, round(1 + (millions * 1e6 - one) / (two - one)))
        recipe = deep(depth)
        off = abs(math.log(size_of(recipe, known) / (millions * 1e6)))
        found.append((max(off, NEAR), abs(math.log(width / depth / ASPECT)), width, recipe))
    return min(found, key=lambda one: one[:3])[3]


def size_of(recipe: Recipe, known: Cardinalities) -> int:
    """Parameters that are no rows of a table."""
    counter = Counter(recipe, known)
    parts = counter.parameters()
    return counter.total() - sum(parts[name] for name in TABLES)


@dataclass(frozen=True)
class Case:
    """One training: the size in millions, the rate of one million parameters, the seed."""

    millions: float
    rate: float
    seed: int

    def __str__(self) -> str:
        return f"{self.millions:g}:{self.rate:g}:{self.seed}"

    @classmethod
    def read(cls, text: str) -> Case:
        millions, rate, seed = text.split(":")
        return cls(float(millions), float(rate), int(seed))


def train(run: Run, base: Setting, case: Case, samples: int, batch: int) -> dict[str, Any]:
    """One training of fresh samples, and what it learned.

    Raises:
        RunError: the dataset has fewer training contexts than samples.
    """
    known = cardinalities(base, run)
    recipe = shape(case.millions, base.recipe, known)
    examples = training_examples(base.split, recipe.train.targets)
    if samples > len(examples):
        raise RunError(
            f"{base.dataset.name!r} has {len(examples):,} training contexts, fewer than "
            f"{samples:,} that are to be seen once: lower --samples or make a larger world: "
            "`onerec data get world --name large --set n_users=50000`"
        )
    size = size_of(recipe, known)
    rate = case.rate / math.sqrt(size / 1e6)
    config = replace(recipe.train, steps=samples // batch, batch_size=batch, learning_rate=rate)
    recipe = replace(recipe, seed=case.seed, train=config)
    setting = replace(base, recipe=recipe)
    model, _, seconds = fit(run, setting, examples)
    return {
        **asdict(case),
        "parameters": size,
        "width": recipe.model.width,
        "depth": recipe.model.decoder_layers,
        "learning_rate": rate,
        "loss": round(valid_loss(model, setting), 5),
        "seconds": round(seconds, 1),
    }


# ------------------------------------------------------------------ the law


@dataclass(frozen=True)
class Law:
    """L = E + A / N^a, N in millions."""

    floor: float
    scale: float
    exponent: float

    def __call__(self, millions: Floats | float) -> Any:
        return self.floor + self.scale / np.asarray(millions) ** self.exponent


def fit_law(millions: Floats, loss: Floats) -> Law:
    """Least squares of losses at sizes, both (n,); neither E nor A is below 0.

    Raises:
        ValueError: fewer than three different sizes.
    """
    if len(np.unique(millions)) < 3:
        raise ValueError("three different sizes are needed for three numbers")
    term = millions ** -EXPONENTS[:, None]  # (exponents, n)
    spread = term - term.mean(1, keepdims=True)
    scale = np.maximum(0.0, spread @ (loss - loss.mean()) / np.square(spread).sum(1))
    floor = loss.mean() - scale * term.mean(1)
    through_zero = term @ loss / np.square(term).sum(1)
    floor, scale = np.where(floor < 0, 0.0, floor), np.where(floor < 0, through_zero, scale)
    error = np.square(floor[:, None] + scale[:, None] * term - loss).sum(1)
    best = int(error.argmin())
    return Law(float(floor[best]), float(scale[best]), float(EXPONENTS[best]))


def laws(runs: Sequence[dict[str, Any]], draws: int = DRAWS) -> tuple[Law, list[Law]]:
    """The law of all runs, and those of `draws` bootstraps over seeds within sizes."""
    sizes = sorted({run["parameters"] for run in runs})
    groups = [np.array([r["loss"] for r in runs if r["parameters"] == size]) for size in sizes]
    millions = np.array(sizes) / 1e6
    rng = np.random.default_rng(0)

    def at(losses: list[Floats]) -> Law:
        return fit_law(millions, np.array([group.mean() for group in losses]))

    drawn = [at([rng.choice(group, len(group)) for group in groups]) for _ in range(draws)]
    return at(groups), drawn


def interval(values: Sequence[float]) -> dict[str, float]:
    """The middle 95% of a bootstrap."""
    low, high = np.percentile(values, [2.5, 97.5])
    return {"low": round(float(low), 5), "high": round(float(high), 5)}


def summary(runs: Sequence[dict[str, Any]], draws: int = DRAWS) -> dict[str, Any]:
    """The law with its intervals, and the largest size as the others predict it."""
    law, drawn = laws(runs, draws)
    largest = max(run["parameters"] for run in runs)
    measured = [run["loss"] for run in runs if run["parameters"] == largest]
    smaller, drawn_smaller = laws([r for r in runs if r["parameters"] != largest], draws)
    predicted = [float(one(largest / 1e6)) for one in drawn_smaller]
    return {
        "law": {
            name: {"value": round(float(getattr(law, field)), 5)}
            | interval([getattr(one, field) for one in drawn])
            for name, field in (("E", "floor"), ("A", "scale"), ("a", "exponent"))
        },
        "largest": {
            "parameters": largest,
            "measured": round(float(np.mean(measured)), 5),
            "predicted": {"value": round(float(smaller(largest / 1e6)), 5), **interval(predicted)},
        },
        "v2": V2,
    }


def rate_of(tuned: Sequence[dict[str, Any]]) -> float:
    """c: the geometric mean of the rates (at one million) that were best at the tuned sizes."""
    sizes = sorted({run["millions"] for run in tuned})
    best = [
        min((r for r in tuned if r["millions"] == size), key=lambda r: r["loss"])["rate"]
        for size in sizes
    ]
    return float(np.exp(np.mean(np.log(best))))


def _parts(
    words: Sequence[str], cases: Sequence[Case], folder: Path, jobs: int
) -> list[dict[str, Any]]:
    """The cases' parts alone: of earlier calls other sizes and rates may be there."""
    return in_parts("scaling", words, [str(case) for case in cases], folder, jobs, only=True)


def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    """Tune, train all sizes and seeds in processes of their own, and fit."""
    words = ["--run", chosen.run, "--samples", str(chosen.samples), "--batch", str(chosen.batch)]
    words += ["--home", str(chosen.home)] if chosen.home else []
    folder = chosen.out.with_suffix(".parts")
    tries = [Case(size, rate, 0) for size in chosen.tune_at for rate in chosen.rates]
    tuned = _parts(words, tries, folder / "tune", chosen.jobs)
    rate = float(f"{rate_of(tuned):.3g}")
    cases = [Case(size, rate, seed) for size in chosen.sizes for seed in range(chosen.seeds)]
    cases.sort(key=lambda case: -case.millions)  # the long ones first
    runs = _parts(words, cases, folder / "sizes", chosen.jobs)
    runs.sort(key=lambda run: (run["parameters"], run["seed"]))
    return {
        "benchmark": "scaling",
        "command": "python -m onerec.bench.scaling " + " ".join(sys.argv[1:]),
        "commit": commit(),
        "device": machine_name(),
        "samples": chosen.samples,
        "batch": chosen.batch,
        "rate_at_one_million": rate,
        **summary(runs),
        "tuned": tuned,
        "runs": runs,
    }


@told_in_a_line
def main(words: Sequence[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="loss of the lazy decoder by its size")
    parser.add_argument("--run", required=True, help="a run whose tokenizer stage is done")
    parser.add_argument("--home", type=Path)
    parser.add_argument("--sizes", type=float, nargs="+", default=SIZES, help="in millions")
    parser.add_argument("--tune-at", type=float, nargs="+", default=(1.0, 10.0))
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--samples", type=int, default=500_000)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--one", help="SIZE:RATE:SEED, in this process")
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args(words)
    if chosen.one:
        set_threads(1 if torch.cuda.is_available() else None)
        run = open_run(chosen.run, chosen.home)
        base, case = setting_of(run, chosen.home), Case.read(chosen.one)
        write_part(train(run, base, case, chosen.samples, chosen.batch), chosen.out)
        return
    refuse_below_one(chosen, ("seeds", "jobs", "samples", "batch"))
    refuse_no_amount(chosen, ("sizes", "tune_at", "rates"), zero=False)
    if len(set(chosen.sizes)) < 4:
        raise RecipeError("--sizes: four or more, the largest is foretold by the law of the others")
    setting_of(open_run(chosen.run, chosen.home), chosen.home)
    result = measure(chosen)
    write(result, chosen.out)
    print(json.dumps({key: result[key] for key in ("law", "largest")}, indent=1))


if __name__ == "__main__":
    raise SystemExit(main())
