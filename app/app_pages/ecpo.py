"""ECPO: how a generated item pushes the model; value and push of the objectives by the ratio."""

import at_scale
import cache
import links
import places
import policy_steps
import selection
import streamlit as st
import widgets

from onerec.explain import policy
from onerec.viz import policy as draw

SIGNS = {"A < 0": -1.0, "A > 0": 1.0}
PROBABILITIES = ("0.001", "0.000001", "0.1", "0.5")
OBJECTIVES = (
    "**GRPO**, group-relative policy optimisation: an item is compared with its group, and pushes "
    "no more once the ratio has gone past 1±ε in the wanted direction. **ECPO**, early-clipped "
    "GRPO: besides, a worse item (A < 0) that became likelier pushes no harder than at 1+ε+δ. "
    "**GBPO**, gradient-bounded policy optimisation: no clip; the ratio is divided by more, so "
    "that no push grows large."
)
ADVANTAGE = (
    "A says how much better (A > 0) or worse (A < 0) an item is than its group, here 1 or -1"
)
KEYS = {name: key for key, name in draw.NAMES.items() if key in ("ecpo", "grpo", "gbpo")}

view = widgets.head(
    "How a generated item pushes the model",
    "An item that beats its group is made likelier, one that loses to it less likely: but only as "
    "far as the objective lets it. The ratio says how far the model has moved since the item was "
    "drawn. There is **one ratio per item**, of all its codes together, not one per code.",
    words=(
        "advantage", "clipping", "ECPO", "gradient", "group", "GRPO", "importance ratio", "KL",
        "ln p", "policy", "reward",
    ),
)  # fmt: skip


def objectives() -> list[str]:
    """The objectives to compare, ECPO and GRPO at first."""
    asked = [name for name in st.query_params.get_all("objectives") if name]  # empty: none chosen
    if unknown := [name for name in asked if name not in KEYS]:
        st.warning(selection.refused("Compare", unknown[0], "not here", "it is left out"),
                   icon=":material/link_off:")  # fmt: skip
    st.session_state["page_widgets"].append("objectives")
    chosen = st.pills("Compare", list(KEYS), default=["ECPO", "GRPO"], selection_mode="multi",
                      key="objectives", bind="query-params", help=OBJECTIVES)  # fmt: skip
    if not chosen:
        st.caption("None is chosen: ECPO is drawn.")
    return [KEYS[name] for name in chosen if name in KEYS] or ["ecpo"]


with st.grid(2, min_column_width=300) as grid:
    with grid.cell():
        chosen = objectives()
        sign = SIGNS[
            widgets.options("Advantage of the item", list(SIGNS), "advantage", help=ADVANTAGE)
        ]
    with grid.cell():
        epsilon = widgets.number("ε, half-width of the clip", "epsilon", 0.05, 0.9, 0.2, 0.05,
                                 "The papers print no value; .2 is PPO's")  # fmt: skip
        delta = widgets.number("δ, the early clip begins at 1+ε+δ", "delta", 0.0, 2.0, 0.1, 0.05,
                               "0.1 in the paper")  # fmt: skip
probability = 1e-3
if "gbpo" in chosen:
    probability = float(
        widgets.options("Probability of the item when drawn (GBPO)", PROBABILITIES, "probability")
    )
bounds = {"epsilon": epsilon, "delta": delta}
known = policy.recorded(view.run) if view.run else []
found = None
if known:
    step = policy_steps.picker(view, known)
    taken = cache.read(policy.rule, view.run, step)
    under = taken["objective"] if taken["objective"] in chosen else chosen[0]
    reading = {"step": step, "objective": under, **bounds}
    found = cache.read(policy.dots, view.run, **reading)
    as_taken = (taken["objective"], taken["epsilon"], taken["delta"]) == (under, epsilon, delta)
    said = f"Step {step:,} was taken with {draw.NAMES[taken['objective']]}, "
    said += f"ε = {taken['epsilon']:g}, δ = {taken['delta']:g}"
    st.caption(said + ("." if as_taken else "; the dots show what its items would do with "
               f"{draw.NAMES[under]} and the bounds above."))  # fmt: skip
    policy_steps.say_age(view.run, step)

curves = policy.curves(tuple(chosen), **bounds, signs=(sign,), probability=probability)
cell = (
    "from onerec.explain import policy as explain\nfrom onerec.viz import policy as viz\n\n"
    f"curves = explain.curves({tuple(chosen)!r}, epsilon={epsilon}, delta={delta}, "
    f"signs=({sign},), probability={probability})\n"
)
command = "onerec align --run NAME"
if view.run:
    command = places.command(f"runs show {view.run.name} --json", view.run)
SAY = {
    draw.value: "What the item adds to what is maximised. π / π_old: its probability now, "
    "divided by that when it was drawn. Where the line is flat, the value no "
    "longer follows the model.",
    draw.push: "How hard the item pulls at its own log-probability. For A < 0 beyond 1+ε+δ ECPO's "
    "value is flat while its push goes on: a bounded push.",
}
figures = st.grid(2, min_column_width=360)
for figure, say in SAY.items():
    with figures.cell():
        key, drawing = f"ecpo_{figure.__name__}", {"advantage": sign, **bounds}
        picture = figure(curves, found, **drawing)
        widgets.place(picture, key=key)
        st.caption(say)
        asked = "".join(f", {name}={value!r}" for name, value in drawing.items())
        widgets.belongings(picture, curves, key=key, command=command,
                           cell=f"{cell}viz.{figure.__name__}(curves{asked})")  # fmt: skip
at_scale.show("stability")
if found is None:
    st.header("With the items of a step")
    policy_steps.nothing_recorded(view)
    st.stop()
st.header(f"The items of step {step:,}")
widgets.show(
    view.run, policy.regions, draw.regions, key="regions", command=command, reading=reading,
    say="A group's better items (A > 0) stop pushing above 1+ε, its worse ones (A < 0) below 1-ε.",
)  # fmt: skip
if not found[found["advantage"] == 0].empty:
    flat = int((found["advantage"] == 0).sum())
    st.caption(f"{flat:,} of {len(found):,} items have no advantage: the rewards of their group do "
               "not differ. They stand on no curve.")  # fmt: skip
links.to("rl_steps", "Look into its groups, item by item", "group_work")
