"""Pictures of a reward model: its towers, calibration and weights.

Each takes the frame of the function that its docstring names, of `onerec.explain.rewards`. Nothing
is told by colour alone: lines differ in dash, points in symbol. The pictures of the composer stand
in `composer`, and are named here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from onerec.explain.rewards import FEW
from onerec.viz import theme
from onerec.viz.composer import parts, ranks, words

__all__ = ["calibration", "gaps", "learning", "parts", "ranks", "towers", "weights", "words"]

REWARD = "Train it with: onerec reward --run NAME"
MEASURES = {"gauc": "GAUC", "auc": "AUC"}
SERIES = (  # label, prefix of the column, colour, symbol
    ("its own tower", "", theme.BLUE, "circle"),
    ("fused P-Score", "fused_", theme.ORANGE, "diamond"),
    ("product of the towers", "product_", theme.GREY, "square"),
    ("gradient-boosted trees", "rival_", theme.GREEN, "triangle-up"),
)
SMOOTH = 8  # a running mean takes this part of a curve
RARE = 0.05  # a rate below it asks for logarithmic axes


def towers(frame: pd.DataFrame, measure: str = "gauc") -> go.Figure:
    """AUC or GAUC per behaviour of its tower, the fused score and what to beat (`towers`)."""
    if frame.empty or frame[measure].isna().all():
        return theme.nothing("Nothing was measured on valid.", REWARD, f"towers-{measure}")
    shown = [one for one in SERIES if f"{one[1]}{measure}" in frame]
    shown = [one for one in shown if frame[f"{one[1]}{measure}"].notna().any()]
    name = MEASURES[measure]
    fig = theme.figure(
        title=_towers_finding(frame, measure),
        alt=f"Points of the {name} per behaviour: "
        + "; ".join(
            f"{words(r['behaviour'])}, {r['positives']:,} of {r['rows']:,}: "
            + ", ".join(
                f"{label} {r[prefix + measure]:.3f}"
                for label, prefix, _, _ in shown
                if r[prefix + measure] == r[prefix + measure]
            )
            for r in frame.to_dict("records")
        ),
        how=_towers_how(frame, measure),
        x=f"{name} on valid",
        height=150 + 60 * len(frame),
        key=f"towers-{measure}",
    )
    _add_scores(fig, frame, shown, measure)
    fig.add_vline(x=0.5, line={"color": theme.GREY, "dash": "dash", "width": 1})
    fig.update_yaxes(
        range=[len(frame) - 0.5, -0.5], tickvals=list(range(len(frame))), showgrid=False,
        ticktext=[_count_name(row) for row in frame.to_dict("records")],
    )  # fmt: skip
    least = min(value for trace in fig.data for value in trace.x if value == value)
    fig.update_xaxes(range=[min(0.48, least - 0.02), 1.0])
    return fig


def _add_scores(fig: go.Figure, frame: pd.DataFrame, shown: list[Any], measure: str) -> None:
    """The scores of a behaviour beside one another, a little apart so that none hides another."""
    few = frame["positives"] < FEW
    for index, (label, prefix, colour, symbol) in enumerate(shown):
        apart = 0.19 * (index - (len(shown) - 1) / 2)
        fig.add_scatter(
            x=frame[f"{prefix}{measure}"],
            y=np.arange(len(frame)) + apart,
            name=label,
            mode="markers",
            marker={"color": colour, "size": 11, "line": {"width": 2, "color": colour}}
            | {"symbol": [f"{symbol}-open" if rare else symbol for rare in few]},
            customdata=[[words(name)] for name in frame["behaviour"]],
            hovertemplate="%{customdata[0]}: %{x:.3f}<extra>" + label + "</extra>",
        )
    for edge in range(1, len(frame)):
        fig.add_hline(y=edge - 0.5, line={"color": theme.GRID, "width": 1})


def _towers_finding(frame: pd.DataFrame, measure: str) -> str:
    sure = frame[(frame["positives"] >= FEW) & frame[measure].notna()]
    if sure.empty:
        return f"Every behaviour has fewer than {FEW} positives on valid: no number here is sure"
    low, high = (
        sure["behaviour"].iloc[int(place)]
        for place in (sure[measure].argmin(), sure[measure].argmax())
    )
    least, most = (theme.percent(sure[measure].agg(end)) for end in ("min", "max"))
    ends = f"{least} ({words(low)})" + (f" to {most} ({words(high)})" if low != high else "")
    where = "one user's items" if measure == "gauc" else "all users' items"
    finding = f"Of pairs among {where}, one with the behaviour and one without, the towers order "
    finding += f"{ends} rightly"
    for label, own, other in (
        ("the towers beat the trees", "", "rival_"),
        ("the fused score beats the product of the towers", "fused_", "product_"),
    ):
        if f"{other}{measure}" not in sure:
            continue
        both = sure[sure[f"{other}{measure}"].notna()]
        if len(both):
            better = int((both[f"{own}{measure}"] > both[f"{other}{measure}"]).sum())
            return f"{finding}; {label} on {better} of {len(both)} behaviours"
    return finding


def _towers_how(frame: pd.DataFrame, measure: str) -> str:
    what = "AUC = the share of pairs (a row with the behaviour, one without) that the score puts "
    what += "in the right order; 0.5 is a coin. "
    if measure == "gauc":
        what += "GAUC is its mean within users, weighted by their rows: a policy chooses among "
        what += "items for one user, so only that order counts. "
    what += f"Hollow points have fewer than {FEW} positives and are mostly noise. "
    return what + "; ".join(
        f"{words(r['behaviour'])}: {r['positives']:,} of {r['rows']:,} rows, {r[measure]:.4f}"
        for r in frame.to_dict("records")
    )


def learning(frame: pd.DataFrame) -> go.Figure:
    """The loss of each tower and of the fused score by step (`learning`)."""
    if frame.empty:
        return theme.nothing("No training step of the reward model yet.", REWARD, "reward-loss")
    ends = {  # of a batch alone: noise, more than what a training changes
        str(name): (float(own["value"].head(part).mean()), float(own["value"].tail(part).mean()))
        for name, own in frame.groupby("metric", sort=False)
        for part in [max(1, len(own) // SMOOTH)]
    }
    lead = "fused" if "fused" in ends else next(iter(ends))
    course = [ends[lead][0], *frame.loc[frame["metric"] == lead, "value"], ends[lead][1]]
    fig = theme.figure(
        title=f"The loss of the {'fused score' if lead == 'fused' else words(lead)} "
        f"{theme.went([f'{value:.3f}' for value in course])} in "
        f"{theme.count(frame['step'].max(), 'step')}",
        alt="Lines of the loss by step on a logarithmic axis: "
        + "; ".join(f"{words(name)} now {now:.4f}" for name, (_, now) in ends.items()),
        how="Each tower's loss is the mean of -y ln p - (1 - y) ln(1 - p) over the rows that say "
        "yes or no; the fused one is Σ w BCE(y, p) / Σ w over the behaviours. Rare behaviours "
        "have small losses: a loss compares with itself, not with another's. The lines are running "
        f"means over an {SMOOTH}th of the points; the title compares the first such part with the "
        "last.",
        x="step",
        y="loss in nats",
        height=360,
        key="reward-loss",
    )
    for index, (name, own) in enumerate(frame.groupby("metric", sort=False)):
        smooth = own["value"].rolling(max(1, len(own) // SMOOTH), min_periods=1).mean()
        fig.add_scatter(
            x=own["step"],
            y=smooth,
            name="fused P-Score" if name == "fused" else words(str(name)),
            mode="lines+markers" if len(own) <= 40 else "lines",
            line=theme.line(index),
            marker={"symbol": theme.SYMBOLS[index % 8], "size": 6},
            hovertemplate="step %{x:,}: %{y:.4f}",
        )
    drawn = [value for trace in fig.data for value in trace.y]
    fig.update_yaxes(**theme.log_axis(min(drawn), max(drawn)))
    return fig


def calibration(frame: pd.DataFrame, behaviour: str = "") -> go.Figure:
    """What one tower predicted against what happened, by tenths of the rows (`calibration`)."""
    own = frame[frame["behaviour"] == behaviour] if len(frame) else frame
    if own.empty:
        return theme.nothing("This behaviour has no calibration.", REWARD, "calibration")
    weight = own["rows"] / own["rows"].sum()
    said, happened = ((own[name] * weight).sum() for name in ("predicted", "observed"))
    fig = theme.figure(
        title=f"{theme.sentence(words(behaviour))}: predicted {theme.percent(said, 1)}, happened "
        f"{theme.percent(happened, 1)}; in {int(own['within'].sum())} of {len(own)} parts the "
        "prediction lies within chance",
        alt="Points of the predicted against the observed rate, with 95% intervals: "
        + "; ".join(
            f"{theme.percent(r['predicted'], 2)} predicted, {theme.percent(r['observed'], 2)} "
            f"happened of {r['rows']:,}"
            for r in own.to_dict("records")
        ),
        how="The rows, sorted by prediction, in parts of equal size; a point is a part's mean "
        "prediction and the share that happened, the bar its 95% (Wilson) interval. On the "
        f"diagonal the two agree. Over all rows: {said:.5f} against {happened:.5f}.",
        x="predicted",
        y="happened",
        height=420,
        key=f"calibration-{behaviour}",
    )
    rare = said < RARE
    least = min(own["predicted"].tolist() + own.loc[own["observed"] > 0, "low"].tolist())
    most = float(own[["predicted", "high"]].to_numpy().max())
    floor = max(0.6 * least, 1e-7) if rare else 0.0
    fig.add_scatter(
        x=[floor, most], y=[floor, most], mode="lines", hoverinfo="skip",
        name="as predicted", line={"color": theme.GREY, "dash": "dash", "width": 1},
    )  # fmt: skip
    _add_parts(fig, own, floor)
    axis = (
        theme.log_axis(floor, most, "{:g}%", 100)
        if rare
        else {"tickformat": ".0%", "rangemode": "tozero"}
    )
    fig.update_xaxes(**axis)
    fig.update_yaxes(**axis)
    return fig


def _add_parts(fig: go.Figure, own: pd.DataFrame, floor: float) -> None:
    """The parts of a calibration; one in which nothing happened stands at the floor, hollow."""
    looks = (
        ("parts of the rows", own["observed"] > 0, "circle", theme.BLUE),
        ("nothing happened in them", own["observed"] == 0, "triangle-down-open", theme.ORANGE),
    )
    for name, chosen, symbol, colour in looks:
        part = own[chosen]
        if part.empty:
            continue
        at = part["observed"].clip(lower=floor)
        fig.add_scatter(
            x=part["predicted"],
            y=at,
            name=name,
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 10, "line": {"width": 2}},
            error_y={"type": "data", "symmetric": False, "array": (part["high"] - at).tolist()}
            | {"arrayminus": (at - part["low"].clip(lower=floor)).tolist(), "color": colour},
            customdata=part[["observed", "rows"]].to_numpy().tolist(),
            hovertemplate="predicted %{x:.3%}, happened %{customdata[0]:.3%} of %{customdata[1]:,} "
            "rows<extra></extra>",
        )


def weights(frame: pd.DataFrame) -> go.Figure:
    """The weight of each behaviour in the fused loss, round by round (`rounds`)."""
    if frame.empty:
        return theme.nothing("No round of weights yet.", REWARD, "weights")
    last = frame[frame["kept"]]
    start = frame[frame["round"] == frame["round"].min()].set_index("behaviour")["weight"]
    up = last[last["weight"] > last["behaviour"].map(start)]
    named = ", ".join(f"{words(r['behaviour'])} to {r['weight']:.3g}" for r in up.to_dict(
        "records"))  # fmt: skip
    count, tried = int(last["round"].iloc[0]), int(frame["round"].max())
    why = ": no behaviour lost against the product of the towers"
    if tried:
        why = f": those before {theme.count(tried, 'round')} of raising were better"
    elif (last["gap"] < 0).any():
        worst = last["behaviour"].iloc[int(last["gap"].argmin())]
        why = f", though {words(worst)} loses against the product of the towers"
    fig = theme.figure(
        title=f"{count} round{'s' * (count != 1)} raised {named}" if named else
        f"No weight is raised{why}",
        alt="Lines of the weight by round: "
        + "; ".join(f"{words(r['behaviour'])} {r['weight']:.3g}" for r in last.to_dict("records")),
        how="In each round the behaviour whose GAUC lies furthest below that of the product of the "
        "towers has its weight multiplied (Pantheon's rule adds 0.1 / N); only the ratios count. "
        "Now: " + ", ".join(f"{r['behaviour']} {r['weight']:.3g}" for r in last.to_dict("records")),
        x="round",
        y="weight in the fused loss",
        height=340,
        key="weights",
    )  # fmt: skip
    _add_rounds(fig, frame, "weight", "%{y:.3g}")
    fig.update_yaxes(rangemode="tozero")
    return fig


def gaps(frame: pd.DataFrame) -> go.Figure:
    """GAUC of the fused score minus that of the towers' product, round by round (`rounds`)."""
    known = frame[frame["gap"].notna()] if len(frame) else frame
    if known.empty:
        return theme.nothing(
            "No behaviour has a voice: each has too few positives on valid.",
            f"A GAUC counts from {FEW} positives on.",
            "gaps",
        )
    last = known[known["kept"]]
    worst = last.iloc[int(last["gap"].argmin())]
    lost = int((last["gap"] < 0).sum())
    fig = theme.figure(
        title=f"The fused score loses to the product of the towers on {lost} of {len(last)} "
        f"behaviours, most on {words(worst['behaviour'])} ({worst['gap']:+z.3f})"
        if lost
        else f"The fused score loses to the product of the towers on none of {len(last)} "
        f"behaviours; the least gain is {words(worst['behaviour'])}'s ({worst['gap']:+z.3f})",
        alt="Lines of the gap in GAUC by round: "
        + "; ".join(f"{words(r['behaviour'])} {r['gap']:+z.4f}" for r in last.to_dict("records")),
        how="gap = GAUC of the fused score - GAUC of the product of the towers, per behaviour: "
        + "; ".join(
            f"{r['behaviour']}: {r['gauc']:.4f} - {r['product_gauc']:.4f} = {r['gap']:+z.4f}"
            for r in last.to_dict("records")
        ),
        x="round",
        y="gap in GAUC",
        height=340,
        key="gaps",
    )
    _add_rounds(fig, known, "gap", "%{y:+.4f}")
    fig.add_hline(y=0, line={"color": theme.GREY, "dash": "dash", "width": 1})
    return fig


def _add_rounds(fig: go.Figure, frame: pd.DataFrame, column: str, shown: str) -> None:
    for index, (name, own) in enumerate(frame.groupby("behaviour", sort=False)):
        fig.add_scatter(
            x=own["round"],
            y=own[column],
            name=words(str(name)),
            mode="lines+markers",
            line=theme.line(index),
            marker={"symbol": theme.SYMBOLS[index % 8], "size": 8},
            cliponaxis=False,
            hovertemplate="round %{x}: " + shown,
        )
    fig.update_xaxes(tickvals=sorted(frame["round"].unique().tolist()))
    kept = int(frame.loc[frame["kept"], "round"].iloc[0])
    if kept < frame["round"].max():
        fig.add_vline(
            x=kept, line={"color": theme.GREY, "dash": "dot", "width": 1}, annotation_text="kept"
        )


def _count_name(row: dict[Any, Any]) -> str:
    few = " (few)" if row["positives"] < FEW else ""
    return f"{words(row['behaviour'])}<br>{row['positives']:,} yes{few}"
