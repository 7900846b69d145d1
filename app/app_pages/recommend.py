"""Recommend: one user, what the model saw, what it generated, and what really came next."""

import cache
import recommend_compare
import recommend_edit
import recommend_live
import recommend_parts
import selection
import streamlit as st
import widgets

from onerec.explain import serving

VIEWS = ("List", "Why", "Beam", "Edit", "Compare")

view = widgets.head(
    "What would this person watch next?",
    "The history that the model was given, the list it generated, and a baseline beside it. "
    "**✓** marks what the person really went on to watch.",
    words=(
        "alignment", "attention", "baseline", "beam", "code", "expert", "gradient", "held out",
        "level", "ln p", "nats", "P-Score", "prefix", "temperature", "token", "trie",
    ),
)  # fmt: skip
run = widgets.needs_run(view, "recommend")
user = recommend_parts.person(view, run)
part = widgets.options("Show", VIEWS, "recommend_view")

if part == "List":
    if selection.raw("edit"):
        recommend_live.edits_field()
        st.caption("Saved lists are of the history as it was; the other views follow the edits.")
    recommend_parts.numbers(run, user)
    recommend_parts.lists(view, run, user)
    recommend_parts.sureness(run, user)
    ranked = cache.read(serving.recommendations, run, user)
    titles = dict(zip(ranked["item"].tolist(), ranked["title"], strict=True))
    if titles:
        st.header("What in the past is like it?")
        item = recommend_parts.listed_item(view, titles, "why_item")
        recommend_parts.neighbours(run, user, item)
        st.caption("Nearness is a hint. What the model really used stands under **Why**.")
else:
    who = recommend_live.needs_model(view, run, user)
    if part == "Why":
        recommend_live.why(view, run, who)
    elif part == "Beam":
        recommend_live.beam(run, who)
    elif part == "Edit":
        recommend_edit.edit(run, who)
    else:
        recommend_compare.compare(run, who)
