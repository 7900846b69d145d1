"""Online in words: its tables are named for people, and the demo says what to do next."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import fake_rewards
import fake_streams
import pytest
import stream_parts
from streamlit.testing.v1 import AppTest

from onerec.explain import online
from onerec.runs import Run

PAGE = Path(__file__).resolve().parents[2] / "app" / "app_pages" / "online.py"


@pytest.fixture
def streamed(own_home: Path) -> Path:
    """A run with a reward model and one stream."""
    run = fake_rewards.build(own_home / "runs" / "toy_run")
    fake_streams.build(run, "ecpo", arm="rsft_ecpo")
    return run


def said(app: AppTest) -> str:
    return "\n".join(box.value for kind in (app.info, app.caption) for box in kind)


def test_the_tables_have_names_for_people(use_home: Callable[..., Path], streamed: Path) -> None:
    assert set(stream_parts.STREAMS) == set(online.STREAM_COLUMNS)
    use_home(streamed.parents[1])
    app = AppTest.from_file(str(PAGE), default_timeout=60)
    app.query_params["online_view"] = "Visits"
    app.run()
    assert not app.exception
    labels = [json.loads(table.proto.columns) for table in app.dataframe]
    visitors = {name: column.get("label") for name, column in labels[0].items()}
    assert visitors["true_watch_s"] == "True watch time (s)"
    assert "long view" in "".join(app.dataframe[1].value["behaviours"])
    assert "_" not in "".join(app.dataframe[1].value["behaviours"])
    assert set(app.dataframe[2].value["value"]) == {"true watch time"}


def test_the_demo_without_a_stream_leads_to_the_training(
    use_home: Callable[..., Path], streamed: Path, tmp_path: Path
) -> None:
    shutil.rmtree(streamed / "stream")
    use_home(tmp_path / "empty", streamed.parents[1])
    app = AppTest.from_file(str(PAGE), default_timeout=60).run()
    assert not app.exception
    assert "train a run of your own with the recipe `tiny`" in said(app)
    assert "Train a run (page train)" in said(app), "a page alone names what main.py links to"


def test_the_demo_with_streams_says_how_to_make_ones_own(
    use_home: Callable[..., Path], streamed: Path, tmp_path: Path
) -> None:
    use_home(tmp_path / "empty", streamed.parents[1])
    app = AppTest.from_file(str(PAGE), default_timeout=60).run()
    assert not app.exception
    assert "The demo is only read: train a run of your own" in said(app)
    app.query_params["hide"] = "train"
    assert "The demo is only read" not in said(app.run())


def test_two_streams_say_from_which_round_they_can_differ(
    use_home: Callable[..., Path], streamed: Path
) -> None:
    use_home(streamed.parents[1])
    alone = AppTest.from_file(str(PAGE), default_timeout=60).run()
    assert "serve the same weights" not in said(alone)
    fake_streams.build(streamed, "frozen")
    fake_streams.build(streamed, "slow", arm="rsft", lag=50)
    run = Run(streamed)
    told = stream_parts.first_served(run, ("ecpo", "frozen"))
    assert told == (
        " Up to round 2 all serve the same weights: round 3 is the first that is served by what "
        "was learned."
    )
    assert stream_parts.first_served(run, ("slow", "frozen")) == "", "none of its three rounds"
    app = AppTest.from_file(str(PAGE), default_timeout=60)
    app.query_params["stream"] = "ecpo"
    assert told in said(app.run())
    app.query_params["online_view"] = "A/B"
    assert told in said(app.run())
