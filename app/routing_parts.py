"""What the page Routing is made of: its empty states, its choices, and its numbers.

What the choices hold lives in the URL; a value that does not fit falls back and says so.
"""

from __future__ import annotations

from typing import Any

import cache
import links
import pandas as pd
import places
import selection
import streamlit as st
import widgets

from onerec.explain import network, routing
from onerec.runs import Run

WHAT = (
    "A layer with **experts** has several small networks in the place of one. A **router** sends "
    "each token to a few of them. This page shows how that went."
)
NOBODY = "none"


def needs_experts(view: selection.Selection, run: Run) -> None:
    """The empty states, each with what experts are and what to do: a dense model, or not yet."""
    if not run.recipe():
        widgets.needs_run(view, "pretrain")
    if not routing.experts(run)[0]:
        st.info(
            f"{WHAT} The model of run **{view.run_name}** is dense: it has none. Train another "
            f"with some: `{_again(view, run)} --set model.experts=8`.",
            icon=":material/call_split:", title="No experts in this model",
        )  # fmt: skip
        _train()
        st.stop()
    if not network.has_routing(run):
        doing = run.status()
        where = f"{doing.state}, {doing.stage}, step {doing.step:,} of {doing.of:,}"
        st.info(
            f"{WHAT} The load of the experts is written with the first checkpoint. "
            f"Run **{view.run_name}**: {where if doing.of else doing.state}.",
            icon=":material/hourglass_top:", title="Not there yet",
        )  # fmt: skip
        links.to("train", "Watch or resume it", "monitoring")
        st.stop()


def needs_tokens(view: selection.Selection, run: Run) -> int:
    """The recorded step that is looked at, or why there is none, and the end of the page."""
    known = routing.recorded(run)
    if known:
        return _step(run, known)
    if _training(run):
        st.info(
            "Tokens are recorded at each evaluation; the first is still to come. Reload the page "
            "then.",
            icon=":material/hourglass_top:",
            title="Not there yet",
        )
        st.stop()
    _not_recorded(view, run, "which expert saw which token")
    return 0


def needs_without(view: selection.Selection, run: Run) -> dict[str, Any]:
    """What was measured of the whole model, or why nothing was, and the end of the page."""
    facts = cache.read(routing.without_facts, run)
    if facts:
        return facts
    experts, active = routing.experts(run)
    if experts <= active:
        every = f"all {experts} experts" if experts > 1 else "the one expert"
        st.info(f"Each token sees {every}: none can be spared. Train with more: "
                f"`{_again(view, run)} --set model.experts={max(4, 2 * active)} "
                f"--set model.active_experts={max(2, active)}`.",
                icon=":material/select_all:", title="No expert can be switched off")  # fmt: skip
        st.stop()
    if _training(run) or not run.is_done("pretrain"):
        st.info("Each expert is switched off once, when pre-training has ended. Come back then.",
                icon=":material/hourglass_top:", title="Not there yet")  # fmt: skip
        links.to("train", "Watch or resume it", "monitoring")
        st.stop()
    _not_recorded(view, run, "what the lists are without an expert")
    return {}


def layer(layers: list[int]) -> int:
    """Which layer is looked at; a choice where there are several."""
    if len(layers) == 1:
        return layers[0]
    return int(widgets.options("Layer", [str(number) for number in layers], "routing_layer"))


def user(view: selection.Selection, known: list[int]) -> int:
    """Whose tokens are looked at: the selected user's where recorded, else the first's."""
    chosen = view.user if view.user in known else known[0]
    if view.user is not None and view.user not in known:
        st.warning(f"User {view.user} is not in the recorded sample; user {chosen} is shown.",
                   icon=":material/link_off:")  # fmt: skip
    st.session_state["routing_user"] = chosen  # follows the shared selection, and sets it
    st.selectbox(
        "User (number)", known, key="routing_user", width=180,
        on_change=lambda: selection.choose(user=st.session_state["routing_user"], item=None),
    )  # fmt: skip
    return chosen


def weighed(active: int) -> str:
    """What a token's weights do, in a sentence."""
    if active == 1:
        return "The answer of its one expert is multiplied by the weight."
    return f"Its {active} experts share it by their weights."


def spared(frame: pd.DataFrame) -> str:
    """The expert that is switched off, as in "0-2", or `NOBODY`."""
    names = {NOBODY: NOBODY} | {name(key, frame): key for key in _keys(frame)}
    label = "Expert to switch off"
    if notice := selection.bad_parameter(label, "routing_off", list(names), NOBODY):
        st.warning(notice, icon=":material/link_off:")
    st.session_state["page_widgets"].append("routing_off")
    chosen = st.selectbox(label, list(names), key="routing_off", bind="query-params", width=260)
    return names.get(chosen, NOBODY)


