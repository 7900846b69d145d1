"""What the page Recommend asks of the model itself: why an item, and the beam as a tree.

The history is the selected user's with the edits of the URL; every view here works on it.
"""

from __future__ import annotations

import time

import cache
import edits
import links
import live_model
import pandas as pd
import recommend_parts
import selection
import streamlit as st
import widgets
from live_model import Who

from onerec.errors import OneRecError
from onerec.explain import dataset as explain_dataset
from onerec.runs import Run
from onerec.viz import beam as draw_beam
from onerec.viz import composer, theme
from onerec.viz import influence as draw

K = 10
WIDEST = 100  # of the beam's slider
SHOWN = 0.1  # seconds in which the spinner reaches the browser: importing torch holds the server
ASKED = "live_model_of"  # runs whose model was asked for in this session
REWARDS = {"part": "Part", "item": "This item", "list": "Mean of the list"}
NOTICES = 3  # edits that could not be followed, told one by one
EDITS_SHOWN = "edits_shown"  # what the field and the address held when the field was drawn last
EDITS_OF = "edits_of"  # the run and the user that the edits of this session belong to
OWNERS = "edits_owners"  # the histories, as above, that each line of edits was made for


def needs_model(view: selection.Selection, run: Run, user: int) -> Who:
    """Whose list is looked at, once the model is in memory; before that a button, and the end."""
    _own_edits(run, user)
    _follow_address()
    foreign = _foreign(run, user)
    who = Who.of(run, user, "" if foreign else selection.raw("edit") or "")
    asked = st.session_state.setdefault(ASKED, set())
    if str(run.path) not in asked and not live_model.loaded(who):
        size = live_model.weights(run)
        st.info(
            "What follows asks the model itself. It is loaded on demand, stays in memory for "
            "everybody who looks at this run, and answers in well under a second"
            + (f" ({size / 1e6:,.1f} MB of weights)." if size else "."),
            icon=":material/memory:", title="The model is not loaded yet",
        )  # fmt: skip
        st.button("Load the model", type="primary", icon=":material/play_arrow:",
                  key="load_model", on_click=asked.add, args=(str(run.path),))  # fmt: skip
        st.stop()
    load(who)
    if foreign:
        st.warning(
            "The edits in this link are another history's and change nothing here. The browser's "
            "Back leads on to that history.", icon=":material/link_off:",
        )  # fmt: skip
    if notices := edited(run, who).notices:
        more = len(notices) - NOTICES
        told = [*notices[:NOTICES], *([f"And {more} more of this kind."] if more > 0 else [])]
        st.warning("  \n".join(told), icon=":material/link_off:")
    return who


def _own_edits(run: Run, user: int) -> None:
    """Edits belong to one history: those of another user or run are dropped."""
    state, whose = st.session_state, (str(run.path), user)
    before = state.setdefault(EDITS_OF, whose)
    if before != whose:
        owners = state.setdefault(OWNERS, {})
        if text := state.get(EDITS_SHOWN, ("", ""))[0]:
            owners.setdefault(text, {before})
        back = st.query_params.get("edit", "")  # with its own history, by the browser's Back
        state[EDITS_OF], state["edit"] = whose, back if whose in owners.get(back, ()) else ""
        state.pop(EDITS_SHOWN, None)


def _foreign(run: Run, user: int) -> bool:
    """Whether the address, by the browser's Back, has edits that were left with another history."""
    owners = st.session_state.get(OWNERS, {}).get(selection.raw("edit"))
    return owners is not None and (str(run.path), user) not in owners


def rewrite(text: str) -> None:
    """Make these the edits of the history that is looked at; a callback."""
    state = st.session_state
    state.setdefault(OWNERS, {}).setdefault(text, set()).add(state[EDITS_OF])
    state["edit"] = text


def _follow_address() -> None:
    """After the browser's Back the address has other edits than the field, which is drawn later."""
    state, address = st.session_state, st.query_params.get("edit", "")
    was = state.get(EDITS_SHOWN)
    if was is not None and state.get("edit") == was[0] and address != was[1]:
        state["edit"] = address


def load(who: Who) -> None:
    """Load a model, or say why it cannot be and stop the page."""
    try:
        with st.spinner("Loading the model: a few seconds the first time"):
            if not live_model.loaded(who):
                time.sleep(SHOWN)
            live_model.load(who)
    except OneRecError as error:
        widgets.mistake(error)
        links.to("train", "Train or resume it", "play_arrow")
        st.stop()


