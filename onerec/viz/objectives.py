"""Pictures of a policy objective: its value and its push against the ratio, and items on them.

The curves are the frame of `onerec.explain.policy.curves`, for an advantage of +1 and -1; the dots
that of `dots`, per unit of their own advantage, so that they lie on the curve of their objective.
(GBPO's curve is that of one probability, and its dots have each their own: they lie beside it.)
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from onerec.viz import theme

NAMES = {
    "ecpo": "ECPO",
    "grpo": "GRPO",
    "grpo_kl": "GRPO with KL",
    "gbpo": "GBPO",
    "ppo_clip": "PPO",
    "reinforce": "REINFORCE",
    "dpo": "DPO",
}
LOOKS = {"ecpo": 0, "grpo": 1, "gbpo": 2}  # colour and dash of `theme.line`
EFFECT_LOOKS = {
    "pushes": (theme.SKY, "circle"),
    "bounded push": (theme.GOLD, "diamond"),
    "clipped: no push": (theme.PINK, "x"),
    "no advantage": (theme.GREY, "circle-open"),
    "not chosen": (theme.GREY, "triangle-up-open"),
    "left out": (theme.GREY, "line-ew-open"),
}
RATIO = "ratio π / π_old of the whole item"
ONE_RATIO = "One ratio per item: all its codes together, not one per code."
DOTS_SHOWN = 2000
TICKS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20)
NEAR = (0.25, 4.0)  # ratios shown at least where there are items
NEAR_TICKS = (0.3, 0.5, 0.7, 1, 1.5, 2, 3)


def value(
    curves: pd.DataFrame,
    dots: pd.DataFrame | None = None,
    *,
    advantage: float = -1.0,
    epsilon: float = 0.2,
    delta: float = 0.1,
) -> go.Figure:
    """What one item adds to the objective, against its ratio, for one sign of the advantage."""
    bound = 1 + epsilon + delta
    own = _own(curves, advantage, dots, (1 - epsilon, bound))
    ends = _ends(own, "value")
    fig = _figure(
        _value_finding(ends, own, advantage, epsilon, bound) + _dots_words(dots, advantage),
        "value", own, ends, "value of an item, per unit of |A|",
        f"min(ρ A, clip(ρ, {1 - epsilon:.3g}, {1 + epsilon:.3g}) A) for ECPO and GRPO, ρ A for "
        f"GBPO. GRPO: ρ = π/π_old. ECPO: ρ = π / max(π/{bound:.3g}, π_old), so ρ ≤ {bound:.3g}. "
        "GBPO: ρ = π / max(π_old, π) for A ≥ 0, π / max(π_old, 1 - π) for A < 0. "
        f"A = {advantage:+z.0f}. {ONE_RATIO}",
    )  # fmt: skip
    _draw(fig, own, dots, "value", advantage, epsilon, delta)
    return fig


def push(
    curves: pd.DataFrame,
    dots: pd.DataFrame | None = None,
    *,
    advantage: float = -1.0,
    epsilon: float = 0.2,
    delta: float = 0.1,
) -> go.Figure:
    """The gradient of the same by the item's log-probability: how hard it pushes the model."""
    bound = 1 + epsilon + delta
    own = _own(curves, advantage, dots, (1 - epsilon, bound))
    ends = _ends(own, "push")
    fig = _figure(
        _push_finding(ends, advantage, epsilon, bound),
        "push", own, ends, "push: d value / d ln π, per unit of |A|",
        "push = ρ A where the value still moves with π, 0 where the clip holds it. ECPO's "
        f"denominator is a constant to the gradient: for A < 0 beyond {bound:.3g} the value is "
        f"flat, yet the push stays A (1+ε+δ) = -1 × (1 + {epsilon:.3g} + {delta:.3g}) = "
        f"{-bound:.3g}. Bounded, not zero. {ONE_RATIO}",
    )  # fmt: skip
    _draw(fig, own, dots, "push", advantage, epsilon, delta)
    return fig


