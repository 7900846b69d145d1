"""What was measured at scale stands behind a question, and is read only where it is opened."""

import at_scale
import pytest
from streamlit.testing.v1 import AppTest

from onerec.explain import measured
from onerec.viz import measured as draw


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


def test_below_the_groups_stands_a_table_of_what_else_was_compared() -> None:
    app = AppTest.from_function(shown, args=("worth_tables",), default_timeout=60).run()
    app.session_state["scale_worth_tables"] = True
    app.run()
    assert not app.exception
    found = measured.worth_pairs()
    assert any(f"**{draw.pairs_finding(found)}**" == box.value for box in app.markdown)
    assert app.dataframe[0].value.equals(found)
    assert set(at_scale.PAIRS) == set(found.columns), "each has its name"
