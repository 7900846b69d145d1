"""What a dataset holds, in numbers: counts, mapping, behaviours, history lengths, time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from onerec.data.dataset import Dataset
from onerec.data.schema import BEHAVIOURS

_QUANTILES = {"p10": 0.1, "median": 0.5, "p90": 0.9, "p99": 0.99}


def describe(dataset: Dataset) -> dict[str, Any]:
    """All that `onerec data describe` prints, as one JSON-ready object.

    `behaviours` gives for each behaviour how many rows know it, how many show it and the rate among
    those that know it. `constant` names columns that have one value only and so tell nothing.
    """
    log, info = dataset.log, dataset.info
    lengths = np.diff(log.offsets)
    return {
        "name": dataset.name,
        "path": str(dataset.path),
        "source": info["source"],
        "licence": info["licence"],
        "fingerprint": dataset.fingerprint,
        "rows": info["rows"],
        "columns": info["columns"],
        "ignored": info["ignored"],
        "counts": info["counts"],
        "unknown_items_rule": info["unknown_items_rule"],
        "duplicates_rule": info["duplicates_rule"],
        "time": _time(dataset),
        "positive": {
            "rule": log.positive_rule,
            "rows": int(log.positive.sum()),
            "rate": _share(log.positive.sum(), len(log)),
        },
        "behaviours": _behaviours(dataset),
        "values": {
            name: _spread(log.columns[name])
            for name in ("play_ms", "duration_ms", "rating")
            if name in log.columns
        },
        "split": _split(dataset),
        "history_length": _spread(lengths[lengths > 0]),
        "positives_per_user": _spread(
            np.bincount(log.user[log.positive], minlength=log.n_users)[lengths > 0]
        ),
        "events_per_item": _spread(np.bincount(log.item, minlength=log.n_items)),
        "density": _share(len(log), log.n_users * log.n_items),
        "content": info["modalities"],
        "constant": {"items": _constant(dataset.items), "users": _constant(dataset.users)},
    }


def _share(part: Any, whole: int) -> float:
    return float(part) / whole if whole else 0.0


def _spread(values: Any) -> dict[str, float]:
    """Count of known values, mean, quantiles and range."""
    known = values[~np.isnan(values)]
    if not len(known):
        return {"known": 0}
    found = {"known": len(known), "mean": float(known.mean(dtype=np.float64))}
    found |= {name: float(np.quantile(known, q)) for name, q in _QUANTILES.items()}
    return found | {"min": float(known.min()), "max": float(known.max())}


def _behaviours(dataset: Dataset) -> dict[str, dict[str, float]]:
    columns = dataset.log.columns
    found = {}
    for name in BEHAVIOURS:
        if name in columns:
            known, shown = int((columns[name] >= 0).sum()), int((columns[name] == 1).sum())
            found[name] = {"known": known, "true": shown, "rate": _share(shown, known)}
    return found


def _time(dataset: Dataset) -> dict[str, Any]:
    """Whether times are exact, only an order or absent, and the period they span."""
    found: dict[str, Any] = {"kind": dataset.info["time"]}
    time = dataset.log.columns.get("timestamp")
    if time is not None:
        first, last = (pd.Timestamp(int(t), unit="ms") for t in (time.min(), time.max()))
        found |= {"first": first.isoformat(), "last": last.isoformat()}
    return found


def _split(dataset: Dataset) -> dict[str, int]:
    part = dataset.log.columns.get("split")
    if part is None:
        return {}
    counts = np.bincount(part + 1, minlength=4)
    return dict(zip(("none", "train", "valid", "test"), map(int, counts), strict=True))


def _constant(frame: pd.DataFrame) -> list[str]:
    """Columns beside the ids in which every row says the same."""
    rest = frame.columns[2:]
    return [name for name in rest if frame[name].astype(str).nunique(dropna=False) <= 1]
