"""Two users, or two sets of weights, side by side."""

from __future__ import annotations

import math
from dataclasses import replace

import cache
import links
import live_model
import pandas as pd
import places
import recommend_live
import recommend_parts
import selection
import streamlit as st
import widgets
from live_model import Who

from onerec import plain
from onerec.explain import serving
from onerec.runs import Run


def compare(run: Run, who: Who) -> None:
    """Two users, or two sets of weights, side by side."""
    what = widgets.options("With", ("Another user", "Another model"), "recommend_with")
    other = _other_user(run, who) if what == "Another user" else _other_model(run, who)
    if other is None:
        return
    name, second, second_run = other
    recommend_live.load(second)
    recommend_live.edit_note(run, who)
    width = live_model.usual_beam(who)
    k = recommend_live.K
    first_list, second_list = (live_model.lists(one, k, width) for one in (who, second))
    shared = set(first_list["item"]) & set(second_list["item"])
    are = "item is" if len(shared) == 1 else "items are"
    st.markdown(f"**{len(shared)} {are} in both lists of {k}**")
    own = cache.read(serving.users, run).set_index("user")["user_id"][who.user]
    here = f"User {own}" if what == "Another user" else f"{run.name}"
    for column, title, one, listed, of in zip(
        st.columns(2), (here, name), (who, second), (first_list, second_list), (run, second_run),
        strict=True,
    ):  # fmt: skip
        with column:
            st.header(title)
            table = pd.DataFrame(
                {
                    "rank": listed["rank"],
                    "title": recommend_live.titles_of(of, listed["item"].tolist()),
                    "probability": 100 * listed["score"].map(lambda s: math.exp(s)),
                    "both": ["both" if item in shared else "" for item in listed["item"]],
                }
            )
            st.dataframe(
                table, hide_index=True, alt=f"List of {title}", height="content",
                row_height=recommend_parts.LINES,
                column_config={
                    "rank": st.column_config.NumberColumn("#", width=40),
                    "title": st.column_config.TextColumn("Title", width="medium"),
                    "probability": recommend_parts.PROBABILITY,
                    "both": st.column_config.TextColumn("In both", width="small"),
                },
            )  # fmt: skip
            if what == "Another user":
                st.subheader("What came before")
                recommend_parts.past(
                    cache.read(serving.history, of, one.user), alt=f"History of {title}"
                )


def _other_user(run: Run, who: Who) -> tuple[str, Who, Run] | None:
    people = cache.read(serving.users, run)
    own = people.loc[people["user"] == who.user, "user_id"].astype(str).tolist()
    people = people[people["user"] != who.user]
    if people.empty:
        st.info("There is no other user with a list.", icon=":material/person_off:")
        return None
    names = dict(zip(people["user_id"].astype(str), people["user"].tolist(), strict=True))
    st.session_state.setdefault("page_widgets", []).append("recommend_other")
    first = next(iter(names))
    notice = selection.bad_parameter("User", "recommend_other", list(names), first)
    if (asked := st.query_params.get("recommend_other")) in own:
        why = "the user on the left: the other must be another one"
        notice = selection.refused("User", asked, why, f"{plain.text(first)} is shown")
    if notice:
        st.warning(notice, icon=":material/link_off:")
    if selection.raw("recommend_other") not in names:
        st.session_state["recommend_other"] = first
    chosen = st.selectbox("User", list(names), key="recommend_other", bind="query-params")
    return f"User {chosen}", Who.of(run, names[chosen]), run


def _other_model(run: Run, who: Who) -> tuple[str, Who, Run] | None:
    """Runs on the same dataset, and this one before it was aligned."""
    choices: dict[str, tuple[Run, str | None]] = {}
    if (run.done("align") or {}).get("checkpoint"):
        choices[live_model.BEFORE] = (run, "pretrain")
    same = run.recipe().get("dataset")
    for name, info in places.run_infos().items():
        other = Run(info.path)
        alike = other.path != run.path and other.recipe().get("dataset") == same
        if alike and other.is_done("pretrain"):
            choices[name] = (other, None)
    if not choices:
        st.info(
            "No other model was trained on this very dataset. Train one on the page **Train**.",
            icon=":material/model_training:", title="Nothing to compare with",
        )  # fmt: skip
        links.to("train", "Train another", "play_arrow")
        return None
    st.session_state.setdefault("page_widgets", []).append("recommend_model")
    first = next(iter(choices))
    if notice := selection.bad_parameter("Model", "recommend_model", list(choices), first):
        st.warning(notice, icon=":material/link_off:")
    if selection.raw("recommend_model") not in choices:
        st.session_state["recommend_model"] = first
    chosen = st.selectbox("Model", list(choices), key="recommend_model", bind="query-params")
    of, stage = choices[chosen]
    second = Who.of(of, who.user, who.edit, stage)
    recommend_live.load(second)
    end = live_model.end(who)
    if live_model.end(second) != end:
        st.caption(
            f"Run {of.name} holds out other events of this user, so it may have been trained on "
            "what came next here. Both are given the history of this run."
        )
    return chosen, replace(second, end=end), of
