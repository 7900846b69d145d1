"""Home: the pipeline as a picture with this run's numbers at each stage."""

import cache
import links
import places
import selection
import streamlit as st
import tour
import widgets

from onerec.explain import overview, serving
from onerec.viz import pipeline as draw
from onerec.viz import serving as draw_serving
from onerec.viz import theme

WIDE_OR_TALL = """<style>
.st-key-pipeline { container-type: inline-size; }
@container (max-width: 599px) { .st-key-pipeline_wide { display: none; } }
@container (min-width: 600px) { .st-key-pipeline_tall { display: none; } }
</style>"""  # the same picture, side by side or one below the other

view = widgets.head(
    "From raw logs to recommendations",
    "OneRec gives every item a short name of code words and learns to **say** the name of what a "
    "person will watch next. This page shows each stage of one run, with its numbers.",
    words=(
        "semantic ID", "code", "recall@10", "ndcg@10", "coverage", "baseline", "reward",
        "alignment", "held out",
    ),
)  # fmt: skip

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
st.html(WIDE_OR_TALL)
stages = cache.read(overview.stages, run)
picture = draw.pipeline(stages)
st.markdown(f"**{theme.title(picture)}**")
with st.container(key="pipeline"):
    with st.container(key="pipeline_wide"):
        widgets.place_picture(picture, width=1100)
    with st.container(key="pipeline_tall"):
        widgets.place_picture(draw.pipeline(stages, vertical=True))
widgets.belongings(
    picture, stages,
    key="pipeline", command=places.command(f"runs show {run.name}", run),
    cell="from onerec.runs import open_run\nfrom onerec.explain import overview\n"
    "from onerec.viz import pipeline as viz\n\n"
    f"viz.pipeline(overview.stages(open_run({run.name!r})))",
)  # fmt: skip

PAGES = (
    ("playground", "The ideas, in small"),
    ("dataset", "The data"),
    ("tokenizer", "The code words"),
    ("train", "The training"),
    ("routing", "The experts"),
    ("rewards", "The reward"),
    ("rl_steps", "The alignment"),
    ("recommend", "The recommendations"),
    ("online", "The online loop"),
    ("runs", "The comparison"),
)
st.markdown("**Look inside a stage**")
with st.container(horizontal=True):
    for page, label in PAGES:
        links.to(page, label, "arrow_forward")

if run.is_done("evaluate"):
    st.header("How good are the lists?")
    st.markdown(
        "**recall@10** is the share of what people really went on to watch that stands among the "
        "first ten of their list: 1 would be all of it. Simple methods are measured on the same "
        "people, to see what the model adds."
    )
    look = widgets.options("Results as", ("Numbers", "Bars"), "results")
    if look == "Bars":
        widgets.show(
            run, serving.metrics, draw_serving.metric_bars,
            key="result",
            command=places.command(f"evaluate --run {run.name} --json", run),
            drawing={"metric": "recall@10"},
        )  # fmt: skip
    else:
        widgets.numbers(cache.read(serving.metrics, run), "recall@10")
    worth = cache.read(serving.worth, run)
    if not worth.empty:
        widgets.worth(worth)
