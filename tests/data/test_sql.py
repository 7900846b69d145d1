"""Names and paths that would break a query do not."""

from pathlib import Path

import duckdb

from onerec.data.sql import columns_of, quote, sql_path


def test_odd_names_and_paths(tmp_path: Path) -> None:
    name, path = 'a"b', tmp_path / "it's.parquet"
    with duckdb.connect() as connection:
        connection.execute(f"COPY (SELECT 1::INTEGER AS {quote(name)}) TO {sql_path(path)}")
        assert columns_of(connection, sql_path(path)) == {name: "INTEGER"}
        connection.execute(f"CREATE TABLE t AS FROM {sql_path(path)}")
        assert columns_of(connection, "t") == {name: "INTEGER"}
