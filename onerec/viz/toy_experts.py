"""Pictures of a few experts that learn a function of the plane: regions, loads, and the course.

Each takes a state of `onerec.explain.toy_experts`. Experts are told apart by colour, by the symbol
of their points and by their number.
"""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from onerec.explain import toy_experts
from onerec.explain.toy_experts import Experts
from onerec.viz import theme

GRID = 80
SYMBOLS = ("circle", "square", "diamond", "triangle-up")


def regions(state: Experts) -> go.Figure:
    """Which expert answers where; a point is as large as its answer misses the target."""
    told = toy_experts.loads(state)
    idle = int((told["points"] == 0).sum())
    most = int(told["share"].argmax())
    share = theme.percent(told["share"][most])
    finding = f"All {len(told)} experts answer; the busiest, expert {most}, {share} of the points"
    if idle:
        finding = f"Expert {most} answers {share} of the points; {idle} of {len(told)} answer none"
    fig = _square(
        title=finding,
        alt="A square in regions, one per expert: "
        + "; ".join(
            f"expert {r['expert']} {theme.percent(r['share'])}" for r in told.to_dict("records")
        ),
        how="A point goes to e = argmax of s + b, s = sigmoid(w · x + c) the router's affinity, b "
        "the balancing bias, and is answered with s times the expert's line. Scores at the middle "
        "of the square, s + b: "
        + "; ".join(
            f"expert {number}: {1 / (1 + np.exp(-row[2])):.3f} {bias:+z.3f}"
            for number, (row, bias) in enumerate(zip(state.router, state.bias, strict=True))
        ),
        key="toy-regions",
        height=460,
    )
    ticks = np.linspace(-1.05, 1.05, GRID)
    squares = np.stack(np.meshgrid(ticks, ticks), -1).reshape(-1, 2)
    chosen, _ = toy_experts.routed(squares, state.router, state.bias)
    n = len(told)
    fig.add_heatmap(
        x=ticks,
        y=ticks,
        z=chosen.reshape(GRID, GRID).astype(np.int8),
        zmin=-0.5,
        zmax=n - 0.5,
        colorscale=[
            (place, theme.COLOURS[number])
            for number in range(n)
            for place in (number / n, (number + 1) / n)
        ],
        opacity=0.35,
        showscale=False,
        hoverinfo="skip",
    )
    _draw_points(fig, state)
    return fig


def load(state: Experts) -> go.Figure:
    """The share of the points of each expert, with the even share."""
    told = toy_experts.loads(state)
    even, violation = 1 / len(told), state.history[-1]["max_violation"]
    fig = theme.figure(
        title=f"The busiest expert has {1 + violation:.1f} times the even load"
        if violation > 0.05
        else "The load is even",
        alt="Bars of the share of the points per expert: "
        + "; ".join(
            f"expert {r['expert']} {r['share']:.3f}, bias {r['bias']:+z.3f}"
            for r in told.to_dict("records")
        ),
        how=f"MaxVio = busiest share / even share - 1 = {told['share'].max():.3f} / {even:.3f} - 1 "
        f"= {violation:.3f}. The bias moves by {state.setting.bias_rate:g} a step, up below the "
        "mean load and down above it"
        + (": " if state.setting.balance else " where it is on; now it is off: ")
        + ", ".join(f"b_{r['expert']} = {r['bias']:+z.3f}" for r in told.to_dict("records")),
        y="share of the points",
        height=300,
        key="toy-load",
        legend=False,
    )
    fig.add_bar(
        x=[
            f"expert {r['expert']}<br>{theme.percent(r['share'])}"
            + (f"<br>b = {r['bias']:+z.2f}" if state.setting.balance else "")
            for r in told.to_dict("records")
        ],
        y=told["share"],
        marker={
            "color": list(theme.COLOURS[: len(told)]),
            "pattern": {"shape": list(theme.PATTERNS[: len(told)])},
        },
        hovertemplate="%{x}: %{y:.3f}<extra></extra>",
    )
    fig.add_hline(y=even, line={"color": theme.GREY, "dash": "dash", "width": 2})
    fig.update_yaxes(range=[0, 1], tickformat=".0%")
    return fig


def course(state: Experts, most: int = 400) -> go.Figure:
    """Loss and MaxVio by step; at most `most` steps are drawn of each."""
    told = toy_experts.history(state)
    last = told.to_dict("records")[-1]
    loss = theme.went([f"{value:.3f}" for value in told["loss"]])
    violation = theme.went([f"{value:.2f}" for value in told["max_violation"]])
    shown = told.iloc[np.unique(np.linspace(0, len(told) - 1, min(most, len(told))).astype(int))]
    fig = theme.figure(
        title=f"Step {last['step']}: the loss {loss}, MaxVio {violation}",
        alt=f"Two lines over {last['step']} steps: the loss, now {last['loss']:.4f}, and MaxVio, "
        f"now {last['max_violation']:.3f}.",
        how=f"Loss = mean of (answer - target)² / 2 = {last['loss']:.4f}. MaxVio = busiest load / "
        f"mean load - 1 = {last['max_violation']:.3f}. Gradient descent on all "
        f"{len(state.x)} points, learning rate {state.setting.learning_rate:g}.",
        x="step",
        height=300,
        key="toy-course",
    )
    for place, (column, name) in enumerate((("loss", "loss"), ("max_violation", "MaxVio"))):
        fig.add_scatter(
            x=shown["step"],
            y=shown[column],
            name=name,
            mode="lines" if len(told) > 1 else "markers",
            marker={"symbol": theme.SYMBOLS[place], "color": theme.COLOURS[place], "size": 9},
            line=theme.line(place),
            yaxis="y" if place == 0 else "y2",
            hovertemplate=f"step %{{x}}: {name} %{{y:.4f}}<extra></extra>",
        )
    if len(told) == 1:  # a lone point would stand in the middle of an axis from -1
        fig.update_xaxes(range=[-0.5, 10])
    fig.update_yaxes(title_text="loss", rangemode="tozero")
    fig.update_layout(
        yaxis2={"title": {"text": "MaxVio", "standoff": 14}, "overlaying": "y", "side": "right"}
        | {"range": [0, state.setting.experts - 0.9], "showgrid": False, "automargin": True}
        | {"tickmode": "auto", "nticks": 5}
    )
    return fig


def _draw_points(fig: go.Figure, state: Experts) -> None:
    points = toy_experts.table(state)
    points = points.assign(miss=(points["answer"] - points["target"]).abs())
    for number in range(state.setting.experts):
        part = points[points["expert"] == number]
        fig.add_scatter(
            x=part["x"],
            y=part["y"],
            mode="markers",
            name=f"expert {number}",
            marker={"size": 4 + 14 * part["miss"].clip(upper=1), "symbol": SYMBOLS[number]}
            | {"opacity": 0.9}
            | {"color": theme.COLOURS[number], "line": {"width": 0.5, "color": "#FFFFFF"}},
            customdata=part[["target", "answer", "affinity"]],
            hovertemplate=f"expert {number}, affinity %{{customdata[2]:.2f}}<br>target "
            "%{customdata[0]:.2f}, answer %{customdata[1]:.2f}<extra></extra>",
        )


def _square(**words: object) -> go.Figure:
    fig = theme.figure(**words)  # type: ignore[arg-type]
    fig.update_xaxes(range=[-1.05, 1.05], constrain="domain", showgrid=False)
    fig.update_yaxes(range=[-1.05, 1.05], constrain="domain", scaleanchor="x", showgrid=False)
    fig.update_layout(margin={"l": 36, "r": 8, "b": 56})
    return fig
