"""The beam as a tree over the trie: what was kept, what fell out, what leads to no item.

Takes the table of `onerec.explanation.tree`. States differ by mark, by line and by the words at the
right edge, and only then by colour.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from onerec.viz import theme

LOOK = {
    "kept": (theme.BLUE, "solid", "circle", "kept"),
    "seen": (theme.PINK, "dashdot", "diamond-open", "seen before, left out"),
    "below": (theme.GREY, "dash", "circle-open", "an item below the list"),
    "pruned": (theme.GREY, "dash", "square-open", "fell out of the beam"),
    "illegal": (theme.ORANGE, "dot", "x-thin-open", "leads to no item"),
}
ENDED = ("below", "pruned", "illegal")
ROW = 32  # pixels of a branch, whose words may take two lines

Prefix = tuple[int, ...]
Row = dict[Any, Any]  # of the table


def beam_tree(frame: pd.DataFrame, titles: Mapping[int, str], top: int = 8) -> go.Figure:
    """The first `top` leaves of the list with all that leads to them, and the branches that did
    not get there.

    customdata[0] of a leaf is its item.
    """
    if frame.empty:
        return theme.nothing("No search yet.", "Generate a list first.", "beam_tree")
    frame = frame.assign(state=_states(frame))
    rows = _shown(frame, top)
    slots = _slots(rows)
    depth = max(map(len, rows))
    fig = theme.figure(
        title=_finding(frame),
        alt="A tree of code prefixes, level by level. "
        + "; ".join(_words(row, titles) for row in rows.values() if _ends(row, depth)),
        how=_how(frame),
        x="level",
        height=110 + ROW * len(set(slots.values())),
        key="beam_tree",
    )
    _leaders(fig, rows, slots, depth)
    for state in LOOK:
        _branches(fig, rows, slots, state, titles, depth)
    ends = {slots[prefix]: row for prefix, row in rows.items() if not _has_child(prefix, rows)}
    fig.update_yaxes(
        tickvals=list(ends),
        ticktext=[theme.wrapped(_words(row, titles, 44), 34) for row in ends.values()],
        side="right",
        showgrid=False,
        range=[max(slots.values()) + 0.7, -0.7],
    )
    fig.update_xaxes(
        tickvals=list(range(depth + 1)),
        ticktext=["start", *(str(level) for level in range(1, depth + 1))],
        range=[-0.15, depth + 0.12],
    )
    fig.update_layout(margin_l=16, margin_b=92)
    return fig


def _states(frame: pd.DataFrame) -> pd.Series[str]:
    """The states as they are drawn: what the list left out, and what would come after its end."""
    below = frame["state"].eq("pruned") & frame["level"].eq(frame["level"].max())
    return frame["state"].mask(frame["seen"], "seen").mask(below, "below")


def _shown(frame: pd.DataFrame, top: int) -> dict[Prefix, Row]:
    """Rows by prefix: the first leaves, what did not get through, and the ancestors of both."""
    known = {tuple(row["codes"]): row for row in frame.to_dict("records")}
    last = int(frame["level"].max())
    chosen = [prefix for prefix, row in known.items() if row["state"] in ENDED]
    for state in ("kept", "seen"):
        leaves = [p for p, row in known.items() if row["state"] == state and row["level"] == last]
        chosen += leaves[:top]  # best first
    wanted = {prefix[:length] for prefix in chosen for length in range(1, len(prefix) + 1)}
    return {prefix: row for prefix, row in known.items() if prefix in wanted}


def _slots(rows: Mapping[Prefix, Row]) -> dict[Prefix, float]:
    """The height of each prefix, the root () too: ends one below the other, parents between."""
    order = {state: place for place, state in enumerate(LOOK)}
    children: dict[Prefix, list[Prefix]] = {}
    for prefix in rows:
        children.setdefault(prefix[:-1], []).append(prefix)
    slots: dict[Prefix, float] = {}

    def place(prefix: Prefix) -> float:
        below = sorted(
            children.get(prefix, []),
            key=lambda child: (order[rows[child]["state"]], -rows[child]["log_prob"]),
        )
        if below:
            heights = [place(child) for child in below]
            slots[prefix] = (heights[0] + heights[-1]) / 2
        else:
            slots[prefix] = float(next(ends))
        return slots[prefix]

    ends = iter(range(len(rows) + 1))
    place(())
    return slots


def _branches(
    fig: go.Figure,
    rows: Mapping[Prefix, Row],
    slots: Mapping[Prefix, float],
    state: str,
    titles: Mapping[int, str],
    depth: int,
) -> None:
    """The lines and marks of one state."""
    colour, dash, symbol, name = LOOK[state]
    own = [prefix for prefix, row in rows.items() if row["state"] == state]
    if not own:
        return
    x: list[float | None] = []
    y: list[float | None] = []
    for prefix in own:
        x += [len(prefix) - 1, len(prefix) - 0.5, len(prefix), None]
        y += [slots[prefix[:-1]], slots[prefix], slots[prefix], None]
    fig.add_scatter(
        x=x,
        y=y,
        mode="lines",
        line={"color": colour, "dash": dash, "width": 1.5},
        hoverinfo="skip",
        showlegend=False,
    )
    inner = [_has_child(prefix, rows) for prefix in own]
    fig.add_scatter(
        x=[len(prefix) for prefix in own],
        y=[slots[prefix] for prefix in own],
        mode="markers+text",
        name=name,
        marker={
            "color": colour,
            "symbol": symbol,
            "size": 9,
            "line": {"width": 2, "color": colour},
        },
        text=[f"{p[-1]}" if has else "" for p, has in zip(own, inner, strict=True)],
        textposition="top center",
        textfont={"size": 11},
        unselected={"marker": {"opacity": 1}},  # who is clicked says so under Why
        customdata=[
            [rows[p]["item"], "-".join(map(str, p)), theme.drawn(_words(rows[p], titles))]
            for p in own
        ],
        hovertemplate="codes %{customdata[1]}<br>%{customdata[2]}<extra>" + name + "</extra>",
        cliponaxis=False,
    )


def _leaders(
    fig: go.Figure, rows: Mapping[Prefix, Row], slots: Mapping[Prefix, float], depth: int
) -> None:
    """Thin lines from ends that lie further left to their words."""
    x: list[float | None] = []
    y: list[float | None] = []
    for prefix in rows:
        if len(prefix) < depth and not _has_child(prefix, rows):
            x += [len(prefix), depth + 0.12, None]
            y += [slots[prefix], slots[prefix], None]
    line = {"color": theme.GRID, "width": 1}
    fig.add_scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", showlegend=False)


def _has_child(prefix: Prefix, rows: Mapping[Prefix, Row]) -> bool:
    return any(other[:-1] == prefix for other in rows)


def _ends(row: Row, depth: int) -> bool:
    return bool(row["state"] != "kept" or row["level"] == depth)


def _words(row: Row, titles: Mapping[int, str], characters: int = 200) -> str:
    """What stands at the end of a branch."""
    chance = theme.chance(float(row["probability"]))
    if row["state"] == "pruned":
        return f"code {row['code']} fell out, {chance}"
    if row["state"] == "illegal":
        return f"code {row['code']} is no item, {chance}"
    if row["item"] < 0:
        return f"code {row['code']}, {chance}"
    title = theme.short(str(titles.get(row["item"], row["item_id"])), characters)
    if row["state"] == "below":
        return f"below the list: {title}, {chance}"
    if row["state"] == "seen":
        return f"seen: {title}, {chance}"
    more = f" and {row['items'] - 1} more" if row["items"] > 1 else ""
    return f"{row['place']}. {title}{more}, {chance}"


def _finding(frame: pd.DataFrame) -> str:
    last = frame[frame["level"] == frame["level"].max()]
    kept, seen = (last[last["state"] == state]["probability"] for state in ("kept", "seen"))
    if not len(kept):
        why = "what it found was seen before" if len(seen) else "it found no item"
        return f"The search leaves nothing for the list: {why}"
    lost = frame[frame["state"].isin(["pruned", "below"])].groupby("level")["lost"].sum()
    leaves = theme.count(len(kept), "leaf", "leaves")
    have = "has" if len(kept) == 1 else "have"
    text = f"The {leaves} of the list {have} {theme.chance(kept.sum())} of the probability"
    if len(seen):
        text += f"; items seen before, {theme.chance(seen.sum())}, are left out"
    if lost.sum() > 0:
        last_level = lost.idxmax() == frame["level"].max()
        where = "is items below it" if last_level else f"fell out at level {lost.idxmax()}"
        text += f"; most of the rest, {theme.chance(float(lost.max()))}, {where}"
    return text


def _how(frame: pd.DataFrame) -> str:
    lines = []
    for level, part in frame.groupby("level"):
        kept = int(part["state"].isin(["kept", "seen"]).sum())
        pruned, illegal = (
            theme.chance(float(part.loc[part["state"].isin(states), "lost"].sum()))
            for states in (["pruned", "below"], ["illegal"])
        )
        word = "below the list" if level == frame["level"].max() else "pruned"
        lines.append(f"level {level}: {kept} kept, {pruned} {word}, {illegal} illegal")
    return (
        "The number at a mark is a code; p(prefix) is the product of the probabilities of its "
        "codes, over all codes, not only legal ones. At each level the most probable legal "
        "prefixes are kept, at the last as many leaves as the list needs. "
        + "; ".join(lines)
        + ". "
        "What was kept at the end, seen before or not, what is below the list, what was pruned "
        "and what is illegal add up to 1."
    )
