"""Pictures of quantisers side by side on the same items: what they lose, and how they use codes.

Each takes the frame of the function of the same name in `onerec.explain.quantisers`; `compared` is
drawn as `losses` and as `purity`.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from onerec.viz import theme

MEASURE = "Measure them with: onerec bench quantisers --run NAME"
NO_SPREAD = "The vectors do not vary: there is nothing to lose."
NAMES = {
    "rq_kmeans": "RQ-Kmeans",
    "refined": "refined",
    "balanced": "balanced",
    "rq_vae": "RQ-VAE",
    "random": "drawn by lot",
}
MEASURES = {
    "spread_left": "spread left",
    "entropy_nats": "entropy in nats",
    "utilisation": "codes in use",
    "dead_codes": "dead codes",
}
HOWS = {
    "spread_left": "Σ|x - x̂|² / Σ|x - mean|² of the first levels, up to this one",
    "entropy_nats": "H = -Σ p ln p over the codes' shares p of the items; at most ln N",
    "utilisation": "codes that an item has / codes of the codebook",
    "dead_codes": "codes that no item has",
}


def losses(frame: pd.DataFrame) -> go.Figure:
    """The relative reconstruction error of items that were fitted and of items that were not."""
    if frame.empty:
        return theme.nothing("No quantisers were compared yet.", MEASURE, "losses")
    if frame[["loss", "held_out_loss"]].isna().all().any():
        return theme.nothing(NO_SPREAD, MEASURE, "losses")
    (best, loss), (held, held_loss) = (_least(frame, one) for one in ("loss", "held_out_loss"))
    seeds = int(frame["seeds"].max())
    where = f"of the items it was fitted on, {held} of new ones"
    if best == held:
        where = "of the items it was fitted on and of new ones"
    fig = theme.figure(
        title=f"{theme.sentence(best)} loses least {where}: {loss} and {held_loss}",
        alt="Bars of the relative reconstruction error: "
        + "; ".join(
            f"{NAMES[r['kind']]} fitted {r['loss']:.3f}, new {r['held_out_loss']:.3f}"
            for r in frame.to_dict("records")
        ),
        how="Σ|x - x̂|² / Σ|x - mean|², x̂ what an item's codes stand for. New: another fit leaves "
        "a fifth of the items out and is measured on them. Whiskers are the least and the greatest "
        f"of {seeds} seed{'s' * (seeds > 1)}. "
        + "; ".join(
            f"{NAMES[r['kind']]}: {r['loss']:.4f} and {r['held_out_loss']:.4f}"
            for r in frame.to_dict("records")
        ),
        y="spread left (relative error)",
        key="quantiser-losses",
    )
    _pairs_of_bars(fig, frame, {"loss": "fitted", "held_out_loss": "new items"}, theme.COLOURS)
    fig.update_yaxes(rangemode="tozero", tickformat=".0%")
    return fig


def by_level(frame: pd.DataFrame, measure: str = "spread_left") -> go.Figure:
    """One measure level by level, a line a kind; entropy with its bound ln N.

    Raises:
        ValueError: a measure that is not one of `MEASURES`.
    """
    if measure not in MEASURES:
        raise ValueError(f"measure={measure!r}: choose one of {', '.join(MEASURES)}")
    if frame.empty:
        return theme.nothing("No quantisers were compared yet.", MEASURE, "by_level")
    last = frame[(frame["level"] == frame["level"].max()) & frame[measure].notna()]
    if last.empty:
        return theme.nothing(NO_SPREAD, MEASURE, "by_level")
    fig = theme.figure(
        title=_level_finding(last, measure),
        alt=f"Lines of {MEASURES[measure]} by level: "
        + "; ".join(
            f"{NAMES[str(kind)]} {', '.join(_number(v, measure) for v in own[measure])}"
            for kind, own in frame.groupby("kind", sort=False)
        ),
        how=f"{HOWS[measure]}. Means over the seeds: "
        + "; ".join(
            f"{NAMES[str(kind)]}: {', '.join(f'{v:.4g}' for v in own[measure])}"
            for kind, own in frame.groupby("kind", sort=False)
        )
        + f". ln N = {frame['max_entropy_nats'].iloc[0]:.3f}.",
        y=MEASURES[measure],
        key=f"quantiser-{measure}",
    )
    for place, (kind, own) in enumerate(frame.groupby("kind", sort=False)):
        fig.add_scatter(
            x=[f"level {level}" for level in own["level"]],
            y=own[measure],
            name=NAMES[str(kind)],
            mode="lines+markers",
            line=theme.line(place),
            marker={"symbol": theme.SYMBOLS[place], "size": 10},
            customdata=own[[f"{measure}_low", f"{measure}_high"]],
            hovertemplate="%{x}: %{y:.4g} (%{customdata[0]:.4g} to %{customdata[1]:.4g})",
        )
    if measure == "entropy_nats":
        bound = float(frame["max_entropy_nats"].iloc[0])
        fig.add_scatter(
            x=[f"level {level}" for level in sorted(frame["level"].unique())],
            y=[bound] * frame["level"].nunique(),
            name="bound ln N",
            mode="lines",
            line={"color": theme.GREY, "dash": "dash", "width": 2},
        )
    percent = measure in ("spread_left", "utilisation")
    fig.update_yaxes(rangemode="tozero", tickformat=".0%" if percent else None)
    return fig


def purity(frame: pd.DataFrame) -> go.Figure:
    """How far first codes agree with the items' categories, beside what chance gives."""
    known = frame.dropna(subset=["purity"])
    if known.empty:
        return theme.nothing(
            "The items have no categories to compare with.",
            "Import items that have a column category.",
            "purity",
        )
    best = max(known.to_dict("records"), key=lambda row: row["purity"])
    fig = theme.figure(
        title=f"First codes of {NAMES[best['kind']]} agree most with the categories: "
        f"{theme.percent(best['purity'])}, {theme.percent(best['chance'])} by chance",
        alt="Bars of purity beside chance: "
        + "; ".join(
            f"{NAMES[r['kind']]} {r['purity']:.3f}, chance {r['chance']:.3f}"
            for r in known.to_dict("records")
        ),
        how="Purity: the share of items whose category is the commonest among the items of their "
        "first code. Chance: the same with the categories shuffled, as many small codes are pure "
        "by luck. "
        + "; ".join(
            f"{NAMES[r['kind']]}: {r['purity']:.4f} over {r['chance']:.4f}"
            for r in known.to_dict("records")
        ),
        y="share of the items",
        key="quantiser-purity",
    )
    colours = theme.GREEN, theme.GREY
    _pairs_of_bars(fig, known, {"purity": "purity", "chance": "by chance"}, colours)
    fig.update_yaxes(range=[0, 1.02], tickformat=".0%")
    return fig


