"""Home: the pipeline as a picture with this run's numbers at each stage."""

import links
import places
import selection
import streamlit as st
import tour
import widgets

from onerec.explain import overview, serving
from onerec.viz import runs as draw
from onerec.viz import serving as draw_serving

view = widgets.head(
    "From raw logs to recommendations",
    "OneRec gives every item a short name of code words and learns to **say** the name of what a "
    "person will watch next. This page shows each stage of one run, with its numbers.",
)

demo = next((name for name in places.run_infos() if places.read_only(name)), None)
with st.container(horizontal=True):
    tour.begin()
    if demo and view.run_name != demo and not selection.locked():
        st.button(
            "Open the demo", icon=":material/play_circle:",
            on_click=selection.choose, kwargs={"run": demo},
        )  # fmt: skip
    if selection.shown("train"):
        links.to("train", "Train a run", "model_training")
    if selection.shown("import"):
        links.to("dataset", "Bring your own data", "upload", {"dataset_view": "Import"})

run = widgets.needs_run(view)
widgets.show(
    run, overview.stages, draw.pipeline,
    key="pipeline",
    command=f"onerec runs show {run.name}",
    empty="This run has not begun: its first stage will appear here.",
)  # fmt: skip

PAGES = (
    ("dataset", "The data"),
    ("tokenizer", "The code words"),
    ("train", "The training"),
    ("recommend", "The recommendations"),
    ("runs", "The comparison"),
)
st.markdown("**Look inside a stage**")
with st.container(horizontal=True):
    for page, label in PAGES:
        links.to(page, label, "arrow_forward")

if run.is_done("evaluate"):
    widgets.show(
        run, serving.metrics, draw_serving.metric_bars,
        key="result",
        command=f"onerec evaluate --run {run.name} --json",
        drawing={"metric": "recall@10"},
    )  # fmt: skip