def regions(frame: pd.DataFrame) -> go.Figure:
    """Items of a step by region of the ratio and sign of the advantage."""
    if frame.empty or not frame["items"].sum():
        return theme.nothing(
            "No item of this step has an advantage.",
            "All its groups are flat; choose another step.",
            "regions",
        )
    total = int(frame["items"].sum())
    by_effect = frame.groupby("effect")["items"].sum()
    silent, bounded = (int(by_effect.get(name, 0)) for name in ("clipped: no push", "bounded push"))
    fig = theme.figure(
        title=f"Of {theme.count(total, 'item')} with an advantage, {silent:,} "
        f"{'is' if silent == 1 else 'are'} clipped ({theme.percent(silent / total)}) and "
        f"{bounded:,} {'pushes' if bounded == 1 else 'push'} with a bound "
        f"({theme.percent(bounded / total)})",
        alt="Bars of items by region of the ratio: "
        + "; ".join(
            f"{r['region']}, {r['advantage']}: {r['items']} ({r['effect']})"
            for r in frame.to_dict("records")
        ),
        how="An item's region is where π/π_old lies. Clipped: the value does not move with π, so "
        f"no push. {silent:,} / {total:,} = {silent / total:.3f}. A bounded push is weaker than "
        "π/π_old times A, but not zero. Items without an advantage are not counted here.",
        x="items",
        height=330,
        key="regions",
    )
    for side, colour, pattern in (("A > 0", theme.BLUE, ""), ("A < 0", theme.ORANGE, "/")):
        part = frame[frame["advantage"] == side]
        fig.add_bar(
            x=part["items"],
            y=part["region"],
            orientation="h",
            name=side,
            marker={"color": colour, "pattern": {"shape": pattern}},
            text=[f"{r['items']} · {r['effect']}" for r in part.to_dict("records")],
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{y}: %{x:,} items with " + side + "<extra></extra>",
        )
    order = ["below 1-ε", "inside 1±ε", "above 1+ε", "above 1+ε+δ"]
    fig.update_yaxes(categoryorder="array", categoryarray=order[::-1])
    fig.update_xaxes(range=[0, 1.45 * float(frame["items"].max())])
    fig.update_layout(barmode="group")
    return fig


def _own(
    curves: pd.DataFrame, advantage: float, dots: pd.DataFrame | None, bounds: tuple[float, float]
) -> pd.DataFrame:
    """The curves of this sign; with items, only around these and the bounds: none is a heap."""
    own = curves.loc[curves["advantage"] * advantage > 0]
    if dots is None or dots.empty:
        return own
    least = min(NEAR[0], bounds[0] / 1.5, float(dots["ratio"].min()) / 1.2)
    most = max(NEAR[1], bounds[1] * 1.5, float(dots["ratio"].max()) * 1.2)
    return own[own["ratio"].between(least, most)]


def _ends(own: pd.DataFrame, column: str) -> dict[str, float]:
    """Objective -> its value or push at the greatest ratio."""
    return {str(name): float(part[column].iloc[-1]) for name, part in own.groupby("objective",
            sort=False)}  # fmt: skip


def _value_finding(
    ends: dict[str, float], own: pd.DataFrame, advantage: float, epsilon: float, bound: float
) -> str:
    edge = bound if advantage < 0 else 1 + epsilon
    words = []
    for name, end in ends.items():
        reach = own.loc[own["objective"] == name, "ratio"].max()
        falls = advantage < 0 and name != "ecpo"
        verb = f"reaches {end:.3g} at {reach:.3g}" if falls else f"is flat at {end:.3g}"
        words.append(f"{NAMES[name]}'s {verb}")
    return f"The value beyond a ratio of {edge:.3g}: " + ", ".join(words)


def _push_finding(ends: dict[str, float], advantage: float, epsilon: float, bound: float) -> str:
    edge = bound if advantage < 0 else 1 + epsilon
    words = []
    for name, end in ends.items():
        if advantage < 0 and name == "ecpo":
            words.append(f"ECPO's stays at {end:.3g}, a bounded push")
        elif advantage < 0:
            words.append(f"{NAMES[name]}'s grows to {end:.3g}")
        else:
            words.append(
                f"{NAMES[name]}'s stays at {end:.3g}" if end else f"{NAMES[name]} has none"
            )
    return f"The push beyond a ratio of {edge:.3g}: " + ", ".join(words)


