"""The form that starts a training: what, on what, at what cost, with which command."""

from __future__ import annotations

import cache
import jobs
import places
import selection
import streamlit as st
import widgets

from onerec import recipes
from onerec.errors import OneRecError, RecipeError
from onerec.explain import dataset as explain_dataset

WORLD = "world"  # built in: made by the first run that asks for it
WORLD_SIZE = {"items": 4_000, "users": 6_000}  # only for the estimate before the world exists


def draw(view: selection.Selection) -> None:
    """Recipe, dataset, name and settings; the estimate; the command; Start."""
    names = list(places.dataset_folders())
    names += [WORLD] * (WORLD not in names)
    recipe_name = widgets.options("Recipe", list(recipes.RECIPES), "recipe")
    st.caption((recipes.RECIPES[recipe_name].__doc__ or "").splitlines()[0])
    with st.grid(2, min_column_width=220):
        default = names.index(view.dataset_name) if view.dataset_name in names else 0
        dataset = st.selectbox("Dataset to train on", names, index=default, key="train_dataset")
        name = st.text_input("Name of the run", _free_name(recipe_name), max_chars=80,
                             key=f"train_name_{recipe_name}")  # fmt: skip
    text = st.text_area(
        "Settings that differ from the recipe", key="train_settings", height=80,
        placeholder="one a line, as in  train.steps=100",
    )  # fmt: skip
    dataset = dataset if dataset in names else names[0]  # a browser can send anything
    try:
        settings = recipes.parse_overrides(line for line in text.splitlines() if line.strip())
        recipe = recipes.recipe(recipe_name, settings)
        _estimate(recipe, dataset)
    except OneRecError as error:
        widgets.mistake(error)
        return
    words = jobs.command(recipe_name, places.command_line_name(dataset), name, settings)
    st.code(jobs.command_line(words), language="bash", wrap_lines=True)
    st.button(
        "Start training", type="primary", icon=":material/play_arrow:", key="train_go",
        on_click=_start, args=(name, words),
    )  # fmt: skip
    if problem := st.session_state.pop("train_problem", None):
        st.error(problem, icon=":material/error:")


def _start(name: str, words: list[str]) -> None:
    """In the callback, so that the new run is the selected one when the page is drawn."""
    try:
        taken = places.run_infos().get(name)
        if taken is not None:
            raise RecipeError(f"run {name} exists ({taken.state}); choose another name, or resume")
        jobs.start(places.home(), name, words)
    except (OneRecError, OSError) as error:
        st.session_state["train_problem"] = str(error)
        return
    selection.choose(run=name)
    selection.clear()


def _estimate(recipe: recipes.Recipe, dataset: str) -> None:
    """Size and cost before anything is spent."""
    estimate = getattr(recipes, "estimate", None)
    if estimate is None:
        st.caption("This version does not estimate the cost of a recipe.")
        return
    folder = places.dataset_folders().get(dataset)
    size = cache.read(explain_dataset.summary, folder) if folder else WORLD_SIZE
    cost = estimate(recipe, size["items"], size["users"])
    with st.grid(3, min_column_width=130):
        st.metric("Parameters", cost["parameters"], format="compact", border=True)
        st.metric("Memory", f"{cost['memory_bytes'] / 2**20:,.0f} MB", border=True)
        st.metric("About", _duration(cost["seconds_estimate"]), border=True)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6_000 else f"{seconds / 3600:.1f} h"


def _free_name(recipe: str) -> str:
    taken = places.run_infos()
    number = next(n for n in range(1, 10_000) if f"{recipe}-{n}" not in taken)
    return f"{recipe}-{number}"
