"""What a dataset folder says of itself: dataset.json, and which of its events are positives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from onerec.data.schema import EVERY_ROW, POSITIVE_BEHAVIOURS
from onerec.errors import DataError
from onerec.explain.query import column_types, fetch

LOG = "read_parquet(?)"


def info(folder: Path) -> dict[str, Any]:
    """dataset.json. Raises DataError when it is missing or damaged."""
    path = folder / "dataset.json"
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(
            f"{folder}: no dataset there; `onerec data list` shows what there is"
        ) from None
    except ValueError as error:
        raise DataError(
            f"{path}: not readable as JSON ({error}); import the dataset again"
        ) from None
    return value


def positive_rule(folder: Path) -> str:
    """The rule by which events count as positives, e.g. "long_view|like" or "rating>=4".

    The one that dataset.json names, else the default of `onerec.data.dataset.positive_rows`: the
    first of the strong behaviours that are known, click, rating >= 4 that any row meets.
    """
    named = info(folder).get("positive")
    if named:
        return str(named)
    log = folder / "interactions.parquet"
    types = column_types(log)
    flags = [name for name in ("click", *POSITIVE_BEHAVIOURS) if name in types]
    counted = ", ".join(f'count("{name}") AS "{name}"' for name in flags)
    row = fetch(f"SELECT {counted} FROM {LOG}", log).iloc[0] if flags else None
    known = [name for name in flags if row is not None and row[name]]
    candidates = ["|".join(name for name in POSITIVE_BEHAVIOURS if name in known)]
    candidates += ["click"] * ("click" in known) + ["rating>=4"] * ("rating" in types)
    for rule in filter(None, candidates):
        if fetch(f"SELECT count(*) AS n FROM {LOG} WHERE {_as_sql(rule, types)}", log)["n"][0]:
            return rule
    return EVERY_ROW


def positive_sql(folder: Path) -> str:
    """The dataset's rule for positives as SQL; never NULL."""
    return _as_sql(positive_rule(folder), column_types(folder / "interactions.parquet"))


def _as_sql(rule: str, types: dict[str, str]) -> str:
    if rule == EVERY_ROW:
        return "true"
    if ">=" in rule:
        name, limit = rule.split(">=")
        return f'coalesce("{name}" >= {float(limit)}, false)' if name in types else "false"
    known = [f'coalesce("{name}", false)' for name in rule.split("|") if name in types]
    return f"({' OR '.join(known)})" if known else "false"
