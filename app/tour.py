"""Seven stops through the app, each with one thing to look at; the stop stands in the URL."""

from __future__ import annotations

import links
import selection
import streamlit as st

STOPS = (
    ("home", "A recommender as a line of stages. Every number on this picture is this run's."),
    ("playground", "The idea in two dimensions: press Step and see where the centroids go."),
    ("dataset", "Few items get most of the attention: look at the popularity curve."),
    (
        "tokenizer",
        "Each video gets a name of a few code words. Click a point of the map.",
    ),
    (
        "train",
        "The model learns to say the next video's code words: one loss curve per word.",
    ),
    (
        "recommend",
        "Pick a user. ✓ marks what they really watched later.",
    ),
    ("runs", "Two runs side by side: only the settings that differ are listed."),
)


def banner() -> None:
    """The present stop with back, next and end, while a tour is on."""
    stop = _stop()
    if stop is None:
        return
    page, sentence = STOPS[stop - 1]
    with st.container(border=True, key="tour"):
        st.markdown(f":blue-badge[Tour {stop} of {len(STOPS)}] {sentence}")
        with st.container(horizontal=True):
            if stop > 1:
                _link(stop - 1, "Back", "arrow_back")
            if stop < len(STOPS):
                _link(stop + 1, "Next stop", "arrow_forward")
            links.to(page, "End the tour", "close")


def begin() -> None:
    """The link that starts the tour."""
    _link(2, "Take the tour", "tour")


def _link(stop: int, label: str, icon: str) -> None:
    links.to(STOPS[stop - 1][0], label, icon, {"tour": str(stop)})


def _stop() -> int | None:
    text = st.query_params.get("tour", "")
    stop = selection.whole(text)
    return stop if stop is not None and 1 <= stop <= len(STOPS) else None
