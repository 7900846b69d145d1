"""Pictures of a tokenizer: use of the codes, entropy, residuals, collisions, tree.

Each takes the frame of the function of the same name in `onerec.explain.tokens` (the first three
take `levels`). The pictures of the vectors themselves stand in `code_space`, and are named here.
"""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from onerec.viz import theme
from onerec.viz.code_space import TOKENIZE, neighbours, projection, residual_walk

__all__ = [
    "code_tree",
    "entropy",
    "leaf_sizes",
    "neighbours",
    "projection",
    "rank_frequency",
    "residual_walk",
    "residuals",
    "utilisation",
]


def utilisation(levels: pd.DataFrame) -> go.Figure:
    """Codes in use per level, and those that no item uses."""
    if levels.empty or levels["utilisation"].isna().all():
        return _nothing(levels, "how many codes are in use", "utilisation")
    dead, size = int(levels["dead_codes"].sum()), int(levels["size"].sum())
    worst = levels.iloc[int(levels["utilisation"].argmin())]
    finding = (
        f"All {size:,} codes are in use"
        if dead == 0
        else f"{size - dead:,} of {size:,} codes are in use; level {worst['level']:.0f} uses "
        f"{theme.percent(worst['utilisation'])}"
    )
    fig = theme.figure(
        title=finding,
        alt="Bars of used and unused codes per level: " + _listed(levels, "used", "size"),
        how="utilisation = codes that at least one item has / codes of the codebook: "
        + "; ".join(
            f"level {r['level']}: {r['used']}/{r['size']} = {r['utilisation']:.3f}"
            for r in levels.to_dict("records")
        ),
        y="codes",
        key="utilisation",
    )
    names = _level_names(levels)
    for name, column, colour, shape in (
        ("used", "used", theme.BLUE, ""),
        ("unused", "dead_codes", theme.ORANGE, "/"),
    ):
        fig.add_bar(
            x=names,
            y=levels[column],
            name=name,
            marker={"color": colour, "pattern": {"shape": shape}},
            text=levels[column],
            textangle=0,
            hovertemplate="%{x}: %{y:,} " + name + "<extra></extra>",
        )
    fig.update_layout(barmode="stack")
    return fig


def entropy(levels: pd.DataFrame) -> go.Figure:
    """Entropy of the codes per level against its bound ln N."""
    if levels.empty or levels["entropy_share"].isna().all():
        return _nothing(levels, "how evenly the codes are used", "entropy")
    low = levels.iloc[int(levels["entropy_share"].argmin())]
    fig = theme.figure(
        title=f"Codes are spread to at least {theme.percent(low['entropy_share'])} of the possible "
        f"entropy; the least even is level {low['level']:.0f}, worth "
        f"{low['perplexity']:,.0f} equal codes",
        alt="Bars of the entropy per level with a line at its bound: "
        + _listed(levels, "entropy_nats", "max_entropy_nats", digits=2),
        how="H = -Σ p ln p over the codes' shares p of the items, at most ln N; perplexity = e^H: "
        + "; ".join(
            f"level {r['level']}: H = {r['entropy_nats']:.3f} of ln {r['size']} = "
            f"{r['max_entropy_nats']:.3f}, e^H = {r['perplexity']:,.1f}"
            for r in levels.to_dict("records")
        ),
        y="entropy in nats",
        key="entropy",
    )
    names = _level_names(levels)
    fig.add_bar(
        x=names,
        y=levels["entropy_nats"],
        name="entropy",
        marker_color=theme.BLUE,
        text=[f"{value:.2f}" for value in levels["entropy_nats"]],
        textposition="inside",
        insidetextanchor="middle",
        customdata=levels["perplexity"],
        hovertemplate="%{x}: %{y:.3f} nats, perplexity %{customdata:,.1f}<extra></extra>",
    )
    fig.add_scatter(
        x=names,
        y=levels["max_entropy_nats"],
        name="bound ln N",
        mode="markers",
        marker={"symbol": "line-ew", "size": 44, "line": {"width": 3, "color": theme.ORANGE}},
        hovertemplate="%{x}: at most %{y:.3f} nats<extra></extra>",
    )
    fig.update_yaxes(rangemode="tozero")
    return fig


