"""The composer: the recorded groups of a policy step, ranked at once by another reward.

It needs no model: rollouts/step-NNNNNN.parquet holds every reward part of every item. It ranks what
was drawn and draws nothing new, so legality stays as it was; what a policy that learned from the
new reward would draw is for a training to show.
Shapes: B users, G items of a group.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from onerec.data.schema import ITEMS
from onerec.data.tables import check_rows, check_step, read_parquet
from onerec.errors import DataError, RunError
from onerec.explain.dataset import titles
from onerec.explain.objectives import advantages
from onerec.explain.policy import damaged
from onerec.explain.query import column_types, fetch
from onerec.explain.tokens import code_columns, text_of
from onerec.runs import Run

TOP = 10  # the head of a group, at most half of it
RECORDED: Literal["recorded"] = "recorded"
Industrial = tuple[str, str, float, float]  # column, value, alpha, limit f
Rule = Industrial | Literal["recorded"] | None
Weights = Mapping[str, float]


class Composed(NamedTuple):
    """A step under another reward: one row per item, one per reward part, and the facts."""

    items: pd.DataFrame
    parts: pd.DataFrame
    facts: dict[str, Any]


def recorded_weights(run: Run, step: int) -> dict[str, float]:
    """Reward part -> its weight when the step was taken."""
    return _step(run, step)[1]


def users(run: Run, step: int) -> list[int]:
    """Whose groups the step holds, each once; those of which nothing was to be learned last."""
    items = composed(run, step).items
    teaches = items["advantage_before"].abs().groupby(items["user"], sort=False).max() > 0
    return [int(user) for user in teaches.sort_values(ascending=False, kind="stable").index]


def industrial_columns(run: Run) -> list[str]:
    """Columns of the dataset's items that say of what kind an item is."""
    if run.dataset_folder is None:
        return []
    types = column_types(run.dataset_folder / "items.parquet")
    return [field.name for field in ITEMS if field.kind in ("list", "key") and field.name in types]


def industrial_values(run: Run, step: int, column: str, limit: int = 50) -> pd.DataFrame:
    """value, items, share: what the legal items of a step have there, most frequent first."""
    items = _step(run, step)[0]["item"].to_numpy()
    items = items[items >= 0]
    held = _held(run, column, items).explode().dropna()
    counts = held.value_counts().rename_axis("value").reset_index(name="items")
    counts = counts.sort_values(["items", "value"], ascending=[False, True], ignore_index=True)
    return counts.assign(share=counts["items"] / max(1, len(items))).head(limit)


