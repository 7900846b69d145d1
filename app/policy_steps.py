"""The recorded policy step that is looked at: part of the shared selection, chosen here."""

from __future__ import annotations

import re

import links
import pandas as pd
import selection
import streamlit as st

from onerec.explain import policy
from onerec.runs import Run
from onerec.viz.composer import words

WHAT = (
    "In the stage **align** the model generates a group of items for each of some users, rewards "
    "score them, and the better ones of a group are made likelier. Each recorded step can be "
    "looked at here."
)
PLACE = "Item of the group"  # the label of its control
SAID = {  # what becomes of an item, by the effect that `onerec.explain.objectives` names
    "pushes": "it pushes in full",
    "bounded push": "its push is bounded, not zero",
    "clipped: no push": "it is clipped and does not push",
    "no advantage": "it has no advantage and does not push",
    "not chosen": "the objective compares two other items of the group",
    "left out": "it does not count and does not push",
}
FIGURES = {  # of one item: its column, how it is written, what it means
    "Reward": ("reward", ".3f", "The sum of its parts, each times its weight; see below"),
    "Advantage": ("advantage", "+.2f", "How much better (+) or worse (-) it is than its group: its "
                  "sign says whether the item is made likelier or less likely"),
    "ln π, old": ("drawn", ".3f", "π is the probability that the model gives to the item; here "
                  "when the item was drawn"),
    "ln π, new": ("log_prob", ".3f", "The same when the step began"),
    "Ratio": ("ratio", ".3f", "π new / π old: 1 means that the model has not moved since"),
    "Push": ("push", "+.3f", "The slope of what is maximised by the item's ln π: advantage times "
             "ratio, unless it is clipped (0) or bounded"),
}  # fmt: skip
_REWARD = {"format": "%.3f"}
GROUPS = {  # the columns of the table of groups
    "user": "User", "items": "Items", "counted": "That count", "legal": "Legal",
    "reward_mean": st.column_config.NumberColumn("Mean reward", **_REWARD),
    "reward_least": st.column_config.NumberColumn("Least", **_REWARD),
    "reward_greatest": st.column_config.NumberColumn("Greatest", **_REWARD),
    "flat": "No spread", "clipped": "Clipped",
    "ratio_max": st.column_config.NumberColumn("Greatest ratio", **_REWARD),
}  # fmt: skip
PANELS = {  # how each panel of curves is read
    "reward": "What the drawn items earn; **on valid**: the lists of a sample whose "
    "watching was set aside.",
    "parts of the reward": "What the reward is made of; a part with the weight 0 is only measured.",
    "share": "**Legal**: the codes that were written are an item's. Outside 1±ε an item may be "
    "clipped; a group **without a spread** of rewards teaches nothing.",
    "loss": "The policy loss pushes towards reward; the next-token loss keeps what was learned "
    "from people.",
    "gradient norm": "How large the update of a step is; a sudden jump is a sign of trouble.",
    "ratio": "How far the model has moved since the items were drawn: at 1 it has not, and "
    "nothing is clipped.",
    "recall@10 on valid": "How often what people watched next is among the first ten of their "
    "list. It may fall while the reward rises: the two are different wishes.",
}

PASS = ("**pass@K**: the share of people with something they watched among the first K of their "
        "list. Means alone were kept, so small changes may be chance.")  # fmt: skip
NO_PASS = ("No pass@K before and after: runs of earlier versions did not measure it, and a run "
           "that is being aligned has it from its first look on.")  # fmt: skip


def picker(view: selection.Selection, known: list[int]) -> int:
    """That of the selection where it was recorded, else the last; with buttons to go on and back.

    `known` holds the recorded steps, ascending, at least one.
    """
    step = view.step if view.step in known else known[-1]
    if view.step is not None and view.step not in known:
        st.warning(f"Step {view.step} was not recorded in this run; {step} is shown.",
                   icon=":material/link_off:")  # fmt: skip
    at = known.index(step)
    st.session_state["policy_step"] = step  # follows the shared selection, and sets it
    with st.container(horizontal=True, vertical_alignment="bottom", key="step_bar"):
        st.selectbox(
            "Recorded step", known, key="policy_step", width=180, format_func="{:,}".format,
            on_change=lambda: selection.choose(step=st.session_state["policy_step"]),
        )  # fmt: skip
        st.button("Back", icon=":material/chevron_left:", disabled=at == 0,
                  on_click=selection.choose, kwargs={"step": known[max(0, at - 1)]},
                  help="The recorded step before")  # fmt: skip
        st.button("Next", icon=":material/chevron_right:", disabled=at == len(known) - 1,
                  on_click=selection.choose, kwargs={"step": known[min(at + 1, len(known) - 1)]},
                  help="The recorded step after")  # fmt: skip
    doing = view.run.status() if view.run else None
    if doing and doing.active and doing.stage == "align":
        st.caption(f"This run is at step {doing.step:,}: reload the page for newer steps.")
    return step


