"""Reading a file of rows into DuckDB as it is: Parquet, separated text, or JSON lines.

Text is read as text: what it means is decided in `values`, where a bad value can still be named by
its row. Nothing is guessed from a sample, so a late odd row cannot change what early rows mean.
"""

from __future__ import annotations

import ast
import csv
import gzip
import io
import json
import re
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import duckdb

from onerec.data.sql import columns_of, quote, sql_path
from onerec.errors import DataError

_PARQUET = (".parquet", ".pq")
_JSON = (".json", ".jsonl", ".ndjson")
_TEXT = (".csv", ".tsv", ".txt", ".dat", ".data", ".item", ".user", ".inter", ".base", ".test")
_DELIMITERS = ("\t", "::", ";", "|", ",")
_NULLS = ("", "NULL", "null", "NaN", "nan", "\\N")
_HEAD_BYTES = 1 << 20
_UNREADABLE = (OSError, EOFError, zlib.error)  # what a damaged or cut off file raises

Known: TypeAlias = tuple[re.Pattern[bytes], set[bytes]]


@dataclass(frozen=True)
class Source:
    """The files of one table.

    Attributes:
        paths: files with the same columns, read one after the other.
        names: column names, for text without a header line.
        delimiter: of text; by default the one that the header line shows.
        select: SQL over `{raw}` that makes the table, where the columns have to be made first.
        known_by: of items, keep only those whose value in this column occurs in the interactions'
            column of the same name.
    """

    paths: tuple[Path, ...]
    names: tuple[str, ...] = ()
    delimiter: str = ""
    select: str = ""
    known_by: str = ""

    @property
    def label(self) -> str:
        return str(self.paths[0]) if len(self.paths) == 1 else f"{self.paths[0]} and more"


@dataclass(frozen=True)
class Raw:
    """A table in DuckDB whose rowid is the row in the file, from 0."""

    table: str
    label: str
    types: dict[str, str]
    text: bool


def read_raw(connection: duckdb.DuckDBPyConnection, table: str, source: Source) -> Raw:
    """Read the files of a source into the DuckDB table `table`.

    Raises:
        DataError: a file is missing, of an unknown kind or not well formed (with the row).
    """
    for path in source.paths:
        if not path.is_file():
            raise DataError(f"{path}: no such file")
        if path.stat().st_size == 0:
            raise DataError(f"{path}: the file is empty")
    kind = _kind(source.paths[0])
    raw = f"{table}_as_is" if source.select else table
    if kind == "parquet":
        query = f"FROM read_parquet({_list(source.paths)}, union_by_name = true)"
        _create(connection, raw, query, source.label)
    elif kind == "json":
        _read_json(connection, raw, source)
    else:
        _read_text(connection, raw, source)
    if source.select:
        connection.execute(f"CREATE TABLE {table} AS {source.select.format(raw=raw)}")
    if source.known_by:
        column = quote(source.known_by)
        connection.execute(
            f"DELETE FROM {table} WHERE CAST({column} AS VARCHAR) NOT IN "
            f"(SELECT CAST({column} AS VARCHAR) FROM interactions)"
        )
    types = columns_of(connection, table)
    return Raw(table=table, label=source.label, types=types, text=kind == "text")


def _kind(path: Path) -> str:
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    for kind, suffixes in (("parquet", _PARQUET), ("json", _JSON), ("text", _TEXT)):
        if suffix in suffixes:
            return kind
    raise DataError(
        f"{path}: unknown kind of file {suffix or 'without ending'!r}; give .parquet, .csv, .tsv, "
        ".dat, .json or .jsonl (or one of the last five with .gz)"
    )


def _list(paths: Sequence[Path]) -> str:
    return "[" + ", ".join(sql_path(path) for path in paths) + "]"


def _create(connection: duckdb.DuckDBPyConnection, table: str, query: str, label: str) -> None:
    try:
        connection.execute(f"CREATE OR REPLACE TABLE {table} AS {query}")
    except duckdb.Error as error:
        raise DataError(f"{label}: {_reason(str(error))}") from error


