"""What a policy step saw and did: its groups, its items, how each pushed the model, and why.

Reads rollouts/step-NNNNNN.parquet (one row per generated item, see `onerec.rollouts`) and the lines
of stage `align` in metrics.jsonl. There is one ratio per item, of its whole code sequence. What an
objective does with it stands in `onerec.explain.objectives`; its curves are named here, too.
Legend: B users, G items of a group, L levels.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from onerec.data.tables import check_rows, check_step, read_parquet
from onerec.errors import DataError, RunError
from onerec.explain import objectives, training
from onerec.explain.dataset import titles
from onerec.explain.objectives import BOUNDED, REGIONS, SILENT, curves
from onerec.explain.query import empty
from onerec.explain.tokens import code_columns, text_of
from onerec.runs import Run

__all__ = [
    "age",
    "curves",
    "dots",
    "groups",
    "items",
    "levels",
    "pass_at_k",
    "recorded",
    "regions",
    "reward_curves",
    "reward_formula",
    "rule",
    "steps",
]

PARTS = "parts of the reward"
PANELS = {  # one unit each
    "reward": ("reward", "valid_reward"),
    PARTS: (),  # every metric reward_<part>: apart, since there may be eight of them
    "share": ("legality", "outside", "beyond", "flat_groups"),
    "loss": ("loss", "next_token", "policy"),
    "gradient norm": ("grad_norm",),
    "ratio": ("ratio_max",),
    "recall@10 on valid": ("valid_recall@10",),
}
PASS = "valid_pass@"
STEP_COLUMNS = (
    *("step", "objective", "epsilon", "delta", "groups", "items", "reward", "flat_groups"),
    *("legality", "outside", "clipped", "bounded", "ratio_max"),
)


def recorded(run: Run) -> list[int]:
    """The steps that were recorded, ascending."""
    files = (run.path / "rollouts").glob("step-*.parquet")
    return sorted(int(f.stem[5:]) for f in files if f.stem[5:].isdigit())


def steps(run: Run, *, through: int | None = None, limit: int = 60) -> pd.DataFrame:
    """One row per recorded step up to `through`; of very many, `limit` evenly spread ones.

    reward is the mean over the items that count, as in metrics.jsonl; flat_groups counts groups
    without a spread of rewards; legality is the share of items whose codes are an item's; outside
    the share of counted items with a ratio beyond 1±ε; clipped and bounded are shares of the items
    with an advantage.
    """
    known = [step for step in recorded(run) if through is None or step <= through]
    if len(known) > limit:
        known = [known[index] for index in np.linspace(0, len(known) - 1, limit).astype(int)]
    rows = [_summary(step, *_rows(run, step)) for step in known]
    return pd.DataFrame(rows, columns=list(STEP_COLUMNS)) if rows else empty(STEP_COLUMNS)


def _summary(step: int, rows: pd.DataFrame, taken: dict[str, Any]) -> dict[str, Any]:
    counted = rows[rows["counted"]]
    teaching = counted[counted["advantage"] != 0]
    strongest = rows["advantage"].abs().groupby(rows["group"]).max()
    return {
        "step": step,
        **{name: taken[name] for name in ("objective", "epsilon", "delta")},
        "groups": rows["group"].nunique(),
        "items": len(rows),
        "reward": float(counted["reward"].mean()) if len(counted) else 0.0,
        "flat_groups": int((strongest == 0).sum()),
        "legality": float((rows["item"] >= 0).mean()),
        "outside": _share(counted["region"] != REGIONS[1]),
        "clipped": _share(teaching["effect"] == SILENT),
        "bounded": _share(teaching["effect"] == BOUNDED),
        "ratio_max": float(counted["ratio"].max()) if len(counted) else np.nan,
    }


def rule(run: Run, step: int) -> dict[str, Any]:
    """By what a step was taken: objective, epsilon, delta, beta, and the rewards' weights."""
    return _rows(run, step)[1]


def age(run: Run, step: int) -> tuple[int, int] | None:
    """(updates made since the weights that drew a step's items, updates after which the drawing
    copy gets new ones; 0: the policy itself draws); None where the recipe does not say."""
    lag = ((run.recipe().get("recipe") or {}).get("align") or {}).get("lag")
    if lag is None:
        return None
    return ((step - 1) % int(lag) if lag else 0), int(lag)


