"""The app as a server of its own, for a browser to look at."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Page, expect

ROOT = Path(__file__).resolve().parents[2]
LASTING_MS = 150
IDLE = '[data-testid="stApp"][data-test-script-state="notRunning"]'


@dataclass
class Server:
    url: str
    home: Path


def serve(
    home: Path, demo: Path, log: Path, script: Path | str = "app/main.py"
) -> Iterator[Server]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", str(script)]
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


def settled(page: Page) -> None:
    """Wait until the script has run: not running is also what it is before it begins.

    And what it is between two runs, the second of which the first asked for: it must last.
    """
    expect(page.locator("[data-testid=stMain] h1").first).to_be_visible(timeout=30_000)
    for _ in range(100):
        expect(page.locator(IDLE)).to_be_attached(timeout=30_000)
        page.wait_for_timeout(LASTING_MS)
        if page.locator(IDLE).count():
            return
    raise AssertionError("the page never came to rest")
