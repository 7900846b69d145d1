"""The start form: the command is shown, mistakes are one line, Start hands over to jobs."""

from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import jobs
import pytest
from streamlit.testing.v1 import AppTest

from onerec import cost

MAIN = Path(__file__).resolve().parents[2] / "app" / "main.py"


@pytest.fixture
def form(use_home: Callable[..., Path], own_home: Path) -> AppTest:
    use_home(own_home)
    app = AppTest.from_file(str(MAIN), default_timeout=30).run()
    return app.switch_page("app_pages/train.py").run()


def shown(app: AppTest) -> str:
    return " ".join(block.value for block in app.main.get("code"))


def test_the_command_follows_the_form(form: AppTest) -> None:
    form.text_input(key="train_name").set_value("mine")
    form.text_area(key="train_settings").set_value("train.steps=5").run()
    line = "onerec run --recipe tiny --dataset toy --run mine --set train.steps=5"
    assert line in shown(form)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ("train.stepz=5", "train.steps"),
        ("wrong=5", "the command `onerec recipes` lists them all"),
        ("train.steps", "no '='"),
        ("train.steps=x", "whole number"),
    ],
)
def test_a_wrong_setting_is_one_line_and_no_start(form: AppTest, settings: str, says: str) -> None:
    form.text_area(key="train_settings").set_value(settings).run()
    assert len(form.error) == 1
    assert says in form.error[0].value
    assert "Start training" not in [button.label for button in form.button]


def test_a_wrong_setting_is_told_without_words_of_the_command_line(form: AppTest) -> None:
    form.text_area(key="train_settings").set_value("x" * 3000).run()
    assert "--set" not in form.error[0].value
    assert "write as in train.steps=100" in form.error[0].value
    assert len(form.error[0].value) < 150


@pytest.mark.parametrize(
    ("settings", "gpu", "says"),
    [
        ("", False, "Time on the CPU"),
        ("", True, "Time on the GPU"),
        ("device=cpu", True, "Time on the CPU"),
    ],
)
def test_the_estimate_names_the_device_that_would_be_used(
    form: AppTest, monkeypatch: pytest.MonkeyPatch, settings: str, gpu: bool, says: str
) -> None:
    monkeypatch.setattr(cost, "cuda_is_here", lambda: gpu)
    form.text_area(key="train_settings").set_value(settings).run()
    assert says in [metric.label for metric in form.metric]


def test_a_device_that_is_not_here_is_said_before_the_start(
    form: AppTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "cuda_is_here", lambda: False)
    form.text_area(key="train_settings").set_value("device=cuda").run()
    assert "no CUDA device is visible here; use device=cpu" in form.error[0].value
    assert "Start training" not in [button.label for button in form.button]


def test_start_uses_what_was_typed_last_and_selects_the_run(form: AppTest, own_home: Path) -> None:
    def begin(home: Path, name: str, words: list[str]) -> None:
        (home / "runs" / name).mkdir()
        begun.append((home, name, words))

    begun: list[tuple[Path, str, list[str]]] = []
    with patch.object(jobs, "start", begin):
        form.text_input(key="train_name").set_value("fresh")
        form.button(key="train_go").click().run()
    assert not form.exception
    assert [(home, name) for home, name, _ in begun] == [(own_home, "fresh")]
    assert begun[0][2] == jobs.command("tiny", "toy", "fresh", {})
    assert form.sidebar.selectbox(key="run").value == "fresh"


def test_a_name_that_is_taken_is_refused(form: AppTest) -> None:
    form.text_input(key="train_name").set_value("toy_run")
    form.button(key="train_go").click().run()
    assert "run toy_run exists" in form.error[0].value


def test_the_name_of_a_start_that_was_refused_is_free_again(form: AppTest, own_home: Path) -> None:
    """The trainer refused before it wrote a recipe; all that is there is the app's own record."""
    (own_home / "runs" / "refused").mkdir()
    (own_home / "runs" / "refused" / "log.txt").write_text("no training target has a history\n")
    with patch.object(jobs, "start", lambda *_: None):
        form.text_input(key="train_name").set_value("refused")
        form.button(key="train_go").click().run()
    assert not form.error


def test_the_proposed_name_follows_the_recipe(form: AppTest) -> None:
    assert form.text_input(key="train_name").value == "tiny-1"
    form.session_state["recipe"] = "small"
    form.run()
    assert form.text_input(key="train_name").value == "small-1"