def _reason(text: str) -> str:
    """The one line of a DuckDB message that says what is wrong, with the row where it has one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    line = re.search(r"CSV Error on Line: (\d+)", text)
    if line is None:
        return lines[0]
    original = re.search(r"Original Line: (.*)", text)
    shown = f" ({original.group(1)[:80]!r})" if original else ""
    told = next((one for one in lines[1:] if not one.startswith("Original Line")), "not readable")
    return f"line {line.group(1)}{shown}: {told}"


def _open(path: Path) -> gzip.GzipFile | io.BufferedReader:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def _first_line(path: Path) -> str:
    try:
        with _open(path) as file:
            head = file.readline(_HEAD_BYTES)
    except _UNREADABLE as error:
        raise DataError(f"{path}: cannot be read ({error}); get the file again") from error
    try:
        return head.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        return head.decode("latin-1").rstrip("\r\n")


def _read_text(connection: duckdb.DuckDBPyConnection, table: str, source: Source) -> None:
    head = _first_line(source.paths[0])
    delimiter = source.delimiter or max(_DELIMITERS, key=head.count)
    names = list(source.names) or _header(head, delimiter)
    columns = "{" + ", ".join(f"{_text(name)}: 'VARCHAR'" for name in names) + "}"
    nulls = "[" + ", ".join(_text(null) for null in _NULLS) + "]"
    first: DataError | None = None
    # Most files quote and are UTF-8; some never quote (a stray " is a character), some are Latin-1.
    for quoting in ('"', ""):
        for encoding in ("utf-8", "latin-1"):
            query = (
                f"FROM read_csv({_list(source.paths)}, auto_detect = false, columns = {columns}, "
                f"header = {str(not source.names).lower()}, delim = {_text(delimiter)}, "
                f"quote = {_text(quoting)}, escape = {_text(quoting)}, nullstr = {nulls}, "
                f"encoding = '{encoding}')"
            )
            try:
                return _create(connection, table, query, source.label)
            except DataError as error:
                first = first or error
                if "utf-8" not in str(error):
                    break
    raise first or DataError(f"{source.label}: cannot be read")


def _header(head: str, delimiter: str) -> list[str]:
    """The names in a header line, made distinct, with one for a nameless (index) column."""
    cells = next(csv.reader(io.StringIO(head), delimiter=delimiter)) if len(delimiter) == 1 else []
    names: list[str] = []
    for place, cell in enumerate(cells or head.split(delimiter)):
        name = cell.strip() or f"column_{place + 1}"
        while name.lower() in (other.lower() for other in names):
            name += "_"
        names.append(name)
    return names


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _read_json(connection: duckdb.DuckDBPyConnection, table: str, source: Source) -> None:
    head = _first_line(source.paths[0])
    if head.lstrip().startswith("{") and not _is_json(head):
        known = _known(connection, source.known_by)
        with tempfile.TemporaryDirectory() as folder:
            clean = [_literal_to_json(path, Path(folder), known) for path in source.paths]
            _create(connection, table, _json_query(clean), source.label)
        return
    _create(connection, table, _json_query(source.paths), source.label)


def _json_query(paths: Sequence[Path]) -> str:
    return (
        f"FROM read_json({_list(paths)}, union_by_name = true, sample_size = -1, "
        "maximum_object_size = 268435456)"
    )


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return len(line) >= _HEAD_BYTES  # cut off, so it cannot tell
    return True


def _known(connection: duckdb.DuckDBPyConnection, column: str) -> Known | None:
    """How to see, before a line is parsed, that it is of an item nobody met."""
    if not column:
        return None
    rows = connection.execute(f"SELECT DISTINCT {quote(column)} FROM interactions").fetchall()
    pattern = re.compile(rf"""['"]{re.escape(column)}['"]: ['"]([^'"]*)['"]""".encode())
    return pattern, {str(row[0]).encode() for row in rows}


def _literal_to_json(path: Path, folder: Path, known: Known | None) -> Path:
    """Rewrite lines of Python dictionaries (the Amazon metadata of 2014) as JSON lines."""
    clean = folder / f"{path.name.removesuffix('.gz')}l"
    try:
        with _open(path) as lines, clean.open("w", encoding="utf-8") as out:
            for number, line in enumerate(lines, start=1):
                found = known[0].search(line) if known else None
                if known and found and found.group(1) not in known[1]:
                    continue
                out.write(_as_json(line, f"{path}, line {number}") + "\n")
    except _UNREADABLE as error:
        raise DataError(f"{path}: cannot be read ({error}); get the file again") from error
    return clean


def _as_json(line: bytes, where: str) -> str:
    try:
        row: Any = ast.literal_eval(line.decode("utf-8"))
        return json.dumps(row)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise DataError(f"{where}: neither JSON nor a literal") from error
