"""Every page by itself, without main.py: it finds its selection and draws."""

from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

PAGES = Path(__file__).resolve().parents[2] / "app" / "app_pages"


@pytest.mark.parametrize("name", sorted(path.stem for path in PAGES.glob("*.py")))
@pytest.mark.parametrize("home", ["finished", "empty"])
def test_page_alone(
    name: str, home: str, use_home: Callable[..., Path], finished: Path, tmp_path: Path
) -> None:
    use_home(finished if home == "finished" else tmp_path)
    app = AppTest.from_file(str(PAGES / f"{name}.py"), default_timeout=30)
    app.query_params["run"] = "nowhere"
    app.run()
    assert not app.exception
    assert app.title
