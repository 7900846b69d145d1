"""Does what codes look like foretell what they recommend? Tokenizers side by side, trained alike.

    python -m onerec.bench.code_quality --home H --dataset world --recipe tiny \
        [--set KEY=VALUE ...] [--seeds 3] [--jobs 1] --out FILE

    rq_kmeans, refined, balanced, rq_vae   the quantisers, on the same content vectors
    half, quarter                    residual k-means with fewer codes
    near_mean                        residual k-means from the start near the mean
    content, consumed                what is quantised: content alone, co-consumption alone
    qformer, qformer_consumed        what a QFormer (contrastive loss) makes of content: alone, as
                                     `content`, and beside co-consumption, as `rq_kmeans`
    residual, residual_consumed      the same QFormers with the connection that V1 does not print
    shuffled                         the codes of rq_kmeans dealt out to other items

One part is one of these and a seed: the tokenizer is fitted, its codes are measured, and a model is
trained on them by the same recipe and judged on valid, all in a process of its own. A seed is that
of tokenizer, weights and batches. Where a recipe reads content in the history, all of them do; the
codes are what differs.

Measures (`onerec.tokenizer.quality`): shares of categories and pairs are less what chance gives;
`neighbours` are of the joined content that rq_kmeans quantises, `consumed` are Swing's pairs of the
training rows, the same for all. `foretells` is each measure's rank correlation (Spearman) with
recall@10 over the tokenizers, by seed; over those without `shuffled`, which any measure tells; and
over those that quantise the same vectors, as losses and sharing of others mean something else.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from onerec.assembly import Setting, load_semantic_ids, setting_of
from onerec.bench.arms import in_parts, write_part
from onerec.bench.generate import commit, write
from onerec.bench.mistakes import refuse_below_one, told_in_a_line
from onerec.bench.paired import bounds, interval
from onerec.bench.trained import new_training, train, watch
from onerec.common import generator, set_threads
from onerec.data.dataset import open_dataset
from onerec.data.pairs import training_pairs
from onerec.data.tables import read_parquet, write_parquet
from onerec.errors import RecipeError
from onerec.pipeline import run as run_stages
from onerec.pipeline.content import content_vectors
from onerec.pipeline.quantisers import categories
from onerec.recipes import parse_overrides, recipe
from onerec.runs import Run
from onerec.sections import Recipe
from onerec.settings import listed, nearest
from onerec.tokenizer.quality import code_quality, nearest_pairs

PLAIN, SHUFFLED = "rq_kmeans", "shuffled"
SAME_VECTORS = (PLAIN, "refined", "balanced", "rq_vae", "near_mean", "half", "quarter")
QFORMERS = ("qformer", "qformer_consumed", "residual", "residual_consumed")
KINDS = (
    *SAME_VECTORS,
    *("content", "consumed", *QFORMERS, SHUFFLED),
)
PAIRS = (
    *(("qformer", "content"), ("qformer_consumed", PLAIN)),
    *(("residual", "content"), ("residual_consumed", PLAIN)),
    *(("residual", "qformer"), ("residual_consumed", "qformer_consumed")),
    *(("refined", PLAIN), ("balanced", PLAIN), ("rq_vae", PLAIN), ("near_mean", PLAIN)),
)
QUERIES, NEAR = 2_000, 10
RECALL = "recall@10"


def kind_recipe(base: Recipe, kind: str, seed: int) -> Recipe:
    """The recipe of one of `KINDS`."""
    tokenizer, content, qformer = base.tokenizer, base.content, base.qformer
    if kind in ("refined", "balanced", "rq_vae"):
        tokenizer = replace(tokenizer, kind=kind)
    elif kind in ("half", "quarter"):
        size = tokenizer.codebook_size // (2 if kind == "half" else 4)
        tokenizer = replace(tokenizer, codebook_size=size)
    elif kind == "near_mean":
        tokenizer = replace(tokenizer, init="near-mean")
    elif kind in ("content", "qformer", "residual"):
        content = replace(content, behaviour_weight=0.0)
    elif kind == "consumed":
        content = replace(content, text_weight=0.0, tokens_weight=0.0)
    if kind in QFORMERS:
        residual = kind.startswith("residual")
        qformer = replace(qformer, steps=300, width=64, caption_weight=0.0, residual=residual)
    return replace(base, seed=seed, tokenizer=tokenizer, content=content, qformer=qformer)


def deal_out(run: Run, seed: int) -> None:
    """Give the codes of a tokenizer to other items, at random; item by item all else stays."""
    path = run.path / "tokenizer" / "semantic_ids.parquet"
    table = read_parquet(path).sort_values("item", ignore_index=True)
    order = np.random.default_rng(seed).permutation(len(table))
    columns = {str(name): table[name].to_numpy() for name in table.columns}
    for name in columns:
        if name.startswith("code_") or name == "leaf_size":
            columns[name] = columns[name][order]
    write_parquet(path, columns)


def measures(run: Run, setting: Setting, neighbours: np.ndarray) -> dict[str, float]:
    """What the codes of a run look like, one number each."""
    ids, _ = load_semantic_ids(run)
    column, seed = setting.dataset.items.get("category"), setting.recipe.seed
    rows = code_quality(
        ids.codes,
        None if column is None else categories(column),
        neighbours,
        training_pairs(setting.split, generator(0)).item_to_item,
        seed,
    )
    report = run.report() or {}
    levels = report["levels"]
    found = {
        "reconstruction": report["relative_reconstruction_loss"],
        "utilisation": min(level["utilisation"] for level in levels),
        "entropy": float(np.mean([r["entropy_nats"] / r["max_entropy_nats"] for r in levels])),
        "alone": 1 - report["collisions"]["share_sharing"],
    }
    for row in rows[:2]:
        for name in ("purity", "information_nats", "neighbours", "consumed"):
            if name in row:
                found[f"{name}_{row['level']}"] = row[name] - row[f"{name}_chance"]
    return {name: round(float(value), 6) for name, value in found.items()}


def part(chosen: argparse.Namespace, kind: str, seed: int) -> dict[str, Any]:
    """One tokenizer and one seed: fitted, measured, trained on, judged."""
    base = recipe(chosen.recipe, parse_overrides(chosen.set))
    config, name = kind_recipe(base, kind, seed), f"codes_{chosen.dataset}_{chosen.recipe}"
    run = run_stages(
        f"{name}_{kind}_{seed}", config, chosen.dataset, home=chosen.home, stages=("tokenize",)
    )
    setting = setting_of(run, chosen.home)
    vectors = content_vectors(replace(setting, recipe=kind_recipe(base, PLAIN, seed))).vectors
    near = nearest_pairs(torch.from_numpy(vectors), NEAR, QUERIES, generator(seed))
    mark = run.path / "dealt"
    if kind == SHUFFLED and not mark.exists():
        deal_out(run, seed)
        mark.touch()
    found = measures(run, setting, near)
    training = new_training(run, setting)
    taken = watch(train(training), training.config.steps, f"{kind}:{seed}")
    recall = training.evaluate(training.config.steps)["valid_recall@10"]
    print(f"{kind}:{seed} {RECALL} {recall:.4f}", flush=True)
    return {
        "kind": kind,
        "seed": seed,
        RECALL: round(recall, 5),
        "seconds": round(sum(taken), 1),
        "measures": found,
    }


def summary(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over seeds by kind, recall@10 of `PAIRS` by seed, and how measures rank the kinds."""
    kinds = {}
    for kind in KINDS:
        mine = [one for one in parts if one["kind"] == kind]
        if mine:
            told = {RECALL: interval([one[RECALL] for one in mine])}
            for name in mine[0]["measures"]:
                told[name] = interval([one["measures"][name] for one in mine])
            kinds[kind] = told
    apart = [one for one in parts if one["kind"] != SHUFFLED]
    same = [one for one in parts if one["kind"] in SAME_VECTORS]
    return {
        "kinds": kinds,
        "differences": differences(parts),
        "foretells": foretells(parts),
        "foretells_without_shuffled": foretells(apart),
        "foretells_of_same_vectors": foretells(same),
    }


