"""One look for all figures: colours, fonts, and what every figure must say about itself.

A figure is made by `figure(...)` and carries in `layout.meta` its title (the finding, computed from
the data), an alternative text for those who do not see it, and how it was computed with the
current numbers. Backgrounds are transparent, so that one figure stands on light and dark pages.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import Any

import pandas as pd
import plotly.graph_objects as go

# Each has a contrast of at least 3:1 against white and against a dark page.
BLUE, ORANGE, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
GOLD, SKY, OLIVE, GREY = "#C58700", "#3D97CF", "#9A9100", "#7A7A7A"
COLOURS = (BLUE, ORANGE, GREEN, PINK, GOLD, SKY, OLIVE, GREY)
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "solid", "dash")
SYMBOLS = ("circle", "square", "diamond", "cross", "x", "triangle-up", "star", "hexagon")
PATTERNS = ("", "/", "x", ".", "-", "+", "|", "\\")
SEQUENTIAL = "cividis"
DIVERGING = ((0.0, "#0072B2"), (0.5, "#BDBDBD"), (1.0, "#D55E00"))
GRID = "rgba(128, 128, 128, 0.25)"
CLEAR = "rgba(0, 0, 0, 0)"
TITLE_CHARACTERS = 72
TICKS = 8  # at most, on a logarithmic axis of fine steps

_DRAWN = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "&#36;"})

_MODELS = (
    *("onerec", "sasrec", "item_knn", "popularity", "onerec_pretrained", "cascade", "oracle"),
    "random",
)
_NAMES = {
    "onerec": "OneRec",
    "onerec_pretrained": "OneRec before alignment",
    "sasrec": "SASRec",
    "item_knn": "item-KNN",
    "popularity": "popularity",
    "oracle": "oracle (the truth)",
    "random": "random list",
}


@dataclass(frozen=True)
class Picture:
    """A drawing that needs no Plotly: SVG whose text has the colour of the page it stands on."""

    meta: dict[str, str]  # title, alt, how: as a figure's layout.meta
    svg: str

    def inked(self, colour: str) -> str:
        """The SVG with this colour of text, for where it does not inherit one (as an image)."""
        return self.svg.replace("<svg ", f'<svg color="{colour}" ', 1)

    def _repr_html_(self) -> str:  # a notebook shows it, in its own colour of text
        return self.svg


def model_colour(name: str) -> str:
    """The colour of a model, the same in every figure."""
    return COLOURS[_MODELS.index(name) % len(COLOURS)] if name in _MODELS else GREY


def model_name(name: str) -> str:
    """A model as people write it."""
    return _NAMES.get(name, name)


def figure(
    *,
    title: str,
    alt: str,
    how: str,
    x: str = "",
    y: str = "",
    height: int = 360,
    key: str = "",
    legend: bool = True,
) -> go.Figure:
    """An empty figure with everything that all figures share.

    Args:
        title: the finding, in one sentence.
        alt: what a reader who cannot see it needs to know.
        how: Markdown: the formula with the current numbers.
        x, y: axis titles with units.
        key: names the figure; zoom and hidden traces live on while it stays the same.
        legend: whether there is one; it stands below the plot, where it may take several rows.
    """
    lines = textwrap.wrap(title, TITLE_CHARACTERS) or [""]
    fig = go.Figure()
    fig.update_layout(
        meta={"title": title, "alt": alt, "how": how},
        title={
            "text": "<br>".join(map(drawn, lines)),
            "x": 0,
            "xref": "container",
            "xanchor": "left",
        }
        | {
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "pad": {"t": 12 + 10 * (len(lines) > 1), "l": 12},
        }
        | {"font": {"size": 16}},
        height=height,
        margin={"l": 64, "r": 24, "t": 24 + 22 * len(lines), "b": 56},
        colorway=list(COLOURS),
        paper_bgcolor=CLEAR,
        plot_bgcolor=CLEAR,
        uirevision=key or "constant",
        showlegend=legend,
        legend={"orientation": "h", "x": 0, "xref": "container", "xanchor": "left"}
        | {"y": 0, "yref": "container", "yanchor": "bottom", "traceorder": "normal"},
        hoverlabel={"align": "left"},
        modebar={"bgcolor": CLEAR, "color": GREY, "activecolor": SKY},
        font={"size": 13},
    )
    axis: dict[str, Any] = {"gridcolor": GRID, "zeroline": False, "automargin": True}
    axis |= {"ticklabelstandoff": 4}
    label = {"standoff": 14, "font": {"size": 13}}
    fig.update_xaxes(title={"text": x, **label}, **axis)
    fig.update_yaxes(title={"text": y, **label}, **axis)
    return fig


def nothing(what: str, next_step: str, key: str = "") -> go.Figure:
    """The figure that stands where there is nothing to show yet: it says what to do."""
    fig = figure(
        title=what, alt=f"{what} {next_step}", how=next_step, height=200, key=key, legend=False
    )
    fig.update_xaxes(visible=False)
    fig.update_yaxes(visible=False)
    fig.add_annotation(
        text=next_step, showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper", font_size=14
    )
    return fig


def title(fig: go.Figure | Picture) -> str:
    """The finding, without line breaks."""
    return str(_meta(fig)["title"])


def alt_text(fig: go.Figure | Picture) -> str:
    """What the figure shows, in words."""
    return str(_meta(fig)["alt"])


def how(fig: go.Figure | Picture) -> str:
    """Markdown: how it is computed, with the current numbers."""
    return str(_meta(fig)["how"])


def _meta(fig: go.Figure | Picture) -> Any:
    return fig.meta if isinstance(fig, Picture) else fig.layout.meta


def untitled(fig: go.Figure) -> go.Figure:
    """A copy without its title, for a page that prints the title as text above (it wraps there)."""
    copy = go.Figure(fig)
    copy.update_layout(title=None, margin_t=16)
    return copy


def dark(fig: go.Figure) -> go.Figure:
    """A copy for a dark page outside the app (which brings its own text colours)."""
    copy = go.Figure(fig)
    copy.update_layout(template="plotly_dark", paper_bgcolor="#0E1117", plot_bgcolor="#0E1117")
    return copy


def line(index: int) -> dict[str, Any]:
    """Colour and dash of the index-th line: told apart without colour too."""
    return {"color": COLOURS[index % 8], "dash": DASHES[(index + index // 8) % 8], "width": 2}


def percent(share: float, digits: int = 0) -> str:
    """0.416 -> "42%", with a digit more where the value would read as 0 or 100."""
    if share != share:
        return "an unknown share"
    text = f"{100 * share:z.{digits}f}%"
    if digits == 0 and ((text == "0%" and share != 0) or (text == "100%" and share < 1)):
        return f"{100 * share:z.1f}%"
    return text


def chance(probability: float) -> str:
    """0.416 -> "41.6%", 0.0004 -> "0.04%"; below a millionth as a power: "0.0%" would say never."""
    if 0 < probability < 1e-3:
        return f"{100 * probability:.1g}%" if probability >= 1e-6 else f"{probability:.0e}"
    return percent(probability, 1) if probability else "0%"


def count(number: float, thing: str, things: str = "") -> str:
    """1, "item" -> "1 item"; 1200, "item" -> "1,200 items"."""
    text = f"{number:,.0f}"
    return f"{text} {thing if text == '1' else things or thing + 's'}"


def went(texts: Sequence[str]) -> str:
    """What became of a value, from its course as it is written: "went from 0.50 to 0.42"."""
    first, last = texts[0], texts[-1]
    if first != last:
        return f"went from {first} to {last}"
    if len(texts) == 1:
        return f"is {last}"
    return f"stayed at {last}" if set(texts) == {last} else f"ended where it began, at {last}"


def log_axis(
    least: float, greatest: float, shown: str = "{:,.12g}", scale: int = 1
) -> dict[str, Any]:
    """A logarithmic axis with plain numbers: 1, 2, 5, 10, ... over little range, else 1, 10, ...

    Args:
        least, greatest: the ends of what is drawn.
        shown: how the text of a tick is made of its number times `scale` (100 for percent).
    """
    greatest = greatest if greatest > 0 else 1.0
    least = least if 0 < least <= greatest else 1e-6 * greatest
    powers = range(floor(log10(least)), ceil(log10(greatest)) + 1)
    ticks: list[float] = []
    for steps in (range(1, 10), (1, 2, 5), (1,)):
        every = [float(f"{step}e{power}") for power in powers for step in steps]
        ticks = [tick for tick in every if (1 - 1e-9) * least <= tick <= (1 + 1e-9) * greatest]
        if len(ticks) <= TICKS:
            break
    if len(ticks) < 2:  # none or one of the plain numbers lies between them
        ticks = sorted({float(f"{end:.3g}") for end in (least, greatest)})
    ticks = ticks[:: 1 + (len(ticks) - 1) // (TICKS + 2)]
    text = [shown.format(scale * tick) for tick in ticks]
    return {"type": "log", "tickvals": ticks, "ticktext": text}


def add_lines(
    fig: go.Figure, x: Sequence[int], lines: pd.DataFrame, errors: pd.DataFrame | None = None
) -> None:
    """A line for each column over sizes that multiply: a logarithmic axis, a tick at each size.

    Args:
        errors: half the height of the whiskers, for the columns that have some.
    """
    for index, name in enumerate(lines.columns):
        whiskers = {} if errors is None or name not in errors else {"array": errors[name].tolist()}
        fig.add_scatter(
            x=list(x),
            y=lines[name],
            name=str(name),
            mode="lines+markers",
            line=line(index),
            marker={"symbol": SYMBOLS[index % 8], "size": 7},
            error_y=whiskers,
            hovertemplate="%{x:,}: %{y:.4g}",
        )
    fig.update_xaxes(type="log", tickvals=list(x), ticktext=[f"{size:,}" for size in x])


def add_bars(
    fig: go.Figure,
    positions: Sequence[str],
    values: pd.DataFrame,
    *,
    horizontal: bool = False,
    group: str = "all",
    **look: Any,
) -> None:
    """Bars with whiskers that can be seen on the bar and on both pages: dark with a light rim.

    Args:
        values: the columns value, low and high; without an interval low and high are NaN.
        group: bars of one group share a place among the groups of a position.
        look: further arguments of the bars.
    """
    across, along = ("y", "x") if horizontal else ("x", "y")
    whiskers = {
        "type": "data",
        "symmetric": False,
        "array": (values["high"] - values["value"]).fillna(0).tolist(),
        "arrayminus": (values["value"] - values["low"]).fillna(0).tolist(),
    }
    place = {across: list(positions), along: values["value"].tolist(), "offsetgroup": group}
    place |= {"orientation": "h" if horizontal else "v"}
    rim = whiskers | {"color": "#FFFFFF", "thickness": 5, "width": 8}
    core = whiskers | {"color": "#1A1A1A", "thickness": 2, "width": 7}
    fig.add_bar(**place, **{f"error_{along}": rim}, **look)
    fig.add_bar(
        **place,
        **{f"error_{along}": core},
        marker={"color": CLEAR},
        showlegend=False,
        hoverinfo="skip",
        selectedpoints=None,
    )


def sentence(text: str) -> str:
    """With a capital first letter: names of models and behaviours are written small."""
    return text[:1].upper() + text[1:]


def drawn(text: object) -> str:
    """Words of others (a title, a tag) so that Plotly draws them: `<b>` and $x$ as they stand.

    Where Markdown shows them, as in `how`, `plain.text` does that.
    """
    return str(text).translate(_DRAWN)


def short(text: str, characters: int = 28) -> str:
    """A label that fits; the whole text belongs in the hover."""
    return text if len(text) <= characters else text[: characters - 1].rstrip() + "…"


def wrapped(text: object, characters: int = 30) -> str:
    """Words of others as a label of two lines at most, drawn as they stand."""
    lines = textwrap.wrap(str(text), characters, break_on_hyphens=False)
    if len(lines) > 2:
        lines = [lines[0], short(" ".join(lines[1:]), characters)]
    return "<br>".join(map(drawn, lines))


def label(text: object, characters: int = 28) -> str:
    """Words of others as a label that fits, drawn as they stand."""
    return drawn(short(str(text), characters))
