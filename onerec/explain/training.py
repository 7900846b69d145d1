"""What a training is doing and did: curves, the latest values, progress of the stages.

Reads metrics.jsonl and status.json, which a live process appends to and replaces; it is cheap
enough to be called once a second.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from onerec.explain.query import empty
from onerec.runs import STAGES, Run

LABELS = {
    "tokenize": "Tokenize",
    "pretrain": "Pre-train",
    "reward": "Reward",
    "align": "Align",
    "evaluate": "Evaluate",
    "recommend": "Recommend",
}
KEYS = ("stage", "step", "of", "seconds")


def curves(run: Run, stage: str = "pretrain", points: int = 2000) -> pd.DataFrame:
    """metric, step, seconds, value: every metric of a stage, each thinned to `points` points.

    Thinning keeps the first and the last point and, of every bucket of steps, the least and the
    greatest value, so that a spike never vanishes.
    """
    frame = run.metrics(stage)
    columns = ["metric", "step", "seconds", "value"]
    parts = []
    for name in (name for name in frame.columns if name not in KEYS):
        known = frame[frame[name].notna()]
        kept = known.iloc[thin(known[name].to_numpy(dtype=np.float64), points)]
        parts.append(
            pd.DataFrame(
                {
                    "metric": name,
                    "step": kept["step"].astype("int64"),
                    "seconds": kept["seconds"].astype("float64"),
                    "value": kept[name].astype("float64"),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)[columns] if parts else empty(columns)


def thin(values: np.ndarray, points: int) -> np.ndarray:
    """Indices, ascending, of at most `points` values: ends, and least and greatest per bucket."""
    if points < 4:
        raise ValueError(f"points={points}: at least 4 are needed")
    if len(values) <= points:
        return np.arange(len(values))
    inner = np.arange(1, len(values) - 1)
    kept = {0, len(values) - 1}
    for bucket in np.array_split(inner, (points - 2) // 2):
        kept |= {int(bucket[values[bucket].argmin()]), int(bucket[values[bucket].argmax()])}
    return np.array(sorted(kept))


def latest(run: Run, stage: str = "pretrain") -> dict[str, Any]:
    """The last known value of each metric, with step, of, seconds and eta_seconds (None: unknown).

    The estimate takes the pace of the last tenth of the steps, at least five lines of it.
    """
    frame = run.metrics(stage)
    if frame.empty:
        return {}
    last: dict[str, Any] = {
        str(name): float(frame[name].dropna().iloc[-1])
        for name in frame.columns
        if name != "stage" and frame[name].notna().any()
    }
    last |= {"step": int(frame["step"].iloc[-1]), "of": int(frame["of"].iloc[-1])}
    recent = frame.iloc[-max(5, len(frame) // 10) :]
    steps = int(recent["step"].iloc[-1] - recent["step"].iloc[0])
    seconds = float(recent["seconds"].iloc[-1] - recent["seconds"].iloc[0])
    left = max(0, last["of"] - last["step"])
    last["eta_seconds"] = left * seconds / steps if steps > 0 and seconds >= 0 else None
    return last


def progress(run: Run) -> pd.DataFrame:
    """One row per stage: stage, label, state, step, of, share, seconds, skipped.

    A finished stage is done whatever came after; the stage that the status names has the run's
    state; the others wait. `seconds` is known of finished stages; of a skipped one, which is done
    too, they say nothing.
    """
    status, rows = run.status(), []
    for stage in STAGES:
        stamp = run.done(stage)
        state, step, of, share, seconds = "waiting", 0, 0, 0.0, np.nan
        if stamp is not None:
            state, share, seconds = "done", 1.0, float(stamp.get("seconds", np.nan))
        elif status.stage == stage:
            state, step, of, share = status.state, status.step, status.of, status.share
        skipped = bool((stamp or {}).get("skipped"))
        rows.append((stage, LABELS[stage], state, step, of, share, seconds, skipped))
    columns = ["stage", "label", "state", "step", "of", "share", "seconds", "skipped"]
    return pd.DataFrame(rows, columns=columns)


def checkpoints(run: Run) -> pd.DataFrame:
    """stage, step, mebibytes, saved, chosen: every whole checkpoint, in the order of the stages."""
    columns = ["stage", "step", "mebibytes", "saved", "chosen"]
    parts = []
    for stage in STAGES:
        found = run.checkpoints(stage)
        names = [path.name for path in found["path"]]
        chosen = (run.done(stage) or {}).get("checkpoint")
        parts.append(
            found.assign(
                stage=stage,
                mebibytes=found["bytes"] / 2**20,
                saved=pd.to_datetime(found["written"].astype("float64"), unit="s"),
                chosen=[name == chosen for name in names],
            )
        )
    filled = [part for part in parts if len(part)]
    return pd.concat(filled, ignore_index=True)[columns] if filled else empty(columns)
