"""What stands beside OneRec: baselines tuned on valid, its own policy before alignment, the ends.

Each baseline leaves baselines/<name>.safetensors (its lists for the cases that are reported) and
baselines/<name>.json (what was tried), written last, so that a finished one is never trained twice.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from onerec.assembly import Setting, load_semantic_ids, trained_model
from onerec.baselines import item_knn, popularity, sasrec
from onerec.baselines.ranking import Baseline
from onerec.checkpoint import load_tensors, save_tensors
from onerec.common import generator
from onerec.data.sources.world import world_of
from onerec.data.split import Cases
from onerec.errors import DataError
from onerec.evaluate import RANKS, Tuned, tune
from onerec.lifelong import with_lifelong
from onerec.recipes import Recipe
from onerec.recommend import Recommender
from onerec.run_files import read_json, write_json
from onerec.runs import Run

LISTED = 20  # ranks that are kept
NARROW = 128  # a model below this width trains on one thread
BEFORE, ENDS = "onerec_pretrained", "ends"
MADE = Path("evaluate") / "made"  # lists that wait there for evaluation

Made = dict[str, NDArray[np.int64]]


@dataclass(frozen=True)
class Rival:
    """A finished baseline: its lists (M, LISTED) and the seconds that tuning and listing took."""

    lists: NDArray[np.int64]
    seconds: float


def cases_of(setting: Setting) -> Cases:
    """The cases of the part that the recipe names.

    Raises:
        DataError: the split leaves nobody to evaluate.
    """
    part = setting.recipe.evaluate.part
    cases: Cases = getattr(setting.split, part)
    if not len(cases):
        raise DataError(
            f"{setting.dataset.name!r}: the split {setting.split.rule!r} leaves no user with a "
            f"{part} target and a history; try --set evaluate.split=leave_one_out"
        )
    return cases


def train_rival(folder: Path, setting: Setting, name: str, device: torch.device) -> Rival:
    """Tune a baseline on valid, list its items and write both into `folder`."""
    begun = time.perf_counter()
    config = setting.recipe.evaluate
    grid, fit = _grid_and_fit(setting, name, device)
    chosen = setting.recipe.baselines
    trials = min(chosen.sasrec_trials if name == "sasrec" else chosen.trials, len(grid))
    tuned: Tuned[Any] = tune(
        grid, fit, setting.split, trials=trials, exclude_seen=config.filter_seen
    )
    lists = tuned.model.recommend(setting.split, cases_of(setting), LISTED, config.filter_seen)
    lists = np.ascontiguousarray(lists, dtype=np.int64)
    seconds = time.perf_counter() - begun
    said = {"name": name, "config": vars(tuned.config), "trials": tuned.trials, "seconds": seconds}
    save_tensors(folder / f"{name}.safetensors", {"lists": torch.from_numpy(lists)})
    write_json(folder / f"{name}.json", said)
    return Rival(lists, seconds)


def finished_rival(folder: Path, name: str) -> Rival | None:
    """What an earlier process or the companion left, if it is whole."""
    if not (folder / f"{name}.json").is_file():
        return None
    lists = load_tensors(folder / f"{name}.safetensors")["lists"].numpy()
    return Rival(lists, float(read_json(folder / f"{name}.json")["seconds"]))


def _grid_and_fit(
    setting: Setting, name: str, device: torch.device
) -> tuple[tuple[Any, ...], Callable[[Any], Baseline]]:
    """The grid of a baseline and how one of its settings is fitted."""
    seed = setting.recipe.seed
    if name == "popularity":
        return popularity.GRID, lambda c: popularity.fit(setting.split, c, generator(seed))
    if name == "item_knn":
        # Counting common users is most of the work, and there are only two ways to count.
        overlap = functools.cache(lambda positives: item_knn.co_users(setting.split, positives))
        return item_knn.GRID, lambda c: item_knn.fit(
            setting.split, c, generator(seed), overlap(c.positives_only)
        )
    chosen = setting.recipe.baselines
    size: dict[str, Any] = {
        "width": chosen.sasrec_width,
        "steps": chosen.sasrec_steps,
        "batch_size": chosen.sasrec_batch_size,
    }
    grid = tuple(replace(c, **size) for c in sasrec.GRID)
    return grid, lambda c: sasrec.fit(setting.split, c, generator(seed), device=device)


def threads_for(recipe: Recipe, device: torch.device) -> int | None:
    """One CPU thread for a narrow model, else as many as there are (None)."""
    return 1 if device.type == "cpu" and recipe.model.width < NARROW else None


def list_before(run: Run, setting: Setting, device: torch.device) -> Made:
    """The lists of the policy as pre-training left it."""
    setting = with_lifelong(setting, run, device)
    ids, popularity_ = load_semantic_ids(run)
    model = trained_model(run, setting, ids, stage="pretrain")
    recommender = Recommender(setting, ids, popularity_, model, device)
    return {BEFORE: recommender.lists(cases_of(setting), LISTED).items}


def list_ends(setting: Setting) -> Made:
    """The world's two ends, a random list and the truth's; nothing for real data."""
    world = world_of(setting.dataset)
    if world is None:
        return {}
    cases = cases_of(setting)
    return {
        "random": world.random(cases.user, RANKS, generator(setting.recipe.seed)),
        "oracle": world.oracle(cases.user, RANKS, cases.end),
    }


def keep_made(run: Run, name: str, made: Made) -> None:
    """Lists that the companion has made before evaluation asks for them."""
    tensors = {model: torch.from_numpy(np.ascontiguousarray(v)) for model, v in made.items()}
    save_tensors(run.path / MADE / f"{name}.safetensors", tensors)


def made_before(run: Run, name: str) -> Made | None:
    """What `keep_made` left."""
    path = run.path / MADE / f"{name}.safetensors"
    if not path.is_file():
        return None
    return {model: lists.numpy() for model, lists in load_tensors(path).items()}
