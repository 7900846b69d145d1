"""Categorical features of users, items and events, as dense integers that a model can embed.

Code 0 always means unknown (a missing value, a rare one, padding). Users' and items' tables hold
nothing that depends on the log, so their codes are made once; what does depend on it (popularity,
co-consumption) is never a feature here. A column that does not vary is dropped, and said so.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from onerec.data.dataset import BEHAVIOURS, Dataset, Interactions

Ints = NDArray[np.int64]

MAX_CATEGORIES = 1_000  # a text column with more values than this is an id or a sentence
NUMERIC_BINS = 10  # a number with more distinct values than this becomes its quantile bin
MIN_COUNT = 5  # a rarer value of a user column is unknown
PLAY_BUCKETS = 10  # play time over duration in fifths of the video, up to twice; or a rating
GAP_BUCKETS = 33  # log2 of seconds: 2^33 s is 270 years
DURATION_BUCKETS = 23


@dataclass(frozen=True)
class UserFeatures:
    """codes (U, F), how many known values each column has, and what became of each column."""

    codes: Ints
    sizes: tuple[int, ...]
    names: tuple[str, ...]
    dropped: tuple[str, ...]


@dataclass(frozen=True)
class ItemFeatures:
    """author, tag and duration bucket (n,), and how many known values each has."""

    author: Ints
    tag: Ints
    duration: Ints
    n_authors: int
    n_tags: int
    n_durations: int


@dataclass(frozen=True)
class EventFeatures:
    """play (N,) bucket and labels (N, K) in {0, 1}, aligned with the log; K behaviours in order."""

    play: Ints
    labels: NDArray[np.float32]
    behaviours: tuple[str, ...]
    n_play: int


def user_features(dataset: Dataset) -> UserFeatures:
    """Each column of users.parquet as a category: text by value, numbers by quantile bin."""
    users = dataset.users
    codes: list[Ints] = []
    sizes: list[int] = []
    names: list[str] = []
    dropped: list[str] = []
    for name in users.columns:
        if name in ("user", "user_id"):
            continue
        column = _categorise(users[name])
        if column is None or column.max(initial=0) < 2:
            dropped.append(str(name))
            continue
        codes.append(column)
        sizes.append(int(column.max()))
        names.append(str(name))
    table = np.stack(codes, axis=1) if codes else np.zeros((len(users), 0), dtype=np.int64)
    return UserFeatures(table, tuple(sizes), tuple(names), tuple(dropped))


def item_features(dataset: Dataset) -> ItemFeatures:
    """Author (or brand), tag (or the first level of category that varies) and duration."""
    items = dataset.items
    authors = _first_present(items, ("author_id", "brand"))
    author = _frequent(authors, min_count=2) if authors is not None else _zeros(len(items))
    tags = _varying_depth(items, ("tags", "category"))
    tag = _frequent(tags, min_count=2) if tags is not None else _zeros(len(items))
    duration = duration_bucket(item_seconds(dataset))
    return ItemFeatures(
        author, tag, duration, *(int(c.max(initial=0)) for c in (author, tag, duration))
    )


def event_features(log: Interactions) -> EventFeatures:
    """What is known of each event: how much of it was played (or its rating) and what was done."""
    behaviours = tuple(name for name in BEHAVIOURS if name in log.columns)
    labels = np.zeros((len(log.item), len(behaviours)), dtype=np.float32)
    for k, name in enumerate(behaviours):
        labels[:, k] = log.columns[name] == 1
    varies = [k for k in range(len(behaviours)) if 0 < labels[:, k].mean() < 1]
    play = play_bucket(log, play_amount(log))
    return EventFeatures(
        play,
        labels[:, varies],
        tuple(behaviours[k] for k in varies),
        PLAY_BUCKETS if play.max(initial=0) > 1 else 0,
    )


def play_amount(log: Interactions) -> NDArray[np.float64]:
    """How much of each event was played: fifths of the video, or half points of its rating.

    (N,), NaN where it is not known.
    """
    if "play_ms" in log.columns and "duration_ms" in log.columns:
        with np.errstate(divide="ignore", invalid="ignore"):
            amount = log.columns["play_ms"] / log.columns["duration_ms"] * 5
    elif "rating" in log.columns:
        amount = log.columns["rating"] * 2
    else:
        return np.full(len(log.item), np.nan)
    return np.where(np.isfinite(amount), amount, np.nan)


def play_bucket(log: Interactions, amount: NDArray[np.float64]) -> Ints:
    """The bucket of amounts of the kind that `play_amount` gives for this log; 0 unknown."""
    watched = "play_ms" in log.columns and "duration_ms" in log.columns
    whole = np.floor(amount) if watched else np.rint(amount)
    bucket = 1 + np.clip(np.nan_to_num(whole), 0, PLAY_BUCKETS - 1)
    return np.where(np.isnan(whole), 0, bucket).astype(np.int64)


def duration_bucket(seconds: NDArray[np.float64]) -> Ints:
    """The bucket of durations; NaN is unknown, which is 0."""
    return _log2_bucket(seconds, DURATION_BUCKETS)


def item_seconds(dataset: Dataset) -> NDArray[np.float64]:
    """The duration of each item (n,), NaN where it is not known."""
    return _item_duration_ms(dataset) / 1000.0


def _log2_bucket(values: NDArray[np.float64], buckets: int) -> Ints:
    result = np.zeros(len(values), dtype=np.int64)
    known = np.isfinite(values) & (values >= 0)
    result[known] = 1 + np.clip(np.log2(1 + values[known]), 0, buckets - 1).astype(np.int64)
    return result


def _item_duration_ms(dataset: Dataset) -> NDArray[np.float64]:
    """The catalogue's duration, else the median of what the log says: a length is no leak."""
    if "duration_ms" in dataset.items.columns:
        return pd.to_numeric(dataset.items["duration_ms"], errors="coerce").to_numpy(np.float64)
    result = np.full(dataset.n_items, np.nan)
    if "duration_ms" in dataset.log.columns:
        logged = pd.Series(dataset.log.columns["duration_ms"]).groupby(dataset.log.item).median()
        result[logged.index.to_numpy()] = logged.to_numpy()
    return result


