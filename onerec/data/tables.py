"""Columns to a Parquet file and back, through DuckDB, complete or not there at all."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd

from onerec.errors import DataError
from onerec.run_files import cursor


def write_parquet(path: Path, columns: Mapping[str, Any] | pd.DataFrame) -> None:
    """Write equally long columns as a Parquet file, replacing what stands there.

    Raises:
        DataError: the disk is full or the folder cannot be written; nothing half-written is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    frame = columns if isinstance(columns, pd.DataFrame) else pd.DataFrame(dict(columns))
    try:
        with cursor() as connection:
            connection.register("frame", frame)
            connection.execute(
                f"COPY frame TO '{_quoted(temporary)}' (FORMAT parquet, COMPRESSION zstd)"
            )
        os.replace(temporary, path)
    except (OSError, duckdb.IOException) as error:
        raise DataError(
            f"{path}: cannot be written ({str(error).splitlines()[0]}); free some disk space"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def read_parquet(path: Path) -> pd.DataFrame:
    """A Parquet file as a frame, rows in their order.

    Raises:
        DataError: it is missing or damaged.
    """
    try:
        with cursor() as connection:
            return connection.execute(f"FROM read_parquet('{_quoted(path)}')").df()
    except duckdb.Error as error:
        raise DataError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from error


def check_rows(meta: Mapping[str, Any], rows: int) -> None:
    """Refuse a table of `users` times `group` rows that lost some; one that tells neither passes.

    Raises:
        ValueError: how many there are, and of how many.
    """
    expected = meta.get("users", 0) * meta.get("group", 0)
    if expected and rows != expected:
        raise ValueError(f"{rows:,} of {expected:,} rows")


def check_step(frame: pd.DataFrame, needed: Sequence[str] = ()) -> None:
    """Refuse a policy step of which a level's column is gone or a number is none.

    `lp_` and `drawn_` may be lacking for all levels where they are not `needed`; which others there
    have to be, readers know.

    Raises:
        ValueError: which column, and of a number in which row.
    """
    levels = sum(str(name).startswith("code_") for name in frame)
    for kind in ("code_", "lp_", "drawn_"):
        there = {str(name) for name in frame if str(name).startswith(kind)}
        wanted = {f"{kind}{level}" for level in range(1, levels + 1)}
        if there != wanted and (there or kind in needed):
            name = min(wanted - there or there - wanted)
            raise ValueError(f"column {name} is {'missing' if name in wanted else 'one too many'}")
    for name in frame.columns.drop("step", errors="ignore"):
        lost = ~np.isfinite(frame[name].to_numpy(float))
        if lost.any():
            row = int(lost.argmax())
            raise ValueError(f"column {name} holds {frame[name].iloc[row]} in row {row}")


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
