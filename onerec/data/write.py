"""Making a dataset folder: dense ids, order, duplicates, refusals, Parquet and the fingerprint.

Takes tables that already have our column names and units (`sources` see to that). All work on rows
is done by DuckDB in memory. Reading a folder is in `dataset`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import duckdb
import numpy as np
import numpy.typing as npt
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import save_file

from onerec.data.fingerprint import hash_arrays, hash_table
from onerec.data.schema import BEHAVIOURS, INTERACTIONS
from onerec.data.sql import columns_of, quote, sql_path
from onerec.errors import DataError

FORMAT = 1
MIN_ITEMS, MIN_EVENTS = 2, 3
RULES = {"unknown_items": ("keep", "drop"), "duplicates": ("merge", "keep")}

if TYPE_CHECKING:
    import pyarrow as pa

Array: TypeAlias = npt.NDArray[Any]
TableLike: TypeAlias = "Mapping[str, Array] | pd.DataFrame | pa.Table"

_INTEGER = "^(0|-?[1-9][0-9]{0,17})$"
_ORDER = ("timestamp", "position")
_COMPRESSION = "COMPRESSION snappy, ROW_GROUP_SIZE 122880"
# How rows of one event become one; what is not named holds where one of them says so.
_MERGE = {
    "play_ms": "max({0})",
    "duration_ms": "max({0})",
    "exact_time": "bool_and({0})",
    "rating": "arg_max({0}, row)",
}


@dataclass
class NewDataset:
    """What is said of a dataset beside its rows; becomes dataset.json."""

    name: str
    source: str
    licence: str
    mapping: dict[str, dict[str, str]]
    ignored: dict[str, list[str]]
    counts: dict[str, Any]
    unknown_items: str = "keep"
    duplicates: str = "merge"
    positive: str | None = None
    modalities: list[str] = field(default_factory=list)


def write_folder(
    path: Path,
    new: NewDataset,
    interactions: TableLike,
    items: TableLike | None,
    users: TableLike | None,
    content: Mapping[str, Array] | None,
    extra_files: Callable[[Path], None] | None,
) -> None:
    """Build the folder at `path`; see `dataset.write_dataset` for the arguments."""
    check_free(path, new.name)
    for rule, allowed in RULES.items():
        if getattr(new, rule) not in allowed:
            raise DataError(f"{rule}={getattr(new, rule)!r}: choose {' or '.join(allowed)}")
    with _folder_in_the_making(path) as folder, duckdb.connect() as connection:
        columns = _load(connection, interactions, items, users, new)
        _number_ids(connection, new)
        _sort(connection, columns, new)
        _check_size(connection, new)
        digest = hashlib.sha256()
        for table, key in (("items", "item"), ("users", "user")):
            _copy(connection, f'FROM {table} ORDER BY "{key}"', folder / f"{table}.parquet")
            hash_table(connection, digest, table, key)
        _copy(connection, "FROM sorted", folder / "interactions.parquet")
        hash_table(connection, digest, "sorted", None, leave_out=("user_id", "item_id"))
        if content is not None:
            _write_content(connection, digest, folder, content)
        if extra_files is not None:
            extra_files(folder)
        info = _describe(connection, new, columns, digest.hexdigest())
        text = json.dumps(info, indent=2, ensure_ascii=False)
        (folder / "dataset.json").write_text(text + "\n", encoding="utf-8")


def is_name(name: str) -> bool:
    """Whether a dataset may be called so: the name is that of one folder, and not hidden."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name) is not None


def check_free(path: Path, name: str) -> None:
    """Refuse a name that cannot be a folder's or that is taken."""
    if not is_name(name):
        raise DataError(f"dataset name {name!r}: use at most 64 of letters, digits, '.', '_', '-'")
    if path.exists():
        raise DataError(
            f"dataset {name!r} is already there ({path}); choose another name or remove it with "
            f"`onerec data delete {name}`"
        )


