"""Runs: the table, curves over one another, metrics with intervals, and what differs."""

import cache
import pandas as pd
import places
import run_actions
import selection
import streamlit as st
import widgets

from onerec import runs
from onerec.explain import serving, training
from onerec.viz import runs as draw

view = widgets.head(
    "Which run is better, and what was different?",
    "All runs in one table. Choose two or more: their curves over one another, their results with "
    "intervals, and only the settings that differ.",
    words=(
        "coverage", "interval", "loss", "ndcg@10", "recall@10", "recipe",
    ),
)  # fmt: skip
infos = places.run_infos()
if not infos:
    widgets.needs_run(view)

table = [
    {
        "run": name,
        "state": info.state,
        "recipe": info.recipe,
        "dataset": info.dataset,
        **{m: (info.metrics or {}).get(m) for m in ("recall@10", "ndcg@10", "coverage@10")},
        "started": info.started and int(info.started * 1000),
    }
    for name, info in infos.items()
]
frame = widgets.run_table(table)
names = list(infos)
first = [name for name in (view.run_name, *names) if name][:1]
asked = st.multiselect(
    "Compare", names, default=list(dict.fromkeys(first + names[:2]))[:2], key="compare",
    bind="query-params", max_selections=8,
)  # fmt: skip
st.session_state["page_widgets"].append("compare")
chosen = {name: runs.Run(infos[name].path) for name in asked if name in infos}
if not chosen:
    st.info("Choose runs to compare.", icon=":material/compare_arrows:")
    st.stop()

part = widgets.options("Show", ("Results", "Curves", "Settings"), "runs_view")
own = all(run.home == next(iter(chosen.values())).home for run in chosen.values())
words = [run.name if own else str(run.path) for run in chosen.values()]
line = places.command(f"runs compare {' '.join(words)}", *chosen.values())
if part == "Results":
    metric = widgets.options(
        "Metric", ("recall@10", "ndcg@10", "recall@5", "coverage@10"), "metric"
    )
    results = serving.metrics_of(list(chosen.values()))
    if results.empty:
        st.info("None of these runs has been evaluated yet.", icon=":material/hourglass_empty:")
    else:
        figure = draw.compare_metrics(results, metric=metric)
        widgets.place(figure, key="compare_metrics")
        widgets.belongings(
            figure, results, key="compare_metrics", command=line,
            cell="from onerec.explain import serving\nfrom onerec.viz import runs as viz\n"
            f"viz.compare_metrics(serving.metrics_of(runs), metric={metric!r})",
        )  # fmt: skip
elif part == "Curves":
    curves = {name: cache.read(training.curves, run) for name, run in chosen.items()}
    curves = {name: curve for name, curve in curves.items() if not curve.empty}
    if not curves:
        st.info("None of these runs has begun to train.", icon=":material/hourglass_empty:")
    else:
        figure = draw.overlay(curves, metric="loss")
        widgets.place(figure, key="overlay")
        every = pd.concat([curve.assign(run=name) for name, curve in curves.items()])
        widgets.belongings(
            figure, every[every["metric"] == "loss"], key="overlay", command=line,
            cell="from onerec.explain import training\nfrom onerec.viz import runs as viz\n"
            "viz.overlay({run.name: training.curves(run) for run in runs}, metric='loss')",
        )  # fmt: skip
else:
    differing = runs.compare(list(chosen.values()))
    if len(chosen) == 1:
        st.info("Choose a second run above to see which settings differ.",
                icon=":material/compare_arrows:")  # fmt: skip
    elif differing.empty:
        st.success("These runs have the same settings.", icon=":material/check_circle:")
    else:
        widgets.table(differing, key="settings", title="Only the settings that differ")
    st.code(line, language="bash")

if view.run and selection.shown("manage"):
    run_actions.draw(view)
