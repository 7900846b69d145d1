"""The form that starts a training: what, on what, at what cost, with which command."""

from __future__ import annotations

from dataclasses import dataclass

import jobs
import places
import selection
import start_cost
import streamlit as st
import widgets

from onerec import recipes
from onerec.errors import OneRecError, RecipeError
from onerec.runs import valid_name

WORLD = "world"  # built in: made by the first run that asks for it
LABELS = {WORLD: "world: short videos, built in"}


def draw(view: selection.Selection) -> None:
    """Recipe, dataset, name and settings; the estimate; the command; Start."""
    names = _datasets()
    recipe_name = widgets.options("Recipe", list(recipes.RECIPES), "recipe")
    st.caption((recipes.RECIPES[recipe_name].__doc__ or "").splitlines()[0])
    _propose_name(recipe_name)
    with st.grid(2, min_column_width=220):
        default = names.index(view.dataset_name) if view.dataset_name in names else 0
        st.selectbox("Dataset to train on", names, index=default, key="train_dataset",
                     format_func=lambda name: LABELS.get(name, name))  # fmt: skip
        st.text_input("Name of the run", max_chars=80, key="train_name")
    st.text_area(
        "Settings that differ from the recipe", key="train_settings", height="content",
        help="Leave it empty for the recipe as it is. `onerec recipes` lists every setting.",
        placeholder="one a line, as in  train.steps=100",
    )  # fmt: skip
    try:
        asked = _asked()
        _check_name(asked.name)
        start_cost.draw(recipes.recipe(asked.recipe, asked.settings), asked.dataset)
    except OneRecError as error:
        widgets.mistake(error)
        return
    st.code(jobs.command_line(asked.words), language="bash", wrap_lines=True)
    st.button(
        "Start training", type="primary", icon=":material/play_arrow:", key="train_go",
        on_click=_start,
    )  # fmt: skip
    if problem := st.session_state.pop("train_problem", None):
        st.error(problem, icon=":material/error:")


@dataclass(frozen=True)
class Asked:
    """What the form holds, checked again on this side."""

    recipe: str
    dataset: str
    name: str
    settings: dict[str, str]

    @property
    def words(self) -> list[str]:
        dataset = places.command_line_name(self.dataset)
        return jobs.command(self.recipe, dataset, self.name, self.settings)


def _asked() -> Asked:
    state = st.session_state
    dataset = state["train_dataset"]
    if dataset not in _datasets():  # a browser can send anything
        raise RecipeError(f"no dataset {dataset!r} here; choose one of the list")
    lines = [line for line in state["train_settings"].splitlines() if line.strip()]
    return Asked(state["recipe"], dataset, state["train_name"], recipes.parse_overrides(lines))


def _check_name(name: str) -> None:
    """RunError or RecipeError for a name that cannot be or is taken."""
    if not name:
        raise RecipeError("the run has no name yet: write one, such as first-try")
    valid_name(name)
    taken = places.run_infos().get(name)
    if taken is not None and taken.recipe:  # without one, its start was refused: begin anew
        raise RecipeError(f"run {name} exists ({taken.state}); choose another name, or resume it")


def _start() -> None:
    """A callback: it reads what the form holds now, and the page is drawn with the new run."""
    try:
        asked = _asked()
        recipes.recipe(asked.recipe, asked.settings)
        _check_name(asked.name)
        jobs.start(places.home(), asked.name, asked.words)
    except (OneRecError, OSError) as error:
        st.session_state["train_problem"] = str(error)
        return
    st.session_state["train_name"] = None  # the next proposal
    selection.choose(run=asked.name)
    selection.clear()


def _propose_name(recipe: str) -> None:
    """A free name that follows the recipe until a person writes one."""
    state = st.session_state
    if state.get("train_name") in (None, state.get("proposed_name")):
        state["train_name"] = state["proposed_name"] = _free_name(recipe)


def _datasets() -> list[str]:
    names = list(places.dataset_folders())
    return names + [WORLD] * (WORLD not in names)


def _free_name(recipe: str) -> str:
    taken = places.run_infos()
    number = next(n for n in range(1, 10_000) if f"{recipe}-{n}" not in taken)
    return f"{recipe}-{number}"