def _categorise(column: pd.Series) -> Ints | None:
    """Codes (n,), 0 unknown; None where the column cannot be a category."""
    if pd.api.types.is_numeric_dtype(column) and column.nunique() > NUMERIC_BINS:
        numbers = column.to_numpy(np.float64, na_value=np.nan)
        edges = np.unique(np.nanquantile(numbers, np.linspace(0, 1, NUMERIC_BINS + 1)[1:-1]))
        bins = 1 + np.searchsorted(edges, numbers, side="right")
        return np.where(np.isfinite(numbers), bins, 0).astype(np.int64)
    if _has_lists(column):
        return None
    if column.nunique() > MAX_CATEGORIES:
        return None
    return _frequent(column, min_count=MIN_COUNT)


def _frequent(column: pd.Series, *, min_count: int) -> Ints:
    """Codes 1.. of the values that occur at least `min_count` times, most frequent first."""
    text = column.astype("string")
    counts = text.value_counts()
    counts = counts[counts >= min_count]
    # Equal counts are ordered by name, so that the codes do not depend on the table's order.
    names = sorted(counts.index, key=lambda name: (-int(counts[name]), str(name)))
    lookup = pd.Series(np.arange(1, len(names) + 1), index=pd.Index(names, dtype="string"))
    return text.map(lookup).fillna(0).to_numpy(np.int64)


def _first_present(items: pd.DataFrame, names: Iterable[str]) -> pd.Series | None:
    for name in names:
        if name in items.columns and not _has_lists(items[name]) and items[name].nunique() > 1:
            return items[name]
    return None


def _has_lists(column: pd.Series) -> bool:
    return bool(column.map(lambda value: isinstance(value, list | np.ndarray)).any())


def _varying_depth(items: pd.DataFrame, names: Iterable[str]) -> pd.Series | None:
    """The values at the first depth of a list column at which items differ."""
    for name in names:
        if name not in items.columns:
            continue
        lists = items[name].map(lambda v: list(v) if isinstance(v, list | np.ndarray) else [])
        for depth in range(3):
            values = lists.map(lambda v, d=depth: str(v[d]) if len(v) > d else None)
            if values.nunique() > 1:
                return values
    return None


def _zeros(n: int) -> Ints:
    return np.zeros(n, dtype=np.int64)
