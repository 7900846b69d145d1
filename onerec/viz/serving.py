"""Pictures of what is recommended: the codes of a list, what speaks for an item, the metrics.

Each takes the frame of the function of the same name in `onerec.explain.serving`.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from onerec.viz import theme
from onerec.viz.code_space import shared_words

LONG = 80  # characters of a title in a sentence above a picture
RECOMMEND = "Make lists with: onerec recommend --run NAME"
EVALUATE = "Measure with: onerec evaluate --run NAME"
# The two ends of every result on the world, and the policy before alignment: no rivals.
ENDS = ("random", "oracle", "onerec_pretrained")


def code_log_probs(frame: pd.DataFrame) -> go.Figure:
    """Each item of a list as a bar of its codes' surprise (-ln p); shorter is likelier.

    customdata[0] of a bar is the item, customdata[1] its code.
    """
    if frame.empty:
        return theme.nothing("No list with code probabilities.", RECOMMEND, "code_log_probs")
    totals = frame.groupby(["rank", "title"])["log_prob"].sum().reset_index()
    first = totals.iloc[0]
    means = -frame.groupby("level")["log_prob"].mean()
    hardest, parts = means.idxmax(), frame[frame["rank"] == frame["rank"].min()]
    likely = theme.chance(np.exp(first["log_prob"]))
    fig = theme.figure(
        title=f"The codes of the first item have probability {likely}; "
        f"level {hardest} is the least certain ({means.max():z.2f} nats on average)",
        alt="Stacked bars of -ln p per code for each recommended item: "
        + "; ".join(
            f"{r['rank']}. {r['title']}: {-r['log_prob']:z.2f} nats"
            for r in totals.to_dict("records")
        ),
        how="ln p(item) = Σ over levels of ln p(code | codes before it, user), not renormalised by "
        "the trie; items that have all codes in common share it. First item: "
        + " + ".join(f"({value:.3f})" for value in parts["log_prob"])
        + f" = {first['log_prob']:.3f}, e^{first['log_prob']:.3f} = "
        f"{np.exp(first['log_prob']):.4f}.",
        x="-ln p in nats, all levels",
        height=150 + 36 * len(totals),
        key="code_log_probs",
    )
    for index, (level, part) in enumerate(frame.groupby("level")):
        fig.add_bar(
            x=-part["log_prob"],
            y=[_label(r) for r in part.to_dict("records")],
            name=f"level {level}",
            orientation="h",
            marker={
                "color": theme.COLOURS[index % 8],
                "pattern": {"shape": theme.PATTERNS[index % 8]},
            },
            customdata=part[["item", "code", "probability", "title"]].assign(
                title=part["title"].map(theme.drawn)
            ),
            hovertemplate="%{customdata[3]}<br>code %{customdata[1]}: p = %{customdata[2]:.4f}, "
            "-ln p = %{x:.3f}<extra>" + f"level {level}" + "</extra>",
        )
    fig.update_layout(barmode="stack")
    fig.update_yaxes(autorange="reversed")
    return fig


def why(frame: pd.DataFrame, title: str = "this item") -> go.Figure:
    """The history items nearest to a recommended one."""
    if frame.empty:
        return theme.nothing("No history to compare with.", RECOMMEND, "why")
    best = frame.iloc[0]
    shared = int(best["shared_prefix"])
    codes = {0: "no code", 1: "its first code"}.get(shared, f"its first {shared} codes")
    fig = theme.figure(
        title=f"The past item nearest to {theme.short(title, LONG)} is "
        f"“{theme.short(str(best['title']), LONG)}”, which shares {codes}",
        alt="Bars of the cosine of past items: "
        + "; ".join(
            f"{r['title']}: cosine {r['cosine']:.2f}, {shared_words(r['shared_prefix'])}"
            for r in frame.to_dict("records")
        ),
        how="cosine = v_i·v_j / (|v_i||v_j|) of the vectors that were quantised; first "
        f"{best['cosine']:.3f}. Sorted by shared leading codes, then cosine. Nearness is a hint, "
        "not the cause.",
        x="cosine of the vectors",
        height=120 + 36 * len(frame),
        key="why",
        legend=False,
    )
    fig.add_bar(
        x=frame["cosine"],
        y=[theme.wrapped(f"#{r['position']} {r['title']}", 32) for r in frame.to_dict("records")],
        orientation="h",
        marker={
            "color": [theme.BLUE if n else theme.GREY for n in frame["shared_prefix"]],
            "pattern": {"shape": ["" if n else "/" for n in frame["shared_prefix"]]},
        },
        customdata=frame[["item", "title"]].assign(title=frame["title"].map(theme.drawn)),
        hovertemplate="%{customdata[1]}: cosine %{x:.3f}<extra></extra>",
        showlegend=False,
        text=[shared_words(n) for n in frame["shared_prefix"]],
        textposition="outside",
        cliponaxis=False,
    )
    ends = [*frame["cosine"], 0.0]
    room = 0.4 * (max(ends) - min(ends)) or 1.0  # for the words behind a bar
    fig.update_xaxes(range=[min(ends) - room * (min(ends) < 0), max(ends) + room])
    fig.update_yaxes(autorange="reversed")
    return fig


def metric_bars(metrics: pd.DataFrame, metric: str = "recall@10") -> go.Figure:
    """One metric of all models of a run, with its interval where there is one."""
    part = metrics[metrics["metric"] == metric] if len(metrics) else metrics
    if part.empty or part["value"].isna().all():
        return theme.nothing(f"No {metric} yet.", EVALUATE, f"bars-{metric}")
    part = part[part["value"].notna()].sort_values("value", ascending=False).reset_index(drop=True)
    fig = theme.figure(
        title=finding(part, metric),
        alt=f"Bars of {metric}: " + "; ".join(_with_interval(r) for r in part.to_dict("records")),
        how=f"{metric}, mean over the evaluated users, full ranking of all items; the whiskers are "
        "the 95% bootstrap interval over users. "
        + "; ".join(_with_interval(r) for r in part.to_dict("records")),
        x=metric,
        height=110 + 40 * len(part),
        key=f"bars-{metric}",
        legend=False,
    )
    theme.add_bars(
        fig,
        [theme.model_name(name) for name in part["model"]],
        part,
        horizontal=True,
        marker={
            "color": [theme.model_colour(name) for name in part["model"]],
            "pattern": {"shape": ["/" if name in ENDS else "" for name in part["model"]]},
        },
        customdata=part[["model"]],
        hovertemplate="%{y}: %{x:.4f}<extra></extra>",
    )
    fig.update_layout(barmode="overlay")
    for row in part.to_dict("records"):
        end = row["high"] if row["high"] == row["high"] else row["value"]
        fig.add_annotation(
            x=end,
            y=theme.model_name(str(row["model"])),
            text=f"{row['value']:.4f}",
            showarrow=False,
            xanchor="left",
            xshift=6,
        )
    top = float(part[["value", "high"]].max().max())
    fig.update_xaxes(range=[0, max(top, 1e-9) * 1.18])
    fig.update_yaxes(autorange="reversed")
    return fig


def finding(part: pd.DataFrame, metric: str) -> str:
    """Who leads, over whom, and whether the intervals can tell them apart."""
    rivals = part[~part["model"].isin(ENDS)].reset_index(drop=True)
    if len(rivals) < 2:
        only = (rivals if len(rivals) else part).iloc[0]
        return f"{metric} of {theme.model_name(only['model'])} is {only['value']:.4f}"
    first, second = rivals.iloc[0], rivals.iloc[1]
    if f"{first['value']:.4f}" == f"{second['value']:.4f}":
        names = f"{theme.model_name(first['model'])} and {theme.model_name(second['model'])}"
        return theme.sentence(f"{names} are level: {metric} {first['value']:.4f}")
    text = f"{theme.model_name(first['model'])} leads: {metric} {first['value']:.4f} against "
    text += f"{second['value']:.4f} of {theme.model_name(second['model'])}"
    if second["value"] > 0:
        text += f" ({theme.percent(first['value'] / second['value'] - 1)} more)"
    if first["low"] <= second["high"]:
        text += "; the intervals overlap, so it may be chance"
    return theme.sentence(text)


def worth_finding(worth: pd.DataFrame) -> str:
    """What alignment did to the worth of the first ten, or how OneRec stands without it."""
    by = "true_long_view" if "true_long_view" in worth else "p_score"
    words = {"true_long_view": "true share of long views", "p_score": "P-Score"}[by]
    known = dict(zip(worth["model"], worth[by], strict=True))
    if "onerec" not in known:
        return theme.sentence(f"{words} of the first ten")
    after, before = known["onerec"], known.get("onerec_pretrained")
    if before:
        change = theme.percent(abs(after / before - 1))
        if change in ("0%", "0.0%"):
            return f"Alignment left the {words} of the first ten at {after:.3f}"
        moved = "raised" if after > before else "lowered"
        return f"Alignment {moved} the {words} of the first ten by {change}"
    return theme.sentence(f"{words} of OneRec's first ten: {after:.3f}")


def _with_interval(row: dict[object, object]) -> str:
    text = f"{theme.model_name(str(row['model']))} {row['value']:.4f}"
    return text if row["low"] != row["low"] else f"{text} [{row['low']:.4f}, {row['high']:.4f}]"


def _label(row: dict[object, object]) -> str:
    mark = "✓ " if row["hit"] else ""
    return theme.wrapped(f"{row['rank']}. {mark}{row['title']}", 32)
