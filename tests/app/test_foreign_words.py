"""What a link, a name or a title says is shown as it stands, never as markdown."""

from collections.abc import Callable
from pathlib import Path

import pytest
import streamlit as st
import widgets
from streamlit.testing.v1 import AppTest

from onerec.viz import theme

APP = Path(__file__).resolve().parents[2] / "app"
PICTURE = "![a](http://elsewhere.test/a.png)"
SAFE = r"!\[a\](http://elsewhere.test/a.png)"


@pytest.mark.parametrize(
    ("name", "key"),
    [("rewards", "run"), ("rewards", "item"), ("rl_steps", "user"), ("rl_steps", "code"),
     ("ecpo", "epsilon"), ("ecpo", "objectives"), ("ecpo", "step"), ("ecpo", "item"),
     ("dataset", "find"), ("playground", "codes_point")],
)  # fmt: skip
def test_a_link_cannot_put_a_picture_into_a_message(
    use_home: Callable[..., Path], finished: Path, name: str, key: str
) -> None:
    use_home(finished)
    app = AppTest.from_file(str(APP / "app_pages" / f"{name}.py"), default_timeout=60)
    app.query_params[key] = PICTURE
    app.run()
    assert not app.exception
    said = "\n".join(box.value for kind in (app.warning, app.info) for box in kind)
    assert PICTURE not in said
    if name in ("rewards", "rl_steps", "ecpo"):
        assert SAFE in said


def test_two_prices_in_a_title_are_no_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(st, "markdown", said.append)
    monkeypatch.setattr(st, "plotly_chart", lambda *_, **__: None)
    fig = theme.figure(title="$5 beats $6", alt="none", how="none", key="prices")
    widgets.place(fig, key="prices")
    assert said == [r"**\$5 beats \$6**"]