@contextlib.contextmanager
def _folder_in_the_making(path: Path) -> Iterator[Path]:
    """A temporary sibling of `path` that becomes `path` at the end and vanishes on failure."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        temporary.replace(path)
    except (OSError, SafetensorError, duckdb.IOException, duckdb.OutOfMemoryException) as error:
        full = "No space left on device"
        reason = full if full in str(error) else str(error).splitlines()[0]
        raise DataError(
            f"{path}: cannot be written ({reason}); nothing was left behind, free some space or "
            "set ONEREC_HOME to another disk"
        ) from error
    except duckdb.Error as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path.name}: a value is not of its column's type ({reason})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _load(
    connection: duckdb.DuckDBPyConnection,
    interactions: TableLike,
    items: TableLike | None,
    users: TableLike | None,
    new: NewDataset,
) -> list[str]:
    """Put the three tables into DuckDB in our types; returns the log's columns beside the ids."""
    expressions: dict[str, str] = {}
    types = _register(connection, "given_log", interactions)
    for needed in ("user_id", "item_id"):
        if needed not in types:
            raise DataError(f"interactions: no column {needed}; there are {', '.join(types)}")
    if not set(_ORDER) & set(types):
        raise DataError(
            "interactions: neither timestamp nor position, so the order of events is unknown; "
            "name one with --column timestamp=THEIRS or --column position=THEIRS"
        )
    for known in INTERACTIONS:
        if known.name in types and known.kind != "id":
            expressions[known.name] = _as_ours(known.name, types[known.name])
    parts = [f'{_id(n, types[n])} AS "{n}"' for n in ("user_id", "item_id")]
    parts += [f'{sql} AS "{name}"' for name, sql in expressions.items()]
    connection.execute(f"CREATE TABLE log AS SELECT {', '.join(parts)} FROM given_log")
    _refuse_nulls(connection, [n for n in (*_ORDER, "user_id", "item_id") if n in types])
    for table, key, given in (("items", "item_id", items), ("users", "user_id", users)):
        if given is None:
            connection.execute(f"CREATE TABLE own_{table} AS SELECT DISTINCT {key} FROM log")
            continue
        types = _register(connection, f"given_{table}", given)
        if key not in types:
            raise DataError(f"{table}: no column {key}; there are {', '.join(types)}")
        rest = [quote(name) for name in types if name not in (key, "user", "item")]
        connection.execute(
            f"CREATE TABLE own_{table} AS SELECT "
            f"{', '.join([f'{_id(key, types[key])} AS {key}', *rest])} FROM given_{table}"
        )
        _drop_repeated(connection, table, key, new)
    return list(expressions)


def _register(connection: duckdb.DuckDBPyConnection, name: str, table: TableLike) -> dict[str, str]:
    """Show a table to DuckDB under `name`; returns its columns and their types."""
    if isinstance(table, Mapping):
        lengths = {column: len(values) for column, values in table.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"{name}: columns of different lengths {lengths}")
        table = dict(table)
    connection.register(name, table)
    return columns_of(connection, name)


def _id(name: str, type_: str) -> str:
    """An id as text: 7 and 7.0 are '7'; anything else stays as it is written."""
    if type_ in ("DOUBLE", "FLOAT"):
        return f'CAST(CAST("{name}" AS BIGINT) AS VARCHAR)'
    return f'CAST("{name}" AS VARCHAR)'


def _as_ours(name: str, type_: str) -> str:
    """One column of the log in its stored type; NaN and (for behaviours) -1 become NULL."""
    column = f'"{name}"'
    floating = type_ in ("DOUBLE", "FLOAT")
    if name in BEHAVIOURS or name == "exact_time":
        if type_ == "BOOLEAN":
            return column
        unknown = f"{column} < 0" + (f" OR isnan({column})" if floating else "")
        return f"CASE WHEN {unknown} THEN NULL ELSE {column} <> 0 END"
    if name == "split":
        return f"CAST({column} AS VARCHAR)"
    target = "FLOAT" if name == "rating" else "BIGINT"
    if floating:
        return f"CAST(CASE WHEN isnan({column}) THEN NULL ELSE {column} END AS {target})"
    return f"CAST({column} AS {target})"


