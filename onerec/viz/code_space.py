"""Pictures of the vectors that are quantised: the map, an item's neighbours, its residuals.

Each takes the frame of the function of the same name in `onerec.explain.tokens`.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from onerec import plain
from onerec.viz import theme

TOKENIZE = "Make them with: onerec tokenize --run NAME --recipe RECIPE --dataset DATASET"
MAP = "Make it with: onerec map --run NAME"
WEBGL_FROM = 2000  # points; below, SVG is sharper and needs no graphics context
MAP_GROUPS = 7  # the most frequent first codes get a colour and a symbol each, the rest is grey
COLOURINGS = {"code_1": "first code", "popularity": "popularity", "leaf_size": "items per name"}


def projection(
    points: pd.DataFrame,
    shares: tuple[float, float],
    colour: Literal["code_1", "popularity", "leaf_size"] = "code_1",
    chosen: int | None = None,
    code: tuple[int, ...] = (),
) -> go.Figure:
    """The map of the items, one of them in a ring. customdata[0] of a point is its item.

    The items whose codes begin with `code` have a small ring each.
    """
    if points.empty:
        return theme.nothing("There is no map yet.", TOKENIZE, "projection")
    _check_colour(colour)
    both, items = sum(shares), theme.count(len(points), "item")
    fig = theme.figure(
        title=f"{items}; the two axes hold {theme.percent(both)} of the variance of their vectors",
        alt=f"A scatter of {items} by the first two principal components of their "
        f"content vectors, coloured by {COLOURINGS[colour]}.",
        how="x, y = (v - mean) · the first two principal axes of the vectors v that were "
        f"quantised; they hold {shares[0]:.3f} + {shares[1]:.3f} = {both:.3f} of the variance, "
        "so nearness here is only as true as that.",
        x=f"component 1 ({theme.percent(shares[0])})",
        y=f"component 2 ({theme.percent(shares[1])})",
        height=520,
        key=f"map-{colour}",
    )
    _colour(fig, points, colour)
    _rings(fig, points, chosen, code)
    return fig


def umap(
    points: pd.DataFrame,
    facts: dict[str, Any],
    colour: Literal["code_1", "popularity", "leaf_size"] = "code_1",
    chosen: int | None = None,
    code: tuple[int, ...] = (),
) -> go.Figure:
    """The map that UMAP made (`onerec.explain.item_map.umap`); see `projection`."""
    if points.empty:
        return theme.nothing("There is no such map yet.", MAP, "umap")
    _check_colour(colour)
    items = theme.count(len(points), "item")
    kept, pca = theme.percent(facts["kept"]), theme.percent(facts["kept_pca"])
    fig = theme.figure(
        title=f"{items}; {kept} of an item's ten nearest are among its ten nearest "
        f"here, {pca} on the map of principal components",
        alt=f"A scatter of {items}, laid out by UMAP from their content vectors, "
        f"coloured by {COLOURINGS[colour]}.",
        how=f"UMAP of the vectors that were quantised: {facts['neighbours']} neighbours, least "
        f"distance {facts['min_dist']:g}, seed {facts['seed']}. It keeps who is near whom; sizes "
        "of groups and distances between them mean little. Neighbours kept: "
        f"{facts['kept']:.4f}, by principal components {facts['kept_pca']:.4f}.",
        height=520,
        key=f"umap-{colour}",
    )
    _colour(fig, points, colour)
    _rings(fig, points, chosen, code)
    return fig


def _check_colour(colour: str) -> None:
    if colour not in COLOURINGS:
        raise ValueError(f"colour={colour!r}: choose one of {', '.join(COLOURINGS)}")


def _colour(fig: go.Figure, points: pd.DataFrame, colour: str) -> None:
    """The points, by first code or on a logarithmic scale of a count."""
    if colour == "code_1":
        for name, part, look in _map_groups(points):
            _add_points(fig, part, name, look)
        fig.update_layout(legend={"title": {"text": "first code "}, "itemsizing": "constant"})
    else:
        points = points.sort_values(colour)  # what is rare and high lies above
        values = np.log10(points[colour].to_numpy(dtype=float) + 1)
        ticks = [
            n
            for n in (0, *(a * 10**b for b in range(9) for a in (1, 3)))
            if n <= 10 ** values.max()
        ]
        bar: dict[str, Any] = {"title": {"text": COLOURINGS[colour], "side": "right"}}
        bar |= {"len": 0.85, "y": 0, "yanchor": "bottom"}  # below the toolbar
        bar |= {"tickvals": np.log10(np.array(ticks) + 1), "ticktext": [f"{n:,}" for n in ticks]}
        look = {"color": values, "colorscale": theme.SEQUENTIAL, "colorbar": bar}
        _add_points(fig, points, "items", look)
        fig.update_layout(showlegend=False)
    fig.update_xaxes(showticklabels=False)
    fig.update_yaxes(showticklabels=False, scaleanchor="x")


def _rings(fig: go.Figure, points: pd.DataFrame, chosen: int | None, code: tuple[int, ...]) -> None:
    """Around what is chosen, and over all others, so that it is found."""
    within = np.full(len(points), bool(code))
    for level, number in enumerate(code, 1):
        within &= (points[f"code_{level}"] == number).to_numpy()
    named = {
        f"code {' · '.join(map(str, code))}": (points[within], 11, 1.5),
        "chosen": (points[points["item"] == chosen], 20, 3),
    }
    for name, (own, size, width) in named.items():
        if own.empty:
            continue
        ring = {"size": size, "symbol": "circle-open", "line": {"width": width}}
        ring["color"] = theme.ORANGE
        fig.add_scatter(
            x=own["x"], y=own["y"], mode="markers", marker=ring, name=name, hoverinfo="skip"
        )


def _map_groups(points: pd.DataFrame) -> list[tuple[str, pd.DataFrame, dict[str, Any]]]:
    """The most frequent first codes, a colour and a symbol each; the others together in grey."""
    counts = points["code_1"].value_counts()
    shown = sorted(counts.index, key=lambda code: (-counts[code], code))
    shown = shown if len(shown) <= MAP_GROUPS + 1 else shown[:MAP_GROUPS]
    rest = points[~points["code_1"].isin(shown)]
    groups: list[tuple[str, pd.DataFrame, dict[str, Any]]] = []
    if len(rest):  # drawn first, so that it lies below
        look: dict[str, Any] = {"color": theme.GREY, "opacity": 0.35}
        groups.append((f"{rest['code_1'].nunique()} others", rest, look))
    for index, code in enumerate(shown):
        look = {"color": theme.COLOURS[index % 8], "symbol": theme.SYMBOLS[index % 8]}
        groups.append((str(code), points[points["code_1"] == code], look))
    return groups


def _add_points(fig: go.Figure, part: pd.DataFrame, name: str, look: dict[str, Any]) -> None:
    many = len(part) >= WEBGL_FROM
    codes = part.filter(regex=r"^code_\d+$").astype(str).agg(" · ".join, axis=1)
    add = fig.add_scattergl if many else fig.add_scatter
    size = 4 if many else 6 if len(part) > 300 else 9
    add(
        x=part["x"],
        y=part["y"],
        mode="markers",
        name=name,
        marker={"size": size, **look},
        customdata=np.column_stack(
            [part["item"], part["title"].map(theme.drawn), codes, part["popularity"]]
        ),
        hovertemplate="%{customdata[1]}<br>code %{customdata[2]}<br>"
        "%{customdata[3]:,} positives in training<extra></extra>",
    )


def neighbours(frame: pd.DataFrame, title: str = "this item") -> go.Figure:
    """The nearest items by distance; the label of a bar says how many leading codes are shared."""
    if frame.empty:
        return theme.nothing("There are no vectors yet.", TOKENIZE, "neighbours")
    shared = int((frame["shared_prefix"] > 0).sum())
    nearest = frame.iloc[0]
    fig = theme.figure(
        title=f"{shared} of the {theme.count(len(frame), 'item')} nearest to “"
        f"{theme.short(title, 40)}” share{'s' * (shared == 1)} at least its first code",
        alt="Bars of the distance of the nearest items: "
        + "; ".join(
            f"{r['title']}: {r['distance']:.2f}, {shared_words(r['shared_prefix'])}"
            for r in frame.to_dict("records")
        ),
        how="distance = |v_i - v_j| of the vectors that were quantised; the nearest is "
        f"{plain.text(nearest['title'])} at {nearest['distance']:.3f} (cosine "
        f"{nearest['cosine']:.3f}).",
        x="distance of the vectors",
        height=120 + 28 * len(frame),
        key="neighbours",
        legend=False,
    )
    ordered = frame.iloc[::-1]
    fig.add_bar(
        x=ordered["distance"],
        y=[f"{r['rank']}. {theme.label(r['title'])}" for r in ordered.to_dict("records")],
        orientation="h",
        marker={
            "color": [theme.BLUE if n else theme.GREY for n in ordered["shared_prefix"]],
        },
        text=[shared_words(n) for n in ordered["shared_prefix"]],
        textposition="inside",
        insidetextanchor="start",
        textfont_color="white",
        customdata=ordered[["item", "cosine", "title"]].assign(
            title=ordered["title"].map(theme.drawn)
        ),
        hovertemplate="%{customdata[2]}<br>distance %{x:.3f}, cosine %{customdata[1]:.3f}"
        "<extra></extra>",
        showlegend=False,
    )
    return fig


def shared_words(codes: int) -> str:
    """0 -> "no code shared", 1 -> "1 code shared", 2 -> "2 codes shared"."""
    return f"{codes or 'no'} code{'' if codes < 2 else 's'} shared"


def residual_walk(frame: pd.DataFrame) -> go.Figure:
    """How the residual of one item shrinks from level to level."""
    if frame.empty:
        return theme.nothing("There are no vectors yet.", TOKENIZE, "residual_walk")
    last = frame.iloc[-1]
    codes = " · ".join(str(code) for code in frame["code"])
    steps = [
        "the vector",
        *(f"level {r['level']}<br>code {r['code']}" for r in frame.to_dict("records")),
    ]
    norms = [float(frame["norm_before"].iloc[0]), *frame["norm_after"]]
    worse = frame.loc[frame["norm_after"] > frame["norm_before"], "level"].tolist()
    which = f"level{'s' * (len(worse) > 1)} {' and '.join(map(str, worse))}"
    added = f"; {which} made that larger" if worse else ""
    fig = theme.figure(
        title=f"The codes {codes} describe {theme.percent(1 - last['share_left'])} of this item; "
        f"{theme.percent(last['share_left'])} of its squared norm is left{added}",
        alt="Bars of the norm that is left: " + ", ".join(f"{norm:.3f}" for norm in norms),
        how="r₁ = x, rₗ₊₁ = rₗ - Cₗ[codeₗ]: "
        + " → ".join(f"{norm:.3f}" for norm in norms)
        + f"; {norms[-1]:.3f}² / {norms[0]:.3f}² = {last['share_left']:.3f}",
        y="norm of what is left",
        key="residual_walk",
        legend=False,
    )
    fig.add_bar(
        x=steps,
        y=norms,
        marker_color=[theme.GREY, *[theme.BLUE] * len(frame)],
        text=[f"{norm:.2f}" for norm in norms],
        hovertemplate="%{x}: %{y:.3f}<extra></extra>",
        showlegend=False,
    )
    return fig
