"""Online: its three views, the form, the states of a stream, and links that cannot be followed."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch
from urllib.parse import parse_qs, urlsplit

import fake_rewards
import fake_streams
import jobs
import psutil
import pytest
import stream_form
import stream_live
from peers import cpu_seconds, two_bare_figures
from streamlit.testing.v1 import AppTest

from onerec.explain import online
from onerec.runs import Run

APP = Path(__file__).resolve().parents[2] / "app"
PAGE = APP / "app_pages" / "online.py"
Open = Callable[..., AppTest]


@pytest.fixture
def folder(own_home: Path) -> Path:
    """A run with a reward model, and two streams with the same people."""
    run = fake_rewards.build(own_home / "runs" / "toy_run")
    fake_streams.build(run, "frozen")
    fake_streams.build(run, "ecpo", arm="rsft_ecpo", lift=20.0)
    return run


@pytest.fixture
def open_page(use_home: Callable[..., Path], folder: Path) -> Open:
    """The page by itself, with what the URL asks for: a switch of page would drop it."""
    use_home(folder.parents[1])

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


def buttons(app: AppTest) -> set[str]:
    return {button.label for button in app.button}


def numbers(app: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in app.metric}


def test_curves_of_all_streams_with_the_same_people(open_page: Open, folder: Path) -> None:
    fake_streams.build(folder, "elsewhere", seed=3)
    app = open_page(stream="ecpo")
    assert "without the luck of the day" in app.segmented_control(key="online_value").help
    assert all(metric.help for metric in app.metric), "a loss or a reward is no common word"
    text = said(app)
    for part in (
        "A **round** is one day",
        "`rsft` from the half with the most play time",
        "Stream ecpo  :green-badge[:material/check_circle: done]",
        "ecpo has the most true watch time a visit: 190.3 s; the least is frozen's, 177.0 s",
        "Next-token loss went from 2.000 to 0.667",
        "Not in the picture, since other people came or saw more: elsewhere.",
    ):
        assert part in text
    assert numbers(app)["Share of legal items"] == "90.0%"
    app.segmented_control(key="online_value").set_value("Positive answers").run()
    assert "positive answers" in said(app)
    assert "rsft_ecpo" not in said(open_page(stream="frozen")).partition("Stream frozen")[2]


def test_the_ab_of_two_streams(open_page: Open) -> None:
    app = open_page(stream="ecpo", online_view="A/B")
    assert app.segmented_control(key="against").value == "frozen"
    assert "ecpo is ahead of frozen: +13.3 s (95%: " in said(app)
    assert numbers(app) == {"ecpo": "190.3 s", "frozen": "177.0 s", "Difference": "+13.3 s"}


def test_streams_of_other_people_are_refused_in_one_line(open_page: Open, folder: Path) -> None:
    fake_streams.build(folder, "elsewhere", seed=3)
    app = open_page(stream="ecpo", online_view="A/B", against="elsewhere")
    assert len(app.error) == 1
    assert "differ in seed (0 and 3)" in app.error[0].value
    assert not app.metric


@pytest.fixture
def second(folder: Path) -> Path:
    """Another run of the same data with one stream, which is worth more."""
    made = folder.with_name("second")
    shutil.copytree(folder, made, ignore=shutil.ignore_patterns("stream"))
    fake_streams.build(made, "ecpo", arm="rsft_ecpo", lift=40.0)
    fake_streams.build(made, "elsewhere", seed=3)
    return made


def test_the_ab_of_two_runs(open_page: Open, second: Path) -> None:
    app = open_page(run="toy_run", stream="ecpo", online_view="A/B", against_run="second")
    assert app.segmented_control(key="against_run").options == ["toy_run", "second"]
    assert app.segmented_control(key="against").options == ["ecpo", "elsewhere"]
    assert "ecpo of toy_run is behind ecpo of second: -13.3 s (95%: " in said(app)
    names = {"ecpo of toy_run": "190.3 s", "ecpo of second": "203.7 s", "Difference": "-13.3 s"}
    assert numbers(app) == names
    assert "all serve the same weights" not in said(app), "two runs never did"
    app.session_state["ab_true_watch_s_more"] = True  # what stands below the picture is open
    lines = command(app.run())
    assert "other='second'" in lines
    assert "--run toy_run --name ecpo" in lines
    assert "--run second --name ecpo" in lines
    app.segmented_control(key="against").set_value("elsewhere").run()
    assert "'elsewhere' of run 'second' differ in seed (0 and 3)" in app.error[0].value
    app.segmented_control(key="against_run").set_value("toy_run").run()
    assert "ecpo is ahead of frozen: +13.3 s" in said(app)


def test_a_run_without_a_second_stream_can_be_compared_with_another(
    open_page: Open, folder: Path, second: Path
) -> None:
    shutil.rmtree(folder / "stream" / "frozen")
    app = open_page(run="toy_run", online_view="A/B")
    assert "Or choose another run above." in said(app)
    app.segmented_control(key="against_run").set_value("second").run()
    assert not app.exception
    assert "ecpo of toy_run is behind ecpo of second" in said(app)


def test_another_streams_new_round_is_read_anew(folder: Path, second: Path) -> None:
    both = stream_live.Streamed(folder, second)
    before = both.stamp()
    fake_streams.add_round(second / "stream" / "ecpo", 4, 40.0, learns=True)
    assert both.stamp() != before
    assert stream_live.Streamed(folder).stamp() not in (before, both.stamp())


def test_what_was_not_served_yet_is_said(open_page: Open, folder: Path) -> None:
    fake_streams.build(folder, "slow", arm="all", lag=50)
    app = open_page(stream="slow", online_view="A/B")
    assert "served alike over 3 rounds: no difference for anybody" in said(app)
    assert "every 50 steps, round 27 is the first that it can change" in said(app)


def test_one_stream_alone_asks_for_a_second(use_home: Callable[..., Path], own_home: Path) -> None:
    fake_streams.build(fake_rewards.build(own_home / "runs" / "toy_run"))
    use_home(own_home)
    app = AppTest.from_file(str(PAGE), default_timeout=60)
    app.query_params["online_view"] = "A/B"
    app.run()
    assert not app.exception
    assert "An A/B needs a second stream" in said(app)


def test_visits_of_a_round(open_page: Open) -> None:
    app = open_page(stream="ecpo", online_view="Visits", round="2", user="5")
    assert "User 5 in round 2: 4 items, 2 with an answer, 30 s of play" in said(app)
    shown = next(frame.value for frame in app.dataframe if "behaviours" in frame.value)
    assert shown["title"].tolist()[0] == "music clip 7"
    app.selectbox(key="round").set_value("1").run()
    assert "User 5 in round 1" in said(app)
    app = open_page(stream="ecpo", online_view="Visits", round="9", user="20")
    assert "“Round” to “9”, which is not here; 3 is shown" in said(app)
    assert "User 20 did not come in round 3; user 6 is shown" in said(app)


def test_all_streams_in_a_table(open_page: Open) -> None:
    table = next(frame.value for frame in open_page().dataframe if "sent" in frame.value)
    assert table["stream"].tolist() == ["frozen", "ecpo"]


def test_bad_parameters_fall_back_and_say_so(open_page: Open) -> None:
    app = open_page(
        stream="gone", online_view="Nonsense", online_value="Joy", arm="rfst", user="banana"
    )
    for part in ("Stream” to “gone”", "Show” to “Nonsense”", "Counted” to “Joy”", "Arm” to “rfst”"):
        assert part in said(app)
    assert "Stream frozen" in said(app)
    assert "“Against” to “gone”" in said(open_page(online_view="A/B", against="gone"))


# ------------------------------------------------------------------ empty states


def test_without_a_reward_model_it_says_what_to_run(
    use_home: Callable[..., Path], own_home: Path
) -> None:
    use_home(own_home)
    app = AppTest.from_file(str(PAGE), default_timeout=60).run()
    assert not app.exception
    assert "Run **toy_run** skipped it" in said(app)
    (own_home / "runs" / "toy_run" / "reward" / "done.json").unlink()
    app.run()
    assert "`onerec reward --run toy_run`" in said(app)
    assert "Start the stream" not in buttons(app)


def test_without_a_stream_it_names_the_command(
    use_home: Callable[..., Path], own_home: Path
) -> None:
    fake_rewards.build(own_home / "runs" / "toy_run")
    use_home(own_home)
    app = AppTest.from_file(str(PAGE), default_timeout=60).run()
    assert not app.exception
    assert "`onerec stream --run toy_run --arm rsft_ecpo`" in said(app)
    assert next(box for box in app.expander if "Start" in box.label).proto.expanded


def test_no_run_at_all(use_home: Callable[..., Path], tmp_path: Path) -> None:
    use_home(tmp_path / "empty")
    app = AppTest.from_file(str(PAGE), default_timeout=60).run()
    assert not app.exception
    assert "There is no run yet" in said(app)


# ------------------------------------------------------------------ states and controls


def living(**values: object) -> dict[str, object]:
    """Said by this very process, now."""
    now = {"pid": os.getpid(), "process_started": psutil.Process().create_time()}
    return {**now, "heartbeat": time.time(), "step": 2, "of": 3, **values}


@pytest.mark.parametrize(
    ("values", "state", "offered"),
    [
        ({"state": "running"}, "running", {"Pause", "Stop"}),
        ({"state": "paused"}, "paused", {"Go on", "One round", "Stop"}),
        ({"state": "running", "heartbeat": 1.0}, "stalled", {"End it now"}),
        ({"state": "running", "pid": 999_999_999}, "interrupted", {"Resume"}),
        ({"state": "failed", "message": "loss is not finite"}, "failed", {"Resume"}),
        ({"state": "stopped"}, "stopped", {"Resume"}),
        ({"state": "done"}, "done", set()),
    ],
)
def test_every_state_is_named_and_offers_the_next_step(
    open_page: Open, folder: Path, values: dict[str, object], state: str, offered: set[str]
) -> None:
    fake_streams.status(folder / "stream" / "ecpo", **living(**values))
    app = open_page(stream="ecpo")
    assert any(f" {state}]" in heading.value for heading in app.header)
    controls = {"Pause", "Go on", "One round", "Stop", "Resume", "End it now"}
    assert buttons(app) & controls == offered
    if state == "failed":
        assert "loss is not finite" in [box.value for box in app.error]
    if state == "interrupted":
        assert "Resume goes on after the last whole round" in said(app)


def test_a_press_reaches_the_process_through_the_folder(open_page: Open, folder: Path) -> None:
    stream = folder / "stream" / "ecpo"
    fake_streams.status(stream, **living(state="running"))
    app = open_page(stream="ecpo")
    next(button for button in app.button if button.label == "Pause").click().run()
    assert json.loads((stream / "control.json").read_text())["pause"] is True


def test_a_start_that_was_refused_is_explained_and_can_be_removed(
    open_page: Open, folder: Path
) -> None:
    stream = folder / "stream" / "refused"
    stream.mkdir()
    (stream / "log.txt").write_text("onerec: this log has no exact times\n")
    launch = {"pid": 999_999_999, "process_started": 1.0, "time": time.time(), "command": []}
    (stream / "launch.json").write_text(json.dumps(launch))
    app = open_page(stream="refused")
    assert "this log has no exact times" in app.error[0].value
    assert "Resume" not in buttons(app)
    next(button for button in app.button if button.label == "Remove this stream").click().run()
    assert not app.exception
    assert not stream.exists()


def test_a_stream_that_is_starting_says_so(open_page: Open, folder: Path) -> None:
    stream = folder / "stream" / "new"
    stream.mkdir()
    me = {"pid": os.getpid(), "process_started": psutil.Process().create_time()}
    (stream / "launch.json").write_text(json.dumps({**me, "time": time.time(), "command": []}))
    app = open_page(stream="new")
    assert "the first round takes a few seconds" in said(app)
    assert "Counted" not in [control.label for control in app.segmented_control]


# ------------------------------------------------------------------ the form


def command(app: AppTest) -> str:
    return " ".join(block.value for block in app.main.get("code"))


def test_the_form_knows_every_arm_and_the_usual_numbers() -> None:
    from onerec.stream import ARMS, StreamConfig
    from onerec.stream.config import ROUNDS

    usual = StreamConfig()
    assert set(stream_form.ARMS) == set(ARMS)
    assert next(iter(stream_form.ARMS)) == usual.arm
    assert usual.share == stream_form.SHARE
    assert stream_form.ROUNDS == ROUNDS
    for key, (_, least, greatest, value, _) in stream_form.NUMBERS.items():
        assert value == getattr(usual, key)
        StreamConfig(**{key: least})
        StreamConfig(**{key: greatest})


def test_the_command_follows_the_form(open_page: Open) -> None:
    app = open_page(arm="rsft")
    app.number_input(key="stream_rounds").set_value(4)
    app.number_input(key="stream_share").set_value(0.25).run()
    line = "onerec stream --run toy_run --name rsft --arm rsft --rounds 4 --steps 20 --lag 20"
    assert f"{line} --seed 0 --share 0.25" in command(app)
    assert "Round 3 is the first that is served by weights that learned" in said(app)
    app.number_input(key="stream_lag").set_value(100).run()
    assert "round 7 would be the first to be served by what was learned" in said(app)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("rounds", 0, "Rounds is 0: choose from 1 to 1,000"),
        ("steps", -3, "Steps a round is -3: choose from 1 to 10,000"),
        ("lag", 200_000, "Lag in steps is 200,000: choose from 0 to 100,000"),
        ("share", 1.5, "Share of the users is 1.5: choose from 0.01 to 1"),
    ],
)
def test_a_number_that_does_not_fit_is_told_and_starts_nothing(
    open_page: Open, key: str, value: float, words: str
) -> None:
    """Once the usual number took its place, and the command was of that."""
    app = open_page(arm="rsft")
    app.number_input(key=f"stream_{key}").set_value(value).run()
    assert words in said(app)
    assert "onerec stream --run toy_run --name rsft" not in command(app)
    assert not [button for button in app.button if button.key == "stream_go"]


def test_without_a_number_of_rounds_the_command_takes_what_there_is(open_page: Open) -> None:
    """A log that is played back may have fewer days than the usual twenty rounds."""
    app = open_page(arm="rsft")
    assert app.number_input(key="stream_rounds").value is None
    assert "--rounds" not in command(app)
    assert "--arm rsft --steps 20" in command(app)
    app.number_input(key="stream_lag").set_value(1_000).run()
    assert "and there are 20" in said(app)


def test_what_is_said_of_the_arms_is_so(open_page: Open) -> None:
    assert "All arms but `frozen`, which takes none, take the same number" in said(open_page())


def test_the_proposed_name_is_free(open_page: Open) -> None:
    assert open_page(arm="frozen").text_input(key="stream_name").value == "frozen-2"


def test_start_uses_what_was_typed_last_and_selects_the_stream(
    open_page: Open, folder: Path
) -> None:
    def begin(run: Run, name: str, words: list[str]) -> None:
        (run.path / "stream" / name).mkdir()
        begun.append((run.path, name, words))

    begun: list[tuple[Path, str, list[str]]] = []
    with patch.object(jobs, "start_stream", begin):
        app = open_page(online_view="Visits")
        app.text_input(key="stream_name").set_value("fresh")
        app.button(key="stream_go").click().run()
    assert not app.exception
    assert [(path, name) for path, name, _ in begun] == [(folder, "fresh")]
    assert begun[0][2][:8] == [
        *(sys.executable, "-m", "onerec", "stream"),
        *("--run", "toy_run", "--name", "fresh"),
    ]
    assert app.segmented_control(key="stream").value == "fresh"
    assert app.segmented_control(key="online_view").value == "Curves"


@pytest.mark.parametrize(
    ("name", "says"),
    [("ecpo", "stream ecpo exists"), ("../out", "name of the stream '../out': use up to 80")],
)
def test_a_name_that_cannot_be_is_refused(open_page: Open, name: str, says: str) -> None:
    with patch.object(jobs, "start_stream") as begin:
        app = open_page()
        app.text_input(key="stream_name").set_value(name)
        app.button(key="stream_go").click().run()
    begin.assert_not_called()
    assert says in app.error[0].value


def test_teachers_links_and_the_demo_have_no_form_and_no_controls(
    open_page: Open, use_home: Callable[..., Path], folder: Path, tmp_path: Path
) -> None:
    fake_streams.status(folder / "stream" / "ecpo", **living(state="stopped"))
    for query in ({"hide": "train"}, {"lock": "1"}):
        assert "Start the stream" not in buttons(open_page(stream="ecpo", **query))
    assert "Resume" not in buttons(open_page(stream="ecpo", hide="train"))
    use_home(tmp_path / "empty", folder.parents[1])
    app = AppTest.from_file(str(PAGE), default_timeout=60)
    app.query_params["stream"] = "ecpo"
    app.run()
    assert not app.exception
    assert "Stream ecpo" in said(app)
    assert not buttons(app) & {"Resume", "Start the stream"}


# ------------------------------------------------------------------ the whole


def test_the_link_of_the_page_opens_the_same_view(
    use_home: Callable[..., Path], folder: Path
) -> None:
    use_home(folder.parents[1])
    app = AppTest.from_file(str(APP / "main.py"), default_timeout=60).run()
    app.switch_page("app_pages/online.py").run()
    app.segmented_control(key="online_view").set_value("A/B").run()
    app.run()  # the sidebar is drawn first: it knows the page's widgets from the run before
    address = next(block.value for block in app.sidebar.get("code"))
    asked = parse_qs(urlsplit(address).query)
    assert asked["online_view"] == ["A/B"]
    assert asked["stream"] == ["frozen"]
    assert asked["against"] == ["ecpo"]


def test_a_damaged_file_is_an_error_line(use_home: Callable[..., Path], folder: Path) -> None:
    path = folder / "stream" / "ecpo" / "rounds" / "values-000002.parquet"
    path.write_bytes(path.read_bytes()[:40])
    use_home(folder.parents[1])
    app = AppTest.from_file(str(APP / "main.py"), default_timeout=60).run()
    app.switch_page("app_pages/online.py").run()
    assert not app.exception
    assert "delete the stream's folder" in app.error[0].value


def test_a_second_of_the_live_view_is_cheap(folder: Path) -> None:
    """Against two figures that read nothing, in the same run: about twice their CPU time."""
    from onerec.viz import online as draw

    run = Run(folder)

    def body() -> None:
        stream = online.opened(run, "ecpo")
        jobs.status(stream)
        stream.metrics(online.STAGE)
        draw.curves(online.curves(run, ["ecpo", "frozen"]))

    assert cpu_seconds(body) < 6 * cpu_seconds(two_bare_figures)


@pytest.mark.slow
def test_no_part_of_the_page_imports_torch(folder: Path, tmp_path: Path) -> None:
    script = f"""
import sys
from streamlit.testing.v1 import AppTest
for part in ("Curves", "A/B", "Visits"):
    app = AppTest.from_file({str(PAGE)!r}, default_timeout=60)
    app.query_params["online_view"] = part
    assert not app.run().exception, part
sys.exit("torch" in sys.modules)
"""
    env = {**os.environ, "ONEREC_HOME": str(folder.parents[1]), "ONEREC_DEMO": str(tmp_path)}
    env |= {"PYTHONPATH": os.pathsep.join((str(APP), str(APP.parent)))}
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, cwd=APP.parent, capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
