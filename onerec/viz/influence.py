"""Why an item: the influence of events, what deleting them does, and each code beside its rivals.

Takes the tables of `onerec.explanation.explain`; events carry a column `title` too.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from onerec import plain
from onerec.viz import theme

LONG = 80  # characters of a title in a sentence above a picture
ADD = "The model reads no event here: add an event to the history."
AGAIN = "Load the model and choose an item."
NAMES = {
    "leave_one_out": "leave one out (the truth)",
    "attention": "attention",
    "gradient": "input × gradient",
    "random": "at random",
    "recent": "newest first",
}
HEADS = {
    "leave_one_out": "<b>leave<br>one out</b><br>(truth)<br>nats",
    "attention": "attention<br>share",
    "gradient": "input ×<br>gradient<br>nats",
}
UNITS = {"leave_one_out": "nats", "attention": "share", "gradient": "nats"}


def influence(events: pd.DataFrame, title: str = "this item", top: int = 12) -> go.Figure:
    """The events that speak most for and most against an item, `top` in all, by leave-one-out,
    beside attention and gradient.

    customdata[0] of a bar is the event's item.
    """
    seen = events[events["read"]] if len(events) else events
    if seen.empty:
        return theme.nothing("No event that the model could see.", ADD, "influence")
    ranked = seen.sort_values("leave_one_out", ascending=False, kind="stable")
    ends = [ranked.head(top - top // 2), ranked.tail(top // 2)]
    rows = ranked if len(ranked) <= top else pd.concat(ends)
    labels = [theme.wrapped(f"#{r['event'] + 1} {r['title']}", 26) for r in rows.to_dict("records")]
    fig = theme.figure(
        title=_finding(seen, title),
        alt="Bars of influence by leave-one-out: "
        + "; ".join(
            f"{r['title']} {r['leave_one_out']:+z.2f} nats" for r in rows.to_dict("records")
        ),
        how=_how(seen),
        height=170 + 36 * len(rows),
        key="influence",
        legend=False,
    )
    for place, method in enumerate(UNITS):
        _panel(fig, rows, labels, method, place)
    fig.update_yaxes(autorange="reversed")
    fig.update_layout(margin_b=110, margin_r=8)
    return fig


def _panel(fig: go.Figure, rows: pd.DataFrame, labels: list[str], method: str, place: int) -> None:
    """The bars of one method, in a column of their own with a scale of their own."""
    axis = "" if place == 0 else str(place + 1)
    values = rows[method]
    fig.add_bar(
        x=values,
        y=labels,
        orientation="h",
        xaxis=f"x{axis}",
        marker={
            "color": [theme.BLUE if value >= 0 else theme.ORANGE for value in values],
            "pattern": {"shape": ["" if value >= 0 else "/" for value in values]},
        },
        customdata=rows[["item", "title"]].assign(title=rows["title"].map(theme.drawn)),
        hovertemplate="%{customdata[1]}: %{x:+.3f} "
        + UNITS[method]
        + f"<extra>{NAMES[method]}</extra>",
    )
    end = float(values.iloc[int(values.abs().to_numpy().argmax())])
    ends = {0.0: "0", end: f"{end:.2g}"}  # one tick where all are 0
    start, width = place * 0.38, 0.24
    fig.update_layout(
        {
            f"xaxis{axis}": {
                "domain": [start, start + width],
                "anchor": "y",
                "title": {"text": HEADS[method], "standoff": 8, "font": {"size": 12}},
                "zeroline": True,
                "zerolinecolor": theme.GREY,
                "gridcolor": theme.GRID,
                "tickvals": list(ends),
                "ticktext": list(ends.values()),
                "tickangle": 0,
                "tickfont": {"size": 11},
            }
        }
    )


def agreement(events: pd.DataFrame, method: str) -> float:
    """Spearman's rank correlation with leave-one-out over the events that the model sees."""
    seen = events[events["read"]]
    return float(seen["leave_one_out"].rank().corr(seen[method].rank()))


def _agreed(seen: pd.DataFrame, method: str) -> str:
    found = agreement(seen, method)
    return f"{found:+z.2f}" if found == found else "none (no two events differ)"


def _best(seen: pd.DataFrame) -> pd.Series:
    """The event that speaks most for the item."""
    return seen.sort_values("leave_one_out", ascending=False, kind="stable").iloc[0]


def _finding(seen: pd.DataFrame, title: str) -> str:
    best = _best(seen)
    value = float(best["leave_one_out"])
    if value <= 0:
        without = "likelier" if value < 0 else "as likely or likelier"
        return (
            f"No event speaks for {theme.short(title, LONG)}: without any of them it is {without}"
        )
    rank = int((seen["attention"] > best["attention"]).sum()) + 1
    return (
        f"“{theme.short(str(best['title']), LONG)}” speaks most for it: {value:.2f} nats; "
        f"attention has that event at place {rank} of {len(seen)}"
    )


