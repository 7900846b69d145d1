"""Pictures of a training: losses, any other metric, validation, progress of the stages.

The first three take the long frame of `onerec.explain.training.curves`.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from onerec.viz import theme

START = "Start one with: onerec run --recipe tiny --dataset world --run NAME"
NAMES = {
    "valid_loss": "loss on valid",
    "lr": "learning rate",
    "grad_norm": "gradient norm",
    "samples_per_second": "samples per second",
    "flops_per_second": "FLOP per second",
    "mfu": "MFU",
    "max_violation": "MaxVio",
    "aux_balance": "balance loss of the routers",
    "aux_z": "z-loss of the routers",
    "aux_distillation": "distillation loss of the routers",
    "aux_diversity": "cosine between competing experts",
}


def metric_name(name: str) -> str:
    """A metric as people write it: loss_2 -> "loss, level 2", valid_recall@10 -> "recall@10"."""
    if name.startswith("loss_"):
        return f"loss, level {name.removeprefix('loss_')}"
    return NAMES.get(name, name.removeprefix("valid_").replace("_", " "))


def losses(curves: pd.DataFrame) -> go.Figure:
    """Loss per level, their sum, and the sum on valid."""
    curves = _known(curves)
    names = [name for name in _metrics(curves) if name.startswith("loss") or name == "valid_loss"]
    if not names:
        return theme.nothing("No training step yet.", START, "losses")
    shown = "loss" if "loss" in names else names[0]
    course = curves[curves["metric"] == shown]
    last, went = course.iloc[-1], theme.went([f"{value:.2f}" for value in course["value"]])
    levels = {name: _ends(curves, name)[1]["value"] for name in names if name.startswith("loss_")}
    finding = f"The loss {went} {'in' if len(course) > 1 else 'after'} "
    finding += theme.count(last["step"], "step")
    if levels:
        hardest = max(levels, key=lambda name: levels[name])
        finding += f"; level {hardest.removeprefix('loss_')} is the hardest ({levels[hardest]:.2f})"
    fig = theme.figure(
        title=finding,
        alt="Lines of the training loss by step: "
        + "; ".join(
            f"{metric_name(name)} now {_ends(curves, name)[1]['value']:.3f}" for name in names
        ),
        how="Loss of a level = mean over targets of -ln p(code | codes before it, user)"
        + _made_of(list(levels.values()), last),
        x="step",
        y="loss in nats",
        height=400,
        key="losses",
    )
    order = sorted(names, key=lambda name: (name not in ("loss", "valid_loss"), name))
    for index, name in enumerate(order):
        _add_line(fig, curves, name, index)
    return fig


def _made_of(levels: Sequence[float], last: pd.Series) -> str:
    """How the last loss follows from the levels': V1 sums them, a lazy decoder takes the mean."""
    if not levels:
        return "."
    total, terms = sum(levels), " + ".join(f"{value:.3f}" for value in levels)
    mean = total / len(levels)
    if abs(last["value"] - mean) < abs(last["value"] - total):
        said = f"mean, as V2's: ({terms}) / {len(levels)} = {mean:.3f}"
    else:
        said = f"sum: {terms} = {total:.3f}"
    return f"; the loss is their {said} nats at step {last['step']:,.0f}."


def metric(curves: pd.DataFrame, name: str) -> go.Figure:
    """One metric over the steps."""
    curves = _known(curves)
    if name not in _metrics(curves):
        return theme.nothing(f"No {metric_name(name)} yet.", START, f"metric-{name}")
    curves = curves[curves["metric"] == name]
    label, worth = _unit(name, curves["value"].max())
    curves = curves.assign(value=curves["value"] / worth)
    (first, last), values = _ends(curves, name), curves["value"]
    fig = theme.figure(
        title=f"{theme.sentence(label)} is {last['value']:,.4g} at step {last['step']:,.0f} "
        f"(median {values.median():,.4g})",
        alt=f"A line of {label} by step, from {first['value']:,.4g} to {last['value']:,.4g}; "
        f"least {values.min():,.4g}, greatest {values.max():,.4g}.",
        how=f"`{name}` of metrics.jsonl, thinned to {theme.count(len(values), 'point')} that keep "
        "every spike.",
        x="step",
        y=label,
        height=280,
        key=f"metric-{name}",
        legend=False,
    )
    _add_line(fig, curves, name, 0)
    return fig


