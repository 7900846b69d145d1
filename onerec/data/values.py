"""What the values of a source column mean: units of time, yes and no, lists, numbers.

Each kind of column becomes one SQL expression, which is NULL where a value cannot be read; a note
says which unit was found. Units are found for a whole column, by the size of its median.
"""

from __future__ import annotations

from dataclasses import dataclass

import duckdb

from onerec.data.readers import Raw
from onerec.data.schema import Kind, simplify
from onerec.data.sql import quote
from onerec.errors import DataError

# Units of a time since 1970, by the largest size that a plausible value has in them, and how many
# of them are a millisecond. 1e11 s is the year 5138, 1e11 ms is 1973.
_TIME_UNITS = (("s", 1e11, 1e-3), ("ms", 1e14, 1.0), ("us", 1e17, 1e3), ("ns", 1e300, 1e6))
_UNIT_NAMES = {"s": "seconds", "ms": "ms", "us": "microseconds", "ns": "nanoseconds"}
_DATE_FORMATS = (
    *("%d-%b-%Y", "%Y/%m/%d", "%Y/%m/%d %H:%M:%S", "%m %d, %Y", "%B %d, %Y", "%b %d, %Y"),
    *("%Y%m%d", "%Y-%m", "%a %b %d %H:%M:%S %z %Y", "%d %b %Y", "%Y-%m-%d %H:%M:%S UTC"),
)
_LONG_MS = 1000  # a typical play time or duration is at least this if it is in ms
_EXACT = 2**53  # from it on two whole numbers may be one floating-point number
_YES = ("1", "true", "t", "yes", "y")
_NO = ("0", "false", "f", "no", "n")
_SPLIT_NAMES = {
    "train": ("train", "training"),
    "valid": ("valid", "val", "validation", "dev", "eval"),
    "test": ("test", "testing"),
}
_NUMBERS = (
    *("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER"),
    *("UBIGINT", "UHUGEINT", "FLOAT", "DOUBLE"),
)
UNITS = tuple(_UNIT_NAMES)


@dataclass(frozen=True)
class Reading:
    """SQL that reads a column, NULL where it cannot; `note` is the unit that was found."""

    sql: str
    note: str = ""


def reading(
    connection: duckdb.DuckDBPyConnection, raw: Raw, theirs: str, kind: Kind, unit: str = ""
) -> Reading:
    """How to read the column `theirs` of a raw table as a column of the given kind."""
    type_, column = raw.types[theirs], quote(theirs)
    if kind == "time":
        return _time(connection, raw, column, type_, unit)
    if kind == "ms":
        return _milliseconds(connection, raw, theirs, unit)
    if kind == "id":
        return Reading(_identifier(column, type_))
    if kind == "flag":
        return Reading(_flag(column, type_))
    if kind == "split":
        return Reading(_split(column))
    if kind == "order":
        return Reading(f"TRY_CAST(CAST({_number(column, type_)} AS DOUBLE) AS BIGINT)")
    if kind == "number":
        return Reading(_number(column, type_))
    if kind == "list":
        return Reading(_list(connection, raw, column, type_))
    return Reading(f"nullif(trim({_as_text(column, type_)}), '')")


def kept(connection: duckdb.DuckDBPyConnection, raw: Raw, names: tuple[str, ...]) -> list[str]:
    """SQL for further columns, kept with their own name: text becomes a number where all of it is
    one, and nested values become JSON."""
    if not names or not raw.text:
        return [f"{_plain(quote(name), raw.types[name])} AS {quote(name)}" for name in names]
    checks = []
    for column in map(quote, names):
        known = f"{column} IS NOT NULL"
        checks.append(
            f"bool_and(regexp_full_match({column}, '-?(0|[1-9][0-9]{{0,17}})')) FILTER ({known})"
        )
        checks.append(
            f"bool_and(TRY_CAST({column} AS DOUBLE) IS NOT NULL AND NOT "
            f"regexp_matches({column}, '^-?0[0-9]')) FILTER ({known})"
        )
    found = connection.execute(f"SELECT {', '.join(checks)} FROM {raw.table}").fetchall()[0]
    types = [
        "BIGINT" if whole else "DOUBLE" if number else "VARCHAR"
        for whole, number in zip(found[::2], found[1::2], strict=True)
    ]
    return [
        f"CAST({quote(name)} AS {type_}) AS {quote(name)}"
        for name, type_ in zip(names, types, strict=True)
    ]