def _how(seen: pd.DataFrame) -> str:
    best = _best(seen)
    return (
        "Leave one out: ln p(item | all events) − ln p(item | without this one), the model run "
        f"again with the event masked wherever it stands; largest {best['leave_one_out']:+z.3f}. "
        "Attention: weights of the decoder onto the event's states, mean over heads, layers and "
        "codes; the states have read one another by then, so it says where the model looked. Input "
        "× gradient: Σ e·∂ln p/∂e at the event's embedding, a straight line through one point. "
        f"Rank correlation with leave-one-out over {theme.count(len(seen), 'event')}: attention "
        f"{_agreed(seen, 'attention')}, gradient {_agreed(seen, 'gradient')}. A bar to the left "
        "speaks against the item."
    )


def deletion(curves: pd.DataFrame) -> go.Figure:
    """What is left of ln p after the first events of each order are deleted."""
    if curves.empty or not curves["deleted"].any():
        return theme.nothing("No events to delete.", ADD, "deletion")
    area = curves.groupby("method")["log_prob"].mean()
    start = float(curves[curves["deleted"] == 0]["log_prob"].iloc[0])
    best = str(area.idxmin())
    fig = theme.figure(
        title=_deletion_finding(area, best),
        alt="Lines of ln p after deleting events: "
        + "; ".join(f"{NAMES[str(name)]} {value:.2f} on average" for name, value in area.items()),
        how="The events that a method holds for the most important are masked one after the other, "
        f"the model is run again each time. ln p begins at {start:.3f}. The lower a curve, the "
        "better the method finds what matters. Random is the mean of eight orders. "
        + "; ".join(f"{NAMES[str(name)]}: mean {value:.3f}" for name, value in area.items()),
        x="events deleted",
        y="ln p of the item",
        key="deletion",
        height=400,
    )
    for index, method in enumerate(name for name in NAMES if name in area.index):
        part = curves[curves["method"] == method]
        fig.add_scatter(
            x=part["deleted"],
            y=part["log_prob"],
            name=NAMES[method],
            mode="lines+markers",
            line=theme.line(index),
            marker={"symbol": theme.SYMBOLS[index], "size": 6},
            hovertemplate="%{x} deleted: ln p = %{y:.3f}<extra>" + NAMES[method] + "</extra>",
        )
    fig.update_layout(margin_b=120)
    return fig


def _deletion_finding(area: pd.Series, best: str) -> str:
    """Which order costs most, beside a random one."""
    said = f"Deleting what {NAMES[best]} names first costs most"
    if best in ("random", "recent"):
        said = f"Deleting {NAMES[best]} costs most"
    said += f": ln p is {area[best]:.2f} on average"
    if best == "random":
        return said + ", lower than by any method"
    return said + (f", {area['random']:.2f} {NAMES['random']}" if "random" in area else "")


def codes(frame: pd.DataFrame, title: str = "this item") -> go.Figure:
    """Each code of an item beside the most probable others of its level."""
    if frame.empty:
        return theme.nothing("No codes.", AGAIN, "steps")
    chosen = frame[frame["chosen"]]
    hardest = chosen.sort_values("probability", kind="stable").iloc[0]
    share = theme.chance(float(chosen["probability"].min()))
    product = float(np.prod(chosen["probability"].to_numpy()))
    fig = theme.figure(
        title=f"Level {hardest['level']} decides: its code had {share}, place {hardest['rank']} "
        "among all codes",
        alt="Bars of probability by level: "
        + "; ".join(
            f"level {r['level']}: code {r['code']} {r['probability']:.3f}"
            for r in chosen.to_dict("records")
        ),
        how="p(code | codes before it, user), over all codes of the level. The item: "
        + " × ".join(f"{value:.4f}" for value in chosen["probability"])
        + f" = {product:.5f} for {plain.text(title)}. ✓ is its code, ✗ a code that no item has "
        "after these.",
        x="probability",
        height=120 + 24 * len(frame),
        key="steps",
        legend=False,
    )
    ranked = frame.sort_values(["level", "probability"], ascending=[True, False], kind="stable")
    records = ranked.to_dict("records")
    fig.add_bar(
        x=ranked["probability"],
        y=[[f"level {r['level']}" for r in records], [_label(r) for r in records]],
        orientation="h",
        marker={
            "color": [
                theme.BLUE if r["chosen"] else theme.GREY if r["legal"] else theme.ORANGE
                for r in records
            ],
            "pattern": {
                "shape": ["" if r["chosen"] else "/" if r["legal"] else "x" for r in records]
            },
        },
        customdata=ranked[["code", "rank"]],
        hovertemplate="code %{customdata[0]}: p = %{x:.4f}, place %{customdata[1]}<extra></extra>",
    )
    fig.update_yaxes(autorange="reversed")
    return fig


def _label(row: dict[object, object]) -> str:
    mark = "✓ " if row["chosen"] else "" if row["legal"] else "✗ "
    return f"{mark}{row['code']}"
