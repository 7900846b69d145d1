"""What a training will take, before anything is spent: each number, what it means, its formula."""

from __future__ import annotations

import cache
import places
import streamlit as st

from onerec import cost
from onerec.explain import cost as explain
from onerec.recipes import Recipe

LONG = 86_400  # seconds of pre-training that one should know of before pressing Start: a day
WORLD_ITEMS = 5_000  # of the built-in world, before the first run has made it
DEVICES = {"cpu": "the CPU", "cuda": "the GPU"}


def draw(recipe: Recipe, dataset: str) -> None:
    """Parameters, operations, memory and time of the settings as they stand in the form."""
    folder = places.dataset_folders().get(dataset)
    known = cache.read(explain.facts, folder) if folder else None
    device = cost.device_of(recipe)
    expected, numbers = explain.numbers(recipe, known, WORLD_ITEMS, device)
    with st.grid(3, min_column_width=150):
        for number in numbers:
            _card(number.name, number.value, number.says)
        _card(
            f"Time on {DEVICES.get(device, device)}", duration(expected.seconds),
            "Of pre-training, estimated for two free CPU cores or one large GPU. The other stages "
            "come on top: at tiny they take about half as long again.",
        )  # fmt: skip
    if not known:
        st.caption("The world is made by the first run. Until then its features are not counted, "
                   "so the model will be somewhat larger, and every context is taken as full, so "
                   "the time is the most that it can be.")  # fmt: skip
    more = st.expander("How it is computed", icon=":material/function:", key="train_cost_more",
                       on_change="rerun")  # fmt: skip
    if more.open:
        for number in numbers:
            more.markdown(f"**{number.name}** = {number.how}")
    available = cost.memory_of(device)
    if available and (warning := cost.too_much(recipe, expected, available, device)):
        st.warning(warning, icon=":material/memory:")
    elif expected.seconds > LONG:
        most = "" if known else "up to "
        st.warning(
            f"Pre-training would take {most}{duration(expected.seconds)} here: lower train.steps "
            f"(now {recipe.train.steps:,}) or train.batch_size (now {recipe.train.batch_size:,}), "
            "or choose a smaller recipe. A run can be stopped at any time and goes on from its "
            "last checkpoint.",
            icon=":material/hourglass_empty:",
        )


def _card(name: str, value: str, says: str) -> None:
    with st.container(border=True, height="stretch"):
        st.metric(name, value)
        st.caption(says)


def duration(seconds: float) -> str:
    """In the unit that a person would say it in."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6_000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:,.1f} h" if seconds < 360_000 else f"{seconds / 86_400:,.0f} days"
