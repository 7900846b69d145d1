"""RL steps: one policy step, group by group, item by item; and the curves of all steps."""

import at_scale
import cache
import places
import policy_steps
import selection
import streamlit as st
import widgets

from onerec import plain
from onerec.explain import policy, training
from onerec.viz import policy as draw

view = widgets.head(
    "One policy step, group by group, item by item",
    "For each of some users the model draws a group of items. Rewards score them, the advantage "
    "compares each with its group, and the objective decides how hard each may push the model.",
    words=(
        "advantage", "ECPO", "group", "importance ratio", "log-probability", "policy", "reward",
        "P-Score", "level",
    ),
)  # fmt: skip
run = widgets.needs_run(view)
command = places.command(f"runs show {run.name} --json", run)
lines = training.latest(run, "align").get("step", 0)  # grows while the run is being aligned
known = policy.recorded(run)
if not known and not lines:
    policy_steps.nothing_recorded(view)
    st.stop()


def curves() -> None:
    """Rewards, shares, losses over all steps, one unit a picture."""
    found = cache.read(policy.reward_curves, run, through=lines)
    grid = st.grid(2, min_column_width=340)
    for panel in (name for name in policy.PANELS if (found["panel"] == name).any()):
        with grid.cell():
            widgets.show(run, policy.reward_curves, draw.reward_curves, command=command,
                         key="align_" + panel.partition(" ")[0], reading={"through": lines},
                         drawing={"panel": panel}, say=policy_steps.PANELS[panel])  # fmt: skip
    widgets.show(run, policy.pass_at_k, draw.pass_at_k, command=command, key="pass_at_k",
                 reading={"through": lines}, say=policy_steps.PASS,
                 empty=policy_steps.NO_PASS)  # fmt: skip
    at_scale.show("legality")
    at_scale.show("worth_tables")


def pick_step(points: list[dict]) -> None:
    selection.choose(step=int(points[0]["customdata"][0]))


def pick_user() -> None:
    """A click on a row of the table of groups selects that user."""
    if rows := st.session_state["groups"]["selection"]["rows"]:
        selection.choose(user=int(groups["user"].iloc[rows[0]]), item=None)


def pick_place(points: list[dict]) -> None:
    choose_place(int(points[0]["customdata"][0]))


def choose_place(place: int) -> None:
    """Select an item of the group: by its place here, by its number on all pages."""
    st.session_state["place"] = place
    item = int(items.loc[items["place"] == place, "item"].iloc[0])
    selection.choose(item=item if item >= 0 else None)


def place_of_item() -> int:
    """That of the selected item; without one the chosen one, at first the best of its group."""
    same = st.session_state.get("place_of") == (run.path, step, user)
    asked = st.session_state.get("place") if same else policy_steps.linked_place(items)
    own = items.loc[items["item"] == view.item, "place"].tolist()
    if asked in (own or items["place"].tolist()):
        return asked
    return own[0] if own else int(items["place"].iloc[items["advantage"].argmax()])


if widgets.options("Show", ("One step", "Curves of all steps"), "rl_view") != "One step":
    curves()
    st.stop()
if not known:
    st.info("This run's curves are there, but none of its steps was recorded item by item.",
            icon=":material/hourglass_empty:")  # fmt: skip
    st.stop()
widgets.show(
    run, policy.steps, draw.steps, key="policy_steps", command=command,
    reading={"through": known[-1]}, pick=pick_step,
    say="A bar is a recorded step: click one to open it.",
)  # fmt: skip
step = policy_steps.picker(view, known)
groups = cache.read(policy.groups, run, step)
policy_steps.numbers(groups)
policy_steps.say_age(run, step)
users = groups["user"].tolist()
teaching = groups.loc[~groups["flat"], "user"].tolist()  # the first to be shown: not a flat one
user = view.user if view.user in users else (teaching or users)[0]
if view.user is not None and view.user not in users:
    st.warning(f"User {view.user} has no group in step {step}; user {user} is shown.",
               icon=":material/link_off:")  # fmt: skip
st.header(f"Group of user {user}")
with st.expander(f"{len(groups):,} groups: choose another", icon=":material/person_search:"):
    marked = groups.assign(flat=groups["flat"].map({True: "⚠ teaches nothing", False: ""}))
    st.dataframe(
        marked, hide_index=True, height=260, key="groups", on_select=pick_user,
        selection_mode="single-row", alt="Groups of the step: rewards, legality, clipped items",
        column_config=policy_steps.GROUPS,
    )  # fmt: skip
asked = {"step": step, "user": user}
items = widgets.show(
    run, policy.items, draw.group, key="group", command=command, reading=asked,
    drawing={"user": user}, pick=pick_place,
    say="Click an item to see why it pushes as it does. A cross is clipped: it pushes no more.",
)  # fmt: skip
if groups.loc[groups["user"] == user, "flat"].iloc[0]:
    st.warning("The rewards of this group do not differ: every advantage is 0, no item pushes.",
               icon=":material/horizontal_rule:")  # fmt: skip

place = place_of_item()
row = items[items["place"] == place].iloc[0]
st.session_state["place"], st.session_state["place_of"] = place, (run.path, step, user)
st.session_state["page_widgets"].append("place")  # also for illegal codes, which have no item
if view.item is not None and view.item not in items["item"].tolist():
    st.caption(f"The selected item {view.item:,} is not in this group; place {place} is shown.")
names = dict(
    zip(items["place"], items["title"].where(items["title"] != "", "no item"), strict=True)
)
st.header(f"“{plain.text(names[place])}”  :blue-badge[{row['codes']}]")
st.selectbox(
    policy_steps.PLACE, list(names), key="place",
    format_func=lambda place: f"{place}: {names[place]}",
    on_change=lambda: choose_place(st.session_state["place"]),
)  # fmt: skip
with st.grid("auto", min_column_width=130):
    for label, (column, form, words) in policy_steps.FIGURES.items():
        st.metric(label, f"{row[column]:{form}}", border=True, help=words)
formula = policy_steps.named(cache.read(policy.reward_formula, run, place=place, **asked))
becomes = policy_steps.SAID[row["effect"]]
st.markdown(f"Reward = {formula}. Its ratio lies **{row['region']}**: {becomes}.")
if row["format"]:
    st.caption(f"The format reward gave it an advantage of {row['format']:g} besides, which pushes "
               f"by {row['format_push']:+.3f}.")  # fmt: skip
widgets.show(run, policy.levels, draw.levels, key="levels", command=command,
             reading=asked | {"place": place}, drawing={"name": str(names[place])})  # fmt: skip
