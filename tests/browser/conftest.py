"""A server on a free port, its home, and an installed Chromium."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import fake_run  # noqa: E402

IDLE = '[data-testid="stApp"][data-test-script-state="notRunning"]'
CANDIDATES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@dataclass
class Server:
    url: str
    home: Path


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


def serve(home: Path, demo: Path, log: Path) -> Iterator[Server]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", "app/main.py"]
    command += ["--server.port", str(port), "--server.headless", "true"]
    command += ["--server.fileWatcherType", "none"]
    env = {**os.environ, "ONEREC_HOME": str(home), "ONEREC_DEMO": str(demo)}
    env |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with log.open("wb") as out:
        server = subprocess.Popen(command, cwd=ROOT, env=env, stdout=out, stderr=out)
        try:
            _wait_for(f"http://127.0.0.1:{port}/_stcore/health", server, log)
            yield Server(f"http://127.0.0.1:{port}", home)
        finally:
            server.terminate()
            server.wait(timeout=20)


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(300):
        assert server.poll() is None, log.read_text()[-2000:]
        try:
            with urllib.request.urlopen(url, timeout=1) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the server did not come up in 30 s")


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


def settled(page: Page) -> None:
    expect(page.locator(IDLE)).to_be_attached(timeout=30_000)
