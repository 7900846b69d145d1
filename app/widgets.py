"""What every page is made of: its head, a figure with everything that belongs to it, its states.

A figure comes with a finding as its title, alternative text, how it was computed, the same as a
table, as CSV and PNG, and the command and the notebook cell that make it again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cache
import links
import pandas as pd
import places
import selection
import streamlit as st
import tour
import words as meanings

from onerec import plain
from onerec.errors import OneRecError
from onerec.runs import Run
from onerec.viz import serving as draw_serving
from onerec.viz import theme

CHART = {"displaylogo": False, "toImageButtonOptions": {"format": "png", "scale": 2}}

MODELS = {
    "onerec": "The model of this run: it says the code words of the next item.",
    "onerec_pretrained": "The same model before rewards taught it: next-token training alone.",
    "popularity": "The same list for everybody: what is watched most.",
    "item_knn": "Items that were watched by the same people as those in the history.",
    "sasrec": "A transformer over the history that scores every item (Kang and McAuley, 2018).",
    "oracle": "It knows the true tastes in the built-in world: no model can do better.",
    "random": "Items drawn by lot: what knowing nothing gives.",
}
INK = {"light": "#3B424A", "dark": "#D8DCE0"}


def head(title: str, question: str, words: Sequence[str] = ()) -> selection.Selection:
    """The page's title, the question it answers, and what of the URL could not be followed.

    What `words` mean, see `words.TERMS`, is a click away.
    """
    st.title(title)
    st.markdown(question)
    meanings.shown(words)
    st.session_state["page_widgets"] = []
    tour.banner()
    view = selection.current()
    for notice in view.notices:
        st.warning(notice, icon=":material/link_off:")
    return view


def options(label: str, choices: Sequence[str], key: str, **settings: Any) -> str:
    """A choice of a few that lives in the URL; a wrong value falls back and says so."""
    if notice := selection.bad_parameter(label, key, choices, choices[0]):
        st.warning(notice, icon=":material/link_off:")
    st.session_state.setdefault("page_widgets", []).append(key)
    chosen = st.segmented_control(
        label, choices, default=choices[0], required=True, key=key, bind="query-params", **settings
    )
    return chosen if chosen in choices else choices[0]


def number(
    label: str, key: str, least: float, greatest: float, usual: float, step: float, note: str = ""
) -> Any:
    """A slider that lives in the URL; what does not fit falls back and says so.

    It gives an int where the four numbers are ints.
    """
    asked = st.query_params.get(key)
    try:
        fits = asked is None or least <= type(usual)(asked) <= greatest
    except ValueError:
        fits = False
    said = st.container()
    st.session_state.setdefault("page_widgets", []).append(key)
    value = st.slider(label, least, greatest, usual, step, key=key, bind="query-params",
                      help=note or None)  # fmt: skip
    if not fits:
        odd = isinstance(usual, int) and not str(asked).removeprefix("-").isdigit()
        why = f"{'no whole number' if odd else 'not'} from {least} to {greatest}"
        said.warning(selection.refused(label, asked, why, f"{value} is shown"),
                     icon=":material/link_off:")  # fmt: skip
    return value


def show(
    source: Run | Path,
    read: Callable[..., Any],
    draw: Callable[..., Any],
    *,
    key: str,
    command: str,
    reading: dict[str, Any] | None = None,
    drawing: dict[str, Any] | None = None,
    pick: Callable[[list[dict[str, Any]]], None] | None = None,
    lasso: bool = False,
    say: str = "",
    empty: str = "Nothing to draw yet.",
) -> pd.DataFrame:
    """Read (cached), draw, and place one figure; returns the table behind it.

    `pick` receives the points a person selects, in a callback, so it may change the selection;
    with `lasso` these may be many, or none again. `say` stands below the picture: how to read it.
    """
    reading, drawing = reading or {}, drawing or {}
    result = cache.read(read, source, **reading)
    parts = result if isinstance(result, tuple) else (result,)
    frame: pd.DataFrame = parts[0]
    if frame.empty:
        st.info(empty, icon=":material/hourglass_empty:")
        return frame
    figure = draw(*parts, **drawing)
    place(figure, key=key, pick=pick, lasso=lasso)
    if say:
        st.caption(say)
    belongings(
        figure, frame, key=key, command=command, cell=_cell(source, read, draw, reading, drawing)
    )
    return frame


def place(
    figure: Any, *, key: str, pick: Callable[..., None] | None = None, lasso: bool = False
) -> None:
    """The figure under its finding; selectable where `pick` is given."""
    st.markdown(f"**{plain.text(theme.title(figure))}**")
    alt = theme.alt_text(figure)
    drawn = _inked(theme.untitled(figure))
    if pick is None:
        st.plotly_chart(drawn, key=key, config=CHART, alt=alt)
        return

    def picked() -> None:
        points = st.session_state[key]["selection"]["points"]
        if points or lasso:
            pick(points)

    tools = CHART | {"displayModeBar": True} if lasso else CHART  # where the lasso is taken from
    st.plotly_chart(
        drawn, key=key, config=tools, alt=alt, on_select=picked,
        selection_mode=("points", "box", "lasso") if lasso else "points",
    )  # fmt: skip


def place_picture(picture: theme.Picture, *, width: int | str = "stretch") -> None:
    """A drawing of its own: it stands at once, Plotly's script need not be loaded for it."""
    st.image(picture.inked(_ink()), width=width, alt=theme.alt_text(picture))


