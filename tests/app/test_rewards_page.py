"""Rewards: its four parts, its empty states, and links that cannot be followed."""

import base64
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import fake_rewards
import jobs
import numpy as np
import psutil
import pytest
from streamlit.testing.v1 import AppTest

from onerec.explain import composer
from onerec.explain import rewards as explain
from onerec.pipeline.reward_rival import make_rival
from onerec.runs import Run

APP = Path(__file__).resolve().parents[2] / "app"
PAGE = APP / "app_pages" / "rewards.py"
Open = Callable[..., AppTest]


@pytest.fixture
def scored(own_home: Path) -> Path:
    fake_rewards.build(own_home / "runs" / "toy_run")
    return own_home


@pytest.fixture
def open_page(use_home: Callable[..., Path], scored: Path) -> Open:
    """The page by itself, with what the URL asks for: a switch of page would drop it."""
    use_home(scored)

    def visit(**query: str) -> AppTest:
        app = AppTest.from_file(str(PAGE), default_timeout=60)
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


def test_towers_explain_themselves_and_name_what_is_not_sure(open_page: Open) -> None:
    app = open_page()
    text = said(app)
    for part in (
        "A **tower** is a small network",
        "The **fused P-Score** reads all towers",
        "the towers order 70% (click) to 71% (long view) rightly",
        "**like**: only 12 positives",
        "**follow**: no tower, no row of train says yes",
        "The loss of the fused score went from",
    ):
        assert part in text
    app.segmented_control(key="reward_measure").set_value("Over all users (AUC)").run()
    assert "Of pairs among all users' items" in said(app)


def test_trees_stand_beside_the_towers_as_soon_as_they_are_there(
    open_page: Open, scored: Path
) -> None:
    assert "the trees" not in said(open_page())
    fake_rewards.build(scored / "runs" / "toy_run", steps=(), rival=True)
    assert "the towers beat the trees on 1 of 2 behaviours" in said(open_page())


def test_without_trees_the_page_says_how_to_get_them(
    open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[object, ...]] = []
    monkeypatch.setattr(jobs, "start_task", lambda *asked: started.append(asked))
    app = open_page()
    assert "Gradient-boosted trees, a model for each behaviour, learn from the same" in said(app)
    app.button(key="rival_start").click().run()
    assert not app.exception
    run, task, words = started[0]
    assert (run.name, task) == ("toy_run", "rival")  # type: ignore[attr-defined]
    assert jobs.command_line(words) == "onerec rival --run toy_run"  # type: ignore[arg-type]


def test_of_a_run_to_read_alone_the_trees_have_a_command(
    use_home: Callable[..., Path], scored: Path, tmp_path: Path
) -> None:
    use_home(tmp_path / "empty", scored)
    app = AppTest.from_file(str(PAGE), default_timeout=60).run()
    assert not app.exception
    assert "for a run of your own: `onerec rival --run toy_run`" in said(app)
    assert not [button for button in app.button if button.key == "rival_start"]


def test_trees_of_a_real_run_are_drawn(
    use_home: Callable[..., Path], aligned: Path, tmp_path: Path
) -> None:
    home = use_home(shutil.copytree(aligned, tmp_path / "real"))
    made = make_rival("first", home)["behaviours"]
    app = AppTest.from_file(str(PAGE), default_timeout=60).run()
    assert not app.exception
    assert not [button for button in app.button if button.key == "rival_start"]
    chart = json.loads(app.get("plotly_chart")[0].proto.spec)
    drawn = {trace["name"]: trace for trace in chart["data"]}["gradient-boosted trees"]
    names = explain.towers(Run(home / "runs" / "first"))["behaviour"]
    places = np.frombuffer(base64.b64decode(drawn["x"]["bdata"]), drawn["x"]["dtype"])
    assert places == pytest.approx([made[name]["gauc"] for name in names])


def test_calibration_of_one_tower(open_page: Open) -> None:
    app = open_page(rewards_view="Calibration")
    assert "Click: predicted 40.0%, happened 36.0%" in said(app)
    app.segmented_control(key="reward_tower").set_value("long view").run()
    assert "Long view: predicted 15.0%" in said(app)


