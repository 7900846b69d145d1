"""The playground's second half: a router and a few experts that learn, step by step."""

from __future__ import annotations

from typing import Any

import pandas as pd
import stepping
import streamlit as st
import widgets

from onerec.explain import toy_experts
from onerec.explain.toy_experts import Experts, ExpertsSetting
from onerec.viz import toy_experts as draw

TOY = stepping.Toy(
    "experts", toy_experts.begin, toy_experts.step, toy_experts.after, toy_experts.changed,
    lambda state: False, toy_experts.MOST_STEPS,
)  # fmt: skip
SWITCH = ("Off", "On")
ANEW = "Another value begins anew"
COMMAND = (
    "onerec pretrain --run NAME --recipe tiny --dataset world --set model.experts=4 "
    "--set model.balance_rate=0.001"
)
SAY = {
    "regions": "The colour of the ground says which expert would answer there. A point is as large "
    "as its answer is wrong, and has its expert's symbol.",
    "load": "The dashed line is an even share.",
    "course": "Solid: how wrong the answers are. Dashed: how uneven the load is, 0 is even.",
}


def show() -> None:
    """Settings, buttons, and the live part."""
    st.markdown(
        "Each point goes to **one** expert, which can only draw a flat plane; the target has "
        "folds, so several are needed. Look at who gets the points: expert 0 begins with a head "
        "start, so nearly all go to it, and only who gets points is trained. That is **collapse**."
    )
    pictures, side = st.columns([2, 1], gap="medium")  # on a phone the pictures come first
    with side:
        setting, at_once = _setting()
        _things_to_try()
    with pictures:
        stepping.settled(TOY, setting)
        stepping.controls(TOY, at_once)
        stepping.live(TOY, _draw, at_once)


def _setting() -> tuple[ExpertsSetting, int]:
    """What the sliders say; rates and the bias act in mid-run, the others begin anew."""
    balance = widgets.options("Balancing bias", SWITCH, "experts_balance")
    bias_rate = widgets.number("Bias rate", "experts_bias_rate", 0.0, 0.1, 0.01, 0.005,
                               "How far the bias of an expert moves in a step")  # fmt: skip
    learning_rate = widgets.number("Learning rate", "experts_lr", 0.1, 3.0, 1.0, 0.1)
    at_once = widgets.number("Steps at a time", "experts_at_once", 1, 50, 10, 1)
    count = widgets.number("Experts", "experts_count", 2, 4, 4, 1, ANEW)
    head = widgets.number("Head start of expert 0", "experts_head", 0.0, 2.0, 1.0, 0.1,
                          f"Added to its score at the start. {ANEW}")  # fmt: skip
    seed = widgets.number("Seed", "experts_seed", 0, 20, 1, 1, ANEW)
    formulas = " · ".join(f"{name}: {text}" for name, text in toy_experts.FORMULAS.items())
    task = widgets.options("Target", toy_experts.TASKS, "experts_task", help=formulas)
    setting = ExpertsSetting(
        task=task, experts=count, learning_rate=learning_rate, balance=balance == SWITCH[1],
        bias_rate=bias_rate, head_start=head, seed=seed,
    )  # fmt: skip
    return setting, at_once


def _things_to_try() -> None:
    st.markdown(
        "**Three things to try**\n"
        "1. Press **Play** and wait for step 300: one expert has nearly all points, the others "
        "learn nothing, the loss stays high. Left alone, this toy needs about 1,500 steps until "
        "all have their share.\n"
        "2. At step 300 set the **balancing bias** to **On**: idle experts are preferred, a "
        "hundred steps later none has half as much again as its share, and the loss falls far "
        "below. Nothing is added to the loss for that.\n"
        "3. With the bias on, raise the **bias rate** to 0.1: the load jumps to and fro. Then take "
        "2 experts and the target *fold*, the bias off: these share without help."
    )
    with st.container(horizontal=True):
        for number, rate, balance in ((1, 0.01, SWITCH[0]), (3, 0.1, SWITCH[1])):
            st.button(
                f"Set up {number}", key=f"experts_try_{number}", on_click=stepping.reset,
                args=(TOY,),
                kwargs={"experts_balance": balance, "experts_bias_rate": rate, "experts_count": 4,
                        "experts_task": "quarters"},
            )  # fmt: skip


def _draw(state: Experts) -> None:
    """The live part: numbers and pictures."""
    last = state.history[-1]
    loads = toy_experts.loads(state)
    with st.grid(4, min_column_width=125):
        st.metric("Step", f"{state.step:,}", border=True)
        st.metric("Loss", f"{last['loss']:.4f}", border=True,
                  help="Mean of (answer - target)² / 2")  # fmt: skip
        st.metric("MaxVio", f"{last['max_violation']:.2f}", border=True,
                  help="The busiest expert's load / the mean load - 1: 0 is even")  # fmt: skip
        st.metric("Experts at work", f"{int((loads['points'] > 0).sum())} of {len(loads)}",
                  border=True)  # fmt: skip
    _figure(draw.regions, state, toy_experts.table(state))
    with st.grid(2, min_column_width=240) as grid:
        with grid.cell():
            _figure(draw.load, state, loads)
        with grid.cell():
            _figure(draw.course, state, toy_experts.history(state))


def _figure(figure: Any, state: Experts, frame: pd.DataFrame) -> None:
    """A picture with what belongs to it."""
    key = f"toy_experts_{figure.__name__}"
    picture = figure(state)
    widgets.place(picture, key=key)
    st.caption(SAY[figure.__name__])
    widgets.belongings(
        picture, frame, key=key, command=COMMAND,
        cell="from onerec.explain import toy_experts as explain\n"
        "from onerec.viz import toy_experts as viz\n\n"
        f"setting = explain.{state.setting!r}\nstate = explain.after(setting, {state.step})\n"
        f"viz.{figure.__name__}(state)",
    )  # fmt: skip
