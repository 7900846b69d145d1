"""Train: start a training, and watch, pause, step, stop or resume the selected one."""

import jobs
import live
import selection
import start_form
import streamlit as st
import widgets

view = widgets.head(
    "Train a model and watch it learn",
    "The model reads what a person watched and learns to say the code words of what came next. "
    "Training runs as a process of its own: closing this page, or the app, does not end it.",
    words=(
        "batch", "FLOPs", "learning rate", "loss", "MFU", "recipe", "recall@10", "step",
        "validation", "nats",
    ),
)  # fmt: skip
if selection.shown("train") and not selection.locked():
    settled = view.run is None or jobs.status(view.run).state == "done"
    with st.expander("Start a new run", expanded=settled, icon=":material/add:"):
        start_form.draw(view)
if view.run is None:
    st.info(
        "Nothing has been trained yet. The form above starts a first run.",
        icon=":material/model_training:",
    )
    st.stop()
live.draw(view)
