"""Pictures of a dataset: time, behaviours, history lengths, popularity.

Each takes the frame of the function of the same name in `onerec.explain.dataset`.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from onerec.viz import theme

IMPORT = "Import a log first: onerec data import --interactions FILE --items FILE --name NAME"


def timeline(frame: pd.DataFrame) -> go.Figure:
    """Events over time, all and by behaviour."""
    if frame.empty:
        return theme.nothing(
            "This log has no times that can be compared.",
            "Only the order of each user's events is known; see the history lengths below.",
            "timeline",
        )
    unit = str(frame["unit"].iloc[0])
    every = frame[frame["behaviour"] == "events"]
    peak = every.iloc[int(every["count"].argmax())]
    mean = every["count"].mean()
    fig = theme.figure(
        title=f"{theme.count(mean, 'event')} a {unit} on average, {peak['count']:,} at the peak on "
        f"{peak['day']:%d %b %Y}",
        alt=f"Lines of events per {unit} from {every['day'].min():%d %b %Y} to "
        f"{every['day'].max():%d %b %Y}, one line for all events and one for each behaviour.",
        how=f"Rows of the log counted per {unit} (UTC): "
        f"{every['count'].sum():,} events / {len(every):,} {unit}s with events = {mean:,.1f}. "
        "A behaviour's line counts the rows in which it is true.",
        y=f"events per {unit}",
        key="timeline",
    )
    rare = frame.groupby("behaviour")["count"].mean().min() < mean / 50
    for index, (name, part) in enumerate(frame.groupby("behaviour", sort=False)):
        fig.add_scatter(
            x=part["day"],
            y=part["count"].where(part["count"] > 0) if rare else part["count"],
            name=str(name).replace("_", " "),
            mode="lines" if len(part) > 1 else "markers",
            line=theme.line(index),
        )
    if rare:  # on a linear axis they would all lie on the floor
        least = int(frame.loc[frame["count"] > 0, "count"].min())
        fig.update_yaxes(**theme.log_axis(least, int(frame["count"].max())))
        fig.update_yaxes(title_text=f"events per {unit}, log scale")
    else:
        fig.update_yaxes(rangemode="tozero")
    return fig


def behaviours(frame: pd.DataFrame) -> go.Figure:
    """How often each behaviour is true where it is known; hatched bars count as positives."""
    if frame.empty:
        return theme.nothing("This log records no behaviours.", "Every row counts.", "behaviours")
    ordered = frame.sort_values("rate", ascending=True, na_position="first")
    if ordered["rate"].isna().all():
        said = f"No row says yes or no to any of the {len(frame)} behaviours."
        return theme.nothing(said, "Every row counts.", "behaviours")
    positives = ", ".join(frame.loc[frame["positive"], "behaviour"]) or "none of them"
    numbers = "; ".join(f"{r['behaviour']} {r['count']:,} / {r['known']:,}" for r in _rows(frame))
    fig = theme.figure(
        title=_behaviours_finding(ordered[ordered["rate"].notna()]),
        alt="Bars of the rate of each behaviour: "
        + "; ".join(f"{_plain(r['behaviour'])} {_rate(r['rate'])}" for r in _rows(frame)),
        how=f"rate = rows that say yes / rows that say yes or no: {numbers}. A missing value is "
        f"left out, never counted as no. Positive targets: {positives}.",
        x="share of the rows where it is known",
        height=140 + 34 * len(frame),
        key="behaviours",
    )
    fig.add_bar(
        x=ordered["rate"],
        y=[_plain(name) for name in ordered["behaviour"]],
        orientation="h",
        text=[_rate(rate) for rate in ordered["rate"]],
        textposition="outside",
        cliponaxis=False,
        customdata=ordered[["count", "known"]],
        marker={
            "color": [theme.BLUE if yes else theme.GREY for yes in ordered["positive"]],
            "pattern": {"shape": ["/" if yes else "" for yes in ordered["positive"]]},
        },
        hovertemplate="%{y}: %{customdata[0]:,} of %{customdata[1]:,}<extra></extra>",
        showlegend=False,
    )
    for name, colour, shape in (("positive", theme.BLUE, "/"), ("other", theme.GREY, "")):
        marker = {"color": colour, "pattern": {"shape": shape}}
        fig.add_bar(x=[None], y=[None], name=name, marker=marker, orientation="h")
    fig.update_layout(barmode="overlay")
    fig.update_xaxes(tickformat=".0%", range=[0, min(1.15, float(ordered["rate"].max()) * 1.2)])
    return fig


def _behaviours_finding(known: pd.DataFrame) -> str:
    """The ends of the rates, of the rows in which a behaviour is known."""
    low, top = known.iloc[0], known.iloc[-1]
    most = theme.sentence(_plain(top["behaviour"]))
    if len(known) == 1:
        return f"{most} is true in {_rate(top['rate'])} of the rows where it is known"
    if low["rate"] == top["rate"]:
        return f"All {len(known)} behaviours are equally frequent ({_rate(top['rate'])})"
    return (
        f"{most} is the most frequent behaviour ({theme.percent(top['rate'])} of the rows where "
        f"it is known), {_plain(low['behaviour'])} the rarest ({_rate(low['rate'])})"
    )


def _rate(rate: float) -> str:
    """In percent, with a digit of it however rare: 0.07%, where a power would be hard to read."""
    if rate != rate:
        return "never known"
    return f"{100 * rate:.1g}%" if 0 < rate < 1e-3 else theme.chance(rate)


def history_lengths(frame: pd.DataFrame) -> go.Figure:
    """Users by the number of their events, in bins that double."""
    if frame.empty or not frame["users"].sum():
        return theme.nothing("No user has an event.", IMPORT, "history")
    common = frame.iloc[int(frame["users"].argmax())]
    few = theme.percent(frame.loc[frame["high"] < 5, "share"].sum())
    total = int(frame["users"].sum())
    events = "event" if common["label"] == "1" else "events"
    fig = theme.figure(
        title=f"Most common: {common['label']} {events} ({theme.percent(common['share'])} of the "
        f"users); {'none has' if few == '0%' else few + ' have'} fewer than 5",
        alt="Bars of users by number of events: "
        + "; ".join(f"{r['label']}: {r['users']:,} users" for r in _rows(frame)),
        how=f"Each of the {total:,} users counted once, by the number of his rows; each bin is "
        f"twice as wide as the one before. {int(common['users']):,} / {total:,} = "
        f"{common['share']:.3f}.",
        x="events of a user",
        y="users",
        key="history",
        legend=False,
    )
    fig.add_bar(
        x=frame["label"],
        y=frame["users"],
        marker_color=theme.BLUE,
        customdata=frame["share"],
        hovertemplate="%{x} events: %{y:,} users (%{customdata:.1%})<extra></extra>",
    )
    fig.update_xaxes(type="category")
    return fig


def popularity(frame: pd.DataFrame, gini: float) -> go.Figure:
    """The share of all events that the most frequent items hold, against all items being equal."""
    if frame.empty:
        return theme.nothing("No item has an event.", IMPORT, "popularity")
    tenth = frame[frame["item_share"] <= 0.1]
    row = tenth.iloc[-1] if len(tenth) else frame.iloc[0]
    fig = theme.figure(
        title=f"The top {theme.percent(row['item_share'])} of the items hold "
        f"{theme.percent(row['cumulative'])} of the events (Gini {gini:z.2f})",
        alt="A curve of the cumulative share of events against the share of items, most frequent "
        f"first; it lies above the diagonal of equal items. Gini coefficient {gini:z.2f}.",
        how="Items in falling order of their n_i events: cumulative(r) = sum of the first r / sum "
        f"of all. At rank {int(row['rank']):,}: {row['cumulative']:.3f}. Gini = "
        f"2 Σ i·n₍ᵢ₎ / (n Σ n₍ᵢ₎) - (n + 1)/n in rising order = {gini:z.3f}; 0 is all equal.",
        x="share of the items, most frequent first",
        y="share of the events",
        key="popularity",
    )
    fig.add_scatter(
        x=[0.0, *frame["item_share"]],
        y=[0.0, *frame["cumulative"]],
        name="this log",
        mode="lines",
        line={"color": theme.BLUE, "width": 3},
        customdata=[[0, 0], *frame[["rank", "count"]].to_numpy().tolist()],
        hovertemplate="first %{customdata[0]:,} items: %{y:.1%} of the events<br>"
        "the last of them has %{customdata[1]:,}<extra></extra>",
    )
    fig.add_scatter(
        x=[0, 1],
        y=[0, 1],
        name="all items equal",
        mode="lines",
        line={"color": theme.GREY, "dash": "dot"},
    )
    fig.update_xaxes(tickformat=".0%", range=[0, 1])
    fig.update_yaxes(tickformat=".0%", range=[0, 1.02])
    return fig


def _plain(name: object) -> str:
    return str(name).replace("_", " ")


def _rows(frame: pd.DataFrame) -> list[dict[Hashable, Any]]:
    return frame.to_dict("records")
