"""The quantisers side by side on a run's items, as `onerec.pipeline.quantisers` has kept them.

Each function returns an empty frame while nothing was measured. Values are means over the seeds,
with the least and the greatest beside them: a few fits give no interval worth the name.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from onerec.explain.query import empty
from onerec.run_files import read_json
from onerec.runs import Run

RESULT = "cache/quantisers.json"
KINDS = ("rq_kmeans", "refined", "balanced", "rq_vae", "random")
LEAST = 10  # items that a comparison needs
VALUES = ("loss", "held_out_loss", "share_sharing", "purity", "chance", "seconds")
BY_LEVEL = ("utilisation", "entropy_nats", "perplexity", "dead_codes", "spread_left")
COLUMNS = ("kind", "seeds", *(f"{name}{end}" for name in VALUES for end in ("", "_low", "_high")))
LEVEL_COLUMNS = (
    *("kind", "level", "max_entropy_nats"),
    *(f"{name}{end}" for name in BY_LEVEL for end in ("", "_low", "_high")),
)


def facts(run: Run) -> dict[str, Any]:
    """items, dim, size, levels, steps (of the RQ-VAE) and seeds; {} while there is nothing."""
    found = _read(run)
    if not found.get("rows"):
        return {}
    return {**found["setting"], "seeds": len({row["seed"] for row in found["rows"]})}


def compared(run: Run) -> pd.DataFrame:
    """A row a kind: kind, seeds, and each of `VALUES` with its _low and _high over the seeds.

    Losses are relative to the spread of the vectors; purity and chance are NaN where items have no
    categories.
    """
    frame = pd.DataFrame(_read(run).get("rows", []))
    if frame.empty:
        return empty(COLUMNS)
    frame = frame.reindex(columns=["kind", "seed", *VALUES])
    rows = []
    for kind in (kind for kind in KINDS if (frame["kind"] == kind).any()):
        own = frame[frame["kind"] == kind]
        rows.append({"kind": kind, "seeds": len(own), **_summary(own, VALUES)})
    return pd.DataFrame(rows, columns=list(COLUMNS))


def by_level(run: Run) -> pd.DataFrame:
    """A row a kind and level: max_entropy_nats = ln N, and each of `BY_LEVEL` with _low and _high.

    `spread_left` is the relative loss of the first levels alone, up to this one.
    """
    found, rows = _read(run), []
    flat = [
        {"kind": row["kind"], "level": number, **level}
        for row in found.get("rows", [])
        for number, level in enumerate(row["levels"], 1)
    ]
    if not flat:
        return empty(LEVEL_COLUMNS)
    frame = pd.DataFrame(flat)
    frame = frame.assign(spread_left=1 - frame["variance_explained"].astype(float))
    bound = float(np.log(found["setting"]["size"]))
    for kind in (kind for kind in KINDS if (frame["kind"] == kind).any()):
        for level, own in frame[frame["kind"] == kind].groupby("level"):
            row = {"kind": kind, "level": level, "max_entropy_nats": bound}
            rows.append(row | _summary(own, BY_LEVEL))
    return pd.DataFrame(rows, columns=list(LEVEL_COLUMNS))


def _summary(own: pd.DataFrame, names: tuple[str, ...]) -> dict[str, float]:
    told: dict[str, float] = {}
    for name in names:
        values = own[name].astype(float)
        told |= {name: values.mean(), f"{name}_low": values.min(), f"{name}_high": values.max()}
    return told


def _read(run: Run) -> dict[str, Any]:
    path = run.path / RESULT
    return read_json(path) if path.is_file() else {}
