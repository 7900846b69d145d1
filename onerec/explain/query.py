"""Questions to Parquet files, asked through an in-memory DuckDB: no file is kept open or locked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd

from onerec.errors import DataError
from onerec.run_files import cursor


def fetch(sql: str, *values: Any) -> pd.DataFrame:
    """The answer as a frame. `values` fill the `?` of the query; a Path is passed as text.

    Raises:
        DataError: a file that the query names is missing or damaged.
    """
    bound = [str(value) if isinstance(value, Path) else value for value in values]
    try:
        return cursor().execute(sql, bound).df()
    except (duckdb.IOException, duckdb.InvalidInputException) as error:
        named = next((value for value in values if isinstance(value, Path)), "a file")
        reason = str(error).splitlines()[0]
        raise DataError(f"{named}: cannot be read ({reason}); import the dataset again") from None


def column_types(path: Path) -> dict[str, str]:
    """Name -> DuckDB type of each column of a Parquet file."""
    frame = fetch("SELECT column_name, column_type FROM (DESCRIBE FROM read_parquet(?))", path)
    return dict(zip(frame["column_name"], frame["column_type"], strict=True))


def as_text(name: str, types: dict[str, str]) -> str:
    """SQL that shows a column as text: lists joined by a comma, an absent column as NULL."""
    if name not in types:
        return f'NULL::VARCHAR AS "{name}"'
    if types[name].endswith("[]"):
        return f'array_to_string("{name}", \', \') AS "{name}"'
    return f'"{name}"::VARCHAR AS "{name}"'


def empty(columns: Sequence[str]) -> pd.DataFrame:
    """A frame without rows that has the columns of a full one."""
    return pd.DataFrame({name: pd.Series(dtype="object") for name in columns})
