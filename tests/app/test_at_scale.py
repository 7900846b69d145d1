"""What was measured at scale stands behind a question, and is read only where it is opened."""

import at_scale
import pytest
from streamlit.testing.v1 import AppTest


def shown(name: str) -> None:
    import at_scale

    at_scale.show(name)


@pytest.mark.parametrize("name", at_scale.QUESTIONS)
def test_a_question_opens_to_its_picture(name: str) -> None:
    app = AppTest.from_function(shown, args=(name,), default_timeout=60).run()
    assert not app.exception
    assert app.expander[0].label == at_scale.QUESTIONS[name]
    assert not app.caption, "closed: nothing is read"
    app.session_state[f"scale_{name}"] = True
    app.run()
    assert not app.exception
    assert at_scale.SAY[name] in [caption.value for caption in app.caption]
    assert len(app.get("plotly_chart")) == 1
