"""Names and paths in SQL, and the columns of a table: what every user of DuckDB here needs."""

from __future__ import annotations

from pathlib import Path

import duckdb


def quote(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def sql_path(path: Path) -> str:
    """A path as an SQL string."""
    return "'" + str(path).replace("'", "''") + "'"


def columns_of(connection: duckdb.DuckDBPyConnection, table: str) -> dict[str, str]:
    """The columns and SQL types of a table, or of a file given by `sql_path`."""
    rows = connection.execute(f"DESCRIBE FROM {table}").fetchall()
    return {row[0]: row[1] for row in rows}
