"""The arms of `bench.pathways`: what an encoder reads, changed in one thing at a time.

A pathway, the content vectors and what stands for an item are settings of the recipe. A feature of
events or users is left out by a vocabulary that says that it has no values, so that the model has
no table for it; what is cut out of the log is the same for all arms, compressed histories included.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

from onerec.assembly import Setting
from onerec.bench.trained import measure, measured_on, new_training, timed, train, watch
from onerec.data.batches import Features, case_batches
from onerec.model.onerec import Vocabulary
from onerec.pipeline.pretrain import Pretraining
from onerec.runs import Run
from onerec.sections import HistoryConfig

LIFELONG, ABLATION = "lifelong", "ablation"
CLUSTERS, FULL, MORE_CODES, TIMES = "clusters", "full", "codes_x4", 4
CASES = 256


def _said(**changes: Any) -> Callable[[HistoryConfig], HistoryConfig]:
    return lambda history: replace(history, **changes)


def _more_recent(history: HistoryConfig) -> HistoryConfig:
    short = history.short_length + history.lifelong_queries
    return replace(history, short_length=short, lifelong_length=0)


HISTORIES: dict[str, dict[str, Callable[[HistoryConfig], HistoryConfig]]] = {
    LIFELONG: {
        CLUSTERS: _said(lifelong_by="clusters"),
        "none": _said(lifelong_length=0),
        "more_recent": _more_recent,
        "random": _said(lifelong_by="random"),
        "recent": _said(lifelong_by="recent"),
    },
    ABLATION: {
        "no_short": _said(short_length=0),
        "no_positive": _said(positive_length=0),
        "no_lifelong": _said(lifelong_length=0),
        "no_content": _said(content=False),
        **{name: _said(item_input=name) for name in ("codes", "item", "both")},
    },
}
SIDE = {  # what is known of an event beside its item -> the field of the vocabulary
    "tag": "n_tags",
    "author": "n_authors",
    "duration": "n_duration",
    "play": "n_play",
    "label": "behaviours",
    "time": "n_time",
}
UNREAD = {  # arm -> the fields of the vocabulary that it empties
    "no_static": ("user_features",),
    **{f"no_{name}": (field,) for name, field in SIDE.items()},
    "no_side": tuple(SIDE.values()),
}
ARMS = {
    LIFELONG: tuple(HISTORIES[LIFELONG]),
    ABLATION: (
        FULL,
        *("no_static", "no_short", "no_positive", "no_lifelong"),
        *(f"no_{name}" for name in (*SIDE, "side", "content")),
        *("codes", "item", "both", MORE_CODES),
    ),
}
BASE = {LIFELONG: CLUSTERS, ABLATION: FULL}


@dataclass(frozen=True)
class FewerFeatures(Features):
    """Features of which a model does not read some: it has no tables for them."""

    unread: tuple[str, ...] = ()

    def vocabulary(self, sizes: tuple[int, ...], n_items: int) -> Vocabulary:
        found = super().vocabulary(sizes, n_items)
        nothing = {name: type(getattr(found, name))() for name in self.unread}  # 0 or ()
        return replace(found, **nothing)


def arm_setting(base: Setting, experiment: str, arm: str, seed: int, users: int = 0) -> Setting:
    """The setting of an arm; valid has at most `users` cases, 0 for all."""
    setting, change = measured_on(base, users), HISTORIES[experiment].get(arm)
    history = change(base.recipe.history) if change else base.recipe.history
    features = base.features
    if arm in UNREAD:
        known = {one.name: getattr(features, one.name) for one in fields(Features)}
        features = FewerFeatures(**known, unread=UNREAD[arm])
    changed = replace(setting.recipe, seed=seed, history=history)
    return replace(setting, recipe=changed, features=features)


def refusal(base: Setting, arm: str, codes: int) -> str:
    """Why an arm of the ablation says nothing of this dataset and recipe; empty if it does.

    `codes` is N of the recipe's tokenizer.
    """
    dataset, n = base.dataset.name, base.dataset.n_items
    changed = arm_setting(base, ABLATION, arm, base.recipe.seed)
    history = changed.recipe.history
    if arm in UNREAD:
        there = base.features.vocabulary((codes,), n)
        found = any(getattr(there, name) for name in UNREAD[arm])
        return "" if found else f"{dataset!r} has no such feature"
    if arm == MORE_CODES:
        return "" if TIMES * codes <= n else f"{TIMES} times {codes} codes for {n} items"
    if arm != FULL and history == base.recipe.history:
        return "the recipe is so already"
    if not history.short_length + history.positive_length + history.lifelong_length:
        return "no other pathway is left"
    return ""


def part(run: Run, base: Setting, experiment: str, arm: str, seed: int, users: int) -> Any:
    """Train one arm with one seed and measure it."""
    training = new_training(run, arm_setting(base, experiment, arm, seed, users))
    steps = training.config.steps
    taken = watch(train(training), steps, f"{arm}:{seed}")
    told = {
        "arm": arm,
        "seed": seed,
        "steps": steps,
        "positions": round(positions(training), 2),
        **timed(training, taken),
        **measure(training),
    }
    print(f"{arm}:{seed} loss {told['loss']} recall@10 {told['recall@10']}", flush=True)
    return told


def positions(training: Pretraining) -> float:
    """How many positions the lifelong pathway has for a case of valid, in the mean."""
    contexts, cases, total = training.contexts, training.setting.split.valid, 0
    if contexts.lifelong is None:
        return 0.0
    for _, user, end in case_batches(contexts, cases, CASES):
        found = contexts.batch(user, end).lifelong
        assert found is not None
        total += int((found.item > 0).sum())
    return total / len(cases)
