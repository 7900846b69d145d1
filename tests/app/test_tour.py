"""The tour: a stop in the URL shows its sentence; anything else is no tour."""

from collections.abc import Callable
from pathlib import Path

import pytest
import tour
from streamlit.testing.v1 import AppTest

MAIN = Path(__file__).resolve().parents[2] / "app" / "main.py"


def test_every_stop_is_a_page_that_exists() -> None:
    assert all((MAIN.parent / "app_pages" / f"{page}.py").exists() for page, _ in tour.STOPS)


@pytest.mark.parametrize(("asked", "on"), [("1", True), ("7", True), ("8", False), ("x", False)])
def test_the_banner(use_home: Callable[..., Path], finished: Path, asked: str, on: bool) -> None:
    use_home(finished)
    app = AppTest.from_file(str(MAIN), default_timeout=30)
    app.query_params["tour"] = asked
    app.run()
    assert not app.exception
    assert any(f"Tour {asked} of 7" in text.value for text in app.markdown) is on
