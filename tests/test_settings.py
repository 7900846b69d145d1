"""Settings in general: any nested dataclass, set by path and built from JSON."""

from dataclasses import dataclass, field

import pytest

from onerec.errors import RecipeError
from onerec.settings import build, listed, nearest, parse_overrides, set_by_path, with_settings
from onerec.world.config import WorldConfig


@dataclass(frozen=True)
class Oven:
    celsius: float = 180.0
    fan: bool = False


@dataclass(frozen=True)
class Kitchen:
    cooks: int = 1
    tools: tuple[str, ...] = ("pan",)
    oven: Oven = field(default_factory=Oven)


NAMES = ["cooks", "tools", "oven.celsius", "oven.fan"]


def test_a_value_is_read_in_the_type_of_its_setting() -> None:
    made = set_by_path(Kitchen(), "oven.fan", "yes", NAMES)
    made = set_by_path(made, "oven.celsius", "200", NAMES)
    made = set_by_path(made, "tools", "pan,pot", NAMES)
    assert made == Kitchen(1, ("pan", "pot"), Oven(200.0, True))


def test_what_was_written_as_json_is_built_again() -> None:
    assert build(Kitchen, {"cooks": 2, "tools": ["pot"], "oven": {"fan": True}}) == Kitchen(
        2, ("pot",), Oven(fan=True)
    )
    with pytest.raises(RecipeError, match=r"oven\.celcius.*did you mean 'celsius'"):
        build(Kitchen, {"oven": {"celcius": 1}})


def test_a_wrong_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"did you mean 'oven\.fan'"):
        set_by_path(Kitchen(), "oven.fam", "1", NAMES)
    assert nearest("fan", NAMES) == " (did you mean 'oven.fan'?)"
    assert nearest("zzz", NAMES) == ""
    assert listed(["a", "b"]) == "a, b"


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
def test_what_is_not_finite_is_no_value(number: str) -> None:
    with pytest.raises(RecipeError, match=rf"^oven\.celsius={number}: needs a finite number$"):
        set_by_path(Kitchen(), "oven.celsius", number, NAMES)
    with pytest.raises(RecipeError, match=rf"^oven\.celsius={number}: needs a finite number$"):
        build(Kitchen, {"oven": {"celsius": float(number)}})


def test_overrides_are_split_at_the_first_equals_sign() -> None:
    assert parse_overrides(["tools= a=b "]) == {"tools": "a=b"}
    with pytest.raises(RecipeError, match="has no '='"):
        parse_overrides(["cooks"])


def test_words_behind_a_flag_change_a_dataclass() -> None:
    world = with_settings(WorldConfig(), ["n_users=20", "mean_history=7.5"], "--set")
    assert world == WorldConfig(n_users=20, mean_history=7.5)
    with pytest.raises(RecipeError, match=r"--set: no 'n_user' \(did you mean 'n_users'\?\)"):
        with_settings(WorldConfig(), ["n_user=20"], "--set")
    with pytest.raises(RecipeError, match="n_users=1: a world needs at least 10"):
        with_settings(WorldConfig(), ["n_users=1"], "--set")
