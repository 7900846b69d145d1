"""Stage 5: OneRec and its baselines on the same cases, through one path.

Every baseline is tuned on valid; SASRec, of which a trial costs as much as a training, with fewer
trials (`BaselineConfig`). The part that is reported (`evaluate.part`) is looked at once. On the
built-in world a list at random and one that knows the truth mark the two ends of what any model
could reach.

Where the policy was aligned, it stands beside itself before (`onerec_pretrained`); where there is a
reward model, `reward` holds what it thinks of each model's list, and on the built-in world `truth`
holds what the list would really bring.
"""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from onerec.alignment import score_lists
from onerec.assembly import load_semantic_ids, trained_model
from onerec.checkpoint import load_tensors, save_tensors
from onerec.common import spread
from onerec.data.sources.world import world_of
from onerec.data.split import Cases
from onerec.evaluate import RANKS
from onerec.evaluate import evaluate as measure
from onerec.lifelong import with_lifelong
from onerec.lists import Lists as GeneratedLists
from onerec.pipeline.pretrain import sample_cases
from onerec.pipeline.rivals import (
    BEFORE,
    ENDS,
    LISTED,
    MADE,
    Rival,
    cases_of,
    finished_rival,
    list_before,
    list_ends,
    made_before,
    train_rival,
)
from onerec.pipeline.session import Session
from onerec.recommend import Recommender
from onerec.rewards import FUSED, RewardModel
from onerec.runs import Run

STAGE = "evaluate"
_LEGALITY_USERS = 500
_GENERATED = Path("baselines") / "generated.safetensors"
WAIT_SECONDS = 0.1

Lists = dict[str, NDArray[np.int64]]


def evaluate(session: Session) -> None:
    """Write baselines/ and, last, evaluate.json."""
    setting, config = session.setting, session.setting.recipe.evaluate
    cases = cases_of(setting)
    total = len(setting.recipe.baselines.names) + 2
    begun = time.perf_counter()
    session.begin(STAGE, total, f"{len(cases):,} users, {config.part} part")
    ids, popularity_ = load_semantic_ids(session.run)
    model = trained_model(session.run, setting, ids)
    reading = with_lifelong(setting, session.run, session.device)
    recommender = Recommender(reading, ids, popularity_, model, session.device)
    own = time.perf_counter()
    onerec = recommender.lists(cases, LISTED, workers=session.workers)
    listed_in = time.perf_counter() - own
    some = sample_cases(cases, _LEGALITY_USERS)
    free = recommender.lists(some, RANKS, constrained=False, workers=session.workers)
    lists: Lists = {"onerec": onerec.items}
    trained_in = float((session.run.done("pretrain") or {}).get("seconds", 0.0))
    seconds = {"onerec": trained_in + listed_in}
    session.advance(STAGE, 1, total, message="baselines")
    for number, name in enumerate(setting.recipe.baselines.names, start=2):
        rival = _rival(session, name, number - 1, total)
        lists[name], seconds[name] = rival.lists, rival.seconds
        session.advance(STAGE, number, total, message=name)
    if (session.run.done("align") or {}).get("step"):
        lists |= _made(session, BEFORE, lambda: list_before(session.run, setting, session.device))
    ends = _made(session, ENDS, lambda: list_ends(setting))
    lists |= {name: ends[name] for name in ("random", "oracle") if name in ends}
    _save_lists(session, lists)
    save_generated(session.run, onerec)
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
        **_worth(session, lists, cases),
    }
    session.writer.write_json("evaluate.json", result)
    shutil.rmtree(session.run.path / MADE, ignore_errors=True)
    session.writer.mark_done(STAGE)
    session.advance(STAGE, total, total, message="done")


def _rival(session: Session, name: str, step: int, total: int) -> Rival:
    """A baseline that is there already, that the companion is about to finish, or trained here."""
    folder, companion = session.run.path / "baselines", session.companion
    while True:
        working = companion is not None and companion.works()
        rival = finished_rival(folder, name)
        if rival is not None:
            return rival
        if not working:
            return train_rival(folder, session.setting, name, session.device)
        session.advance(STAGE, step, total, message=f"waiting for {name}")
        time.sleep(WAIT_SECONDS)


def _made(session: Session, name: str, here: Callable[[], Lists]) -> Lists:
    """Lists that the companion has made or is about to make, or that are made here."""
    while True:
        working = session.companion is not None and session.companion.works()
        made = made_before(session.run, name)
        if made is not None:
            return made
        if not working:
            return here()
        time.sleep(WAIT_SECONDS)


def _worth(session: Session, lists: Lists, cases: Cases) -> dict[str, Any]:
    """Mean over the first ten of each list: each reward, and on a world what is true."""
    setting, result = session.setting, {}
    first = {name: np.ascontiguousarray(items[:, :RANKS]) for name, items in lists.items()}
    if (session.run.done("reward") or {}).get("checkpoint"):
        reward = RewardModel.load(session.run, setting, session.device)
        reward.model.eval()
        names = (FUSED, *reward.behaviours)

        def scored(items: NDArray[np.int64]) -> dict[str, float]:
            values = score_lists(reward, cases.user, cases.end, items, names)
            return {name: float(value.mean()) for name, value in values.items()}

        found = spread(scored, list(first.values()), session.workers)
        result["reward"] = dict(zip(first, found, strict=True))
    world = world_of(setting.dataset)
    if world is not None:
        result["truth"] = {
            model: {
                name: float(value.mean())
                for name, value in world.truth(cases.user, cases.end, items).items()
            }
            for model, items in first.items()
        }
    return result


def save_generated(run: Run, lists: GeneratedLists) -> None:
    """OneRec's own lists with their probabilities, which the next stage shows."""
    tensors = {name: torch.from_numpy(value) for name, value in vars(lists).items()}
    save_tensors(run.path / _GENERATED, tensors)


def generated(run: Run, users: int) -> GeneratedLists | None:
    """What `save_generated` left, where it is there and of as many users."""
    if not (run.path / _GENERATED).is_file():
        return None
    lists = GeneratedLists(**{n: t.numpy() for n, t in load_tensors(run.path / _GENERATED).items()})
    return lists if len(lists.items) == users else None


def _save_lists(session: Session, lists: Lists) -> None:
    tensors = {name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in lists.items()}
    save_tensors(session.run.path / "baselines" / "lists.safetensors", tensors)
