"""Pictures of residual k-means in the plane: the cells, what each level leaves, and the measures.

Each takes a state of `onerec.explain.toy_codes`. Codes are told apart by colour and by the number
on their centroid; from the ninth on colours come again, with diamonds on a paler ground.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from onerec.explain import toy_codes
from onerec.explain.toy_codes import Codes, Floats
from onerec.viz import theme

EDGE = 1.25  # of the square that is shown of the points
GRID = 120  # squares a side by which the cells are drawn
DOTS = 1  # the number of the trace of points in `plane`
PALE = ("#8CC1DF", "#F0B48A", "#8AD2BD", "#E8C6D9", "#E6CC8A", "#A9D1EA", "#D2CD8A", "#C4C4C4")
LIGHT, DARK = "#FFFFFF", "#1A1A1A"


def plane(state: Codes, point: int | None = None) -> go.Figure:
    """The points, the cells of level 1 and the way of its centroids.

    customdata[0] of a point is its number; `point` is the one whose residual walk is drawn.
    """
    told = toy_codes.levels(state).to_dict("records")
    finding = _finding(state, told[-1])
    fig = _square(
        EDGE,
        title=finding,
        alt=f"{len(state.x)} points in a square, in {told[0]['used']} cells of the codes of "
        f"level 1, with the number of each code on its centroid. {finding}",
        how="Each step: s = argmin_k |r - c_k| for each point, then c_k = the mean of the r that "
        "have code k. Level 1 has r = x, level l + 1 has r - c_s of level l. Spread left = "
        "Σ|x - x̂|² / Σ|x - mean|², x̂ the sum of a point's centroids: "
        + "; ".join(f"level {row['level']}: {row['relative_error']:.4f}" for row in told)
        + ".",
        key="toy-plane",
        height=500,
    )
    _draw_level(fig, state, 1, EDGE)
    if point is not None:
        _draw_walk(fig, state, point)
    return fig


def residual(state: Codes, level: int, point: int | None = None) -> go.Figure:
    """What the levels before `level` (2 or more) left of each point, with its cells if begun."""
    left = toy_codes.residuals(state, level)
    edge = max(0.05, np.ceil(float(np.abs(left).max()) * 10.5) / 10)
    begun = level <= state.level
    spread = toy_codes.relative_errors(state.x, state.books, state.codes)[level - 2]
    told = f"Level {level} works on what is left: {theme.percent(spread, 1)} of the spread"
    fig = _square(
        edge,
        title=told if begun else f"{told}. Its turn comes when level {level - 1} has settled",
        alt=f"The same points without the centroids of the {level - 1} level"
        f"{'s' * (level > 2)} before, within {edge:.1f} of the middle.",
        how=f"r = x - the centroids of the levels before. Mean length of r: "
        f"{float(np.linalg.norm(left, axis=1).mean()):.3f}, that of x: "
        f"{float(np.linalg.norm(state.x, axis=1).mean()):.3f}.",
        key=f"toy-residual-{level}",
        height=330,
    )
    if begun:
        _draw_level(fig, state, level, edge)
    else:
        _draw_points(fig, left, np.zeros(len(left), np.int64), "what is left", grey=True)
    if point is not None:
        fig.add_scatter(
            x=[left[point, 0]],
            y=[left[point, 1]],
            mode="markers",
            marker={"symbol": "circle-open", "size": 18, "color": theme.ORANGE}
            | {"line": {"width": 4}},
            hoverinfo="skip",
        )
    return fig


def course(state: Codes) -> go.Figure:
    """What is left of the spread and how evenly the codes are used, in percent, step by step."""
    told = toy_codes.history(state)
    last = told.to_dict("records")[-1]
    fig = theme.figure(
        title=f"{theme.percent(last['relative_error'], 1)} of the spread is left, codes drawn by "
        f"lot leave {theme.percent(last['lot_error'], 1)}; entropy of level {last['level']}: "
        f"{last['entropy_nats']:.2f} of at most {last['max_entropy_nats']:.2f}",
        alt="Lines over the steps. Spread left: from "
        f"{told['relative_error'].iloc[0]:.3f} to {last['relative_error']:.3f}; drawn by lot "
        f"{last['lot_error']:.3f}; entropy over its bound {_evenness(last):.3f}.",
        how=f"Spread left = Σ|x - x̂|² / Σ|x - mean|² = {last['relative_error']:.4f} after step "
        f"{last['step']}. By lot: points of what is left, drawn as codes and never moved, the mean "
        f"of {toy_codes.LOTS} draws: {last['lot_error']:.4f}. Entropy H = -Σ p ln p over the "
        f"shares p of the points on each code, at most ln N: {last['entropy_nats']:.3f} of "
        f"ln {last['size']} = {last['max_entropy_nats']:.3f}. Utilisation = {last['used']} / "
        f"{last['size']} = {last['utilisation']:.3f}. A dotted line is where a level begins.",
        x="step",
        height=330,
        key="toy-course",
    )
    lines = {
        "spread left": (told["relative_error"], {}),
        "spread left by codes drawn by lot": (told["lot_error"], {"shape": "hv"}),
        "entropy / ln N": (told["entropy_nats"] / told["max_entropy_nats"], {}),
    }
    for place, (name, (values, more)) in enumerate(lines.items()):
        fig.add_scatter(
            x=told["step"],
            y=values,
            name=name,
            mode="lines" if len(told) > 1 else "markers",
            marker={"symbol": theme.SYMBOLS[place], "color": theme.COLOURS[place], "size": 9},
            line=theme.line(place) | more,
            customdata=told[["level", "iteration"]],
            hovertemplate="step %{x}, level %{customdata[0]}, iteration %{customdata[1]}: %{y:.1%}",
        )
    begun = told.loc[(told["iteration"] == 0) & (told["step"] > 0), "step"]
    fig.update_layout(
        shapes=[
            {"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper"}
            | {"line": {"color": theme.GREY, "width": 1, "dash": "dot"}}
            for x in begun
        ]
    )
    fig.update_yaxes(tickformat=".0%", range=[0, 1.04])
    if len(told) == 1:  # a lone point would stand in the middle of an axis from -1
        fig.update_xaxes(range=[-0.5, 10])
    return fig


def _evenness(row: dict[Any, Any]) -> float:
    return float(row["entropy_nats"] / row["max_entropy_nats"])


def _finding(state: Codes, last: dict[Any, Any]) -> str:
    where = f"Level {state.level}, iteration {state.iteration}"
    if state.done:
        where = f"Done after {state.step} steps"
    elif state.settled:
        where = f"Level {state.level} has settled"
    used = f"{last['used']} of {last['size']} codes in use"
    return f"{where}: {used}, {theme.percent(last['relative_error'], 1)} of the spread is left"


def _square(edge: float, **words: object) -> go.Figure:
    fig = theme.figure(legend=False, **words)  # type: ignore[arg-type]
    fig.update_xaxes(range=[-edge, edge], constrain="domain", showgrid=False)
    fig.update_yaxes(range=[-edge, edge], constrain="domain", scaleanchor="x", showgrid=False)
    fig.update_layout(margin={"l": 36, "r": 8, "b": 28})
    return fig


def _draw_level(fig: go.Figure, state: Codes, level: int, edge: float) -> None:
    """Cells, points, the way of the centroids while it is their turn, and the centroids."""
    book, codes = state.books[level - 1], state.codes[:, level - 1]
    _draw_cells(fig, book, edge)
    _draw_points(fig, toy_codes.residuals(state, level), codes, "point")
    if level == state.level:
        _draw_ways(fig, state.trail)
    counts = np.bincount(codes, minlength=len(book))
    few = len(book) <= 12
    fig.add_scatter(
        x=book[:, 0],
        y=book[:, 1],
        mode="markers+text",
        text=[f"{code}" if n else f"{code} empty" for code, n in enumerate(counts)],
        textposition=["middle center" if n else "top center" for n in counts],
        textfont={"size": 12, "color": [DARK if n else theme.ORANGE for n in counts]},
        marker={
            "size": 20 if few else 17,
            "color": [LIGHT if n else theme.CLEAR for n in counts],
            "line": {"width": 2, "color": [DARK if n else theme.ORANGE for n in counts]},
        },
        customdata=np.column_stack([counts, np.arange(len(book))]),
        hovertemplate="code %{customdata[1]}: %{customdata[0]} points<br>(%{x:.3f}, %{y:.3f})"
        "<extra></extra>",
    )


def _draw_cells(fig: go.Figure, book: Floats, edge: float) -> None:
    ticks = np.linspace(-edge, edge, GRID)
    squares = np.stack(np.meshgrid(ticks, ticks), -1).reshape(-1, 2)
    n = len(book)
    scale = [
        (place, (theme.COLOURS if code < 8 else PALE)[code % 8])
        for code in range(n)
        for place in (code / n, (code + 1) / n)
    ]
    fig.add_heatmap(
        x=ticks,
        y=ticks,
        z=toy_codes.nearest(squares, book).reshape(GRID, GRID).astype(np.int8),
        zmin=-0.5,
        zmax=n - 0.5,
        colorscale=scale,
        opacity=0.3,
        showscale=False,
        hoverinfo="skip",
    )


def _draw_points(
    fig: go.Figure, x: Floats, codes: toy_codes.Ints, name: str, grey: bool = False
) -> None:
    colours = [theme.GREY if grey else theme.COLOURS[code % 8] for code in codes]
    fig.add_scatter(
        x=x[:, 0],
        y=x[:, 1],
        mode="markers",
        marker={
            "size": 7,
            "color": colours,
            "symbol": ["circle" if code < 8 else "diamond" for code in codes],
            "line": {"width": 0.5, "color": LIGHT},
        },
        customdata=np.column_stack([np.arange(len(x)), codes]).tolist(),  # lists come back as lists
        hovertemplate=name
        + " %{customdata[0]}"
        + ("" if grey else ", code %{customdata[1]}")
        + "<br>(%{x:.3f}, %{y:.3f})<extra></extra>",
        selected={"marker": {"opacity": 1}},
        unselected={"marker": {"opacity": 1}},
    )


def _draw_ways(fig: go.Figure, trail: tuple[Floats, ...]) -> None:
    """Where each centroid of the level has been; an arrow for the last step."""
    if len(trail) < 2:
        return
    ways = np.stack(trail)  # (iterations, N, 2)
    x: list[float | None] = []
    y: list[float | None] = []
    sizes: list[int] = []
    for way in ways.transpose(1, 0, 2):
        moved = bool(np.abs(way[-1] - way[-2]).max() > 1e-3)
        x += [*way[:, 0], None]
        y += [*way[:, 1], None]
        sizes += [0] * (len(way) - 1) + [13 if moved else 0, 0]
    rim = {"color": LIGHT, "width": 4}  # seen on both pages
    fig.add_scatter(x=x, y=y, mode="lines", line=rim, hoverinfo="skip")
    fig.add_scatter(
        x=x,
        y=y,
        mode="lines+markers",
        line={"color": DARK, "width": 1.5},
        marker={"symbol": "arrow", "angleref": "previous", "size": sizes, "color": DARK}
        | {"standoff": 10, "line": {"width": 1, "color": LIGHT}},
        hoverinfo="skip",
    )


def _draw_walk(fig: go.Figure, state: Codes, point: int) -> None:
    """Centroid by centroid towards one point; the rest, unsaid, is dotted."""
    said = toy_codes.walk(state, point)
    own = state.x[point]
    way = {"x": [0.0, *said["said_x"]], "y": [0.0, *said["said_y"]]}
    rim = {"color": LIGHT, "width": 8}
    fig.add_scatter(**way, mode="lines", line=rim, hoverinfo="skip")
    fig.add_scatter(
        **way,
        mode="lines+markers",
        line={"color": DARK, "width": 4},
        marker={"size": 9, "color": LIGHT, "line": {"width": 2, "color": DARK}},
        hovertemplate="said so far: (%{x:.3f}, %{y:.3f})<extra></extra>",
    )
    fig.add_scatter(
        x=[said["said_x"].iloc[-1], own[0]],
        y=[said["said_y"].iloc[-1], own[1]],
        mode="lines",
        line={"color": theme.ORANGE, "width": 3, "dash": "dot"},
        hoverinfo="skip",
    )
    fig.add_scatter(
        x=[own[0]],
        y=[own[1]],
        mode="markers",
        marker={"symbol": "circle-open", "size": 18, "color": theme.ORANGE, "line": {"width": 4}},
        hoverinfo="skip",
    )
