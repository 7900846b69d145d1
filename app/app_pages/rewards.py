"""Rewards: what an item is worth to a person; towers, calibration, weights, and a composer."""

import at_scale
import cache
import places
import policy_steps
import reward_controls
import selection
import streamlit as st
import tasks
import widgets

from onerec.errors import OneRecError
from onerec.explain import policy, rewards
from onerec.viz import rewards as draw
from onerec.viz import theme

MEASURES = {"Within a user (GAUC)": "gauc", "Over all users (AUC)": "auc"}

view = widgets.head(
    "What an item is worth",
    "A generated item needs a reward before the model can learn from it. Which behaviours can be "
    "foretold, how do they become one number, and what would another mixture prefer?",
    words=(
        "baseline", "behaviour", "interval", "P-Score", "reward", "tower",
    ),
)  # fmt: skip
run = widgets.needs_run(view)
command = places.command(f"runs show {run.name} --json", run)


def towers() -> None:
    """How well each behaviour is foretold, by its tower and by the fused score."""
    st.markdown(
        "A **tower** is a small network that foretells one behaviour of one person with one item. "
        "The **fused P-Score** reads all towers and gives one number, trained on all behaviours "
        "together by their weights."
    )
    measure = MEASURES[widgets.options("Measure", list(MEASURES), "reward_measure")]
    found = widgets.show(
        run, rewards.towers, draw.towers, key=f"towers_{measure}", command=command,
        reading={"rival": rewards.has_rival(run)}, drawing={"measure": measure},
        empty="This run's reward model was not measured: its valid part holds no rows.",
        say="Further right is better; the dashed line is a coin. Hollow: too few to be sure.",
    )  # fmt: skip
    notes = dict(zip(found["behaviour"], found["note"], strict=True))
    for name, why in cache.read(rewards.left_out, run).itertuples(index=False):
        notes[name] = f"no tower, {why}"
    st.caption("\n".join(f"- **{draw.words(k)}**: {note}" for k, note in notes.items() if note))
    if len(found) and not rewards.has_rival(run):
        tasks.task(view, run, "rival", {})
    widgets.show(
        run, rewards.learning, draw.learning, key="reward_learning", command=command,
        say="Each line is a tower's loss: compare it with where it began, not with another line.",
        empty="The losses of this training were not kept.",
    )  # fmt: skip
    at_scale.show("worth")


def calibration() -> None:
    """Is what a tower says also what happens?"""
    names = {draw.words(name): name for name in cache.read(rewards.calibration, run)["behaviour"]}
    if not names:
        st.info("No prediction was compared with what happened: there were no valid rows.")
        return
    st.markdown("If a tower says 10%, it should happen in one of ten cases: weights on towers mean "
                "something only then.")  # fmt: skip
    behaviour = names[widgets.options("Tower", list(names), "reward_tower")]
    widgets.show(
        run, rewards.calibration, draw.calibration, key=f"calibration_{behaviour}",
        command=command, drawing={"behaviour": behaviour},
        say="On the dashed line, what was said is what happened; above it more happened.",
    )  # fmt: skip


def weights() -> None:
    """How the weights in the fused loss were found."""
    st.markdown("Round by round, the behaviour on which the fused score lost most against the "
                "product of the towers gets more weight, and the fusion learns again.")  # fmt: skip
    if verdict := cache.read(rewards.verdict, run):
        st.markdown(verdict)
    grid = st.grid(2, min_column_width=360)
    for figure, say in (
        (draw.weights, "A behaviour with the weight 0 is not wished for."),
        (draw.gaps, "Above the dashed line the fused score orders better than the product."),
    ):
        with grid.cell():
            widgets.show(run, rewards.rounds, figure, key=f"reward_{figure.__name__}",
                         command=command, say=say, empty="No round was kept.")  # fmt: skip


def pick_item(points: list[dict]) -> None:
    """A click on a line selects its item on all pages."""
    place = int(points[0]["customdata"][0])
    item = int(group.loc[group["place"] == place, "item"].iloc[0])
    selection.choose(item=item if item >= 0 else None)


reward_controls.needs_reward(view, run)
part = widgets.options("Show", ("Towers", "Calibration", "Weights", "Composer"), "rewards_view")
if part != "Composer":
    {"Towers": towers, "Calibration": calibration, "Weights": weights}[part]()
    st.stop()
known = policy.recorded(run)
if not known:
    policy_steps.nothing_recorded(view)
    st.stop()
st.markdown("Choose another reward and see at once which of the recorded items it would prefer. "
            "The model is not trained anew: only the order of what it drew changes.")  # fmt: skip
step = policy_steps.picker(view, known)
summary = st.container()  # above what changes it
asked = reward_controls.controls(run, step)
try:
    result = cache.read(rewards.composed, run, step, **asked)
except OneRecError as error:
    widgets.mistake(error)
    st.stop()
with summary:
    reward_controls.numbers(result.facts)
widgets.show(
    run, rewards.composed_parts, draw.parts, key="reward_parts", command=command,
    reading={"step": step, **asked},
    say=f"What the {result.facts['top']} first items of each group score, on average: to the right "
    "more than with the recorded reward.",
)  # fmt: skip
user = reward_controls.user(view, cache.read(rewards.users, run, step))
reading = {"step": step, "user": user, **asked}
group = cache.read(rewards.composed_group, run, **reading)
widgets.show(
    run, rewards.composed_group, draw.ranks, key="ranks", command=command, reading=reading,
    drawing={"user": user, "top": result.facts["top"]}, pick=pick_item,
    say="Left the place by the recorded reward, right by yours. A square: the industrial rule "
    "touches it. Click an item to select it.",
)  # fmt: skip
for row in group[group["item"] == view.item].head(1).to_dict("records"):
    st.markdown(reward_controls.sentence(row, theme.short(row["title"], 60)))
