"""Pictures of the network's inside: the load of the experts.

Each takes the frame of the function in `onerec.explain.network` that its docstring names, else of
the same name.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from onerec.viz import theme

STEPS_SHOWN = 200
DENSE = "This run's model is dense: it has no experts. Use --set model.experts=8 for some."
_MEASURES = {
    "max_violation": ("MaxVio", "max load / mean load - 1; 0 is an even load"),
    "cv": ("coefficient of variation", "standard deviation of the loads / their mean"),
    "entropy_nats": ("entropy in nats", "-Σ p ln p over the experts' shares p, at most ln E"),
}


def expert_load(load: pd.DataFrame, layer: int | None = None) -> go.Figure:
    """Experts x steps: the load of each relative to an even share (1 = even).

    Without a layer, of the first one.
    """
    if layer is None and len(load):
        layer = int(load["layer"].min())
    part = load[(load["layer"] == layer) & load["share"].notna()] if len(load) else load
    if part.empty:
        return theme.nothing("No expert load was recorded.", DENSE, "expert_load")
    table = part.pivot(index="expert", columns="step", values="share") * part["expert"].nunique()
    if table.shape[1] > STEPS_SHOWN:
        table = table.iloc[:, np.linspace(0, table.shape[1] - 1, STEPS_SHOWN).astype(int)]
    last = table.iloc[:, -1]
    busiest, step = last.idxmax(), table.columns[-1]
    fig = theme.figure(
        title=f"Layer {layer}: expert {busiest} carries {last.max():.2f} times an even load "
        f"at step {step:,}",
        alt=f"A heat map of {len(table)} experts by step; at step {step:,} the loads relative to "
        "an even share are " + ", ".join(f"{e}: {v:.2f}" for e, v in last.items()),
        how="relative load = tokens of the expert / (tokens of the layer / experts). Expert "
        f"{busiest} at step {step:,}: {last.max():.3f}.",
        x="step",
        y="expert",
        height=150 + 22 * len(table),
        legend=False,
        key=f"load-{layer}",
    )
    fig.add_heatmap(
        x=table.columns,
        y=[str(expert) for expert in table.index],
        z=table.to_numpy(),
        **_around_even(table.to_numpy()),
        colorbar={"title": {"text": "times even", "side": "right"}},
        hovertemplate="step %{x:,}, expert %{y}: %{z:.2f} times an even load<extra></extra>",
    )
    fig.update_yaxes(type="category")
    return fig


def layers(load: pd.DataFrame) -> go.Figure:
    """Layers x experts at the last step: the load of each relative to an even share
    (`expert_load`)."""
    if load.empty or load["share"].isna().all():
        return theme.nothing("No expert load was recorded.", DENSE, "layers")
    last = load[load["step"] == load["step"].max()]
    table = last.pivot(index="layer", columns="expert", values="share")
    table = table * table.count(axis=1).to_numpy()[:, None]
    layer, expert = np.unravel_index(int(np.nanargmax(table.to_numpy())), table.shape)
    most, step = float(table.iloc[layer, expert]), int(load["step"].max())
    fig = theme.figure(
        title=f"At step {step:,} the busiest is expert {table.columns[expert]} of layer "
        f"{table.index[layer]}, with {most:.2f} times an even load",
        alt=f"A heat map of {len(table)} layers by {table.shape[1]} experts, from "
        f"{np.nanmin(table.to_numpy()):.2f} to {most:.2f} times an even load",
        how="relative load = tokens of the expert / (tokens of the layer / experts), of the batch "
        f"of step {step:,}.",
        x="expert",
        y="layer",
        height=150 + 34 * len(table),
        legend=False,
        key="layers",
    )
    few = table.shape[1] <= 12
    fig.add_heatmap(
        x=[str(name) for name in table.columns],
        y=[str(name) for name in table.index],
        z=table.to_numpy(),
        **_around_even(table.to_numpy()),
        xgap=2,
        ygap=2,
        texttemplate="%{z:.2f}" if few else "",
        colorbar={"title": {"text": "times even", "side": "right"}},
        hovertemplate="layer %{y}, expert %{x}: %{z:.2f} times an even load<extra></extra>",
    )
    fig.update_xaxes(type="category", showgrid=False)
    fig.update_yaxes(type="category", showgrid=False)
    return fig


def _around_even(loads: np.ndarray) -> dict[str, Any]:
    """Range and colours of relative loads: 1 is grey, nothing is below 0."""
    reach = max(0.25, float(np.nanmax(np.abs(loads - 1))))
    low, high = max(0.0, 1 - reach), 1 + reach
    colours = [colour for _, colour in theme.DIVERGING]
    places = (0.0, (1 - low) / (high - low), 1.0)
    scale = [list(pair) for pair in zip(places, colours, strict=True)]
    return {"zmin": low, "zmax": high, "colorscale": scale}


def balance(
    frame: pd.DataFrame, measure: Literal["max_violation", "cv", "entropy_nats"] = "max_violation"
) -> go.Figure:
    """One measure of balance over the steps, a line per layer."""
    frame = frame[frame[measure].notna()] if len(frame) else frame
    if frame.empty:
        return theme.nothing("No expert load was recorded.", DENSE, "balance")
    name, formula = _MEASURES[measure]
    last = frame[frame["step"] == frame["step"].max()].reset_index(drop=True)
    low = measure == "entropy_nats"
    worst = last.iloc[int(last[measure].argmin() if low else last[measure].argmax())]
    where = f"in layer {worst['layer']:.0f}" + (", the least even one" if len(last) > 1 else "")
    fig = theme.figure(
        title=f"{theme.sentence(name)} is {worst[measure]:.3f} at step {worst['step']:,.0f} "
        + where,
        alt=f"Lines of {name} by step, one per layer; now "
        + ", ".join(f"layer {r['layer']}: {r[measure]:.3f}" for r in last.to_dict("records")),
        how=f"{name} = {formula}. Layer {worst['layer']:.0f}: {worst[measure]:.4f}.",
        x="step",
        y=name,
        key=f"balance-{measure}",
    )
    for index, (layer, part) in enumerate(frame.groupby("layer")):
        fig.add_scatter(
            x=part["step"],
            y=part[measure],
            name=f"layer {layer}",
            mode="lines+markers" if len(part) <= 40 else "lines",
            line=theme.line(index),
            marker={"symbol": theme.SYMBOLS[index % 8], "size": 6},
        )
    fig.update_yaxes(rangemode="normal" if low else "tozero")
    if low:
        bound = float(frame["max_entropy_nats"].iloc[0])
        fig.add_hline(y=bound, line_dash="dot", annotation_text=f"even: ln E = {bound:.2f}")
    return fig
