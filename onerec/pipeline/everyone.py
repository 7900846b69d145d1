"""Lists for all users in one Parquet file, part by part, so that a kill loses at most one part.

    recommend_all(run, Path("lists.parquet"), k=10)

Parts stand in a folder beside the file, `<file>.parts`, until all are there; then they become the
file, and the folder goes. A folder says in `of.json` what its parts are of: called again with the
same run, k and beam the work goes on, and parts of anything else are made anew. A part is renamed
into its place when it is whole. Memory is that of one part.
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd

from onerec.business_rules import Rules
from onerec.data.split import Cases
from onerec.data.tables import read_parquet, write_parquet
from onerec.errors import DataError
from onerec.recommend import Recommender
from onerec.runs import Run, open_run

PART = 4_096  # users of a part; ours: some seconds of work, some megabytes

Tell = Callable[[int, int], None]


@dataclass(frozen=True)
class Written:
    """`users` that the file has lists for, its `rows`, and the users `before` this call."""

    path: Path
    users: int
    rows: int
    before: int


def recommend_all(
    run: Run | str,
    out: Path,
    *,
    k: int = 10,
    home: Path | None = None,
    device: str = "auto",
    part: int = PART,
    tell: Tell = lambda done, of: None,
) -> Written:
    """Write the lists of every user, from all that they did, in the order of their ids.

    Args:
        out: the Parquet file: columns of `Recommender.recommend`. It is replaced when all is done.
        part: users of a part. The lists do not depend on it.
        tell: called with how many of all users are done, before the first part and after each.

    Raises:
        RunError: the run is missing or not trained.
        DataError: k is below 1, or the file cannot be written.
    """
    if k < 1:
        raise DataError(f"k={k}: ask for at least one item")
    if out.is_dir() or not out.parent.is_dir():
        what = "is a folder" if out.is_dir() else "stands in a folder that is not there"
        raise DataError(f"{out} {what}; --out names the Parquet file to write")
    recommender = Recommender.load(run, home, device)
    dataset = recommender.setting.dataset
    of = _described(open_run(run, home) if isinstance(run, str) else run, recommender, k, part)
    folder = _folder(out, of)
    before, users = 0, dataset.n_users
    tell(0, users)
    for number, start in enumerate(range(0, users, part)):
        path, stop = folder / f"part-{number:06d}.parquet", min(start + part, users)
        if _whole(path):
            before += stop - start
        else:
            write_parquet(path, _lists(recommender, start, stop, k))
        tell(stop, users)
    rows = _joined(folder, out)
    shutil.rmtree(folder)
    return Written(out, users, rows, before)


def _lists(recommender: Recommender, start: int, stop: int, k: int) -> pd.DataFrame:
    """The rows of neighbouring users."""
    index = np.arange(start, stop, dtype=np.int64)
    none = np.zeros(len(index) + 1, dtype=np.int64)
    end = recommender.setting.split.log.offsets[index + 1]
    ids = recommender.setting.dataset.users["user_id"]
    lists = recommender.lists(Cases(index, end, none, none[:0]), k, rules=Rules())
    frame = recommender.frame(ids.iloc[start:stop].tolist(), lists, k)
    return frame.assign(user_id=frame["user_id"].astype(ids.dtype))


def _described(run: Run, recommender: Recommender, k: int, part: int) -> dict[str, Any]:
    setting = recommender.setting
    return {
        "run": str(run.path.resolve()),
        "stamp": run.stamp(),
        "dataset": setting.dataset.fingerprint,
        "k": k,
        "beam": setting.recipe.evaluate.beam,
        "part": part,
    }


def _folder(out: Path, of: dict[str, Any]) -> Path:
    """The folder of parts; what another call left there is taken away."""
    folder = out.with_name(f"{out.name}.parts")
    file = folder / "of.json"
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = None
    try:
        if known != of:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            file.write_text(json.dumps(of, indent=1), encoding="utf-8")
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be written ({error.strerror}); choose another --out"
        ) from error
    return folder


def _whole(path: Path) -> bool:
    try:
        return path.is_file() and read_parquet(path) is not None
    except DataError:
        return False


def _joined(folder: Path, out: Path) -> int:
    """All parts as one file, in their order: how many rows it has."""
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    parts = sorted(str(path) for path in folder.glob("part-*.parquet"))
    try:
        with duckdb.connect() as connection:
            target = str(temporary).replace("'", "''")
            connection.execute("SET preserve_insertion_order = true")
            (rows,) = connection.execute(
                f"COPY (FROM read_parquet($parts)) TO '{target}' (FORMAT parquet, "
                "COMPRESSION zstd)",
                {"parts": parts},
            ).fetchone() or (0,)
        os.replace(temporary, out)
    except (OSError, duckdb.IOException) as error:
        raise DataError(
            f"{out}: cannot be written ({str(error).splitlines()[0]}); free some disk space, the "
            "same command goes on"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return int(rows)
