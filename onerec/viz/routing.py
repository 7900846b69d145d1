"""Pictures of who goes where: lift, one user's tokens, flow, and what an expert is missed for.

Each takes the frame of the function of the same name in `onerec.explain.routing`. An expert has the
same colour and pattern in all of them, and its number stands beside it: with more than eight,
colours come again.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from onerec import plain
from onerec.explain.routing import FEW
from onerec.viz import theme

RECORD = "Runs record this while they are pre-trained: train one with experts (model.experts)."
SHARED = (
    "the router's score of an expert / the scores of all that the token goes to; the answers of "
    "the experts are added by it"
)
ALONE = "what the router gives the token's one expert; its answer is multiplied by it"
REACH = 2.0  # colours of a lift end at 1/4 and 4
LINKS = 200  # of a flow, the largest
EVEN = 0.1  # a lift this near to 1 is no preference
CELLS = 12  # columns up to which a cell has its number in it
KINDS = {"category": "category", "tags": "tag", "author_id": "author", "level": "level"}
MEASURES = {"recall": ("recall@10", -1), "loss": ("next-token loss", 1)}  # name, sign of worse


def lift(frame: pd.DataFrame, by: str = "category", layer: int = 0) -> go.Figure:
    """Groups x experts: how much more often an expert sees a group than all tokens do (`lift`)."""
    kind = KINDS.get(by, by)
    if frame.empty:
        return theme.nothing(f"No token has a {kind}.", RECORD, f"lift-{by}")
    if frame["lift"].isna().all():
        return theme.nothing(f"No lift of a {kind} is known.", RECORD, f"lift-{by}")
    table = frame.pivot(index="group", columns="expert", values="lift")
    table = table.loc[frame["group"].drop_duplicates()]
    rare = frame.pivot(index="group", columns="expert", values="few").loc[table.index]
    sure = frame[~frame["few"].astype(bool) & frame["lift"].notna()]
    most = (sure if len(sure) else frame).nlargest(1, "lift").iloc[0]
    numbered = table.shape[1] <= CELLS
    text = [
        [f"({value:.2f})" if few else f"{value:.2f}" for value, few in zip(*row, strict=True)]
        for row in zip(table.to_numpy(), rare.to_numpy(), strict=True)
    ]
    fig = theme.figure(
        title=_lift_finding(most, sure, kind, layer),
        alt=f"A heat map of {len(table)} groups by {table.shape[1]} experts; " + _strongest(sure),
        how="lift = share of the expert's tokens in the group / the group's share of all tokens. "
        f"Expert {most['expert']} and {plain.text(most['group'])}: {most['share']:.4f} / "
        f"{most['base']:.4f} = "
        f"{most['lift']:.3f}, from {most['tokens']:,} tokens where {most['expected']:.1f} would be "
        f"even; chance alone moves a lift by about 1 / √{most['expected']:.1f} = "
        f"{most['expected'] ** -0.5:.2f}. In brackets: fewer than {FEW} expected.",
        x="expert",
        height=130 + 28 * len(table),
        legend=False,
        key=f"lift-{by}-{layer}",
    )
    marks = [-2, -1, 0, 1, 2]
    fig.add_heatmap(
        x=[str(expert) for expert in table.columns],
        y=_row_names(table),
        z=np.log2(table.to_numpy(dtype=np.float64).clip(2**-REACH, 2**REACH)),
        zmin=-REACH,
        zmax=REACH,
        colorscale=theme.DIVERGING,
        text=text,
        texttemplate="%{text}" if numbered else "",
        textfont={"size": 13},
        xgap=2,
        ygap=2,
        customdata=_cells(frame, table),
        hovertext=[[theme.drawn(group)] * table.shape[1] for group in table.index],
        colorbar={
            "title": {"text": "lift", "side": "right", "font": {"size": 13}},
            "tickvals": marks,
        }
        | {"ticktext": ["¼", "½", "1", "2", "4"], "thickness": 14},
        hovertemplate="expert %{x}, %{hovertext}: lift %{customdata[0]:.2f}, "
        "%{customdata[1]:,} tokens of %{customdata[2]:.1f} expected<extra></extra>",
    )
    fig.update_yaxes(autorange="reversed", showgrid=False, type="category")  # a tag may be "39"
    fig.update_xaxes(showgrid=False, type="category")
    return fig


def _strongest(sure: pd.DataFrame) -> str:
    """The largest lifts that are no chance, in words."""
    rows = sure.nlargest(5, "lift").to_dict("records")
    said = "; ".join(f"expert {r['expert']} and {r['group']}: {r['lift']:.2f}" for r in rows)
    return f"strongest: {said}" if said else "each is of too few tokens to be sure"


def _row_names(table: pd.DataFrame) -> list[str]:
    """The groups, cut where they are long; those that would then be alike have their number too."""
    names = pd.Series([theme.label(group, 22) for group in table.index])
    alike = names.duplicated(keep=False)
    return [f"{name} ({n})" if alike[n - 1] else name for n, name in enumerate(names, 1)]


def _cells(frame: pd.DataFrame, table: pd.DataFrame) -> np.ndarray:
    """(groups, experts, 3): lift, tokens, expected, for the hover."""
    parts = [
        frame.pivot(index="group", columns="expert", values=name).loc[table.index].to_numpy(float)
        for name in ("lift", "tokens", "expected")
    ]
    return np.stack(parts, axis=-1)


def _lift_finding(most: pd.Series, sure: pd.DataFrame, kind: str, layer: int) -> str:
    if sure.empty:
        return f"Layer {layer}: each {kind} has fewer than {FEW} tokens to expect; no lift is sure"
    low, high = sure["lift"].min(), sure["lift"].max()
    if low > 1 - EVEN and high < 1 + EVEN:
        return f"Layer {layer}: no expert prefers a {kind}; lifts go from {low:.2f} to {high:.2f}"
    named = str(most["group"]) if kind == "level" else f"{kind} {most['group']}"
    return (
        f"Layer {layer}: expert {most['expert']} sees {named} {most['lift']:.2f} times as often as "
        f"tokens in general ({most['tokens']:,} tokens, {most['expected']:,.0f} would be even)"
    )


def tokens(frame: pd.DataFrame, layer: int | None = None) -> go.Figure:
    """One user's tokens, a bar each: the experts it goes to by their weights (`tokens`)."""
    if layer is None and len(frame):
        layer = int(frame["layer"].min())
    part = frame[frame["layer"] == layer] if len(frame) else frame
    if part.empty:
        return theme.nothing("No token was recorded.", RECORD, "tokens")
    part = part.sort_values(["target", "level", "rank"])
    places = part[["target", "level"]].drop_duplicates().reset_index(drop=True)
    # A line of its own for the title above each target's bars.
    row = {key: n + key[0] + 1 for n, key in enumerate(places.itertuples(index=False, name=None))}
    part = part.assign(row=[row[key] for key in zip(part["target"], part["level"], strict=True)])
    used = sorted(int(expert) for expert in part["expert"].unique())
    first = part[part["rank"] == 0]
    favourite = first["expert"].value_counts()
    alone = not part["rank"].any()
    fig = theme.figure(
        title=f"Layer {layer}: of {theme.count(len(places), 'token')} expert "
        f"{favourite.index[0]} is the {'only' if alone else 'first'} "
        f"choice of {favourite.iloc[0]}",
        alt="Bars of a token's weights by expert: "
        + "; ".join(
            f"{r['title']}, code {r['level']}: expert {r['expert']} {r['weight']:.2f}"
            for r in first.to_dict("records")
        ),
        how=f"weight = {ALONE if alone else SHARED}. "
        + _example(part[part["row"] == part["row"].iloc[0]]),
        x="weight",
        height=110 + 30 * (int(part["row"].max()) + 1),
        key=f"tokens-{layer}",
    )
    for expert in used:
        _add_expert(fig, part[part["expert"] == expert], expert)
    for target, own in part.groupby("target"):
        fig.add_annotation(
            text=f"<b>{theme.label(own['title'].iloc[0], 44)}</b>", showarrow=False,
            xref="paper", x=0, xshift=-76, xanchor="left", y=int(own["row"].min()) - 1,
            name=f"target {target}",
        )  # fmt: skip
    codes = part.drop_duplicates("row")
    fig.update_layout(barmode="stack", bargap=0.15, legend_title_text="")
    fig.update_yaxes(
        tickvals=codes["row"].tolist(), showgrid=False, autorange="reversed",
        ticktext=[f"code {r['level']} = {r['code']}" for r in codes.to_dict("records")],
    )  # fmt: skip
    fig.update_xaxes(range=[0, 1.0])
    return fig


