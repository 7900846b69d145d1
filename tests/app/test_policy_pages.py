"""ECPO and RL steps: with recorded steps, without any, and with links that cannot be followed."""

import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import at_scale
import fake_rollouts
import policy_steps
import pytest
from streamlit.testing.v1 import AppTest

from onerec.explain import policy as explain
from onerec.runs import Run

APP = Path(__file__).resolve().parents[2] / "app"
Open = Callable[..., AppTest]


@pytest.fixture
def aligned(own_home: Path) -> Path:
    fake_rollouts.build(own_home / "runs" / "toy_run")
    return own_home


@pytest.fixture
def open_page(use_home: Callable[..., Path], aligned: Path) -> Open:
    """A page by itself, with what the URL asks for: a switch of page would drop it."""
    use_home(aligned)

    def visit(name: str, **query: str) -> AppTest:
        app = AppTest.from_file(str(APP / "app_pages" / f"{name}.py"), default_timeout=60)
        for key, value in query.items():
            app.query_params[key] = value
        app.run()
        assert not app.exception
        return app

    return visit


def said(app: AppTest) -> str:
    kinds = (app.warning, app.info, app.error, app.markdown, app.caption, app.header)
    return "\n".join(box.value for kind in kinds for box in kind)


def numbers(app: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in app.metric}


def test_both_pages_through_main(use_home: Callable[..., Path], aligned: Path) -> None:
    use_home(aligned)
    app = AppTest.from_file(str(APP / "main.py"), default_timeout=60).run()
    for name in ("ecpo", "rl_steps"):
        app.switch_page(f"app_pages/{name}.py").run()
        assert not app.exception
        assert not app.error
        assert app.selectbox(key="policy_step").value == 30
    next(button for button in app.button if button.label == "Back").click().run()
    assert app.sidebar.text_input(key="step").value == "20"
    app.switch_page("app_pages/ecpo.py").run()
    assert app.selectbox(key="policy_step").value == 20, "the step goes from page to page"


def test_ecpo_draws_curves_dots_and_counts(open_page: Open) -> None:
    app = open_page("ecpo")
    text = said(app)
    assert "ECPO's stays at -1.3, a bounded push" in text
    assert "one ratio per item" in text
    assert "items with an advantage" in text
    assert "Step 30 was taken with ECPO, ε = 0.2, δ = 0.1." in text
    app.slider(key="delta").set_value(1.0).run()
    assert "ECPO's stays at -2.2, a bounded push" in said(app)
    assert "the dots show what its items would do with ECPO and the bounds above" in said(app)
    app.segmented_control(key="advantage").set_value("A > 0").run()
    assert "The push beyond a ratio of 1.2: ECPO has none" in said(app)


def set_lag(home: Path, lag: int) -> None:
    path = home / "runs" / "toy_run" / "recipe.json"
    described = json.loads(path.read_text())
    described["recipe"].setdefault("align", {})["lag"] = lag
    path.write_text(json.dumps(described))


def test_both_pages_say_how_old_the_weights_were_that_drew(open_page: Open, aligned: Path) -> None:
    for page in ("ecpo", "rl_steps"):
        set_lag(aligned, 20)
        text = said(open_page(page, step="10"))
        assert "drawn with the weights of 9 updates ago" in text
        assert "new weights every 20 updates" in text
        assert "own weights, so every ratio is 1" in said(open_page(page, step="1"))
        set_lag(aligned, 0)
        assert "`align.lag` 0), so every ratio is 1" in said(open_page(page))


def test_ecpo_asks_for_the_probability_only_with_gbpo(open_page: Open) -> None:
    app = open_page("ecpo")
    assert "probability" not in [control.key for control in app.segmented_control]
    app.pills(key="objectives").set_value(["GBPO"]).run()
    assert not app.exception
    rare = said(app)
    app.segmented_control(key="probability").set_value("0.5").run()
    assert "GBPO's grows to" in said(app)
    assert said(app) != rare
    app.pills(key="objectives").set_value([]).run()
    assert "ECPO's stays at -1.3" in said(app), "with none chosen it is ECPO"
    assert "None is chosen: ECPO is drawn." in said(app)


