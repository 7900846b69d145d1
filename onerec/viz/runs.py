"""Pictures of whole runs: the pipeline with its numbers, curves laid over one another, metrics.

`pipeline` takes `explain.overview.stages`, the others frames of several runs.
"""

from __future__ import annotations

import textwrap
from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from onerec.viz import theme
from onerec.viz.serving import EVALUATE
from onerec.viz.training import START, metric_name

_STATES = {
    "done": (theme.GREEN, "solid", "✓"),
    "running": (theme.BLUE, "solid", "▶"),
    "paused": (theme.GOLD, "dash", "⏸"),
    "waiting": (theme.GREY, "dot", "…"),
}
_TROUBLE = (theme.ORANGE, "dash", "!")


def pipeline(stages: pd.DataFrame, vertical: bool = False) -> go.Figure:
    """The path from data to lists as boxes with this run's numbers; customdata[0] is the stage."""
    done = int((stages["state"] == "done").sum())
    finding = (
        "Every stage is done" if done == len(stages) else f"{done} of {len(stages)} stages are done"
    )
    recall = stages.loc[stages["stage"] == "evaluate", "headline"]
    if len(recall) and recall.iloc[0] != "not yet":
        finding += f": {recall.iloc[0]}"
    rows = stages.to_dict("records")
    fig = theme.figure(
        title=finding,
        alt="The stages of the run, in order: " + "; ".join(_spoken(row) for row in rows),
        how="Numbers of dataset.json, tokenizer/report.json, metrics.jsonl and evaluate.json of "
        "this run: " + "; ".join(_spoken(row) for row in rows),
        height=110 * len(rows) + 60 if vertical else 230,
        key="pipeline",
        legend=False,
    )
    for index, row in enumerate(rows):
        place = (0.0, -float(index)) if vertical else (float(index), 0.0)
        _box(fig, row, *place, characters=40 if vertical else 18)
        if index:
            _arrow(fig, index, vertical)
    fig.add_scatter(
        x=[0.0 if vertical else index for index in range(len(rows))],
        y=[-index if vertical else 0.0 for index in range(len(rows))],
        mode="markers",
        marker={"size": 60, "opacity": 0},
        customdata=stages[["stage", "label", "state", "headline", "detail"]],
        hovertemplate="%{customdata[1]}: %{customdata[2]}<br>%{customdata[3]}<br>"
        "%{customdata[4]}<extra></extra>",
        showlegend=False,
    )
    reach = [-0.48, len(rows) - 0.52]
    fig.update_xaxes(visible=False, fixedrange=True, range=[-0.5, 0.5] if vertical else reach)
    fig.update_yaxes(
        visible=False, fixedrange=True, range=[-reach[1], -reach[0]] if vertical else [-0.5, 0.5]
    )
    fig.update_layout(margin={"l": 4, "r": 4, "b": 4})
    return fig


def overlay(curves_by_run: Mapping[str, pd.DataFrame], metric: str = "loss") -> go.Figure:
    """One metric of several runs in one picture."""
    parts = {
        name: curves[curves["metric"] == metric]
        for name, curves in curves_by_run.items()
        if len(curves) and (curves["metric"] == metric).any()
    }
    if not parts:
        return theme.nothing(f"None of these runs has {metric_name(metric)}.", START, "overlay")
    last = {name: float(part["value"].iloc[-1]) for name, part in parts.items()}
    lower = "loss" in metric
    best = (min if lower else max)(last, key=lambda name: last[name])
    fig = theme.figure(
        title=f"{best} has the {'lowest' if lower else 'highest'} {metric_name(metric)} "
        f"at its last step: {last[best]:.4g}",
        alt=f"Lines of {metric_name(metric)} by step, one per run; at the end "
        + "; ".join(f"{name}: {value:.4g}" for name, value in last.items()),
        how=f"`{metric}` of each run's metrics.jsonl at the same step: "
        + "; ".join(f"{name} {value:.4g}" for name, value in last.items()),
        x="step",
        y=metric_name(metric),
        height=400,
        key=f"overlay-{metric}",
    )
    for index, (name, part) in enumerate(parts.items()):
        fig.add_scatter(
            x=part["step"],
            y=part["value"],
            name=name,
            mode="lines+markers" if len(part) <= 40 else "lines",
            line=theme.line(index),
            marker={"symbol": theme.SYMBOLS[index % 8], "size": 7},
            hovertemplate="step %{x:,}: %{y:.4g}",
        )
    return fig


