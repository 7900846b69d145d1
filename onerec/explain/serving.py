"""What a run recommends: one user's history, lists, ground truth and codes, and the metrics of all.

Reads recommendations.parquet, targets.parquet and evaluate.json of a run, and the dataset beside
it. A history shows only what the model was given: nothing at or after the first target.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from onerec.explain.dataset import HISTORY, item_texts, user_history
from onerec.explain.query import empty, fetch
from onerec.explain.tokens import code_columns, shared_prefix
from onerec.runs import Run

TEST_SHARE = VALID_SHARE = 0.1  # of `onerec.data.split.make_split`
HIT_MARK = "✓ "
METRIC_COLUMNS = ("run", "model", "metric", "value", "low", "high")


def models(run: Run) -> list[str]:
    """The models that lists were saved of, OneRec first."""
    path = run.path / "recommendations.parquet"
    if not path.is_file():
        return []
    found = fetch("SELECT DISTINCT model FROM read_parquet(?) ORDER BY model", path)["model"]
    return sorted(found, key=lambda name: (name != "onerec", name))


def users(run: Run, limit: int = 1000) -> pd.DataFrame:
    """user, user_id, targets, hits_<model>...: users with lists, most hits of OneRec first."""
    names = models(run)
    if not names:
        return empty(("user", "user_id", "targets"))
    hits = ", ".join(
        f"count(*) FILTER (hit AND model = '{name}') AS \"hits_{name}\"" for name in names
    )
    return fetch(
        f"""
        WITH lists AS (SELECT "user", any_value(user_id)::VARCHAR AS user_id, {hits}
                       FROM read_parquet(?) GROUP BY "user"),
             wanted AS (SELECT "user", count(*) AS targets FROM read_parquet(?) GROUP BY "user")
        SELECT "user", user_id, coalesce(targets, 0) AS targets, lists.* EXCLUDE ("user", user_id)
        FROM lists LEFT JOIN wanted USING ("user")
        ORDER BY "hits_{names[0]}" DESC, "user" LIMIT ?""",
        run.path / "recommendations.parquet",
        run.path / "targets.parquet",
        limit,
    )


def history(run: Run, user: int, limit: int = 50) -> pd.DataFrame:
    """The user's last `limit` events that the model was given, as `dataset.user_history`."""
    folder, evaluated = run.dataset_folder, run.evaluate()
    if folder is None or evaluated is None:
        return empty(HISTORY)
    whole = user_history(folder, user, limit=1_000_000_000)
    given = whole[_given(run, whole, str(evaluated["split"]), str(evaluated["part"]))]
    return given.tail(limit).reset_index(drop=True)


def _given(run: Run, events: pd.DataFrame, rule: str, part: str) -> np.ndarray:
    """(T,) bool: the events that stand before the targets, by the rule of the split."""
    if rule == "given":
        return events["split"].isin(["train"] if part == "valid" else ["train", "valid"]).to_numpy()
    if rule == "temporal":
        return (events["time"] < _cut(run, part)).to_numpy()
    positives = np.flatnonzero(events["positive"])
    back = 2 if part == "valid" else 1
    end = positives[-back] if len(positives) >= back else len(events)
    return np.arange(len(events)) < end


def _cut(run: Run, part: str) -> pd.Timestamp:
    """The time at which the evaluated part of a temporal split begins."""
    log = (run.dataset_folder or run.path) / "interactions.parquet"
    after = TEST_SHARE + (VALID_SHARE if part == "valid" else 0.0)
    rows = int(fetch("SELECT count(*) AS n FROM read_parquet(?)", log)["n"][0])
    place = min(int(rows * (1 - after)), rows - 1)
    found = fetch(
        "SELECT timestamp FROM read_parquet(?) ORDER BY timestamp LIMIT 1 OFFSET ?", log, place
    )
    return pd.Timestamp(int(found["timestamp"][0]), unit="ms")


def recommendations(
    run: Run, user: int, model: str = "onerec", k: int | None = None
) -> pd.DataFrame:
    """One user's list: rank, item, what it is, score, hit, seen (already in the history), codes,
    and for OneRec lp_1 .. lp_L, the log-probability of each code given the codes before it."""
    lists = run.recommendations(user, model)
    names = code_columns(run.semantic_ids())
    scores = [name for name in lists.columns if str(name).startswith("lp_")]
    scores = [name for name in scores if lists[name].notna().any()]
    columns = ["rank", "item", "item_id", "title", "category", "tags", "score", "hit", "seen"]
    if lists.empty:
        return empty([*columns, *names])
    lists = lists.head(k if k is not None else len(lists)).reset_index(drop=True)
    lists = lists.assign(**_texts(run, lists["item"].tolist()))
    seen = set(history(run, user, limit=1_000_000_000)["item"])
    lists = lists.assign(seen=lists["item"].isin(seen), item_id=lists["item_id"].astype(str))
    ids = run.semantic_ids()[["item", *names]]
    return lists.merge(ids, on="item", how="left")[[*columns, *names, *scores]]


def targets(run: Run, user: int) -> pd.DataFrame:
    """item, item_id, title, part, found_by: what the user really took next, and who listed it."""
    wanted, lists = run.targets(user), run.recommendations(user)
    columns = ["item", "item_id", "title", "part", "found_by"]
    if wanted.empty:
        return empty(columns)
    found = []
    for item in wanted["item"]:
        hits = lists[lists["item"] == item]
        found.append(
            ", ".join(f"{m} #{r}" for m, r in zip(hits["model"], hits["rank"], strict=True))
        )
    ids = run.semantic_ids().set_index("item")["item_id"].astype(str)
    texts = _texts(run, wanted["item"].tolist())
    frame = wanted.assign(found_by=found, title=texts["title"])
    return frame.assign(item_id=wanted["item"].map(ids))[columns]


