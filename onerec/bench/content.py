"""What brings co-consumed items together: the mean of their tokens, or a QFormer, and which loss.

    python -m onerec.bench.content --dataset world [--steps 300 --width 64 --seeds 3] --out FILE

On any dataset of the home (`world` is made where it is missing). A tenth of the items is held out:
it is in no pair and tells no caption, like the items that first appear after the training rows. On
these, and on rows after the training part alone: an item that a user took there, and his 20
positives before it, are partners; recall@10 is the share of an item's partners among its nearest
(`tokenizer.retrieval`), averaged over the items. Arms:

    mean          the mean of the tokens
    neither       a QFormer with random weights
    contrastive, caption, both           as V1 section 2.1 prints it, with one loss or two
    contrastive+residual, both+residual  with the connection that it does not print

`over_mean` is the difference by seed. Items a second are those of the whole way from content to
code, and of its parts: encoding (0 where the dataset brings tokens), QFormer, quantiser.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from onerec.assembly import Setting
from onerec.bench.generate import as_json, commit, cpu_name, write
from onerec.bench.mistakes import refuse_below_one, told_in_a_line
from onerec.bench.paired import bounds, interval
from onerec.common import generator, pick_device, set_threads
from onerec.data.dataset import dataset_path, open_dataset
from onerec.data.sources.world import WORLD, make_world_dataset
from onerec.data.split import Split
from onerec.errors import DataError
from onerec.model.item_qformer import ItemQFormer, item_vectors
from onerec.pipeline.content import Watch, token_sources
from onerec.pipeline.item_alignment import align_content, mean_vectors, qformer_config
from onerec.recipes import Recipe, recipe
from onerec.tokenizer.content import Precomputed, join_tokens
from onerec.tokenizer.retrieval import partner_recall
from onerec.tokenizer.rq_kmeans import RQKmeans, RQKmeansConfig, codebook_size_for

MEAN, NEITHER = "mean", "neither"
LOSSES = {"contrastive": (1.0, 0.0), "caption": (0.0, 1.0), "both": (1.0, 1.0)}
RESIDUAL = "+residual"
ARMS = (MEAN, NEITHER, *LOSSES, f"contrastive{RESIDUAL}", f"both{RESIDUAL}")
HELD_OUT, RECENT, NEAREST = 10, 20, 10  # one item of so many; positives before; neighbours
CODES = 256  # of a level of the quantiser whose speed is told, or what the items allow


@dataclass(frozen=True)
class Held:
    """What is held out by a seed: the setting without it, and pairs (P, 2) of later rows."""

    setting: Setting
    pairs: NDArray[np.int64]

    @classmethod
    def of(cls, setting: Setting, seed: int) -> Held:
        n, split = setting.dataset.n_items, setting.split
        held = ~split.fit_items
        held[torch.randperm(n, generator=generator(seed)).numpy()[: n // HELD_OUT]] = True
        pairs = later_pairs(split, held)
        if not len(pairs):
            raise DataError(
                f"{setting.dataset.name!r}: no held-out item was taken after the training rows; "
                "use more data"
            )
        known = replace(split, fit_items=split.fit_items & ~held)
        return cls(replace(setting, split=known, recipe=replace(setting.recipe, seed=seed)), pairs)


def later_pairs(split: Split, held: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(P, 2): a held-out item that a user took after the training rows, and what he took before it.

    Of the user's `RECENT` positives before it, in whichever part; no item is its own partner.
    """
    rows = np.flatnonzero(split.log.positive)
    user, item = split.log.user[rows], split.log.item[rows].astype(np.int64)
    asked = held[item] & ~split.train[rows]
    found = []
    for back in range(1, min(RECENT, len(rows) - 1) + 1):
        at = np.flatnonzero(asked[back:] & (user[back:] == user[:-back])) + back
        found.append(np.stack([item[at], item[at - back]], axis=1))
    pairs = np.concatenate([np.zeros((0, 2), dtype=np.int64), *found])
    return np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)


