"""Streams of a run that `fake_run` wrote, in the real format; the numbers are easy to work out.

In round r the users 2r .. 2r + 7 come. A visit of user u is worth 100 + 10 u + r seconds, and an
arm that learns adds `lift` from round 2 on: 0.5, 1 or 1.5 times, by u % 3.
"""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from onerec.data.tables import write_parquet

ROUNDS, VISITORS, SHOWN = 3, 8, 4
STARTED = 1_700_000_000.0


def build(
    run: Path,
    name: str = "frozen",
    *,
    arm: str = "frozen",
    lift: float = 0.0,
    level: float = 0.0,
    idle: tuple[int, ...] = (),
    **changes: Any,
) -> Path:
    """Write a stream that is done; `level` is added to all; `changes` are settings that differ.

    The rounds `idle` had no examples to learn from.
    """
    folder = run / "stream" / name
    folder.mkdir(parents=True)
    asked = {"arm": arm, "rounds": ROUNDS, "steps": 2, "lag": 2, "share": 0.5, "shown": SHOWN}
    asked |= {"window": 3, "seed": 0} | changes
    described = {"name": "stream", "recipe": asked, "seed": asked["seed"], "run": run.name}
    write(folder / "recipe.json", described | {"dataset": {"name": "toy", "fingerprint": "0"}})
    for number in range(1, asked["rounds"] + 1):
        learns = arm != "frozen" and number not in idle
        add_round(folder, number, lift, learns=learns, level=level, idle=number in idle)
    status(folder, state="done", step=asked["rounds"], of=asked["rounds"])
    return folder


def status(folder: Path, **values: Any) -> None:
    """What the process of the stream last said; without changes it is gone."""
    now = {"pid": 999_999_999, "process_started": 1.0, "heartbeat": time.time(), "message": ""}
    now |= {"stage": "stream", "started": STARTED + len(folder.name)}
    write(folder / "status.json", now | values)


def add_round(
    folder: Path,
    number: int,
    lift: float = 0.0,
    *,
    learns: bool = False,
    level: float = 0.0,
    idle: bool = False,
) -> None:
    """Events, values and the line of metrics of one round."""
    users = np.arange(2 * number, 2 * number + VISITORS)
    worth = 100.0 + 10 * users + number + level
    worth += lift * (0.5 + users % 3 / 2) * (number > 1)
    values = {"watch_s": worth + 1, "positives": users % 4 * 1.0, "true_watch_s": worth}
    values |= {"true_long_view": np.full(VISITORS, 0.25)}
    rounds = folder / "rounds"
    write_parquet(rounds / f"events-{number:06d}.parquet", events(users, number))
    write_parquet(rounds / f"values-{number:06d}.parquet", {"user": users, **values})
    line: dict[str, Any] = {
        "stage": "stream",
        "step": number,
        "of": ROUNDS,
        "seconds": number * 2.0,
    }
    line |= {"users": VISITORS, **{name: float(each.mean()) for name, each in values.items()}}
    if learns:
        line |= {"examples": 40.0, "loss": 3 / number, "next_token": 2 / number, "policy": -0.1}
        line |= {"reward": 0.1 * number, "legality": 0.9, "grad_norm": 1.0}
    if idle:
        line |= {"examples": 0.0}
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps(line | {"round_seconds": 2.0}) + "\n")


def events(users: np.ndarray, number: int) -> pd.DataFrame:
    """Each user is shown four items; the first is clicked, and the second also watched long."""
    place = np.tile(np.arange(SHOWN), len(users))
    return pd.DataFrame(
        {
            "user": np.repeat(users, SHOWN),
            "item": (np.repeat(users, SHOWN) + place + number) % 48,
            "place": place,
            "timestamp": 1_800_000_000_000 + number * 86_400_000 + place * 1000,
            "play_ms": (place * 5000).astype("float32"),
            "duration_ms": 10_000,
            "click": (place < 2).astype("int8"),
            "long_view": np.where(place == 3, -1, place == 1).astype("int8"),
        }
    )


def write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
