"""The path from data to lists as a picture: seven boxes with a run's numbers and state.

It takes `explain.overview.stages`. It is SVG and not a Plotly figure because it is the first thing
that a visitor sees: a browser draws it at once, where Plotly first loads 4.7 MB of JavaScript.
"""

from __future__ import annotations

import textwrap
from collections.abc import Hashable
from html import escape
from typing import Any

import pandas as pd

from onerec.viz import theme

GAP = 16  # between two boxes, in the picture's own units
BOX, HEIGHT = 144, 152  # side by side
TALL_BOX, TALL_HEIGHT = 340, 118  # one below the other
_ROOM = BOX - 16  # for the text of a box

_STATES = {
    "done": (theme.GREEN, "", "✓"),
    "running": (theme.BLUE, "", "▶"),
    "paused": (theme.GOLD, "8 5", "‖"),
    "waiting": (theme.GREY, "2 4", "…"),
}
_TROUBLE = (theme.ORANGE, "8 5", "!")


def pipeline(stages: pd.DataFrame, vertical: bool = False) -> theme.Picture:
    """The stages side by side, or one below the other for a narrow page."""
    done = int((stages["state"] == "done").sum())
    finding = (
        "Every stage is done" if done == len(stages) else f"{done} of {len(stages)} stages are done"
    )
    recall = stages.loc[stages["stage"] == "evaluate", "headline"]
    if len(recall) and recall.iloc[0] != "not yet":
        finding += f": {recall.iloc[0]}"
    rows = stages.to_dict("records")
    spoken = "; ".join(_spoken(row) for row in rows)
    wide, high = (TALL_BOX, TALL_HEIGHT) if vertical else (BOX, HEIGHT)
    step = (0, high + GAP) if vertical else (wide + GAP, 0)
    width = 4 + wide + step[0] * (len(rows) - 1)
    height = 4 + high + step[1] * (len(rows) - 1)
    parts = [_box(row, 2 + i * step[0], 2 + i * step[1], wide, high) for i, row in enumerate(rows)]
    for i in range(1, len(rows)):
        x, y = 2 + i * step[0], 2 + i * step[1]
        parts.append(_arrow(x + wide / 2, y, down=True) if vertical else _arrow(x, y + high / 2))
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" font-family="system-ui, sans-serif" text-anchor="middle">'
        f"<title>{escape(finding)}</title>{''.join(parts)}</svg>"
    )
    meta = {
        "title": finding,
        "alt": f"The stages of the run, in order: {spoken}",
        "how": "Numbers of dataset.json, tokenizer/report.json, metrics.jsonl and evaluate.json of "
        f"this run: {spoken}",
    }
    return theme.Picture(meta, svg)


def _box(row: dict[Hashable, Any], x: float, y: float, wide: float, high: float) -> str:
    """One stage: border and sign by state, its name, its number, what stands behind it."""
    colour, dash, sign = _STATES.get(str(row["state"]), _TROUBLE)
    middle = x + wide / 2
    details = textwrap.wrap(str(row["detail"]), 19 if wide == BOX else 44)[:3]
    headline = str(row["headline"])
    large = min(17.0, _ROOM / max(1, len(headline)) / 0.56)  # a long headline is set smaller
    lines = [_text(middle, y + 28, str(row["label"]), 14)]
    lines.append(_text(middle, y + 54, headline, large, bold=True))
    lines += [_text(middle, y + 78 + 17 * i, line, 13) for i, line in enumerate(details)]
    lines.append(_text(middle, y + high - 14, f"{sign} {row['state']}", 13))
    border = f'stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"'
    frame = f'x="{x}" y="{y}" width="{wide}" height="{high}" rx="8"'
    return f'<rect {frame} fill="{colour}" fill-opacity="0.14" {border}/>' + "".join(lines)


def _text(x: float, y: float, text: str, size: float, bold: bool = False) -> str:
    weight = ' font-weight="700"' if bold else ""
    return (
        f'<text x="{x}" y="{y}" font-size="{size:.1f}"{weight} fill="currentColor">'
        f"{escape(text)}</text>"
    )


def _arrow(x: float, y: float, down: bool = False) -> str:
    """An arrow that ends at (x, y) and fills the gap between two boxes."""
    turn = f' transform="rotate(90 {x} {y})"' if down else ""
    tail, neck = x - GAP + 3, x - 9
    return (
        f'<g{turn} fill="{theme.GREY}" stroke="{theme.GREY}" stroke-width="2">'
        f'<path d="M{tail} {y}H{neck}"/><path d="M{x - 3} {y}l-7 -5v10z" stroke="none"/></g>'
    )


def _spoken(row: dict[Hashable, Any]) -> str:
    detail = f" ({row['detail']})" if row["detail"] else ""
    return f"{row['label']}: {row['headline']}{detail}, {row['state']}"
