"""Edit a history and see the list move, or draw from the model instead of searching."""

from __future__ import annotations

import math
import time
from typing import Any

import cache
import edits
import live_model
import pandas as pd
import recommend_live
import recommend_parts
import streamlit as st
import widgets
from live_model import Who

from onerec import plain
from onerec.explain import dataset as explain_dataset
from onerec.runs import Run
from onerec.viz import theme

DRAWS = 400
OFFERED = 5_000  # items of a catalogue that a list to choose from holds


def edit(run: Run, who: Who) -> None:
    """Change the history and see the list move."""
    left, right = st.columns([4, 5])
    with left:
        _history(run, who)
    with right:
        st.header("The list by it")
        how = widgets.options("Decode", ("Search", "Draw"), "recommend_decode")
        if how == "Draw":
            _draws(run, who)
        else:
            _lists(run, who)


def _history(run: Run, who: Who) -> None:
    """The edited history with its tools."""
    st.header("The history")
    frame = live_model.events(who)
    frame = frame.assign(
        place=range(1, len(frame) + 1),
        title=recommend_live.titles_of(run, frame["item"].tolist()),
        new=["+" if number < 0 else "" for number in frame["number"]],
    )
    newest = frame.iloc[::-1][["place", "title", "new"]].reset_index(drop=True)
    chosen = st.dataframe(
        newest, hide_index=True, height=500, row_height=recommend_parts.LINES,
        key=f"edit_rows_{len(who.edit)}_{len(frame)}",
        on_select="rerun", selection_mode="multi-row", alt="History to edit, newest first",
        column_config={
            "place": st.column_config.NumberColumn("#", width=40),
            "title": st.column_config.TextColumn("Newest first", width="medium"),
            "new": st.column_config.TextColumn("Added", width=50),
        },
    )  # fmt: skip
    rows = [row for row in chosen["selection"]["rows"] if row < len(newest)]
    at = [int(newest["place"][row]) for row in rows]
    one = at[0] if len(at) == 1 else 0
    hint = "Tick events, then take them out or move one."
    st.caption(hint if len(frame) else "No event is left.")
    with st.container(horizontal=True, gap="xsmall"):
        _button(who, "Remove", "remove", "delete", edits.removal(at), bool(at))
        _button(who, "Newer", "newer", "arrow_upward", [f"{one}>{one + 1}"], 0 < one < len(frame))
        _button(who, "Older", "older", "arrow_downward", [f"{one}>{one - 1}"], one > 1)
    _adding(run, who)
    with st.container(horizontal=True, gap="xsmall"):
        st.button("Undo", key="edit_undo", icon=":material/undo:", disabled=not who.edit,
                  on_click=recommend_live.rewrite, args=(edits.less(who.edit),))  # fmt: skip
        st.button("Reset", key="edit_reset", icon=":material/restart_alt:", disabled=not who.edit,
                  on_click=recommend_live.rewrite, args=("",))  # fmt: skip
    recommend_live.edits_field()


def _button(who: Who, label: str, key: str, icon: str, more: list[str], enabled: bool) -> None:
    text = edits.more(who.edit, *more)
    st.button(label, key=f"edit_{key}", icon=f":material/{icon}:", disabled=not enabled,
              on_click=recommend_live.rewrite, args=(text,))  # fmt: skip


def _adding(run: Run, who: Who) -> None:
    """A catalogue to choose from, or for a large one a field for an item's number."""
    folder = run.dataset_folder
    count = int(cache.read(explain_dataset.summary, folder)["items"]) if folder else 0
    if not 0 < count <= OFFERED:
        st.caption("Write +17 below to add item 17 as the newest event.")
        return
    titles = recommend_live.titles_of(run, list(range(count)))

    def add() -> None:
        item = st.session_state["edit_add"]
        if item is not None:
            recommend_live.rewrite(edits.more(who.edit, f"+{item}"))
            st.session_state["edit_add"] = None

    st.selectbox(
        "Add an item as the newest", list(range(count)), index=None, key="edit_add",
        format_func=lambda item: f"{titles[item]} ({item})", placeholder="Type a word of its title",
        on_change=add,
    )  # fmt: skip


def _lists(run: Run, who: Who) -> None:
    """The list for the edited history, and where its items stood before."""
    width = recommend_live.width_of(who)
    if width < recommend_live.K:
        st.caption(f"A list of {recommend_live.K} keeps at least so many prefixes: the beam is "
                   f"{recommend_live.K}.")  # fmt: skip
    rules = _rules(who)
    before = live_model.lists(who.plain(), recommend_live.K, width, **rules)
    begun = time.perf_counter()
    after = live_model.lists(who, recommend_live.K, width, **rules)
    seconds = time.perf_counter() - begun
    for note in after.attrs["notes"]:
        st.caption(note)
    places_before = dict(zip(before["item"], before["rank"], strict=True))
    hidden = live_model.hides_watched(who)
    watched = set(live_model.events(who.plain())["item"] if hidden else ())
    moved = [_moved(places_before.get(row["item"]), row["rank"], row["item"] in watched)
             for row in after.to_dict("records")]  # fmt: skip
    stayed = len(set(before["item"]) & set(after["item"]))
    changed = f"{stayed} of {len(after)} items were in the list before the edits"
    edited = recommend_live.edited(run, who).changed
    st.markdown(f"**{changed}**" if edited else "**Edit the history and this list follows**")
    table = pd.DataFrame(
        {
            "rank": after["rank"],
            "title": recommend_live.titles_of(run, after["item"].tolist()),
            "probability": 100 * after["score"].map(lambda score: math.exp(score)),
            "moved": moved,
        }
    )
    st.dataframe(
        table, hide_index=True, key="edit_list", row_height=recommend_parts.LINES,
        height="content", alt="Generated list for the edited history",
        column_config={
            "rank": st.column_config.NumberColumn("#", width=40),
            "title": st.column_config.TextColumn("Title", width="medium"),
            "probability": recommend_parts.PROBABILITY,
            "moved": st.column_config.TextColumn(
                "Before", help="Its place before the edits. Was hidden: it had been watched, so "
                "the list left it out until you took that event away",
            ),
        },
    )  # fmt: skip
    st.caption(f"Generated in {seconds:.2f} s (what was asked before is remembered).")


