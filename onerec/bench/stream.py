"""What the online loop is worth on the world: six arms, the same people and the same luck.

    python -m onerec.bench.stream --run RUN [--seeds 10 --rounds 20 --jobs 2] --out FILE

Every arm of every seed is `onerec stream` in a process of its own: its own clone of the log and of
what people have seen, its own feedback, equal numbers of updates and equal lag. A seed decides who
comes, their answers by place in the list, and the order of training. What was stopped goes on.

What is compared is the true watch time of a visit (what the world expects of the list that was
served; hits where a log is played back), as the mean over rounds from the first that is served by
weights that learned something. Intervals are over seeds, of differences taken seed by seed.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onerec.bench.generate import commit, cpu_name, write
from onerec.bench.mistakes import MISTAKE, last_line, refuse_below_one, told_in_a_line
from onerec.bench.paired import interval
from onerec.errors import RunError
from onerec.explain.online import STAGE, opened, served_from, settings, values_of
from onerec.runs import Run, open_run
from onerec.stream import ARMS, StreamConfig
from onerec.stream.config import ROUNDS

PAIRS = (
    *((arm, "frozen") for arm in ARMS if arm != "frozen"),
    ("rsft", "half"),
    ("rsft", "all"),
    ("rsft_grpo", "rsft"),
    ("rsft_ecpo", "rsft"),
    ("rsft_ecpo", "rsft_grpo"),
)


def stream_name(arm: str, seed: int) -> str:
    """The folder of one stream of the experiment."""
    return f"bench-{arm}-{seed}"


def play(run: Run, arms: Sequence[str], seeds: int, options: Sequence[str], jobs: int) -> None:
    """Do what is not done, `jobs` streams at once.

    Raises:
        RunError: a stream failed; what it said last is in the message, all of it on stderr if it
            was no mistake of the user.
    """
    waiting = [
        (arm, seed)
        for seed, arm in itertools.product(range(seeds), arms)
        if not Run(run.path / STAGE / stream_name(arm, seed)).is_done(STAGE)
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "ONEREC_HOME": str(run.path.parents[1])}

    def one(arm: str, seed: int) -> None:
        name = stream_name(arm, seed)
        command = [sys.executable, "-m", "onerec", "stream", "--run", run.name, "--arm", arm]
        command += ["--name", name, "--seed", str(seed), "--json", *options]
        done = subprocess.run(command, env=env, text=True, capture_output=True, check=False)
        if done.returncode:
            if done.returncode != MISTAKE:
                print(done.stderr, file=sys.stderr)
            said = last_line(done.stderr)
            raise RunError(f"stream {name!r}: {said or f'ended with status {done.returncode}'}")

    with ThreadPoolExecutor(jobs) as pool:
        for future in [pool.submit(one, *each) for each in waiting]:
            future.result()


def by_round(run: Run, name: str, value: str) -> NDArray[np.float64]:
    """The mean of a visit in each round (R,)."""
    return opened(run, name).metrics(STAGE)[value].to_numpy(dtype=np.float64)


def refuse_too_short(rounds: int, steps: int, lag: int) -> int:
    """The first round, from 1, that is served by weights that learned something.

    Raises:
        RunError: there is none.
    """
    first = served_from(steps, lag)
    if first > rounds:
        raise RunError(
            f"{rounds} rounds with lag={lag}: weights that learned serve from round {first} on; "
            "ask for more rounds or a smaller lag"
        )
    return first


def summary(run: Run, arms: Sequence[str], seeds: int) -> dict[str, Any]:
    """By arm the mean of a visit, by pair the paired difference, and the curves by round.

    Raises:
        RunError: no round is served by weights that learned something.
    """
    asked = settings(run, stream_name(arms[0], 0))
    first = refuse_too_short(int(asked["rounds"]), int(asked["steps"]), int(asked["lag"]))
    value = values_of(run, stream_name(arms[0], 0))[0]
    curves = {
        arm: np.array([by_round(run, stream_name(arm, seed), value) for seed in range(seeds)])
        for arm in arms
    }  # (seeds, R)
    later = {arm: curve[:, first - 1 :].mean(1) for arm, curve in curves.items()}
    last = {arm: curve[:, -5:].mean(1) for arm, curve in curves.items()}
    pairs = [(a, b) for a, b in PAIRS if a in arms and b in arms]
    return {
        "settings": asked,
        "seeds": seeds,
        "rounds_compared": [first, int(asked["rounds"])],
        "value": value,
        "of_a_visit": {arm: interval(list(values)) for arm, values in later.items()},
        "differences": {f"{a} - {b}": interval(list(later[a] - later[b])) for a, b in pairs},
        "last_five_rounds": {f"{a} - {b}": interval(list(last[a] - last[b])) for a, b in pairs},
        "by_round": {
            arm: [round(float(each), 3) for each in curve.mean(0)] for arm, curve in curves.items()
        },
    }


@told_in_a_line
def main(words: Sequence[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="six arms of the online loop on the world")
    parser.add_argument("--run", required=True)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--jobs", type=int, default=1, help="streams at once")
    parser.add_argument("--out", type=Path, required=True)
    for name in ("rounds", "steps", "lag", "shown", "window"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--share", type=float)
    chosen = parser.parse_args(words)
    refuse_below_one(chosen, ("seeds", "jobs"))
    run = open_run(chosen.run, chosen.home)
    given = {n: getattr(chosen, n) for n in ("rounds", "steps", "lag", "share", "shown", "window")}
    options = [w for n, v in given.items() if v is not None for w in (f"--{n}", str(v))]
    usual = StreamConfig(**{name: value for name, value in given.items() if value is not None})
    refuse_too_short(usual.rounds or ROUNDS, usual.steps, usual.lag)
    play(run, chosen.arms, chosen.seeds, options, chosen.jobs)
    told = {"command": "python -m onerec.bench.stream", "commit": commit(), "device": cpu_name()}
    write({**told, **summary(run, chosen.arms, chosen.seeds)}, chosen.out)


if __name__ == "__main__":
    raise SystemExit(main())
