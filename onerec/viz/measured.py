"""What was measured at scale, drawn; each takes the frame of its name in `explain.measured`.

The paper's tables, ours beside, stand in `paper_tables`, and are named here.
"""

from __future__ import annotations

from math import isnan, log10, nan

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from onerec.viz import theme
from onerec.viz.paper_tables import pairs_finding, worth_tables

__all__ = ["legality", "pairs_finding", "stability", "worth", "worth_tables"]

OBJECTIVES = {"ecpo": "ECPO", "grpo": "GRPO", "grpo_kl": "GRPO with KL"}
ARMS = {
    "none": "no format reward",
    "random": "5 of 128 at random",
    "top": "the 5 likeliest",
    "punished": "illegal ones punished",
    "frozen": "next-token training alone",
}
EXPLODED = 50.0  # times the start
WORDS = {
    "pscore": "P-Score",
    "long_view": "long-view tower",
    "beam": "by beam search",
    "off_policy": "off-policy",
    "looks10": "chosen among ten looks",
    "world0": "on a third world",
    "world2": "on a second world",
}


def stability(frame: pd.DataFrame) -> go.Figure:
    """How far the policy's gradient grows, by how old the sampling policy is."""
    if frame.empty:
        return theme.nothing("This was not measured.", _run("stability"), "stability")
    middle = frame.groupby(["objective", "rate", "lag"])["growth"].median().reset_index()
    fig = theme.figure(
        title=_stability_title(frame, middle),
        alt="Largest gradient over that of the start, median of the seeds: "
        + "; ".join(
            f"{OBJECTIVES[str(r['objective'])]}, rate {r['rate']:g}, lag {r['lag']:,}: "
            f"{r['growth']:,.1f}"
            for r in middle.to_dict("records")
        ),
        how=_stability_how(frame),
        x="age of the policy that draws, in updates",
        y="largest gradient / that of the start",
        key="stability",
    )
    lags = [f"{lag:,}" for lag in sorted(frame["lag"].unique())]
    for index, (objective, label) in enumerate(OBJECTIVES.items()):
        for rate, mine in middle[middle["objective"] == objective].groupby("rate"):
            fast = rate == middle["rate"].max()
            look = theme.line(index)
            fig.add_scatter(
                x=[f"{lag:,}" for lag in mine["lag"]],
                y=mine["growth"],
                name=f"{label}, rate {rate:g}",
                mode="lines+markers",
                line=look | {"dash": "solid" if fast else "dot"},
                marker={"size": 9, "symbol": theme.SYMBOLS[index] + ("" if fast else "-open")},
                hovertemplate=f"{label}<br>%{{y:,.1f}} times<extra></extra>",
            )
            own = frame[(frame["objective"] == objective) & (frame["rate"] == rate)]
            fig.add_scatter(
                x=[f"{lag:,}" for lag in own["lag"]],
                y=own["growth"],
                mode="markers",
                marker={"size": 5, "color": look["color"], "symbol": theme.SYMBOLS[index]},
                showlegend=False,
                hovertemplate=f"{label}, one seed<br>%{{y:,.1f}} times<extra></extra>",
            )
    fig.add_hline(y=EXPLODED, line={"color": theme.GREY, "dash": "dash", "width": 1})
    fig.add_annotation(
        text=f"above {EXPLODED:g} times", showarrow=False, x=0, xref="paper", xanchor="left",
        y=log10(EXPLODED), yanchor="bottom",  # on a logarithmic axis Plotly wants the logarithm
    )  # fmt: skip
    fig.update_yaxes(**theme.log_axis(1, float(frame["growth"].max())))
    fig.update_xaxes(type="category", categoryorder="array", categoryarray=lags)
    return fig


def _run(name: str) -> str:
    return f"Measure it with: python -m onerec.bench.{name}"