def residuals(levels: pd.DataFrame) -> go.Figure:
    """How much of the vectors' variance is explained after each level."""
    if levels.empty or levels["variance_explained"].isna().all():
        return _nothing(levels, "a share of the variance: the vectors do not vary", "residuals")
    first, last = levels.iloc[0], levels.iloc[-1]
    fig = theme.figure(
        title=f"{theme.percent(last['variance_explained'])} of the variance is explained by all "
        f"levels, {theme.percent(first['variance_explained'])} by the first alone",
        alt="A rising line of the variance explained after each level: "
        + ", ".join(f"{value:.1%}" for value in levels["variance_explained"]),
        how="1 - Σ|r|² / Σ|x - mean|², r the residual after the level: "
        + "; ".join(
            f"level {r['level']}: {r['variance_explained']:.3f}, root mean square |r| = "
            f"{r['residual_norm']:.3f}"
            for r in levels.to_dict("records")
        ),
        y="variance explained",
        key="residuals",
        legend=False,
    )
    fig.add_scatter(
        x=_level_names(levels),
        y=levels["variance_explained"],
        mode="lines+markers+text",
        text=[f"{value:.0%}" for value in levels["variance_explained"]],
        textposition="top center",
        cliponaxis=False,
        line={"color": theme.BLUE, "width": 3},
        marker_size=10,
        customdata=levels["residual_norm"],
        hovertemplate="%{x}: %{y:.1%}; residual norm %{customdata:.3f}<extra></extra>",
        showlegend=False,
    )
    fig.update_yaxes(tickformat=".0%", range=[min(0, levels["variance_explained"].min()), 1.08])
    return fig


def rank_frequency(frame: pd.DataFrame) -> go.Figure:
    """Items per code against the rank of the code, one line a level, both axes logarithmic."""
    if frame.empty:
        return theme.nothing("There are no semantic IDs yet.", TOKENIZE, "rank_frequency")
    top = frame.iloc[int(frame["items"].argmax())]
    heads = frame[frame["rank"] == 1]
    fig = theme.figure(
        title=f"The fullest code is {top['code']:.0f} of level {top['level']:.0f}, with "
        f"{top['items']:,.0f} items ({theme.percent(top['share'])})",
        alt="Falling lines of items per code by rank, one per level. Fullest codes: "
        + "; ".join(f"level {r['level']}: {r['items']:,} items" for r in heads.to_dict("records")),
        how="The codes of a level are sorted by the number of items that have them. A flat line "
        f"is an even use. Level {top['level']:.0f}: {top['items']:,.0f} items on code "
        f"{top['code']:.0f} = {top['share']:.4f} of all.",
        x="rank of the code",
        y="items with the code",
        key="rank_frequency",
    )
    for index, (level, part) in enumerate(frame.groupby("level")):
        few = len(part) <= 32
        fig.add_scatter(
            x=part["rank"],
            y=part["items"],
            name=f"level {level}",
            mode="lines+markers" if few else "lines",
            line=theme.line(index),
            marker={"symbol": theme.SYMBOLS[index % 8], "size": 7},
            customdata=part[["level", "code"]],
            hovertemplate="code %{customdata[1]}: %{y:,} items, rank %{x}<extra></extra>",
        )
    fig.update_xaxes(**theme.log_axis(1, int(frame["rank"].max())))
    fig.update_yaxes(**theme.log_axis(int(frame["items"].min()), int(frame["items"].max())))
    return fig


def leaf_sizes(frame: pd.DataFrame) -> go.Figure:
    """Items by how many share their full code."""
    if frame.empty:
        return theme.nothing("There are no semantic IDs yet.", TOKENIZE, "leaf_sizes")
    total, alone = frame["items"].sum(), frame.loc[frame["leaf_size"] == 1, "items"].sum()
    shared = total - alone
    fig = theme.figure(
        title="Every item has a name of its own"
        if shared == 0
        else f"{theme.percent(shared / total)} of the items share their name with another; at "
        f"most {frame['leaf_size'].max()} have the same",
        alt="Bars of items by the number of items that have their name: "
        + "; ".join(
            f"{r['leaf_size']} on a name: {r['items']:,} items"
            for r in frame.to_dict("records")[:12]
        ),
        how=f"Items grouped by their name, the codes of all levels. {shared:,} of {total:,} items "
        f"share theirs = {shared / total:.3f}. {frame['leaves'].sum():,} names are in use.",
        x="items that have the same name",
        y="items",
        key="leaf_sizes",
        legend=False,
    )
    fig.add_bar(
        x=frame["leaf_size"],
        y=frame["items"],
        marker={
            "color": [theme.BLUE if size == 1 else theme.ORANGE for size in frame["leaf_size"]],
            "pattern": {"shape": ["" if size == 1 else "/" for size in frame["leaf_size"]]},
        },
        customdata=frame["leaves"],
        hovertemplate="%{customdata:,} names with %{x} items each: %{y:,} items<extra></extra>",
        showlegend=False,
    )
    fig.update_xaxes(dtick=1 if frame["leaf_size"].max() <= 20 else None)
    return fig