def refuse_unreadable(
    connection: duckdb.DuckDBPyConnection,
    raw: Raw,
    columns: tuple[str, str],
    kind: Kind,
    sql: str,
    needed: bool,
) -> None:
    """Name the first row whose value cannot be read or, where every row needs one, is missing.

    `columns` is our name and theirs. Rows count from 1, a header line is none.

    Raises:
        DataError: with file, row, column and value.
    """
    ours, theirs = columns
    column = quote(theirs)
    also = "" if needed else f" AND {column} IS NOT NULL AND {_is_number(column, raw, theirs)}"
    row = connection.execute(
        f"SELECT min(rowid) FROM {raw.table} WHERE ({sql}) IS NULL{also}"
    ).fetchall()[0][0]
    if row is None:
        return
    value = connection.execute(f"SELECT {column} FROM {raw.table} WHERE rowid = {row}").fetchall()
    shown = "empty" if value[0][0] is None else f"{value[0][0]!r} is {_EXPECTED[kind]}"
    needs_it = kind in ("id", "time", "order")
    otherwise = "" if needs_it else f" or leave the column out with --column {ours}="
    raise DataError(f"{raw.label}, row {row + 1}, column {theirs}: {shown}; mend it{otherwise}")


_EXPECTED: dict[Kind, str] = {
    "id": "no id",
    "time": "no time (seconds, ms or microseconds since 1970, or ISO text)",
    "order": "no whole number",
    "flag": "neither yes nor no (1, 0, true, false or a count)",
    "ms": "no length of time",
    "number": "no number",
    "split": "no part (train, valid or test)",
    "text": "no text",
    "key": "no text",
    "list": "no list",
}


def _is_number(column: str, raw: Raw, theirs: str) -> str:
    """SQL: the value is not the NaN that stands for a missing one."""
    return f"NOT isnan({column})" if raw.types[theirs] in ("FLOAT", "DOUBLE") else "true"


def _number(column: str, type_: str) -> str:
    """A number as DOUBLE; NaN and what is no number are NULL."""
    value = f"TRY_CAST({column} AS DOUBLE)"
    may_be_nan = type_ in ("FLOAT", "DOUBLE", "VARCHAR", "JSON")
    return f"CASE WHEN isfinite({value}) THEN {value} END" if may_be_nan else value


def _identifier(column: str, type_: str) -> str:
    if type_ in ("FLOAT", "DOUBLE"):  # a column of whole numbers that once held a missing one
        exact = f"{column} = floor({column}) AND abs({column}) < {_EXACT}"
        return f"CASE WHEN {exact} THEN CAST({column} AS BIGINT) END"
    if type_ in _NUMBERS:
        return column
    return f"nullif(trim({_as_text(column, type_)}), '')"


def _flag(column: str, type_: str) -> str:
    if type_ == "BOOLEAN":
        return column
    count = _number(column, type_)
    by_count = f"CASE WHEN {count} >= 0 THEN {count} > 0 END"
    if type_ in _NUMBERS:
        return by_count
    text = f"lower(trim(CAST({column} AS VARCHAR)))"
    return (
        f"CASE WHEN {text} IN {_YES} THEN true WHEN {text} IN {_NO} THEN false ELSE {by_count} END"
    )


def _split(column: str) -> str:
    text = f"lower(trim(CAST({column} AS VARCHAR)))"
    cases = " ".join(
        f"WHEN {text} IN {names} THEN '{ours}'" for ours, names in _SPLIT_NAMES.items()
    )
    return f"CASE {cases} END"


def _time(
    connection: duckdb.DuckDBPyConnection, raw: Raw, column: str, type_: str, unit: str
) -> Reading:
    if type_ == "TIMESTAMP WITH TIME ZONE":
        return Reading(f"epoch_ms({column})", "date and time")
    if type_.startswith(("TIMESTAMP", "DATE")):
        return Reading(f"epoch_ms(CAST({column} AS TIMESTAMP))", "date and time")
    number = _number(column, type_)
    middle, low, high, numbers, values = connection.execute(
        f"SELECT median(abs({number})), min({number}), max({number}), count({number}), "
        f"count({column}) FROM {raw.table}"
    ).fetchall()[0]
    if numbers == 0 or numbers * 2 < values:
        formats = ", ".join(f"'{one}'" for one in _DATE_FORMATS)
        text = f"trim(CAST({column} AS VARCHAR))"
        iso = f"TRY_CAST({text} AS TIMESTAMPTZ)"  # the session is in UTC
        parsed = f"coalesce({iso}, CAST(try_strptime({text}, [{formats}]) AS TIMESTAMPTZ))"
        return Reading(f"epoch_ms({parsed})", "date and time as text")
    if not unit and low >= 18000101 and high <= 25001231:
        day = f"try_strptime(CAST(CAST({number} AS BIGINT) AS VARCHAR), '%Y%m%d')"
        return Reading(f"epoch_ms({day})", "YYYYMMDD")
    if not unit and low >= 1000 and high <= 2500 and type_ != "DOUBLE":
        return Reading(f"epoch_ms(make_timestamp(CAST({number} AS BIGINT), 1, 1, 0, 0, 0))", "year")
    found = unit or next(name for name, limit, _ in _TIME_UNITS if middle < limit)
    limit, per_ms = next((limit, per) for name, limit, per in _TIME_UNITS if name == found)
    # A value far beyond the unit of the column is a mistake of the source, not a time to come.
    inside = f"CASE WHEN abs({number}) < {limit:.0f} THEN {number} END"
    return Reading(f"TRY_CAST(round({inside} / {per_ms!r}) AS BIGINT)", _UNIT_NAMES[found])