def test_a_link_with_no_objective_is_followed_without_a_warning(open_page: Open) -> None:
    app = open_page("ecpo", objectives="")  # what the address holds once all are switched off
    assert not app.warning
    assert "None is chosen: ECPO is drawn." in said(app)


def test_ecpo_says_what_of_a_link_it_cannot_follow(open_page: Open) -> None:
    text = said(open_page("ecpo", epsilon="7", delta="x", step="5", objectives="PPO"))
    for part in (
        "“ε, half-width of the clip” to “7”, which is not from 0.05 to 0.9; 0.2 is shown",
        "“δ, the early clip begins at 1+ε+δ” to “x”",
        "“Compare” to “PPO”, which is not here",
        "Step 5 was not recorded in this run; 30 is shown",
    ):
        assert part in text


def test_ecpo_needs_no_run(use_home: Callable[..., Path], tmp_path: Path) -> None:
    use_home(tmp_path / "empty")
    app = AppTest.from_file(str(APP / "app_pages" / "ecpo.py"), default_timeout=60).run()
    assert not app.exception
    assert "a bounded push" in said(app)
    assert "onerec align --run NAME" in said(app)
    assert "Train a run (page train)" in said(app), "a page alone names what main.py links to"


def test_a_run_that_was_not_aligned_says_what_that_is(
    use_home: Callable[..., Path], finished: Path
) -> None:
    use_home(finished)
    app = AppTest.from_file(str(APP / "app_pages" / "rl_steps.py"), default_timeout=60).run()
    assert not app.exception
    assert "generates a group of items" in said(app)
    assert "`onerec align --run toy_run`" in said(app)


def test_rl_steps_shows_the_item_of_the_link(open_page: Open, aligned: Path) -> None:
    app = open_page("rl_steps", step="10", user="4")
    assert "Group of user 4" in said(app)
    shown = numbers(app)
    assert shown["Groups"] == "6"
    assert shown["Without a spread"] == "1"
    bar = explain.steps(Run(aligned / "runs" / "toy_run")).set_index("step")["reward"][10]
    assert shown["Mean reward"] == f"{bar:.3f}", "one number under one name"
    assert float(shown["Advantage"]) > 0, "the best of the group is shown first"
    app.selectbox(key="place").set_value(7).run()
    assert "it does not count and does not push" in said(app)
    assert app.session_state["item"] == ""


def test_a_selected_item_is_found_in_its_group(open_page: Open) -> None:
    app = open_page("rl_steps", step="10", user="4")
    app.selectbox(key="place").set_value(2).run()
    item = app.session_state["item"]
    again = open_page("rl_steps", step="10", user="4", item=item)
    assert again.selectbox(key="place").value == 2


def test_a_copied_link_names_the_place(open_page: Open) -> None:
    app = open_page("rl_steps", step="10", user="4", place="7")
    assert app.selectbox(key="place").value == 7
    assert "place" in app.session_state["page_widgets"]


def test_what_a_newcomer_cannot_know_has_a_tooltip(open_page: Open) -> None:
    app = open_page("rl_steps", step="10", user="4")
    silent = [metric.label for metric in app.metric if not metric.help]
    assert silent == ["Groups"], "the heading above says what a group is"
    app = open_page("ecpo")
    for name in ("GRPO", "ECPO", "GBPO"):
        assert f"**{name}**, " in app.pills(key="objectives").help
    assert "than its group" in app.segmented_control(key="advantage").help


def test_every_column_of_the_table_of_groups_has_a_name(aligned: Path) -> None:
    found = explain.groups(Run(aligned / "runs" / "toy_run"), 10)
    assert set(policy_steps.GROUPS) == set(found.columns)


def test_parts_of_a_reward_are_called_as_on_the_other_pages() -> None:
    formula = "(0 × 0.8 (long_view) + 1 × 0.3 (pscore)) × 0.5 (industrial) = 0.150"
    shown = "(0 × 0.8 (long view) + 1 × 0.3 (P-Score)) × 0.5 (industrial) = 0.150"
    assert policy_steps.named(formula) == shown