def test_weights_by_round(open_page: Open) -> None:
    text = said(open_page(rewards_view="Weights"))
    assert "1 round raised long view to 1.5" in text
    assert "Pantheon's rule is not satisfied: after round 1" in text
    assert "most on long view (-0.010)" in text


def test_the_composer_begins_with_what_was_recorded(open_page: Open) -> None:
    app = open_page(rewards_view="Composer", step="10")
    assert numbers(app)["New in top 4"] == "0.0"
    assert "No part changes" in said(app)
    assert app.select_slider(key="weight_pscore").value == "1"
    assert app.select_slider(key="weight_like").value == "0.5"
    for part in ("**Industrial reward**: when", "**Format reward**: a few items"):
        assert part in said(app)


def test_other_weights_rank_at_once_and_back(open_page: Open) -> None:
    app = open_page(rewards_view="Composer", step="10", user="4")
    app.select_slider(key="weight_pscore").set_value("0")
    app.select_slider(key="weight_like").set_value("100").run()
    assert not app.exception
    assert float(numbers(app)["New in top 4"]) > 0
    assert "like gains" in said(app)
    assert "Group of user 4" in said(app)
    app.segmented_control(key="reward_weights").set_value("As recorded").run()
    assert "No part changes" in said(app)


def test_no_weight_at_all_is_one_line(open_page: Open) -> None:
    app = open_page(rewards_view="Composer", weight_pscore="0", weight_like="0")
    assert app.error[0].value == (
        "the weights of all rewards are 0: give at least one a weight above 0"
    )


def test_the_industrial_rule_says_whether_it_applies(open_page: Open) -> None:
    app = open_page(rewards_view="Composer", step="10", industrial="Category", limit="1")
    assert "not more than f: no effect" in said(app)
    assert numbers(app)["Items damped"] == "0%"
    app.slider(key="limit").set_value(0.0).run()
    assert "more than f: the rule applies" in said(app)
    assert numbers(app)["Items damped"] != "0%"


def test_the_format_reward_off_and_anew(open_page: Open) -> None:
    app = open_page(rewards_view="Composer", step="10", format_reward="Off")
    assert numbers(app)["Format pushes"] == "0"
    app.segmented_control(key="format_reward").set_value("5 of each group").run()
    assert int(numbers(app)["Format pushes"]) > 0


def test_the_selected_item_is_told_in_words(open_page: Open, scored: Path) -> None:
    group = composer.composed_group(Run(scored / "runs" / "toy_run"), 10, 4)
    best = group.iloc[0]
    app = open_page(rewards_view="Composer", step="10", user="4", item=str(best["item"]))
    wanted = f"**{best['title']}**: reward {best['reward_before']:.4f} → "
    assert wanted in said(app)
    assert "place 1 → 1, advantage" in said(app)


def test_what_of_a_link_cannot_be_followed_is_said(open_page: Open) -> None:
    text = said(
        open_page(
            rewards_view="Composer",
            step="5",
            user="0",
            weight_like="3.14",
            industrial="Category",
            industrial_value="opera",
            alpha="7",
            limit="x",
            format_reward="Always",
        )
    )
    for part in (
        "Step 5 was not recorded in this run; 10 is shown",
        "User 0 has no group in this step; user 4 is shown",
        "“like” to “3.14”, which is not here; 0.5 is shown",
        "“Items with this category” to “opera”, which is not here",
        "“α, the factor of their reward” to “7”, which is not from 0 to 1; 0.5 is shown",
        "“f, the share they may take” to “x”, which is not from 0 to 1; 0.1 is shown",
        "“Format reward” to “Always”",
    ):
        assert part in text
    assert "“Show” to “Nonsense”" in said(open_page(rewards_view="Nonsense"))


def test_a_skipped_stage_says_why(use_home: Callable[..., Path], finished: Path) -> None:
    use_home(finished)
    app = AppTest.from_file(str(PAGE), default_timeout=60).run()
    assert not app.exception
    assert "one **tower** per behaviour" in said(app)
    assert "Run **toy_run** skipped it: a fake run." in said(app)


def test_a_run_without_the_stage_names_the_command(
    use_home: Callable[..., Path], own_home: Path
) -> None:
    (own_home / "runs" / "toy_run" / "reward" / "done.json").unlink()
    use_home(own_home)
    app = AppTest.from_file(str(PAGE), default_timeout=60).run()
    assert not app.exception
    assert "`onerec reward --run toy_run`" in said(app)