def side_by_side(
    run: Run, user: int, names: Sequence[str] | None = None, k: int = 10
) -> pd.DataFrame:
    """rank, then a column of titles per model; a hit begins with a tick."""
    lists = run.recommendations(user)
    lists = lists[lists["rank"] <= k].reset_index(drop=True)
    chosen = [name for name in (names or models(run)) if (lists["model"] == name).any()]
    if not chosen:
        return empty(("rank",))
    texts = _texts(run, lists["item"].tolist())["title"]
    marks = np.where(lists["hit"].fillna(False).astype(bool), HIT_MARK, "")
    lists = lists.assign(text=[f"{mark}{text}" for mark, text in zip(marks, texts, strict=True)])
    table = lists.pivot(index="rank", columns="model", values="text")[chosen].fillna("")
    return table.rename_axis(columns=None).reset_index()


def code_log_probs(run: Run, user: int, model: str = "onerec", top: int = 10) -> pd.DataFrame:
    """rank, item, title, level, code, log_prob, probability, hit: the codes of a list, unfolded.

    The log-probabilities of an item's levels add up to its score.
    """
    columns = ["rank", "item", "title", "level", "code", "log_prob", "probability", "hit"]
    lists = recommendations(run, user, model, top)
    rows = []
    for row in lists.to_dict("records"):
        level = 1
        while row.get(f"lp_{level}") is not None:
            log_prob = float(row[f"lp_{level}"])
            shown = (row["rank"], row["item"], row["title"], level, row.get(f"code_{level}", -1))
            rows.append((*shown, log_prob, float(np.exp(log_prob)), bool(row["hit"])))
            level += 1
    return pd.DataFrame(rows, columns=columns) if rows else empty(columns)


def why(run: Run, user: int, item: int, limit: int = 10) -> pd.DataFrame:
    """The history items nearest to a recommended one: what in the past speaks for it.

    item, item_id, title, shared_prefix (leading codes in common), cosine (of the quantised
    vectors), position. Longest shared prefix first, then the cosine. Nearness is not cause: what
    the model used is another question.
    """
    columns = ["item", "item_id", "title", "shared_prefix", "cosine", "position"]
    past, ids, vectors = history(run, user, 1_000_000_000), run.semantic_ids(), run.vectors()
    if past.empty or ids.empty or vectors is None:
        return empty(columns)
    past = past.drop_duplicates("item", keep="last").reset_index(drop=True)
    codes = ids[code_columns(ids)].to_numpy()
    rows = past["item"].to_numpy(dtype=np.int64)
    lengths = np.linalg.norm(vectors[rows], axis=1) * np.linalg.norm(vectors[item])
    past = past.assign(
        shared_prefix=shared_prefix(codes[rows], codes[item]),
        cosine=vectors[rows] @ vectors[item] / np.maximum(lengths, 1e-12),
    )
    past = past.sort_values(["shared_prefix", "cosine"], ascending=False, kind="stable")
    return past.head(limit).reset_index(drop=True)[columns]


def evaluation(run: Run) -> dict[str, Any]:
    """What was measured and how: evaluate.json without the models' numbers; {} when not yet."""
    return {name: value for name, value in (run.evaluate() or {}).items() if name != "models"}


def metrics(run: Run) -> pd.DataFrame:
    """run, model, metric, value, low, high; low and high are NaN where no interval was computed."""
    rows = []
    for model, values in ((run.evaluate() or {}).get("models") or {}).items():
        for name, value in values.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                low, high = values.get(f"{name}_ci", (np.nan, np.nan))
                rows.append((run.name, model, name, float(value), float(low), float(high)))
    return pd.DataFrame(rows, columns=list(METRIC_COLUMNS)) if rows else empty(METRIC_COLUMNS)


def worth(run: Run) -> pd.DataFrame:
    """model, and what its first ten are worth: to the reward model and, on a world, in truth.

    Columns `p_score`, `true_long_view` (shares) and `true_play_s` (seconds an item), each where it
    is known; the highest true long view, else the highest P-Score, first.
    """
    result = run.evaluate() or {}
    reward, truth = result.get("reward") or {}, result.get("truth") or {}
    rows = [
        {
            "model": model,
            "true_long_view": truth.get(model, {}).get("long_view", np.nan),
            "true_play_s": truth.get(model, {}).get("play_ms", np.nan) / 1000.0,
            "p_score": reward.get(model, {}).get("pscore", np.nan),
        }
        for model in {**truth, **reward}
    ]
    columns = ["model", "true_long_view", "true_play_s", "p_score"]
    frame = pd.DataFrame(rows, columns=columns).dropna(axis=1, how="all")
    best = [name for name in columns[1:] if name in frame]
    if not best:
        return empty(columns)
    return frame.sort_values(best[0], ascending=False).reset_index(drop=True)


def metrics_of(runs: Sequence[Run]) -> pd.DataFrame:
    """The metrics of several runs, one below the other; runs without an evaluation are left out."""
    frames = [frame for frame in map(metrics, runs) if not frame.empty]
    return pd.concat(frames, ignore_index=True) if frames else empty(METRIC_COLUMNS)


def _texts(run: Run, items: Sequence[int]) -> pd.DataFrame:
    """title, category, tags of items, one row each; plain names where the dataset is gone."""
    folder = run.dataset_folder
    if folder is None:
        named = [f"item {item}" for item in items]
        return pd.DataFrame({"title": named, "category": "", "tags": ""})
    return item_texts(folder, items)[["title", "category", "tags"]]
