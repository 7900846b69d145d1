"""Recommend: saved lists without a model; why, beam, edits and comparisons with one, on demand."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import live_model
import pytest
import recommend_edit
import recommend_live
import recommend_parts
from streamlit.testing.v1 import AppTest

from onerec.explain import dataset

APP = Path(__file__).resolve().parents[2] / "app"
Open = Callable[..., AppTest]


@pytest.fixture
def open_page(use_home: Callable[..., Path]) -> Open:
    """The page by itself over a home, with what the URL asks for."""

    def visit(home: Path, **query: str) -> AppTest:
        use_home(home)
        app = AppTest.from_file(str(APP / "app_pages" / "recommend.py"), default_timeout=60)
        for key, value in query.items():
            app.query_params[key] = value
        app.run()
        assert not app.exception
        return app

    return visit


def said(app: AppTest) -> str:
    kinds = (app.warning, app.info, app.error, app.markdown, app.caption, app.header)
    return "\n".join(box.value for kind in kinds for box in kind)


def live(open_page: Open, home: Path, view: str, **query: str) -> AppTest:
    """A view that needs the model, with the model loaded."""
    app = open_page(home, recommend_view=view, **query)
    if any(button.key == "load_model" for button in app.button):
        app.button(key="load_model").click().run()
    assert not app.exception
    return app


def listed(app: AppTest, key: str = "edit_list") -> list[str]:
    frame = next(each.value for each in app.dataframe if "probability" in each.value)
    return frame["title"].tolist()


def test_the_first_view_keeps_what_it_had(open_page: Open, finished: Path) -> None:
    app = open_page(finished)
    text = said(app)
    for words in ("What came before", "What it says next", "What really came next"):
        assert words in text
    assert "How sure it was of each code" in text
    assert app.selectbox(key="why_item").value is not None
    assert next(metric.label for metric in app.metric) == "Watched later (held out)"
    assert "The newest " in text, "it called what is shown what the model saw"
    found = next(each.value for each in app.dataframe if "found_by" in each.value)["found_by"]
    assert not found.str.contains("onerec").any(), "elsewhere it is OneRec"
    assert found.str.contains("OneRec #").any()


def test_opening_the_page_imports_no_torch(finished: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, 'app');"
        "from streamlit.testing.v1 import AppTest;"
        "app = AppTest.from_file('app/app_pages/recommend.py', default_timeout=60).run();"
        "assert not app.exception;"
        "app.segmented_control(key='recommend_view').set_value('Beam').run();"
        "assert app.button(key='load_model');"
        "sys.exit('torch' in sys.modules)"
    )
    env = {**os.environ, "ONEREC_HOME": str(finished), "ONEREC_DEMO": "/nonexistent"}
    done = subprocess.run([sys.executable, "-c", code], cwd=APP.parent, env=env, check=False)
    assert done.returncode == 0


def test_a_model_is_loaded_when_it_is_asked_for(
    open_page: Open, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_model, "_LOADED", set())
    app = open_page(trained, recommend_view="Beam")
    assert "asks the model itself" in said(app)
    assert not app.slider
    app.button(key="load_model").click().run()
    assert not app.exception
    assert "of the list have" in said(app)
    app.segmented_control(key="recommend_view").set_value("Why").run()
    assert "Which events made it so?" in said(app)  # and not asked for a second time
    again = open_page(trained, recommend_view="Beam")  # nor is the next visitor
    assert "of the list have" in said(again)


def test_a_run_without_a_model_says_what_to_do(open_page: Open, finished: Path) -> None:
    app = live(open_page, finished, "Edit")
    assert len(app.error) == 1
    assert "Traceback" not in app.error[0].value


def test_why_names_the_truth_and_its_rivals(open_page: Open, trained: Path) -> None:
    app = live(open_page, trained, "Why")
    text = said(app)
    assert "Leave one out is the truth" in text
    assert "Deleting what" in text
    assert "decides: its code had" in text
    assert "The experts that the item's tokens took" in text
    assert "In the beam of 10 the item stood at level 1: place" in text
    assert "resembles this item most" in text
    assert len(app.selectbox(key="live_item").options) == 10


def test_why_has_the_parts_of_the_reward(
    open_page: Open, aligned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the run's reward model itself, for the history as the log has it."""
    import numpy as np
    import torch

    from onerec.assembly import setting_of
    from onerec.rewards import RewardModel
    from onerec.runs import open_run

    asked: list[tuple[live_model.Who, tuple[int, ...]]] = []
    rewards = live_model.rewards
    noting = lambda *given: asked.append(given) or rewards(*given)  # noqa: E731
    monkeypatch.setattr(live_model, "rewards", noting)
    app = live(open_page, aligned, "Why", edit="-0")
    assert "It reads the history as it was, without the edits." in said(app)
    frame = next(each.value for each in app.dataframe if "part" in each.value)
    assert frame["part"].tolist() == ["P-Score", "Click", "Like"]
    who, items = asked[-1]
    run = open_run("first", aligned)
    setting = setting_of(run, aligned)
    cases, reward = setting.split.test, RewardModel.load(run, setting, torch.device("cpu"))
    place = np.array([who.user]), cases.end[cases.user == who.user]
    found = reward.score(*place, torch.tensor([items]))
    for name, row in zip(("pscore", "click", "like"), frame.to_dict("records"), strict=True):
        item = items.index(int(app.selectbox(key="live_item").value))
        assert row["item"] == pytest.approx(float(found[name][0, item]), abs=1e-4)
        assert row["list"] == pytest.approx(float(found[name][0, :10].mean()), abs=1e-4)
    assert any(f"**P-Score {frame['item'][0]:.3f}, the mean" in box.value for box in app.markdown)


