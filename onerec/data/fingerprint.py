"""The fingerprint of a dataset: sha256 over column names, types and values.

It says whether two datasets hold the same rows, whatever wrote them: Parquet's own bytes, which
change with the writer's version and compression, are no part of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt

from onerec.data.sql import columns_of, quote

# Types whose values are hashed as little-endian arrays; all others as text.
_FIXED = ("BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "FLOAT", "DOUBLE")


def hash_arrays(digest: hashlib._Hash, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Add named arrays: name, type and shape, then the values."""
    for name, values in arrays.items():
        digest.update(f"{name}:{values.dtype.str}:{values.shape}\n".encode())
        digest.update(np.ascontiguousarray(values).tobytes())


def hash_table(
    connection: duckdb.DuckDBPyConnection,
    digest: hashlib._Hash,
    table: str,
    order: str | None,
    leave_out: tuple[str, ...] = (),
) -> None:
    """Add a table: each column's name, type, missing values and values, in row order.

    `order` is the column that gives the row order; None where the table is stored in it.
    """
    by = f'ORDER BY "{order}"' if order else ""
    for name, type_ in columns_of(connection, table).items():
        if name in leave_out:
            continue
        quoted = quote(name)
        if type_ in _FIXED:
            got: Any = connection.execute(f"SELECT {quoted} FROM {table} {by}").fetchnumpy()[name]
            missing = np.ma.getmaskarray(got)
            hash_arrays(digest, {f"{name} {type_} missing": missing, name: np.ma.filled(got, 0)})
        else:
            digest.update(f"{name} {type_}\n".encode())
            digest.update(_text_digest(connection, table, quoted, order or "rowid").encode())


def _text_digest(connection: duckdb.DuckDBPyConnection, table: str, quoted: str, order: str) -> str:
    """sha256 of a column's values as netstrings, `n` for a missing one."""
    value = f"CAST({quoted} AS VARCHAR)"
    netstring = f"coalesce(strlen({value}) || ':' || {value}, 'n')"
    query = f"SELECT sha256(coalesce(string_agg({netstring}, '' ORDER BY \"{order}\"), ''))"
    return str(connection.execute(f"{query} FROM {table}").fetchall()[0][0])