def test_a_demo_without_the_stage_leads_to_the_training(
    use_home: Callable[..., Path], own_home: Path, tmp_path: Path
) -> None:
    (own_home / "runs" / "toy_run" / "reward" / "done.json").unlink()
    use_home(tmp_path / "empty", own_home)
    app = AppTest.from_file(str(PAGE), default_timeout=60).run()
    assert not app.exception
    assert "Train a run of your own with the recipe `tiny`" in said(app)
    assert "Train a run (page train)" in said(app), "a page alone names what main.py links to"


def test_a_run_on_its_way_says_where_it_is(use_home: Callable[..., Path], own_home: Path) -> None:
    folder = own_home / "runs" / "toy_run"
    (folder / "reward" / "done.json").unlink()
    begun = psutil.Process().create_time()
    status = {"pid": os.getpid(), "process_started": begun, "heartbeat": time.time()}
    status |= {"stage": "pretrain", "step": 7, "of": 60, "state": "running", "message": ""}
    fake_rewards.write(folder / "status.json", status)
    use_home(own_home)
    app = AppTest.from_file(str(PAGE), default_timeout=60).run()
    assert not app.exception
    assert "Run **toy_run** is at stage pretrain, step 7 of 60." in said(app)


def test_the_composer_without_a_recorded_step_names_the_command(
    open_page: Open, scored: Path
) -> None:
    for path in (scored / "runs" / "toy_run" / "rollouts").iterdir():
        path.unlink()
    assert "`onerec align --run toy_run`" in said(open_page(rewards_view="Composer"))
    assert "the towers order" in said(open_page())


@pytest.mark.slow
def test_no_part_of_the_page_imports_torch(scored: Path, tmp_path: Path) -> None:
    script = f"""
import sys
from streamlit.testing.v1 import AppTest
for part in ("Towers", "Calibration", "Weights", "Composer"):
    app = AppTest.from_file({str(PAGE)!r}, default_timeout=60)
    app.query_params["rewards_view"] = part
    app.query_params["industrial"] = "Category"
    assert not app.run().exception, part
sys.exit("torch" in sys.modules)
"""
    folders = (str(APP), str(APP.parent))
    env = {**os.environ, "ONEREC_HOME": str(scored), "ONEREC_DEMO": str(tmp_path / "no_demo")}
    env |= {"PYTHONPATH": os.pathsep.join(folders)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, cwd=APP.parent, capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]


def test_no_run_at_all(use_home: Callable[..., Path], tmp_path: Path) -> None:
    use_home(tmp_path / "empty")
    app = AppTest.from_file(str(PAGE), default_timeout=60).run()
    assert not app.exception
    assert "There is no run yet" in said(app)


@pytest.mark.parametrize("name", ["reward/report.json", "rollouts/step-000010.parquet"])
def test_a_damaged_file_is_an_error_line(
    use_home: Callable[..., Path], scored: Path, name: str
) -> None:
    path = scored / "runs" / "toy_run" / name
    path.write_bytes(path.read_bytes()[:200])
    use_home(scored)
    app = AppTest.from_file(str(APP / "main.py"), default_timeout=60).run()
    app.switch_page("app_pages/rewards.py").run()
    if name.startswith("rollouts"):
        app.segmented_control(key="rewards_view").set_value("Composer").run()
    assert not app.exception
    assert Path(name).name in app.error[0].value


def test_the_link_of_the_page_opens_the_same_view(
    use_home: Callable[..., Path], scored: Path
) -> None:
    use_home(scored)
    app = AppTest.from_file(str(APP / "main.py"), default_timeout=60).run()
    app.switch_page("app_pages/rewards.py").run()
    app.segmented_control(key="rewards_view").set_value("Composer").run()
    app.select_slider(key="weight_click").set_value("5").run()
    app.run()  # the sidebar is drawn first: it knows the page's widgets from the run before
    address = next(block.value for block in app.sidebar.get("code"))
    asked = parse_qs(urlsplit(address).query)
    assert asked["rewards_view"] == ["Composer"]
    assert asked["weight_click"] == ["5"]
    assert asked["weight_like"] == ["0.5"]