def test_without_a_reward_model_why_says_how_to_train_one(open_page: Open, trained: Path) -> None:
    app = live(open_page, trained, "Why")
    assert "This run has no reward model: `onerec reward --run first` trains it." in said(app)


def test_any_item_can_be_asked_about(open_page: Open, trained: Path) -> None:
    import duckdb

    lists = trained / "runs" / "first" / "recommendations.parquet"
    known = duckdb.sql(f"SELECT DISTINCT item FROM '{lists}' WHERE model = 'onerec'").fetchall()
    item = next(n for n in range(30) if (n,) not in known) if len(known) < 30 else 29
    app = live(open_page, trained, "Why", item=str(item))
    assert app.selectbox(key="live_item").value == item


def test_an_item_of_a_larger_dataset_is_not_asked_about(
    open_page: Open, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sidebar may hold another dataset than the run's."""
    import selection

    monkeypatch.setattr(selection, "_number", lambda key, *_: 999_999 if key == "item" else None)
    app = live(open_page, trained, "Why")
    assert app.selectbox(key="live_item").value < 999_999


def test_the_beam_follows_its_slider(open_page: Open, trained: Path) -> None:
    app = live(open_page, trained, "Beam", recommend_beam="3")
    assert app.slider(key="recommend_beam").value == 3
    assert "of the list have" in said(app)
    app.slider(key="recommend_beam").set_value(30).run()
    assert not app.exception
    assert "fell out at level 1" not in said(app)  # all 4 codes fit


def test_without_edits_the_list_is_the_saved_one(open_page: Open, trained: Path) -> None:
    app = live(open_page, trained, "Edit")
    saved = open_page(trained)
    frame = next(each.value for each in saved.dataframe if "onerec" in each.value)
    assert listed(app) == [str(title).removeprefix("✓ ") for title in frame["onerec"]]
    assert "Edit the history and this list follows" in said(app)


def test_an_edited_history_moves_the_list_and_undo_brings_it_back(
    open_page: Open, trained: Path
) -> None:
    app = live(open_page, trained, "Edit")
    before = listed(app)
    app.text_input(key="edit").set_value("+3,+3,+3,+3,+3,-1").run()
    assert not app.exception
    after = listed(app)
    assert after != before
    assert "items were in the list before the edits" in said(app)
    for _ in range(6):
        app.button(key="edit_undo").click().run()
    assert app.text_input(key="edit").value == ""
    assert listed(app) == before
    app.selectbox(key="edit_add").select_index(5).run()
    assert app.text_input(key="edit").value == "+5"
    app.text_input(key="edit").set_value("-5000").run()
    assert "places are 1 to" in said(app)
    assert "Edit the history and this list follows" in said(app), "no edit was followed"
    app.button(key="edit_reset").click().run()
    assert listed(app) == before


def test_an_empty_history_is_a_user_who_is_new(open_page: Open, trained: Path) -> None:
    edits = ",".join(["-1"] * 40)
    app = live(open_page, trained, "Edit", edit=edits)
    assert "No event is left." in said(app)
    assert len(listed(app)) == 10
    app.segmented_control(key="recommend_view").set_value("Why").run()
    assert not app.exception


def test_bad_edits_are_said_and_the_rest_is_followed(open_page: Open, trained: Path) -> None:
    app = live(open_page, trained, "Edit", edit="+9999,hello,-1,99>1")
    text = said(app)
    assert "Edit “+9999”: items are 0 to 29" in text
    assert "Edit “hello” is not understood" in text
    assert "Edit “99>1”: places are 1 to" in text
    assert len(listed(app)) == 10


def test_many_bad_edits_are_one_box(open_page: Open, trained: Path) -> None:
    """Thirty-eight of them stood one below the other."""
    app = live(open_page, trained, "Edit", edit=",".join(["hello"] * 38))
    assert [box.value.count("hello") for box in app.warning] == [3]
    assert "And 35 more" in app.warning[0].value


def test_what_had_been_watched_is_not_called_new(open_page: Open, trained: Path) -> None:
    app = live(open_page, trained, "Edit", edit=",".join(["-1"] * 40))
    moved = next(t.value for t in app.dataframe if "moved" in t.value.columns)["moved"]
    assert "new" in set(moved)
    assert "was hidden" not in set(moved), "this recipe leaves out nothing"
    assert recommend_edit._moved(None, 1, watched=True) == "was hidden"


def test_edits_go_with_the_other_views(open_page: Open, trained: Path) -> None:
    for view in ("Why", "Beam"):
        app = live(open_page, trained, view, edit="-1")
        assert "This is for the edited history" in said(app)


def test_a_link_copied_from_another_view_brings_the_edits(open_page: Open, trained: Path) -> None:
    """They left the address with the view that shows them: a reload lost them."""
    app = live(open_page, trained, "Beam", edit="-1")
    assert app.query_params["edit"] == "-1"
    assert "edit" in app.session_state["page_widgets"]


def test_the_saved_list_keeps_the_edits_for_the_other_views(open_page: Open, trained: Path) -> None:
    app = open_page(trained, edit="-1")
    assert app.text_input(key="edit").value == "-1"
    assert "Saved lists are of the history as it was" in said(app)
    assert "Saved lists are" not in said(open_page(trained))


def test_rules_of_a_link_are_not_folded_away(open_page: Open, trained: Path) -> None:
    app = live(open_page, trained, "Edit", rule_groups="4")
    assert "Rules or diversity are on" in said(app)
    fold = next(each for each in app.expander if each.label == "Rules and diversity")
    assert fold.proto.expanded
    app = live(open_page, trained, "Edit")
    assert "Rules or diversity are on" not in said(app)


def test_the_number_of_a_user_stands_beside_its_id(open_page: Open, trained: Path) -> None:
    """The sidebar takes the number, and the page named only the id."""
    app = open_page(trained, user="3")
    assert any("(for the sidebar: number 3)" in each.label for each in app.expander)


def test_edits_stay_with_the_user_whose_history_they_change(open_page: Open, trained: Path) -> None:
    """Another user's history was edited by the places of the one before."""
    app = live(open_page, trained, "Edit", edit="-1")
    assert app.text_input(key="edit").value == "-1"
    people = next(each.value for each in app.dataframe if "user_id" in each.value)
    app.query_params["user"] = str(people["user"].iloc[1])
    app.run()
    assert not app.exception
    assert app.text_input(key="edit").value == ""
    assert "Edit the history and this list follows" in said(app)


def test_a_comparison_says_that_the_history_is_edited(open_page: Open, trained: Path) -> None:
    assert "edited history" not in said(live(open_page, trained, "Compare"))
    assert "edited history" in said(live(open_page, trained, "Compare", edit="-1"))


def test_a_beam_below_the_list_is_said_to_be_as_wide_as_the_list(
    open_page: Open, trained: Path
) -> None:
    words = "A list of 10 keeps at least so many prefixes"
    assert words in said(live(open_page, trained, "Edit", recommend_beam="3"))
    assert words not in said(live(open_page, trained, "Edit", recommend_beam="10"))


@pytest.mark.parametrize("edit", ["", "+3,-1"])
def test_the_cell_makes_the_same_tree(open_page: Open, trained: Path, edit: str) -> None:
    """It took the whole log, held-out events included, and forgot the edits."""
    app = live(open_page, trained, "Beam", edit=edit, recommend_beam="12")
    app.session_state["beam_tree_more"] = True
    app.run()
    (cell,) = [each.value for each in app.code if "import tree" in each.value]
    begin, _, call = cell.rpartition("\n")
    names: dict[str, object] = {}
    exec(begin, names)
    made = eval(call, names)
    shown = next(each.value for each in app.dataframe if "log_prob" in each.value)
    assert made["log_prob"].tolist() == pytest.approx(shown["log_prob"].tolist(), abs=1e-4)


def test_rules_and_diversity_change_the_list(open_page: Open, trained: Path) -> None:
    import pandas as pd

    items = pd.read_parquet(trained / "datasets" / "toy" / "items.parquet").set_index("title")
    app = live(open_page, trained, "Edit")
    plain = listed(app)
    assert items.loc[plain]["author_id"].duplicated().any()
    off = str(items.loc[plain[0]]["tags"][0])
    app.multiselect(key="rule_tags").set_value([off]).run()
    assert not app.exception
    assert all(off not in tags for tags in items.loc[listed(app)]["tags"])
    app.multiselect(key="rule_tags").set_value([]).run()
    app.slider(key="rule_author").set_value(1).run()
    assert not items.loc[listed(app)]["author_id"].duplicated().any()
    app.slider(key="rule_author").set_value(0).run()
    assert listed(app) == plain
    app.slider(key="rule_groups").set_value(4).run()
    app.slider(key="rule_penalty").set_value(10.0).run()
    assert not app.exception
    assert listed(app) != plain


def test_a_tag_that_no_item_has_is_said_and_ignored(open_page: Open, trained: Path) -> None:
    app = live(open_page, trained, "Edit", rule_tags="nothing")
    assert "Tag “nothing” is not among those offered" in said(app)
    assert len(listed(app)) == 10
    app.session_state["rule_tags"] = ["gone"]  # chosen in another run
    app.run()
    assert not app.exception
    assert "Tag “gone”" in said(app)


def test_a_user_without_a_list_is_given_the_command_with_that_users_id(
    open_page: Open, own_home: Path
) -> None:
    import pandas as pd

    lists = next((own_home / "runs").iterdir()) / "recommendations.parquet"
    kept = pd.read_parquet(lists)
    kept[kept["user"] != 7].to_parquet(lists, index=False)
    text = said(open_page(own_home, user="7"))
    assert "User number 7 has no list in this run, which keeps those of its 23 test users" in text
    assert "That user's list: `onerec recommend --run toy_run --user u07`." in text


def test_the_page_says_how_to_get_a_list_of_all_that_a_user_did(
    open_page: Open, finished: Path
) -> None:
    text = said(open_page(finished, user="4"))
    assert "Lists on this page stop before what is held out" in text
    assert "`onerec recommend --run toy_run --user u04`" in text


@pytest.mark.parametrize("hides", [False, True])
def test_draws_say_whether_they_leave_out_what_was_watched(
    open_page: Open, trained: Path, monkeypatch: pytest.MonkeyPatch, hides: bool
) -> None:
    monkeypatch.setattr(live_model, "hides_watched", lambda who: hides)
    text = said(live(open_page, trained, "Edit", recommend_decode="Draw"))
    assert ("What was watched before is left out" in text) == hides
    assert ("What was watched before may be drawn again" in text) != hides


def test_the_other_user_is_another_one(open_page: Open, trained: Path) -> None:
    """A link may name the one at hand, who is there and yet not to choose."""
    number = str(dataset.user_index(trained / "datasets" / "toy", "u03"))
    text = said(live(open_page, trained, "Compare", user=number, recommend_other="u03"))
    assert "to “u03”, which is the user on the left: the other must be another one; " in text
    assert "which is not here" not in text


def test_draws_come_by_temperature_or_power(open_page: Open, trained: Path) -> None:
    app = live(open_page, trained, "Edit", recommend_decode="Draw")
    warm = said(app)
    assert "different items in 400 draws" in warm
    drawn = next(t.value for t in app.dataframe if "watched" in t.value.columns)
    assert "watched before" in set(drawn["watched"])
    app.slider(key="recommend_temperature").set_value(0.1).run()
    assert said(app) != warm
    app.segmented_control(key="recommend_draw").set_value("Power").run()
    assert not app.exception
    assert app.slider(key="recommend_power").value == 4.0


def test_two_users_side_by_side(open_page: Open, trained: Path) -> None:
    app = live(open_page, trained, "Compare")
    assert "in both lists of 10" in said(app)
    assert len([each for each in app.dataframe if "probability" in each.value]) == 2
    app.selectbox(key="recommend_other").select_index(3).run()
    assert not app.exception


def test_a_model_beside_itself_before_alignment(open_page: Open, aligned: Path) -> None:
    app = live(open_page, aligned, "Compare", recommend_with="Another model")
    assert app.selectbox(key="recommend_model").value == "before alignment"
    assert "in both lists of 10" in said(app)


def test_a_model_of_another_split_is_given_the_same_history(
    open_page: Open, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was given that of its own split, and edits named other events."""
    import toy_home

    from onerec.pipeline import run_stage

    home = tmp_path / "home"
    shutil.copytree(trained, home)
    recipe = toy_home.make_recipe({"evaluate.split": "temporal", "train.steps": "2"})
    run_stage("pretrain", "other", recipe=recipe, dataset="toy", home=home)
    asked: list[live_model.Who] = []
    lists = live_model.lists
    monkeypatch.setattr(live_model, "lists", lambda who, *a: asked.append(who) or lists(who, *a))
    query = {"run": "first", "recommend_with": "Another model", "edit": "-2"}
    app = live(open_page, home, "Compare", **query)
    first, second = asked[-2:]
    assert first.path != second.path
    assert live_model.events(first).equals(live_model.events(second))
    assert "Run other holds out other events" in said(app)


def test_nothing_to_compare_with_says_so(open_page: Open, trained: Path) -> None:
    app = live(open_page, trained, "Compare", recommend_with="Another model")
    assert "No other model was trained on this very dataset" in said(app)


@pytest.mark.parametrize(
    ("key", "value", "query"),
    [
        ("recommend_beam", "5000", {"recommend_view": "Beam"}),
        ("recommend_beam", "wide", {"recommend_view": "Edit"}),
        ("recommend_beam", "2.5", {"recommend_view": "Beam"}),
        ("recommend_temperature", "-1", {"recommend_view": "Edit", "recommend_decode": "Draw"}),
        ("recommend_power", "x", {"recommend_decode": "Draw", "recommend_draw": "Power"}),
        ("recommend_other", "nobody", {"recommend_view": "Compare"}),
    ],
)
def test_what_a_link_asks_in_vain_is_said(
    open_page: Open, trained: Path, key: str, value: str, query: dict[str, str]
) -> None:
    """It fell back without a word."""
    view = query.pop("recommend_view", "Edit")
    assert f"to “{value}”" in said(live(open_page, trained, view, **query, **{key: value}))


def test_an_item_is_chosen_by_whoever_looks_and_not_by_the_browser(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Hurried from view to view the browser sends back the item that it was given."""
    given, chosen = dict[str, Any](), []
    state = dict[str, Any]()
    monkeypatch.setattr(recommend_parts.st, "session_state", state)
    monkeypatch.setattr(recommend_parts.st, "selectbox", lambda *_, **asked: given.update(asked))
    monkeypatch.setattr(recommend_parts.selection, "choose", lambda **what: chosen.append(what))
    view = SimpleNamespace(item=7)
    assert recommend_parts.listed_item(view, {5: "five", 7: "seven"}, "explained") == 7
    given["on_change"]()  # the selection is still what the page put there
    assert chosen == []
    state["explained"] = 5
    given["on_change"]()
    assert chosen == [{"item": 5}]


def test_the_history_follows_an_address_that_the_browser_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Back: the field, drawn later, still holds what it held when the address was another."""
    state: dict[str, Any] = {"edit": "-7,-6", recommend_live.EDITS_SHOWN: ("-7,-6", "-7,-6")}
    address = {"edit": "-7"}
    monkeypatch.setattr(recommend_live.st, "session_state", state)
    monkeypatch.setattr(recommend_live.st, "query_params", address)
    recommend_live._follow_address()
    assert state["edit"] == "-7"
    state["edit"] = "-5"  # a person wrote it: the address comes after the field
    recommend_live._follow_address()
    assert state["edit"] == "-5"
