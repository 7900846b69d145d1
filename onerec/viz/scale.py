"""Pictures of size and cost: the law of sizes, where parameters sit, what a context costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from onerec.viz import theme

KINDS = {"encoder_decoder": "encoder-decoder", "lazy": "lazy decoder"}
MEASURES = {  # column -> what it is called, its unit on the axis
    "gflops": ("operations of training", "GFLOP per target"),
    "megabytes": ("values kept for the backward pass", "MB per target"),
}
LINE = 60  # places of a law's curve


def scaling(points: pd.DataFrame, laws: pd.DataFrame) -> go.Figure:
    """Loss by size with the laws fitted to it; frames of `points` and `law` of `explain.scale`.

    The title is that of the first law: how the size that was left out was predicted, where one was.
    """
    if points.empty:
        return theme.nothing("No size was trained.", "`python -m onerec.bench.scaling`", "scaling")
    finding = _scaling_finding(laws.iloc[0]) if len(laws) else _no_law(points)
    fig = theme.figure(
        title=finding,
        alt="Loss by millions of parameters: "
        + "; ".join(f"{r['name']}, {r['millions']:,.4g}M: {r['loss']:.3f}" for r in _rows(points)),
        how="L(N) = E + A / N^a, N in millions, by least squares.\n\n"
        + "\n".join(_law_words(row) for row in _rows(laws)),
        x="parameters without tables, in millions",
        y="loss of a code, in nats",
        height=420,
        key="scaling",
    )
    for index, (name, own) in enumerate(points.groupby("name", sort=False)):
        fig.add_scatter(
            x=own["millions"],
            y=own["loss"],
            name=str(name),
            mode="markers",
            marker=_mark(index),
            error_y={"type": "data", "symmetric": False, "width": 3}
            | {"array": (own["high"] - own["loss"]).tolist()}
            | {"arrayminus": (own["loss"] - own["low"]).tolist()},
            hovertemplate=f"{name}<br>%{{x:,.4g}}M parameters: %{{y:.3f}}<extra></extra>",
        )
        for row in _rows(laws[laws["name"] == name]):
            _add_law(fig, row, own, index)
    fig.update_xaxes(**theme.log_axis(points["millions"].min(), points["millions"].max()))
    return fig


def shapes(points: pd.DataFrame, laws: pd.DataFrame) -> go.Figure:
    """What losses have above the floor E of their law, over size: lines of slope -a.

    Frames as for `scaling`, each name with its law. Laws of different data may be compared by this
    slope and by nothing else. Points at or below their floor have no place on the axis.
    """
    law = {str(row["name"]): row for row in _rows(laws)}
    floors = points["name"].map({name: row["E"] for name, row in law.items()})
    above = points.assign(above=points["loss"] - floors)
    shown = above[above["above"] > 0]
    exponents = [f"{row['a']:.2f} ({_bounded(row)})" for row in _rows(laws)]
    fig = theme.figure(
        title=f"Above its floor a loss falls by 1 / N^a, a = {', '.join(exponents)}",
        alt="Loss above the floor by millions of parameters: "
        + "; ".join(f"{r['name']}, {r['millions']:,.4g}M: {r['above']:.3f}" for r in _rows(shown)),
        how="above = loss - E of its own law; on two logarithmic axes A / N^a is a line that falls "
        "a decades a decade of N. The heights belong to the data and may not be compared."
        + f"\n\n{theme.count(len(above) - len(shown), 'size')} at or below the floor, not drawn.",
        x="parameters without tables, in millions",
        y="loss of a code above E, in nats",
        height=420,
        key="scaling-shapes",
    )
    for index, (name, mine) in enumerate(shown.groupby("name", sort=False)):
        fig.add_scatter(
            x=mine["millions"],
            y=mine["above"],
            name=str(name),
            mode="markers",
            marker=_mark(index),
            hovertemplate=f"{name}<br>%{{x:,.4g}}M parameters: E + %{{y:.3f}}<extra></extra>",
        )
        x = np.geomspace(mine["millions"].min(), mine["millions"].max(), LINE)
        y = law[str(name)]["A"] / x ** law[str(name)]["a"]
        fig.add_scatter(
            x=x, y=y, mode="lines", line=theme.line(index), showlegend=False, hoverinfo="skip"
        )
    fig.update_xaxes(**theme.log_axis(shown["millions"].min(), shown["millions"].max()))
    fig.update_yaxes(**theme.log_axis(shown["above"].min(), shown["above"].max()))
    return fig


def _add_law(fig: go.Figure, row: Mapping[str, float], own: pd.DataFrame, index: int) -> None:
    """The curve of a law over the sizes it was fitted to, and what it predicted of the largest."""
    x = np.geomspace(own["millions"].min(), own["millions"].max(), LINE)
    y = row["E"] + row["A"] / x ** row["a"]
    look = theme.line(index)
    fig.add_scatter(x=x, y=y, mode="lines", line=look, showlegend=False, hoverinfo="skip")
    if np.isfinite(row["predicted"]):
        fig.add_scatter(
            x=[row["largest"]],
            y=[row["predicted"]],
            name=f"{row['name']}: predicted",
            mode="markers",
            marker={"size": 14, "symbol": "circle-open", "color": look["color"]},
            error_y={"type": "data", "symmetric": False, "width": 6}
            | {"array": [row["predicted_high"] - row["predicted"]]}
            | {"arrayminus": [row["predicted"] - row["predicted_low"]]},
            hovertemplate="predicted from the smaller sizes: %{y:.3f}<extra></extra>",
        )


def _no_law(points: pd.DataFrame) -> str:
    low, high = points["loss"].min(), points["loss"].max()
    return (
        f"No law was fitted to {theme.count(len(points), 'size')}: losses {low:.3f} to {high:.3f}"
    )


def _scaling_finding(law: pd.Series) -> str:
    formula = f"{law['E']:.2f} + {law['A']:.3g} / N^{law['a']:.2f}"
    if not np.isfinite(law["predicted"]):
        return f"{law['name']}: the loss falls as {formula}, N in millions"
    return (
        f"{law['name']}: {formula}; the largest size, left out, is predicted at "
        f"{law['predicted']:.3f} and is {law['measured']:.3f}"
    )


def _mark(index: int) -> dict[str, Any]:
    """How a point of the index-th name looks."""
    return {"size": 9, "symbol": theme.SYMBOLS[index % 8], "color": theme.COLOURS[index % 8]}


def _bounded(row: Mapping[str, float]) -> str:
    """Whose law it is, and the interval of its exponent."""
    if not np.isfinite(row["a_low"]):
        return str(row["name"])
    return f"{row['name']}; 95% [{row['a_low']:.2f}, {row['a_high']:.2f}]"


def _law_words(row: Mapping[str, float]) -> str:
    said = f"- {row['name']}: {row['E']:.3f} + {row['A']:.4g} / N^{row['a']:.3f}"
    if np.isfinite(row["a_low"]):
        said += f", 95% interval of a [{row['a_low']:.2f}, {row['a_high']:.2f}]"
    if np.isfinite(row["predicted"]):
        said += f"; {row['largest']:,.4g}M left out: predicted {row['predicted']:.4f} "
        said += f"[{row['predicted_low']:.4f}, {row['predicted_high']:.4f}], "
        said += f"measured {row['measured']:.4f}"
    return said


def parts(frame: pd.DataFrame) -> go.Figure:
    """Where a model's parameters sit: a stacked bar for each model, as shares of its total.

    Columns model, part, parameters; parts in the order in which they first appear.
    """
    total = frame.groupby("model", sort=False)["parameters"].sum()
    most = frame.iloc[int(frame["parameters"].argmax())]
    share = most["parameters"] / total[most["model"]]
    fig = theme.figure(
        title=f"{theme.sentence(str(most['part']))}: {share:.0%} of the "
        f"{total[most['model']] / 1e9:.3g} billion parameters of {most['model']}",
        alt="; ".join(
            f"{model}: {total[model] / 1e6:,.1f}M, of them "
            + ", ".join(f"{r['part']} {r['parameters'] / 1e6:,.1f}M" for r in _rows(own))
            for model, own in frame.groupby("model", sort=False)
        ),
        how="share = parameters of the part / all of the model; counted from the recipe.",
        x="share of the parameters",
        height=150 + 46 * len(total),
        key="parts",
    )
    for index, (part, own) in enumerate(frame.groupby("part", sort=False)):
        fig.add_bar(
            y=own["model"],
            x=own["parameters"] / own["model"].map(total),
            name=str(part),
            orientation="h",
            marker={"color": theme.COLOURS[index % 8]}
            | {"pattern": {"shape": theme.PATTERNS[index % 8]}},
            customdata=own["parameters"] / 1e6,
            hovertemplate=f"{part}: %{{customdata:,.1f}}M, %{{x:.1%}}<extra>%{{y}}</extra>",
        )
    fig.update_layout(barmode="stack", bargap=0.25)
    fig.update_xaxes(tickformat=".0%", range=[0, 1])
    fig.update_yaxes(autorange="reversed", type="category")
    return fig


def contexts(frame: pd.DataFrame, measure: str = "gflops") -> go.Figure:
    """What a target costs by the length of its context, for each kind of model.

    Columns kind (a key of `KINDS`), positions, and the measure: `gflops` or `megabytes`.
    """
    name, unit = MEASURES[measure]
    wide = frame.pivot(index="positions", columns="kind", values=measure)
    ratio = wide["encoder_decoder"] / wide["lazy"]
    longest = int(ratio.index.max())
    fig = theme.figure(
        title=f"At {longest:,} positions the encoder-decoder takes {ratio[longest]:,.0f} times "
        f"the lazy decoder's {name}",
        alt=f"{theme.sentence(name)} by positions of a context: "
        + "; ".join(
            f"{KINDS[str(kind)]} {_plain(own.iloc[0])} at {own.index[0]:,} and "
            f"{_plain(own.iloc[-1])} at {own.index[-1]:,}"
            for kind, own in wide.items()
        ),
        how=f"{unit}, counted: "
        + "; ".join(
            f"{position:,} positions {_plain(row['encoder_decoder'])} / {_plain(row['lazy'])} = "
            f"{row['encoder_decoder'] / row['lazy']:.1f}"
            for position, row in wide.iterrows()
        ),
        x="positions of a context",
        y=unit,
        key=f"contexts-{measure}",
    )
    for index, (kind, label) in enumerate(KINDS.items()):
        fig.add_scatter(
            x=wide.index,
            y=wide[kind],
            name=label,
            mode="lines+markers",
            line=theme.line(index),
            marker={"symbol": theme.SYMBOLS[index], "size": 8},
            hovertemplate=f"{label}<br>%{{x:,}} positions: %{{y:,.3g}} {unit}<extra></extra>",
        )
    fig.update_yaxes(**theme.log_axis(float(np.nanmin(wide)), float(np.nanmax(wide))))
    return fig


def _plain(value: float) -> str:
    """Three digits, without a power: 2600 -> "2,600", not "2.6e+03"."""
    return f"{value:,.0f}" if value >= 999.5 else f"{value:.3g}"


def _rows(frame: pd.DataFrame) -> list[dict[str, float]]:
    return [{str(k): v for k, v in row.items()} for row in frame.to_dict("records")]