def _milliseconds(
    connection: duckdb.DuckDBPyConnection, raw: Raw, theirs: str, unit: str
) -> Reading:
    number = _number(quote(theirs), raw.types[theirs])
    found = unit
    if not found and simplify(theirs).endswith(("ms", "millis", "milliseconds")):
        found = "ms"
    if not found and simplify(theirs).endswith(("sec", "secs", "seconds")):
        found = "s"
    if not found:
        middle = connection.execute(f"SELECT median({number}) FROM {raw.table}").fetchall()[0][0]
        found = "ms" if middle is None or middle >= _LONG_MS else "s"
    per_ms = next(per for name, _, per in _TIME_UNITS if name == found)
    return Reading(f"TRY_CAST(round({number} / {per_ms!r}) AS BIGINT)", _UNIT_NAMES[found])


def _list(connection: duckdb.DuckDBPyConnection, raw: Raw, column: str, type_: str) -> str:
    """A list of distinct texts, from a (nested) list, or text by pipe, else by comma."""
    if type_.endswith("[]") and "STRUCT" not in type_:
        parts = f"CAST({_flattened(column, type_)} AS VARCHAR[])"
    else:
        text = _as_text(column, type_)
        piped = connection.execute(
            f"SELECT bool_or(contains({text}, '|')) FROM {raw.table}"
        ).fetchall()[0][0]
        plain = f"regexp_replace({text}, '\\bu''', '''', 'g')"  # u'..' of Python 2
        nested = f"flatten(TRY_CAST({plain} AS VARCHAR[][]))"
        parts = (
            f"CASE WHEN {text} LIKE '[[%' THEN {nested} WHEN {text} LIKE '[%' "
            f"THEN TRY_CAST({plain} AS VARCHAR[]) "
            f"ELSE string_split({text}, '{'|' if piped else ','}') END"
        )
    # The names are unlikely ones: a column of the source with the same name would be read instead.
    trimmed = f"[trim(part_) FOR part_ IN {parts} IF trim(part_) <> '']"
    first = f"list_position({trimmed}, word_) = place_"
    return f"list_filter({trimmed}, lambda word_, place_: {first})"


def _flattened(column: str, type_: str) -> str:
    depth = len(type_) - len(type_.rstrip("[]"))
    return "flatten(" * (depth // 2 - 1) + column + ")" * (depth // 2 - 1)


def _as_text(column: str, type_: str) -> str:
    if type_.endswith("[]") and "STRUCT" not in type_:
        return f"array_to_string(CAST({_flattened(column, type_)} AS VARCHAR[]), ' ')"
    if "STRUCT" in type_ or type_.startswith("MAP"):
        return f"CAST(to_json({column}) AS VARCHAR)"
    if type_ == "JSON":
        return f"json_extract_string({column}, '$')"
    return f"CAST({column} AS VARCHAR)"


def _plain(column: str, type_: str) -> str:
    """A further column of a typed file in a type that every reader knows."""
    if "STRUCT" in type_ or type_.startswith(("MAP", "UNION")) or type_.endswith("[][]"):
        return f"CAST(to_json({column}) AS VARCHAR)"
    if type_.startswith(("DECIMAL", "HUGEINT", "UHUGEINT", "UBIGINT")):
        return f"CAST({column} AS DOUBLE)"
    if type_.startswith(("ENUM", "UUID", "BLOB", "JSON", "TIME", "INTERVAL", "BIT")):
        return f"CAST({column} AS VARCHAR)"
    return column
