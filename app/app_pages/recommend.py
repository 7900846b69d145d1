"""Recommend: one user, what the model saw, what it generated, and what really came next."""

import cache
import places
import selection
import streamlit as st
import widgets

from onerec.explain import dataset as explain_dataset
from onerec.explain import serving
from onerec.viz import serving as draw
from onerec.viz import theme

view = widgets.head(
    "What would this person watch next?",
    "The history that the model was given, the list it generated, and a baseline beside it. "
    "**✓** marks what the person really went on to watch.",
)
run = widgets.needs_run(view, "recommend")
people = cache.read(serving.users, run)
if people.empty:
    again = places.command(f"recommend --run {run.name}", run)
    st.info(f"This run kept no lists. Run its last stage again: `{again}`.",
            icon=":material/playlist_remove:")  # fmt: skip
    st.stop()

known = people["user"].tolist()
user = view.user if view.user in known else known[0]
if view.user is not None and view.user not in known:
    st.warning(f"User {view.user} has no list in this run; {people['user_id'][0]} is shown.",
               icon=":material/link_off:")  # fmt: skip
hits = next((column for column in people if column == "hits_onerec"), None)
row = people[people["user"] == user].iloc[0]


def pick_user() -> None:
    """A click on a row of the user table selects that user."""
    rows = st.session_state["people"]["selection"]["rows"]
    if rows:
        selection.choose(user=known[rows[0]], item=None)


with st.expander(f"User **{row['user_id']}**: choose another", icon=":material/person_search:"):
    st.dataframe(
        people, hide_index=True, height=260, key="people", on_select=pick_user,
        selection_mode="single-row", alt="Users that have lists, those with hits first",
    )  # fmt: skip

targets = cache.read(serving.targets, run, user)
with st.grid(3, min_column_width=140):
    st.metric("Watched later (held out)", len(targets), border=True)
    st.metric("Found by OneRec", int(row[hits]) if hits else 0, border=True)
    st.metric("History shown", len(cache.read(serving.history, run, user)), border=True)


def covers(frame, limit: int = 5) -> None:
    """The first covers of a list, where the dataset has pictures."""
    if not view.dataset or not cache.read(explain_dataset.summary, view.dataset)["has_images"]:
        return
    head = frame.head(limit)
    paths = [cache.read(explain_dataset.cover, view.dataset, int(item)) for item in head["item"]]
    with st.container(horizontal=True, gap="xsmall"):
        for path, title in zip(paths, head["title"], strict=True):
            if path:
                st.image(str(path), width=64, alt=f"Cover of {title}")


left, right = st.columns([4, 5])
with left:
    history = cache.read(serving.history, run, user)
    st.header("What the model saw")
    covers(history.iloc[::-1])
    newest = history.iloc[::-1][["title", "behaviours", "time"]]
    st.dataframe(
        newest, hide_index=True, alt="History of the user, newest first",
        column_config={
            "title": st.column_config.TextColumn("Newest first", width="medium"),
            "behaviours": st.column_config.TextColumn("What they did", width="small"),
            "time": st.column_config.DatetimeColumn("When", format="D MMM YYYY"),
        },
    )  # fmt: skip
with right:
    st.header("What it says next")
    models = cache.read(serving.models, run)
    covers(cache.read(serving.recommendations, run, user))
    beside = cache.read(serving.side_by_side, run, user, tuple(models))
    st.dataframe(
        beside.set_index("rank"), alt="Generated list beside the baseline's",
        column_config={
            name: st.column_config.TextColumn(
                theme.sentence(theme.model_name(name)), width="medium"
            )
            for name in models
        },
    )  # fmt: skip
if not targets.empty:
    widgets.table(
        targets.drop(columns=["part"]), key="targets", title="What really came next",
        column_config={
            "item": "Item", "item_id": "Id in the data", "title": "Title",
            "found_by": st.column_config.TextColumn(
                "Found by", help="onerec #2: the second of OneRec's list. Empty: nobody found it"
            ),
        },
    )  # fmt: skip

st.header("How sure it was of each code")
widgets.show(
    run, serving.code_log_probs, draw.code_log_probs,
    key="code_scores", command=places.command(f"recommend --run {run.name} --json", run),
    reading={"user": user},
    say="The model says an item's code words one after the other. The shorter a bar, the surer it "
    "was; its parts tell at which word it hesitated.",
)  # fmt: skip
ranked = cache.read(serving.recommendations, run, user)
titles = dict(zip(ranked["item"].tolist(), ranked["title"], strict=True))
item = view.item if view.item in titles else next(iter(titles), None)
if item is not None:
    st.header(f"Why “{titles[item]}”?")
    st.session_state["why_item"] = item  # follows the shared selection, and sets it
    st.selectbox(
        "Explain item", list(titles), format_func=titles.get, key="why_item",
        on_change=lambda: selection.choose(item=st.session_state["why_item"]),
    )  # fmt: skip
    widgets.show(
        run, serving.why, draw.why,
        key="why", command=places.command(f"recommend --run {run.name} --json", run),
        reading={"user": user, "item": item},
        say="What in the history resembles this item most, and how many code words they share.",
        empty="No item of the history lies near this one.",
    )  # fmt: skip
