"""Rename, delete (after a question) and export the selected run."""

from __future__ import annotations

import tempfile
from pathlib import Path

import selection
import streamlit as st
import widgets

from onerec import runs
from onerec.errors import OneRecError


def draw(view: selection.Selection) -> None:
    """The three actions; a run of the demo can only be exported."""
    st.header(f"Run {view.run_name}")
    if notice := st.session_state.pop("run_notice", None):
        st.success(notice, icon=":material/check_circle:")
    with st.container(horizontal=True):
        if st.button("Rename", icon=":material/edit:", disabled=view.read_only):
            _rename(view.run)
        if st.button("Delete", icon=":material/delete:", disabled=view.read_only):
            _delete(view.run)
        if st.button("Export", icon=":material/folder_zip:"):
            _export(view.run)
    if view.read_only:
        st.caption("This run belongs to the shipped demo: it can be read and exported only.")


@st.dialog("Rename the run")
def _rename(run: runs.Run) -> None:
    name = st.text_input("New name", run.name, key="new_name", max_chars=80)
    if st.button("Rename", type="primary", key="rename_go"):
        try:
            renamed = runs.rename_run(run, name)
        except OneRecError as error:
            widgets.mistake(error)
            return
        st.session_state["follow_run"] = renamed.name
        st.session_state["run_notice"] = f"Run {run.name} is now called {renamed.name}."
        st.rerun()


@st.dialog("Delete the run?")
def _delete(run: runs.Run) -> None:
    st.markdown(
        f"Run **{run.name}** with its codebooks, checkpoints and lists will be gone for good."
    )
    sure = st.text_input(f"Type {run.name} to confirm", key="delete_name")
    if st.button("Delete", type="primary", key="delete_go", disabled=sure != run.name):
        try:
            runs.delete_run(run)
        except OneRecError as error:
            widgets.mistake(error)
            return
        st.session_state["run_notice"] = f"Run {run.name} is deleted."
        st.rerun()


@st.dialog("Export the run")
def _export(run: runs.Run) -> None:
    st.markdown("One zip file with everything but the checkpoints.")
    with tempfile.TemporaryDirectory() as folder:
        content = runs.export_run(run, Path(folder) / f"{run.name}.zip").read_bytes()
    st.download_button(
        f"Download ({len(content) / 2**20:.1f} MB)", content, f"{run.name}.zip", "application/zip",
        icon=":material/download:", on_click="ignore", type="primary",
    )  # fmt: skip
    st.code(f"onerec runs export {run.name}", language="bash")