def _ink() -> str:
    return INK.get(st.context.theme.type or "light", INK["light"])


def _inked(figure: Any) -> Any:
    """Text in the page's own colour: the grey of the chart theme is too faint to read."""
    ink = _ink()
    figure.update_layout(font_color=ink)
    figure.update_xaxes(tickfont_color=ink, title_font_color=ink)
    figure.update_yaxes(tickfont_color=ink, title_font_color=ink)
    figure.update_traces(unselected_textfont_color=ink, selector={"mode": "markers+text"})
    return figure


def belongings(figure: Any, frame: pd.DataFrame, *, key: str, command: str, cell: str) -> None:
    """How it is computed, the table, the CSV, the command and the notebook cell.

    They are made when they are opened: a table and highlighted code are heavy for a browser.
    """
    more = st.expander(
        "How it is computed · table · code", icon=":material/function:", key=f"{key}_more",
        on_change="rerun",
    )  # fmt: skip
    if not more.open:
        return
    how, table, code = more.tabs(["How it is computed", "Table", "Code"])
    how.markdown(theme.how(figure))
    table.dataframe(frame, hide_index=True, height=260, alt=f"Table of: {theme.title(figure)}")
    _download(table, "CSV", frame.to_csv(index=False), f"{key}.csv", "text/csv")
    if isinstance(figure, theme.Picture):
        _download(how, "Picture", figure.inked(INK["light"]), f"{key}.svg", "image/svg+xml")
    code.caption("In a terminal")
    code.code(command, language="bash", wrap_lines=True)
    code.caption("In a notebook")
    code.code(cell, language="python", wrap_lines=True)


def _download(place: Any, label: str, content: str, name: str, mime: str, **look: Any) -> None:
    place.download_button(
        label, content, name, mime, key=name, icon=":material/download:", on_click="ignore", **look
    )


def table(frame: pd.DataFrame, *, key: str, title: str, empty: str = "", **settings: Any) -> None:
    """A table that stands for itself, with its CSV; without a row, the words `empty` for it."""
    st.markdown(f"**{title}**")
    if frame.empty and empty:
        st.markdown(empty)
        return
    st.dataframe(frame, hide_index=True, alt=title, placeholder="–", **settings)
    _download(st, "CSV", frame.to_csv(index=False), f"{key}.csv", "text/csv", type="tertiary")


def numbers(metrics: pd.DataFrame, metric: str) -> None:
    """One metric of every model as figures, the best first, with what each model is."""
    part = metrics[metrics["metric"] == metric].sort_values("value", ascending=False)
    if part.empty:
        st.info(f"This run has no {metric}.", icon=":material/hourglass_empty:")
        return
    st.markdown(f"**{draw_serving.finding(part, metric)}**")
    with st.grid("auto", min_column_width=165):
        for row in part.to_dict("records"):
            known = row["low"] == row["low"]
            st.metric(
                theme.sentence(theme.model_name(row["model"])), f"{row['value']:.4f}", border=True,
                delta=f"95%: {row['low']:.3f} to {row['high']:.3f}" if known else None,
                delta_color="off", delta_arrow="off", help=MODELS.get(row["model"]),
            )  # fmt: skip


