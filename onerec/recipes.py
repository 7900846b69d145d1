"""Recipes: functions that return the whole configuration of a run.

Variants derive from one another with `dataclasses.replace`. A setting is named by its path
(`train.steps`), a recipe by its function's name; a wrong name is answered with the nearest right
one. `estimate` says what a run will cost before it starts.
"""

import dataclasses
import typing
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from onerec.alignment_settings import check_groups
from onerec.errors import RecipeError
from onerec.model.sizes import ITEM_QFORMER_HEADS as HEADS
from onerec.model.sizes import ExpertBlocks, expert_blocks
from onerec.paper_recipes import PAPER_RECIPES
from onerec.sections import (
    AlignConfig,
    BaselineConfig,
    ContentConfig,
    EvaluateConfig,
    HistoryConfig,
    ModelConfig,
    Recipe,
    RewardConfig,
    TokenizerConfig,
    TrainConfig,
)
from onerec.settings import build, listed, nearest, parse_overrides, set_by_path


def tiny() -> Recipe:
    """A minute and a half on two CPU cores: the demo, the notebooks and the tests.

    Lists leave out what a user has seen, for every model alike: on a short-video platform few
    people watch a video again (on the built-in world 5% of the targets were seen before).
    """
    return Recipe(
        name="tiny",
        content=ContentConfig(behaviour_weight=0.6),
        tokenizer=TokenizerConfig(codebook_size=128),
        history=HistoryConfig(positive_length=16, item_input="codes", content=True),
        model=ModelConfig(width=80, encoder_layers=1, decoder_layers=1, heads=2, dropout=0.0),
        train=TrainConfig(
            steps=400,
            batch_size=192,
            targets=4,
            learning_rate=4e-3,
            warmup_steps=40,
            evaluate_every=200,
            checkpoint_every=100,
            keep="best",
        ),
        reward=RewardConfig(steps=250, batch_size=384, width=32, rounds=3, valid_rows=10_000),
        align=AlignConfig(steps=30, users=12, group=48, weight=1.0, tilt=2.0),
        evaluate=EvaluateConfig(filter_seen=True, beam=40),
        baselines=BaselineConfig(sasrec_trials=2, sasrec_steps=650, sasrec_batch_size=64),
    )


def small() -> Recipe:
    """Minutes on two CPU cores, for a dataset of your own."""
    return Recipe(
        name="small",
        content=ContentConfig(behaviour_dim=128, behaviour_weight=0.7),
        tokenizer=TokenizerConfig(codebook_size=256),
        history=HistoryConfig(
            positive_length=32, item_input="codes", content=True, event_dropout=0.1
        ),
        model=ModelConfig(width=96, encoder_layers=2, decoder_layers=2),
        train=TrainConfig(
            steps=800, batch_size=128, learning_rate=3e-3, evaluate_every=200, keep="best"
        ),
        baselines=BaselineConfig(sasrec_trials=2),
    )


def beauty() -> Recipe:
    """Amazon 2014 Beauty, leave-one-out, for a GPU: the literature's comparison.

    Every row is a positive, so the positive pathway would repeat the short one and is left out, and
    a reward model would have nothing to tell apart.
    """
    base = small()
    return replace(
        base,
        name="beauty",
        content=ContentConfig(text="sentence", behaviour_dim=512, behaviour_weight=0.7),
        tokenizer=TokenizerConfig(codebook_size=512, policy="extra_level"),
        history=HistoryConfig(
            positive_length=0, item_input="codes", content=True, event_dropout=0.4
        ),
        model=replace(base.model, width=256, experts=0, dropout=0.3, label_smoothing=0.1),
        train=TrainConfig(
            steps=5_000,
            batch_size=2_048,
            targets=1,
            learning_rate=1.5e-3,
            warmup_steps=300,
            order="length",
            evaluate_every=1_000,
            checkpoint_every=1_000,
            keep="best",
        ),
        align=AlignConfig(steps=0),
        reward=RewardConfig(steps=0),
        evaluate=replace(
            base.evaluate,
            split="leave_one_out",
            valid_users=4_000,
        ),
        baselines=BaselineConfig(sasrec_steps=4_000, sasrec_width=128, sasrec_batch_size=256),
    )


def kuairand() -> Recipe:
    """KuaiRand's short-video logs, split as given, for a GPU or a patient CPU."""
    base = small()
    return replace(
        base,
        name="kuairand",
        history=replace(base.history, positive_length=128),
        model=replace(base.model, width=192),
        train=replace(base.train, steps=6_000, batch_size=512, learning_rate=2e-3),
    )


__all__ = [
    "BY_DATA",
    "RECIPES",
    "Recipe",
    "from_dict",
    "parse_overrides",
    "recipe",
    "setting_names",
    "to_dict",
]

BY_DATA = {function.__name__: function for function in (tiny, small, beauty, kuairand)}
RECIPES: dict[str, Callable[[], Recipe]] = BY_DATA | {
    function.__name__: function for function in PAPER_RECIPES
}