def _least(frame: pd.DataFrame, column: str) -> tuple[str, str]:
    """Who loses least, and how much."""
    best = min(frame.dropna(subset=[column]).to_dict("records"), key=lambda row: row[column])
    return NAMES[best["kind"]], theme.percent(best[column], 1)


def _with_ends(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    ends = {f"{column}_low": "low", f"{column}_high": "high", column: "value"}
    return frame[list(ends)].rename(columns=ends)


def _level_finding(last: pd.DataFrame, measure: str) -> str:
    """The extremes at the last level."""
    rows = last.to_dict("records")
    low, high = (end(rows, key=lambda row: row[measure]) for end in (min, max))
    where = f"level {int(low['level'])}"
    least, most = _number(low[measure], measure), _number(high[measure], measure)
    if least == most:
        return f"At {where} all are alike: {MEASURES[measure]} {least}"
    return (
        f"{theme.sentence(MEASURES[measure])} at {where}: {least} ({NAMES[low['kind']]}) to "
        f"{most} ({NAMES[high['kind']]})"
    )


def _number(value: float, measure: str) -> str:
    if measure in ("spread_left", "utilisation"):
        return theme.percent(value, 1 if measure == "spread_left" else 0)
    return f"{value:.2f}" if measure == "entropy_nats" else f"{value:,.0f}"


def _pairs_of_bars(
    fig: go.Figure, frame: pd.DataFrame, columns: dict[str, str], colours: Sequence[str]
) -> None:
    """Bars of each kind side by side, one for each of `columns` (column -> its name)."""
    for (column, name), colour, shape in zip(
        columns.items(), colours, theme.PATTERNS, strict=False
    ):
        theme.add_bars(
            fig,
            [NAMES[kind] for kind in frame["kind"]],
            _with_ends(frame, column),
            group=column,
            name=name,
            marker={"color": colour, "pattern": {"shape": shape}},
            hovertemplate="%{x}, " + name + ": %{y:.4f}<extra></extra>",
        )
    fig.update_layout(barmode="group")
