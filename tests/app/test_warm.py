"""A fresh server loads what its first page needs, and no more, before anybody asks."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import warm
from streamlit.web.server.app_discovery import discover_asgi_app

APP = Path(__file__).resolve().parents[2] / "app"


def test_streamlit_run_finds_the_app_that_warms_up() -> None:
    found = discover_asgi_app(APP / "main.py")
    assert found.import_string == "main:app"


def test_the_libraries_of_the_first_page_are_loaded_and_torch_is_not(
    use_home: Callable[..., Path], finished: Path
) -> None:
    use_home(finished)
    code = (
        "import sys, asyncio, main\n"
        "async def start():\n"
        "    async with main.app.lifespan()(None): pass\n"
        "asyncio.run(start())\n"
        "names = ('pandas', 'duckdb', 'widgets', 'onerec.explain.overview', 'plotly.graph_objs')\n"
        "missing = [name for name in names if name not in sys.modules]\n"
        "sys.exit(f'{missing}' if missing or 'torch' in sys.modules else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=APP, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What the last thing that warming up does was called with."""
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr("onerec.viz.theme.nothing", lambda *words: calls.append(words))
    return calls


def test_a_damaged_run_does_not_keep_the_server_from_starting(
    use_home: Callable[..., Path], own_home: Path, drawn: list[tuple[str, ...]]
) -> None:
    (own_home / "runs" / "toy_run" / "status.json").write_text('{"pid": 1, "sta')
    use_home(own_home)
    warm.first_page()
    assert len(drawn) == 1  # it came to its end


def test_an_empty_home_is_warmed_up_too(
    use_home: Callable[..., Path], tmp_path: Path, drawn: list[tuple[str, ...]]
) -> None:
    use_home(tmp_path / "empty")
    warm.first_page()
    assert len(drawn) == 1
