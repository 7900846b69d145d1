"""A person starts a stream, reloads in the middle, sees it go on, and compares two arms."""

import contextlib
import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import fake_rewards
import fake_run
import fake_streams
import pytest
import toy_home
from app_server import Server, serve, settled
from looks import faults
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser
VIEWS = (
    "online?stream=ecpo",
    "online?stream=ecpo&online_view=A%2FB",
    "online?stream=ecpo&online_view=Visits&round=2&user=5",
)


@pytest.fixture(scope="module")
def streamed_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The app over a home with one run that has a reward model and two streams."""
    folder = tmp_path_factory.mktemp("streamed")
    run = fake_rewards.build(fake_run.build(folder / "home").run)
    fake_streams.build(run, "frozen")
    fake_streams.build(run, "ecpo", arm="rsft_ecpo", lift=20.0)
    yield from serve(folder / "home", folder / "no_demo", folder / "server.log")


@pytest.fixture
def go(page: Page, streamed_server: Server) -> Callable[[str], Page]:
    def visit(path: str) -> Page:
        page.goto(f"{streamed_server.url}/{path}")
        settled(page)
        return page

    return visit


def test_from_curves_to_the_ab_to_one_visit(go: Callable[[str], Page]) -> None:
    page = go("online?stream=ecpo")
    expect(page.get_by_text("ecpo has the most true watch time a visit")).to_be_visible()
    page.get_by_role("radio", name="A/B").click()
    expect(page.get_by_text(re.compile(r"ecpo is ahead of frozen: \+13\.3 s"))).to_be_visible()
    page.get_by_role("radio", name="Positive answers").click()
    expect(page.get_by_text("have served alike over 3 rounds")).to_be_visible()
    expect(page).to_have_url(re.compile("(?=.*online_view=A)(?=.*online_value=Positive)"))
    page.reload()
    settled(page)
    expect(page.get_by_text("have served alike over 3 rounds")).to_be_visible()
    page.get_by_role("radio", name="Visits").click()
    expect(page.get_by_text("User 6 in round 3: 4 items")).to_be_visible()
    mark = page.get_by_test_id("stSidebar").get_by_label("User", exact=True)
    mark.fill("9")
    mark.press("Enter")
    expect(page.get_by_text("User 9 in round 3: 4 items")).to_be_visible()
    expect(page.get_by_test_id("stException")).to_have_count(0)


@pytest.mark.parametrize("path", VIEWS)
def test_every_view_looks_right(go: Callable[[str], Page], path: str) -> None:
    assert faults(go(path)) == []


@pytest.fixture
def world_server(tmp_path: Path) -> Iterator[Server]:
    """The app over a small world with a run that is really trained, and its frozen arm."""
    from onerec.data.sources.world import make_world_dataset
    from onerec.pipeline import run as run_stages
    from onerec.stream import StreamConfig, stream
    from onerec.world import WorldConfig

    home = tmp_path / "home"
    make_world_dataset("w", WorldConfig(n_items=500, n_users=120, mean_history=25), home)
    changes = {**toy_home.ALIGNED, "evaluate.split": "temporal", "history.item_input": "codes"}
    recipe = toy_home.make_recipe(changes)
    run_stages("r", recipe, "w", home=home, stages=("tokenize", "pretrain", "reward", "align"))
    config = StreamConfig(arm="frozen", rounds=5, steps=4, lag=4, share=0.4)
    stream("r", config, home=home)
    yield from serve(home, tmp_path / "no_demo", tmp_path / "server.log")
    for launch in home.glob("runs/*/stream/*/launch.json"):  # a process outlives a server
        with contextlib.suppress(ProcessLookupError):
            os.killpg(json.loads(launch.read_text())["pid"], signal.SIGKILL)


@pytest.mark.slow
def test_start_a_stream_reload_in_the_middle_and_compare(page: Page, world_server: Server) -> None:
    """The real `onerec stream`: start, pause, one round, reload, go on to the end, the A/B."""
    page.set_default_timeout(30_000)
    page.goto(f"{world_server.url}/online")
    settled(page)
    expect(page.get_by_role("heading", name=re.compile("Stream frozen .*done"))).to_be_visible()
    page.get_by_text("Start a stream of this run").click()
    page.get_by_role("radio", name="rsft_ecpo").click()
    fill(page, {"Rounds": "60", "Steps a round": "4", "Lag in steps": "4"})
    fill(page, {"Share of the users": "0.4", "Name of the stream": "journey"})
    expect(page.get_by_text("--name journey")).to_be_visible()
    expect(page.get_by_text("--share 0.4")).to_be_visible()
    page.get_by_role("button", name="Start the stream").click()
    expect(page.get_by_role("heading", name="Stream journey")).to_be_visible()
    expect(page.get_by_text(re.compile(r"round [1-9]\d* of 60"))).to_be_visible(timeout=120_000)
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("heading", name=re.compile("journey .*paused"))).to_be_visible()
    at = round_of(page)
    page.get_by_role("button", name="One round").click()
    expect(page.get_by_text(f"round {at + 1} of 60")).to_be_visible()
    page.reload()
    settled(page)
    expect(page.get_by_role("heading", name=re.compile("journey .*paused"))).to_be_visible()
    assert round_of(page) == at + 1
    page.get_by_role("button", name="Go on").click()
    expect(page.get_by_text(f"round {at + 1} of 60")).to_have_count(0)
    # Streamlit's own header has a Stop while a script runs.
    page.get_by_test_id("stMain").get_by_role("button", name="Stop").click()
    expect(page.get_by_role("heading", name=re.compile("journey .*stopped"))).to_be_visible()
    page.get_by_role("button", name="Resume").click()
    done = page.get_by_role("heading", name=re.compile("journey .*done"))
    expect(done).to_be_visible(timeout=180_000)
    expect(page.get_by_text(re.compile("Over the 5 rounds that all have done"))).to_be_visible()
    page.get_by_role("radio", name="A/B").click()
    expect(page.get_by_text(re.compile(r"journey .* frozen: [+-].* over 5 rounds"))).to_be_visible()
    expect(page.get_by_test_id("stException")).to_have_count(0)


def fill(page: Page, values: dict[str, str]) -> None:
    for label, value in values.items():
        box = page.get_by_label(label, exact=True)
        box.fill(value)
        box.press("Enter")
        settled(page)


def round_of(page: Page) -> int:
    """The round that the progress bar names."""
    text = page.get_by_text(re.compile(r"round \d+ of 60")).inner_text()
    return int(re.search(r"round (\d+)", text)[1])  # type: ignore[index]