def _stability_title(frame: pd.DataFrame, middle: pd.DataFrame) -> str:
    """The wildest arm, how far the others go at most, and what explodes: KL alone, or seeds."""
    worst = middle.sort_values("growth").iloc[-1]
    most = middle.groupby("objective")["growth"].max().drop(worst["objective"]).sort_values()
    others = [f"{OBJECTIVES[str(arm)]}'s at most {grown:.1f}" for arm, grown in most.items()]
    explode = set(frame.loc[frame["explodes"], "objective"])
    found = ": it is the KL term that explodes" if explode == {"grpo_kl"} else ""
    wild = frame.loc[frame["growth"] > EXPLODED, "objective"].unique()
    if not explode and len(wild):
        seeds = " and ".join(label for arm, label in OBJECTIVES.items() if arm in wild)
        found = f"; single seeds of {seeds} pass {EXPLODED:g}"
    return (
        f"With a policy that is {theme.count(worst['lag'], 'update')} old the gradient of "
        f"{OBJECTIVES[str(worst['objective'])]} grows {worst['growth']:,.0f} times, "
        f"{', '.join(reversed(others))} (medians of the seeds){found}"
    )


def _stability_how(frame: pd.DataFrame) -> str:
    lines = []
    for (lag, objective), mine in frame[frame["objective"] != "ecpo"].groupby(["lag", "objective"]):
        worst = mine.sort_values("low").iloc[-1]
        said = "explodes" if mine["explodes"].any() else "does not explode"
        said += "; void, the early clip never acted" if mine["void"].any() else ""
        lines.append(
            f"- lag {lag:,}, {OBJECTIVES[str(objective)]}: next-token loss minus ECPO's at rate "
            f"{worst['rate']:g} [{worst['low']:+z.4f}, {worst['high']:+z.4f}]; it {said}"
        )
    return (
        f"{frame['seed'].nunique()} seeds, two learning rates, the same batches for all; norms of "
        "the policy's gradient before clipping, the largest over the median of the first ten "
        f"steps. *Explodes* is more than {EXPLODED:g} times and a next-token loss worse than "
        "ECPO's by more than its interval. *Void* is a comparison of whose items with A < 0 fewer "
        "than 1% lie above 1+ε+δ. At lag 0 every ratio is 1 and GRPO is ECPO: there no clip can "
        "act, and nothing is called void.\n\n"
        + "\n".join(lines)
        + f"\n\n{frame.attrs.get('note', '')}\n\n`python -m onerec.bench.stability`"
    )


def legality(frame: pd.DataFrame) -> go.Figure:
    """How much of what is written without the trie is an item, by what rewards the spelling."""
    if frame.empty:
        return theme.nothing("This was not measured.", _run("legality"), "legality")
    every = frame.drop_duplicates("arm").set_index("arm")["end"]
    ends = every.drop("frozen", errors="ignore")  # it is no alignment
    start = float(frame.loc[frame["step"] == 0, "legality"].iloc[0])
    best = str(ends.idxmax())
    fig = theme.figure(
        title=f"Of what is written freely {theme.percent(start)} is an item before alignment and "
        f"{theme.percent(ends.min())} to {theme.percent(ends.max())} after it; the most where "
        + ("illegal ones are punished" if best == "punished" else f"the reward is: {ARMS[best]}"),
        alt=f"Share of legal items: {start:.3f} at the start; at the end "
        + "; ".join(f"{ARMS[str(arm)]} {end:.3f}" for arm, end in ends.items()),
        how="Groups of 128 items drawn without the trie at temperature 1; a mean over 20 steps and "
        "over the seeds. An illegal item leaves the P-Score's group in every arm. The report sees "
        "legality fall below 50% without a format reward and rise to 95% with five items at "
        f"random; here it {'falls in an arm' if ends.min() < start else 'does not fall'}.\n\n"
        "`python -m onerec.bench.legality`",
        x="policy steps",
        y="share of legal items",
        key="legality",
    )
    for index, (arm, label) in enumerate(ARMS.items()):
        mine = frame[frame["arm"] == arm]
        if mine.empty:
            continue
        fig.add_scatter(
            x=mine["step"],
            y=mine["legality"],
            name=label,
            mode="lines" if len(mine) > 2 else "lines+markers",
            line=theme.line(index),
            marker={"symbol": theme.SYMBOLS[index]},
            hovertemplate=f"{label}<br>step %{{x:,}}: %{{y:.1%}}<extra></extra>",
        )
    fig.update_yaxes(tickformat=".0%")
    return fig