def name(key: str, frame: pd.DataFrame) -> str:
    """An expert of `routing.without`, given as in "0-2", as people read it and links hold it."""
    number, expert = key.split("-")
    several = frame["layer"].nunique() > 1
    return f"expert {expert} of layer {number}" if several else f"expert {expert}"


def _keys(frame: pd.DataFrame) -> list[str]:
    return [f"{row['layer']}-{row['expert']}" for row in frame.to_dict("records")]


def balance_numbers(frame: pd.DataFrame, number: int) -> None:
    """How even the load of a layer is at the last step, and how it went."""
    own = frame[frame["layer"] == number]
    if own.empty:
        return
    last = own.iloc[-1]
    shown = (
        ("MaxVio", "max_violation", "The busiest expert's load / the mean load - 1: 0 is even"),
        ("CV", "cv", "Standard deviation of the loads / their mean: 0 is even"),
        ("Entropy in nats", "entropy_nats", f"Even would be {last['max_entropy_nats']:.3f}"),
    )
    with st.grid(4, min_column_width=140):
        for label, column, what in shown:
            st.metric(label, f"{last[column]:.3f}", border=True, help=what, height="stretch",
                      chart_data=own[column].tolist()[-60:])  # fmt: skip
        st.metric("Dropped tokens", "0", border=True, height="stretch",
                  help="Experts have no capacity limit here, so this is always 0")  # fmt: skip
    st.caption(
        "How even is the load? MaxVio is how far the busiest expert is above an even share, CV the "
        "spread of all: both are 0 where all experts do as much. Entropy is then "
        f"{last['max_entropy_nats']:.3f} nats, its most."
    )


def off_numbers(facts: dict[str, Any], frame: pd.DataFrame, key: str) -> None:
    """Recall and loss, of the whole model or without an expert, and where the change may lie."""
    number, _, expert = key.partition("-")
    row = None
    if key != NOBODY:
        row = frame[(frame["layer"] == int(number)) & (frame["expert"] == int(expert))].iloc[0]
    with st.grid(3, min_column_width=170):
        for label, column, colour in (
            ("Recall@10", "recall", "normal"),
            ("Next-token loss in nats", "loss", "inverse"),
        ):
            value = facts[column] if row is None else row[column]
            change = None if row is None else f"{row[f'{column}_change']:+.4f}"
            st.metric(label, f"{value:.4f}", change, border=True, delta_color=colour,
                      height="stretch")  # fmt: skip
        st.metric("Contexts", f"{facts['contexts']:,}", border=True, height="stretch",
                  help="Users of valid, their targets together")  # fmt: skip
    st.caption(
        f"Of {facts['contexts']:,} users of valid with {facts['targets']:,} targets, by a beam of "
        f"{facts['beam']}: fewer users and a narrower beam than on the page Train, whose numbers "
        "are others therefore."
    )


def _step(run: Run, known: list[int]) -> int:
    """Which recording is looked at; at first that of the weights which the run goes on with."""
    choices, first = [str(step) for step in known], str(routing.chosen_step(run))
    label = "Recorded step"
    if notice := selection.bad_parameter(label, "routing_step", choices, first):
        st.warning(notice, icon=":material/link_off:")
    st.session_state["page_widgets"].append("routing_step")
    chosen = st.selectbox(
        label, choices, choices.index(first), key="routing_step", bind="query-params",
        width=180, help="Tokens are recorded at each evaluation of the training",
    )  # fmt: skip
    return int(chosen if chosen in choices else first)


def _training(run: Run) -> bool:
    doing = run.status()
    return doing.active and doing.stage in ("tokenize", "pretrain")


def _not_recorded(view: selection.Selection, run: Run, what: str) -> None:
    st.info(
        f"Run **{view.run_name}** has not recorded {what}: it is older than that, or has no valid "
        f"targets. Train it anew: `{_again(view, run)}`.",
        icon=":material/history:", title="Not recorded",
    )  # fmt: skip
    _train()
    st.stop()


def _again(view: selection.Selection, run: Run) -> str:
    """The command that trains such a run anew, in the reader's own home where it is the demo's."""
    known = run.recipe()
    dataset = (known.get("dataset") or {}).get("name", "NAME")
    if view.run_name and places.read_only(view.run_name):
        dataset = places.command_line_name(places.DEMO + dataset)
    words = f"run --recipe {known.get('name', 'tiny')} --dataset {dataset} --run NEW_NAME"
    return f"onerec {words}" if view.read_only else places.command(words, run)


def _train() -> None:
    if selection.shown("train"):
        links.to("train", "Train a run", "play_arrow")
