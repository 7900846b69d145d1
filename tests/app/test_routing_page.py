"""Routing: each view, its choices and links; dense runs, old ones, damaged files."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psutil
import pytest
from streamlit.testing.v1 import AppTest

from onerec.data.tables import read_parquet, write_parquet
from onerec.explain import routing
from onerec.runs import Run

APP = Path(__file__).resolve().parents[2] / "app"
Open = Callable[..., AppTest]


@pytest.fixture
def open_page(use_home: Callable[..., Path], own_home: Path) -> Open:
    """The page by itself, with what the URL asks for: a switch of page would drop it."""
    use_home(own_home)

    def visit(**query: str) -> AppTest:
        app = AppTest.from_file(str(APP / "app_pages" / "routing.py"), default_timeout=60)
        for key, value in query.items():
            app.query_params[key] = value
        app.run()
        assert not app.exception
        return app

    return visit


@pytest.fixture
def toy_run(own_home: Path) -> Run:
    return Run(own_home / "runs" / "toy_run")


def said(app: AppTest) -> str:
    kinds = (app.warning, app.info, app.error, app.markdown, app.caption, app.header)
    return "\n".join(box.value for kind in kinds for box in kind)


def numbers(app: AppTest) -> dict[str, tuple[str, str]]:
    return {metric.label: (metric.value, metric.delta) for metric in app.metric}


def edit(path: Path, change: Callable[[dict], object]) -> None:
    known = json.loads(path.read_text())
    change(known)
    path.write_text(json.dumps(known))


@pytest.fixture
def training(toy_run: Run) -> Run:
    """As if this very process were pre-training it."""
    (toy_run.path / "pretrain" / "done.json").unlink()
    now = {"pid": os.getpid(), "process_started": psutil.Process().create_time()}
    now |= {"heartbeat": time.time(), "stage": "pretrain", "state": "running", "step": 30, "of": 60}
    edit(toy_run.path / "status.json", lambda status: status.update(now))
    assert toy_run.status().active
    return toy_run


def test_load_says_how_even_it_is_and_that_nothing_is_dropped(open_page: Open) -> None:
    app = open_page()
    assert list(numbers(app)) == ["MaxVio", "CV", "Entropy in nats", "Dropped tokens"]
    assert numbers(app)["Dropped tokens"][0] == "0"
    text = said(app)
    assert "Layer 0: expert" in text
    assert "0 at every step, by construction" in text
    app.segmented_control(key="routing_layer").set_value("1").run()
    assert "Layer 1: expert" in said(app)
    app.segmented_control(key="routing_measure").set_value("Entropy").run()
    assert "Entropy in nats is" in said(app)
    assert "At step 60 the busiest is expert" in said(app)


def test_lift_by_each_kind(open_page: Open) -> None:
    app = open_page(routing_view="Lift")
    assert "a token goes to 2 of 4 experts" in said(app)
    assert app.segmented_control(key="routing_by").options == ["Category", "Tag", "Author", "Level"]
    for kind in ("Tag", "Author", "Level"):
        app.segmented_control(key="routing_by").set_value(kind).run()
        assert not app.exception
        assert "Layer 0: " in said(app)


def test_one_users_tokens_follow_the_shared_selection(open_page: Open, toy_run: Run) -> None:
    known = routing.users(toy_run, 60)
    app = open_page(routing_view="One user", user=str(known[3]))
    assert app.selectbox(key="routing_user").value == known[3]
    assert f"what user {known[3]} really watched" in said(app)
    app.selectbox(key="routing_user").set_value(known[5]).run()
    assert app.session_state["user"] == str(known[5])
    item = routing.tokens(toy_run, 60, known[5])["item"].iloc[0]
    again = open_page(routing_view="One user", user=str(known[5]), item=str(item))
    assert f"clip {item}**, item {item}." in said(again)


def test_flow_is_between_layers_or_from_levels_and_says_so(
    open_page: Open, toy_run: Run, trained: Path
) -> None:
    assert "layer by layer" in said(open_page(routing_view="Flow"))
    shutil.rmtree(toy_run.path / "routing")
    source = trained / "runs" / "first" / "routing"  # one layer
    shutil.copytree(source, toy_run.path / "routing")
    text = said(open_page(routing_view="Flow"))
    assert "one layer of experts" in text
    assert "Tokens of level" in text


def test_an_expert_switched_off_moves_recall_and_loss(open_page: Open) -> None:
    app = open_page(routing_view="Switch off")
    assert numbers(app)["Recall@10"] == ("0.5000", "")
    app.selectbox(key="routing_off").set_value("expert 0 of layer 1").run()
    assert numbers(app)["Recall@10"] == ("0.4600", "-0.0400")
    assert numbers(app)["Next-token loss in nats"] == ("4.0700", "+0.0700")
    asked = {"routing_off": "expert 3 of layer 0", "routing_effect": "Next-token loss"}
    again = open_page(routing_view="Switch off", **asked)
    assert numbers(again)["Recall@10"] == ("0.5100", "+0.0100")
    assert "without it the next-token loss goes from 4.000" in said(again)


def test_another_recorded_step(open_page: Open) -> None:
    app = open_page(routing_view="Lift", routing_step="20", routing_by="Level", routing_layer="1")
    early = said(app)
    assert app.selectbox(key="routing_step").value == "20"
    app.selectbox(key="routing_step").set_value("60").run()
    assert not app.exception
    assert app.selectbox(key="routing_step").value == "60"
    assert "Layer 1" in early


def test_what_of_a_link_cannot_be_followed_is_said(open_page: Open) -> None:
    text = said(open_page(routing_view="Sideways", routing_layer="9", routing_measure="x"))
    assert "“Show” to “Sideways”, which is not here; Load is shown" in text
    assert "“Layer” to “9”, which is not here; 0 is shown" in text
    assert "“Measure” to “x”" in text
    text = said(open_page(routing_view="Lift", routing_step="7", routing_by="Colour"))
    assert "“Recorded step” to “7”, which is not here; 60 is shown" in text
    assert "“By” to “Colour”" in text
    text = said(open_page(routing_view="Switch off", routing_off="8-8", routing_effect="x"))
    assert "“Expert to switch off” to “8-8”, which is not here; none is shown" in text
    assert "User 0 is not" not in said(open_page(routing_view="One user"))


def test_a_user_who_was_not_recorded(open_page: Open, toy_run: Run) -> None:
    known = routing.users(toy_run, 60)
    path = toy_run.path / "routing" / "tokens-000060.parquet"
    rows = read_parquet(path)
    write_parquet(path, rows[rows["user"] != known[0]])
    app = open_page(routing_view="One user", user=str(known[0]))
    fallback = f"user {known[1]} is shown"
    assert f"User {known[0]} is not in the recorded sample; {fallback}" in said(app)


def test_a_dense_model_says_what_experts_are_and_how_to_get_some(
    open_page: Open, toy_run: Run
) -> None:
    def dense(known: dict) -> None:
        known["recipe"]["model"]["experts"] = 0

    edit(toy_run.path / "recipe.json", dense)
    text = said(open_page())
    assert "is dense" in text
    assert "--set model.experts=8" in text


def test_a_run_from_before_says_what_was_not_recorded(open_page: Open, toy_run: Run) -> None:
    for path in (toy_run.path / "routing").iterdir():
        if path.name != "load.parquet":
            path.unlink()
    assert "Layer 0: expert" in said(open_page()), "its load is there"
    for part, what in (
        ("Lift", "which expert saw which token"),
        ("One user", "which expert saw which token"),
        ("Flow", "which expert saw which token"),
        ("Switch off", "what the lists are without an expert"),
    ):
        text = said(open_page(routing_view=part))
        assert f"has not recorded {what}" in text
        assert "onerec run --recipe tiny --dataset toy --run NEW_NAME" in text


def test_the_demo_is_trained_anew_in_ones_own_home(
    use_home: Callable[..., Path], own_home: Path, tmp_path: Path
) -> None:
    for path in (own_home / "runs" / "toy_run" / "routing").glob("tokens-*"):
        path.unlink()
    use_home(tmp_path / "empty", own_home)
    app = AppTest.from_file(str(APP / "app_pages" / "routing.py"), default_timeout=60)
    app.query_params["routing_view"] = "Lift"
    app.run()
    command = f"`onerec run --recipe tiny --dataset {own_home / 'datasets' / 'toy'} --run NEW_NAME`"
    assert command in said(app)


def test_a_run_in_training_shows_what_is_there(open_page: Open, training: Run) -> None:
    folder = training.path / "routing"
    assert "at step 30" in said(open_page()), "as far as it is"
    (folder / "without.json").unlink()
    assert "when pre-training has ended" in said(open_page(routing_view="Switch off"))
    for path in folder.glob("tokens-*"):
        path.unlink()
    assert "the first is still to come" in said(open_page(routing_view="Lift"))
    shutil.rmtree(folder)
    assert "with the first checkpoint" in said(open_page())


def test_where_every_expert_is_active_none_can_be_spared(open_page: Open, toy_run: Run) -> None:
    (toy_run.path / "routing" / "without.json").unlink()

    def all_active(known: dict) -> None:
        known["recipe"]["model"]["active_experts"] = 4

    edit(toy_run.path / "recipe.json", all_active)
    text = said(open_page(routing_view="Switch off"))
    assert "sees all 4 experts" in text
    assert "--set model.experts=8 --set model.active_experts=4`" in text


@pytest.mark.parametrize(
    ("name", "view"), [("load.parquet", "Load"), ("tokens-000060.parquet", "Lift")]
)
def test_a_cut_file_is_an_error_line(
    use_home: Callable[..., Path], own_home: Path, name: str, view: str
) -> None:
    path = own_home / "runs" / "toy_run" / "routing" / name
    path.write_bytes(path.read_bytes()[:100])
    use_home(own_home)
    app = AppTest.from_file(str(APP / "main.py"), default_timeout=60).run()
    app.switch_page("app_pages/routing.py").run()
    app.segmented_control(key="routing_view").set_value(view).run()
    assert not app.exception
    assert name in app.error[0].value
    assert "delete the file" in app.error[0].value


def test_the_link_of_the_page_opens_the_same_view(
    use_home: Callable[..., Path], own_home: Path
) -> None:
    use_home(own_home)
    app = AppTest.from_file(str(APP / "main.py"), default_timeout=60).run()
    app.switch_page("app_pages/routing.py").run()
    app.segmented_control(key="routing_view").set_value("Switch off").run()
    app.selectbox(key="routing_off").set_value("expert 2 of layer 0").run()
    app.run()  # the sidebar is drawn first: it knows the page's widgets from the run before
    address = next(block.value for block in app.sidebar.get("code"))
    asked = parse_qs(urlsplit(address).query)
    assert asked["routing_view"] == ["Switch off"]
    assert asked["routing_off"] == ["expert 2 of layer 0"]