def recipe(name: str, overrides: Mapping[str, str] | None = None) -> Recipe:
    """The recipe called `name` with `overrides` (path -> text) applied.

    Raises:
        RecipeError: no such recipe or setting (the nearest is named), or a value that cannot be.
    """
    if name not in RECIPES:
        raise RecipeError(
            f"no recipe {name!r}{nearest(name, RECIPES)}; there are {listed(RECIPES)}"
        )
    result = RECIPES[name]()
    if "tokenizer.codebook_size" in (overrides or {}):
        result = replace(result, tokenizer=replace(result.tokenizer, exact_size=True))
    for path, text in (overrides or {}).items():
        result = set_by_path(result, path, text, setting_names())
    return _check(result)


def setting_names(config: Any | None = None, prefix: str = "") -> list[str]:
    """Every setting's path, in order."""
    names = []
    for item in dataclasses.fields(config if config is not None else Recipe):
        value = getattr(config if config is not None else tiny(), item.name)
        if dataclasses.is_dataclass(value):
            names += setting_names(value, f"{prefix}{item.name}.")
        elif item.name != "name":
            names.append(prefix + item.name)
    return names


def to_dict(config: Recipe) -> dict[str, Any]:
    """Nested plain dictionaries, as recipe.json holds them."""
    return dataclasses.asdict(config)


def from_dict(values: Mapping[str, Any]) -> Recipe:
    """The inverse of `to_dict`; a setting that is not there keeps its default.

    Raises:
        RecipeError: a setting that this version does not know, or a number that is not finite.
    """
    return typing.cast(Recipe, build(Recipe, values))


# Settings with a closed set of values, the smallest of the numeric ones, and the largest of what
# is built one by one.
_CHOICES = {
    "content.text": ("hashed", "sentence", "minicpm", "none"),
    "tokenizer.init": ("k-means++", "near-mean", "random"),
    "tokenizer.kind": ("rq_kmeans", "refined", "balanced", "rq_vae"),
    "tokenizer.policy": ("share", "extra_level", "nearest_free", "none"),
    "history.item_input": ("codes", "item", "both"),
    "history.lifelong_by": ("clusters", "recent", "random"),
    "routing.router": ("loss_free", "softmax", "competition"),
    "model.kind": ("encoder_decoder", "lazy"),
    "model.expert_blocks": ("decoder", "alternate", "late"),
    "train.residual": ("float32", "bfloat16"),
    "train.keep": ("last", "best"),
    "train.order": ("auto", "shuffled", "length", "time"),
    "align.search": ("sample", "constrained", "beam", "log"),
    "align.objective": ("ecpo", "grpo", "grpo_kl", "ppo_clip", "gbpo", "reinforce", "dpo"),
    "evaluate.split": ("auto", "leave_one_out", "temporal", "given"),
    "evaluate.part": ("valid", "test"),
}
_AT_LEAST = {
    "tokenizer.levels": 1,
    "tokenizer.codebook_size": 2,
    "tokenizer.iterations": 1,
    "tokenizer.cap": 1,
    "tokenizer.steps": 1,
    "content.text_dim": 2,
    "content.behaviour_dim": 2,
    "qformer.steps": 0,
    "qformer.width": 0,
    "qformer.contrastive_weight": 0,
    "qformer.caption_weight": 0,
    "model.width": 8,
    "model.encoder_layers": 1,
    "model.decoder_layers": 1,
    "model.heads": 1,
    "history.short_length": 0,
    "history.positive_length": 0,
    "history.lifelong_length": 0,
    "history.lifelong_limit": 8,  # below, nothing is split
    "history.lifelong_queries": 1,
    "model.experts": 0,
    "model.active_experts": 1,
    "model.balance_rate": 0,
    "train.weight_decay": 0,
    "routing.shared_experts": 0,
    "routing.balance_weight": 0,
    "routing.z_weight": 0,
    "routing.distillation_weight": 0,
    "routing.diversity_weight": 0,
    "routing.competition_layers": 1,
    "context.width": 0,
    "context.sets": 1,
    "context.groups": 0,
    "train.steps": 1,
    "train.batch_size": 1,
    "train.targets": 1,
    "train.warmup_steps": 1,
    "train.evaluate_every": 1,
    "train.checkpoint_every": 1,
    "reward.steps": 0,
    "reward.batch_size": 1,
    "reward.width": 8,
    "reward.rounds": 0,
    "reward.valid_rows": 1,
    "align.steps": 0,
    "align.users": 1,
    "align.group": 2,
    "align.weight": 0,
    "align.tilt": 0,
    "align.format_items": 0,
    "align.lag": 0,
    "evaluate.beam": 1,
    "evaluate.valid_users": 1,
    "evaluate.recommend_users": 1,
    "baselines.trials": 1,
    "baselines.sasrec_trials": 1,
    "baselines.sasrec_steps": 1,
    "baselines.sasrec_width": 8,
    "baselines.sasrec_batch_size": 1,
    "seed": 0,
    **{f"content.{part}_weight": 0 for part in ("text", "tokens", "behaviour")},
}
_AT_MOST = {"tokenizer.levels": 100, "model.encoder_layers": 1_000, "model.decoder_layers": 1_000}
BASELINES = ("popularity", "item_knn", "sasrec")


