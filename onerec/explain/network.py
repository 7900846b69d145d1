"""What happens inside the network: here the load of the experts over a training.

Reads routing/load.parquet (step, layer, expert, load: tokens sent to the expert since the row
before). A run of a dense model has none, and every function then returns an empty frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from onerec.errors import DataError, RunError
from onerec.explain.query import empty, fetch
from onerec.metrics import entropy_nats
from onerec.runs import Run

LOAD = ("step", "layer", "expert", "load", "share")
BALANCE = ("step", "layer", "max_violation", "cv", "entropy_nats", "max_entropy_nats")


def has_routing(run: Run) -> bool:
    return (run.path / "routing" / "load.parquet").is_file()


def expert_load(run: Run, *, through: int | None = None) -> pd.DataFrame:
    """step, layer, expert, load, share: `share` of the tokens of this step and layer.

    Up to step `through`: who watches a training asks with its present step.
    """
    if not has_routing(run):
        return empty(LOAD)
    path = run.path / "routing" / "load.parquet"
    with whole(run, path):
        return fetch(
            "SELECT step, layer, expert, load, coalesce(load / nullif(sum(load) OVER "
            "(PARTITION BY step, layer), 0), 0) AS share FROM read_parquet(?) "
            "WHERE step <= coalesce(?, step) ORDER BY step, layer, expert",
            path,
            through,
        )


@contextmanager
def whole(run: Run, path: Path) -> Iterator[None]:
    """Turn what a file of routing/ lacks into one line that names it and what to do."""
    try:
        yield
    except (DataError, KeyError, ValueError, IndexError, TypeError, AttributeError) as error:
        reason = str(error).partition("; import")[0].removeprefix(f"{path}: ")
        raise RunError(
            f"{path}: not a whole recording ({reason}); delete the file, or train run "
            f"{run.name!r} anew under another name"
        ) from None


def balance(run: Run, *, through: int | None = None) -> pd.DataFrame:
    """How evenly the tokens spread, per step and layer, up to step `through`.

    max_violation = max load / mean load - 1 (0 is even; MaxVio of the loss-free balancing paper,
    arXiv 2408.15664); cv = standard deviation / mean; entropy in nats of the shares, at most ln E.
    """
    load = expert_load(run, through=through)
    rows = []
    for (step, layer), group in load.groupby(["step", "layer"]):
        values = group["load"].to_numpy(dtype=np.float64)
        mean = values.mean()
        if mean <= 0:
            continue
        entropy = entropy_nats(values)
        excess, spread = values.max() / mean - 1, values.std() / mean
        rows.append((step, layer, excess, spread, entropy, float(np.log(len(values)))))
    return pd.DataFrame(rows, columns=list(BALANCE)) if rows else empty(BALANCE)
