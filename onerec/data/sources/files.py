"""Any files of interactions, items and users, by the names and units of `schema` and `values`.

This is the way in for all data: the other sources only say which files of an archive are read and
what their columns are called.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb

from onerec.data.readers import Raw, Source, read_raw
from onerec.data.schema import TABLES, Field, Mapped, Table, map_columns
from onerec.data.sql import quote
from onerec.data.values import UNITS, kept, reading, refuse_unreadable
from onerec.errors import DataError


@dataclass(frozen=True)
class Tables:
    """Three tables with our names and units (as Arrow), and what was done to get there."""

    interactions: Any
    items: Any | None
    users: Any | None
    mapping: dict[str, dict[str, str]] = field(default_factory=dict)
    ignored: dict[str, list[str]] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)


def load(
    interactions: Path | Source,
    items: Path | Source | None = None,
    users: Path | Source | None = None,
    columns: Mapping[str, str] | None = None,
) -> Tables:
    """Read the files of a dataset.

    Args:
        interactions: who met what and when.
        items, users: what is known of each; optional.
        columns: ours -> theirs, e.g. {"item_id": "sku"}. `items.title` speaks of one table only;
            `ts@s` says the unit (s, ms, us, ns); an empty value leaves our column out.

    Raises:
        DataError: a file, column or value cannot be read.
    """
    given: dict[Table, Path | Source | None] = {
        "interactions": interactions,
        "items": items,
        "users": users,
    }
    sources: dict[Table, Source] = {
        table: one if isinstance(one, Source) else Source((Path(one),))
        for table, one in given.items()
        if one is not None
    }
    loaded = Tables(None, None, None)
    tables: dict[str, Any] = {}
    overrides = dict(columns or {})
    _refuse_unknown(overrides)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        raws = {table: read_raw(connection, table, source) for table, source in sources.items()}
        _refuse_unused(overrides, raws)
        for table, raw in raws.items():
            chosen, units = _overrides_for(table, raw, overrides)
            mapped = map_columns(table, raw.types, chosen, raw.label)
            sql = _select(connection, table, raw, mapped, units, loaded)
            tables[table] = connection.sql(sql).to_arrow_table()
            loaded.ignored[table] = list(mapped.ignored)
    return Tables(
        tables["interactions"],
        tables.get("items"),
        tables.get("users"),
        loaded.mapping,
        loaded.ignored,
        loaded.counts,
    )


def _select(
    connection: duckdb.DuckDBPyConnection,
    table: Table,
    raw: Raw,
    mapped: Mapped,
    units: Mapping[str, str],
    loaded: Tables,
) -> str:
    """The query that turns a raw table into ours; refuses what it cannot read."""
    parts = []
    said = loaded.mapping.setdefault(table, {})
    for one in TABLES[table]:
        theirs = mapped.columns.get(one.name)
        if theirs is None:
            continue
        how = reading(connection, raw, theirs, one.kind, units.get(one.name, ""))
        if table == "interactions" or one.kind == "id":
            needed = one.kind in ("id", "time", "order") and table == "interactions"
            refuse_unreadable(connection, raw, (one.name, theirs), one.kind, how.sql, needed)
        else:
            _count_unreadable(connection, raw, one, theirs, how.sql, loaded)
        parts.append(f"{how.sql} AS {quote(one.name)}")
        said[one.name] = theirs + (f" ({how.note})" if how.note else "")
    parts += kept(connection, raw, mapped.kept)
    said.update({name: name for name in mapped.kept})
    # DuckDB may run `IN (...)` as a join, which does not keep the order of the rows.
    return f"SELECT {', '.join(parts)} FROM {raw.table} ORDER BY rowid"


def _count_unreadable(
    connection: duckdb.DuckDBPyConnection,
    raw: Raw,
    one: Field,
    theirs: str,
    sql: str,
    loaded: Tables,
) -> None:
    """Of an item or a user, an unreadable value is left empty, and counted."""
    if one.kind not in ("time", "ms", "number"):
        return
    lost = connection.execute(
        f"SELECT count(*) FROM {raw.table} WHERE ({sql}) IS NULL AND "
        f"nullif(trim(CAST({quote(theirs)} AS VARCHAR)), 'nan') IS NOT NULL"
    ).fetchall()[0][0]
    if lost:
        loaded.counts[f"unreadable_{one.name}"] = lost


def _split_key(key: str) -> tuple[str, str]:
    """`items.title` is ("items", "title"); `title` is ("", "title")."""
    table, dot, ours = key.rpartition(".")
    return (table, ours) if dot else ("", key)


def _refuse_unknown(overrides: Mapping[str, str]) -> None:
    known = {one.name for fields in TABLES.values() for one in fields}
    for key, theirs in overrides.items():
        table, ours = _split_key(key)
        if ours not in known or table not in ("", *TABLES):
            near = difflib.get_close_matches(ours, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(known))}"
            raise DataError(f"--column {key}={theirs}: we have no column {key!r}; {hint}")
        unit = theirs.rpartition("@")[2] if "@" in theirs else ""
        if unit and unit not in UNITS and not theirs.startswith("@"):
            raise DataError(f"--column {key}={theirs}: unit {unit!r}; use {', '.join(UNITS)}")


def _refuse_unused(overrides: Mapping[str, str], raws: Mapping[Table, Raw]) -> None:
    """An override that no file can follow is a mistake, and says which columns there are."""
    for key, theirs in overrides.items():
        table, ours = _split_key(key)
        plain = theirs.partition("@")[0]
        asked = [
            raw
            for name, raw in raws.items()
            if table in ("", name) and any(one.name == ours for one in TABLES[name])
        ]
        if asked and plain and not any(plain in raw.types for raw in asked):
            there = "; ".join(f"{raw.label} has {', '.join(raw.types)}" for raw in asked)
            raise DataError(f"--column {key}={theirs}: no column {plain!r}; {there}")


def _overrides_for(
    table: Table, raw: Raw, overrides: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """The overrides that speak of this file: ours -> theirs, and ours -> unit."""
    chosen, units = {}, {}
    for key, value in overrides.items():
        named, ours = _split_key(key)
        theirs, _, unit = value.partition("@")
        if named not in ("", table) or (theirs and not named and theirs not in raw.types):
            continue
        chosen[ours] = theirs
        if unit:
            units[ours] = unit
    return chosen, units
