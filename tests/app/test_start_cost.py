"""What a training will take stands in the form, follows it, and never breaks it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import start_cost
from streamlit.testing.v1 import AppTest

from onerec import cost
from onerec.explain import cost as explain
from onerec.recipes import recipe
from onerec.world import WorldConfig

MAIN = Path(__file__).resolve().parents[2] / "app" / "main.py"


@pytest.fixture
def form(use_home: Callable[..., Path], own_home: Path) -> AppTest:
    use_home(own_home)
    app = AppTest.from_file(str(MAIN), default_timeout=30).run()
    return app.switch_page("app_pages/train.py").run()


def set_to(form: AppTest, settings: str) -> dict[str, str]:
    """The numbers of the form once the settings are these."""
    form.text_area(key="train_settings").set_value(settings).run()
    assert not form.exception
    return {metric.label: metric.value for metric in form.metric}


def expected(own_home: Path, changes: dict[str, str]) -> list[explain.Number]:
    known = explain.facts(own_home / "datasets" / "toy")
    return explain.numbers(recipe("tiny", changes), known, 0, "cpu")[1]


def test_the_numbers_follow_the_settings(form: AppTest, own_home: Path) -> None:
    for changes in ({}, {"train.batch_size": "16", "model.width": "40"}):
        shown = set_to(form, "\n".join(f"{name}={value}" for name, value in changes.items()))
        said = " ".join(caption.value for caption in form.caption)
        for number in expected(own_home, changes):
            assert shown[number.name] == number.value
            assert number.says in said


def test_the_arithmetic_is_shown_when_it_is_asked_for(form: AppTest, own_home: Path) -> None:
    form.session_state["train_cost_more"] = True
    form.run()
    text = " ".join(block.value for block in form.markdown)
    assert all(number.how in text for number in expected(own_home, {}))


def test_the_built_in_world_is_estimated_before_it_exists(form: AppTest) -> None:
    form.selectbox(key="train_dataset").set_value("world").run()
    assert not form.exception
    assert "Parameters" in [metric.label for metric in form.metric]
    assert WorldConfig().n_items == start_cost.WORLD_ITEMS


@pytest.mark.parametrize(
    "settings",
    ["model.heads=0", "model.width=nan", "train.batch_size=-1", "train.steps=" + "9" * 5_000,
     "model.decoder_layers=99999999999", "history.item_input=", "model.width=33", "=", "train=1"],
)  # fmt: skip
def test_settings_that_cannot_be_are_one_line(form: AppTest, settings: str) -> None:
    assert "Parameters" not in set_to(form, settings)
    assert len(form.error) == 1


def test_more_memory_than_there_is_warns_and_says_what_lowers_it(
    form: AppTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "memory_of", lambda device: 2**30)
    set_to(form, "")
    assert not form.warning
    set_to(form, "train.batch_size=500000")
    assert len(form.warning) == 1
    assert "lower train.batch_size from 500,000 to" in form.warning[0].value
    assert "Start training" in [button.label for button in form.button], "it is a warning"


def test_more_than_a_day_warns_and_says_what_lowers_it(form: AppTest) -> None:
    set_to(form, "train.steps=20000")
    assert not form.warning
    set_to(form, "train.steps=90000000")
    assert len(form.warning) == 1
    said = form.warning[0].value
    assert "take up to" not in said
    assert "days here" in said
    assert "lower train.steps (now 90,000,000) or train.batch_size (now 192)" in said
    form.selectbox(key="train_dataset").set_value("world").run()
    assert "take up to" in form.warning[0].value, "contexts are taken as full"


def test_a_machine_whose_memory_is_not_known_warns_of_nothing(
    form: AppTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "memory_of", lambda device: None)
    set_to(form, "train.batch_size=500000000")
    assert all("This training takes" not in warning.value for warning in form.warning)