def arm_vectors(
    arm: str, setting: Setting, content: Precomputed, device: torch.device
) -> tuple[NDArray[np.float32], ItemQFormer | None]:
    """One of `ARMS` as vectors (n, d); those of the QFormer are those of the tokenize stage."""
    if arm == MEAN:
        return mean_vectors(content, setting.split.fit_items), None
    asked = setting.recipe.qformer
    if arm == NEITHER:
        model = ItemQFormer(qformer_config(content.dim, asked.width), content.dim)
        model.init_weights(generator(setting.recipe.seed))
        return item_vectors(model.to(device), content), model
    contrastive, caption = LOSSES[arm.removesuffix(RESIDUAL)]
    asked = replace(
        asked,
        contrastive_weight=contrastive,
        caption_weight=caption,
        residual=arm.endswith(RESIDUAL),
    )
    setting = replace(setting, recipe=replace(setting.recipe, qformer=asked))
    aligned = align_content(setting, content, device, lambda message: None, lambda result, of: None)
    return aligned.vectors, aligned.qformer


def speed(content: Precomputed, model: ItemQFormer, encoding: float) -> dict[str, float]:
    """Items a second from tokens to codes and, with the seconds that `encoding` took, from content.

    The quantiser is fitted on the same vectors; fitting is not counted.
    """
    n = len(content.mask)
    begun = time.perf_counter()
    x = torch.from_numpy(item_vectors(model, content)).to(model.queries.device)
    reading = time.perf_counter() - begun
    quantiser = RQKmeans(RQKmeansConfig(codebook_size=codebook_size_for(n, CODES), iterations=5))
    quantiser.fit(x)
    begun = time.perf_counter()
    quantiser.transform(x).cpu()
    coding = time.perf_counter() - begun
    return {
        "encoder": round(n / encoding, 1) if encoding else 0.0,
        "qformer": round(n / reading, 1),
        "quantiser": round(n / coding, 1),
        "content_to_code": round(n / (encoding + reading + coding), 1),
    }


