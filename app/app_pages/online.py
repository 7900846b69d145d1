"""Online: serve, collect, learn, serve again; the streams of a run, and the A/B of two of them."""

import cache
import reward_controls
import selection
import stream_form
import stream_live
import stream_parts
import streamlit as st
import widgets

from onerec.errors import OneRecError
from onerec.explain import online
from onerec.viz import online as draw
from onerec.viz import theme

view = widgets.head(
    "Serve, collect, learn, serve again",
    "A recommender changes what people do, and learns from what they do. Does it get better when "
    "it learns from its own feedback, and from which part of it?",
    words=(
        "ECPO", "interval", "policy", "reward", "round", "RSFT",
    ),
)  # fmt: skip
run = widgets.needs_run(view)
st.markdown(stream_form.WHAT)
reward_controls.needs_reward(view, run)
names = online.names(run)
source = stream_live.Streamed(run.path)
if selection.shown("train") and not selection.locked() and not view.read_only:
    with st.expander(
        "Start a stream of this run", expanded=not names, icon=":material/add:",
        key="stream_form", on_change="rerun",  # so that a start can close it
    ):  # fmt: skip
        stream_form.draw(run)
if not names:
    stream_form.none_yet(view, run)
    st.stop()
name = stream_parts.choose_stream(names)
values = {theme.sentence(draw.value_name(value)): value for value in online.values_of(run, name)}
value = next(iter(values.values()), None)
part = widgets.options("Show", ("Curves", "A/B", "Visits"), "online_view")
if values and part != "Visits":
    meaning = " ".join(f"**{name}**: {draw.MEANING[value]}" for name, value in values.items())
    value = values[widgets.options("Counted", list(values), "online_value", help=meaning)]
same, different = stream_live.beside(run, name)


def ab(value: str) -> None:
    """Two streams with the same people, user by user; the second may be another run's."""
    chosen = stream_parts.choose_run(run)
    owner = stream_live.Streamed(online.run_of(run, chosen).path)
    both = stream_live.Streamed(run.path, owner.path)
    near, far = stream_live.beside(run, name, chosen)
    others = sorted([*near, *far], key=lambda other: (
        other in far, online.settings(owner, other).get("arm") != "frozen"))  # fmt: skip
    if not others:
        st.info(
            "An A/B needs a second stream that has done a round. Start one with another arm, and "
            "the same seed and share, for instance `frozen`, which learns nothing."
            + " Or choose another run above." * bool(online.runs_beside(run)),
            icon=":material/compare_arrows:", title="One stream only",
        )  # fmt: skip
        return
    other = widgets.options("Against", others, "against")
    try:
        found = cache.read(online.compared, both, name, other, value, chosen)
    except OneRecError as error:
        widgets.mistake(error)
        return
    a, b = (f"{name} of {run.name}", f"{other} of {chosen}") if chosen else (name, other)
    if len(found):
        stream_parts.numbers(found.iloc[-1].to_dict(), a, b, value)
    made = (stream_form.command(run, name), stream_form.command(owner, other))
    widgets.show(
        both, online.compared, draw.compared, key=f"ab_{value}", command="\n".join(made),
        reading={"a": name, "b": other, "value": value} | ({"other": chosen} if chosen else {}),
        drawing={"a": a, "b": b, "value": value},
        say="On the dashed line both arms are worth the same to their visitors. A whisker is the "
        "95% interval of a round, the band that of all rounds together."
        + ("" if chosen else stream_parts.first_served(run, (name, other))),
        empty="These two streams have no round in common yet.",
    )  # fmt: skip
    for each, served in ((source, name), (owner, other)):
        stream_parts.say_what_was_served(each, served)


def visits() -> None:
    """Who came in a round, and what one of them was shown and did."""
    rounds = [str(number) for number in reversed(online.rounds_of(run, name))]
    if not rounds:
        st.info("No round is done yet.", icon=":material/hourglass_empty:")
        return
    if notice := selection.bad_parameter("Round", "round", rounds, rounds[0]):
        st.warning(notice, icon=":material/link_off:")
    st.session_state["page_widgets"].append("round")
    number = int(st.selectbox("Round", rounds, key="round", bind="query-params", width=180))
    people = cache.read(online.visitors, source, name, number)
    known = people["user"].tolist()
    user = view.user if view.user in known else known[0]
    if view.user is not None and view.user not in known:
        st.warning(f"User {view.user} did not come in round {number}; user {user} is shown.",
                   icon=":material/link_off:")  # fmt: skip
    stream_parts.choose_person(people, number)
    shown = cache.read(online.round_of, source, name, number, user)
    liked, play = int((shown["behaviours"] != "").sum()), shown["play_s"].sum()
    widgets.table(
        shown.drop(columns="user").round({"play_share": 2}).replace(
            {"behaviours": {"_": " "}}, regex=True
        ), key="visit",
        title=f"User {user} in round {number}: {len(shown)} items, {liked} with an answer, "
        f"{play:,.0f} s of play",
        empty="Nothing was shown to this user.",
        column_config={
            "place": st.column_config.NumberColumn("Place", width="small"), "item": "Item",
            "title": "Title",
            "play_s": st.column_config.NumberColumn("Played (s)", format="%.1f"),
            "play_share": st.column_config.NumberColumn("Of its length", format="percent"),
            "behaviours": st.column_config.TextColumn("Answers", width="medium"),
        },
    )  # fmt: skip


beside = tuple(same[: stream_live.SHOWN - 1])
stream_live.show(stream_live.Watched(view, run, name, beside, value, part == "Curves"))
if part == "Curves" and value and different:
    st.caption(f"Not in the picture, since other people came or saw more: {', '.join(different)}.")
if part == "A/B" and value:
    ab(value)
if part == "Visits":
    visits()
with st.expander("All streams of this run", icon=":material/table_rows:"):
    known = cache.read(online.streams, source)
    widgets.table(
        known.assign(value=known["value"].map(draw.value_name)), key="streams",
        title=f"{len(names)} stream{'s' * (len(names) != 1)}", column_config=stream_parts.STREAMS,
    )  # fmt: skip
stream_form.other_arms(view)