def _add_expert(fig: go.Figure, own: pd.DataFrame, expert: int) -> None:
    fig.add_bar(
        x=own["weight"],
        y=own["row"],
        orientation="h",
        name=f"expert {expert}",
        marker=_look(expert),
        text=[str(expert)] * len(own),
        textposition="inside",
        insidetextanchor="middle",
        textfont={"color": "#FFFFFF", "size": 14},
        textangle=0,
        customdata=[
            [r["item"], r["level"], theme.drawn(r["title"])] for r in own.to_dict("records")
        ],
        hovertemplate="%{customdata[2]}, code %{customdata[1]}: weight %{x:.3f}<extra>expert "
        f"{expert}</extra>",
    )


def _look(expert: int) -> dict[str, Any]:
    """Colour and, from the ninth expert on, a pattern too."""
    pattern = theme.PATTERNS[expert // 8 % 8]
    return {"color": theme.COLOURS[expert % 8], "pattern": {"shape": pattern}}


def _example(rows: pd.DataFrame) -> str:
    shown = " + ".join(f"{r['weight']:.3f} × expert {r['expert']}" for r in rows.to_dict("records"))
    return f"First token: {shown}."


def flow(frame: pd.DataFrame) -> go.Figure:
    """Tokens from expert to expert, or with one layer from level to expert (`flow`)."""
    if frame.empty:
        return theme.nothing("No token was recorded.", RECORD, "flow")
    levels = bool((frame["source_layer"] < 0).all())
    kept = frame.nlargest(LINKS, "tokens").sort_values(["source_layer", "source", "expert"])
    ends = [(int(r["source_layer"]), int(r["source"])) for r in kept.to_dict("records")]
    into = [(int(r["layer"]), int(r["expert"])) for r in kept.to_dict("records")]
    nodes = {node: place for place, node in enumerate(sorted({*ends, *into}))}
    names = [_node(node, levels) for node in nodes]
    kept = kept.assign(start=[_node(node, levels) for node in ends])
    kept = kept.assign(end=[_node(node, levels) for node in into])
    sure = kept[kept["expected"] >= FEW]
    most = (sure if len(sure) else kept).nlargest(1, "lift").to_dict("records")[0]
    widest = kept.nlargest(6, "tokens").to_dict("records")
    tallest = max(pd.Series([layer for layer, _ in nodes]).value_counts())
    fig = theme.figure(
        title=f"Tokens of {most['start']} go to {most['end']}, {most['lift']:.2f} times as often "
        f"as by chance ({most['tokens']:,} tokens)",
        alt="A flow diagram; the widest bands: "
        + "; ".join(f"{r['start']} to {r['end']}: {r['tokens']:,} tokens" for r in widest),
        how="A band is the tokens that both of its ends see; with k experts a layer a token is in "
        f"{'k' if levels else 'k × k'} bands. By chance: tokens out of one end × tokens into the "
        f"other / all. The strongest: {most['tokens']:,} / {most['expected']:.1f} = "
        f"{most['lift']:.3f}. {len(kept):,} of {len(frame):,} bands are drawn, the widest.",
        height=max(340, 90 + 34 * int(tallest)),
        legend=False,
        key="flow",
    )
    coloured = into if levels else ends
    fig.add_sankey(
        arrangement="snap",
        domain={"y": [0.08, 1.0]},  # small nodes overflow it a little: the heads stand below
        node=_places(list(nodes), kept)
        | {"label": [name.partition(" of ")[0] for name in names], "customdata": names}
        | {"pad": 14, "thickness": 16, "line": {"width": 0}}
        | {"color": [theme.GREY if a < 0 else theme.COLOURS[n % 8] for a, n in nodes]}
        | {"hovertemplate": "%{customdata}: %{value:,} tokens<extra></extra>"},
        link={"source": [nodes[end] for end in ends], "target": [nodes[end] for end in into]}
        | {"value": kept["tokens"].tolist(), "customdata": kept["lift"].tolist()}
        | {"color": [_faint(theme.COLOURS[number % 8]) for _, number in coloured]}
        | {"hovertemplate": "%{source.customdata} to %{target.customdata}: %{value:,} tokens, "
           "%{customdata:.2f} times chance<extra></extra>"},
    )  # fmt: skip
    _head_columns(fig, sorted({layer for layer, _ in nodes}))
    return fig


def _head_columns(fig: go.Figure, layers: list[int]) -> None:
    """Below each column of a flow what its nodes are of."""
    for place, layer in enumerate(layers):
        share = place / (len(layers) - 1)
        side = "left" if share == 0 else "right" if share == 1 else "center"
        fig.add_annotation(
            text=f"<b>layer {layer}</b>" if layer >= 0 else "<b>level of the code</b>",
            showarrow=False, x=share, y=0, xref="paper", yref="paper", xanchor=side,
            yanchor="top",
        )  # fmt: skip


def _places(nodes: list[tuple[int, int]], kept: pd.DataFrame) -> dict[str, list[float]]:
    """Where nodes stand: layers from left to right, in each the numbers from top to bottom."""
    size = dict.fromkeys(nodes, 0.0)
    into: dict[tuple[int, int], float] = {}
    for r in kept.to_dict("records"):
        end = (int(r["layer"]), int(r["expert"]))
        size[int(r["source_layer"]), int(r["source"])] += r["tokens"]
        into[end] = into.get(end, 0.0) + r["tokens"]
    size = {node: max(value, into.get(node, 0.0)) for node, value in size.items()}
    layers = sorted({layer for layer, _ in nodes})
    x, y = [], []
    for layer, number in nodes:
        own = [node for node in nodes if node[0] == layer]
        above = sum(size[node] for node in own if node[1] < number)
        whole = sum(size[node] for node in own)
        x.append(0.001 + 0.998 * layers.index(layer) / (len(layers) - 1))
        y.append(min(0.999, max(0.001, (above + size[layer, number] / 2) / whole)))
    return {"x": x, "y": y}


def _node(node: tuple[int, int], levels: bool) -> str:
    """Layer -1 is no layer: the number is then the level of the code which the token writes."""
    layer, number = node
    if layer < 0:
        return f"level {number}"
    return f"expert {number}" if levels else f"expert {number} of layer {layer}"


def _faint(colour: str) -> str:
    parts = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    return f"rgba({parts[0]}, {parts[1]}, {parts[2]}, 0.45)"


def without(
    frame: pd.DataFrame, measure: Literal["recall", "loss"] = "recall", expert: str = ""
) -> go.Figure:
    """What changes with each expert switched off, with 95% intervals (`without`).

    `expert`, as in "0-2" for expert 2 of layer 0, is drawn larger.
    """
    if frame.empty or frame[f"{measure}_change"].isna().all():
        said = "No expert was switched off." if frame.empty else "What changes is not known."
        return theme.nothing(said, RECORD, f"without-{measure}")
    name, worse = MEASURES[measure]
    change, low, high = (frame[f"{measure}_{part}"] for part in ("change", "low", "high"))
    beyond = np.minimum(worse * low, worse * high) > 0
    missed = (worse * change).where(beyond) if beyond.any() else worse * change
    worst = frame.iloc[int(missed.argmax())]
    names = [_named(row, frame) for row in frame.to_dict("records")]
    sure = int(((low > 0) | (high < 0)).sum())
    before = worst[measure] - worst[f"{measure}_change"]
    fig = theme.figure(
        title=_without_finding(worst, _named(worst, frame), measure, sure, len(frame)),
        alt=f"Points of the change in {name}, with 95% intervals: "
        + "; ".join(
            f"without {one} {now:+z.4f} ({a:+z.4f} to {b:+z.4f})"
            for one, now, a, b in zip(names, change, low, high, strict=True)
        ),
        how=f"change = {name} without the expert - {name} of the whole model, on the same "
        "contexts; its tokens go to the next best experts. The bar is a paired bootstrap over "
        "contexts, 95%; one that does not touch 0 is beyond chance (of twenty bars one may "
        "miss it all the same). "
        f"{theme.sentence(_named(worst, frame))}: {worst[measure]:.4f} - {before:.4f} = "
        f"{worst[f'{measure}_change']:+z.4f} "
        f"[{worst[f'{measure}_low']:+z.4f}, {worst[f'{measure}_high']:+z.4f}].",
        x=f"change in {name}" + (" (nats)" if measure == "loss" else ""),
        height=120 + 34 * len(frame),
        legend=False,
        key=f"without-{measure}",
    )
    keys = [f"{r['layer']}-{r['expert']}" for r in frame.to_dict("records")]
    fig.add_scatter(
        x=change,
        y=names,
        mode="markers",
        marker={"size": [17 if key == expert else 11 for key in keys]}
        | {"color": [theme.COLOURS[n % 8] for n in frame["expert"]]}
        | {"symbol": ["diamond" if key == expert else "circle" for key in keys]},
        error_x={"type": "data", "symmetric": False, "array": (high - change).tolist()}
        | {"arrayminus": (change - low).tolist(), "color": theme.GREY, "thickness": 2},
        customdata=[[key] for key in keys],
        hovertemplate="without %{y}: %{x:+.4f}<extra></extra>",
    )
    fig.add_vline(x=0, line={"color": theme.GREY, "dash": "dash", "width": 1})
    fig.update_yaxes(autorange="reversed", type="category")
    fig.update_xaxes(tickformat=".3~f")
    return fig


def _without_finding(worst: pd.Series, named: str, measure: str, sure: int, of: int) -> str:
    name, worse = MEASURES[measure]
    before = worst[measure] - worst[f"{measure}_change"]
    least = min(worse * worst[f"{measure}_low"], worse * worst[f"{measure}_high"])
    if least <= 0:
        return (
            f"No expert is missed beyond chance; at worst, without {named}, the {name} goes from "
            f"{before:.3f} to {worst[measure]:.3f}"
        )
    return (
        f"Most missed is {named}: without it the {name} goes from {before:.3f} to "
        f"{worst[measure]:.3f}; {sure} of {of} changes are beyond chance"
    )


def _named(row: Any, frame: pd.DataFrame) -> str:
    layer = "" if frame["layer"].nunique() == 1 else f" of layer {row['layer']:.0f}"
    return f"expert {row['expert']:.0f}{layer}"
