"""Recipes: whole, checked, and helpful about a wrong name."""

import json
import operator
from typing import Any

import pytest

from onerec.errors import RecipeError
from onerec.recipes import RECIPES, from_dict, parse_overrides, recipe, setting_names, to_dict


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_valid_and_survives_json(name: str) -> None:
    made = recipe(name)
    assert made.name == name
    assert from_dict(to_dict(made)) == made


def test_settings_are_set_by_path_and_keep_their_type() -> None:
    made = recipe(
        "tiny",
        {
            "train.steps": "7",
            "train.learning_rate": "1e-4",
            "evaluate.filter_seen": "true",
            "baselines.names": "popularity,item_knn",
            "seed": "3",
        },
    )
    assert made.train.steps == 7
    assert made.train.learning_rate == 1e-4
    assert made.evaluate.filter_seen is True
    assert made.baselines.names == ("popularity", "item_knn")
    assert made.seed == 3


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("tinny", {}, "did you mean 'tiny'"),
        ("tiny", {"train.step": "1"}, "did you mean 'train.steps'"),
        ("tiny", {"steps": "1"}, "did you mean 'train.steps'"),
        ("tiny", {"train.steps": "many"}, "needs a whole number"),
        (
            "tiny",
            {"train.steps": "1" + "0" * 400},
            r"000\.\.\.: needs a whole number up to",
        ),
        ("tiny", {"model.decoder_layers": "1001"}, "needs at most 1,000"),
        ("tiny", {"train.steps": "0"}, "needs at least 1"),
        ("tiny", {"align.users": "500"}, "align.users=500 is above train.batch_size=192"),
        ("tiny", {"train": "1"}, "is a group of settings"),
        ("tiny", {"seed.x": "1"}, "holds one value"),
        ("tiny", {"evaluate.filter_seen": "maybe"}, "needs true or false"),
        ("tiny", {"model.width": "31"}, "no multiple of model.heads"),
        ("tiny", {"model.dropout": "1"}, "from 0 to below 1"),
        ("tiny", {"model.experts": "1"}, "above model.experts=1"),
        ("tiny", {"model.kind": "lazzy"}, "did you mean 'lazy'"),
        ("tiny", {"model.expert_blocks": "all"}, "needs decoder, alternate, late"),
        ("tiny", {"train.residual": "float16"}, "needs float32, bfloat16"),
        ("tiny", {"model.expert_blocks": "late"}, "late leaves no block for model.experts=4"),
        ("tiny", {"model.kind": "lazy", "context.sets": "2"}, "above model.decoder_layers=1"),
        ("tiny", {"model.kind": "lazy", "context.groups": "3"}, "no multiple of context.groups=3"),
        (
            "tiny",
            {"model.kind": "lazy", "model.tied_output": "true", "context.width": "8"},
            "model.tied_output=true needs context.width=0",
        ),
        ("tiny", {"train.keep": "bets"}, "did you mean 'best'"),
        (
            "tiny",
            {"tokenizer.kind": "rqvae"},
            r"'rq_vae'\?\): needs rq_kmeans, refined, balanced, rq_vae",
        ),
        ("tiny", {"tokenizer.cap": "1.2"}, "tokenizer.cap=1.2 is for tokenizer.kind=balanced"),
        ("tiny", {"tokenizer.policy": "nearest"}, "did you mean 'nearest_free'"),
        ("tiny", {"tokenizer.steps": "0"}, "tokenizer.steps=0: needs at least 1"),
        ("tiny", {"content.text": "minicpmv"}, "did you mean 'minicpm'"),
        ("tiny", {"qformer.width": "20"}, "qformer.width=20: needs a multiple of 8"),
        ("tiny", {"qformer.steps": "-1"}, "qformer.steps=-1: needs at least 0"),
        ("tiny", {"model.balance_rate": "-1e-3"}, "model.balance_rate=-0.001: needs at least 0"),
        ("tiny", {"train.weight_decay": "-1"}, "train.weight_decay=-1.0: needs at least 0"),
        ("tiny", {"qformer.caption_weight": "-1"}, "qformer.caption_weight=-1.0: needs at least 0"),
        ("tiny", {"content.images": "maybe"}, "needs true or false"),
        (
            "tiny",
            {
                "qformer.steps": "10",
                "qformer.contrastive_weight": "0",
                "qformer.caption_weight": "0",
            },
            "with neither there is nothing to learn",
        ),
        ("tiny", {"routing.router": "sofmax"}, "did you mean 'softmax'"),
        ("tiny", {"router": "softmax"}, "did you mean 'routing.router'"),
        ("tiny", {"routing.shared_experts": "-1"}, "needs at least 0"),
        ("tiny", {"routing.balance_weight": "-0.1"}, "needs at least 0"),
        ("tiny", {"routing.competition_rate": "1.5"}, "needs a number from 0 to 1"),
        ("tiny", {"routing.competition_layers": "0"}, "needs at least 1"),
        ("beauty", {"routing.router": "softmax"}, "set model.experts above 0"),
        ("tiny", {"model.experts": "0", "routing.shared_experts": "1"}, "model.experts above 0"),
        ("tiny", {"baselines.names": "sasrek"}, "did you mean 'sasrec'"),
        ("tiny", {"history.short_length": "0", "history.positive_length": "0"}, "no input"),
        ("tiny", {"history.lifelong_length": "-1"}, "lifelong_length=-1: needs at least 0"),
        ("tiny", {"history.lifelong_limit": "7"}, "lifelong_limit=7: needs at least 8"),
        ("tiny", {"history.lifelong_queries": "0"}, "lifelong_queries=0: needs at least 1"),
        ("tiny", {"history.lifelong_by": "rcent"}, "did you mean 'recent'"),
    ],
)
def test_a_mistake_is_named_in_one_line(name: str, overrides: dict[str, str], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        recipe(name, overrides)
    assert "\n" not in str(caught.value)


def in_part(values: dict[str, Any], path: str) -> tuple[dict[str, Any], str]:
    """The group of settings that a path is in, and its name there."""
    *groups, name = path.split(".")
    for group in groups:
        values = values[group]
    return values, name


FLOATS = [
    path for path in setting_names() if isinstance(operator.attrgetter(path)(recipe("tiny")), float)
]


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999"])
@pytest.mark.parametrize("path", FLOATS)
def test_a_number_that_is_not_finite_is_refused(path: str, text: str) -> None:
    """A comparison with NaN is never true: bounds alone let it through to a traceback."""
    message = rf"^{path}={float(text)}: needs a finite number$"
    with pytest.raises(RecipeError, match=message):
        recipe("tiny", {path: text})
    values = json.loads(json.dumps(to_dict(recipe("tiny"))))
    group, name = in_part(values, path)
    group[name] = float(text)
    with pytest.raises(RecipeError, match=message):
        from_dict(values)


def test_the_floats_of_a_recipe_are_found() -> None:
    assert len(FLOATS) > 20
    assert {"align.weight", "align.tilt", "align.learning_rate", "model.dropout"} <= set(FLOATS)


def test_an_override_needs_an_equals_sign() -> None:
    assert parse_overrides(["a.b=1=2"]) == {"a.b": "1=2"}
    with pytest.raises(RecipeError, match="has no '='"):
        parse_overrides(["train.steps"])


def test_the_number_of_knobs_is_a_budget() -> None:
    """A new setting has to earn its place: reward and alignment 22, routing 9, lazy 6,
    the lifelong pathway 4, quantisers 2, content 7: whether images are read and which
    model reads, steps of the QFormer (0 is the mean), its width, which decides whether a CPU can
    train it, its two losses, and who tells captions; and `train.compile` 1: it changes how fast
    and, by rounding, what a run computes, so a run says whether it had it. Then
    `reward.stop_gradient` 1: whether the fused loss trains the towers is Pantheon's own question,
    and what a tower says, which is a reward by itself, depends on it. How groups are sampled 3:
    what the sampler really did is the old probability of every ratio. `train.residual` 1: a paper's
    size trains a twelfth faster with it, and digits are lost, so a run says which it had."""
    assert len(setting_names()) <= 109


def test_a_recipe_from_before_the_residual_stream_could_be_narrow_keeps_float32() -> None:
    values = to_dict(recipe("tiny"))
    del values["train"]["residual"]
    assert from_dict(values).train.residual == "float32"


def test_a_recipe_from_before_the_fusion_could_train_the_towers_stops_gradients() -> None:
    values = to_dict(recipe("tiny"))
    del values["reward"]["stop_gradient"]
    assert from_dict(values).reward.stop_gradient
    assert not recipe("tiny", {"reward.stop_gradient": "false"}).reward.stop_gradient


def test_a_recipe_from_before_there_was_a_choice_of_routers_has_the_default() -> None:
    values = to_dict(recipe("tiny"))
    del values["routing"]
    assert from_dict(values) == recipe("tiny")
    assert recipe("tiny").routing.router == "loss_free"
    assert recipe("tiny").routing.shared_experts == 0


def test_a_recipe_from_before_there_were_kinds_loads_unchanged() -> None:
    values = to_dict(recipe("tiny"))
    del values["context"], values["model"]["kind"], values["model"]["expert_blocks"]
    assert from_dict(values) == recipe("tiny")


def test_a_recipe_from_before_content_could_be_aligned_takes_the_mean() -> None:
    values = to_dict(recipe("tiny"))
    del values["content"]["model"], values["content"]["images"], values["qformer"]
    assert from_dict(values) == recipe("tiny")
    for name in RECIPES:
        made = recipe(name)
        assert (made.qformer.steps, made.content.images, made.content.model) == (0, False, "")


def test_a_recipe_of_another_version_is_refused_by_name() -> None:
    values = to_dict(recipe("tiny"))
    values["train"]["stepz"] = 1
    with pytest.raises(RecipeError, match=r"train\.stepz.*unknown"):
        from_dict(values)
