"""The playground's first half: residual k-means in the plane, step by step."""

from __future__ import annotations

from typing import Any

import pandas as pd
import selection
import stepping
import streamlit as st
import widgets

from onerec import plain
from onerec.explain import toy_codes
from onerec.explain.toy_codes import Codes, CodesSetting
from onerec.explain.toy_points import SHAPES
from onerec.viz import toy_codes as draw

TOY = stepping.Toy(
    "codes", toy_codes.begin, toy_codes.step, toy_codes.after, toy_codes.changed,
    lambda state: state.done, toy_codes.MOST_STEPS,
)  # fmt: skip
POINT = "codes_point"
REPAIRS = ("repaired", "left empty")
COMMAND = "onerec tokenize --run NAME --recipe tiny --dataset world  # the same, on real items"
SAY = (
    "A dot is an item, a numbered disc the centroid of a code, its colour the cell of that code. "
    "Arrows show the last step, lines the way so far. Click a dot to follow it."
)


def show() -> None:
    """Settings, buttons, and the live part."""
    st.markdown(
        "An item is a point. Its first code is the **nearest centroid**; the next level does the "
        "same with **what is left**. Look at how the centroids wander to where the points are, and "
        "how little is left after two levels."
    )
    pictures, side = st.columns([2, 1], gap="medium")  # on a phone the pictures come first
    with side:
        setting = _setting()
        _things_to_try()
    with pictures:
        stepping.settled(TOY, setting)
        stepping.controls(TOY)
        stepping.live(TOY, _draw)


def _setting() -> CodesSetting:
    """What the sliders say; they act in mid-run."""
    levels = widgets.number("Levels", "codes_levels", 1, 3, 2, 1)
    size = widgets.number("Codes a level", "codes_size", 2, 16, 6, 1,
                          "In mid-run the least used go, or new ones start at points that are "
                          "badly said; the fit goes on from level 1")  # fmt: skip
    points = widgets.number("Points", "codes_points", 40, 400, 240, 20)
    seed = widgets.number("Seed", "codes_seed", 0, 20, 0, 1,
                          "Other points of the same shape, another start")  # fmt: skip
    shape = widgets.options("The points form", list(SHAPES), "codes_shape")
    start = widgets.options("Centroids start", toy_codes.STARTS, "codes_start",
                            help="k-means++: at points far from one another. It counts from the "
                            "next level on, or after a reset")  # fmt: skip
    repair = widgets.options("Empty codes are", REPAIRS, "codes_repair")
    return CodesSetting(shape, points, levels, size, start, repair == REPAIRS[0], seed)


def _things_to_try() -> None:
    st.markdown(
        "**Three things to try**\n"
        "1. Press **Step** a few times: each centroid moves to the middle of its cell, then the "
        "cells change, then the centroids move again. Then press **Play**.\n"
        "2. Ten centroids start anywhere, empty codes are **left empty**: who has no point never "
        "moves. Step, then switch to **repaired** in mid-run.\n"
        "3. Two levels of 4 codes name 16 places with 8 centroids. Play to the end, then set 1 "
        "level of 16 codes: is that much better?"
    )
    with st.container(horizontal=True):
        st.button("Set up 2", key="codes_try_2", on_click=stepping.reset, args=(TOY,),
                  kwargs={"codes_start": "anywhere", "codes_repair": REPAIRS[1],
                          "codes_size": 10, "codes_levels": 2})  # fmt: skip
        st.button("Set up 3", key="codes_try_3", on_click=stepping.reset, args=(TOY,),
                  kwargs={"codes_start": "k-means++", "codes_repair": REPAIRS[0],
                          "codes_size": 4, "codes_levels": 2})  # fmt: skip


def _draw(state: Codes) -> None:
    """The live part: numbers, pictures, one point's walk."""
    _numbers(state)
    _say_of_empty(state)
    point = _point(state)
    _figure(draw.plane, state, toy_codes.table(state), pick=_pick, point=point)
    st.caption(SAY)
    _choose_point(state)
    if point is not None:
        _walk(state, point)
    with st.grid(2, min_column_width=240) as grid:
        for level in range(2, min(state.setting.levels, state.level + 1) + 1):
            with grid.cell():
                _figure(draw.residual, state, toy_codes.levels(state), level=level, point=point)
        with grid.cell():
            _figure(draw.course, state, toy_codes.history(state))
    _levels(state)


