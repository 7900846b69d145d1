"""What the page Recommend shows without a model: the saved lists of a user, and who he is."""

from __future__ import annotations

import shlex

import cache
import pandas as pd
import places
import selection
import streamlit as st
import widgets

from onerec.explain import dataset as explain_dataset
from onerec.explain import serving
from onerec.runs import Run
from onerec.viz import serving as draw
from onerec.viz import theme

WHOLE = 1_000_000_000  # events of a history, all of them
NAMES = {rf"\b{name}\b": theme.model_name(name) for name in widgets.MODELS}
LINES = 66  # pixels of a row: only above 64 does Streamlit wrap a title
PROBABILITY = st.column_config.NumberColumn(
    "Probability", format="%.2f%%", help="Of the item's codes, over all codes. Items that have "
    "all codes in common share it, so a list may add up to more than 100%",
)  # fmt: skip


def person(view: selection.Selection, run: Run) -> int:
    """The selected user, or the first; with a table to choose another."""
    people = cache.read(serving.users, run)
    if people.empty:
        again = places.command(f"recommend --run {run.name}", run)
        st.info(f"This run kept no lists. Run its last stage again: `{again}`.",
                icon=":material/playlist_remove:")  # fmt: skip
        st.stop()
    known = people["user"].tolist()
    user = view.user if view.user in known else known[0]
    if view.user is not None and view.user not in known:
        st.warning(
            f"User number {view.user} has no list in this run, which keeps those of its "
            f"{len(known):,} test users; user {people['user_id'][0]} is shown. That user's list: "
            f"`{list_of(run, _own_id(run, view.user))}`.",
            icon=":material/link_off:",
        )
    row = people[people["user"] == user].iloc[0]

    def pick_user() -> None:
        rows = st.session_state["people"]["selection"]["rows"]
        if rows:
            # The item stays: each value that changes would be a step of the browser's Back.
            selection.choose(user=known[rows[0]], edit=None)

    number = "" if str(user) == row["user_id"] else f" (for the sidebar: number {user})"
    said = f"User **{row['user_id']}**{number}: choose another"
    with st.expander(said, icon=":material/person_search:"):
        st.dataframe(
            people, hide_index=True, height=260, key="people", on_select=pick_user,
            selection_mode="single-row", alt="Users that have lists, those with hits first",
            column_config={
                "user": "Number", "user_id": "User", "targets": "Watched later",
                **{column: f"Found by {theme.model_name(column.removeprefix('hits_'))}"
                   for column in people.columns if column.startswith("hits_")},
            },
        )  # fmt: skip
    return int(user)


def _own_id(run: Run, user: int) -> str:
    """The id in the data of a user by number; ID where the dataset does not tell."""
    folder = run.dataset_folder
    return (folder and cache.read(explain_dataset.user_id, folder, user)) or "ID"


def list_of(run: Run, user_id: str) -> str:
    """The command that makes a list of all that a user did."""
    return places.command(f"recommend --run {run.name} --user {shlex.quote(user_id)}", run)


def numbers(run: Run, user: int) -> None:
    """What was held out, and how much of it was found."""
    people = cache.read(serving.users, run)
    row = people[people["user"] == user].iloc[0]
    events = len(cache.read(serving.history, run, user, WHOLE))
    listed = len(cache.read(serving.recommendations, run, user))
    with st.grid(3, min_column_width=140):
        st.metric("Watched later (held out)", int(row["targets"]), border=True)
        st.metric(f"Found in its first {listed}", int(row.get("hits_onerec", 0)), border=True,
                  help="Of OneRec's list; the table below shows its first ten")  # fmt: skip
        st.metric("Events before that", f"{events:,}", border=True)
    st.caption(
        "Lists on this page stop before what is held out. After all that this user did: "
        f"`{list_of(run, row['user_id'])}`."
    )


