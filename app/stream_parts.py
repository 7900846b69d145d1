"""What the page Online is made of below its live view: the A/B in figures, and who came."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cache
import pandas as pd
import selection
import streamlit as st
import widgets

from onerec.explain import online
from onerec.runs import Run
from onerec.viz import online as draw
from onerec.viz import theme

STREAMS = {  # the columns of the table of streams
    "stream": "Stream", "arm": "Arm", "state": "State", "round": "Rounds done", "rounds": "Of",
    "value": "Counted", "last": st.column_config.NumberColumn("In the last round", format="%.2f"),
    "steps": "Steps a round", "lag": "Lag", "share": "Share of the users", "shown": "Items a list",
    "window": st.column_config.NumberColumn("Window", help="Rounds whose visits are learned from"),
    "seed": "Seed",
    "sent": st.column_config.NumberColumn(
        "New weights served", help="How often the server got weights that learned something"
    ),
}  # fmt: skip


def choose_stream(names: list[str]) -> str:
    """The stream that is looked at, at first the newest; it always stands in the URL.

    It has no default of its own: one would be left out of the URL, and the newest may be another
    by the time that a link is opened.
    """
    if notice := selection.bad_parameter("Stream", "stream", names, names[0]):
        st.warning(notice, icon=":material/link_off:")
    if st.session_state.get("stream", st.query_params.get("stream")) not in names:
        st.session_state["stream"] = names[0]
    st.session_state["page_widgets"].append("stream")
    chosen = st.segmented_control("Stream", names, required=True, key="stream", bind="query-params")
    return chosen if chosen in names else names[0]


def numbers(whole: dict[str, Any], name: str, other: str, value: str) -> None:
    """The A/B in three figures."""
    low, high = (draw.amount(whole[end], value, sign=True) for end in ("low", "high"))
    known = whole["low"] == whole["low"]
    with st.grid(3, min_column_width=180):
        st.metric(name, draw.amount(whole["a"], value), border=True, height="stretch",
                  help=f"Mean over {whole['visits']:,} visits")  # fmt: skip
        st.metric(other, draw.amount(whole["b"], value), border=True, height="stretch",
                  help="Mean over the same visits")  # fmt: skip
        st.metric(
            "Difference", draw.amount(whole["difference"], value, sign=True), border=True,
            delta=f"95%: {low} to {high}" if known else None, delta_color="off", delta_arrow="off",
            help=f"{whole['users']:,} users, drawn whole 1,000 times", height="stretch",
        )  # fmt: skip


def first_served(run: Run, names: Sequence[str]) -> str:
    """From which round on streams can differ; nothing where there is none to compare."""
    asked = [online.settings(run, name) for name in names]
    learning = [one for one in asked if one and one.get("arm") != "frozen"]
    if not learning or len(names) < 2:
        return ""
    first = min(online.served_from(int(one["steps"]), int(one["lag"])) for one in learning)
    if first > max(int(one["rounds"]) for one in learning):
        return ""  # `say_what_was_served` says so
    return (
        f" Up to round {first - 1} all serve the same weights: round {first} is the first that is "
        "served by what was learned."
    )


def choose_run(run: Run) -> str:
    """The run whose stream is compared with one of this run; "" is this run itself."""
    near = online.runs_beside(run)
    if not near:
        return ""
    chosen = widgets.options(
        "A stream of", [run.name, *near], "against_run",
        help="Other runs of this dataset can stand beside this one: where seed and share agree, "
        "the same people come.",
    )  # fmt: skip
    return "" if chosen == run.name else chosen


def say_what_was_served(source: Run, *names: str) -> None:
    """A stream whose server never got new weights cannot differ from a frozen one."""
    table = cache.read(online.streams, source).set_index("stream")
    for each in names:
        row = table.loc[each]
        if row["sent"] == 0 and row["arm"] != "frozen":
            first = online.served_from(int(row["steps"]), int(row["lag"]))
            st.info(
                f"What stream **{each}** learned has not been served yet: with new weights every "
                f"{row['lag']} steps, round {first} is the first that it can change.",
                icon=":material/schedule:",
            )


def choose_person(people: pd.DataFrame, number: int) -> None:
    """The visitors of a round; a click on a row selects that user."""

    def pick() -> None:
        if rows := st.session_state["visitors"]["selection"]["rows"]:
            selection.choose(user=int(people["user"].iloc[rows[0]]), item=None)

    names: dict[str, Any] = {"user": "User"}
    for value in people.columns.drop("user"):
        unit = draw.VALUES.get(value, ("", ""))[1]
        names[value] = st.column_config.NumberColumn(
            theme.sentence(draw.value_name(value)) + f" ({unit})" * bool(unit),
            format="percent" if value in draw.SHARES else "%.1f" if unit else None,
            help=draw.MEANING.get(value),
        )
    title = f"{len(people):,} visitors in round {number}: choose another"
    with st.expander(title, icon=":material/person_search:"):
        st.dataframe(people, hide_index=True, height=260, key="visitors", on_select=pick,
                     selection_mode="single-row", alt=title, column_config=names)  # fmt: skip