def _dots_words(dots: pd.DataFrame | None, advantage: float) -> str:
    """How many of the items lie beyond the ratio that the finding speaks of."""
    if dots is None or dots.empty:
        return ""
    part = dots[dots["advantage"] * advantage > 0]
    beyond = ("above 1+ε+δ",) if advantage < 0 else ("above 1+ε", "above 1+ε+δ")
    far = int(part["region"].isin(beyond).sum())
    side = "A < 0" if advantage < 0 else "A > 0"
    return f"; {far:,} of this step's {len(part):,} items with {side} lie there"


def _figure(
    title: str, kind: str, own: pd.DataFrame, ends: dict[str, float], y: str, how: str
) -> go.Figure:
    reach = float(own["ratio"].max()) if len(own) else 1.0
    fig = theme.figure(
        title=title,
        alt=f"Lines of the {kind} of an item against its ratio on a logarithmic axis up to "
        f"{reach:.3g}; at the end " + "; ".join(f"{NAMES[n]} {e:.3g}" for n, e in ends.items()),
        how=how,
        x=RATIO,
        y=y,
        height=420,
        key=f"objective-{kind}",
    )
    ticks = NEAR_TICKS if reach < TICKS[-3] else TICKS
    fig.update_xaxes(type="log", tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks])
    return fig


def _draw(
    fig: go.Figure,
    own: pd.DataFrame,
    dots: pd.DataFrame | None,
    column: str,
    advantage: float,
    epsilon: float,
    delta: float,
) -> None:
    for name, part in own.groupby("objective", sort=False):
        fig.add_scatter(
            x=part["ratio"],
            y=part[column],
            name=NAMES[str(name)],
            mode="lines",
            line=theme.line(LOOKS[str(name)]) | {"width": 3},
            hovertemplate="ratio %{x:.3g}: %{y:.3g}",
        )
    if dots is not None and len(dots):
        _add_dots(fig, dots[np.sign(dots["advantage"]) == np.sign(advantage)], column)
    _mark_bounds(fig, epsilon, delta)
    # far GRPO would press everything else flat: the picture ends a little beyond the bound
    reach = max(2.0, 1.5 * (1 + epsilon + delta))
    fig.update_yaxes(range=[-reach, 0.15 * reach] if advantage < 0 else [-0.15 * reach, reach])


def _add_dots(fig: go.Figure, dots: pd.DataFrame, column: str) -> None:
    """The items of a step, told apart by what becomes of them in colour and in symbol."""
    if len(dots) > DOTS_SHOWN:
        dots = dots.iloc[np.linspace(0, len(dots) - 1, DOTS_SHOWN).astype(int)]
    for name, (colour, symbol) in EFFECT_LOOKS.items():
        part = dots[dots["effect"] == name]
        if part.empty:
            continue
        fig.add_scatter(
            x=part["ratio"],
            y=part[f"unit_{column}"],
            name=f"item, {name}",
            mode="markers",
            marker={"symbol": symbol, "size": 9, "color": colour, "opacity": 0.85},
            customdata=part[["user", "place", "advantage", column]],
            hovertemplate="user %{customdata[0]}, place %{customdata[1]}: ratio %{x:.3f}, "
            "A %{customdata[2]:.2f}, " + column + " %{customdata[3]:.3f}<extra></extra>",
        )


def _mark_bounds(fig: go.Figure, epsilon: float, delta: float) -> None:
    """A thin line at each bound of the ratio, its name beside it; the names do not meet."""
    bounds = [("1-ε", 1 - epsilon, 1.0), ("1+ε", 1 + epsilon, 1.0)]
    bounds.append(("1+ε+δ", 1 + epsilon + delta, 0.93))
    for name, ratio, height in bounds:
        fig.add_vline(x=ratio, line={"color": theme.GREY, "width": 1, "dash": "dot"})
        fig.add_annotation(
            x=float(np.log10(ratio)),
            y=height,
            yref="paper",
            yanchor="top",
            text=f"{name} = {ratio:.3g}",
            showarrow=False,
            xanchor="right" if ratio < 1 else "left",
            font_size=12,
        )
