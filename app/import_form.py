"""The form that imports CSV or Parquet uploads: files, column mapping, one-line errors."""

from __future__ import annotations

import imports
import streamlit as st
import widgets

from onerec.errors import OneRecError

HELP = {
    "interactions": "One row per event: user, item, a time (or a position), what was done.",
    "items": "One row per item: title, caption, category, tags, author, duration.",
    "users": "One row per user: any categorical or numeric column.",
}
NOT_THERE = "(not there)"


def draw() -> None:
    """Uploads, then the mapping that was recognised, then Import."""
    st.header("Import your own data")
    if notice := st.session_state.pop("import_done", None):
        st.success(notice, icon=":material/check_circle:")
    uploads: dict[str, bytes] = {}
    with st.grid(3, min_column_width=220):
        for table, text in HELP.items():
            label = table.capitalize() + ("" if table == "interactions" else " (optional)")
            sent = st.file_uploader(label, ["csv", "parquet"], key=f"upload_{table}", help=text)
            if sent is not None:
                uploads[table] = sent.getvalue()
    if "interactions" not in uploads:
        st.info(
            "Choose at least a file of interactions: a row for each time that a user met an item, "
            "as CSV or Parquet, up to 50 MB. Larger files in a terminal: "
            "`onerec data import --interactions F --items F --name N`.",
            icon=":material/upload_file:",
        )
        return
    try:
        names = {table: imports.columns(content, table) for table, content in uploads.items()}
    except OneRecError as error:
        widgets.mistake(error)
        return
    proposed = {table: imports.proposal(table, columns) for table, columns in names.items()}
    mapping = {table: _mapping(table, names[table], proposed[table]) for table in uploads}
    missing = [
        f"{ours} (of {table})"
        for table in uploads
        for ours in imports.unanswered(table, mapping[table])
    ]
    if missing:
        st.info(f"Choose above which column is {' and which is '.join(missing)}.",
                icon=":material/view_column:")  # fmt: skip
    with st.container(horizontal=True, vertical_alignment="bottom"):
        name = st.text_input("Name of the dataset", "mydata", max_chars=64, key="import_name")
        pressed = st.button("Import", type="primary", icon=":material/upload:", key="import_go",
                            disabled=bool(missing))  # fmt: skip
    st.code(_command(name, mapping, proposed), language="bash", wrap_lines=True)
    if pressed:
        _import(name, uploads, mapping)


def _mapping(table: str, names: list[str], proposed: dict[str, str]) -> dict[str, str]:
    """Ours -> theirs; what was recognised is filled in, anything can be changed."""
    chosen: dict[str, str] = {}
    found = sum(bool(theirs) for theirs in proposed.values())
    missing = imports.unanswered(table, proposed)
    label = f"Columns of {table}: {found} of {len(names)} recognised"
    body = st.expander(label, expanded=bool(missing), icon=":material/view_column:")
    body.caption(
        "Above each box is our name, in it the column of your file that holds it. * is needed"
        + ("; timestamp or position tells the order." if table == "interactions" else ".")
    )
    with body, st.grid(4, min_column_width=160):
        for ours, theirs in proposed.items():
            choices = [NOT_THERE, *names]
            picked = st.selectbox(
                ours + (" *" if ours in imports.required(table) else ""), choices,
                index=choices.index(theirs) if theirs else 0, key=f"map_{table}_{ours}",
            )  # fmt: skip
            chosen[ours] = picked if picked in names else ""
    return chosen


def _import(name: str, uploads: dict[str, bytes], mapping: dict[str, dict[str, str]]) -> None:
    try:
        with st.spinner("Reading, checking, writing…", show_time=True):
            made = imports.run(name, uploads, mapping)
    except OneRecError as error:
        widgets.mistake(error)
        return
    st.session_state["import_done"] = f"Dataset {made} is ready: train on it, or look at it here."
    st.session_state["follow_dataset"] = made
    st.rerun()


def _command(
    name: str, mapping: dict[str, dict[str, str]], proposed: dict[str, dict[str, str]]
) -> str:
    """The command that does the same, with only the columns that were changed by hand."""
    words = ["onerec data import"]
    words += [f"--{table} {table.upper()}_FILE" for table in mapping]
    for table, columns in mapping.items():
        words += [
            f"--column {table}.{ours}={theirs}"
            for ours, theirs in columns.items()
            if theirs != proposed[table][ours]
        ]
    return " ".join([*words, f"--name {name}"])
