"""Pictures of the streams of a run: a value by round and arm, the A/B of two, what was learned.

`curves`, `compared` and `learning` take the frame of the function of the same name in
`onerec.explain.online`.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from onerec.viz import theme

START = "Start one with: onerec stream --run NAME --arm rsft_ecpo"
VALUES = {  # what is counted, its unit
    "true_watch_s": ("true watch time", "s"),
    "watch_s": ("watch time", "s"),
    "true_long_view": ("true share of long views", ""),
    "positives": ("positive answers", ""),
    "hits": ("items of the list that were taken", ""),
}
MEANING = {
    "true_watch_s": "Seconds that the world's people would watch on average, without the luck of "
    "the day.",
    "watch_s": "Seconds that were watched.",
    "true_long_view": "The share of the shown items that the world's people would watch to the "
    "end, without the luck of the day.",
    "positives": "Items with a long view, like, follow, comment or forward.",
    "hits": "Items of the list that the person really took that day.",
}
LEARNED_MEANING = {
    "next_token": "How surprised the model is by the code words of what people watched: lower is "
    "better.",
    "reward": "What the reward model thinks of the items that the model generates to learn from.",
    "legality": "The model writes codes: legal are those that are an item's.",
}
LEARNED = {  # a metric, its name, its axis
    "next_token": ("next-token loss", "loss in nats"),
    "reward": ("mean reward", "mean reward of a generated item"),
    "legality": ("share of legal items", "share of legal items"),
}
SHARES = ("true_long_view", "legality")
BAND_ALPHA = 0.13


def value_name(value: str) -> str:
    """What is counted, as people write it."""
    return VALUES.get(value, (value, ""))[0]


def amount(number: float, value: str, *, sign: bool = False) -> str:
    """A number with its unit: 481.98 -> "482.0 s", a share -> "42.5%"."""
    plus = "+z" if sign else "z"
    if value in SHARES:
        return f"{number:{plus}.1%}"
    if value in LEARNED:
        return f"{number:{plus}.3f}"
    unit = VALUES.get(value, ("", ""))[1]
    return f"{number:{plus},.1f} {unit}" if unit else f"{number:{plus}.2f}"


def curves(frame: pd.DataFrame, value: str = "true_watch_s") -> go.Figure:
    """A value per visit by round, a line and a band per stream."""
    if frame.empty:
        return theme.nothing("No round is done yet.", START, "online")
    names = [str(name) for name in dict.fromkeys(frame["stream"])]
    users = frame.groupby("stream", sort=False)["users"].sum().to_dict()
    fig = theme.figure(
        title=_curves_finding(frame, names, value),
        alt=f"Lines of {value_name(value)} per visit by round, one per stream, with bands; at the "
        "end " + "; ".join(f"{n}: {amount(_last(frame, n), value)}" for n in names),
        how=f"{MEANING.get(value, '')} Mean over the visitors of a round; the band is mean ± 1.96 "
        "s / √users. Visits so far: "
        + "; ".join(f"{name} {users[name]:,}" for name in names)
        + ". Visitors differ much, so bands are wide; where two streams have the same visitors, "
        "their A/B is far more exact than a look at whether bands overlap.",
        x="round",
        y=_axis(value),
        height=400,
        key=f"online-{value}",
    )
    for index, name in enumerate(names):
        _add_band(fig, frame[frame["stream"] == name], name, index, value)
    _round_ticks(fig, frame["round"])
    _value_ticks(fig, value)
    return fig


def _curves_finding(frame: pd.DataFrame, names: list[str], value: str) -> str:
    if len(names) == 1:
        means, rounds = frame["mean"].tolist(), frame["round"].tolist()
        what = theme.sentence(value_name(value))
        if len(means) == 1:
            return f"{what} of {names[0]} is {amount(means[0], value)} a visit in round {rounds[0]}"
        went = theme.went([amount(mean, value) for mean in means])
        return f"{what} of {names[0]} {went} a visit between rounds {rounds[0]} and {rounds[-1]}"
    table = frame.pivot(index="round", columns="stream", values="mean").dropna()
    if table.empty:
        return f"{theme.sentence(value_name(value))} by round: these streams share no round yet"
    mean = {str(name): float(column.mean()) for name, column in table.items()}
    best, least = (pick(mean, key=lambda name: mean[name]) for pick in (max, min))
    over = f"the {len(table)} rounds" if len(table) > 1 else "the first round"
    if amount(mean[best], value) == amount(mean[least], value):
        return f"All streams have the same {value_name(value)} over {over} that all have done"
    return (
        f"Over {over} that all have done, {best} has the most {value_name(value)} a visit: "
        f"{amount(mean[best], value)}; the least is {least}'s, {amount(mean[least], value)}"
    )


def _add_band(fig: go.Figure, part: pd.DataFrame, name: str, index: int, value: str) -> None:
    colour = theme.COLOURS[index % len(theme.COLOURS)]
    known = part.dropna(subset=["low", "high"])
    fig.add_scatter(
        x=[*known["round"], *known["round"][::-1]],
        y=[*known["high"], *known["low"][::-1]],
        fill="toself",
        fillcolor=_faint(colour),
        line={"width": 0},
        mode="lines",
        legendgroup=name,
        showlegend=False,
        hoverinfo="skip",
    )
    fig.add_scatter(
        x=part["round"],
        y=part["mean"],
        name=name,
        legendgroup=name,
        mode="lines+markers" if len(part) <= 40 else "lines",
        line=theme.line(index),
        marker={"symbol": theme.SYMBOLS[index % 8], "size": 8},
        customdata=[
            [amount(r["mean"], value), amount(r["low"], value), amount(r["high"], value)]
            for r in part.to_dict("records")
        ],
        hovertemplate="round %{x}: %{customdata[0]}<br>95%: %{customdata[1]} to %{customdata[2]}",
    )


def compared(
    frame: pd.DataFrame, a: str = "A", b: str = "B", value: str = "true_watch_s"
) -> go.Figure:
    """The difference a - b by round with intervals, the one over all rounds, and the zero line."""
    if frame.empty:
        return theme.nothing(
            "These two streams have no round in common yet.", "Wait for the first round.", "ab"
        )
    whole = frame.iloc[-1].to_dict()
    fig = theme.figure(
        title=ab_finding(frame, a, b, value),
        alt=f"Points of the difference {a} minus {b} in {value_name(value)} a visit, with 95% "
        "intervals: "
        + "; ".join(
            f"{r['over']} {_with_interval(r, value)}"
            for r in frame.iloc[-12:].to_dict("records")  # all rounds, and the last ones
        ),
        how=f"{MEANING.get(value, '')} The same people come in both streams, with the same luck: "
        f"each is compared with himself, mean of {a} - {b} = {amount(whole['a'], value)} - "
        f"{amount(whole['b'], value)} = {amount(whole['difference'], value, sign=True)} over "
        f"{whole['visits']:,} visits of {whole['users']:,} users. The interval is a 95% percentile "
        "bootstrap that draws whole users, with all their visits, 1,000 times. Luck in training is "
        "not in it: another seed may differ by more.",
        x="round",
        y=f"{a} - {b}: {_axis(value)}",
        height=400,
        key=f"ab-{value}",
    )
    rounds = frame[frame["round"].notna()]
    fig.add_hline(y=0, line={"color": theme.GREY, "width": 2, "dash": "dash"})
    _add_overall(fig, whole, rounds, value)
    fig.add_scatter(
        x=rounds["round"].astype(int),
        y=rounds["difference"],
        name="each round",
        mode="markers",
        marker={"color": theme.BLUE, "symbol": "circle", "size": 9},
        error_y=_whiskers(rounds),
        customdata=[[r["over"], _with_interval(r, value)] for r in rounds.to_dict("records")],
        hovertemplate="%{customdata[0]}: %{customdata[1]}<extra></extra>",
    )
    _round_ticks(fig, rounds["round"].astype(int))
    _value_ticks(fig, value)
    return fig


def ab_finding(frame: pd.DataFrame, a: str, b: str, value: str) -> str:
    """Who is ahead over all rounds, and whether chance among the visitors could have done it."""
    whole, what = frame.iloc[-1].to_dict(), value_name(value)
    rounds = len(frame) - 1
    over = f"over {rounds} rounds" if rounds > 1 else "in the only round"
    if (frame["difference"] == 0).all() and (frame["low"].fillna(0) == 0).all():
        return f"{a} and {b} have served alike {over}: no difference for anybody"
    number = f"{_with_interval(whole, value)} of {what} a visit {over}"
    if whole["low"] != whole["low"]:
        return f"{a} - {b}: {number}; a single user gives no interval"
    if whole["low"] <= 0 <= whole["high"]:
        return f"{a} - {b}: {number}; this may be chance"
    side = "ahead of" if whole["difference"] > 0 else "behind"
    return f"{a} is {side} {b}: {number}, one training each"


def _add_overall(fig: go.Figure, whole: dict[Any, Any], rounds: pd.DataFrame, value: str) -> None:
    """The mean over all rounds as a line across them, in a band that is its interval."""
    ends = [float(rounds["round"].min()) - 0.3, float(rounds["round"].max()) + 0.3]
    if whole["low"] == whole["low"]:
        fig.add_scatter(
            x=[*ends, *ends[::-1]],
            y=[whole["high"], whole["high"], whole["low"], whole["low"]],
            fill="toself",
            fillcolor=_faint(theme.ORANGE),
            line={"width": 0},
            mode="lines",
            showlegend=False,
            hoverinfo="skip",
        )
    fig.add_scatter(
        x=ends,
        y=[whole["difference"]] * 2,
        name=f"all rounds, {_with_interval(whole, value)}",
        mode="lines",
        line={"color": theme.ORANGE, "width": 2},
        hoverinfo="skip",
    )


def learning(frame: pd.DataFrame, metric: str = "next_token") -> go.Figure:
    """What the policy learned: one metric of `LEARNED` over the rounds."""
    name, axis = LEARNED[metric]
    part = frame[frame["metric"] == metric] if len(frame) else frame
    if part.empty:
        return theme.nothing(f"No {name} here.", "This arm does not learn that way.", metric)
    course = [amount(value, metric) for value in part["value"]]
    first, last = course[0], course[-1]
    count, at = len(part), int(part["round"].iloc[-1])
    went = theme.went(course) + (f" in {count} rounds" if count > 1 else "")
    fig = theme.figure(
        title=f"{theme.sentence(name)} {went}",
        alt=f"A line of the {name} by round, from {first} to {last}.",
        how=f"`{metric}` of metrics.jsonl, at the last update of each round, over the examples of "
        f"that update alone, so it varies; round {at}: {last}.",
        x="round",
        y=axis,
        height=280,
        key=f"online-{metric}",
        legend=False,
    )
    fig.add_scatter(
        x=part["round"],
        y=part["value"],
        mode="lines+markers" if count <= 40 else "lines",
        line=theme.line(0),
        marker={"symbol": theme.SYMBOLS[0], "size": 7},
        hovertemplate="round %{x}: %{y:.4g}<extra></extra>",
    )
    _round_ticks(fig, part["round"])
    _value_ticks(fig, metric)
    return fig


def _with_interval(row: dict[Any, Any], value: str) -> str:
    text = amount(row["difference"], value, sign=True)
    if row["low"] != row["low"]:
        return text
    ends = (amount(row[end], value, sign=True) for end in ("low", "high"))
    return f"{text} (95%: {' to '.join(ends)})"


def _whiskers(rounds: pd.DataFrame) -> dict[str, Any]:
    up = (rounds["high"] - rounds["difference"]).fillna(0)
    down = (rounds["difference"] - rounds["low"]).fillna(0)
    look = {"color": theme.BLUE, "thickness": 2, "width": 6}
    return look | {"type": "data", "array": up.tolist(), "arrayminus": down.tolist()}


def _axis(value: str) -> str:
    name, unit = VALUES.get(value, (value, ""))
    return f"{name} a visit" + (f" ({unit})" if unit else "")


def _last(frame: pd.DataFrame, name: str) -> float:
    return float(frame.loc[frame["stream"] == name, "mean"].iloc[-1])


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {BAND_ALPHA})"


def _round_ticks(fig: go.Figure, rounds: pd.Series) -> None:
    """Whole rounds only."""
    last = int(rounds.max())
    fig.update_xaxes(tickmode="linear", tick0=1, dtick=max(1, -(-last // 10)))


def _value_ticks(fig: go.Figure, value: str) -> None:
    if value in SHARES:
        fig.update_yaxes(tickformat=".0%")
