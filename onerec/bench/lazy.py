"""The lazy decoder beside an encoder-decoder: the same parameters, data, steps and seeds.

    python -m onerec.bench.lazy --run RUN [--width 96 --layers 2 --steps 1000 --seeds 3 --jobs 2]
                                --out FILE

Dataset, split, tokenizer and batches are RUN's. The encoder-decoder has LAYERS blocks on each side,
the lazy decoder of that width as many as come nearest to its parameters; both are dense and start
at the same codebooks. Each is trained at every rate of --rates with the first seed; the best one
counts, each kind for itself. One part is one training, in a process of its own; parts that are
there are not repeated. Told are the loss of a code on valid targets (mean over the levels and
over up to M targets of a case), recall@10 on valid, seconds of training and operations; and for
each seed the lazy decoder's loss over the other's. V2 prints 3.57 against 3.59, 3.33 against 3.35
and 3.27 against 3.28 at 0.1B, 0.5B and 1B: .3% to .6% less.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from onerec.assembly import Setting, load_semantic_ids, setting_of
from onerec.bench.arms import in_parts, write_part
from onerec.bench.generate import commit, machine_name, write
from onerec.bench.mistakes import refuse_below_one, refuse_no_amount, told_in_a_line
from onerec.bench.paired import interval
from onerec.common import pick_device, set_threads
from onerec.count import Cardinalities, Counter
from onerec.data.batches import (
    Contexts,
    Examples,
    TrainingBatches,
    case_batches,
    training_examples,
)
from onerec.loop import Trainee, loop
from onerec.metrics import recall_at_k
from onerec.model.onerec import OneRec
from onerec.model.sizes import ContextConfig
from onerec.pipeline.pretrain import next_token_order
from onerec.recipes import Recipe
from onerec.recommend import Recommender
from onerec.runs import Run, open_run
from onerec.train.optim import OptimConfig, cosine_schedule, make_adamw

KINDS = ("encoder_decoder", "lazy")
RANKS, CASES = 10, 256
DEEPEST = 64


def arms(base: Recipe, width: int, layers: int, known: Cardinalities) -> dict[str, Recipe]:
    """Both kinds as recipes, the lazy decoder as deep as parameters say."""
    model = replace(
        base.model,
        kind="encoder_decoder",
        width=width,
        encoder_layers=layers,
        decoder_layers=layers,
        experts=0,
        label_smoothing=0.0,
    )
    wide = replace(base, model=model, context=ContextConfig())
    target = Counter(wide, known).total()

    def lazy(depth: int) -> Recipe:
        return replace(wide, model=replace(model, kind="lazy", decoder_layers=depth))

    def gap(depth: int) -> int:
        return abs(Counter(lazy(depth), known).total() - target)

    return {"encoder_decoder": wide, "lazy": lazy(min(range(1, DEEPEST + 1), key=gap))}


def cardinalities(setting: Setting, run: Run) -> Cardinalities:
    """Those of the run's dataset, codes and content."""
    ids, _ = load_semantic_ids(run)
    known = Cardinalities.of(setting.features.vocabulary(ids.sizes, setting.dataset.n_items))
    vectors = run.vectors() if setting.recipe.history.content else None
    return known if vectors is None else replace(known, content_dim=vectors.shape[1])


def train(run: Run, setting: Setting) -> dict[str, Any]:
    """One model by the setting's recipe: what it learned on valid, and how long it took."""
    model, popularity, seconds = fit(run, setting)
    ids, _ = load_semantic_ids(run)
    cases, device = setting.split.valid, pick_device(setting.recipe.device)
    contexts = setting.contexts(device)
    recommender = Recommender(setting, ids, popularity, model, device, contexts)
    lists = recommender.lists(cases, RANKS).items
    recall = recall_at_k(lists, cases.target_offsets, cases.target_items, RANKS).mean()
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "loss": round(valid_loss(model, setting, contexts), 5),
        "recall@10": round(float(recall), 5),
        "seconds": round(seconds, 2),
    }


def fit(
    run: Run, setting: Setting, examples: Examples | None = None
) -> tuple[OneRec, NDArray[np.int64], float]:
    """A model trained by the setting's recipe, the items' popularity, and the seconds it took.

    `examples` are those of the setting, where they are known already.
    """
    recipe, config = setting.recipe, setting.recipe.train
    device = pick_device(recipe.device)
    ids, popularity = load_semantic_ids(run)
    model = setting.new_model(ids, run.codebooks(), run.vectors()).to(device)
    contexts = setting.contexts(device)
    optim = OptimConfig(
        learning_rate=config.learning_rate,
        warmup_steps=min(config.warmup_steps, config.steps),
        weight_decay=config.weight_decay,
    )
    trainee = Trainee(
        model=model,
        optimizer=make_adamw(model, optim),
        loss=model.loss,
        batch=TrainingBatches(
            contexts,
            examples or training_examples(setting.split, config.targets),
            config.batch_size,
            recipe.seed,
            event_dropout=recipe.history.event_dropout,
            order=next_token_order(setting),
            steps=config.steps,
        ),
        learning_rate=cosine_schedule(optim, config.steps),
    )
    begun = time.perf_counter()
    for _ in loop(trainee, steps=config.steps, clip=optim.clip, seed=recipe.seed, device=device):
        pass
    return model, popularity, time.perf_counter() - begun


