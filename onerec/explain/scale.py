"""Size against loss, as tables: a benchmark's trainings and law, what ships, and what V2 prints.

A law is L(N) = E + A / N^a with N in millions, as `onerec.bench.scaling` fits it; the file that it
writes and the summary that it makes of a few small trainings read alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from onerec.explain.measured import RESULTS
from onerec.run_files import read_json

POINTS = ("name", "millions", "loss", "low", "high", "seeds")
LAW = (
    *("name", "E", "A", "a", "a_low", "a_high"),
    *("largest", "measured", "predicted", "predicted_low", "predicted_high"),
)
V2_NAME = "V2, as printed"
_V2_LOSSES = {  # V2 Table 5, dense: parameters in millions -> loss
    100.0: 3.57,
    200.0: 3.46,
    500.0: 3.33,
    1000.0: 3.27,
    2000.0: 3.23,
    4000.0: 3.20,
    8000.0: 3.19,
}
_V2_LAW = (3.13, 3660.0, 0.489)  # N in parameters


def points(runs: Sequence[Mapping[str, Any]], name: str) -> pd.DataFrame:
    """Mean loss by size with the least and the greatest of the seeds: `POINTS`.

    Args:
        runs: trainings, each with `parameters` and `loss`.
        name: whose they are.
    """
    frame = pd.DataFrame([{"n": run["parameters"], "loss": run["loss"]} for run in runs])
    by = frame.groupby("n")["loss"]
    table = by.agg(loss="mean", low="min", high="max", seeds="count").reset_index()
    table = table.assign(name=name, millions=table["n"] / 1e6)
    return table[list(POINTS)]


def law(summary: Mapping[str, Any], name: str) -> pd.DataFrame:
    """One row of `LAW` from a benchmark's summary: the fit, and the largest size left out."""
    fit, largest = summary["law"], summary["largest"]
    predicted = largest["predicted"]
    row = (
        *(name, fit["E"]["value"], fit["A"]["value"]),
        *(fit["a"]["value"], fit["a"]["low"], fit["a"]["high"]),
        *(largest["parameters"] / 1e6, largest["measured"]),
        *(predicted["value"], predicted["low"], predicted["high"]),
    )
    return pd.DataFrame([row], columns=list(LAW))


def v2_points() -> pd.DataFrame:
    """V2's dense sizes and losses (arXiv 2508.20900, Table 5); sizes as their names round them."""
    rows = [(V2_NAME, n, loss, loss, loss, 1) for n, loss in _V2_LOSSES.items()]
    return pd.DataFrame(rows, columns=list(POINTS))


def v2_law() -> pd.DataFrame:
    """V2's own fit, 3.13 + 3660 / N^.489, its A changed to N in millions."""
    floor, scale, exponent = _V2_LAW
    row = (V2_NAME, floor, scale / 1e6**exponent, exponent, *[np.nan] * (len(LAW) - 4))
    return pd.DataFrame([row], columns=list(LAW))


def shipped(folder: Path = RESULTS) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Points and law of `bench.scaling` at scale, as they ship with the library."""
    found = read_json(folder / "scaling.json")
    name = f"measured, {found['samples']:,} samples"
    return points(found["runs"], name), law(found, name)
