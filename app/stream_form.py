"""The form that starts a stream of the selected run, and what stands where there is none yet."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import jobs
import links
import places
import selection
import streamlit as st
import widgets

from onerec.errors import OneRecError, RecipeError
from onerec.explain import online
from onerec.runs import Run

WHAT = (
    "A **round** is one day: the served model makes a list for everyone who comes, the people of "
    "the world watch, skip and like, that feedback joins the log, and the model takes a few "
    "training steps on it; now and then the server gets the new weights. (Without a world, the "
    "log's own later days are played back.) A **stream** is one such sequence of days, and its "
    "**arm** says what is learned from: `frozen` learns nothing; `all` learns from every visit, "
    "`half` from a random half of them, `rsft` from the half with the most play time; `rsft_grpo` "
    "and `rsft_ecpo` do that and also let the model generate groups of items, which the reward "
    "model scores, with the objective GRPO or ECPO. All arms but `frozen`, which takes none, take "
    "the same number of steps."
)
READ_ONLY = (
    "The demo is only read: train a run of your own with the recipe `tiny`, and start a stream of "
    "it here."
)
ARMS = {  # as `onerec.stream.ARMS`, which a page cannot read: it would load torch
    "rsft_ecpo": "The visits with the most play time, and rewarded groups with ECPO.",
    "rsft_grpo": "The visits with the most play time, and rewarded groups with GRPO.",
    "rsft": "The half of the visits with the most play time.",
    "half": "A random half of the visits.",
    "all": "Every visit.",
    "frozen": "Nothing: the arm to compare with.",
}
# label, least, greatest, usual (None: what the command makes of it), help
NUMBERS: Mapping[str, tuple[str, int, int, int | None, str]] = {
    "rounds": ("Rounds", 1, 1_000, None,
               "Days: 20 unless you say so, or all that a log has to play back"),
    "steps": ("Steps a round", 1, 10_000, 20, "Updates of the model after each round"),
    "lag": ("Lag in steps", 0, 100_000, 20,
            "The server gets new weights every so many updates; 0: the model itself serves"),
    "seed": ("Seed", 0, 1_000_000, 0,
             "Of visitors, answers and training: streams of one seed have the same people"),
}  # fmt: skip
SHARE = 0.1
ROUNDS = 20  # as `onerec.stream.config.ROUNDS`: what no number of rounds means


def draw(run: Run) -> None:
    """Arm, numbers and name; what they mean for this stream; the command; Start.

    The widgets know no bounds: with them Streamlit puts the usual number in the place of one that
    does not fit, and the command would be of a number that nobody typed.
    """
    arm = widgets.options("Arm", list(ARMS), "arm")
    st.caption(ARMS[arm])
    _propose_name(run, arm)
    with st.grid("auto", min_column_width=150):
        for key, (label, _, _, usual, words) in NUMBERS.items():
            st.number_input(label, value=usual, step=1, key=f"stream_{key}", help=words,
                            placeholder=str(ROUNDS))  # fmt: skip
        st.number_input(
            "Share of the users", value=SHARE, step=0.01, key="stream_share",
            help="Who comes in a round; in a log that is played back its own users come",
        )  # fmt: skip
        st.text_input("Name of the stream", max_chars=80, key="stream_name")
    try:
        words = _asked(run)[1]
    except OneRecError as error:
        widgets.mistake(error)
        return
    _say_lag(arm)
    st.code(jobs.command_line(words), language="bash", wrap_lines=True)
    st.button("Start the stream", type="primary", icon=":material/play_arrow:", key="stream_go",
              on_click=_start, args=(run,))  # fmt: skip
    if problem := st.session_state.pop("stream_form_problem", None):
        st.error(problem, icon=":material/error:")


def _say_lag(arm: str) -> None:
    """When what is learned is served for the first time: with a great lag, never."""
    if arm == "frozen":
        return
    steps, lag = (int(st.session_state[f"stream_{key}"]) for key in ("steps", "lag"))
    rounds = int(st.session_state["stream_rounds"] or ROUNDS)
    first = online.served_from(steps, lag)
    if first > rounds:
        st.warning(
            f"With {steps} steps a round and new weights every {lag} steps, round {first} would be "
            f"the first to be served by what was learned, and there are {rounds}: this stream "
            "would serve like `frozen`. Choose a smaller lag.",
            icon=":material/schedule:",
        )
    else:
        st.caption(f"Round {first} is the first that is served by weights that learned something.")


def _asked(run: Run) -> tuple[str, list[str]]:
    """Name and command, checked again on this side: a browser can send anything."""
    state = st.session_state
    if state["arm"] not in ARMS:
        raise RecipeError(f"no arm {state['arm']!r}; choose one of {', '.join(ARMS)}")
    settings: dict[str, Any] = {"arm": state["arm"]}
    for key, (label, least, greatest, usual, _) in NUMBERS.items():
        if usual is None and state[f"stream_{key}"] is None:
            continue
        settings[key] = int(state[f"stream_{key}"])
        if not least <= settings[key] <= greatest:
            raise RecipeError(f"{label} is {settings[key]:,}: choose from {least} to {greatest:,}")
    settings["share"] = round(float(state["stream_share"]), 4)
    if not 0 < settings["share"] <= 1:
        raise RecipeError(f"Share of the users is {settings['share']}: choose from 0.01 to 1")
    name = jobs.valid_name(state["stream_name"] or "", "name of the stream")
    return name, jobs.stream_command(run.name, name, settings)


def _start(run: Run) -> None:
    """A callback: it reads what the form holds now, and the page is drawn with the new stream."""
    try:
        name, words = _asked(run)
        if name in online.names(run) and online.settings(run, name):
            raise RecipeError(f"stream {name} exists; choose another name, or resume it below")
        jobs.start_stream(run, name, words)
    except (OneRecError, OSError) as error:
        st.session_state["stream_form_problem"] = str(error)
        return
    st.session_state["stream_name"] = None  # the next proposal
    st.session_state["stream_form"] = False  # close it: what was started stands below
    st.session_state["stream"], st.session_state["online_view"] = name, "Curves"


def _propose_name(run: Run, arm: str) -> None:
    """A free name that follows the arm until a person writes one."""
    state, taken = st.session_state, online.names(run)
    free = next(name for n in range(1, 10_000) if (name := arm + f"-{n}" * (n > 1)) not in taken)
    if state.get("stream_name") in (None, state.get("proposed_stream")):
        state["stream_name"] = state["proposed_stream"] = free


def none_yet(view: selection.Selection, run: Run) -> None:
    """The empty state: what to do for a first stream."""
    if view.read_only:
        how = READ_ONLY
    elif selection.shown("train") and not selection.locked():
        how = f"Start one above, or in a terminal: `onerec stream --run {run.name} --arm rsft_ecpo`"
    else:
        how = f"In a terminal: `onerec stream --run {run.name} --arm rsft_ecpo`"
    st.info(
        f"No stream of run **{view.run_name}** yet. {how}",
        icon=":material/sync:",
        title="No stream yet",
    )
    _offer_a_run(view)


def other_arms(view: selection.Selection) -> None:
    """Below the demo's streams: how to make some of one's own."""
    if view.read_only and selection.shown("train") and not selection.locked():
        st.caption(READ_ONLY)
        _offer_a_run(view)


def _offer_a_run(view: selection.Selection) -> None:
    if view.read_only:
        links.to("train", "Train a run", "play_arrow")


def command(run: Run, *names: str) -> str:
    """The lines that make these streams again in a terminal."""
    lines = []
    for name in names:
        words = jobs.stream_command(run.name, name, online.settings(run, name))
        lines.append(places.command(shlex.join(words[3:]), run))
    return "\n".join(lines)