def compare_metrics(metrics: pd.DataFrame, metric: str = "recall@10") -> go.Figure:
    """One metric of several runs and models: a group per model, a bar per run, with intervals."""
    part = metrics[metrics["metric"] == metric] if len(metrics) else metrics
    if part.empty:
        return theme.nothing(f"None of these runs has {metric}.", EVALUATE, "compare")
    ours = part[part["model"] == "onerec"].reset_index(drop=True)
    lead = ours if len(ours) else part.reset_index(drop=True)
    best = lead.iloc[int(lead["value"].argmax())]
    fig = theme.figure(
        title=f"{metric} of {theme.model_name(best['model'])} is highest in {best['run']}: "
        f"{best['value']:.4f}",
        alt=f"Grouped bars of {metric} by model and run: "
        + "; ".join(f"{r['run']}, {r['model']}: {r['value']:.4f}" for r in part.to_dict("records")),
        how=f"{metric}, mean over each run's evaluated users, with 95% bootstrap intervals where "
        "computed. Runs compare only where dataset, split and part agree.",
        y=metric,
        height=400,
        key=f"compare-{metric}",
    )
    order = part.groupby("model")["value"].max().sort_values(ascending=False).index
    for index, (run, own) in enumerate(part.groupby("run", sort=False)):
        own = own.set_index("model").reindex([name for name in order if name in set(own["model"])])
        theme.add_bars(
            fig,
            [theme.model_name(str(name)) for name in own.index],
            own,
            group=str(run),
            name=str(run),
            marker={
                "color": theme.COLOURS[index % 8],
                "pattern": {"shape": theme.PATTERNS[index % 8]},
            },
            hovertemplate="%{x}: %{y:.4f}<extra>" + str(run) + "</extra>",
        )
    fig.update_layout(barmode="group")
    fig.update_yaxes(rangemode="tozero")
    return fig


def _box(fig: go.Figure, row: dict[Hashable, Any], x: float, y: float, characters: int) -> None:
    """One stage: border and sign by state, its name, its number, what stands behind it."""
    colour, dash, sign = _STATES.get(str(row["state"]), _TROUBLE)
    fig.add_shape(
        type="rect",
        x0=x - 0.44,
        x1=x + 0.44,
        y0=y - 0.38,
        y1=y + 0.38,
        line={"color": colour, "width": 2, "dash": dash},
        fillcolor=colour,
        opacity=0.14,
        layer="below",
    )
    fig.add_shape(
        type="rect",
        x0=x - 0.44,
        x1=x + 0.44,
        y0=y - 0.38,
        y1=y + 0.38,
        line={"color": colour, "width": 2, "dash": dash},
    )
    detail = "<br>".join(textwrap.wrap(str(row["detail"]), characters))
    text = f"{row['label']}<br><b>{row['headline']}</b><br>{detail}<br>{sign} {row['state']}"
    fig.add_annotation(x=x, y=y, text=text, showarrow=False, font={"size": 12}, align="center")


def _arrow(fig: go.Figure, index: int, vertical: bool) -> None:
    half = 0.38 if vertical else 0.44
    head, tail = index - half, index - 1 + half
    place = {"x": 0, "ax": 0, "y": -head, "ay": -tail}
    if not vertical:
        place = {"x": head, "ax": tail, "y": 0, "ay": 0}
    fig.add_annotation(
        **place,
        xref="x",
        yref="y",
        axref="x",
        ayref="y",
        showarrow=True,
        arrowhead=2,
        arrowwidth=2,
        arrowcolor=theme.GREY,
        text="",
    )


def _spoken(row: dict[Hashable, Any]) -> str:
    detail = f" ({row['detail']})" if row["detail"] else ""
    return f"{row['label']}: {row['headline']}{detail}, {row['state']}"