def say_age(run: Run, step: int) -> None:
    """How old the weights are that drew the step's items: that is why ratios leave 1."""
    told = policy.age(run, step)
    if told is None:
        return
    updates, lag = told
    if not lag:
        st.caption("The model drew these items itself (`align.lag` 0), so every ratio is 1 and "
                   "nothing is clipped.")  # fmt: skip
        return
    drawn = f"were drawn with the weights of {updates:,} update{'s' * (updates != 1)} ago"
    if not updates:
        drawn = "were drawn with the model's own weights, so every ratio is 1"
    st.caption(f"These items {drawn}: the copy that draws gets new weights every {lag:,} updates "
               "(`align.lag`). The older its weights, the farther ratios lie from 1.")  # fmt: skip


def numbers(groups: pd.DataFrame) -> None:
    """A step in five figures, from its table of groups (see `explain.policy.groups`)."""
    legal = groups["legal"].sum() / groups["items"].sum()
    earned = (groups["reward_mean"] * groups["counted"]).sum() / max(1, groups["counted"].sum())
    with st.grid(5, min_column_width=120):
        st.metric("Groups", len(groups), border=True)
        st.metric("Mean reward", f"{earned:.3f}", border=True,
                  help="Of the items that count: illegal ones are left out")  # fmt: skip
        st.metric("Without a spread", int(groups["flat"].sum()), border=True,
                  help="All rewards of the group are the same: it teaches nothing")  # fmt: skip
        st.metric("Legal items", f"{legal:.0%}", border=True,
                  help="The model writes codes; legal are those that are an item's")  # fmt: skip
        st.metric("Clipped items", int(groups["clipped"].sum()), border=True,
                  help="They have an advantage, but may push no further")  # fmt: skip


def named(formula: str) -> str:
    """The parts of a reward as every page calls them: "(long_view)" -> "(long view)"."""
    return re.sub(r"\((\w+)\)", lambda part: f"({words(part[1])})", formula)


def linked_place(items: pd.DataFrame) -> int | None:
    """The place in the group that a copied link names, on its first run."""
    text = st.query_params.get("place", "") if "place_of" not in st.session_state else ""
    place, last = selection.whole(text), int(items["place"].max())
    if text and (place is None or place > last):
        why, instead = f"not from 0 to {last}", "another is shown"
        st.warning(selection.refused(PLACE, text, why, instead), icon=":material/link_off:")
    return place


def nothing_recorded(view: selection.Selection) -> None:
    """The empty state: what a policy step is, and the command that makes some."""
    doing = view.run.status() if view.run else None
    if doing and doing.active and view.run and not view.run.done("align"):
        at = f"step {doing.step:,} of {doing.of:,}"
        at = f"at it: {at}, and none was recorded yet." if doing.stage == "align" else (
            f"at stage {doing.stage}, {at}.")  # fmt: skip
        st.info(f"{WHAT} Run **{view.run_name}** is {at}", icon=":material/hourglass_top:",
                title="Not there yet")  # fmt: skip
        links.to("train", "Watch it", "monitoring")
        return
    own = view.run is not None and not view.read_only
    how = "Train a run of your own with the recipe `tiny`: it takes such steps, too. (For a run "
    how += "without them, in a terminal: `onerec align --run NAME`.)"
    if own and view.run:
        how = f"This run was not aligned. In a terminal: `onerec align --run {view.run.name}`."
    st.info(f"{WHAT} {how}", icon=":material/hourglass_empty:", title="No policy step yet")
    if not own:
        links.to("train", "Train a run", "play_arrow")
