"""How well a gradient-boosted model without tuning tells clicks, long views and likes apart.

One set of features for any log: the users' and items' static columns, and of the training rows the
rates of long view and like and the counts, per user, item, author and tag. The model is fitted on
the valid rows and measured on the test rows, so no feature knows its own answer. On KuaiRand the
tab in which a video was shown is a feature as well; the world has one feed.
Legend: N rows, F features.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from onerec.common import cores
from onerec.data.dataset import Dataset
from onerec.data.features import item_features, user_features
from onerec.data.split import Split
from onerec.metrics import auc

Array = NDArray[Any]

ANSWERS = ("click", "long_view", "like")
RATED = ("long_view", "like")  # known in the training rows of both logs
PRIOR_ROWS = 10.0  # a rate of few rows is drawn towards the mean by as much as this many
TREES = 100


@dataclass(frozen=True)
class Rows:
    """A log for a click model: part (N,) 0 train, 1 valid, 2 test; keys and answers by name (N,);
    `static` (N, F)."""

    part: Array
    keys: dict[str, Array]
    answers: dict[str, Array]
    static: Array


def areas(rows: Rows, seed: int = 0) -> dict[str, float]:
    """AUC on the test rows of a model of each answer, by name."""
    import lightgbm

    train, fit, test = (rows.part == part for part in (0, 1, 2))
    table = np.column_stack([rows.static, features(rows, train)]).astype(np.float32)
    found = {}
    for name in ANSWERS:
        answer = rows.answers[name]
        model = lightgbm.LGBMClassifier(
            n_estimators=TREES, n_jobs=cores(), random_state=seed, deterministic=True, verbose=-1
        )
        model.fit(table[fit], answer[fit])
        score = model.booster_.predict(table[test], raw_score=True)
        found[f"auc {name}"] = float(auc(answer[test], np.asarray(score)))
    return found


def features(rows: Rows, train: Array) -> Array:
    """Counts and smoothed rates of the training rows by key, for every row, (N, 3 * keys)."""
    made = []
    for key in rows.keys.values():
        size = int(key.max()) + 1
        count = np.bincount(key[train], minlength=size)
        made.append(np.log1p(count)[key])
        for name in RATED:
            answer = rows.answers[name][train].astype(np.float64)
            total = np.bincount(key[train], weights=answer, minlength=size)
            rate = (total + PRIOR_ROWS * answer.mean()) / (count + PRIOR_ROWS)
            made.append(rate[key])
    return np.column_stack(made)


def world_rows(dataset: Dataset, split: Split) -> Rows:
    """Rows of a dataset that is split in time."""
    log = dataset.log
    time = log.columns["timestamp"]
    part = (time >= split.counts["valid_from"]).astype(int) + (time >= split.counts["test_from"])
    users, items = user_features(dataset), item_features(dataset)
    published = dataset.items["published_at"].to_numpy(np.float64)
    columns = [*users.codes.T[:, log.user]]
    columns += [
        items.tag[log.item],
        dataset.items["duration_ms"].to_numpy(np.float64)[log.item],
        published[log.item],
    ]
    return Rows(
        part=part,
        keys={
            "user": log.user,
            "item": log.item,
            "author": items.author[log.item],
            "tag": items.tag[log.item],
        },
        answers={name: log.columns[name] == 1 for name in ANSWERS},
        static=np.column_stack(columns),
    )


def kuairand_rows(folder: Path) -> Rows:
    """Rows of KuaiRand's merged event table."""
    with duckdb.connect() as connection:
        connection.execute("SET threads TO 2")
        frame = connection.execute(
            "SELECT * EXCLUDE (exact_time, is_profile_enter) "
            f"FROM read_parquet('{folder / 'events.parquet'}') AS events "
            f"LEFT JOIN read_parquet('{folder / 'users.parquet'}') AS users USING (user_id) "
            f"LEFT JOIN read_parquet('{folder / 'items.parquet'}') AS items USING (item_id) "
            "ORDER BY user_id, timestamp, item_id"
        ).df()
    part = frame["split"].map({"train": 0, "valid": 1, "test": 2}).to_numpy(np.int64)
    tag = frame["tag"].astype("string").str.split(",").str[0]
    first_user, last_item = "user_active_degree", ("video_type", "music_type")
    names = list(frame.columns)
    user_columns = names[names.index(first_user) : names.index("author_id")]
    item_columns = [*last_item, "upload_type", "upload_dt", "server_width", "video_duration"]
    static = [_codes(frame[name]) for name in [*user_columns, *item_columns, "duration_ms", "tab"]]
    named = {"click": "is_click", "long_view": "long_view", "like": "is_like"}
    return Rows(
        part=part,
        keys={
            "user": frame["user_id"].to_numpy(np.int64),
            "item": frame["item_id"].to_numpy(np.int64),
            "author": 1 + pd.factorize(frame["author_id"])[0],
            "tag": 1 + pd.factorize(tag)[0],
        },
        answers={
            ours: frame[theirs].astype("boolean").fillna(False).to_numpy(bool)
            for ours, theirs in named.items()
        },
        static=np.column_stack([*static, _codes(tag)]),
    )


def _codes(column: pd.Series) -> Array:
    """Numbers as they are, everything else as the number of its value."""
    if pd.api.types.is_numeric_dtype(column):
        return column.to_numpy(np.float64, na_value=np.nan)
    return pd.factorize(column)[0].astype(np.float64)