def _refuse_nulls(connection: duckdb.DuckDBPyConnection, columns: list[str]) -> None:
    for name in columns:
        found = connection.execute(
            f'SELECT min(rowid) + 1 FROM log WHERE "{name}" IS NULL'
        ).fetchall()[0][0]
        if found is not None:
            raise DataError(f"interactions, row {found}, column {name}: empty; every row needs one")


def _drop_repeated(
    connection: duckdb.DuckDBPyConnection, table: str, key: str, new: NewDataset
) -> None:
    """The first row of an id counts; later ones and rows without an id are dropped and counted."""
    before, after = connection.execute(
        f"SELECT count(*), count(DISTINCT {key}) FROM own_{table}"
    ).fetchall()[0]
    if before > after:
        connection.execute(
            f"DELETE FROM own_{table} WHERE {key} IS NULL OR rowid NOT IN "
            f"(SELECT min(rowid) FROM own_{table} GROUP BY {key})"
        )
        new.counts[f"repeated_{table}"] = before - after


def _number_ids(connection: duckdb.DuckDBPyConnection, new: NewDataset) -> None:
    """Make `items` and `users`: the rank of md5(id) as dense index, then the id, then the rest."""
    new.counts["unknown_items"] = connection.execute(
        "SELECT count(*) FROM log ANTI JOIN own_items USING (item_id)"
    ).fetchall()[0][0]
    if new.unknown_items == "drop" and new.counts["unknown_items"]:
        connection.execute("DELETE FROM log WHERE item_id NOT IN (SELECT item_id FROM own_items)")
    for table, key in (("items", "item"), ("users", "user")):
        id_ = f"{key}_id"
        seen = f"(SELECT DISTINCT {id_} FROM log)"
        new.counts[f"{table}_without_row"], new.counts[f"{table}_without_events"] = (
            connection.execute(
                f"SELECT (SELECT count(*) FROM {seen} ANTI JOIN own_{table} USING ({id_})), "
                f"(SELECT count(*) FROM own_{table} ANTI JOIN {seen} USING ({id_}))"
            ).fetchall()[0]
        )
        connection.execute(
            f"CREATE TABLE all_{table} AS SELECT {id_}, (row_number() OVER "
            f'(ORDER BY md5({id_}), {id_}) - 1)::INTEGER AS "{key}" '
            f"FROM (SELECT {id_} FROM own_{table} UNION SELECT {id_} FROM log)"
        )
        whole = connection.execute(
            f"SELECT bool_and(regexp_full_match({id_}, '{_INTEGER}')) FROM all_{table}"
        ).fetchall()[0][0]
        type_ = "BIGINT" if whole else "VARCHAR"
        connection.execute(
            f'CREATE TABLE {table} AS SELECT "{key}", CAST({id_} AS {type_}) AS {id_}, '
            f"own_{table}.* EXCLUDE ({id_}) FROM all_{table} LEFT JOIN own_{table} "
            f'USING ({id_}) ORDER BY "{key}"'
        )


def _sort(connection: duckdb.DuckDBPyConnection, columns: list[str], new: NewDataset) -> None:
    """Make `sorted`: the log with dense ids, each event once, in its order."""
    joined = (
        "SELECT log.* EXCLUDE (user_id, item_id), log.rowid AS row, "
        'users.user_id, items.item_id, users."user", items.item FROM log '
        'JOIN all_users ON log.user_id = all_users.user_id JOIN users USING ("user") '
        "JOIN all_items ON log.item_id = all_items.item_id JOIN items USING (item)"
    )
    connection.execute(f"CREATE TABLE joined AS {joined}")
    new.counts["time_backwards"] = 0
    if "timestamp" in columns:
        new.counts["time_backwards"] = connection.execute(
            'SELECT count(*) FROM (SELECT "timestamp" < lag("timestamp") OVER '
            '(PARTITION BY "user" ORDER BY row) AS back FROM joined) WHERE back'
        ).fetchall()[0][0]
    key = ['"user"', "item", *(f'"{n}"' for n in (*_ORDER, "split") if n in columns)]
    repeated = connection.execute(
        f"SELECT count(*) - count(DISTINCT ({', '.join(key)})) FROM joined"
    ).fetchall()[0][0]
    new.counts["duplicates"] = repeated
    rows = "joined"
    if repeated and new.duplicates == "merge":
        rest = [name for name in columns if f'"{name}"' not in key]
        merged = [_MERGE.get(n, "bool_or({0})").format(f'"{n}"') + f' AS "{n}"' for n in rest]
        merged += ["min(row) AS row", "first(user_id) AS user_id", "first(item_id) AS item_id"]
        rows = f"(SELECT {', '.join([*key, *merged])} FROM joined GROUP BY ALL)"
    order = ", ".join(
        f'"{name}"' for name in ("user", *_ORDER, "row") if name in (*columns, "user", "row")
    )
    named = ", ".join(f'"{name}"' for name in columns)
    connection.execute(
        f'CREATE TABLE sorted AS SELECT user_id, item_id, "user", item, {named} '
        f"FROM {rows} ORDER BY {order}"
    )