def worth(frame: pd.DataFrame) -> None:
    """What the first ten of each model's lists are worth, as a table with its finding."""
    st.markdown(
        "Recall looks back at what people were shown and watched. What would a list bring? The "
        "**reward model** guesses; the built-in world **knows**."
    )
    named = frame.assign(model=[theme.sentence(theme.model_name(name)) for name in frame["model"]])
    table(
        named, key="worth", title=draw_serving.worth_finding(frame),
        column_config={
            "model": "Model",
            "true_long_view": st.column_config.NumberColumn(
                "True long views", format="percent",
                help="The mean probability of a long view, of the first ten, by the world's truth",
            ),
            "true_play_s": st.column_config.NumberColumn(
                "True seconds an item", format="%.1f"
            ),
            "p_score": st.column_config.NumberColumn(
                "P-Score", format="%.4f", help="What the reward model thinks of the first ten"
            ),
        },
    )  # fmt: skip


def run_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The table of runs, with its columns in a reader's units."""
    number = st.column_config.NumberColumn(format="%.4f")
    frame = pd.DataFrame(rows).assign(
        started=lambda frame: pd.to_datetime(frame["started"], unit="ms")
    )
    table(
        frame, key="runs", title=f"{len(frame):,} run{'s' * (len(frame) != 1)}",
        column_config={
            "recall@10": number, "ndcg@10": number, "coverage@10": number,
            "started": st.column_config.DatetimeColumn(format="distance"),
        },
    )  # fmt: skip
    return frame


def needs_run(view: selection.Selection, stage: str | None = None) -> Run:
    """The selected run, or the empty state and the end of the page."""
    if view.run is None:
        st.info(
            "There is no run yet. Start one on the page **Train**: recipe `tiny` on the built-in "
            "world takes about a minute and a half on two cores.",
            icon=":material/model_training:",
            title="Nothing trained yet",
        )
        links.to("train", "Train a first run", "play_arrow")
        st.stop()
    if stage and not view.run.is_done(stage):
        status = view.run.status()
        st.info(
            f"Stage **{stage}** of run **{view.run_name}** is not done. The run: {status.state}"
            + (f", {status.stage}, step {status.step:,} of {status.of:,}." if status.of else "."),
            icon=":material/hourglass_top:",
            title="Not there yet",
        )
        links.to("train", "Watch or resume it", "monitoring")
        st.stop()
    return view.run


def needs_dataset(view: selection.Selection) -> Path:
    """The selected dataset, or the empty state and the end of the page."""
    if view.dataset is None:
        st.info(
            "Choose **Import** above for a CSV or Parquet file of your own. Or train on the "
            "built-in world of short videos: the first run makes it, as does "
            "`onerec data get world`.",
            icon=":material/database:",
            title="No data yet",
        )
        links.to("train", "Train on the built-in world", "play_arrow")
        st.stop()
    return view.dataset


def mistake(error: OneRecError) -> None:
    """One line that says what, where and what next."""
    st.error(str(error).replace("$", r"\$"), icon=":material/error:")


def _cell(
    source: Run | Path,
    read: Callable[..., Any],
    draw: Callable[..., Any],
    reading: dict[str, Any],
    drawing: dict[str, Any],
) -> str:
    module = read.__module__.rpartition(".")[2]
    look = draw.__module__.rpartition(".")[2]
    where = f"open_run({_named(source)!r})" if isinstance(source, Run) else f'Path("{source}")'
    first = (
        "from onerec.runs import open_run"
        if isinstance(source, Run)
        else "from pathlib import Path"
    )
    asked = "".join(f", {name}={value!r}" for name, value in reading.items())
    drawn = "".join(f", {name}={value!r}" for name, value in drawing.items())
    star = "*" if read.__name__ in ("projection", "umap") else ""
    return (
        f"{first}\nfrom onerec.explain import {module} as explain\n"
        f"from onerec.viz import {look} as viz\n\n"
        f"data = explain.{read.__name__}({where}{asked})\n"
        f"viz.{draw.__name__}({star}data{drawn})"
    )


def _named(run: Run) -> str:
    """A run's name where the library finds it by name, else the path of its folder."""
    return run.name if run.home.resolve() == places.home() else str(run.path)
