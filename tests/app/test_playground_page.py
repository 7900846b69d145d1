"""Playground: steps, settings in mid-run, one point's walk, links, and what a link may not ask."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from onerec.explain import toy_codes, toy_experts
from onerec.explain.toy_codes import CodesSetting
from onerec.explain.toy_experts import ExpertsSetting
from onerec.viz import toy_codes as draw

APP = Path(__file__).resolve().parents[2] / "app"
Open = Callable[..., AppTest]


@pytest.fixture
def open_page(use_home: Callable[..., Path], tmp_path: Path) -> Open:
    """The page by itself over an empty home: it needs neither run nor data."""
    use_home(tmp_path / "empty")

    def visit(**query: str) -> AppTest:
        app = AppTest.from_file(str(APP / "app_pages" / "playground.py"), default_timeout=60)
        for key, value in query.items():
            app.query_params[key] = value
        app.run()
        assert not app.exception
        return app

    return visit


def said(app: AppTest) -> str:
    kinds = (app.warning, app.info, app.error, app.markdown, app.caption)
    return "\n".join(box.value for kind in kinds for box in kind)


def numbers(app: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in app.metric}


def press(app: AppTest, key: str, times: int = 1) -> AppTest:
    for _ in range(times):
        app.button(key=key).click().run()
        assert not app.exception
    return app


def test_a_step_is_a_step_and_reset_takes_all_back(open_page: Open) -> None:
    app = open_page()
    assert numbers(app)["Step"] == "0"
    press(app, "codes_step", 3)
    state = toy_codes.after(CodesSetting(), 3)
    assert numbers(app)["Step"] == "3"
    assert numbers(app)["Spread left"] == f"{state.history[-1]['relative_error']:.1%}"
    assert app.query_params["codes_steps"] == "3"
    assert "Level 1, iteration 3" in said(app)
    press(app, "codes_reset")
    assert numbers(app)["Step"] == "0"
    assert "codes_steps" not in app.query_params


def test_play_advances_by_itself_and_ends_when_all_is_done(open_page: Open) -> None:
    app = open_page(codes_levels="1", codes_size="2")
    press(app, "codes_play")
    last = toy_codes.after(CodesSetting(levels=1, size=2), 99).step
    for _ in range(last + 2):  # a tick of the clock is a run of the script
        app.run()
    assert numbers(app)["Step"] == str(last)
    assert "Done after" in said(app)
    assert app.button(key="codes_play").disabled
    assert app.button(key="codes_step").disabled


def test_pause_holds_the_step(open_page: Open) -> None:
    app = press(open_page(), "codes_play")
    assert "know the step at which it stood still last" in said(app)
    press(app, "codes_pause")
    assert "stood still last" not in said(app)
    held = numbers(app)["Step"]
    assert int(held) >= 1
    app.run()
    assert numbers(app)["Step"] == held


def test_sliders_act_in_mid_run(open_page: Open) -> None:
    app = press(open_page(), "codes_step", 4)
    app.slider(key="codes_size").set_value(9).run()
    assert not app.exception
    assert numbers(app)["Step"] == "4", "the run goes on"
    assert numbers(app)["Codes in use"] == "9 of 9"
    app.slider(key="codes_levels").set_value(3).run()
    assert numbers(app)["Level"] == "1 of 3"
    app.slider(key="codes_points").set_value(100).run()
    assert not app.exception
    assert numbers(app)["Step"] == "4"


def test_an_empty_code_is_told_with_what_becomes_of_it(open_page: Open) -> None:
    app = open_page()
    press(app, "codes_try_2")
    assert app.slider(key="codes_size").value == 10
    app.segmented_control(key="codes_shape").set_value("ring").run()
    app.slider(key="codes_size").set_value(16).run()
    press(app, "codes_reset")
    assert "nothing moves them: wasted" in said(app)
    app.segmented_control(key="codes_repair").set_value("repaired").run()
    assert "the next step moves them" in said(app)
    press(app, "codes_step")
    assert "The last step moved empty code" in said(app)


def test_a_link_opens_the_same_step_and_point(open_page: Open) -> None:
    app = open_page(codes_steps="12", codes_point="7", codes_shape="moons", codes_size="5")
    state = toy_codes.after(CodesSetting(shape="moons", size=5), 12)
    assert numbers(app)["Step"] == "12"
    codes = " · ".join(map(str, state.codes[7]))
    assert f"Point 7 is said as {codes};" in said(app)
    app.number_input(key="codes_point").set_value(8).run()
    assert "Point 8 is said as" in said(app)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"codes_steps": "many"}, "“Step” to “many”, which is not from 0 to 300"),
        ({"codes_steps": "²"}, "“Step” to “²”"),
        ({"codes_point": "²"}, "Point “²” is not a number"),
        ({"codes_steps": "9999"}, "“Step” to “9999”"),
        ({"codes_size": "99"}, "“Codes a level” to “99”, which is not from 2 to 16; 6 is shown"),
        ({"codes_levels": "two"}, "“Levels” to “two”"),
        ({"codes_shape": "star"}, "“The points form” to “star”, which is not here"),
        ({"codes_point": "-3"}, "Point “-3” is not a number from 0 to 239"),
        ({"codes_point": "240"}, "Point “240” is not a number from 0 to 239"),
        ({"playground_view": "Rings"}, "“Show” to “Rings”"),
        (
            {"playground_view": "Experts", "experts_lr": "0"},
            "“Learning rate” to “0”, which",
        ),
    ],
)
def test_what_a_link_may_not_ask_falls_back_and_is_said(
    open_page: Open, query: dict[str, str], words: str
) -> None:
    assert words in said(open_page(**query))


def test_fewer_points_drop_a_point_that_is_gone(open_page: Open) -> None:
    app = open_page(codes_point="200")
    app.slider(key="codes_points").set_value(100).run()
    assert not app.exception
    assert "Point “200” is not a number from 0 to 99" in said(app)


def test_a_router_collapses_and_the_bias_mends_it_in_mid_run(open_page: Open) -> None:
    app = open_page(playground_view="Experts", experts_steps="200", experts_at_once="50")
    alone = toy_experts.after(ExpertsSetting(), 200)
    assert numbers(app)["Loss"] == f"{alone.history[-1]['loss']:.4f}"
    assert float(numbers(app)["MaxVio"]) > 2.5
    app.segmented_control(key="experts_balance").set_value("On").run()
    assert numbers(app)["Step"] == "200"
    press(app, "experts_step", 8)
    assert numbers(app)["Step"] == "600"
    assert float(numbers(app)["MaxVio"]) < 0.6
    assert numbers(app)["Experts at work"] == "4 of 4"
    assert app.query_params["experts_steps"] == "600"


def test_what_is_not_drawn_leaves_no_steps_in_the_address(open_page: Open) -> None:
    """Its settings leave the address with it: a reload would make the steps with others."""
    app = open_page(codes_steps="3", codes_size="9")
    app.segmented_control(key="playground_view").set_value("Experts").run()
    assert not app.exception
    assert "codes_steps" not in app.query_params
    app.segmented_control(key="playground_view").set_value("Codes").run()
    assert numbers(app)["Step"] == "3"
    assert app.query_params["codes_steps"] == "3"


def test_each_picture_has_its_formula_table_and_code(open_page: Open) -> None:
    app = open_page(codes_steps="3")
    for key in ("toy_plane", "toy_residual_2", "toy_course"):
        app.session_state[f"{key}_more"] = True
    app.run()
    assert not app.exception
    cells = "\n".join(block.value for block in app.code)
    assert "state = explain.after(setting, 3)" in cells
    assert "viz.residual(state, level=2)" in cells
    assert "Σ|x - x̂|²" in said(app)


def test_the_notebook_cell_runs(open_page: Open) -> None:
    app = open_page(codes_steps="3", codes_point="5")
    app.session_state["toy_plane_more"] = True
    app.run()
    cell = next(block.value for block in app.code if "viz.plane" in block.value)
    body, _, last = cell.rstrip().rpartition("\n")
    names: dict[str, Any] = {}
    exec(body, names)
    figure = eval(last, names)
    assert names["state"].step == 3
    wanted = draw.plane(toy_codes.after(names["setting"], 3), point=5)
    assert figure.to_json() == wanted.to_json()
