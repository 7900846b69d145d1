"""A run's model in the server's memory: what pages ask of it about any history.

A model is loaded when somebody asks for it, at most `KEPT` at a time, on the CPU: a GPU belongs to
training. Sessions share it, and it answers one after the other, since reading attention and experts
off a model is a matter of the whole model. Answers are remembered by run, stamp and arguments.

Torch is imported when a model is loaded, never by opening a page.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import edits
import pandas as pd
import streamlit as st

from onerec.errors import OneRecError, RunError
from onerec.runs import Run

KEPT = 2  # models in memory; two can be compared
TAGS = 200  # the most used, which are offered to be taken off
BEFORE = "before alignment"
_LOADED: set[tuple[str, str, str | None]] = set()  # of this server, those let go of included


@dataclass(frozen=True)
class Who:
    """Whose list by which weights: a run's (as they were before alignment with stage pretrain),
    for a user's history before row `end` of the log (None: as the run's split cuts it), edited."""

    path: str
    stamp: str
    user: int
    edit: str = ""
    stage: str | None = None
    end: int | None = None

    @classmethod
    def of(cls, run: Run, user: int, edit: str = "", stage: str | None = None) -> Who:
        return cls(str(run.path), run.stamp(), user, edit, stage)

    def plain(self) -> Who:
        """The same without edits."""
        return replace(self, edit="")


@dataclass
class Live:
    """A loaded model; whoever asks it holds the lock."""

    recommender: Any
    ends: dict[int, int]  # user -> row of the log before which his history ends
    lock: threading.Lock = field(default_factory=threading.Lock)

    def end(self, who: Who) -> int:
        """The row of the log before which his history ends."""
        offsets = self.recommender.setting.split.log.offsets
        return self.ends.get(who.user, int(offsets[who.user + 1])) if who.end is None else who.end

    def history(self, who: Who) -> Any:
        """What the model is given: the history of the evaluated part, edited."""
        prompts = self.recommender.prompts
        log = self.recommender.setting.split.log
        whole = prompts.before(who.user, self.end(who))
        edited = edits.apply(who.edit, len(whole), log.n_items)
        return whole.plus(edited.added, prompts.typical).take(edited.order)


def weights(run: Run) -> int:
    """Bytes of the weights that would be loaded, 0 where there are none."""
    stages = ("align", "pretrain")
    names = [(stage, (run.done(stage) or {}).get("checkpoint")) for stage in stages]
    paths = [run.path / stage / str(name) for stage, name in names if name]
    return paths[0].stat().st_size if paths and paths[0].is_file() else 0


def lists(
    who: Who, k: int, beam: int, groups: int = 1, penalty: float = 1.0,
    without: tuple[str, ...] = (), per_author: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """rank, item_id, item, score, lp_1 .. lp_L, and `attrs["notes"]`.

    `without` are tags that are off, `per_author` as in `onerec.business_rules.Rules`.
    """
    settings = {"k": k, "beam": beam, "groups": groups, "penalty": penalty}

    def search(recommender: Any, history: Any) -> pd.DataFrame:
        from onerec.business_rules import Rules

        rules = Rules(without={"tags": without} if without else {}, per_author=per_author)
        return recommender.recommend_for(history, rules=rules, **settings)

    return _ask("lists", who, settings | {"without": without, "per_author": per_author}, search)


def ruled(who: Who) -> tuple[tuple[str, ...], bool]:
    """What rules can act on: the most used tags, in alphabetical order, and are there authors."""

    def read(recommender: Any, history: Any) -> tuple[tuple[str, ...], bool]:
        items = recommender.items
        if "tags" not in items:
            return (), "author_id" in items
        usual = items["tags"].explode().dropna().astype(str).value_counts().index[:TAGS]
        return tuple(sorted(usual)), "author_id" in items

    return _ask("ruled", who.plain(), {}, read)


def draws(who: Who, n: int, temperature: float, power: float, seed: int) -> pd.DataFrame:
    """item, drawn (times), share, score: what `n` draws gave, the most frequent first."""
    sharp = {"power": power} if power > 1 else {"temperature": temperature}

    def count(recommender: Any, history: Any) -> pd.DataFrame:
        frame = recommender.sample_for(history, n, seed=seed, **sharp)
        found = frame.groupby("item").agg(drawn=("draw", "size"), score=("score", "first"))
        found = found.sort_values("drawn", ascending=False, kind="stable").reset_index()
        return found.assign(share=found["drawn"] / n)

    return _ask("draws", who, {"n": n, "seed": seed, **sharp}, count)


def explanation(who: Who, item: int, beam: int) -> Any:
    """An `onerec.explanation.Explanation`."""

    def explain(recommender: Any, history: Any) -> Any:
        from onerec.explanation import explain

        return explain(recommender, history, item, beam=beam)

    return _ask("explanation", who, {"item": item, "beam": beam}, explain)


def rewards(who: Who, items: tuple[int, ...]) -> pd.DataFrame:
    """part (pscore, a behaviour), and a column for each item: what the run's reward model says of
    it for the history as the log has it."""

    def score(recommender: Any, history: Any) -> pd.DataFrame:
        import numpy as np
        import torch

        from onerec.rewards import RewardModel

        reward = RewardModel.load(Run(Path(who.path)), recommender.setting, recommender.device)
        found = reward.score(np.array([who.user]), np.array([end(who)]), torch.tensor([items]))
        parts = sorted(found, key=lambda name: name != "pscore")  # the fused score first
        rows = [(name, *found[name][0].tolist()) for name in parts]
        return pd.DataFrame(rows, columns=["part", *items])

    return _ask("rewards", who.plain(), {"items": items}, score)


def tree(who: Who, k: int, beam: int) -> pd.DataFrame:
    """The search as a table; see `onerec.explanation.tree`."""

    def traced(recommender: Any, history: Any) -> pd.DataFrame:
        from onerec.explanation import tree

        return tree(recommender, history, k=k, beam=beam)

    return _ask("tree", who, {"k": k, "beam": beam}, traced)


def events(who: Who) -> pd.DataFrame:
    """item, number (which event it was before editing, -1 for one put in) of a history."""
    return _ask("events", who, {}, lambda r, h: pd.DataFrame({"item": h.item, "number": h.number}))


def usual_beam(who: Who) -> int:
    """The beam of the run's recipe."""
    beam: int = _ask("beam", who.plain(), {}, lambda r, h: r.setting.recipe.evaluate.beam)
    return beam


