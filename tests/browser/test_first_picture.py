"""The first picture of the app stands within three seconds, also for a server's first visitor.

On a machine that is busy with other work, or slow, seconds say little: there the bound is what a
page of one picture and nothing else takes, served and opened in the same way just before.
"""

import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from app_server import ROOT, Server, serve
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser
LIMIT_SECONDS = 3.0
TIMES_A_BARE_PAGE = 3.0
BARE_PAGE = """
import numpy as np
import streamlit as st

st.title("bare")
with st.container(key="pipeline_wide"):
    st.image(np.zeros((8, 8), dtype=np.uint8))
"""
PICTURE = ".st-key-pipeline_wide img"
IS_DRAWN = f"() => document.querySelector('{PICTURE}')?.naturalWidth > 0"


def seconds_to_the_picture(page: Page, url: str) -> float:
    begun = time.monotonic()
    page.goto(url)
    page.wait_for_function(IS_DRAWN, timeout=20_000)
    seconds = time.monotonic() - begun
    expect(page.locator(PICTURE)).to_be_visible()
    return seconds


def opened(page: Page, folder: Path) -> tuple[float, float, float]:
    """Seconds to the picture: of a page that has nothing else, of the app, and of the app again.

    Each has a server that nobody has opened yet, the app over the shipped demo, as `make app`
    starts it.
    """
    folder.mkdir()
    script = folder / "bare.py"
    script.write_text(BARE_PAGE)
    page.goto("about:blank")  # the browser's own start is nobody's
    with contextmanager(serve)(folder, folder, folder / "bare.log", script) as bare:
        alone = seconds_to_the_picture(page, bare.url)
    demo = ROOT / "data" / "demo"
    with contextmanager(serve)(folder / "home", demo, folder / "server.log") as server:
        first = seconds_to_the_picture(page, server.url)
        again = seconds_to_the_picture(page, server.url)
    assert page.get_by_test_id("stException").count() == 0
    return alone, first, again


def test_the_very_first_opening_of_a_fresh_server(page: Page, tmp_path: Path) -> None:
    """The seconds of whoever starts the app and opens it.

    Asked twice where it was too slow, for what a machine does beside is nobody's: each time with
    servers of its own.
    """

    def over(alone: float, first: float, again: float) -> float:
        """Seconds above what is allowed."""
        return max(first, again) - max(LIMIT_SECONDS, TIMES_A_BARE_PAGE * alone)

    taken = [opened(page, tmp_path / "once")]
    if over(*taken[0]) >= 0:
        taken.append(opened(page, tmp_path / "again"))
    assert min(over(*one) for one in taken) < 0, taken


def test_home_stands_without_plotly(page: Page, server: Server) -> None:
    """Its 4.7 MB of script kept the first picture waiting for a second or more."""
    page.goto(server.url)
    expect(
        page.get_by_text("recall@10 of").or_(page.get_by_text("leads: recall@10"))
    ).to_be_visible()
    page.wait_for_load_state("networkidle")
    loaded = page.evaluate("performance.getEntriesByType('resource').map(entry => entry.name)")
    assert any("static/js" in name for name in loaded)
    assert not [name for name in loaded if "Plotly" in name]
    page.get_by_role("radio", name="Bars").click()
    expect(page.locator(".js-plotly-plot .main-svg").first).to_be_visible(timeout=20_000)