def groups(run: Run, step: int) -> pd.DataFrame:
    """One row per group: user, counts of its items, the spread of its rewards, and `flat`.

    `flat`: the rewards of its counted items do not differ, so no item of it has an advantage. Its
    rewards are those of the items that count, NaN where none does.
    """
    rows, _ = _rows(run, step)
    flags = rows.assign(
        legal=rows["item"] >= 0,
        clipped=rows["effect"] == SILENT,
        reward=rows["reward"].where(rows["counted"]),
    )
    frame = flags.groupby("group").agg(
        user=("user", "first"),
        items=("item", "size"),
        counted=("counted", "sum"),
        legal=("legal", "sum"),
        reward_mean=("reward", "mean"),
        reward_least=("reward", "min"),
        reward_greatest=("reward", "max"),
        flat=("advantage", lambda values: values.abs().max() == 0),
        clipped=("clipped", "sum"),
        ratio_max=("ratio", "max"),
    )
    return frame.reset_index(drop=True).astype({"flat": bool})


def items(run: Run, step: int, user: int) -> pd.DataFrame:
    """One row per item of a user's group (of his first, where the step drew him twice).

    place, item (-1: no item has these codes), title, codes, reward_<part>, reward, advantage,
    drawn and log_prob (of the policy that drew it, and of the policy when the step began), ratio,
    region, effect, push (d objective / d log pi by the advantage), format and format_push (the
    same by the format reward, an advantage by itself), counted; `factor`, by which the industrial
    reward multiplied, and `sampled`, the sampler's own log-probability, where they were recorded.
    """
    rows, _ = _group(run, step, user)
    names = code_columns(rows)
    rows = rows.assign(
        title=titles(run.dataset_folder, rows["item"].tolist()),
        codes=[text_of(codes) for codes in rows[names].to_numpy().tolist()],
    )
    parts = [name for name in rows.columns if str(name).startswith("reward_")]
    more = [name for name in ("factor", "sampled") if name in rows.columns]
    columns = ["place", "item", "title", "codes", *parts, "reward", "advantage", "drawn"]
    columns += ["log_prob", "ratio", "region", "effect", "push", "format"]
    columns += ["format_push", "counted", *more]
    return rows[columns].reset_index(drop=True)


def reward_formula(run: Run, step: int, user: int, place: int) -> str:
    """The reward of one item as its parts: "0.7 × 0.53 (p_score) + 0.1 × 1 (liked) = 0.471".

    A part with the weight 0 is measured and adds nothing: it is left out.
    """
    rows, taken = _group(run, step, user)
    row, weights = _at(rows, place), taken["weights"]
    known = [name for name in sorted(weights) if weights[name] and f"reward_{name}" in rows.columns]
    terms = [f"{weights[name]:g} × {row[f'reward_{name}']:.3g} ({name})" for name in known]
    total = " + ".join(terms)
    if row.get("factor", 1.0) != 1:
        total = f"({total}) × {row['factor']:g} (industrial)"
    return f"{total} = {row['reward']:.3f}"


def levels(run: Run, step: int, user: int, place: int) -> pd.DataFrame:
    """level, code, log_prob (when the step began), drawn, ratio; NaN where not recorded by level.

    The log-probabilities of the levels add up to the item's; the clip sees only their sum.
    """
    rows, _ = _group(run, step, user)
    row = _at(rows, place)
    table = []
    for level, name in enumerate(code_columns(rows), 1):
        drawn, now = (float(row.get(f"{kind}_{level}", np.nan)) for kind in ("drawn", "lp"))
        table.append((level, int(row[name]), now, drawn, float(np.exp(now - drawn))))
    return pd.DataFrame(table, columns=["level", "code", "log_prob", "drawn", "ratio"])