@torch.no_grad()
def valid_loss(model: OneRec, setting: Setting, contexts: Contexts | None = None) -> float:
    """Mean loss of a code in nats over the valid cases' first M targets, without dropout.

    `contexts` on the model's device are made anew where they are not given.
    """
    cases, most = setting.split.valid, setting.recipe.train.targets
    device = next(model.parameters()).device
    contexts, total, count = contexts or setting.contexts(device), 0.0, 0
    lengths = np.diff(cases.target_offsets)
    target = np.zeros((len(cases), most), dtype=np.int64)
    for place in range(most):
        has = lengths > place
        target[has, place] = cases.target_items[cases.target_offsets[:-1][has] + place] + 1
    model.eval()
    for rows, user, end in case_batches(contexts, cases, CASES):
        wanted = torch.from_numpy(target[rows])
        _, parts = model.loss(contexts.batch(user, end, wanted))
        number = int((wanted > 0).sum())
        total += number * float(torch.stack(list(parts.values())).mean())
        count += number
    return total / count


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """By kind at its better rate: means; and the lazy decoder's loss over the other's, by seed."""
    chosen, result = {}, {}
    for kind in KINDS:
        mine = [run for run in runs if run["kind"] == kind]
        first = min(run["seed"] for run in mine)
        rate = min((r for r in mine if r["seed"] == first), key=lambda r: r["loss"])["rate"]
        chosen[kind] = {run["seed"]: run for run in mine if run["rate"] == rate}
        values = chosen[kind].values()
        result[kind] = {"rate": rate, "parameters": mine[0]["parameters"]} | {
            name: interval([run[name] for run in values])
            for name in ("loss", "recall@10", "seconds")
        }
    seeds = sorted(set(chosen["lazy"]) & set(chosen["encoder_decoder"]))
    pairs = [(chosen["lazy"][s]["loss"], chosen["encoder_decoder"][s]["loss"]) for s in seeds]
    result["loss_change"] = interval([lazy / other - 1 for lazy, other in pairs])
    return result


def recipes_of(
    chosen: argparse.Namespace, base: Setting, known: Cardinalities
) -> dict[str, Recipe]:
    """Both kinds in the size, steps and batch that are asked for."""
    config = replace(base.recipe.train, steps=chosen.steps, batch_size=chosen.batch)
    return arms(replace(base.recipe, train=config), chosen.width, chosen.layers, known)


def one(chosen: argparse.Namespace) -> dict[str, Any]:
    """The part of `--one`."""
    kind, rate, seed = chosen.one.split(":")
    run = open_run(chosen.run, chosen.home)
    base = setting_of(run, chosen.home)
    recipe = recipes_of(chosen, base, cardinalities(base, run))[kind]
    config = replace(recipe.train, learning_rate=float(rate))
    recipe = replace(recipe, seed=int(seed), train=config)
    told = {"kind": kind, "rate": float(rate), "seed": int(seed)}
    return {**told, **train(run, replace(base, recipe=recipe))}


def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    """Every arm, rate and seed; the first seed decides on the rate, the others follow it."""
    run = open_run(chosen.run, chosen.home)
    base = setting_of(run, chosen.home)
    known = cardinalities(base, run)
    recipes = recipes_of(chosen, base, known)
    names = ("run", "width", "layers", "steps", "batch")
    words = [word for name in names for word in (f"--{name}", str(getattr(chosen, name)))]
    words += ["--home", str(chosen.home)] if chosen.home else []

    def parts(cases: Sequence[str]) -> list[dict[str, Any]]:
        """The cases' parts alone: of earlier calls other rates may be there."""
        folder = chosen.out.with_suffix(".parts")
        return in_parts("lazy", words, cases, folder, chosen.jobs, only=True)

    tuned = [f"{kind}:{rate:g}:0" for kind in KINDS for rate in chosen.rates]
    best = {kind: found["rate"] for kind, found in summary(parts(tuned)).items() if kind in KINDS}
    seeds = range(1, chosen.seeds)
    runs = parts([*tuned, *(f"{kind}:{best[kind]:g}:{seed}" for seed in seeds for kind in KINDS)])
    return {
        "benchmark": "lazy",
        "command": "python -m onerec.bench.lazy " + " ".join(sys.argv[1:]),
        "commit": commit(),
        "device": machine_name(),
        "dataset": base.dataset.name,
        "width": chosen.width,
        "blocks": {
            "encoder_decoder": f"{chosen.layers}+{chosen.layers}",
            "lazy": str(recipes["lazy"].model.decoder_layers),
        },
        "gflops_per_sample": {
            kind: round(Counter(recipe, known).training_flops() / 1e9, 4)
            for kind, recipe in recipes.items()
        },
        "summary": summary(runs),
        "runs": runs,
    }


@told_in_a_line
def main(words: Sequence[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="lazy decoder against encoder-decoder")
    parser.add_argument("--run", required=True)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=1_000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 2e-3, 4e-3])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--one", help="KIND:RATE:SEED, in this process")
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args(words)
    refuse_below_one(chosen, ("seeds", "layers", "steps", "batch", "jobs"))
    refuse_no_amount(chosen, ["rates"], zero=False)
    set_threads(1 if chosen.one else None)
    if chosen.one:
        write_part(one(chosen), chosen.out)
        return
    result = measure(chosen)
    write(result, chosen.out)
    print(json.dumps(result["summary"], indent=1))


if __name__ == "__main__":
    raise SystemExit(main())
