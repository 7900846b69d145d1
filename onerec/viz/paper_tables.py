"""The paper's tables about alignment, ours beside, drawn: the size of a group; and what else pays.

Each takes a frame of `explain.measured`: `worth_tables` that of its name, `pairs_finding` that of
`worth_pairs`.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from onerec.explain.paper_tables import TIMES
from onerec.viz import theme

NAMES = {"pscore": "P-Score", "long_view": "long view"}
COMMAND = "python -m onerec.bench.worth"


def worth_tables(frame: pd.DataFrame, reward: str = "pscore") -> go.Figure:
    """Is a group of four times the list the best? By the truth of the reward trained on."""
    mine = frame[
        (frame["table"] == 7) & (frame["reward"] == reward) & (frame["target"] == reward)
    ].dropna(subset="more")
    if mine.empty:
        return theme.nothing(
            "Sizes of groups were not compared.",
            f"Measure it with: {COMMAND} --arms none,{reward}+g32,{reward}+g128",
            "worth-tables",
        )
    fig = theme.figure(
        title=f"A group of four times the list {groups_finding(mine)}",
        alt=f"Gain in the true {NAMES[reward]} over no reward: "
        + "; ".join(
            f"{r['k']} items, {r['setting']}: {_with_interval(r)}" for r in mine.to_dict("records")
        )
        + ". The paper, 128 items: "
        + ("; ".join(_papers(mine)) or "nothing of these sizes"),
        how=_how(frame, mine, reward),
        x="items of a group, logarithmic",
        y="more than without a reward",
        height=460,
        key="worth-tables",
    )
    for index, (k, own) in enumerate(mine.groupby("k")):
        _add(fig, int(str(k)), own, index)
    paper = mine[mine["paper"].notna()]
    if len(paper):
        fig.add_scatter(
            x=paper["group"],
            y=paper["paper"],
            name="the paper's Table 7: 128 items, vtr as its own ranker predicts it",
            mode="lines+markers",
            line={"color": theme.GREY, "dash": "dash", "width": 2},
            marker={"symbol": "x", "size": 9},
            hovertemplate="the paper, groups of %{x:,}: %{y:+.1%}<extra></extra>",
        )
    fig.add_hline(y=0, line={"color": theme.GREY, "dash": "dot", "width": 1})
    fig.add_annotation(
        text="0: no reward", showarrow=False, x=0, xref="paper", xanchor="left", y=0,
        yanchor="bottom",
    )  # fmt: skip
    sizes = sorted(mine["group"].unique())
    fig.update_xaxes(type="log", tickvals=sizes, ticktext=[f"{size:,}" for size in sizes])
    fig.update_yaxes(tickformat="+.1%")
    return fig


def _add(fig: go.Figure, k: int, own: pd.DataFrame, index: int) -> None:
    """The curve of lists of k: the truth with intervals, and hollow what was promised."""
    own = own.sort_values("group")
    look, symbol = theme.line(index), theme.SYMBOLS[index]
    advised = own["group"] == TIMES * k
    interval = {
        "array": (own["more_high"] - own["more"]).fillna(0),
        "arrayminus": (own["more"] - own["more_low"]).fillna(0),
    }
    fig.add_scatter(
        x=own["group"],
        y=own["more"],
        name=f"{k} items, the truth",
        mode="lines+markers+text",
        line=look,
        marker={"symbol": symbol, "size": [14 if best else 8 for best in advised]},
        text=[f"{TIMES} × {k}" if best else "" for best in advised],
        textposition="bottom right",
        error_y={"type": "data", "symmetric": False, "width": 4, **interval},
        customdata=own[["gain", "recall"]],
        hovertemplate=f"{k} items, groups of %{{x:,}}<br>%{{y:+.2%}}, that is %{{customdata[0]"
        ":+.4f}<br>recall %{customdata[1]:+.1%}<extra></extra>",
    )
    fig.add_scatter(
        x=own["group"],
        y=own["promised_more"],
        name=f"{k} items, as the reward model says",
        mode="markers",
        marker={"symbol": f"{symbol}-open", "size": 9, "color": look["color"]},
        hovertemplate=f"{k} items, the reward model: %{{y:+.2%}}<extra></extra>",
    )


def groups_finding(mine: pd.DataFrame) -> str:
    """What a group of four times the list does, by how many items are served."""
    found: dict[str, list[str]] = {}
    for k, own in mine.groupby("k"):
        found.setdefault(_verdict(own, TIMES * int(str(k))), []).append(f"{k}")
    return "; ".join(f"{said} at {' and '.join(at)} items" for said, at in found.items())


def _verdict(own: pd.DataFrame, size: int) -> str:
    """Of one number of items: one size is above another where the interval of it says so."""
    four, others = own[own["group"] == size], own[own["group"] != size]
    if four.empty:
        return f"({size:,}) was not measured"
    if float(four["more_high"].iloc[0]) < 0:
        return "is worse than no reward"
    better, worse = others[others["past_low"] > 0], others[others["past_high"] < 0]
    sure = float(four["more_low"].iloc[0]) > 0
    unsure = "" if sure else ", and its own gain is not sure,"
    if others.empty:
        return f"is the only one measured{unsure}"
    if len(better):
        return f"gains less than {_sizes(better)}{unsure}"
    if worse.empty:
        return f"is not told apart from any other{unsure}"
    if len(worse) == len(others):
        return f"gains the most{unsure}"
    rest = others.drop(worse.index)
    return f"gains more than {_sizes(worse)}, but is not told apart from {_sizes(rest)}{unsure}"


def _sizes(rows: pd.DataFrame) -> str:
    """ "one of 32 and of 512"."""
    return "one of " + " and of ".join(f"{size:,}" for size in sorted(rows["group"]))


def _papers(mine: pd.DataFrame) -> list[str]:
    known = mine[mine["paper"].notna()]
    return [f"{r['setting']} {r['paper']:+.1%}" for r in known.to_dict("records")]


def _with_interval(row: dict[Any, Any]) -> str:
    known = row["more_low"] == row["more_low"]
    ends = f" [{row['more_low']:+z.2%}, {row['more_high']:+z.2%}]" if known else ", one seed"
    return f"{row['more']:+z.2%}{ends}"


def _how(frame: pd.DataFrame, mine: pd.DataFrame, reward: str) -> str:
    lines = [
        f"- {r['k']} items, {r['setting']}: {_with_interval(r)}; minus the group of "
        f"{TIMES * r['k']:,}: {_past(r)}; recall@10 {r['recall']:+z.1%}"
        for r in mine.to_dict("records")
    ]
    return (
        f"Each point is a training on {NAMES[reward]}: the mean of the true {NAMES[reward]} over "
        "the list on test, minus that of the same training without a reward, as a share of the "
        "latter; 95% intervals over seeds, paired. Two sizes are told apart where the interval of "
        "their difference leaves out 0: paired by seed where the file has the seeds and both took "
        "the same step, else where their own intervals do not overlap. Hollow: what the reward "
        "model says of the same lists, as a share of the same truth.\n\n"
        + "\n".join(lines)
        + "\n\nThe paper (V1, Table 7) trains on vtr and measures the vtr that its own ranker "
        "predicts: compare it with the hollow points. Of 128 items: "
        + ("; ".join(_papers(mine)) or "nothing of these sizes")
        + f". It advises a group of {TIMES} times the list.\n\n{frame.attrs.get('note', '')}\n\n"
        f"`{frame.attrs.get('command') or COMMAND}`"
    )


def _past(row: dict[Any, Any]) -> str:
    if row["group"] == TIMES * row["k"]:
        return "itself"
    if row["past"] != row["past"]:
        return "not measured"
    ends = f"[{row['past_low']:+z.4f}, {row['past_high']:+z.4f}]"
    return f"{row['past']:+z.4f}" + (f" {ends}" if row["past_low"] == row["past_low"] else "")


def pairs_finding(frame: pd.DataFrame) -> str:
    """What gains more than what, and in lists of how many items."""
    said, several = [], frame["reward"].nunique() > 1
    for (_, reward, setting, against), own in frame.groupby(
        ["table", "reward", "setting", "against"]
    ):
        found: dict[str, list[str]] = {}
        for r in own.to_dict("records"):
            found.setdefault(_compared(r), []).append(f"{r['k']:,}")
        at = "; ".join(f"{verb} {against} at {_listed(ks)} items" for verb, ks in found.items())
        said.append(theme.sentence(f"{setting} {at}") + f" ({NAMES[str(reward)]})" * several)
    return ". ".join(said)


def _compared(row: dict[Any, Any]) -> str:
    if row["more_low"] > 0:
        return "gains more than"
    return "gains less than" if row["more_high"] < 0 else "is not told apart from"


def _listed(words: list[str]) -> str:
    return ", ".join(words[:-1]) + " and " * (len(words) > 1) + words[-1]