def edited(run: Run, who: Who) -> edits.Edited:
    """The edits of the URL, over the history as the model is given it."""
    events = len(live_model.events(who.plain()))
    folder = run.dataset_folder
    items = cache.read(explain_dataset.summary, folder)["items"] if folder else 0
    return edits.apply(who.edit, events, int(items))


def titles_of(run: Run, items: list[int]) -> list[str]:
    """What items are called."""
    if run.dataset_folder is None or not items:
        return [f"item {item}" for item in items]
    found = cache.read(explain_dataset.item_texts, run.dataset_folder, tuple(items))
    return [str(title) for title in found["title"]]


def width_of(who: Who) -> int:
    """The beam of the slider; the recipe's at first."""
    usual = min(live_model.usual_beam(who), WIDEST)
    return int(widgets.number(
        "Beam: prefixes kept at each level", "recommend_beam", 1, WIDEST, usual, 1,
        "A prefix is the beginning of an item's codes. A wider beam misses fewer items and takes "
        "longer",
    ))  # fmt: skip


def edits_field() -> None:
    """The edits as text; a view without it would lose them from its address."""
    st.session_state.setdefault("page_widgets", []).append("edit")
    st.text_input(
        "Edits", key="edit", bind="query-params", placeholder="none",
        help="-3 takes the event at place 3 out, +17 adds item 17 as the newest, 5>1 moves "
        "the event at place 5 to place 1. Each counts places as those before it have left them. "
        "They stand in the link.",
        on_change=lambda: rewrite(st.session_state["edit"]),
    )  # fmt: skip
    st.session_state[EDITS_SHOWN] = st.session_state["edit"], st.query_params.get("edit", "")


def edit_note(run: Run, who: Who) -> None:
    """Says that the history is an edited one, where it is."""
    if who.edit:
        edits_field()
    else:
        st.session_state.pop(EDITS_SHOWN, None)
    if edited(run, who).changed:
        st.info("This is for the edited history (see **Edit**).", icon=":material/edit:")


# ----------------------------------------------------------------------------------- why


def why(view: selection.Selection, run: Run, who: Who) -> None:
    """Influence of events, deletion curves, codes with their rivals, experts, neighbours."""
    edit_note(run, who)
    listed = live_model.lists(who, K, live_model.usual_beam(who))
    items = listed["item"].tolist()
    titles = dict(zip(items, titles_of(run, items), strict=True))
    asked = view.item  # any item can be asked about; it may be one of another dataset
    if asked is not None and asked not in titles and asked < live_model.n_items(who):
        titles[asked] = titles_of(run, [asked])[0]
    item = recommend_parts.listed_item(view, titles, "live_item")
    if item is None:
        st.info("There is no item to explain.", icon=":material/hourglass_empty:")
        return
    if item not in items:
        st.caption(f"This item is not in this person's list of {K}: choose one that is, or read "
                   "why it is not.")  # fmt: skip
    found = live_model.explanation(who, item, live_model.usual_beam(who))
    title = titles[item]
    st.header("Which events made it so?")
    named = found.events.assign(title=titles_of(run, found.events["item"].tolist()))
    figure = draw.influence(named, title)
    widgets.place(figure, key="influence")
    st.caption(
        "**Leave one out is the truth**: the model was run again without the event. Attention and "
        "gradient are cheap guesses at it. To the left: without the event the item would be "
        f"likelier. The numbers count from the oldest event. The user's own features have "
        f"{theme.percent(found.elsewhere['static'], 1)} of the attention."
    )
    _belongings(figure, named, "influence", run, who,
                f"explain(recommender, history, {item}).events")  # fmt: skip
    st.header("How well does each method find what matters?")
    figure = draw.deletion(found.curves)
    widgets.place(figure, key="deletion")
    _belongings(figure, found.curves, "deletion", run, who,
                f"explain(recommender, history, {item}).curves")  # fmt: skip
    _codes(run, who, found, title)
    _rewards(run, who, item, items)
    if not who.edit:  # it reads the saved history
        st.header("What in the past is like it?")
        recommend_parts.neighbours(run, who.user, item)