def _rules(who: Who) -> dict[str, Any]:
    """What may stand in the list, and how different its items should be; both lists keep to it."""
    tags, authors = live_model.ruled(who)
    chosen: dict[str, Any] = {}
    said = st.container()  # in sight where the rules themselves are folded away
    asked_for = {"rule_tags", "rule_author", "rule_groups"} & set(st.query_params)
    unfolded = st.session_state.setdefault("rules_unfolded", bool(asked_for))
    with st.expander("Rules and diversity", unfolded, icon=":material/tune:"):
        if tags:
            st.session_state.setdefault("page_widgets", []).append("rule_tags")
            asked = st.session_state.get("rule_tags") or st.query_params.get_all("rule_tags")
            if gone := [tag for tag in asked if tag not in tags]:
                said.warning(f"Tag “{plain.text(gone[0])}” is not among those offered here; it is "
                             "ignored.", icon=":material/link_off:")  # fmt: skip
                st.session_state["rule_tags"] = [tag for tag in asked if tag in tags]
            off = st.multiselect(
                "Tags that are off", tags, key="rule_tags", bind="query-params",
                help="Items with such a tag are taken out of the trie: the search never sees them",
            )  # fmt: skip
            chosen["without"] = tuple(sorted(off))
        if authors:
            chosen["per_author"] = widgets.number(
                "Items of one author at most (0: any number)", "rule_author", 0, 5, 0, 1,
                "0 is no limit. The search goes on until the list is full",
            )  # fmt: skip
        groups = widgets.number(
            "Groups of beams", "rule_groups", 1, 8, 1, 1,
            "Diverse beams: the beam is split into groups, which are kept from beginning with the "
            "same first code. 1 is plain beam search",
        )  # fmt: skip
        if groups > 1:
            chosen["penalty"] = widgets.number(
                "Penalty for a first code that is taken", "rule_penalty", 0.0, 10.0, 1.0, 0.5,
                "In nats, for each beam of an earlier group that has it",
            )  # fmt: skip
    if any(chosen.values()) or groups > 1:
        said.caption("Rules or diversity are on; the places “before” are by the same.")
    return chosen | {"groups": groups}


def _moved(before: int | None, now: int, watched: bool) -> str:
    if before is None:
        return "was hidden" if watched else "new"
    return "same" if before == now else f"{'▲' if before > now else '▼'} from {before}"


def _draws(run: Run, who: Who) -> None:
    """Items drawn instead of searched."""
    kinds = ("Temperature", "Power")
    kind = widgets.options("By", kinds, "recommend_draw")
    power, temperature = 0.0, 1.0
    if kind == "Power":
        power = widgets.number("α: draw from p^α", "recommend_power", 1.0, 8.0, 4.0, 0.5)
    else:
        temperature = widgets.number(
            "Temperature of each code", "recommend_temperature", 0.1, 2.0, 1.0, 0.1,
            "Below 1 the probable codes become more so, above 1 less",
        )  # fmt: skip
    frame = live_model.draws(who, DRAWS, float(temperature), float(power), seed=0)
    top = frame.head(recommend_live.K)
    first = theme.percent(float(top["share"].iloc[0]), 1) if len(top) else "0%"
    st.markdown(f"**{len(frame)} different items in {DRAWS} draws; the first {first} of the time**")
    watched = set(live_model.events(who)["item"])
    st.dataframe(
        pd.DataFrame(
            {
                "title": recommend_live.titles_of(run, top["item"].tolist()),
                "share": 100 * top["share"],
                "p": 100 * top["score"].map(lambda score: math.exp(score)),
                "watched": ["watched before" if item in watched else "" for item in top["item"]],
            }
        ),
        hide_index=True, key="draw_list", row_height=recommend_parts.LINES,
        height="content", alt="Items that were drawn most often",
        column_config={
            "title": st.column_config.TextColumn("Title", width="medium"),
            "share": st.column_config.NumberColumn("Drawn", format="%.1f%%"),
            "p": recommend_parts.PROBABILITY,
            "watched": st.column_config.TextColumn("In the history"),
        },
    )  # fmt: skip
    seen = "is left out" if live_model.hides_watched(who) else "may be drawn again"
    st.caption(
        f"What was watched before {seen}, as in lists; only a search follows rules. p^α sharpens "
        "whole items; a temperature sharpens each code by itself. Draws follow the trie and are "
        "the same for the same settings (seed 0)."
    )