def dots(
    run: Run,
    step: int,
    *,
    objective: str | None = None,
    epsilon: float | None = None,
    delta: float | None = None,
) -> pd.DataFrame:
    """The items of a step that count: ratio, advantage, value, push; both per unit of advantage.

    With an objective, epsilon or delta of one's own: how the same items would have pushed.
    """
    rows, taken = _rows(run, step, objective, epsilon, delta)
    rows = rows[rows["counted"]].reset_index(drop=True)
    name, epsilon, delta = (taken[key] for key in ("objective", "epsilon", "delta"))
    log_prob, drawn, advantage = (
        rows[column].to_numpy(float) for column in ("log_prob", "drawn", "advantage")
    )
    entered = objectives.entering(name, log_prob, drawn, advantage, epsilon, delta)
    gain = objectives.value(name, entered, advantage, epsilon)
    scale = rows["advantage"].abs().where(rows["advantage"] != 0)  # NaN: no place on a curve
    rows = rows.assign(value=gain, unit_value=gain / scale, unit_push=rows["push"] / scale)
    columns = ["user", "place", "item", "ratio", "advantage", "region", "effect", "value", "push"]
    columns += ["unit_value", "unit_push"]
    return rows[columns].assign(objective=name)


def regions(
    run: Run,
    step: int,
    *,
    objective: str | None = None,
    epsilon: float | None = None,
    delta: float | None = None,
) -> pd.DataFrame:
    """region, advantage ("A > 0" or "A < 0"), effect, items: what `dots` draws, counted."""
    found = dots(run, step, objective=objective, epsilon=epsilon, delta=delta)
    found = found[found["advantage"] != 0]
    side = np.where(found["advantage"] > 0, "A > 0", "A < 0")
    named = found.drop(columns="advantage").assign(advantage=side)
    counts = named.groupby(["region", "advantage", "effect"]).size().reset_index(name="items")
    order = counts["region"].map(REGIONS.index)
    return counts.assign(order=order).sort_values(["order", "advantage"]).drop(columns="order")


def reward_curves(run: Run, through: int | None = None) -> pd.DataFrame:
    """panel, metric, step, seconds, value of stage `align`; a panel has one unit (see `PANELS`)."""
    frame = training.curves(run, "align")
    if frame.empty:
        return empty(["panel", "metric", "step", "seconds", "value"])
    place = {name: panel for panel, names in PANELS.items() for name in names}
    parts = {name: PARTS for name in frame["metric"] if str(name).startswith("reward_")}
    frame.insert(0, "panel", frame["metric"].map(place | parts))
    kept = frame["panel"].notna() & (frame["step"] <= (np.inf if through is None else through))
    return frame[kept].reset_index(drop=True)


def pass_at_k(run: Run, through: int | None = None) -> pd.DataFrame:
    """k, before, after, step, kept: pass@K on valid at step 0, and at the step that was kept.

    pass@K is the share of valid users with a target among the first K of their list (ours; V1's
    Table 4 calls so the best reward of K items). While the stage is not done, nothing is kept yet:
    `after` is the last look, up to the step `through`. Empty where there are not both: a run of
    an earlier version has neither.
    """
    lines, chosen = run.metrics("align"), (run.done("align") or {}).get("step")
    names = [str(name) for name in lines.columns if str(name).startswith(PASS)]
    if through is not None:
        lines = lines[lines["step"] <= through]
    rows = []
    for name in sorted(names, key=lambda name: int(name.removeprefix(PASS))):
        looks = lines.dropna(subset=name).drop_duplicates("step", keep="last")
        course = looks.set_index("step")[name].sort_index()
        step = int(chosen if chosen is not None else max(course.index, default=0))
        if {0, step} <= set(course.index) and (step or chosen is not None):
            values = float(course[0]), float(course[step])
            rows.append((int(name.removeprefix(PASS)), *values, step, chosen is not None))
    columns = ["k", "before", "after", "step", "kept"]
    return pd.DataFrame(rows, columns=columns) if rows else empty(columns)


def _group(run: Run, step: int, user: int) -> tuple[pd.DataFrame, dict[str, Any]]:
    rows, taken = _rows(run, step)
    own = rows[rows["user"] == user]
    if own.empty:
        raise RunError(f"user {user}: no group in step {step}; choose one of its users")
    return own[own["group"] == own["group"].iloc[0]], taken


def _at(rows: pd.DataFrame, place: int) -> pd.Series:
    found = rows[rows["place"] == place]
    if found.empty:
        raise RunError(f"place {place}: this group has the places 0 to {len(rows) - 1}")
    return found.iloc[0]