@pytest.mark.parametrize("place", ["8", "-1", "abc", "9" * 30])
def test_a_place_that_is_not_there_is_said(open_page: Open, place: str) -> None:
    app = open_page("rl_steps", step="10", user="4", place=place)
    assert f"“Item of the group” to “{place}”, which is not from 0 to 7" in said(app)
    assert app.selectbox(key="place").value in range(8)


def test_a_selected_item_of_another_group_is_said(open_page: Open) -> None:
    app = open_page("rl_steps", step="10", user="3", item="9")  # that group holds item 8 alone
    assert "The selected item 9 is not in this group; place" in said(app)
    assert "not in this group" not in said(open_page("rl_steps", step="10", user="3", item="8"))


def test_a_flat_group_is_flagged_and_not_shown_first(open_page: Open) -> None:
    assert "Group of user 3" not in said(open_page("rl_steps", step="10"))
    app = open_page("rl_steps", step="10", user="3")
    assert "every advantage is 0" in said(app)
    assert numbers(app)["Push"] == "+0.000"


def test_a_user_without_a_group_falls_back_and_is_said(open_page: Open) -> None:
    app = open_page("rl_steps", step="10", user="0")
    assert "User 0 has no group in step 10; user 4 is shown" in said(app)


def test_curves_stand_without_recorded_steps(open_page: Open, aligned: Path) -> None:
    for path in (aligned / "runs" / "toy_run" / "rollouts").iterdir():
        path.unlink()
    app = open_page("rl_steps", rl_view="Curves of all steps")
    assert "Reward went from 0.51 to 0.8" in said(app)
    assert set(policy_steps.PANELS) == set(explain.PANELS)
    assert all(words in said(app) for words in policy_steps.PANELS.values())
    asked = [at_scale.QUESTIONS[name] for name in ("legality", "worth_tables")]
    assert [box.label for box in app.expander][-2:] == asked
    assert "none of its steps was recorded" in said(open_page("rl_steps"))


def test_pass_at_k_stands_before_and_after_or_is_said_to_be_missing(
    open_page: Open, aligned: Path
) -> None:
    app = open_page("rl_steps", rl_view="Curves of all steps")
    assert policy_steps.NO_PASS in [box.value for box in app.info]
    looks = {0: {10: 0.2, 128: 0.6}, 15: {10: 0.25, 128: 0.5}}
    fake_rollouts.look(aligned / "runs" / "toy_run", looks, kept=15)
    app = open_page("rl_steps", rl_view="Curves of all steps")
    assert "pass@10 went from 20.0% to 25.0%, pass@128 went from 60.0% to 50.0%" in said(app)
    assert policy_steps.NO_PASS not in said(app)


@pytest.mark.parametrize("name", ["ecpo", "rl_steps"])
def test_a_cut_file_is_an_error_line(
    use_home: Callable[..., Path], aligned: Path, name: str
) -> None:
    path = aligned / "runs" / "toy_run" / "rollouts" / "step-000030.parquet"
    path.write_bytes(path.read_bytes()[:200])
    use_home(aligned)
    app = AppTest.from_file(str(APP / "main.py"), default_timeout=60).run()
    app.switch_page(f"app_pages/{name}.py").run()
    assert not app.exception
    assert "step-000030.parquet" in app.error[0].value
    assert "delete the file; the other steps" in app.error[0].value


def test_the_link_of_the_page_opens_the_same_view(
    use_home: Callable[..., Path], aligned: Path
) -> None:
    use_home(aligned)
    app = AppTest.from_file(str(APP / "main.py"), default_timeout=60).run()
    app.switch_page("app_pages/ecpo.py").run()
    app.slider(key="epsilon").set_value(0.4).run()
    app.pills(key="objectives").set_value(["GRPO"]).run()
    address = next(block.value for block in app.sidebar.get("code"))
    app.run()  # the sidebar is drawn first: it knows the page's widgets from the run before
    address = next(block.value for block in app.sidebar.get("code"))
    asked = parse_qs(urlsplit(address).query)
    assert asked["epsilon"] == ["0.4"]
    assert asked["objectives"] == ["GRPO"]
