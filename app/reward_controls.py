"""What the page Rewards is made of: its empty states, and the composer's controls and numbers.

What the controls hold lives in the URL; a value that does not fit falls back and says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cache
import links
import selection
import streamlit as st
import widgets

from onerec import plain
from onerec.explain import rewards
from onerec.runs import Run
from onerec.viz import theme
from onerec.viz.composer import words

WHAT = (
    "In the stage **reward** a ranker learns from what people did with what they were shown: one "
    "**tower** per behaviour (click, like, ...), and the **P-Score** that joins them. The policy "
    "is then trained to generate what scores high."
)
SCALE = (0, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
WEIGHTS = ("My own", "As recorded")
FORMATS: Mapping[str, int | None] = {"As recorded": None, "Off": 0, "5 of each group": 5}
INDUSTRIAL = ("As recorded", "Off")
SAY_WEIGHTS = (
    "**Weights**: the reward of an item is the sum of its parts, each times its weight. A rare "
    "behaviour has small scores, so it needs a large weight to be heard."
)
SAY_INDUSTRIAL = (
    "**Industrial reward**: when one kind of item takes more than a share f of what is generated, "
    "the reward of its items is multiplied by α, so that the model makes fewer of them."
)
SAY_FORMAT = (
    "**Format reward**: a few items of each group, drawn by lot, get an advantage of 1 if their "
    "codes are an item's; it teaches the model to say codes that exist, and ranks nothing."
)


def needs_reward(view: selection.Selection, run: Run) -> None:
    """The empty states, each with what the stage is and what to do: not yet, or skipped."""
    done, doing = run.done("reward"), run.status()
    if done and not done.get("skipped"):
        return
    if done:
        st.info(f"{WHAT} Run **{view.run_name}** skipped it: {done['skipped']}.",
                icon=":material/skip_next:", title="No reward model")  # fmt: skip
    elif doing.active:
        st.info(
            f"{WHAT} Run **{view.run_name}** is at stage {doing.stage}, step {doing.step:,} of "
            f"{doing.of:,}.",
            icon=":material/hourglass_top:",
            title="Not there yet",
        )
    else:
        how = "Train a run of your own with the recipe `tiny`: it makes one, too."
        if not view.read_only:
            how = f"In a terminal: `onerec reward --run {run.name}`."
        st.info(f"{WHAT} {how}", icon=":material/hourglass_empty:", title="No reward model yet")
        if view.read_only:
            links.to("train", "Train a run", "play_arrow")
    st.stop()


def controls(run: Run, step: int) -> dict[str, Any]:
    """Draw them all; the keyword arguments of `onerec.explain.rewards.composed`."""
    own = cache.read(rewards.recorded_weights, run, step)
    asked: dict[str, Any] = {}
    with st.container(border=True):
        st.markdown(SAY_WEIGHTS)
        if widgets.options("Weights", WEIGHTS, "reward_weights") == WEIGHTS[0]:
            asked["weights"] = _weights(own)
            mixed = ",".join(
                f"{name}={value:g}" for name, value in asked["weights"].items() if value
            )
            if mixed:  # in a recipe, so that a policy learns from it
                st.caption(f"To train with this reward: `--set align.reward={mixed}`")
        else:
            st.caption(", ".join(f"{words(name)} {weight:g}" for name, weight in own.items()))
    with st.container(border=True):
        st.markdown(SAY_INDUSTRIAL)
        asked["industrial"] = _industrial(run, step)
    with st.container(border=True):
        st.markdown(SAY_FORMAT)
        asked["format_items"] = FORMATS[
            widgets.options("Format reward", tuple(FORMATS), "format_reward")
        ]
    return asked


def _weights(own: Mapping[str, float]) -> dict[str, float]:
    """A slider for each part, the fused score first, at its recorded weight at first."""
    names = sorted(own, key=lambda name: (name != "pscore", -own[name]))
    steps = {name: [f"{weight:g}" for weight in sorted({*SCALE, own[name]})] for name in names}
    for name in names:
        _notice(words(name), f"weight_{name}", steps[name], f"{own[name]:g}")
    chosen = {}
    with st.grid("auto", min_column_width=150):
        for name in names:
            value = st.select_slider(
                words(name), steps[name], f"{own[name]:g}", key=f"weight_{name}",
                bind="query-params", help=f"{own[name]:g} when the step was taken",
            )  # fmt: skip
            chosen[name] = float(value)
    return chosen


def _industrial(run: Run, step: int) -> rewards.Rule:
    columns = cache.read(rewards.industrial_columns, run)
    names = {theme.sentence(kind(name)): name for name in columns}
    rule = widgets.options("Industrial reward", (*INDUSTRIAL, *names), "industrial")
    if rule not in names:
        return "recorded" if rule == INDUSTRIAL[0] else None
    found = cache.read(rewards.industrial_values, run, step, names[rule])
    if found.empty:
        st.info(f"No item of this step has a {kind(names[rule])}.",
                icon=":material/hourglass_empty:")  # fmt: skip
        return None
    values = found["value"].tolist()
    label = f"Items with this {kind(names[rule])}"
    _notice(label, "industrial_value", values, values[0])
    with st.grid(3, min_column_width=200) as grid:
        with grid.cell():
            value = st.selectbox(label, values, key="industrial_value", bind="query-params")
        with grid.cell():
            alpha = _slider("α, the factor of their reward", "alpha", 0.5)
        with grid.cell():
            limit = _slider("f, the share they may take", "limit", 0.1)
    share = float(found.loc[found["value"] == value, "share"].iloc[0])
    verdict = "more than f: the rule applies" if share > limit else "not more than f: no effect"
    st.caption(f"They are {share:.1%} of this step's legal items, {verdict}.")
    return names[rule], str(value), alpha, limit


def kind(column: str) -> str:
    """What a column of the items says, in one word: author_id -> author."""
    return words(column.removesuffix("_id"))


def _slider(label: str, key: str, usual: float) -> float:
    asked = st.query_params.get(key)
    try:
        fits = asked is None or 0 <= float(asked) <= 1
    except ValueError:
        fits = False
    if not fits:
        st.warning(selection.refused(label, asked, "not from 0 to 1", f"{usual} is shown"),
                   icon=":material/link_off:")  # fmt: skip
    st.session_state["page_widgets"].append(key)
    return st.slider(label, 0.0, 1.0, usual, 0.01, key=key, bind="query-params")


def _notice(label: str, key: str, choices: list[str], usual: str) -> None:
    """Name a value of the link that is not there; remember the key for copied links."""
    if notice := selection.bad_parameter(label, key, choices, usual):
        st.warning(notice, icon=":material/link_off:")
    st.session_state["page_widgets"].append(key)


def numbers(facts: Mapping[str, Any]) -> None:
    """What the composed reward changes, in five figures."""
    groups, changed = facts["groups"], facts["groups_changed"]
    with st.grid(5, min_column_width=140):
        st.metric(f"New in top {facts['top']}", f"{facts['places_changed']:.1f}", border=True,
                  help=f"Mean over {groups} groups, of which {changed} change")  # fmt: skip
        st.metric("Items damped", f"{facts['touched']:.0%}", border=True,
                  help="The share of legal items that the industrial rule touches; of the first "
                  f"of each group {facts['touched_top_after']:.0%}")  # fmt: skip
        st.metric(
            "Format pushes",
            facts["format_after"],
            border=True,
            help=f"Items that the format reward pushes; {facts['format_before']} as recorded",
        )
        st.metric(
            "Legal items",
            f"{facts['legality']:.0%}",
            border=True,
            help="Of those drawn: a new order cannot change it, only training can",
        )
        st.metric("Flat groups", facts["flat_after"], border=True,
                  help="Rewards without a spread teach nothing; "
                  f"{facts['flat_before']} as recorded")  # fmt: skip


def user(view: selection.Selection, users: list[int]) -> int:
    """Whose group is looked at: the selected user where the step has him, else the first."""
    chosen = view.user if view.user in users else users[0]
    if view.user is not None and view.user not in users:
        st.warning(f"User {view.user} has no group in this step; user {chosen} is shown.",
                   icon=":material/link_off:")  # fmt: skip
    st.header(f"Group of user {chosen}")
    st.session_state["composer_user"] = chosen  # follows the shared selection, and sets it
    st.selectbox(
        "User", users, key="composer_user", width=180,
        on_change=lambda: selection.choose(user=st.session_state["composer_user"], item=None),
    )  # fmt: skip
    return chosen


def sentence(row: Mapping[str, Any], title: str) -> str:
    """One item in words: its reward, place and advantage, as recorded and composed."""
    text = f"**{plain.text(title)}**: "
    text += f"reward {row['reward_before']:.4f} → {row['reward_after']:.4f}, "
    text += f"place {row['rank_before']} → {row['rank_after']}, "
    text += f"advantage {row['advantage_before']:+.2f} → {row['advantage_after']:+.2f}"
    if row["format_after"]:
        text += f", and {row['format_after']:+g} by the format reward"
    return text + "."
