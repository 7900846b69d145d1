"""Selection: read from widgets or the URL, checked, and never trusted."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest


def page() -> None:
    import selection
    import streamlit as st

    view = selection.current()
    st.session_state["seen"] = view
    st.session_state["link"] = selection.link()


@pytest.fixture
def look(use_home: Callable[..., Path], finished: Path) -> Callable[..., AppTest]:
    use_home(finished)

    def run(**query: str) -> AppTest:
        app = AppTest.from_function(page, default_timeout=30)
        for key, value in query.items():
            app.query_params[key] = value
        app.run()
        assert not app.exception
        return app

    return run


def test_everything_that_fits_is_taken(look: Callable[..., AppTest]) -> None:
    view = look(run="toy_run", item="47", user="23", code="3-1", step="9").session_state["seen"]
    assert (view.run_name, view.dataset_name) == ("toy_run", "toy")
    assert (view.item, view.user, view.code, view.step) == (47, 23, (3, 1), 9)
    assert view.notices == ()


@pytest.mark.parametrize(
    ("key", "value"),
    [("item", "48"), ("item", "-1"), ("item", "x"), ("user", "24"), ("code", "4"), ("code", "a-b"),
     ("code", "1-1-1-1"), ("run", "../../etc"), ("dataset", "gone"),
     ("item", "²"), ("item", "9" * 5_000), ("code", "²-1")],
)  # fmt: skip
def test_what_does_not_fit_is_ignored_and_said(
    look: Callable[..., AppTest], key: str, value: str
) -> None:
    view = look(**{key: value}).session_state["seen"]
    assert (view.run_name, view.dataset_name) == ("toy_run", "toy")
    assert (view.item, view.user, view.code) == (None, None, None)
    assert len(view.notices) == 1
    assert value in view.notices[0]


def test_unless_a_run_is_asked_for_the_newest_that_did_not_fail_is_shown(
    look: Callable[..., AppTest], monkeypatch: pytest.MonkeyPatch
) -> None:
    import places

    ((name, info),) = places.run_infos().items()
    broken = {"newer": replace(info, name="newer", state="failed")}
    monkeypatch.setattr(places, "run_infos", lambda: broken | {name: info})
    assert look().session_state["seen"].run_name == name
    assert look(run="newer").session_state["seen"].run_name == "newer"
    monkeypatch.setattr(places, "run_infos", lambda: broken)
    assert look().session_state["seen"].run_name == "newer"


def test_a_code_may_be_written_as_it_is_shown(look: Callable[..., AppTest]) -> None:
    assert look(code="3 · 1 · 2").session_state["seen"].code == (3, 1, 2)


def test_a_link_carries_the_teachers_settings(look: Callable[..., AppTest]) -> None:
    link = look(run="toy_run", lock="1", hide="import").session_state["link"]
    assert "lock=1" in link
    assert "hide=import" in link


def test_data_that_are_not_the_runs_are_said_beside_the_picker(
    use_home: Callable[..., Path], own_home: Path
) -> None:
    """A run's pages draw its own data, whatever is picked for the page Dataset."""

    def whole() -> None:
        import selection

        selection.sidebar()
        selection.current()

    use_home(own_home)
    shutil.copytree(own_home / "datasets" / "toy", own_home / "datasets" / "other")
    said = {}
    for name in ("toy", "other"):
        app = AppTest.from_function(whole, default_timeout=30)
        app.query_params["run"], app.query_params["dataset"] = "toy_run", name
        app.run()
        assert not app.exception
        said[name] = [line.value for line in app.caption if "own data" in line.value]
    assert said == {"toy": [], "other": ["The chosen run's own data are toy."]}