def _numbers(state: Codes) -> None:
    last = state.history[-1]
    with st.grid(4, min_column_width=125):
        st.metric("Step", state.step, border=True,
                  help="A step is one iteration, or the start of a level")  # fmt: skip
        st.metric("Level", f"{state.level} of {state.setting.levels}", border=True)
        st.metric("Codes in use", f"{last['used']} of {last['size']}", border=True)
        st.metric("Spread left", f"{last['relative_error']:.1%}", border=True,
                  help=f"Codes drawn by lot would leave {last['lot_error']:.1%}")  # fmt: skip


def _say_of_empty(state: Codes) -> None:
    """Codes without a point: what became of them, and what the next step does."""
    empty = [str(code) for code, n in enumerate(state.counts) if n == 0]
    words = []
    if state.repaired:
        words.append(f"The last step moved empty code {', '.join(map(str, state.repaired))} to a "
                     "point that was badly said")  # fmt: skip
    if empty:
        one = len(empty) == 1
        code, it = ("code", "it") if one else ("codes", "them")
        repaired = state.setting.repair
        what = f"the next step moves {it}" if repaired else f"nothing moves {it}: wasted"
        words.append(f"no point has {code} {', '.join(empty)}, and {what}")
    if words:
        text = "; ".join(words)
        st.info(f"{text[0].upper()}{text[1:]}.", icon=":material/block:")


def _point(state: Codes) -> int | None:
    """The point that is followed; a number that does not fit is dropped, and said."""
    most = len(state.x) - 1
    asked = st.session_state.get(POINT, st.query_params.get(POINT))
    if asked in (None, ""):
        return None
    number = selection.whole(str(asked))
    if number is not None and number <= most:
        return number
    st.warning(f"Point “{plain.text(asked)}” is not a number from 0 to {most}; none is followed.",
               icon=":material/link_off:")  # fmt: skip
    st.session_state[POINT] = None
    return None


def _choose_point(state: Codes) -> None:
    if POINT not in st.session_state["page_widgets"]:
        st.session_state["page_widgets"].append(POINT)
    st.number_input("Point to follow", 0, len(state.x) - 1, None, 1, key=POINT,
                    bind="query-params", placeholder="click a dot", width=200)  # fmt: skip


def _pick(points: list[dict[str, Any]]) -> None:
    """Only dots have two numbers of which the first is a point's; centroids are not followed."""
    if points[0].get("curve_number") == draw.DOTS:
        st.session_state[POINT] = int(points[0]["customdata"][0])


def _walk(state: Codes, point: int) -> None:
    walk = toy_codes.walk(state, point)
    left = walk["share_left"].iloc[-1]
    codes = " · ".join(str(code) for code in walk["code"])
    title = f"Point {point} is said as {codes}; {left:.2%} of its squared length is left unsaid"
    shown = walk[["level", "code", "centroid_x", "centroid_y", "norm_after", "share_left"]]
    widgets.table(
        shown.round(4), key="codes_walk", title=title,
        column_config={
            "norm_after": st.column_config.NumberColumn("length left", help="|r| after the level"),
            "share_left": st.column_config.NumberColumn("of |x|²", format="percent"),
        },
    )  # fmt: skip


def _levels(state: Codes) -> None:
    """Use, entropy and what is left, level by level, beside codes drawn by lot."""
    column = st.column_config.NumberColumn
    widgets.table(
        toy_codes.levels(state).drop(columns="utilisation").round(4), key="codes_by_level",
        title="Level by level",
        column_config={
            "size": column("of N"), "entropy_nats": column("entropy", help="in nats"),
            "max_entropy_nats": column("ln N"), "relative_error": column("left", format="percent"),
            "lot_error": column("by lot", format="percent", help="What codes drawn by lot leave"),
        },
    )  # fmt: skip


def _figure(figure: Any, state: Codes, frame: pd.DataFrame, pick: Any = None, **asked: Any) -> None:
    """A picture with what belongs to it."""
    key = "_".join(["toy", figure.__name__, *(str(asked[k]) for k in asked if k == "level")])
    picture = figure(state, **asked)
    widgets.place(picture, key=key, pick=pick)
    words = "".join(f", {name}={value!r}" for name, value in asked.items() if value is not None)
    widgets.belongings(
        picture, frame, key=key, command=COMMAND,
        cell="from onerec.explain import toy_codes as explain\n"
        "from onerec.viz import toy_codes as viz\n\n"
        f"setting = explain.{state.setting!r}\nstate = explain.after(setting, {state.step})\n"
        f"viz.{figure.__name__}(state{words})",
    )  # fmt: skip