def _check_size(connection: duckdb.DuckDBPyConnection, new: NewDataset) -> None:
    items = connection.execute("SELECT count(*) FROM items").fetchall()[0][0]
    if items < MIN_ITEMS:
        raise DataError(
            f"{new.source}: {items} item(s) in all; a dataset needs at least {MIN_ITEMS}"
        )
    longest = connection.execute(
        'SELECT coalesce(max(n), 0) FROM (SELECT count(*) AS n FROM sorted GROUP BY "user")'
    ).fetchall()[0][0]
    if longest < MIN_EVENTS:
        raise DataError(
            f"{new.source}: no user has {MIN_EVENTS} events (the longest history has {longest}), "
            "so nothing can be learned; is --column user_id=THEIRS needed?"
        )


def _copy(connection: duckdb.DuckDBPyConnection, query: str, path: Path) -> None:
    """Write a query to Parquet; the same rows give the same bytes."""
    connection.execute(f"COPY ({query}) TO {sql_path(path)} (FORMAT parquet, {_COMPRESSION})")


def _write_content(
    connection: duckdb.DuckDBPyConnection,
    digest: hashlib._Hash,
    folder: Path,
    content: Mapping[str, Array],
) -> None:
    """Put content tokens, given in the order of the items table, into the order of the indices."""
    rows: Any = connection.execute(
        "SELECT coalesce(own_items.rowid, -1) AS given FROM all_items "
        "LEFT JOIN own_items USING (item_id) ORDER BY item"
    ).fetchnumpy()["given"]
    arrays = {
        "tokens": np.ascontiguousarray(content["tokens"][rows]),
        "mask": np.where(rows[:, None] >= 0, content["mask"][rows], 0).astype(np.uint8),
        "modality": np.asarray(content["modality"], dtype=np.int64),
    }
    save_file(arrays, folder / "content.safetensors")
    hash_arrays(digest, arrays)


def _describe(
    connection: duckdb.DuckDBPyConnection, new: NewDataset, columns: list[str], fingerprint: str
) -> dict[str, Any]:
    """The contents of dataset.json."""
    rows = connection.execute(
        "SELECT (SELECT count(*) FROM sorted), (SELECT count(*) FROM items), "
        "(SELECT count(*) FROM users)"
    ).fetchall()[0]
    time = "none"
    if "timestamp" in columns:
        exact = "coalesce(bool_and(coalesce(exact_time, false)), true)"
        query = f"SELECT {exact if 'exact_time' in columns else 'true'} FROM sorted"
        time = "exact" if connection.execute(query + " LIMIT 1").fetchall()[0][0] else "order"
    return {
        "format": FORMAT,
        "name": new.name,
        "source": new.source,
        "licence": new.licence,
        "rows": dict(zip(("interactions", "items", "users"), rows, strict=True)),
        "columns": new.mapping,
        "ignored": new.ignored,
        "counts": new.counts,
        "unknown_items_rule": new.unknown_items,
        "duplicates_rule": new.duplicates,
        "time": time,
        "positive": new.positive,
        "modalities": new.modalities,
        "fingerprint": fingerprint,
    }
