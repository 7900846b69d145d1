"""Rename, delete and export: offered for one's own runs, never for the demo's."""

from collections.abc import Callable
from pathlib import Path

from streamlit.testing.v1 import AppTest

MAIN = Path(__file__).resolve().parents[2] / "app" / "main.py"


def runs_page() -> AppTest:
    app = AppTest.from_file(str(MAIN), default_timeout=30).run()
    return app.switch_page("app_pages/runs.py").run()


def button(app: AppTest, label: str) -> object:
    return next(one for one in app.button if one.label == label)


def test_delete_waits_until_the_name_is_typed(
    use_home: Callable[..., Path], own_home: Path
) -> None:
    use_home(own_home)
    app = runs_page()
    button(app, "Delete").click().run()
    assert not app.exception
    assert app.button(key="delete_go").disabled
    assert (own_home / "runs" / "toy_run").exists()


def test_export_offers_a_zip(use_home: Callable[..., Path], own_home: Path) -> None:
    use_home(own_home)
    app = runs_page()
    button(app, "Export").click().run()
    assert not app.exception
    assert any("Download" in one.label for one in app.get("download_button"))


def test_the_demo_cannot_be_changed(
    use_home: Callable[..., Path], finished: Path, tmp_path: Path
) -> None:
    use_home(tmp_path / "own", finished)
    app = runs_page()
    assert button(app, "Rename").disabled
    assert button(app, "Delete").disabled
    assert not button(app, "Export").disabled