def valid(curves: pd.DataFrame) -> go.Figure:
    """Ranking metrics on the validation users during training."""
    curves = _known(curves)
    names = [name for name in _metrics(curves) if name.startswith("valid_") and "@" in name]
    if not names:
        return theme.nothing(
            "Nothing is measured on valid yet.",
            "The first measurement comes after train.evaluate_every steps.",
            "valid",
        )
    lead = "valid_recall@10" if "valid_recall@10" in names else names[0]
    part = curves[curves["metric"] == lead].reset_index(drop=True)
    best = part.iloc[int(part["value"].argmax())]
    fig = theme.figure(
        title=f"{metric_name(lead)} on valid is best at step {best['step']:,.0f}: "
        f"{best['value']:.4f}",
        alt="Lines of ranking metrics on validation users by step: "
        + "; ".join(f"{metric_name(n)} {_ends(curves, n)[1]['value']:.4f}" for n in names),
        how=f"Measured on held-out targets {theme.count(len(part), 'time')}; the last is "
        f"{part['value'].iloc[-1]:.4f}. These users choose the checkpoint, the test users do not.",
        x="step",
        y="on valid",
        key="valid",
    )
    for index, name in enumerate(names):
        _add_line(fig, curves, name, index)
    fig.update_yaxes(rangemode="tozero")
    return fig


def progress(frame: pd.DataFrame) -> go.Figure:
    """One bar per stage of the run (`explain.training.progress`)."""
    done = int((frame["state"] == "done").sum())
    words = [_state_words(row["state"], row["step"], row["of"]) for row in frame.to_dict("records")]
    fig = theme.figure(
        title=f"{done} of {len(frame)} stages are done",
        alt="Bars of progress: "
        + "; ".join(f"{label}: {word}" for label, word in zip(frame["label"], words, strict=True)),
        how="A stage is done when its done.json stands; else its share is step / steps of "
        "status.json, and whether it runs is derived from the process that wrote it.",
        height=100 + 34 * len(frame),
        key="progress",
        legend=False,
    )
    fig.add_bar(
        x=frame["share"],
        y=frame["label"],
        orientation="h",
        text=words,
        textposition="outside",
        cliponaxis=False,
        marker={
            "color": [theme.GREEN if s == "done" else theme.BLUE for s in frame["state"]],
            "pattern": {"shape": ["" if s == "done" else "/" for s in frame["state"]]},
        },
        customdata=frame["stage"],
        hovertemplate="%{y}: %{x:.0%}<extra></extra>",
        showlegend=False,
    )
    fig.update_xaxes(tickformat=".0%", range=[0, 1.5], tickvals=[0, 0.25, 0.5, 0.75, 1])
    fig.update_yaxes(autorange="reversed")
    return fig


def stages(frame: pd.DataFrame) -> str:
    """The stages as a line of Markdown: what is done and how long it took, what is on, what waits.

    Takes the frame of `explain.training.progress`, as `progress` does.
    """
    words = []
    for row in frame.to_dict("records"):
        label = str(row["label"])
        if row["skipped"]:
            words.append(f"{label}: left out")
        elif row["state"] == "done":
            known = row["seconds"] == row["seconds"]
            words.append(f"✓ {label}" + (f" {row['seconds']:,.0f} s" if known else ""))
        else:
            words.append(label if row["state"] == "waiting" else f"**{label}: {row['state']}**")
    return " → ".join(words)


def _state_words(state: str, step: int, of: int) -> str:
    return f"{state}, {step:,} of {of:,}" if of and state != "done" else state


def _unit(name: str, greatest: float) -> tuple[str, float]:
    """How a metric is called in the unit that it is drawn in, and what one of that is worth."""
    if name == "mfu":
        return "MFU in percent", 0.01
    if name == "flops_per_second":
        return ("TFLOP per second", 1e12) if greatest >= 1e12 else ("GFLOP per second", 1e9)
    return metric_name(name), 1.0


def _known(curves: pd.DataFrame) -> pd.DataFrame:
    """Without what was logged as unknown: a rate on a device whose peak nobody knows."""
    return curves[curves["value"].notna()] if len(curves) else curves


def _metrics(curves: pd.DataFrame) -> list[str]:
    return [str(name) for name in dict.fromkeys(curves["metric"])] if len(curves) else []


def _ends(curves: pd.DataFrame, name: str) -> tuple[pd.Series, pd.Series]:
    part = curves[curves["metric"] == name]
    return part.iloc[0], part.iloc[-1]


def _add_line(fig: go.Figure, curves: pd.DataFrame, name: str, index: int) -> None:
    part = curves[curves["metric"] == name]
    sparse = len(part) <= 40
    fig.add_scatter(
        x=part["step"],
        y=part["value"],
        name="loss, all levels" if name == "loss" else metric_name(name),
        mode="lines+markers" if sparse else "lines",
        line=theme.line(index),
        marker={"symbol": theme.SYMBOLS[index % 8], "size": 7},
        customdata=part["seconds"],
        hovertemplate="step %{x:,}: %{y:.4g} after %{customdata:,.0f} s",
    )