def hides_watched(who: Who) -> bool:
    """Whether a search leaves out what a person has watched, by the run's recipe."""
    hides: bool = _ask("hides", who.plain(), {}, lambda r, h: r.setting.recipe.evaluate.filter_seen)
    return hides


def end(who: Who) -> int:
    """The row of the log before which the history ends; the same in all runs on a dataset."""
    return _live(who.path, who.stamp, who.stage).end(who)


def loaded(who: Who) -> bool:
    """Whether somebody has had it loaded already."""
    return (who.path, who.stamp, who.stage) in _LOADED


def n_items(who: Who) -> int:
    """How many items the loaded model's dataset has."""
    return int(_live(who.path, who.stamp, who.stage).recommender.setting.split.log.n_items)


def load(who: Who) -> None:
    """Make sure that the model is in memory.

    Raises:
        RunError: the run is not trained, damaged, or its dataset has changed.
    """
    _live(who.path, who.stamp, who.stage)
    _LOADED.add((who.path, who.stamp, who.stage))


def _ask(name: str, who: Who, settings: dict[str, Any], answer: Callable[[Any, Any], Any]) -> Any:
    """`answer(recommender, history)`, remembered."""

    def asked() -> Any:
        live = _live(who.path, who.stamp, who.stage)
        with live.lock:
            return answer(live.recommender, live.history(who))

    return _remembered(name, who, tuple(sorted(settings.items())), asked)


@st.cache_data(max_entries=128, show_spinner=False)
def _remembered(name: str, who: Who, settings: tuple[Any, ...], _asked: Callable[[], Any]) -> Any:
    return _asked()


@st.cache_resource(max_entries=KEPT, show_spinner=False)
def _live(path: str, stamp: str, stage: str | None) -> Live:
    run = Run(Path(path))
    try:
        return _loaded(run, stage)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, OneRecError):
            raise
        raise RunError(
            f"the model of run {run.name!r} cannot be loaded ({type(error).__name__}: {error}); "
            f"train it again with `onerec pretrain --run {run.name}`"
        ) from error


def _loaded(run: Run, stage: str | None) -> Live:
    from onerec.assembly import load_semantic_ids, setting_of, trained_model
    from onerec.common import pick_device
    from onerec.lifelong import with_lifelong
    from onerec.recommend import Recommender

    device = pick_device("cpu")
    setting = setting_of(run)
    ids, popularity = load_semantic_ids(run)
    model = trained_model(run, setting, ids, stage)
    setting = with_lifelong(setting, run, device)
    cases = getattr(setting.split, setting.recipe.evaluate.part)
    ends = dict(zip(cases.user.tolist(), cases.end.tolist(), strict=True))
    return Live(Recommender(setting, ids, popularity, model, device, run=run), ends)
