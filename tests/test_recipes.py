"""Recipes: whole, checked, and helpful about a wrong name."""

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
        ("tiny", {"train.steps": "0"}, "needs at least 1"),
        ("tiny", {"align.users": "500"}, "align.users=500 is above train.batch_size=192"),
        ("tiny", {"train": "1"}, "is a group of settings"),
        ("tiny", {"seed.x": "1"}, "holds one value"),
        ("tiny", {"evaluate.filter_seen": "maybe"}, "needs true or false"),
        ("tiny", {"model.width": "30"}, "no multiple of model.heads"),
        ("tiny", {"model.dropout": "1"}, "from 0 to below 1"),
        ("tiny", {"model.experts": "1"}, "above model.experts=1"),
        ("tiny", {"train.keep": "bets"}, "did you mean 'best'"),
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


def test_an_override_needs_an_equals_sign() -> None:
    assert parse_overrides(["a.b=1=2"]) == {"a.b": "1=2"}
    with pytest.raises(RecipeError, match="has no '='"):
        parse_overrides(["train.steps"])


def test_the_number_of_knobs_is_a_budget() -> None:
    """A new setting has to earn its place; reward, align and industrial brought 21, the
    lifelong pathway 4."""
    assert len(setting_names()) <= 78


def test_a_recipe_of_another_version_is_refused_by_name() -> None:
    values = to_dict(recipe("tiny"))
    values["train"]["stepz"] = 1
    with pytest.raises(RecipeError, match=r"train\.stepz.*unknown"):
        from_dict(values)