def _check(config: Recipe) -> Recipe:
    def value(path: str) -> Any:
        result: Any = config
        for name in path.split("."):
            result = getattr(result, name)
        return result

    for path, choices in _CHOICES.items():
        if value(path) not in choices:
            raise RecipeError(
                f"{path}={value(path)!r}{nearest(value(path), choices)}: needs {listed(choices)}"
            )
    for path, least in _AT_LEAST.items():
        if value(path) < least:
            raise RecipeError(f"{path}={value(path)}: needs at least {least}")
    for path, most in _AT_MOST.items():
        if value(path) > most:
            raise RecipeError(f"{path}={value(path)}: needs at most {most:,}")
    for path in (
        "model.dropout",
        "model.label_smoothing",
        "history.event_dropout",
        "reward.dropout",
    ):
        if not 0 <= value(path) < 1:
            raise RecipeError(f"{path}={value(path)}: needs a number from 0 to below 1")
    for path in ("train.learning_rate", "reward.learning_rate", "align.learning_rate"):
        if not value(path) > 0:
            raise RecipeError(f"{path}={value(path)}: needs more than 0")
    for path in (
        "industrial.alpha",
        "industrial.limit",
        "routing.competition_rate",
        "routing.competition_warmup",
    ):
        if not 0 <= value(path) <= 1:
            raise RecipeError(f"{path}={value(path)}: needs a number from 0 to 1")
    check_groups(config.align, config.sampling)
    _check_together(config)
    return config


def _check_together(config: Recipe) -> None:
    """Settings that must fit one another."""
    if config.align.users > config.train.batch_size:
        raise RecipeError(
            f"align.users={config.align.users} is above train.batch_size="
            f"{config.train.batch_size}: groups are drawn for contexts of the batch"
        )
    model, qformer, tokenizer = config.model, config.qformer, config.tokenizer
    if tokenizer.cap != 1 and tokenizer.kind != "balanced":
        raise RecipeError(f"tokenizer.cap={tokenizer.cap:g} is for tokenizer.kind=balanced")
    if qformer.steps and qformer.contrastive_weight + qformer.caption_weight == 0:
        raise RecipeError(
            f"qformer.steps={qformer.steps} needs qformer.contrastive_weight or "
            "qformer.caption_weight above 0: with neither there is nothing to learn"
        )
    if qformer.width % HEADS:
        raise RecipeError(f"qformer.width={qformer.width}: needs a multiple of {HEADS}")
    if model.width % model.heads:
        raise RecipeError(f"model.width={model.width} is no multiple of model.heads={model.heads}")
    if model.experts and model.active_experts > model.experts:
        raise RecipeError(
            f"model.active_experts={model.active_experts} is above model.experts={model.experts}"
        )
    if not model.experts and (
        config.routing.router != "loss_free" or config.routing.shared_experts
    ):
        raise RecipeError(
            f"routing.router={config.routing.router!r} and routing.shared_experts="
            f"{config.routing.shared_experts} need experts: set model.experts above 0"
        )
    if model.kind == "lazy":
        _check_context(config)
    _check_experts(config)
    history = config.history
    if history.short_length + history.positive_length + history.lifelong_length == 0:
        raise RecipeError(
            "history.short_length and history.positive_length are both 0 and there is no "
            "history.lifelong_length: no input"
        )
    for name in config.baselines.names:
        if name not in BASELINES:
            raise RecipeError(
                f"baselines.names: no {name!r}{nearest(name, BASELINES)}; "
                f"there are {listed(BASELINES)}"
            )


def _check_context(config: Recipe) -> None:
    model, context = config.model, config.context
    if context.sets > model.decoder_layers:
        raise RecipeError(
            f"context.sets={context.sets} is above model.decoder_layers={model.decoder_layers}: "
            "a block reads one set"
        )
    if context.groups and model.heads % context.groups:
        raise RecipeError(
            f"model.heads={model.heads} is no multiple of context.groups={context.groups}"
        )
    if model.tied_output and context.width not in (0, model.width):
        raise RecipeError(
            f"model.tied_output=true needs context.width=0 (model.width), not {context.width}"
        )


def _check_experts(config: Recipe) -> None:
    model = config.model
    layers = 0 if model.kind == "lazy" else model.encoder_layers
    where = typing.cast(ExpertBlocks, model.expert_blocks)
    encoder, decoder = expert_blocks(where, layers, model.decoder_layers)
    if model.experts and not any(encoder + decoder):
        raise RecipeError(
            f"model.expert_blocks={where} leaves no block for model.experts={model.experts} with "
            f"model.decoder_layers={model.decoder_layers}; add blocks or set model.experts=0"
        )
