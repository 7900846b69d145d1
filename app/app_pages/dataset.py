"""Dataset: what happened on the platform, one user's history, and the import of your own data."""

import cache
import import_form
import pandas as pd
import places
import selection
import streamlit as st
import widgets

from onerec import plain
from onerec.explain import dataset as explain
from onerec.viz import dataset as draw

COUNTED = {
    "unknown_items": "events of items that the table of items does not have",
    "items_without_row": "items that only the events know",
    "items_without_events": "items that nobody has met",
    "users_without_row": "users that only the events know",
    "users_without_events": "users without an event",
    "time_backwards": "events that stand before an earlier one in the file",
    "duplicates": "rows that stood there twice and were merged",
}

SAY = {
    "timeline": "The ends may be cut off: the log may begin and end in the middle of one.",
    "behaviours": "A hatched behaviour makes an event positive: the model learns to say such items "
    "next.",
    "history_lengths": "Of a person with few events the model knows little.",
    "popularity": "On the dotted line all items are met equally often; the further above it, the "
    "more a few items get. Gini says it in one number: 0 is equal, 1 is one item with everything.",
}

view = widgets.head(
    "What happened on the platform",
    "Who watched what, when, and what they did with it: everything that the model will know.",
    words=(
        "behaviour", "held out", "popularity", "split", "vector",
    ),
)  # fmt: skip
views = ["Overview", "One user", "Columns"] + ["Import"] * selection.shown("import")
part = widgets.options("Show", views, "dataset_view")
if part == "Import":
    import_form.draw()
    st.stop()

folder = widgets.needs_dataset(view)
command = f"onerec data describe {places.command_line_name(view.dataset_name)}"
facts = cache.read(explain.summary, folder)

if part == "Overview":
    with st.grid(4, min_column_width=120):
        st.metric("Events", f"{facts['interactions']:,}", border=True)
        st.metric("Users", f"{facts['users']:,}", border=True)
        st.metric("Items", f"{facts['items']:,}", border=True)
        st.metric("Positive events", f"{facts['positive_share']:.0%}", border=True,
                  help=f"Positive: {facts['positive']}")  # fmt: skip
    grid = st.grid(2, min_column_width=340)
    for read, figure, drawing, empty in (
        (explain.timeline, draw.timeline, {}, "No times here: only the order of events is known."),
        (explain.behaviours, draw.behaviours, {}, "This dataset records events, no behaviours."),
        (explain.history_lengths, draw.history_lengths, {}, "No user has an event."),
        (explain.popularity, draw.popularity, {"gini": facts["gini"]}, "No item has an event."),
    ):
        with grid.cell():
            widgets.show(
                folder, read, figure,
                key=figure.__name__, command=command, drawing=drawing, empty=empty,
                say=SAY[figure.__name__],
            )  # fmt: skip
elif part == "One user":
    wanted = st.text_input("Find a user", key="find_user", bind="query-params", type="search",
                           placeholder="part of a user id")  # fmt: skip
    st.session_state["page_widgets"].append("find_user")
    people = cache.read(explain.search_users, folder, text=wanted or "", limit=100)
    if people.empty:
        st.info(f"No user id contains “{plain.text(wanted)}”.", icon=":material/person_off:")
        st.stop()

    def pick_user() -> None:
        """A click on a row selects that user everywhere."""
        rows = st.session_state["people"]["selection"]["rows"]
        if rows:
            selection.choose(user=int(people["user"][rows[0]]))

    st.dataframe(
        people, hide_index=True, height=210, key="people", on_select=pick_user,
        selection_mode="single-row", alt="Users found",
        column_config={"user": "number here", "user_id": "id in the data"},
    )  # fmt: skip
    st.caption("Tick a row to see that user's history.")
    user = int(people["user"][0]) if view.user is None else view.user
    history = cache.read(explain.user_history, folder, user).iloc[::-1]
    known = people.loc[people["user"] == user, "user_id"]
    name = f"{user} (“{known.iloc[0]}” in the data)" if len(known) else str(user)
    first = [c for c in ("time", "title", "behaviours", "category") if c in history]
    widgets.table(
        history[[*first, *(c for c in history if c not in (*first, "position", "item"))]]
        .dropna(axis=1, how="all"),
        key="history", title=f"The last {len(history)} events of user {name}, newest first",
        column_config={
            "time": st.column_config.DatetimeColumn("when", format="D MMM YYYY, HH:mm"),
            "title": st.column_config.TextColumn(width="medium"),
            "behaviours": "what they did",
            "item_id": "item's id in the data",
            "play_ms": st.column_config.NumberColumn("watched, ms", format="localized"),
            "duration_ms": st.column_config.NumberColumn("length, ms", format="localized"),
            "play_share": st.column_config.NumberColumn("share watched", format="percent"),
        },
    )  # fmt: skip
else:
    st.markdown(f"Source: {facts['source']} · licence: {facts['licence']} · time: {facts['time']}")
    mapped = [
        (table, ours, theirs)
        for table, names in facts["columns"].items()
        for ours, theirs in names.items()
    ]
    widgets.table(
        pd.DataFrame(mapped, columns=["table", "our name", "name in the source"]),
        key="mapped", title="Columns that were renamed",
        empty="None: the source uses the names that are used here.",
    )  # fmt: skip
    ignored = [(table, name) for table, names in facts["ignored"].items() for name in names]
    widgets.table(
        pd.DataFrame(ignored, columns=["table", "column"]), key="ignored",
        title="Columns that are not used", empty="None: every column is used.",
    )  # fmt: skip
    counts = [(COUNTED.get(what, what), rows) for what, rows in facts["counts"].items()]
    widgets.table(
        pd.DataFrame(counts, columns=["what", "how many"]), key="counts",
        title="What the import found and counted",
    )  # fmt: skip
    st.code(command, language="bash")
