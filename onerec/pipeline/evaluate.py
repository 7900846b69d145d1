"""Stage 3: OneRec and its baselines on the same cases, through one path.

Every baseline is tuned on valid with the same number of trials; the part that is reported
(`evaluate.part`) is looked at once. On the built-in world a list at random and one that knows the
truth mark the two ends of what any model could reach.
"""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from onerec.assembly import Setting, load_semantic_ids, trained_model
from onerec.baselines import item_knn, popularity, sasrec
from onerec.baselines.ranking import Baseline
from onerec.checkpoint import save_tensors
from onerec.common import generator
from onerec.data.sources.world import world_of
from onerec.data.split import Cases
from onerec.errors import DataError
from onerec.evaluate import RANKS, Tuned, tune
from onerec.evaluate import evaluate as measure
from onerec.pipeline.pretrain import sample_cases
from onerec.pipeline.session import Session
from onerec.recommend import Recommender

STAGE = "evaluate"
LISTED = 20  # ranks that are kept for recommendations
_LEGALITY_USERS = 1_000

Lists = dict[str, NDArray[np.int64]]


@dataclass(frozen=True)
class Trained:
    """A tuned baseline and what its tuning cost."""

    tuned: Tuned[Any]
    seconds: float

    @property
    def model(self) -> Baseline:
        """The baseline with the settings that were best on valid."""
        return self.tuned.model


def evaluate(session: Session) -> None:
    """Write baselines/ and, last, evaluate.json."""
    setting, config = session.setting, session.setting.recipe.evaluate
    cases = cases_of(setting)
    total = len(setting.recipe.baselines.names) + 2
    begun = time.perf_counter()
    session.begin(STAGE, total, f"{len(cases):,} users, {config.part} part")
    ids, popularity_ = load_semantic_ids(session.run)
    model = trained_model(session.run, setting, ids)
    recommender = Recommender(setting, ids, popularity_, model, session.device)
    onerec = recommender.lists(cases, LISTED)
    lists: Lists = {"onerec": onerec.items}
    trained_in = float((session.run.done("pretrain") or {}).get("seconds", 0.0))
    seconds = {"onerec": trained_in + time.perf_counter() - begun}
    free = recommender.lists(sample_cases(cases, _LEGALITY_USERS), RANKS, constrained=False)
    session.advance(STAGE, 1, total, message="baselines")
    for number, name in enumerate(setting.recipe.baselines.names, start=2):
        trained = train_baseline(session, name)
        lists[name] = trained.model.recommend(setting.split, cases, LISTED, config.filter_seen)
        seconds[name] = trained.seconds
        session.advance(STAGE, number, total, message=name)
    lists |= _ends(setting, cases)
    _save_lists(session, lists)
    measured = measure(lists, cases, setting.dataset.n_items, seed=setting.recipe.seed)
    for name, spent in seconds.items():
        measured["models"][name]["seconds"] = round(spent, 2)
    result = {
        "split": setting.split.rule,
        "part": config.part,
        "positive": setting.split.log.positive_rule,
        "seen_filtered": config.filter_seen,
        "users": len(cases),
        "targets": len(cases.target_items),
        "seconds": round(time.perf_counter() - begun, 2),
        "legality": float(free.legal.mean()),
        **measured,
    }
    session.writer.write_json("evaluate.json", result)
    session.writer.mark_done(STAGE)
    session.advance(STAGE, total, total, message="done")


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


def train_baseline(session: Session, name: str) -> Trained:
    """Tune a baseline on valid and record its trials in baselines/<name>.json."""
    setting, config = session.setting, session.setting.recipe.evaluate
    begun = time.perf_counter()
    grid, fit = _baseline(session, name)
    trials = min(setting.recipe.baselines.trials, len(grid))
    tuned: Tuned[Any] = tune(
        grid, fit, setting.split, trials=trials, exclude_seen=config.filter_seen
    )
    seconds = time.perf_counter() - begun
    session.writer.write_json(
        f"baselines/{name}.json",
        {"name": name, "config": vars(tuned.config), "trials": tuned.trials, "seconds": seconds},
    )
    return Trained(tuned, seconds)


def _baseline(session: Session, name: str) -> tuple[tuple[Any, ...], Callable[[Any], Baseline]]:
    """The grid of a baseline and how one of its settings is fitted."""
    setting = session.setting
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
    return grid, lambda c: sasrec.fit(setting.split, c, generator(seed), device=session.device)


def _ends(setting: Setting, cases: Cases) -> Lists:
    """The world's two ends, a random list and the truth's; nothing for real data."""
    world = world_of(setting.dataset)
    if world is None:
        return {}
    users = cases.user
    return {
        "random": world.random(users, RANKS, generator(setting.recipe.seed)),
        "oracle": world.oracle(users, RANKS, cases.end),
    }


def _save_lists(session: Session, lists: Lists) -> None:
    tensors = {name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in lists.items()}
    save_tensors(session.run.path / "baselines" / "lists.safetensors", tensors)