def worth(frame: pd.DataFrame, k: int = 32) -> go.Figure:
    """What the reward model says that alignment has gained, against what the truth says."""
    mine = frame[frame["k"] == k] if len(frame) else frame
    if mine.empty:
        return theme.nothing(f"This was not measured for {k} items.", _run("worth"), "worth")
    kept = mine[mine["held"]]
    best = (kept if len(kept) else mine).sort_values("headroom").iloc[-1]
    fig = theme.figure(
        title=f"Of the way to the best possible {k} items {theme.percent(best['headroom'])} is "
        f"covered at {best['recall']:+z.1%} recall on test; the reward model promised "
        + _promise(best["predicted"] - best["true"]),
        alt=f"Gain in the mean over {k} items, predicted and true: "
        + "; ".join(
            f"{_whole_name(r['arm'])}: "
            f"{r['predicted']:+z.3f} and {r['true']:+z.3f}, "
            f"recall {r['recall']:+z.1%}"
            for r in mine.to_dict("records")
        ),
        how="Each point is a training with a reward; whiskers are 95% intervals, paired by seed "
        "with the same training without one. Filled where every seed held 98% of valid "
        "recall@10, the rule for taking a step; hollow where not, or where nobody wrote it "
        "down; hover says which training it is. Above the diagonal the reward model "
        "promises more than the truth keeps: reward hacking.\n\n`python -m onerec.bench.worth`",
        x="true gain",
        y="claimed gain",
        height=480,
        key="worth",
    )
    named = mine.assign(
        family=mine["arm"].map(arm_family),
        name=mine["arm"].map(_whole_name),
        label=np.where(mine.index == best.name, "best that holds valid recall", ""),
        hollow=np.where(mine["held"], "", "-open"),
    )
    for index, (family, own) in enumerate(named.groupby("family")):
        own = own.sort_values(["hollow", "true"])  # the legend shows the first
        symbol = theme.SYMBOLS[index % len(theme.SYMBOLS)]
        fig.add_scatter(
            x=own["true"],
            y=own["predicted"],
            name=str(family),
            mode="markers+text",
            text=own["label"],
            textposition="bottom right",
            marker={
                "size": 11,
                "color": theme.COLOURS[index % len(theme.COLOURS)],
                "symbol": [symbol + hollow for hollow in own["hollow"]],
            },
            error_x=_whisker(own, "true"),
            error_y=_whisker(own, "predicted"),
            customdata=own[["recall", "headroom", "name"]],
            hovertemplate="%{customdata[2]}<br>true %{x:+.4f}, claimed %{y:+.4f}<br>"
            "%{customdata[1]:.1%} of the way, recall %{customdata[0]:+.1%}<extra></extra>",
        )
    most = float(max(mine["predicted_high"].max(), mine["true_high"].max()))
    diagonal = {"color": theme.GREY, "dash": "dash", "width": 1}
    fig.add_shape(type="line", x0=0, y0=0, x1=most, y1=most, line=diagonal)
    return fig


def _promise(beyond: float) -> str:
    """How far what was promised lies from what was true."""
    if abs(beyond) < 5e-4:
        return "just what was true"
    return f"{abs(beyond):.3f} {'more' if beyond > 0 else 'less'} than was true"


def arm_family(arm: str) -> str:
    """`long_view+beam+tilt4@1` -> "long-view tower, drawn to a power of it"."""
    reward, *rest = arm.partition("@")[0].split("+")
    tilted = any(name.startswith("tilt") for name in rest)
    return WORDS.get(reward, reward) + (", drawn to a power of it" if tilted else "")


def arm_name(arm: str) -> str:
    """`long_view+beam+g512@0.8` -> "long-view tower, by beam search, groups of 512"."""
    said = []
    for name in arm.partition("@")[0].split("+"):
        if name[:1] in "gu" and name[1:].isdigit():
            size = f"{int(name[1:]):,}"
            said.append(f"groups of {size}" if name[0] == "g" else f"{size} users")
        elif name.startswith("tilt"):
            said.append(f"drawn to reward^{name[4:]}")
        else:
            said.append(WORDS.get(name, name))
    return ", ".join(said)


def arm_weight(arm: str) -> float:
    """The weight of the policy's loss in an arm's name: `pscore+beam@0.3` -> 0.3, or nan."""
    return float(arm.split("@")[1]) if "@" in arm else nan


def _whole_name(arm: str) -> str:
    weight = arm_weight(arm)
    return arm_name(arm) + ("" if isnan(weight) else f", weight {weight:g}")


def _whisker(rows: pd.DataFrame, name: str) -> dict[str, object]:
    """The intervals about points, in the colour of the points."""
    above, below = rows[f"{name}_high"] - rows[name], rows[name] - rows[f"{name}_low"]
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "width": 2}