def composed(
    run: Run,
    step: int,
    weights: Weights | None = None,
    *,
    industrial: Rule = RECORDED,
    format_items: int | None = None,
    top: int | None = None,
) -> Composed:
    """The groups of a recorded step, ranked by another reward.

    reward = sum of weight x part, times the industrial factor; rank and advantage are within a
    group, of the items that count; the others rank last. `format_*` is the format reward's
    advantage, which pushes by itself and does not rank. `_before` is as recorded.

    Args:
        weights: of every part; None: those recorded.
        industrial: RECORDED, None (off), or column, value, alpha and f: the reward of items with
            the value is multiplied by alpha when their share of the step's items passes f.
        format_items: how many of each group the format reward looks at, drawn by lot with the
            step as seed; None: as recorded, 0: off.
        top: the head of a group that is compared; None: `TOP`, at most half of the group.

    Raises:
        RunError: weights that make no reward, a rule that cannot work, or a damaged step.
    """
    rows, own = _step(run, step)
    parts = {name: _table(rows, f"reward_{name}") for name in own}
    asked = own if weights is None else dict(weights)
    _check_weights(asked, list(parts))
    size = int(rows["place"].max()) + 1  # G
    top = min(TOP, max(1, size // 2)) if top is None else top
    factor, touched, facts = _factor(run, rows, industrial)
    counted = _table(rows, "counted").astype(bool)
    recorded = rows.attrs["tilt"], rows.attrs["beam"], rows.attrs["logged"]
    kept = rows[["user", "place", "item", *code_columns(rows), "counted"]]
    made: dict[str, Any] = {f"reward_{name}": part.ravel() for name, part in parts.items()}
    for when, given, by in (("before", own, _table(rows, "factor")), ("after", asked, factor)):
        reward = _reward(parts, given, by)
        made[f"reward_{when}"] = reward.ravel()
        made[f"rank_{when}"] = _rank(reward, counted).ravel()
        made[f"advantage_{when}"] = advantages(rows, reward, *recorded)[0].ravel()
    made["format_before"] = rows["format"].to_numpy(float)
    made["format_after"] = _format(rows, format_items, step, size)
    made |= {"factor": factor.ravel(), "touched": touched}
    items = kept.assign(group=np.arange(len(rows)) // size, **made)
    items = items.assign(moved=items["rank_before"] - items["rank_after"])
    return Composed(items, _parts(items, own, asked, top), facts | _facts(items, top))


def composed_group(run: Run, step: int, user: int, **asked: Any) -> pd.DataFrame:
    """One user's group from `composed`, with titles, best first by the composed reward."""
    items = composed(run, step, **asked).items
    own: pd.DataFrame = items[items["user"] == user]
    if own.empty:
        raise RunError(f"user {user}: no group in step {step}; choose one of its users")
    own = own[own["group"] == own["group"].iloc[0]].sort_values("rank_after", ignore_index=True)
    codes = code_columns(own)
    own.insert(3, "title", titles(run.dataset_folder, own["item"].tolist()))
    own.insert(4, "codes", [text_of(row) for row in own[codes].to_numpy().tolist()])
    return own.drop(columns=["user", "group", *codes])


def composed_parts(run: Run, step: int, **asked: Any) -> pd.DataFrame:
    """part, weight_before and _after, mean before and after over the top items, change, share.

    `share`: how much of the composed reward of the top items the part makes.
    """
    return composed(run, step, **asked).parts


def _parts(items: pd.DataFrame, own: Weights, asked: Weights, top: int) -> pd.DataFrame:
    heads = [items[items["counted"] & (items[f"rank_{w}"] <= top)] for w in ("before", "after")]
    rows = []
    for name in sorted(asked, key=lambda name: (name != "pscore", -asked[name], name)):
        before, after = (float(head[f"reward_{name}"].mean()) for head in heads)
        change = after / before - 1 if before else np.nan
        rows.append((name, own[name], asked[name], before, after, change, asked[name] * after))
    columns = ["part", "weight_before", "weight_after", "before", "after", "change", "share"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.assign(share=frame["share"] / max(float(frame["share"].sum()), 1e-30))


def _facts(items: pd.DataFrame, top: int) -> dict[str, Any]:
    """What changed: see the keys. `places_changed` is per group, of the `top` first."""
    head = {w: items["counted"] & (items[f"rank_{w}"] <= top) for w in ("before", "after")}
    new = (head["after"] & ~head["before"]).groupby(items["group"]).sum()
    flat = {
        w: int((items[f"advantage_{w}"].abs().groupby(items["group"]).max() == 0).sum())
        for w in ("before", "after")
    }
    legal = items["item"] >= 0
    return {
        "groups": len(new),
        "top": top,
        "places_changed": float(new.mean()),
        "groups_changed": int((new > 0).sum()),
        "legality": float(legal.mean()),
        "touched": float(items.loc[legal, "touched"].mean()) if legal.any() else 0.0,
        "touched_top_before": _mean(items.loc[head["before"], "touched"]),
        "touched_top_after": _mean(items.loc[head["after"], "touched"]),
        "flat_before": flat["before"],
        "flat_after": flat["after"],
        "format_before": int((items["format_before"] != 0).sum()),
        "format_after": int((items["format_after"] != 0).sum()),
    }


def _mean(flags: pd.Series) -> float:
    return float(flags.mean()) if len(flags) else 0.0


def _reward(parts: dict[str, np.ndarray], weights: Weights, factor: np.ndarray) -> np.ndarray:
    """(B, G), added up in the order and the precision of `Rollout.reward`."""
    total: Any = np.zeros(factor.shape, dtype=np.float32)
    for name in sorted(parts):
        total = total + weights[name] * parts[name]
    return np.asarray(total * factor)


def _rank(reward: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """(B, G) places from 1, the best first; equal ones in their order, uncounted ones last."""
    order = np.lexsort((-reward, ~counted), axis=-1)
    return np.argsort(order, axis=-1) + 1


def _factor(
    run: Run, rows: pd.DataFrame, industrial: Rule
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Factor (B, G), which rows the rule touches (B G,), and the share that it looked at."""
    recorded = _table(rows, "factor")
    if industrial == "recorded":
        return recorded, recorded.ravel() != 1, {"listed": np.nan, "applied": False}
    one = np.ones_like(recorded)
    if industrial is None:
        return one, np.zeros(one.size, dtype=bool), {"listed": 0.0, "applied": False}
    column, value, alpha, limit = industrial
    if not (0 <= float(alpha) <= 1 and 0 <= float(limit) <= 1):
        raise RunError(f"alpha={alpha} and limit={limit} must be from 0 to 1")
    items = rows["item"].to_numpy()
    legal = items >= 0
    listed = np.zeros(len(rows), dtype=bool)
    listed[legal] = [value in cell for cell in _held(run, str(column), items[legal])]
    share = float(listed.sum() / max(1, legal.sum()))
    applied = share > limit
    touched = listed & applied
    factor = np.where(touched.reshape(one.shape), np.float32(alpha), one)
    return factor, touched, {"listed": share, "applied": applied}


def _held(run: Run, column: str, items: np.ndarray) -> pd.Series:
    """For each item the texts that its column holds: lists as they are, one value as a list."""
    folder = run.dataset_folder
    if folder is None:
        raise RunError(f"run {run.name!r}: its dataset is gone, so no kind of item can be named")
    path = folder / "items.parquet"
    types = column_types(path)
    if column not in types:
        raise RunError(f"column {column!r}: items have {', '.join(types)}")
    name = '"' + column.replace('"', '""') + '"'
    several = f"coalesce({name}::VARCHAR[], [])"
    single = f"CASE WHEN {name} IS NULL THEN [] ELSE [{name}::VARCHAR] END"
    found = fetch(
        f"""SELECT file_row_number AS row, {several if types[column].endswith("[]") else single}
            AS held FROM read_parquet(?, file_row_number = true)
            SEMI JOIN (SELECT unnest(?::BIGINT[]) AS file_row_number) USING (file_row_number)""",
        path,
        np.unique(items).tolist(),
    )
    by_item = {row: list(held) for row, held in zip(found["row"], found["held"], strict=True)}
    return pd.Series([by_item.get(item, []) for item in items.tolist()], dtype="object")


def _format(rows: pd.DataFrame, choose: int | None, step: int, size: int) -> np.ndarray:
    """(B G,) the format reward's advantage: 1 for legal items among `choose` of each group."""
    if choose is None:
        return rows["format"].to_numpy(float)
    if choose < 0:
        raise RunError(f"format_items={choose}: needs a number from 0 up")
    lot = np.random.default_rng(step).random((len(rows) // size, size))
    chosen = np.argsort(np.argsort(lot, axis=1), axis=1) < choose
    return chosen.ravel() * (rows["item"].to_numpy() >= 0) * 1.0


def _check_weights(weights: Weights, parts: list[str]) -> None:
    """The words of `onerec.rollouts.check_weights`, without torch."""
    if missing := sorted(set(parts) - weights.keys()):
        raise RunError(f"reward {missing[0]!r}: it has no weight")
    if unknown := sorted(weights.keys() - set(parts)):
        raise RunError(f"reward {unknown[0]!r}: not recorded; there are {', '.join(parts)}")
    for name, weight in weights.items():
        if not (math.isfinite(weight) and weight >= 0):
            raise RunError(f"weight of reward {name!r} is {weight}: needs a number from 0 up")
    if not any(weights[name] > 0 for name in parts):
        raise RunError("the weights of all rewards are 0: give at least one a weight above 0")


def _table(rows: pd.DataFrame, name: str) -> np.ndarray:
    size = int(rows["place"].max()) + 1
    return np.asarray(rows[name].to_numpy().reshape(-1, size))  # (B, G)


def _step(run: Run, step: int) -> tuple[pd.DataFrame, dict[str, float]]:
    """The rows of a recorded step, and the weights of its reward parts."""
    path = run.path / "rollouts" / f"step-{step:06d}.parquet"
    try:
        rows = read_parquet(path)
        meta = json.loads(rows["step"].iloc[0])
        check_rows(meta, len(rows))
        check_step(rows)
        weights, rows = meta["weights"], rows.drop(columns="step")
        rows.attrs = {"tilt": meta.get("tilt", 0.0), "beam": meta.get("beam", False)}
        rows.attrs["logged"] = meta.get("logged", False)
        for name, usual in (("factor", np.float32(1)), ("format", np.float32(0))):
            if name not in rows:  # recorded before there was one
                rows[name] = usual
        rows["place"].to_numpy().reshape(-1, int(rows["place"].max()) + 1)
        parts = [name[7:] for name in map(str, rows.columns) if name.startswith("reward_")]
        if not parts or not {"user", "item", "counted"} <= set(rows.columns):
            raise ValueError("it has no rewards")
        return rows, {name: float(weights[name]) for name in parts}
    except (DataError, KeyError, ValueError, IndexError, TypeError, AttributeError) as error:
        raise damaged(run, path, error) from None