def lists(view: selection.Selection, run: Run, user: int) -> None:
    """History, generated list beside a baseline's, and what really came next."""
    left, right = st.columns([4, 5])
    with left:
        history = cache.read(serving.history, run, user)
        st.header("What came before")
        covers(view, history.iloc[::-1])
        past(history)
        st.caption(_read_by(run, len(history)))
    with right:
        st.header("What it says next")
        models = cache.read(serving.models, run)
        covers(view, cache.read(serving.recommendations, run, user))
        beside = cache.read(serving.side_by_side, run, user, tuple(models))
        st.dataframe(
            beside.set_index("rank"), alt="Generated list beside the baseline's",
            row_height=LINES, height=10 * LINES + 38,
            column_config={
                name: st.column_config.TextColumn(
                    theme.sentence(theme.model_name(name)), width="medium"
                )
                for name in models
            },
        )  # fmt: skip
    targets = cache.read(serving.targets, run, user)
    if not targets.empty:
        found = targets["found_by"].replace(NAMES, regex=True)
        widgets.table(
            targets.drop(columns=["part"]).assign(found_by=found), key="targets",
            title="What really came next",
            column_config={
                "item": "Item", "item_id": "Id in the data", "title": "Title",
                "found_by": st.column_config.TextColumn(
                    "Found by", width=240,
                    help="OneRec #2: the second of OneRec's list. Empty: nobody did",
                ),
            },
        )  # fmt: skip


def _read_by(run: Run, shown: int) -> str:
    """How much of a history is shown, and how much of it the model reads."""
    lengths = (run.recipe().get("recipe") or {}).get("history") or {}
    text = f"The newest {shown} are shown. "
    if not lengths.get("short_length"):
        return text
    text += f"The model reads the newest {lengths['short_length']}"
    if lengths.get("positive_length"):
        text += (
            f" and the last {lengths['positive_length']} that went well (long views, likes, ...)"
        )
    if lengths.get("lifelong_length"):
        text += ", and all older ones in clusters"
    return text + "."


def past(history: pd.DataFrame, alt: str = "History of the user, newest first") -> None:
    """A history, newest first."""
    newest = history.iloc[::-1][["title", "behaviours", "time"]]
    st.dataframe(
        newest, hide_index=True, alt=alt, row_height=LINES, height=10 * LINES + 38,
        column_config={
            "title": st.column_config.TextColumn("Newest first", width="medium"),
            "behaviours": st.column_config.TextColumn("Behaviour", width=95),
            "time": st.column_config.DatetimeColumn("When", format="D MMM YYYY", width=115),
        },
    )  # fmt: skip


def covers(view: selection.Selection, frame: pd.DataFrame, limit: int = 5) -> None:
    """The first covers of a list, where the dataset has pictures."""
    if not view.dataset or not cache.read(explain_dataset.summary, view.dataset)["has_images"]:
        return
    head = frame.head(limit)
    paths = [cache.read(explain_dataset.cover, view.dataset, int(item)) for item in head["item"]]
    with st.container(horizontal=True, gap="xsmall"):
        for path, title in zip(paths, head["title"], strict=True):
            if path:
                st.image(str(path), width=64, alt=f"Cover of {title}")


def sureness(run: Run, user: int) -> None:
    """How sure the model was of each code of the saved list."""
    st.header("How sure it was of each code")
    widgets.show(
        run, serving.code_log_probs, draw.code_log_probs,
        key="code_scores", command=again(run), reading={"user": user},
        say="The model says an item's code words one after the other. The shorter a bar, the surer "
        "it was; its parts tell at which word it hesitated.",
    )  # fmt: skip


def listed_item(view: selection.Selection, titles: dict[int, str], key: str) -> int | None:
    """One item of a list, the shared selection where it is in it."""
    item = view.item if view.item in titles else next(iter(titles), None)
    if item is None:
        return None
    shown = f"{key}_shown"

    def follow() -> None:
        """Not where the browser, hurried from view to view, only says what it was given."""
        if st.session_state[key] != st.session_state.get(shown):
            selection.choose(item=st.session_state[key])

    st.session_state[key] = st.session_state[shown] = item  # follows the shared selection, sets it
    st.selectbox("Explain item", list(titles), format_func=titles.get, key=key, on_change=follow)
    return item


def neighbours(run: Run, user: int, item: int) -> None:
    """The items of the history nearest to one of the list."""
    widgets.show(
        run, serving.why, draw.why,
        key="why", command=again(run), reading={"user": user, "item": item},
        say="What in the history resembles this item most, and how many code words they share. The "
        "numbers (#) count the history's events from the oldest.",
        empty="No item of the history lies near this one.",
    )  # fmt: skip


def again(run: Run) -> str:
    """The command that makes the lists."""
    return places.command(f"recommend --run {run.name} --json", run)