def compare(
    setting: Setting,
    seeds: int = 3,
    device: torch.device | None = None,
    arms: Sequence[str] = ARMS,
) -> dict[str, Any]:
    """The benchmark's JSON."""
    device = device or torch.device("cpu")
    begun = time.perf_counter()
    sources = token_sources(setting, Watch(device))
    content = join_tokens([source.content for source in sources])
    encoding = time.perf_counter() - begun if any(one.more for one in sources) else 0.0
    silent = int((~content.mask.any(axis=1)).sum())
    if silent:
        raise DataError(
            f"{silent} items of {setting.dataset.name!r} have no content; name another --text, or "
            "import the dataset without them"
        )
    recalls: dict[str, list[float]] = {arm: [] for arm in arms}
    seconds: dict[str, list[float]] = {arm: [] for arm in arms}
    counts: list[dict[str, int]] = []
    speeds: dict[str, float] = {}
    for seed in range(seeds):
        held = Held.of(setting, seed)
        counts.append({"items": len(np.unique(held.pairs[:, 0])), "pairs": len(held.pairs)})
        for arm in arms:
            begun = time.perf_counter()
            vectors, model = arm_vectors(arm, held.setting, content, device)
            seconds[arm].append(time.perf_counter() - begun)
            recalls[arm].append(float(partner_recall(vectors, held.pairs, NEAREST).mean()))
            if model is not None and not speeds:
                speeds = speed(content, model, encoding)
    told: dict[str, dict[str, Any]] = {
        arm: {"recall@10": interval(recalls[arm]), "by_seed": recalls[arm]} for arm in arms
    }
    for arm in arms:
        if MEAN in arms and arm != MEAN:
            pairs = zip(recalls[arm], recalls[MEAN], strict=True)
            told[arm]["over_mean"] = interval([one - base for one, base in pairs])
        told[arm]["seconds"] = round(float(np.mean(seconds[arm])), 1)
    return {
        "benchmark": "content",
        "commit": commit(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
        "versions": {"torch": torch.__version__},
        "setting": _settings(setting, content, seeds),
        "held_out": counts,
        "chance": round(NEAREST / (setting.dataset.n_items - 1), 5),
        "arms": told,
        "items_per_second": speeds,
    }


def _settings(setting: Setting, content: Precomputed, seeds: int) -> dict[str, Any]:
    asked = setting.recipe.qformer
    return {
        "dataset": setting.dataset.name,
        "fingerprint": setting.dataset.fingerprint,
        "split": setting.split.rule,
        "content": content.name,
        "items": setting.dataset.n_items,
        "tokens": list(content.tokens.shape[1:]),
        "width": qformer_config(content.dim, asked.width).width,
        "steps": asked.steps,
        "seeds": seeds,
        "threads": torch.get_num_threads(),
    }


def table(result: dict[str, Any]) -> str:
    """The comparison for people, a line per arm."""
    lines = [f"{'arm':<22}{'recall@10':>10}{'interval':>20}{'over the mean':>28}{'seconds':>9}"]
    for arm, told in result["arms"].items():
        recall, over = told["recall@10"], told.get("over_mean")
        by = "-" if over is None else f"{over['mean']:+.4f} {bounds(over)}"
        within = bounds(recall, ".4f")
        lines.append(f"{arm:<22}{recall['mean']:>10.4f}{within:>20}{by:>28}{told['seconds']:>9.1f}")
    speeds = ", ".join(f"{name} {rate:,.0f}" for name, rate in result["items_per_second"].items())
    return "\n".join([*lines, f"by chance {result['chance']:.4f}", f"items a second: {speeds}"])


def wanted(asked: argparse.Namespace) -> Recipe:
    """The recipe whose content and QFormer are measured."""
    changes = {
        "content.text": asked.text,
        "content.images": str(asked.images),
        "content.tokens_weight": "0" if asked.no_tokens else "1",
        "qformer.steps": str(asked.steps),
        "qformer.width": str(asked.width),
        "evaluate.split": asked.split,
    }
    return recipe("tiny", changes)


@told_in_a_line
def main(words: Sequence[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="content vectors: retrieval of co-consumed items")
    parser.add_argument("--dataset", default=WORLD, help="a dataset of the home")
    parser.add_argument("--home", type=Path, help="the folder of datasets and runs")
    parser.add_argument("--split", default="auto")
    parser.add_argument("--text", default="hashed", help="who reads texts: hashed or sentence")
    parser.add_argument("--images", action="store_true", help="covers and frames beside them")
    parser.add_argument("--no-tokens", action="store_true", help="not the dataset's own tokens")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--width", type=int, default=64, help="of the QFormer; 0: of the tokens")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--out", type=Path, help="also write it to this file")
    asked = parser.parse_args(words)
    refuse_below_one(asked, ("steps", "seeds"))
    set_threads(asked.threads)
    if asked.dataset == WORLD and not dataset_path(WORLD, asked.home).exists():
        make_world_dataset(home=asked.home)
    setting = Setting.of(wanted(asked), open_dataset(asked.dataset, asked.home))
    result = compare(setting, asked.seeds, pick_device(asked.device), asked.arms)
    flags = [
        flag for flag, on in (("--images", asked.images), ("--no-tokens", asked.no_tokens)) if on
    ]
    result["command"] = " ".join(
        [
            f"python -m onerec.bench.content --dataset {asked.dataset} --split {asked.split}",
            f"--text {asked.text} --steps {asked.steps} --width {asked.width}",
            f"--seeds {asked.seeds} --arms {' '.join(asked.arms)}",
            *flags,
        ]
    )
    if asked.out is not None:
        write(result, asked.out)
    print(as_json(result) if asked.json else table(result))


if __name__ == "__main__":
    raise SystemExit(main())
