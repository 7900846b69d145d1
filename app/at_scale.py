"""Results that ship with the library: what was measured on a larger machine, behind a question."""

import cache
import streamlit as st
import widgets

from onerec.explain import measured
from onerec.viz import measured as draw

QUESTIONS = {
    "stability": "Is it the early clip that keeps a step small? Measured by how old the drawing "
    "policy is",
    "legality": "Does a reward for spelling help? Measured over 300 steps",
    "worth": "How much of a promised reward is true? Measured on a world of 50,000 items",
    "worth_tables": "Is a group of four times the list the best? And a beam, and the policy's own "
    "drawing? The paper's tables, ours beside",
}
SAY = {
    "stability": "Higher is wilder. Small points are seeds, lines their median. Above the dashed "
    "line a step is more than fifty times as large as at the start. GRPO is ECPO without the early "
    "clip.",
    "legality": "The share of freely written code triples that are an item's.",
    "worth": "On the dashed line the reward model's promise is kept; above it the policy has found "
    "where the reward model is wrong.",
    "worth_tables": "Lines are the truth of a known world, with 95% intervals; hollow points are "
    "what the reward model says of the same lists, and that is what the paper can know, too.",
}
BENCHES = {"worth_tables": "worth"}  # where it is not of the same name
PERCENT = {"format": "percent"}
PAIRS = {  # the columns of the table of what else was compared
    "table": st.column_config.NumberColumn("In the paper", format="Table %d"),
    "setting": "What", "against": "Against", "reward": "Trained on", "k": "Items of a list",
    "more": st.column_config.NumberColumn("True gain", **PERCENT, help="Of the mean over the list"),
    "more_low": st.column_config.NumberColumn("Least", **PERCENT, help="End of the 95% interval"),
    "more_high": st.column_config.NumberColumn("Most", **PERCENT, help="End of the 95% interval"),
    "promised_more": st.column_config.NumberColumn(
        "By the reward model", **PERCENT, help="What it says of the same lists"
    ),
    "paper": st.column_config.NumberColumn(
        "The paper's", **PERCENT, help="Of the vtr that its own ranker predicts; trained on vtr "
        "alone. Tables 8 and 9 have one list length"
    ),
    "recall": st.column_config.NumberColumn(
        "Recall@10", **PERCENT, help="Its change, by what it is without a reward"
    ),
    "recall_against": st.column_config.NumberColumn(
        "Recall@10, against", **PERCENT, help="The same of what it is compared with"
    ),
}  # fmt: skip


def show(name: str) -> None:
    """A question that opens to its picture; nothing is read or drawn before that."""
    asked = st.expander(QUESTIONS[name], icon=":material/lab_research:", key=f"scale_{name}",
                        on_change="rerun")  # fmt: skip
    if not asked.open:
        return
    with asked:
        widgets.show(
            measured.RESULTS, getattr(measured, name), getattr(draw, name), key=f"picture_{name}",
            command=f"python -m onerec.bench.{BENCHES.get(name, name)} --help", say=SAY[name],
            empty="Not measured.",
        )  # fmt: skip
        if name == "worth_tables":
            _pairs()


def _pairs() -> None:
    """What is not about groups: a reward, a beam, the policy's own drawing."""
    found = cache.read(measured.worth_pairs, measured.RESULTS)
    title = draw.pairs_finding(found) or "What else the paper compares"
    widgets.table(found, key="worth_pairs", title=title, column_config=PAIRS,
                  empty="Not measured.")  # fmt: skip
