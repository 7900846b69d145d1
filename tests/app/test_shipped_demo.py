"""What a newcomer sees of the shipped demo on the pages that need streams and a lagging policy."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def open_page(use_home: Callable[..., Path], tmp_path: Path) -> Callable[..., str]:
    """All that a page says of the demo, in a home of nothing else."""
    use_home(tmp_path / "empty", ROOT / "data" / "demo")

    def visit(name: str, **query: str) -> str:
        app = AppTest.from_file(str(ROOT / "app" / "app_pages" / f"{name}.py"), default_timeout=60)
        for key, value in query.items():
            app.query_params[key] = value
        app.run()
        assert not app.exception
        assert not app.error
        kinds = (app.markdown, app.caption, app.header, app.info)
        return "\n".join(box.value for kind in kinds for box in kind)

    return visit


def test_ecpo_opens_on_items_that_are_clipped_and_bounded(open_page: Callable[..., str]) -> None:
    text = open_page("ecpo")
    found = re.search(r"an advantage, (\d+) are clipped \(.*\) and (\d+) push with a bound", text)
    assert found, text
    assert int(found[1]) > 50
    assert int(found[2]) > 0
    assert "drawn with the weights of 39 updates ago" in text


def test_rl_steps_opens_on_a_group_with_clipped_items(open_page: Callable[..., str]) -> None:
    found = re.search(r"(\d+) of \d+ items are clipped", open_page("rl_steps"))
    assert found
    assert int(found[1]) > 0


def test_online_opens_on_arms_that_differ(open_page: Callable[..., str]) -> None:
    text = open_page("online")
    assert "rsft has the most true watch time a visit" in text
    assert "round 3 is the first that is served by what was learned" in text
    assert "rsft_ecpo is ahead of frozen" in open_page("online", online_view="A/B")
    assert "User 0 in round 8: 10 items" in open_page("online", online_view="Visits")