def code_tree(frame: pd.DataFrame, weight: str = "items") -> go.Figure:
    """An icicle: codes of level 1, below them those of level 2, ..., at the end the items.

    `weight` says what the rows' weights are: the number of items, or their "popularity".

    `ids` are the rows' ids; customdata[0] is the code as text, customdata[1] the item or -1. Rows
    that lead to a chosen item have an outline.
    """
    if frame.empty:
        return theme.nothing("There are no semantic IDs yet.", TOKENIZE, "code_tree")
    root = frame.iloc[0]
    branches, way = frame[frame["parent"] == root["id"]], frame[frame["chosen"]]
    popular = weight == "popularity"
    fig = theme.figure(
        title=_tree_finding(frame, popular),
        alt=f"A tree of codes from left to right. {len(branches)} branches below "
        f"{root['label']}: "
        + ", ".join(f"{r['label']} {r['weight']:,}" for r in branches.to_dict("records")),
        how="Branches of one parent are as wide as their weights; a weight is the sum of those "
        "below. Small branches are joined, and the joined one is drawn no wider than the widest "
        f"beside it: its label has the number. Here the root weighs {root['weight']:,} "
        f"({theme.count(root['items'], 'item')}). A click opens a branch."
        + " The outline leads to the chosen item."
        * bool(len(way)),
        height=460,
        legend=False,
        key=f"tree-{root['id']}",
    )
    fig.add_icicle(
        ids=frame["id"],
        parents=frame["parent"],
        labels=[theme.label(label) for label in frame["label"]],
        values=drawn_widths(frame),
        customdata=frame[["codes", "item", "items", "label", "weight"]].assign(
            label=frame["label"].map(theme.drawn),
            items=[theme.count(items, "item") for items in frame["items"]],
            weight=[f", popularity {w:,}" if popular else "" for w in frame["weight"]],
        ),
        branchvalues="remainder",
        maxdepth=3 if len(frame) > 300 else 4,  # below, a click shows more
        tiling={"orientation": "h", "pad": 2},
        marker={
            "colors": _tree_colours(frame),
            "line": {"width": [4 * int(way) for way in frame["chosen"]], "color": theme.ORANGE},
        },
        textfont={"size": 13, "color": "white"},
        hovertemplate="%{customdata[3]}<br>code %{customdata[0]}<br>"
        "%{customdata[2]}%{customdata[4]}<extra></extra>",
        pathbar={"visible": True, "thickness": 22},
        sort=False,
        root_color=theme.GREY,
    )
    fig.update_layout(margin={"l": 8, "r": 8, "b": 8}, uniformtext={"minsize": 11, "mode": "hide"})
    return fig


def _tree_finding(frame: pd.DataFrame, popular: bool) -> str:
    """How many items the root has, which of its branches weighs most, where the chosen item is."""
    root, way = frame.iloc[0], frame[frame["chosen"]]
    children = frame[(frame["parent"] == root["id"]) & ~frame["other"]]
    finding = theme.count(root["items"], "item")
    if root["codes"]:
        finding += f" below code {root['codes']}"
    if len(children) and root["weight"] > 0:
        first = children.iloc[0]
        share = theme.percent(first["weight"] / root["weight"])
        most, of = ("most popular", "their popularity") if popular else ("fullest", "them")
        finding += f"; the {most} branch, {first['label']}, holds {share} of {of}"
    if len(way):
        finding += f"; the chosen item is in {theme.drawn(way['label'].iloc[0])}"
    return finding


def drawn_widths(frame: pd.DataFrame) -> list[float]:
    """A width for each row without children, 0 for the others (they are as wide as their children).

    Each parent divides its width among its children by weight, the joined one counting no more
    than the heaviest of the others: with hundreds of codes it would leave them no room.
    """
    width = {str(frame["id"].iloc[0]): 1.0}
    for parent, children in frame.iloc[1:].groupby("parent", sort=False):
        weight = children["weight"].to_numpy(dtype=float) + 1e-9
        joined = children["other"].to_numpy(dtype=bool)
        if joined.any() and not joined.all():
            weight[joined] = weight[joined].clip(max=weight[~joined].max())
        shares = width[str(parent)] * weight / weight.sum()
        width |= dict(zip(children["id"], shares, strict=True))
    parents = set(frame["parent"])
    return [0.0 if node in parents else width[node] for node in frame["id"]]


def _tree_colours(frame: pd.DataFrame) -> list[str]:
    """A colour per depth; the joined rest and the root are grey."""
    base = int(frame["level"].iloc[0])
    palette = (theme.GREY, theme.BLUE, "#2D6A4F", "#8A4B08", "#7A4E7E", theme.GREY)
    return [
        "#5C5C5C" if other else palette[min(level - base, len(palette) - 1)]
        for level, other in zip(frame["level"], frame["other"], strict=True)
    ]


def _nothing(levels: pd.DataFrame, what: str, key: str) -> go.Figure:
    """Stands where there is no report, or where its numbers are all unknown."""
    said = "There are no semantic IDs yet." if levels.empty else f"The report cannot say {what}."
    return theme.nothing(said, TOKENIZE, key)


def _level_names(levels: pd.DataFrame) -> list[str]:
    return [f"level {level}" for level in levels["level"]]


def _listed(levels: pd.DataFrame, value: str, bound: str, digits: int = 0) -> str:
    return "; ".join(
        f"level {r['level']}: {r[value]:,.{digits}f} of {r[bound]:,.{digits}f}"
        for r in levels.to_dict("records")
    )
