"""Means over seeds with their intervals; differences are taken by seed before they come here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import t as student


def interval(values: Sequence[float], share: float = 0.95) -> dict[str, float]:
    """`mean`, `low` and `high` of values over seeds, by Student's t; one value has no interval."""
    found = np.asarray(values, dtype=np.float64)
    mean, half = float(found.mean()), float("nan")
    if len(found) > 1:
        quantile = float(student.ppf((1 + share) / 2, len(found) - 1))
        half = quantile * float(found.std(ddof=1)) / len(found) ** 0.5
    return {"mean": round(mean, 5), "low": round(mean - half, 5), "high": round(mean + half, 5)}


def bounds(found: Mapping[str, float], form: str = "+.4f") -> str:
    """`[low, high]` for people; a bound that there is not is `-`."""
    ends = (found["low"], found["high"])
    return f"[{', '.join(format(end, form) if math.isfinite(end) else '-' for end in ends)}]"
