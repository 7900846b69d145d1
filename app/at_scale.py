"""Results that ship with the library: what was measured on a larger machine, behind a question."""

import streamlit as st
import widgets

from onerec.explain import measured
from onerec.viz import measured as draw

QUESTIONS = {
    "stability": "Does the early clip matter? Measured by how old the drawing policy is",
    "legality": "Does a reward for spelling help? Measured over 300 steps",
    "worth": "How much of a promised reward is true? Measured on a world of 50,000 items",
}
SAY = {
    "stability": "Higher is wilder. Small points are seeds, lines their median. Above the dashed "
    "line a step is more than fifty times as large as at the start.",
    "legality": "The share of freely written code triples that are an item's.",
    "worth": "On the dashed line the reward model's promise is kept; above it the policy has found "
    "where the reward model is wrong.",
}


def show(name: str) -> None:
    """A question that opens to its picture; nothing is read or drawn before that."""
    asked = st.expander(QUESTIONS[name], icon=":material/lab_research:", key=f"scale_{name}",
                        on_change="rerun")  # fmt: skip
    if not asked.open:
        return
    with asked:
        widgets.show(
            measured.RESULTS, getattr(measured, name), getattr(draw, name), key=f"picture_{name}",
            command=f"python -m onerec.bench.{name} --help", say=SAY[name],
        )  # fmt: skip
