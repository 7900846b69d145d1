"""Several runs in one picture: curves laid over one another, metrics side by side."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from onerec.viz import theme
from onerec.viz.serving import EVALUATE
from onerec.viz.training import START, metric_name

SMALLER = ("max_violation", "cv")  # is better, as a loss is


def overlay(curves_by_run: Mapping[str, pd.DataFrame], metric: str = "loss") -> go.Figure:
    """One metric of several runs in one picture."""
    parts = {
        name: curves[(curves["metric"] == metric) & curves["value"].notna()]
        for name, curves in curves_by_run.items()
        if len(curves)
    }
    parts = {name: part for name, part in parts.items() if len(part)}
    if not parts:
        return theme.nothing(f"None of these runs has {metric_name(metric)}.", START, "overlay")
    last = {name: float(part["value"].iloc[-1]) for name, part in parts.items()}
    lower = "loss" in metric or metric in SMALLER
    best = (min if lower else max)(last, key=lambda name: last[name])
    first = f"{best} has the {'lowest' if lower else 'highest'} {metric_name(metric)} at its"
    if len(parts) == 1:
        first = f"{theme.sentence(metric_name(metric))} of {best} at its"
    elif len(set(last.values())) == 1:
        who = "Both" if len(parts) == 2 else f"All {len(parts)}"
        first = f"{who} have the same {metric_name(metric)} at their"
    fig = theme.figure(
        title=f"{first} last step: {last[best]:.4g}",
        alt=f"Lines of {metric_name(metric)} by step, one per run; at the end "
        + "; ".join(f"{name}: {value:.4g}" for name, value in last.items()),
        how=f"`{metric}` of each run's metrics.jsonl at its last step: "
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
    part = part[part["value"].notna()] if len(part) else part
    if part.empty:
        return theme.nothing(f"None of these runs has {metric}.", EVALUATE, "compare")
    ours = part[part["model"] == "onerec"].reset_index(drop=True)
    lead = ours if len(ours) else part.reset_index(drop=True)
    best = lead.iloc[int(lead["value"].argmax())]
    where = f"{'is highest ' if part['run'].nunique() > 1 else ''}in {best['run']}"
    fig = theme.figure(
        title=f"{metric} of {theme.model_name(best['model'])} {where}: {best['value']:.4f}",
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