def _rows(
    run: Run,
    step: int,
    objective: str | None = None,
    epsilon: float | None = None,
    delta: float | None = None,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """All rows of a step, with what follows from them (see `items`), and its `rule`.

    An objective, epsilon or delta of one's own stands in the place of the recorded one.
    """
    path = run.path / "rollouts" / f"step-{step:06d}.parquet"
    try:
        rows = read_parquet(path)
        meta = json.loads(rows["step"].iloc[0])
        taken: dict[str, Any] = {"epsilon": objectives.EPSILON, "delta": objectives.DELTA}
        taken |= {"beta": objectives.BETA, "objective": meta["objective"]}
        taken |= {"weights": meta["weights"], **meta["settings"]}
        taken |= {"tilt": meta.get("tilt", 0.0), "beam": meta.get("beam", False)}
        taken |= {"icepop": meta.get("icepop", 0.0), "logged": meta.get("logged", False)}
        check_rows(meta, len(rows))
        check_step(rows)
        asked = {"objective": objective, "epsilon": epsilon, "delta": delta}
        taken |= {name: given for name, given in asked.items() if given is not None}
        return _worked_out(rows, taken), taken
    except (DataError, KeyError, ValueError, IndexError, TypeError, AttributeError) as error:
        raise damaged(run, path, error) from None


def damaged(run: Run, path: Path, error: Exception) -> RunError:
    """What is wrong with a file of rollouts, and what to do about it."""
    whole = isinstance(error, DataError)  # it names the file itself
    why = str(error) if whole else f"{path}: not a whole policy step ({error})"
    there = f"delete the file; the other steps of run {run.name!r} stay"
    gone = f"rollouts/ of run {run.name!r} holds the steps that were recorded"
    return RunError(f"{why}; {there if path.exists() else gone}")


def _worked_out(rows: pd.DataFrame, taken: dict[str, Any]) -> pd.DataFrame:
    size = int(rows["place"].max()) + 1  # G

    def table(name: str) -> np.ndarray:
        return np.asarray(rows[name].to_numpy(float).reshape(-1, size))  # (B, G)

    reward = np.zeros((len(rows) // size, size))
    for name in sorted(str(name) for name in rows.columns if str(name).startswith("reward_")):
        reward = reward + taken["weights"][name.removeprefix("reward_")] * table(name)
    reward = reward * (table("factor") if "factor" in rows else 1.0)
    counted = table("counted").astype(bool)
    bonus = table("format") if "format" in rows else np.zeros_like(reward)
    now, drawn = table("log_prob"), table("drawn")
    how = taken["tilt"], taken["beam"], taken["logged"]
    advantage, often = objectives.advantages(rows, reward, *how)
    if taken["objective"] == "grpo_kl":  # its pull to the reference needs no advantage
        often = np.where((advantage == 0).all(1, keepdims=True), 0.0, often)
    trusted = np.ones_like(reward)
    if taken["icepop"]:
        trusted = objectives.trusted(drawn, table("sampled"), taken["icepop"])
    ratio = objectives.quotient(now, drawn)
    bounds = {name: taken[name] for name in ("epsilon", "delta", "beta")}

    reference = table("reference") if "reference" in rows else drawn
    old = reference if taken["objective"] == "dpo" else drawn
    kl = taken.get("kl", 0.0) if taken["objective"] == "grpo_kl" else 0.0
    drift = -kl * (1 - objectives.quotient(reference, now))

    def pushed(by: np.ndarray, which: np.ndarray) -> np.ndarray:
        return objectives.push(taken["objective"], now, old, by, which, **bounds)

    weight = 1.0 if taken["objective"] == "dpo" else trusted  # DPO takes two items, or not
    counts = counted & (trusted > 0)
    own = pushed(advantage, counts)  # what IcePop's weight and KL's pull make of it is no bound
    push = (own + np.where(counts, drift, 0.0)) * weight
    made = {
        "reward": reward,
        "advantage": advantage,
        "ratio": ratio,
        "region": objectives.region(ratio, taken["epsilon"], taken["delta"]),
        "effect": objectives.effect(taken["objective"], own, ratio, advantage, counts),
        "push": push * often,
        "format": bonus,
        "format_push": pushed(bonus, (bonus != 0) & (trusted > 0)) * weight,
    }
    flat = {name: values.ravel() for name, values in made.items()}
    rows = rows.drop(columns="step").assign(group=np.arange(len(rows)) // size, **flat)
    rows.attrs["tilt"] = taken["tilt"]  # pictures say how advantages were made
    return rows


def _share(flags: pd.Series) -> float:
    return float(flags.mean()) if len(flags) else float("nan")