def differences(parts: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """recall@10 of one kind less that of another of the same seed, for `PAIRS` that are there."""
    found = {(one["kind"], one["seed"]): one[RECALL] for one in parts}
    result = {}
    for a, b in PAIRS:
        seeds = [seed for kind, seed in found if kind == a and (b, seed) in found]
        if seeds:
            result[f"{a} - {b}"] = interval([found[a, seed] - found[b, seed] for seed in seeds])
    return result


def foretells(parts: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Spearman's correlation of each measure with recall@10 over kinds, as an interval over seeds.

    A measure that is the same for all kinds has none and is left out.
    """
    names = sorted({name for one in parts for name in one["measures"]})
    result = {}
    for name in names:
        found = []
        for seed in sorted({one["seed"] for one in parts}):
            mine = [one for one in parts if one["seed"] == seed and name in one["measures"]]
            values = [one["measures"][name] for one in mine]
            if len(set(values)) > 1:
                found.append(float(spearmanr(values, [one[RECALL] for one in mine]).statistic))
        if found:
            result[name] = interval(found)
    return result


def table(result: Mapping[str, Any]) -> str:
    """The comparison for people: a line per kind, then what foretells recall."""
    kinds = result["kinds"]
    names = [name for name in next(iter(kinds.values())) if name != RECALL]
    lines = [f"{'':<17}{RECALL:>10}" + "".join(f"{name[:14]:>16}" for name in names)]
    for kind, told in kinds.items():
        numbers = "".join(f"{told[name]['mean']:>16.4f}" for name in names)
        lines.append(f"{kind:<17}{told[RECALL]['mean']:>10.4f}{numbers}")
    for title in ("foretells", "foretells_without_shuffled", "foretells_of_same_vectors"):
        found = result[title]
        means = [f"{found[name]['mean']:.2f}" if name in found else "-" for name in names]
        lines.append(f"{title[:27]:<27}" + "".join(f"{mean:>16}" for mean in means))
    for pair, by in result["differences"].items():
        lines.append(f"{RECALL} {pair}: {by['mean']:+.4f} {bounds(by)}")
    return "\n".join(lines)


@told_in_a_line
def main(argv: Sequence[str] | None = None) -> int:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="do codes foretell recommendations?")
    parser.add_argument("--home", type=Path, help="the folder of datasets and runs")
    parser.add_argument("--dataset", default="world")
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--set", nargs="*", action="extend", default=[], help="KEY=VALUE")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--one", help="KIND:SEED, in this process")
    parser.add_argument("--out", type=Path, required=True)
    words = list(sys.argv[1:] if argv is None else argv)
    chosen = parser.parse_args(words)
    set_threads(1 if chosen.one and chosen.jobs > 1 else None)
    if chosen.one:
        kind, _, seed = chosen.one.rpartition(":")
        write_part(part(chosen, kind, int(seed)), chosen.out)
        return 0
    result = compare(chosen, words)
    write(result, chosen.out)
    print(table(result))
    return 0


def compare(chosen: argparse.Namespace, words: Sequence[str]) -> dict[str, Any]:
    """Every part that is missing, then the benchmark's JSON.

    Raises:
        OneRecError: a kind is unknown, a number is below 1, or see `onerec.pipeline.run`.
    """
    refuse_below_one(chosen, ("seeds", "jobs"))
    for kind in chosen.kinds:
        if kind not in KINDS:
            raise RecipeError(f"no kind {kind!r}{nearest(kind, KINDS)}; there are {listed(KINDS)}")
    recipe(chosen.recipe, parse_overrides(chosen.set))
    open_dataset(chosen.dataset, chosen.home)
    told = ["--dataset", chosen.dataset, "--recipe", chosen.recipe, "--jobs", str(chosen.jobs)]
    told += ["--set", *chosen.set] if chosen.set else []
    told += ["--home", str(chosen.home)] if chosen.home else []
    work = [f"{kind}:{seed}" for seed in range(chosen.seeds) for kind in chosen.kinds]
    settings = {"dataset": chosen.dataset, "recipe": chosen.recipe, "set": sorted(chosen.set)}
    folder = chosen.out.with_suffix(".parts")
    parts = in_parts("code_quality", told, work, folder, chosen.jobs, settings)
    return {
        "benchmark": "code_quality",
        "command": f"python -m onerec.bench.code_quality {' '.join(words)}",
        "commit": commit(),
        "settings": {**settings, "seeds": chosen.seeds},
        **summary(parts),
        "parts": parts,
    }


if __name__ == "__main__":
    raise SystemExit(main())
