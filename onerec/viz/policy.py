"""Pictures of the policy steps of a run: its steps, one group, one item's codes, its curves.

Each takes the frame of the function of the same name in `onerec.explain.policy` (`group` that of
`items`). The pictures of the objectives stand in `objectives`, and are named here.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from onerec.viz import theme
from onerec.viz.composer import words
from onerec.viz.objectives import EFFECT_LOOKS, NAMES, push, regions, value

__all__ = [
    "NAMES",
    "group",
    "levels",
    "pass_at_k",
    "push",
    "regions",
    "reward_curves",
    "steps",
    "value",
]

ALIGN = "Make them with: onerec align --run NAME"
BARS_SHOWN = 60  # steps; more of them are a line
METRICS = {
    "reward": "all parts",
    "valid_reward": "on valid",
    "legality": "legal items",
    "outside": "items outside 1±ε",
    "beyond": "items with A < 0 beyond 1+ε+δ",
    "flat_groups": "groups without a spread",
    "loss": "both losses",
    "next_token": "next-token loss",
    "policy": "policy loss",
    "ratio_max": "greatest ratio",
    "grad_norm": "gradient norm",
    "valid_recall@10": "recall@10 on valid",
}
UNITS = {
    "reward": "mean reward of an item",
    "parts of the reward": "mean of an item, before its weight",
    "share": "share",
    "loss": "loss",
    "ratio": "greatest π / π_old of a step",
}


def steps(frame: pd.DataFrame) -> go.Figure:
    """Mean reward of each recorded step. customdata[0] of a bar is its step."""
    if frame.empty:
        return theme.nothing("No policy step was recorded.", ALIGN, "steps")
    first, last = frame.iloc[0], frame.iloc[-1]
    finding = f"Step {last['step']:,}, the only one recorded, has a mean reward of "
    finding += f"{last['reward']:.3f}"
    if len(frame) > 1:
        went = theme.went([f"{reward:.3f}" for reward in frame["reward"]])
        finding = f"The mean reward {went} between steps {first['step']:,} and {last['step']:,}"
    fig = theme.figure(
        title=finding,
        alt=f"Mean reward of {len(frame)} recorded steps, from {first['reward']:.3f} to "
        f"{last['reward']:.3f}; least {frame['reward'].min():.3f}, greatest "
        f"{frame['reward'].max():.3f}.",
        how="The mean over the items that count: those of the step whose codes are an "
        f"item's. Step {last['step']:,}: of {last['items']:,} items of {last['groups']:,} groups "
        f"{theme.percent(last['legality'])} are legal, and earn {last['reward']:.4f}. Each "
        "step draws other users, so single steps vary.",
        x="step",
        y="mean reward",
        height=260,
        legend=False,
        key="policy-steps",
    )
    known = frame[["step", "flat_groups", "groups", "legality", "clipped"]]
    look = {
        "x": frame["step"],
        "y": frame["reward"],
        "customdata": known.to_numpy().tolist(),  # lists: of an array an event makes an object
        "hovertemplate": "step %{x:,}: reward %{y:.3f}<br>%{customdata[1]} of %{customdata[2]} "
        "groups flat, %{customdata[3]:.0%} legal, %{customdata[4]:.0%} clipped<extra></extra>",
    }
    if len(frame) <= BARS_SHOWN:
        fig.add_bar(marker_color=theme.BLUE, **look)
        if len(frame) <= 12:
            fig.update_xaxes(tickvals=frame["step"].tolist())
    else:
        fig.add_scatter(mode="lines+markers", line=theme.line(0), marker_size=6, **look)
    return fig


def _how_advantages_are_made(tilt: float, items: int, mean: float) -> str:
    if not items:
        return "No item of the group counts, so none has an advantage."
    if tilt:
        return (
            f"advantage = {tilt:g} log(reward) - log(probability / that before alignment), less "
            "its mean in the group, cut to ±5: 0 once the probability is that before alignment "
            f"times reward^{tilt:g}. The mean reward of the {items} items that count is {mean:.4f}."
        )
    return (
        "advantage = (reward - mean) / standard deviation within the group, cut to ±5; here the "
        f"mean of the {items} items that count is {mean:.4f}. Illegal items are left out of the "
        "mean."
    )


def group(frame: pd.DataFrame, user: int = 0) -> go.Figure:
    """The items of one group: reward against the probability with which each was drawn.

    customdata[0] of a point is its place in the group.
    """
    if frame.empty:
        return theme.nothing("This group has no items.", ALIGN, "group")
    counted = frame[frame["counted"]]
    mean = float(counted["reward"].mean()) if len(counted) else 0.0
    fig = theme.figure(
        title=_group_finding(frame, user),
        alt=f"Points of the {len(frame)} items of user {user}, reward against probability: "
        + "; ".join(
            f"{_name(r)}: reward {r['reward']:.3f}, {r['effect']}"
            for r in frame.to_dict("records")[:12]
        ),
        how=_how_advantages_are_made(frame.attrs.get("tilt", 0.0), len(counted), mean)
        + " The probability is the sampler's, of all codes of the item together.",
        x="probability with which the item was drawn",
        y="reward",
        height=400,
        key=f"group-{user}",
    )
    for name, (colour, symbol) in EFFECT_LOOKS.items():
        part = frame[frame["effect"] == name]
        if part.empty:
            continue
        fig.add_scatter(
            x=np.exp(part["drawn"]),
            y=part["reward"],
            name=f"{name} ({len(part)})",
            mode="markers",
            marker={"symbol": symbol, "size": 12, "color": colour}
            | {"line": {"width": 2 * symbol.endswith("open"), "color": colour}},
            customdata=[
                [r["place"], theme.drawn(_name(r)), r["advantage"], r["ratio"]]
                for r in part.to_dict("records")
            ],
            hovertemplate="%{customdata[1]}: reward %{y:.3f}, p = %{x:.3g}<br>A = "
            "%{customdata[2]:.2f}, ratio %{customdata[3]:.3f}<extra>" + name + "</extra>",
        )
    ends = [float(np.exp(frame["drawn"].min())), float(np.exp(frame["drawn"].max()))]
    if len(counted):
        fig.add_scatter(
            x=ends,
            y=[mean, mean],
            name=f"mean of those that count, {mean:.3f}",
            mode="lines",
            line={"color": theme.GREY, "dash": "dash", "width": 1},
            hoverinfo="skip",
        )
    fig.update_xaxes(**theme.log_axis(min(ends), max(ends)))
    if frame["reward"].max() - frame["reward"].min() < 1e-6:
        level = float(frame["reward"].iloc[0])
        fig.update_yaxes(range=[level - 0.5, level + 0.5])
    return fig


def _group_finding(frame: pd.DataFrame, user: int) -> str:
    counted = frame[frame["counted"]]
    who, legal = f"User {user}", int((frame["item"] >= 0).sum())
    if counted.empty:
        return f"{who}: no item of this group counts ({legal} of {len(frame)} are legal)"
    if (counted["advantage"] == 0).all():
        return (
            f"{who}: all {len(counted)} items that count earn {counted['reward'].mean():.3f}; "
            "without a spread the group teaches nothing"
        )
    best = counted.iloc[int(counted["reward"].argmax())].to_dict()
    silent = int((counted["effect"] == "clipped: no push").sum())
    return (
        f"{who}: {theme.short(_name(best))} is best with {best['reward']:.3f} against a mean of "
        f"{counted['reward'].mean():.3f}; {silent} of {len(counted)} items are clipped"
    )


def _name(row: dict[object, object]) -> str:
    return str(row["title"] or f"no item ({row['codes']})")


def levels(frame: pd.DataFrame, name: str = "this item") -> go.Figure:
    """Probability of each code of one item, when the step began and, where known, when drawn."""
    if frame.empty or frame["log_prob"].isna().all():
        return theme.nothing(
            "The levels were not recorded one by one.",
            "Only the sum over the codes is known, which is all that the clip sees.",
            "levels",
        )
    fig = theme.figure(
        title=f"{theme.short(name)}: {_levels_finding(frame)}",
        alt="Bars of the probability per level: "
        + "; ".join(
            f"level {r['level']}, code {r['code']}: {np.exp(r['log_prob']):.3f}"
            + (f", {np.exp(r['drawn']):.3f} when drawn" if r["drawn"] == r["drawn"] else "")
            for r in frame.to_dict("records")
        ),
        how="ln π(item) = Σ over levels of ln p(code | codes before it, user): "
        + " + ".join(f"({value:.3f})" for value in frame["log_prob"])
        + f" = {frame['log_prob'].sum():.3f} when the step began. The ratio is that of the whole "
        "item, the product of the levels' ratios; the clip looks at this product alone.",
        y="probability",
        height=320,
        key="levels",
    )
    names = [f"level {r['level']}: code {r['code']}" for r in frame.to_dict("records")]
    for label, column, colour, pattern in (
        ("when drawn (old)", "drawn", theme.GREY, "/"),
        ("when the step began (new)", "log_prob", theme.BLUE, ""),
    ):
        if frame[column].isna().all():
            continue
        fig.add_bar(
            x=names,
            y=np.exp(frame[column]),
            name=label,
            text=[f"{np.exp(value):.3g}" for value in frame[column]],
            textposition="outside",  # on hatching nobody reads it
            textangle=0,
            marker={"color": colour, "pattern": {"shape": pattern}},
            hovertemplate="%{x}: p = %{y:.4f}<extra>" + label + "</extra>",
        )
    fig.update_layout(barmode="group", showlegend=len(fig.data) > 1)
    fig.update_yaxes(rangemode="tozero")
    return fig


def _levels_finding(frame: pd.DataFrame) -> str:
    moved = (frame["log_prob"] - frame["drawn"]).abs()
    if moved.isna().all():
        far = frame.iloc[int(frame["log_prob"].argmin())]
        return (
            f"code {far['code']:.0f} of level {far['level']:.0f} is the least certain, p = "
            f"{np.exp(far['log_prob']):.3g}"
        )
    far, whole = frame.iloc[int(moved.argmax())], np.prod(frame["ratio"].to_numpy())
    now = np.exp(frame["log_prob"].sum())
    if moved.max() < 5e-4:
        return f"no code has moved since it was drawn; the whole item has p = {now:.3g}"
    return (
        f"code {far['code']:.0f} of level {far['level']:.0f} moved most, ×{far['ratio']:.3g}; "
        f"the whole item ×{whole:.3g}"
    )


def pass_at_k(frame: pd.DataFrame) -> go.Figure:
    """Does alignment find more of what people watched? pass@K on valid, before and after."""
    if frame.empty:
        return theme.nothing("pass@K was not measured before and after.", ALIGN, "pass-at-k")
    step, kept = int(frame["step"].iloc[0]), bool(frame["kept"].iloc[0])
    after = f"after, at step {step:,}" + ("" if kept else ", not chosen yet")
    went = {
        f"pass@{r['k']}": theme.went([theme.percent(r[at], 1) for at in ("before", "after")])
        for r in frame.to_dict("records")
    }
    fig = theme.figure(
        title=_pass_finding(went, step, kept),
        alt="Bars of pass@K before and after alignment: "
        + "; ".join(f"{name} {course}" for name, course in went.items()),
        how="The share of a sample of valid users with a target among the first K items of their "
        "list, from the lines of stage `align` in metrics.jsonl: "
        + "; ".join(
            f"`valid_pass@{r['k']}` {r['before']:.4f} at step 0, {r['after']:.4f} at step {step:,}"
            for r in frame.to_dict("records")
        )
        + ". The users are the same, but only means were kept: a paired interval of the difference "
        "cannot be told from them, so no change is called sure."
        + ("" if kept else " Which step is kept is decided at the end of the stage."),
        y="share of users",
        height=320,
        key="pass-at-k",
    )
    for label, column, colour, pattern in (
        ("before, at step 0", "before", theme.GREY, "/"),
        (after, "after", theme.BLUE, ""),
    ):
        fig.add_bar(
            x=list(went),
            y=frame[column],
            name=label,
            text=[theme.percent(value, 1) for value in frame[column]],
            textposition="outside",  # on hatching nobody reads it
            textangle=0,
            marker={"color": colour, "pattern": {"shape": pattern}},
            hovertemplate="%{x}: %{y:.2%}<extra>" + label + "</extra>",
        )
    fig.update_layout(barmode="group")
    fig.update_yaxes(rangemode="tozero", tickformat=".0%")
    return fig


def _pass_finding(went: dict[str, str], step: int, kept: bool) -> str:
    if kept and not step:
        return "Alignment kept the policy that it began with: no pass@K has changed"
    shown = list(dict.fromkeys([*list(went)[:1], *list(went)[-1:]]))  # the least and the greatest K
    told = ", ".join(f"{name} {went[name]}" for name in shown)
    return f"With alignment {told}" if kept else f"Up to step {step:,} {told}"


def reward_curves(frame: pd.DataFrame, panel: str = "reward") -> go.Figure:
    """One panel of curves over the steps of stage `align`; a panel has one unit."""
    part = frame[frame["panel"] == panel] if len(frame) else frame
    if part.empty:
        return theme.nothing(f"No {panel} yet.", ALIGN, f"align-{panel}")
    courses = {
        str(name): own["value"].astype(float).tolist()
        for name, own in part.groupby("metric", sort=False)
    }
    lead = next((name for name in (panel, "reward_pscore") if name in courses), next(iter(courses)))
    latest = {name: values[-1] for name, values in courses.items()}
    course = [theme.percent(v) if panel == "share" else f"{v:.3g}" for v in courses[lead]]
    fig = theme.figure(
        title=theme.sentence(metric_name(lead, panel))
        + (f" {theme.went(course)}" if len(course) > 1 else f": {course[0]}"),
        alt=f"Lines over {theme.count(part['step'].max(), 'step')}: "
        + "; ".join(f"{metric_name(name, panel)} now {now:.3g}" for name, now in latest.items()),
        how="From the lines of stage `align` in metrics.jsonl: "
        + "; ".join(f"`{name}` {now:.4g}" for name, now in latest.items())
        + f" at step {part['step'].max():,}.",
        x="step",
        y=UNITS.get(panel, panel),
        height=320,
        key=f"align-{panel}",
        legend=len(latest) > 1,
    )
    for index, (name, own) in enumerate(part.groupby("metric", sort=False)):
        fig.add_scatter(
            x=own["step"],
            y=own["value"],
            name=metric_name(str(name)),
            mode="lines+markers" if len(own) <= 40 else "lines",
            line=theme.line(index),
            marker={"symbol": theme.SYMBOLS[index % 8], "size": 7},
            hovertemplate="step %{x:,}: %{y:.4g}",
        )
    if panel == "share":
        fig.update_yaxes(tickformat=".0%", range=[-0.03, 1.03])
    return fig


def metric_name(name: str, panel: str = "") -> str:
    """A metric as people write it; in a sentence, "reward" stands for all its parts."""
    if name == panel:
        return name
    return METRICS.get(name, words(name.removeprefix("reward_")))
