"""Pictures of the composer: one group's places before and after, and what the top items gain.

They take frames of `onerec.explain.composer`. Lines differ in dash as well as in colour; a square
marks an item that the industrial rule touches.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from onerec.viz import theme

ALIGN = "Record steps with: onerec align --run NAME"
MOVES = (  # label, sign, look of a line
    ("rises", 1, {"color": theme.BLUE, "dash": "solid"}),
    ("falls", -1, {"color": theme.ORANGE, "dash": "dash"}),
    ("stays", 0, {"color": theme.GREY, "dash": "dot"}),
)


def ranks(frame: pd.DataFrame, user: int = 0, top: int = 10) -> go.Figure:
    """Places of one group's items before and after (`composed_group`); customdata[0] is a place.

    Those first in either order are drawn; what lies below the top stands on one line under it.
    """
    head = frame[frame["counted"] & (frame[["rank_before", "rank_after"]].min(axis=1) <= top)]
    if head.empty:
        return theme.nothing("No item of this group counts.", ALIGN, "ranks")
    after = head[head["rank_after"] <= top]
    new = int((after["rank_before"] > top).sum())
    first = after.iloc[0]
    kept = "keeps the first place" if first["rank_before"] == 1 else "is first now, was number "
    kept += "" if first["rank_before"] == 1 else f"{first['rank_before']}"
    fig = theme.figure(
        title=f"User {user}: {new} of the {len(after)} first are new; "
        f"{theme.short(_title(first))} {kept}",
        alt=f"Lines from the place before to the place after of {len(head)} items: "
        + "; ".join(
            f"{_title(r)} from {r['rank_before']} to {r['rank_after']}"
            for r in head.to_dict("records")
        ),
        how="The items of a group sorted by reward = Σ weight × part, times the industrial factor; "
        "left with the recorded weights, right with those above. First now: "
        f"{first['reward_before']:.4f} before, {first['reward_after']:.4f} after.",
        height=200 + 30 * top,
        key=f"ranks-{user}",
    )
    under = top + 1.5
    for label, sign, line in MOVES:
        part = head[np.sign(head["moved"]) == sign]
        for index, row in enumerate(part.to_dict("records")):
            fig.add_scatter(
                x=[0, 1],
                y=[at if at <= top else under for at in (row["rank_before"], row["rank_after"])],
                name=f"{label} ({len(part)})",
                legendgroup=label,
                showlegend=index == 0,
                mode="lines+markers",
                line=line | {"width": 2},
                marker={"size": 10, "symbol": "square" if row["touched"] else "circle"},
                customdata=[[row["place"], theme.drawn(_title(row)), row["rank_before"],
                             row["rank_after"], row["reward_before"], row["reward_after"]]] * 2,
                hovertemplate="%{customdata[1]}<br>place %{customdata[2]} → %{customdata[3]}, "
                "reward %{customdata[4]:.4f} → %{customdata[5]:.4f}<extra></extra>",
            )  # fmt: skip
    _label_ranks(fig, after, top, under, below=len(head) - len(after))
    return fig


def _label_ranks(
    fig: go.Figure, after: pd.DataFrame, top: int, under: float, *, below: int
) -> None:
    """Titles beside the right end, the places as ticks, and a name for the line below the top."""
    for row in after.to_dict("records"):
        fig.add_annotation(
            x=1.04, y=row["rank_after"], text=theme.label(_title(row), 30), showarrow=False,
            xanchor="left", font_size=12,
        )  # fmt: skip
    if below:
        fig.add_annotation(
            x=1.04, y=under, text=f"below the top {top}: {below}", showarrow=False, xanchor="left",
            font_size=12,
        )  # fmt: skip
    fig.update_xaxes(range=[-0.06, 2.3], tickvals=[0, 1], ticktext=["before", "after"])
    ticks = list(range(1, len(after) + 1))
    fig.update_yaxes(
        range=[under + 0.6, 0.4], showgrid=False, tickvals=[*ticks, under],
        ticktext=[*map(str, ticks), f">{top}"],
    )  # fmt: skip


def parts(frame: pd.DataFrame) -> go.Figure:
    """How the mean of each reward part over the top items changes (`composed_parts`)."""
    if frame.empty or frame["change"].isna().all():
        return theme.nothing("The top items have no reward to compare.", ALIGN, "parts")
    moved = frame[frame["change"].notna()]
    best, worst = (moved.loc[moved["change"].agg(end)] for end in ("idxmax", "idxmin"))
    calm = float(moved["change"].abs().max()) < 5e-4
    fig = theme.figure(
        title="No part changes: the first items are as good as before on each"
        if calm
        else "Over the first items " + _parts_finding(best, worst),
        alt="Bars of the change of each part's mean: "
        + "; ".join(
            f"{words(r['part'])} from {r['before']:.4g} to {r['after']:.4g}"
            for r in moved.to_dict("records")
        ),
        how="The mean of a part over the first items of all groups, with the recorded weights and "
        "with those above; the bar is after / before - 1: "
        + "; ".join(
            f"{words(r['part'])}: {r['after']:.4g} / {r['before']:.4g} - 1 = {r['change']:+z.1%}"
            for r in moved.to_dict("records")
        ),
        x="change of the mean over the first items",
        height=120 + 36 * len(moved),
        key="reward-parts",
    )
    for label, chosen, colour, pattern in (
        ("in the reward", moved["weight_after"] > 0, theme.BLUE, ""),
        ("only measured, weight 0", moved["weight_after"] == 0, theme.GREY, "/"),
    ):
        part = moved[chosen]
        fig.add_bar(
            x=part["change"],
            y=[words(name) for name in part["part"]],
            orientation="h",
            name=label,
            marker={"color": colour, "pattern": {"shape": pattern}},
            text=[f"{change:+z.1%}" for change in part["change"]],
            customdata=part[["before", "after"]].to_numpy().tolist(),
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{y}: %{customdata[0]:.4g} → %{customdata[1]:.4g}<extra></extra>",
        )
    order = [words(name) for name in moved["part"]]
    fig.update_yaxes(categoryorder="array", categoryarray=order[::-1])
    reach = max(0.01, float(moved["change"].abs().max()))
    fig.update_xaxes(tickformat="+.0%" if reach > 0.05 else "+.1%", nticks=6,
                     range=[-1.6 * reach, 1.6 * reach])  # fmt: skip
    fig.add_vline(x=0, line={"color": theme.GREY, "width": 1})
    return fig


def _parts_finding(best: pd.Series, worst: pd.Series) -> str:
    """The ends of the changes, without one that reads as none."""
    ends = (best, worst)[: 1 + (best["part"] != worst["part"])]
    moved = [row for row in ends if abs(row["change"]) >= 5e-4]
    said = ", ".join(
        f"{words(row['part'])} {'gains' if row['change'] > 0 else 'loses'} "
        f"{theme.percent(abs(row['change']), 1)}"
        for row in moved
    )
    if len(moved) == len(ends):
        return said
    return f"{said}, and no part {'loses' if moved[0]['change'] > 0 else 'gains'}"


def words(name: Any) -> str:
    """A reward part or behaviour as people write it."""
    text = str(name)
    return "P-Score" if text == "pscore" else text.replace("_", " ")


def _title(row: Any) -> str:
    return str(row["title"] or f"no item ({row['codes']})")
