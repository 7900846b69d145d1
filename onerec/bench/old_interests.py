"""What a long history could say of the next like, before any model is trained to hear it.

    python -m onerec.bench.old_interests [--world KEY=VALUE ...] [--weights 0 .5 1]
                                         [--windows 8 52 136] [--json] [--out FILE]

Of a world's log, by the weight of old interests: every positive in the last part of a history is of
a topic that is among the positives of the last W events (`recent`), only among older ones (`old`),
or new to the person (`never`). `lift` is how much likelier a topic is that was liked long ago than
one never liked. `nats` is what it is worth to know which are which, where all that is read are the
last W events: sum over old and never of p log(p / q), p the share of the positives and q what the
topics would have if they were alike. A model that reads the whole history gains at most about that
over one that reads W events, as far as topics go; a world where it is a hundredth of a nat is not
one to compare them on.

Worlds have the settings of `bench.pathways --experiment lifelong` but for `--world`. Left out:
people with fewer than twice the widest window of events.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onerec.bench.generate import as_json, commit, write
from onerec.bench.mistakes import refuse_below_one, told_in_a_line
from onerec.bench.pathways import WEIGHTS, world_config
from onerec.data.log import positive_rows
from onerec.errors import DataError
from onerec.world.config import WorldConfig
from onerec.world.world import make_world

Ints = NDArray[np.int64]

WINDOWS = (8, 52, 136)  # events; the recipe `small` reads about 52, with 32 more positives 136
LAST = 0.3  # of a history: its positives are looked at


def shares(topic: Ints, positive: NDArray[np.bool_], window: int, topics: int) -> NDArray[Any]:
    """Of one history, oldest first: (2, 3) positives of recent, old and new topics, and topics.

    `topic` (T,) below `topics`, `positive` (T,). The second row sums the numbers of such topics
    over the positives looked at, those in the last `LAST` of the history.
    """
    found = np.zeros((2, 3))
    for row in np.flatnonzero(positive):
        if row < (1 - LAST) * len(topic):
            continue
        first = max(0, row - window)
        recent = set(topic[first:row][positive[first:row]].tolist())
        old = set(topic[:row][positive[:row]].tolist()) - recent
        kind = 0 if topic[row] in recent else 1 if topic[row] in old else 2
        found[0, kind] += 1
        found[1] += (len(recent), len(old), topics - len(recent) - len(old))
    return found


def worth(found: NDArray[Any]) -> dict[str, float | None]:
    """What `shares` (2, 3), summed over people, come to."""
    count = found[0].sum()
    p, size = found[0] / count, found[1] / count
    alike = (p[1] + p[2]) / max(size[1] + size[2], 1e-12)
    nats = sum(p[k] * math.log(p[k] / size[k] / alike) for k in (1, 2) if p[k] > 0)
    lift = (p[1] / size[1]) / (p[2] / size[2]) if p[2] > 0 and size[1] > 0 else None
    return {
        **{name: round(float(x), 4) for name, x in zip(("recent", "old", "never"), p, strict=True)},
        "lift": None if lift is None else round(float(lift), 3),
        "nats": round(nats, 4),
    }


def potential(config: WorldConfig, windows: Sequence[int]) -> dict[str, dict[str, float | None]]:
    """What a history could say in one world, by window.

    Raises:
        DataError: nobody has twice the widest window of events.
    """
    world = make_world(config)
    log, topics = world.simulate(), int(world.catalogue.topic.max()) + 1
    positive, _ = positive_rows(log, len(log["user"]), None)
    order = np.lexsort((log["timestamp"], log["user"]))
    topic, positive = world.catalogue.topic[log["item"][order]], positive[order]
    ends = np.cumsum(np.bincount(log["user"], minlength=config.n_users))
    found = {window: np.zeros((2, 3)) for window in windows}
    for first, last in zip(np.append(0, ends[:-1]), ends, strict=True):
        if last - first >= 2 * max(windows):
            own = slice(int(first), int(last))
            for window in windows:
                found[window] += shares(topic[own], positive[own], window, topics)
    if not found[windows[0]][0].sum():
        raise DataError(
            f"nobody has {2 * max(windows)} events: --world mean_history=1000, or --windows below"
        )
    return {str(window): worth(each) for window, each in found.items()}


@told_in_a_line
def main(argv: Sequence[str] | None = None) -> int:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="what a long history could say, in nats")
    parser.add_argument("--world", nargs="*", action="extend", default=[], help="KEY=VALUE")
    parser.add_argument("--weights", nargs="+", type=float, default=list(WEIGHTS))
    parser.add_argument("--windows", nargs="+", type=int, default=list(WINDOWS), help="of events")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--out", type=Path, help="also write it to this file")
    words = list(sys.argv[1:] if argv is None else argv)
    chosen = parser.parse_args(words)
    refuse_below_one(chosen, ("windows",))
    config = world_config(chosen.world)
    found = {
        f"{weight:g}": potential(replace(config, old_interest_weight=weight), chosen.windows)
        for weight in sorted(set(chosen.weights))
    }
    result = {
        "benchmark": "old_interests",
        "command": " ".join(["python -m onerec.bench.old_interests", *words]),
        "commit": commit(),
        "world": config.as_dict() | {"old_interest_weight": None},
        "weights": found,
    }
    if chosen.out is not None:
        write(result, chosen.out)
    if chosen.json:
        print(as_json(result))
        return 0
    for weight, by_window in found.items():
        for window, told in by_window.items():
            said = ", ".join(f"{name} {value}" for name, value in told.items())
            print(f"weight {weight}, {window} events: {said}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
