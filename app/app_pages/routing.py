"""Routing: which experts see which tokens, how evenly, and what each of them is missed for."""

import cache
import places
import routing_parts
import selection
import streamlit as st
import widgets

from onerec.explain import network, routing
from onerec.viz import network as draw_network
from onerec.viz import routing as draw

MEASURES = {"MaxVio": "max_violation", "CV": "cv", "Entropy": "entropy_nats"}
KINDS = {"Category": "category", "Tag": "tags", "Author": "author_id", "Level": routing.LEVEL}
EFFECTS = {"Recall@10": "recall", "Next-token loss": "loss"}
VIEWS = ("Load", "Lift", "One user", "Flow", "Switch off")

view = widgets.head(
    "Which experts see which tokens?",
    "A layer with experts sends each token to a few of them. Are all experts busy, does each have "
    "a field of its own, and what is lost without one?",
    words=(
        "collapse", "entropy", "expert", "level", "load", "MaxVio", "router", "token",
    ),
)  # fmt: skip
run = widgets.needs_run(view)
routing_parts.needs_experts(view, run)
command = places.command(f"runs show {run.name} --json", run)
count, active = routing.experts(run)


def load() -> None:
    """How evenly the tokens spread over the experts, over training."""
    doing = run.status()
    reading = {"through": doing.step} if doing.active and doing.stage == "pretrain" else {}
    frame = cache.read(network.balance, run, **reading)
    layers = sorted(int(layer) for layer in frame["layer"].unique())
    if not layers:
        st.info("The experts have seen no token yet.", icon=":material/hourglass_empty:")
        return
    layer = routing_parts.layer(layers)
    routing_parts.balance_numbers(frame, layer)
    widgets.show(
        run, network.expert_load, draw_network.expert_load, key=f"expert_load_{layer}",
        command=command, reading=reading, drawing={"layer": layer},
        say="A row is an expert. Grey is an even share of the tokens, orange more, blue less: a "
        "router that learns to balance turns the picture grey.",
    )  # fmt: skip
    measure = widgets.options("Measure", list(MEASURES), "routing_measure")
    widgets.show(
        run, network.balance, draw_network.balance, key=f"balance_{MEASURES[measure]}",
        command=command, reading=reading, drawing={"measure": MEASURES[measure]},
        say="Dropless: experts have no capacity limit, so the share of dropped tokens is 0 at "
        "every step, by construction.",
    )  # fmt: skip
    if len(layers) > 1:
        widgets.show(run, network.expert_load, draw_network.layers, key="layers", command=command,
                     reading=reading, say="All layers at once, at the last step.")  # fmt: skip


def lift(step: int, layer: int) -> None:
    """Does an expert have a field of its own?"""
    names = {label: kind for label, kind in KINDS.items() if kind in cache.read(routing.kinds, run)}
    by = names[widgets.options("By", list(names), "routing_by")]
    st.markdown(
        "**Lift** compares an expert's tokens with all tokens: 2 means that it sees a group twice "
        "as often as tokens in general, ½ half as often, 1 that it has no preference."
    )
    widgets.show(
        run, routing.lift, draw.lift, key=f"lift_{by}_{layer}", command=command,
        reading={"step": step, "layer": layer, "by": by}, drawing={"by": by, "layer": layer},
        empty="None of the recorded items has one.",
        say="A token counts once for each expert that it goes to. In brackets: so few tokens that "
        "chance alone could make the number.",
    )  # fmt: skip


def pick_item(points: list[dict]) -> None:
    selection.choose(item=int(points[0]["customdata"][0]))


def one_user(step: int, layer: int) -> None:
    """The tokens of a user's targets, coloured by expert."""
    user = routing_parts.user(view, cache.read(routing.users, run, step))
    found = widgets.show(
        run, routing.tokens, draw.tokens, key=f"tokens_{layer}", command=command,
        reading={"step": step, "user": user}, drawing={"layer": layer}, pick=pick_item,
        say=f"A bar is a token: the one that writes this code of what user {user} really watched "
        f"next. {routing_parts.weighed(active)} The first bars are alike: nothing of the item "
        "has been said yet. Click a bar to select its item.",
    )  # fmt: skip
    for row in found[found["item"] == view.item].head(1).to_dict("records"):
        st.markdown(f"Selected: **{row['title']}**, item {row['item']}.")


def flow(step: int, layers: list[int]) -> None:
    """Where do tokens of one expert go in the next layer?"""
    say = "From left to right, layer by layer: the wider a band, the more tokens both ends see."
    if len(layers) == 1:
        say = ("This model has one layer of experts, so there is no next layer to flow to. Left is "
               "the level whose code a token writes, right the experts that see it.")  # fmt: skip
    widgets.show(run, routing.flow, draw.flow, key="flow", command=command,
                 reading={"step": step}, say=say)  # fmt: skip


def pick_expert(points: list[dict]) -> None:
    frame = cache.read(routing.without, run)
    st.session_state["routing_off"] = routing_parts.name(points[0]["customdata"][0], frame)


def switch_off() -> None:
    """Recall and loss without an expert."""
    facts = routing_parts.needs_without(view, run)
    frame = cache.read(routing.without, run)
    key = routing_parts.spared(frame)
    routing_parts.off_numbers(facts, frame, key)
    effect = EFFECTS[widgets.options("Effect on", list(EFFECTS), "routing_effect")]
    widgets.show(
        run, routing.without, draw.without, key=f"without_{effect}", command=command,
        drawing={"measure": effect, "expert": key}, pick=pick_expert,
        say="A point is the whole model with that one expert off: its tokens go to the next best. "
        "A bar that touches the dashed line may be chance. Click a point to switch it off.",
    )  # fmt: skip
    st.caption(f"Measured once, with the weights of step {facts['step']:,}, before any alignment. "
               "Recall moves in steps of whole hits; the loss sees every token.")  # fmt: skip


part = widgets.options("Show", VIEWS, "routing_view")
if part == "Load":
    load()
elif part == "Switch off":
    switch_off()
else:
    step = routing_parts.needs_tokens(view, run)
    facts = cache.read(routing.sample, run, step)
    st.caption(
        f"{facts['tokens']:,} tokens: {facts['targets']:,} items that {facts['users']:,} users of "
        f"the validation part watched next, {facts['levels']} codes each. In each layer a token "
        f"goes to {active} of {count} experts."
    )
    if part == "Flow":
        flow(step, facts["layers"])
    else:
        layer = routing_parts.layer(facts["layers"])
        if part == "Lift":
            lift(step, layer)
        else:
            one_user(step, layer)
