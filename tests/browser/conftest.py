"""An installed Chromium, and the app over a home with one finished run."""

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(folder) for folder in (TESTS, TESTS / "browser")]

import fake_run  # noqa: E402
from app_server import Server, serve, settled  # noqa: E402

expect.set_options(timeout=20_000)  # a slow machine under load is no failure
# The first is a Chromium without windows, which costs a third less.
CANDIDATES = (
    *("chromium-headless-shell", "chromium", "chromium-browser"),
    *("google-chrome", "google-chrome-stable"),
)


@pytest.fixture(scope="session")
def base_url() -> str:
    """Instead of the plugin's own fixture, which this pytest warns about."""
    return ""


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args: dict[str, Any]) -> dict[str, Any]:
    """The system's Chromium where there is one, else the one that Playwright installed."""
    path = next((found for name in CANDIDATES if (found := shutil.which(name))), None)
    own = {"executable_path": path} if path else {}
    if not path and not list(Path.home().glob(".cache/ms-playwright/chromium*")):
        pytest.skip("no Chromium: install one, or run `playwright install chromium`")
    return {**browser_type_launch_args, **own, "args": ["--no-sandbox", "--disable-gpu"]}


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The app over a home with one finished run."""
    folder = tmp_path_factory.mktemp("served")
    fake_run.build(folder / "home")
    yield from serve(folder / "home", folder / "no_demo", folder / "server.log")


@pytest.fixture
def visit(page: Page, server: Server) -> Callable[[str], Page]:
    """Open a path of the app and wait until the script has run."""

    def go(path: str) -> Page:
        page.goto(f"{server.url}/{path}")
        settled(page)
        return page

    return go
