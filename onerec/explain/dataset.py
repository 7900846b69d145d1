"""What a dataset folder holds: counts, time, behaviours, histories, popularity, users and items.

Each function takes the folder and reads its Parquet files with DuckDB; none loads the log into
Python. Users and items are dense indices, the original ids are shown as text. A column that the
source did not have shows as missing, never as false or zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from onerec.data.schema import BEHAVIOURS
from onerec.explain.folder import LOG, info, positive_rule, positive_sql
from onerec.explain.query import as_text, column_types, empty, fetch

DAY_MS = 86_400_000
TIMELINE_BARS = 400
HISTORY = (
    *("position", "time", "item", "item_id", "title", "category", "tags", "behaviours"),
    *("positive", "play_ms", "duration_ms", "play_share", "rating", "split"),
)
TITLE = "coalesce(title, caption, 'item ' || item_id) AS title"


def summary(folder: Path) -> dict[str, Any]:
    """The numbers of a dataset in one dictionary; see the keys below.

    `density` is events / (users * items); `gini` and `top_1_percent_share` are of the events per
    item, items without events included.
    """
    about, log = info(folder), folder / "interactions.parquet"
    types = column_types(log)
    rows, counts = about["rows"], item_counts(folder)
    positives = fetch(f"SELECT count(*) AS n FROM {LOG} WHERE {positive_sql(folder)}", log)
    per_user = fetch(f'SELECT count(*) AS n FROM {LOG} GROUP BY "user"', log)["n"]
    first, last = _time_range(about, types, log)
    total = max(1, int(rows["interactions"]))
    return {
        "name": about.get("name", folder.name),
        "source": about.get("source", ""),
        "licence": about.get("licence", ""),
        "interactions": int(rows["interactions"]),
        "users": int(rows["users"]),
        "items": int(rows["items"]),
        "behaviours": [name for name in BEHAVIOURS if name in types],
        "positive": positive_rule(folder),
        "positives": int(positives["n"][0]),
        "positive_share": int(positives["n"][0]) / total,
        "time": about.get("time", "none"),
        "first_ms": first,
        "last_ms": last,
        "days": None if first is None or last is None else (last - first) / DAY_MS,
        "density": total / max(1, int(rows["users"]) * int(rows["items"])),
        "events_per_user_mean": float(per_user.mean()),
        "events_per_user_median": float(per_user.median()),
        "gini": gini(counts),
        "top_1_percent_share": _top_share(counts, 0.01),
        "splits": _splits(types, log),
        "has_images": (folder / "images").is_dir(),
        "has_content": (folder / "content.safetensors").is_file(),
        "fingerprint": about.get("fingerprint", ""),
        "columns": about.get("columns", {}),
        "ignored": about.get("ignored", {}),
        "counts": about.get("counts", {}),
        "unknown_items_rule": about.get("unknown_items_rule", ""),
    }


def timeline(folder: Path) -> pd.DataFrame:
    """Events over time: day, behaviour ("events" is every row), count, unit.

    `unit` is the width of a bar: a day, or a week or month where days would be too many. Empty
    where the log has no times that can be compared between users.
    """
    columns = ("day", "behaviour", "count", "unit")
    about, log = info(folder), folder / "interactions.parquet"
    types = column_types(log)
    first, last = _time_range(about, types, log)
    if first is None or last is None:
        return empty(columns)
    days = (last - first) / DAY_MS
    unit = "day" if days <= TIMELINE_BARS else "week" if days <= 7 * TIMELINE_BARS else "month"
    known = [name for name in BEHAVIOURS if name in types]
    sums = "".join(f', count(*) FILTER ("{name}") AS "{name}"' for name in known)
    wide = fetch(
        f"SELECT date_trunc('{unit}', make_timestamp(timestamp * 1000)) AS day, "
        f"count(*) AS events{sums} FROM {LOG} GROUP BY 1 ORDER BY 1",
        log,
    )
    long = wide.melt(id_vars="day", var_name="behaviour", value_name="count")
    return long.assign(unit=unit)[list(columns)]


def behaviours(folder: Path) -> pd.DataFrame:
    """behaviour, known (rows that say yes or no), count (yes), rate (count / known), positive."""
    log = folder / "interactions.parquet"
    types = column_types(log)
    rule = positive_rule(folder).split("|")
    rows = []
    for name in (name for name in BEHAVIOURS if name in types):
        found = fetch(
            f'SELECT count("{name}") AS known, count(*) FILTER ("{name}") AS yes FROM {LOG}', log
        )
        known, yes = int(found["known"][0]), int(found["yes"][0])
        rows.append((name, known, yes, yes / known if known else np.nan, name in rule))
    return pd.DataFrame(rows, columns=["behaviour", "known", "count", "rate", "positive"])


def history_lengths(folder: Path) -> pd.DataFrame:
    """Users by events: low, high (both inclusive), label, users, share; bins double in width."""
    lengths = fetch(
        f'SELECT count(*) AS n FROM {LOG} GROUP BY "user"', folder / "interactions.parquet"
    )["n"].to_numpy()
    silent = int(info(folder)["rows"]["users"]) - len(lengths)
    rows = [(0, 0, silent)] if silent > 0 else []
    low, high = 1, 1
    while len(lengths) and low <= lengths.max():
        if high >= lengths.min():
            rows.append((low, high, int(((lengths >= low) & (lengths <= high)).sum())))
        low, high = high + 1, high * 2
    frame = pd.DataFrame(rows, columns=["low", "high", "users"])
    labels = [str(lo) if lo == hi else f"{lo}-{hi}" for lo, hi, _ in rows]
    frame.insert(2, "label", labels)
    return frame.assign(share=frame["users"] / max(1, frame["users"].sum()))


def popularity(folder: Path, points: int = 500) -> pd.DataFrame:
    """Items from the most to the least frequent, thinned evenly on a log scale of the rank.

    rank (from 1), count, share (of all events), item_share (rank / items), cumulative (share of
    the events that fall on items up to this rank).
    """
    counts = np.sort(item_counts(folder))[::-1]
    total = max(1, int(counts.sum()))
    ranks = np.unique(np.geomspace(1, max(1, len(counts)), points).round().astype(int))
    return pd.DataFrame(
        {
            "rank": ranks,
            "count": counts[ranks - 1],
            "share": counts[ranks - 1] / total,
            "item_share": ranks / len(counts),
            "cumulative": np.cumsum(counts)[ranks - 1] / total,
        }
    )


def item_counts(folder: Path) -> np.ndarray:
    """(n_items,) int64 events per item, row = item; items without events count 0."""
    found = fetch(
        f"SELECT item, count(*) AS n FROM {LOG} GROUP BY item", folder / "interactions.parquet"
    )
    counts = np.zeros(int(info(folder)["rows"]["items"]), dtype=np.int64)
    counts[found["item"].to_numpy(dtype=np.int64)] = found["n"].to_numpy(dtype=np.int64)
    return counts


def gini(counts: np.ndarray) -> float:
    """Gini coefficient of counts (n,): 0 when all are equal, near 1 when one has everything."""
    ordered = np.sort(np.asarray(counts, dtype=np.float64))
    n, total = len(ordered), ordered.sum()
    if n == 0 or total == 0:
        return 0.0
    return float(2 * (np.arange(1, n + 1) * ordered).sum() / (n * total) - (n + 1) / n)


def user_history(folder: Path, user: int, limit: int = 200) -> pd.DataFrame:
    """The last `limit` events of a user, oldest first; `position` counts from 1 over all of them.

    `behaviours` names those known to be true; `play_share` is play_ms / duration_ms.
    """
    log = folder / "interactions.parquet"
    types = column_types(log)
    rows = fetch(
        f'SELECT *, {positive_sql(folder)} AS positive FROM {LOG} WHERE "user" = ?',
        log,
        int(user),
    )
    rows = rows.assign(position=np.arange(1, len(rows) + 1)).tail(limit).reset_index(drop=True)
    items = item_texts(folder, rows["item"].tolist())
    shown = [name for name in BEHAVIOURS if name in types]
    true = rows[shown].fillna(False).astype(bool).to_numpy()
    texts = [", ".join(n for n, yes in zip(shown, row, strict=True) if yes) for row in true]
    unknown = pd.Series(np.nan, index=rows.index)
    duration = rows.get("duration_ms", unknown).astype(float).fillna(items["duration_ms"])
    play = rows.get("play_ms", unknown).astype(float)
    return pd.DataFrame(
        {
            "position": rows["position"],
            "time": pd.to_datetime(rows["timestamp"], unit="ms") if "timestamp" in rows else pd.NaT,
            "item": rows["item"].astype("int64"),
            "item_id": rows["item_id"].astype(str),
            "title": items["title"],
            "category": items["category"],
            "tags": items["tags"],
            "behaviours": texts,
            "positive": rows["positive"].fillna(False).astype(bool),
            "play_ms": play,
            "duration_ms": duration,
            "play_share": play / duration.where(duration > 0),
            "rating": rows.get("rating", unknown).astype(float),
            "split": rows.get("split", ""),
        }
    )


def item_texts(folder: Path, items: Sequence[int] | np.ndarray) -> pd.DataFrame:
    """title, category, tags, duration_ms of the items asked for, one row each, in that order.

    The title is the title, else the caption, else "item <id>".
    """
    wanted = [int(index) for index in items]
    path = folder / "items.parquet"
    types = column_types(path)
    texts = ", ".join(
        as_text(name, types) for name in ("item_id", "title", "caption", "category", "tags")
    )
    duration = "duration_ms::DOUBLE" if "duration_ms" in types else "NULL::DOUBLE"
    found = fetch(
        f"""
        WITH it AS (SELECT file_row_number AS row, {texts}, {duration} AS duration_ms
                    FROM read_parquet(?, file_row_number = true))
        SELECT row, {TITLE}, category, tags, duration_ms FROM it
        SEMI JOIN (SELECT unnest(?::BIGINT[]) AS row) USING (row)""",
        path,
        sorted(set(wanted)),
    )
    return found.set_index("row").reindex(wanted).reset_index(drop=True)


def search_users(folder: Path, text: str = "", limit: int = 100) -> pd.DataFrame:
    """user, user_id, events, positives of the users whose id contains `text`, busiest first."""
    log = folder / "interactions.parquet"
    positive = positive_sql(folder)
    return fetch(
        f'SELECT "user", any_value(user_id)::VARCHAR AS user_id, count(*) AS events, '
        f"count(*) FILTER ({positive}) AS positives FROM {LOG} "
        f"WHERE contains(lower(user_id::VARCHAR), lower(?)) "
        f'GROUP BY "user" ORDER BY events DESC, "user" LIMIT ?',
        log,
        text.strip(),
        limit,
    )


def search_items(folder: Path, text: str = "", limit: int = 100, offset: int = 0) -> pd.DataFrame:
    """Items whose id, title, caption, category or tags contain `text`, most frequent first."""
    log, path = folder / "interactions.parquet", folder / "items.parquet"
    types = column_types(path)
    positive = positive_sql(folder)
    names = ("item_id", "title", "caption", "category", "tags", "author_id")
    texts = ", ".join(as_text(name, types) for name in names)
    duration = "duration_ms" if "duration_ms" in types else "NULL AS duration_ms"
    return fetch(
        f"""
        WITH seen AS (SELECT item, count(*) AS events, count(*) FILTER ({positive}) AS positives
                      FROM {LOG} GROUP BY item),
             it AS (SELECT file_row_number AS item, {texts}, {duration}
                    FROM read_parquet(?, file_row_number = true))
        SELECT it.item::INTEGER AS item, item_id, {TITLE}, category, tags, author_id, duration_ms,
               coalesce(events, 0) AS events, coalesce(positives, 0) AS positives
        FROM it LEFT JOIN seen USING (item)
        WHERE contains(lower(concat_ws(' ', item_id, title, caption, category, tags)), lower(?))
        ORDER BY events DESC, item LIMIT ? OFFSET ?""",
        log,
        path,
        text.strip(),
        limit,
        offset,
    )


def user_index(folder: Path, user_id: str) -> int | None:
    """The dense index of an original user id, compared as text; None when there is none."""
    return _index(folder / "users.parquet", "user_id", user_id)


def user_id(folder: Path, index: int) -> str | None:
    """The original id of a user, as text; None out of range."""
    found = fetch(
        "SELECT user_id::VARCHAR AS user_id FROM read_parquet(?, file_row_number = true) "
        "WHERE file_row_number = ?",
        folder / "users.parquet",
        int(index),
    )
    return None if found.empty else str(found["user_id"][0])


def item_index(folder: Path, item_id: str) -> int | None:
    """The dense index of an original item id, compared as text; None when there is none."""
    return _index(folder / "items.parquet", "item_id", item_id)


def item(folder: Path, index: int) -> dict[str, Any]:
    """Every column of one item, lists as text, plus events and positives; {} out of range."""
    path, log = folder / "items.parquet", folder / "interactions.parquet"
    types = column_types(path)
    names = ", ".join(
        as_text(name, types) if types[name].endswith("[]") else f'"{name}"' for name in types
    )
    found = fetch(
        f"SELECT {names} FROM read_parquet(?, file_row_number = true) WHERE file_row_number = ?",
        path,
        int(index),
    )
    if found.empty:
        return {}
    positive = positive_sql(folder)
    counts = fetch(
        f"SELECT count(*) AS events, count(*) FILTER ({positive}) AS positives FROM {LOG} "
        "WHERE item = ?",
        log,
        int(index),
    )
    values = {str(name): value for name, value in found.iloc[0].items()}
    return values | {name: int(counts[name][0]) for name in ("events", "positives")}


def titles(folder: Path | None, items: Sequence[int] | np.ndarray) -> list[str]:
    """What to call items, see `item_texts`; without a dataset "item <index>"; -1 is ""."""
    if folder is None or len(items) == 0:
        return [f"item {index}" if index >= 0 else "" for index in items]
    return [str(title) for title in item_texts(folder, items)["title"].fillna("")]


def cover(folder: Path, item: int) -> Path | None:
    """The picture of an item, if the dataset has one."""
    path = folder / "images" / f"{int(item)}.png"
    return path if path.is_file() else None


def _time_range(
    about: dict[str, Any], types: dict[str, str], log: Path
) -> tuple[int | None, int | None]:
    if about.get("time") != "exact" or "timestamp" not in types:
        return None, None
    found = fetch(f"SELECT min(timestamp) AS a, max(timestamp) AS b FROM {LOG}", log)
    return int(found["a"][0]), int(found["b"][0])


def _splits(types: dict[str, str], log: Path) -> dict[str, int]:
    if "split" not in types:
        return {}
    found = fetch(f"SELECT split, count(*) AS n FROM {LOG} WHERE split != '' GROUP BY 1", log)
    return {str(part): int(n) for part, n in zip(found["split"], found["n"], strict=True)}


def _top_share(counts: np.ndarray, share: float) -> float:
    """Share of all events that fall on the most frequent `share` of the items (at least one)."""
    top = max(1, round(len(counts) * share))
    return float(np.sort(counts)[::-1][:top].sum() / max(1, counts.sum()))


def _index(path: Path, column: str, wanted: str) -> int | None:
    found = fetch(
        f"SELECT file_row_number AS row FROM read_parquet(?, file_row_number = true) "
        f"WHERE {column}::VARCHAR = ?",
        path,
        str(wanted),
    )
    return None if found.empty else int(found["row"][0])
