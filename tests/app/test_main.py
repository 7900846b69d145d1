"""Every page, through main.py: a finished run, an empty home, and links that cannot be followed."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

APP = Path(__file__).resolve().parents[2] / "app"
PAGES = (
    *("home", "dataset", "tokenizer", "train", "routing", "rewards", "ecpo", "rl_steps"),
    *("recommend", "online", "runs", "playground"),
)
WITHOUT_DATA = ("playground",)  # it has its own
BAD_LINK = {
    "run": "gone",
    "dataset": "gone",
    "item": "x",
    "code": "99-1",
    "user": "-3",
    "step": "?",
}


def open_page(page: str, query: dict[str, str] | None = None) -> AppTest:
    app = AppTest.from_file(str(APP / "main.py"), default_timeout=30)
    for key, value in (query or {}).items():
        app.query_params[key] = value
    app.run()
    return app if page == "home" else app.switch_page(f"app_pages/{page}.py").run()


def said(app: AppTest) -> str:
    return "\n".join(box.value for kind in (app.warning, app.info, app.error) for box in kind)


@pytest.mark.parametrize("name", PAGES)
def test_a_finished_run_is_drawn(name: str, use_home: Callable[..., Path], finished: Path) -> None:
    use_home(finished)
    app = open_page(name)
    assert not app.exception
    assert app.title
    assert not app.error
    assert app.sidebar.selectbox(key="run").value == "toy_run"
    assert app.sidebar.selectbox(key="dataset").value == "toy"


@pytest.mark.parametrize("name", [name for name in PAGES if name not in WITHOUT_DATA])
def test_an_empty_home_says_what_to_do_next(
    name: str, use_home: Callable[..., Path], tmp_path: Path
) -> None:
    use_home(tmp_path / "empty")
    app = open_page(name)
    assert not app.exception
    assert app.info, "an empty state, not an empty page"


@pytest.mark.parametrize("name", PAGES)
def test_a_link_that_cannot_be_followed_falls_back_and_says_so(
    name: str, use_home: Callable[..., Path], finished: Path
) -> None:
    use_home(finished)
    app = open_page(name, BAD_LINK)
    assert not app.exception
    assert app.sidebar.selectbox(key="run").value == "toy_run"
    if name == "home":  # a switch of page drops what the URL asked for first
        for word in (
            "“Run” to “gone”",
            "“Dataset” to “gone”",
            "Item “x”",
            "Code “99-1”",
            "User “-3”",
        ):
            assert word in said(app)


def test_home_says_how_good_the_lists_are_with_intervals(
    use_home: Callable[..., Path], finished: Path
) -> None:
    use_home(finished)
    app = open_page("home")
    shown = {metric.label: (metric.value, metric.delta) for metric in app.metric}
    assert list(shown)[:2] == ["OneRec", "Item-KNN"], "the best first"
    assert shown["OneRec"] == ("0.5000", "95%: 0.300 to 0.700")
    assert any("**OneRec leads: recall@10 0.5000" in text.value for text in app.markdown)


def test_one_run_alone_is_not_said_to_be_the_same_as_itself(
    use_home: Callable[..., Path], finished: Path
) -> None:
    use_home(finished)
    app = open_page("runs", {"runs_view": "Settings"})
    app.segmented_control(key="runs_view").set_value("Settings").run()
    assert not app.success
    assert "Choose a second run above" in said(app)


def test_a_link_opens_the_very_selection(use_home: Callable[..., Path], finished: Path) -> None:
    use_home(finished)
    app = open_page("home", {"run": "toy_run", "item": "7", "user": "3"})
    assert app.sidebar.text_input(key="item").value == "7"
    assert app.sidebar.text_input(key="user").value == "3"
    address = next(block.value for block in app.sidebar.get("code"))
    for part in ("run=toy_run", "dataset=toy", "item=7", "user=3"):
        assert part in address


def test_clear_forgets_the_marks_and_keeps_the_run(
    use_home: Callable[..., Path], finished: Path
) -> None:
    use_home(finished)
    app = open_page("home", {"item": "7"})
    next(b for b in app.sidebar.button if b.label == "Clear").click().run()
    assert app.sidebar.text_input(key="item").value == ""
    assert app.sidebar.selectbox(key="run").value == "toy_run"


def test_a_teachers_link_locks_the_run_and_hides_controls(
    use_home: Callable[..., Path], finished: Path
) -> None:
    use_home(finished)
    app = open_page("home", {"run": "toy_run", "lock": "1", "hide": "import,train,manage"})
    assert app.sidebar.selectbox(key="run").disabled
    app = app.switch_page("app_pages/train.py").run()
    assert "Start training" not in [button.label for button in app.button]
    app = app.switch_page("app_pages/runs.py").run()
    assert "Delete" not in [button.label for button in app.button]
    assert app.sidebar.selectbox(key="run").disabled, "the lock outlives a change of page"


def test_a_damaged_run_is_an_error_line_and_no_traceback(
    use_home: Callable[..., Path], own_home: Path
) -> None:
    (own_home / "runs" / "toy_run" / "status.json").write_text('{"pid": 1, "sta')
    use_home(own_home)
    app = open_page("home")
    assert not app.exception
    assert "status.json" in said(app)


def test_pages_that_read_files_never_import_torch(finished: Path, tmp_path: Path) -> None:
    script = f"""
import sys
from streamlit.testing.v1 import AppTest
app = AppTest.from_file({str(APP / "main.py")!r}, default_timeout=60).run()
for page in {PAGES!r}:
    app.switch_page(f"app_pages/{{page}}.py").run()
    assert not app.exception, page
sys.exit("torch" in sys.modules)
"""
    import os

    env = {**os.environ, "ONEREC_HOME": str(finished), "ONEREC_DEMO": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, cwd=APP.parent, capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