def _codes(run: Run, who: Who, found: object, title: str) -> None:
    """Code by code, its place in the beam, and the experts of its tokens."""
    st.header("Code by code")
    figure = draw.codes(found.codes, theme.short(title))
    widgets.place(figure, key="steps")
    chosen = found.codes[found.codes["chosen"]]
    words = [
        f"level {row['level']}: " + (f"place {row['beam']}" if row["beam"] else "fell out")
        for row in chosen.to_dict("records")
    ]
    st.caption(
        "✓ is the item's code, ✗ a code that no item has after these. In the beam of "
        f"{live_model.usual_beam(who)} the item stood at " + ", ".join(words) + "."
    )
    _belongings(figure, found.codes, "steps", run, who,
                f"explain(recommender, history, {found.item}).codes")  # fmt: skip
    if found.experts.empty:
        st.caption("The model is dense: its tokens took no experts.")
        return
    table = found.experts.assign(
        expert=[f"{row['expert']} ({theme.percent(row['weight'])})"
                for row in found.experts.to_dict("records")]
    )  # fmt: skip
    wide = table.pivot_table(index=["layer", "level"], columns="rank", values="expert",
                             aggfunc="first").reset_index()  # fmt: skip
    names = {rank: f"Expert {rank + 1}" for rank in wide.columns if isinstance(rank, int)}
    wide = wide.rename(columns={"layer": "Layer", "level": "Token that writes level", **names})
    widgets.table(wide, key="item_experts", title="The experts that the item's tokens took")


def _rewards(run: Run, who: Who, item: int, items: list[int]) -> None:
    """What the reward model says of the item, part by part, beside the list's mean."""
    st.header("What the reward model says of it")
    if not (run.done("reward") or {}).get("checkpoint"):
        st.caption(f"This run has no reward model: `onerec reward --run {run.name}` trains it.")
        return
    found = live_model.rewards(who, tuple(dict.fromkeys([*items, item])))
    parts = [theme.sentence(composer.words(name)) for name in found["part"]]
    shown = pd.DataFrame({"part": parts, "item": found[item], "list": found[items].mean(axis=1)})
    title = "P-Score {item:.3f}, the mean of the list is {list:.3f}".format(**shown.loc[0])
    widgets.table(shown.round(4), key="item_rewards", title=title, column_config=REWARDS)
    past = " It reads the history as it was, without the edits." if who.edit else ""
    st.caption(f"The fused score, which alignment follows, and the chance of each behaviour.{past}")


# ---------------------------------------------------------------------------------- beam


def beam(run: Run, who: Who) -> None:
    """The search as a tree."""
    edit_note(run, who)
    width = width_of(who)
    if width < K:
        st.caption(f"So narrow a beam may find fewer than {K} items: other views keep at least {K} "
                   "prefixes for their list.")  # fmt: skip
    frame = live_model.tree(who, K, width)
    items = [int(item) for item in frame["item"] if item >= 0]
    titles = dict(zip(items, titles_of(run, items), strict=True))
    figure = draw_beam.beam_tree(frame, titles, K)

    def pick(points: list[dict]) -> None:
        item = int(points[0]["customdata"][0])
        if item >= 0:
            selection.choose(item=item)

    widgets.place(figure, key="beam_tree", pick=pick)
    st.caption(
        "From left to right the model says one code after the other. Filled circles were kept; "
        "open circles are items "
        + f"below the first {K}; open squares fell out of the beam; crosses lead to no item, so "
        + "the trie takes them away. "
        + (
            "Diamonds were watched before: the list leaves them out. "
            if frame["seen"].any()
            else ""
        )
        + f"Kept branches that lead to none of the first {K} are not drawn. "
        + "Click the end of a branch to select its item, then look under **Why**."
    )
    shown = frame.assign(codes=["-".join(map(str, codes)) for codes in frame["codes"]])
    _belongings(figure, shown, "beam_tree", run, who,
                f"tree(recommender, history, k={K}, beam={width})")  # fmt: skip


# --------------------------------------------------------------------------------- shared


def _belongings(
    figure: object, frame: pd.DataFrame, key: str, run: Run, who: Who, call: str
) -> None:
    """Table, formula and code of a figure that the model made."""
    function, now = call.partition("(")[0], edited(run, who)
    edit = f".plus({now.added}, recommender.prompts.typical).take({now.order})"
    cell = (
        f"from onerec.explanation import {function}\n"
        "from onerec.recommend import Recommender\n\n"
        f'recommender = Recommender.load("{run.path}")\n'
        "setting = recommender.setting\n"
        "cases = getattr(setting.split, setting.recipe.evaluate.part)\n"
        f"end = dict(zip(cases.user, cases.end))[{who.user}]  # what comes later is held out\n"
        f"history = recommender.prompts.before({who.user}, end){edit if now.changed else ''}\n"
        + call
    )
    widgets.belongings(figure, frame, key=key, command=recommend_parts.again(run), cell=cell)
