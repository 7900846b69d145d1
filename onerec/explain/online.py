"""What the streams of a run did: their rounds, and the A/B of two of them with its interval.

The A/B may also be that of two runs: `other` is the name of a run of the same home to which stream
b belongs, and "" is the run itself.

A stream is a folder `stream/<name>/` of the run that it began from; it reads like a run's, with
`rounds/values-NNNNNN.parquet` (what a visit was worth, by user) and `rounds/events-NNNNNN.parquet`
(who was shown what and did what) beside. Cheap enough to be called while a stream is running.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from onerec.data.schema import BEHAVIOURS
from onerec.errors import RunError
from onerec.explain.dataset import titles
from onerec.explain.query import empty
from onerec.run_files import cursor
from onerec.runs import Run, open_run, valid_name

STAGE = "stream"
VALUES = ("true_watch_s", "watch_s", "true_long_view", "hits", "positives")
LEARNED = ("loss", "next_token", "policy", "reward", "legality", "grad_norm")
SAME_PEOPLE = ("seed", "share", "shown")  # what must agree for the same people and the same luck
SETTINGS = ("steps", "lag", "share", "shown", "window", "seed")
STREAM_COLUMNS = ("stream", "arm", "state", "round", "rounds", "value", "last", *SETTINGS, "sent")
CURVE_COLUMNS = ("round", "stream", "mean", "low", "high", "users")
AB_COLUMNS = ("over", "round", "visits", "users", "a", "b", "difference", "low", "high")
ROUND_COLUMNS = ("user", "place", "item", "title", "play_s", "play_share", "behaviours")
RESAMPLES = 1_000
Z95 = 1.959964


def names(run: Run) -> list[str]:
    """The streams of a run, the newest start first."""
    folders = [path for path in (run.path / STAGE).glob("[!.]*") if path.is_dir()]
    started = {path.name: Run(path).status().started or path.stat().st_mtime for path in folders}
    return sorted(started, key=lambda name: (-started[name], name))


def opened(run: Run, name: str) -> Run:
    """The folder of a stream, which reads like a run's.

    Raises:
        RunError: there is none of that name; those that are there are named.
    """
    folder = run.path / STAGE / name
    if name in names(run):
        return Run(folder)
    known = ", ".join(names(run)) or "none"
    raise RunError(
        f"run {run.name!r} has no stream {name!r}, it has {known}; "
        f"`onerec stream --run {run.name} --arm rsft_ecpo` makes one"
    )


def run_of(run: Run, other: str = "") -> Run:
    """The run of stream b in an A/B: that of the name beside `run`, or `run` itself for "".

    Raises:
        RunError: there is none of that name.
    """
    return open_run(run.path.parent / valid_name(other)) if other else run


def runs_beside(run: Run) -> list[str]:
    """Other runs of the home and the same dataset with a stream that has done a round, by name."""
    found = {path.parents[2].name for path in run.path.parent.glob("[!.]*/stream/*/metrics.jsonl")}
    near = (Run(run.path.parent / name) for name in sorted(found - {run.name}))
    return [each.name for each in near if _dataset(each) == _dataset(run)]


def _dataset(run: Run) -> tuple[str, str]:
    """Name and fingerprint of the data of a run or stream."""
    said = run.recipe().get("dataset") or {}
    return str(said.get("name", "")), str(said.get("fingerprint", ""))


def settings(run: Run, name: str) -> dict[str, Any]:
    """What a stream was started with (`onerec.stream.StreamConfig`), {} before it began."""
    return dict(opened(run, name).recipe().get("recipe") or {})


def streams(run: Run) -> pd.DataFrame:
    """One row per stream, the newest first; see `STREAM_COLUMNS`.

    `round` of `rounds` are done; `value` names what is counted first (true watch time in a world,
    hits in a log that is played back) and `last` is its mean in the last round, NaN before the
    first. `sent`: how often the server got weights after something had been learned.
    """
    rows = []
    for name in names(run):
        stream, asked = opened(run, name), settings(run, name)
        status, lines = stream.status(), stream.metrics(STAGE)
        value = next((value for value in VALUES if value in lines.columns), "")
        row: dict[str, Any] = {"stream": name, "arm": asked.get("arm", ""), "state": status.state}
        done = 0 if lines.empty else int(lines["step"].iloc[-1])
        row |= {"round": done, "rounds": asked.get("rounds", 0), "value": value}
        row |= {"last": float(lines[value].iloc[-1]) if value else np.nan}
        row |= {key: asked.get(key, np.nan) for key in SETTINGS}
        rows.append(row | {"sent": _sent(asked, lines)})
    columns = list(STREAM_COLUMNS)
    return pd.DataFrame(rows, columns=columns) if rows else empty(columns)


def _sent(asked: dict[str, Any], lines: pd.DataFrame) -> int:
    """Times that new weights went to the server: before each update but the first whose number is
    a multiple of `lag`. A round has its numbers also where it had no examples, but no updates.

    With `lag` 0 the policy itself serves, so that every update counts.
    """
    if "examples" not in lines or not asked:
        return 0
    steps, lag = int(asked["steps"]), int(asked["lag"])
    rounds = lines.loc[lines["examples"] > 0, "step"].to_numpy(dtype=np.int64)  # from 1
    updates = ((rounds[:, None] - 1) * steps + np.arange(steps)).ravel()
    return len(updates) if lag == 0 else int((updates[1:] % lag == 0).sum())


def served_from(steps: int, lag: int) -> int:
    """The first round that is served by weights that learned something, counted from 1.

    Weights are sent before update `lag` (the updates count from 0), and that update belongs to
    round `lag // steps` (from 0); the round after it is the first to be served by them.
    """
    return 2 if lag == 0 else lag // steps + 2


def values_of(run: Run, name: str) -> list[str]:
    """Which of `VALUES` a stream has, the most telling first; none before its first round.

    In a log that is played back, `positives` are the day's own, whatever was listed: left out.
    """
    lines = opened(run, name).metrics(STAGE)
    kept = [value for value in VALUES if value in lines.columns and lines[value].notna().any()]
    return [value for value in kept if value != "positives" or "hits" not in kept]


def rounds_of(run: Run, name: str) -> list[int]:
    """The rounds whose visits can be looked at, ascending."""
    paths = (opened(run, name).path / "rounds").glob("events-*.parquet")
    return sorted(int(path.stem.rpartition("-")[2]) for path in paths)


def curves(run: Run, streams: Sequence[str], value: str = VALUES[0]) -> pd.DataFrame:
    """round, stream, mean, low, high, users: a value per visit, by round and stream.

    low and high are the 95% interval of the mean over the users of the round, by the normal
    approximation (mean ± 1.96 s / √users); NaN for a single user.
    """
    parts = []
    for name in streams:
        visits = _visits(opened(run, name), value)
        if visits.empty:
            continue
        found = visits.groupby("round")["value"].agg(["mean", "std", "size"]).reset_index()
        half = Z95 * found["std"] / np.sqrt(found["size"])
        low, high = found["mean"] - half, found["mean"] + half
        found = found.assign(stream=name, low=low, high=high, users=found["size"])
        parts.append(found[list(CURVE_COLUMNS)])
    return pd.concat(parts, ignore_index=True) if parts else empty(CURVE_COLUMNS)


def comparable(run: Run, a: str, b: str, other: str = "") -> str:
    """Why two streams cannot be compared user by user; "" where they can."""
    owner = run_of(run, other)
    named = [
        repr(name) + f" of run {each.name!r}" * bool(other) for name, each in ((a, run), (b, owner))
    ]
    both = " and ".join(named)
    data = [_dataset(opened(each, name)) for name, each in ((a, run), (b, owner))]
    if all(name for name, _ in data) and data[0] != data[1]:
        which = "{} and {}".format(*(name for name, _ in data))
        which = f"two states of {data[0][0]}" if data[0][0] == data[1][0] else which
        return f"streams {both} have other data ({which}); compare streams of one dataset"
    one, two = settings(run, a), settings(owner, b)
    for key in SAME_PEOPLE:
        if one.get(key) != two.get(key):
            return (
                f"streams {both} differ in {key} ({one.get(key)} and {two.get(key)}): "
                "their visitors are not the same people with the same luck; start one with the "
                f"other's {key} to compare them"
            )
    splits = _splits((run, a), (owner, b))
    if "hits" in values_of(run, a) and splits[0] != splits[1]:
        return (
            f"streams {both} play other days back: their runs differ in evaluate.split "
            f"({splits[0]} and {splits[1]}); compare runs of one split"
        )
    return ""


def _splits(*streams: tuple[Run, str]) -> list[str]:
    """How the logs of streams (run, name) were cut: the rule that was followed, since `auto` may
    have come to the one that another run names; as their runs' recipes say where one is older and
    does not tell."""
    followed = [str(opened(run, name).recipe().get("split") or "") for run, name in streams]
    if all(followed):
        return followed
    recipes = [run.recipe().get("recipe") or {} for run, _ in streams]
    return [str((recipe.get("evaluate") or {}).get("split", "")) for recipe in recipes]


def compared(run: Run, a: str, b: str, value: str = VALUES[0], other: str = "") -> pd.DataFrame:
    """The A/B: mean difference a - b over the visits that both have; see `AB_COLUMNS`.

    A row for each round that both have done, and a last one, `over` "all rounds", whose `round` is
    missing. low and high are the 95% percentile bootstrap interval that resamples whole users with
    all their visits (a user who comes in several rounds counts once); NaN for a single user. Luck
    in training is not in it: both arms are one training each.

    Raises:
        RunError: they have other visitors (dataset, seed, share, items shown, or the split of a log
            that is played back differ), or there is no such run or stream.
    """
    if reason := comparable(run, a, b, other):
        raise RunError(reason)
    one, two = _visits(opened(run, a), value), _visits(opened(run_of(run, other), b), value)
    pairs = one.merge(two, on=["round", "user"], suffixes=("_a", "_b"))
    if pairs.empty:
        return empty(AB_COLUMNS)
    rows = [
        _difference(pairs[pairs["round"] == number], f"round {number}", int(number))
        for number in sorted(set(pairs["round"]))
    ]
    frame = pd.DataFrame([*rows, _difference(pairs, "all rounds", None)], columns=list(AB_COLUMNS))
    return frame.astype({"round": "Int64"})


def _difference(pairs: pd.DataFrame, over: str, number: int | None) -> dict[str, Any]:
    apart = (pairs["value_a"] - pairs["value_b"]).groupby(pairs["user"]).agg(["sum", "size"])
    low, high = user_interval(apart["sum"].to_numpy(float), apart["size"].to_numpy(float))
    row: dict[str, Any] = {"over": over, "round": number, "visits": len(pairs)}
    row |= {"users": len(apart), "a": pairs["value_a"].mean(), "b": pairs["value_b"].mean()}
    return row | {"difference": row["a"] - row["b"], "low": low, "high": high}


def user_interval(
    total: NDArray[np.float64], visits: NDArray[np.float64], seed: int = 0
) -> tuple[float, float]:
    """95% interval of Σ total / Σ visits, users resampled whole.

    Args:
        total: (U,) sum over the visits of each user.
        visits: (U,) how many there are.
    """
    count = len(total)
    if count < 2:
        return float("nan"), float("nan")
    random, means = np.random.default_rng(seed), np.empty(RESAMPLES)
    for number in range(RESAMPLES):
        drawn = random.integers(count, size=count)
        means[number] = total[drawn].sum() / visits[drawn].sum()
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def visitors(run: Run, name: str, round: int) -> pd.DataFrame:
    """user and the values of the visit (those of `VALUES` that are known), by user."""
    frame = _read(_round_file(run, name, "values", round))
    known = [value for value in VALUES if value in frame.columns]
    return frame[["user", *known]].sort_values("user").reset_index(drop=True)


def round_of(run: Run, name: str, round: int, user: int | None = None) -> pd.DataFrame:
    """What was shown to whom in a round, and what they did; of one user where asked.

    user, place (in the list, from 1), item, title, play_s, play_share (of the item's length),
    behaviours (those known to be true). A log that is played back has the day's own events
    instead: what was really taken, place 1.
    """
    events = _read(_round_file(run, name, "events", round))
    if user is not None:
        events = events[events["user"] == user].reset_index(drop=True)
    unknown = pd.Series(np.nan, index=events.index)
    play = events.get("play_ms", unknown).astype(float)
    length = events.get("duration_ms", unknown).astype(float)
    shown = [behaviour for behaviour in BEHAVIOURS if behaviour in events.columns]
    true = (events[shown] == 1).to_numpy()
    frame = pd.DataFrame(
        {
            "user": events["user"].astype("int64"),
            "place": events["place"].astype("int64") + 1,
            "item": events["item"].astype("int64"),
            "title": titles(run.dataset_folder, events["item"].tolist()),
            "play_s": play / 1000,
            "play_share": play / length.where(length > 0),
            "behaviours": [
                ", ".join(n for n, yes in zip(shown, row, strict=True) if yes) for row in true
            ],
        }
    )
    return frame.sort_values(["user", "place"], kind="stable").reset_index(drop=True)


def learning(run: Run, name: str) -> pd.DataFrame:
    """metric, round, value: losses, mean reward and legality at the last update of each round.

    Empty for an arm that learns nothing.
    """
    lines = opened(run, name).metrics(STAGE)
    known = [metric for metric in LEARNED if metric in lines.columns]
    if not known:
        return empty(("metric", "round", "value"))
    lines = lines.rename(columns={"step": "round"})
    found = lines.melt("round", known, "metric", "value").dropna(subset="value")
    return found[["metric", "round", "value"]].reset_index(drop=True)


def _visits(stream: Run, value: str) -> pd.DataFrame:
    """round, user, value of every visit; none where the stream has no such value."""
    if value not in VALUES:
        raise RunError(f"value {value!r}: choose one of {', '.join(VALUES)}")
    columns = ("round", "user", "value")
    folder = stream.path / "rounds"
    if not any(folder.glob("values-*.parquet")):
        return empty(columns)
    files = folder / "values-*.parquet"
    if value not in _ask("SELECT * FROM read_parquet(?, union_by_name=true) LIMIT 0", files):
        return empty(columns)
    return _ask(
        "SELECT regexp_extract(filename, 'values-([0-9]+)', 1)::BIGINT AS round, "
        f'"user", "{value}"::DOUBLE AS value '
        "FROM read_parquet(?, filename=true, union_by_name=true) ORDER BY round, \"user\"",
        files,
    )  # fmt: skip


def _round_file(run: Run, name: str, kind: str, round: int) -> Path:
    path = opened(run, name).path / "rounds" / f"{kind}-{round:06d}.parquet"
    if not path.is_file():
        there = rounds_of(run, name)
        done = f"rounds {there[0]} to {there[-1]} are there" if there else "no round is done yet"
        raise RunError(f"stream {name!r} has no round {round}: {done}")
    return path


def _read(path: Path) -> pd.DataFrame:
    return _ask("SELECT * FROM read_parquet(?)", path)


def _ask(sql: str, path: Path) -> pd.DataFrame:
    try:
        return cursor().execute(sql, [str(path)]).df()
    except duckdb.Error as error:
        raise RunError(
            f"{path}: cannot be read ({str(error).splitlines()[0]}); delete the stream's folder "
            "and start it again"
        ) from None
