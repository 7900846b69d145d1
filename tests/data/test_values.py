"""Units, yes and no, lists: each on values worked out by hand."""

from typing import Any

import duckdb
import pytest

from onerec.data.readers import Raw
from onerec.data.schema import Kind
from onerec.data.sql import columns_of
from onerec.data.values import kept, reading, refuse_unreadable
from onerec.errors import DataError

# 2022-04-22 08:24:30.629 UTC
MS = 1650615870629


def read(
    values: list[Any], kind: Kind, type_: str = "VARCHAR", name: str = "x", unit: str = ""
) -> Any:
    """The values as they are read, and the note on their unit."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(f'CREATE TABLE raw ("{name}" {type_})')
        connection.executemany("INSERT INTO raw VALUES (?)", [[value] for value in values])
        raw = Raw("raw", "file", columns_of(connection, "raw"), text=type_ == "VARCHAR")
        how = reading(connection, raw, name, kind, unit)
        rows = connection.execute(f"SELECT {how.sql} FROM raw ORDER BY rowid").fetchall()
        return [row[0] for row in rows], how.note


@pytest.mark.parametrize(
    ("value", "type_", "expected", "note"),
    [
        (1650615870, "BIGINT", 1650615870000, "seconds"),
        (1650615870.629, "DOUBLE", MS, "seconds"),
        ("1650615870", "VARCHAR", 1650615870000, "seconds"),
        (MS, "BIGINT", MS, "ms"),
        (MS * 1000, "BIGINT", MS, "microseconds"),
        (MS * 1_000_000, "BIGINT", MS, "nanoseconds"),
        ("2022-04-22T08:24:30.629Z", "VARCHAR", MS, "date and time as text"),
        ("2022-04-22T10:24:30.629+02:00", "VARCHAR", MS, "date and time as text"),
        ("2022-04-22 08:24:30.629", "TIMESTAMP", MS, "date and time"),
        ("2022-04-22", "DATE", 1650585600000, "date and time"),
        ("22-Apr-2022", "VARCHAR", 1650585600000, "date and time as text"),
        ("04 22, 2022", "VARCHAR", 1650585600000, "date and time as text"),
        (20220422, "INTEGER", 1650585600000, "YYYYMMDD"),
        ("20220422", "VARCHAR", 1650585600000, "YYYYMMDD"),
        ("1995", "VARCHAR", 788918400000, "year"),
    ],
)
def test_units_of_time(value: object, type_: str, expected: int, note: str) -> None:
    assert read([value, None], "time", type_) == ([expected, None], note)


def test_the_unit_is_that_of_the_whole_column_and_a_stray_value_is_unreadable() -> None:
    values = [1650615870, 1650615871, MS]  # the last one is in another unit
    assert read(values, "time", "BIGINT")[0] == [1650615870000, 1650615871000, None]


def test_a_named_unit_wins_over_the_size() -> None:
    assert read([5000, 6000], "time", "BIGINT", unit="ms")[0] == [5000, 6000]
    assert read([5000, 6000], "ms", "BIGINT", unit="s")[0] == [5_000_000, 6_000_000]


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("play_time_ms", [3, 5, 900], [3, 5, 900]),  # the name says it, whatever the size
        ("watch_seconds", [3000.5, 2, None], [3_000_500, 2000, None]),
        ("duration", [87433, 9233, 218066], [87433, 9233, 218066]),  # large: ms
        ("duration", [87.4, 9.2, 218], [87400, 9200, 218000]),  # small: seconds
        ("duration", [float("nan"), 9.2], [None, 9200]),
    ],
)
def test_lengths_of_time(name: str, values: list[Any], expected: list[Any]) -> None:
    assert read(values, "ms", "DOUBLE", name)[0] == expected


@pytest.mark.parametrize(
    ("type_", "values", "expected"),
    [
        ("BOOLEAN", [True, False, None], [True, False, None]),
        ("TINYINT", [1, 0, None, 3], [True, False, None, True]),
        ("TINYINT", [-1], [None]),
        ("DOUBLE", [1.0, 0.0, float("nan")], [True, False, None]),
        ("VARCHAR", ["1", "0", "True", "no", " yes ", "2", None], [1, 0, 1, 0, 1, 1, None]),
        ("VARCHAR", ["nice!", "-1"], [None, None]),
    ],
)
def test_yes_and_no(type_: str, values: list[Any], expected: list[Any]) -> None:
    assert read(values, "flag", type_)[0] == expected


@pytest.mark.parametrize(
    ("type_", "values", "expected"),
    [
        ("VARCHAR", ["39,68", "2", None, ""], [["39", "68"], ["2"], None, []]),
        ("VARCHAR", ["Action|Children's", "War"], [["Action", "Children's"], ["War"]]),
        ("VARCHAR", ["['Indie', u'A, B']", "[]"], [["Indie", "A, B"], []]),
        ("VARCHAR", ["[['Beauty', 'Nails'], ['Beauty']]"], [["Beauty", "Nails"]]),
        ("VARCHAR[]", [["a ", "b", "a"], []], [["a", "b"], []]),
        ("VARCHAR[][]", [[["Beauty", "Hair"], ["Beauty", "Skin"]]], [["Beauty", "Hair", "Skin"]]),
        ("INTEGER", [39, None], [["39"], None]),
    ],
)
def test_lists(type_: str, values: list[Any], expected: list[Any]) -> None:
    assert read(values, "list", type_)[0] == expected


def test_splits() -> None:
    values = ["train", "VAL", "dev", "Test", None, "holdout"]
    assert read(values, "split")[0] == ["train", "valid", "valid", "test", None, None]


def test_ids_that_were_floats_are_whole_again() -> None:
    assert read([7.0, 7.5, None], "id", "DOUBLE")[0] == [7, None, None]


def test_what_no_whole_number_can_hold_is_unreadable() -> None:
    """Each of these ended an import in a traceback of the database."""
    assert read(["1e30", "5"], "ms", name="play_ms")[0] == [None, 5]
    assert read([1e300, 87.4], "ms", "DOUBLE", "seconds")[0] == [None, 87400]
    assert read(["1e60", "1e60", "7"], "time")[0] == [None, None, 0]


def test_ids_that_floats_cannot_tell_apart_are_no_ids() -> None:
    """JSON numbers beyond 64 bits become floats: 1e25 and 1e25 + 1 were to be one user."""
    assert read([1e25, 2.0**53 - 1, 2.0**53], "id", "DOUBLE")[0] == [None, 2**53 - 1, None]


def test_an_unreadable_value_is_named_by_file_row_and_column() -> None:
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE raw AS SELECT unnest(['1650615870', 'soon']) AS moment")
        raw = Raw("raw", "log.csv", {"moment": "VARCHAR"}, text=True)
        sql = "TRY_CAST(moment AS BIGINT)"
        with pytest.raises(DataError, match=r"log\.csv, row 2, column moment: 'soon' is no time"):
            refuse_unreadable(connection, raw, ("timestamp", "moment"), "time", sql, True)


def test_a_kept_text_column_is_a_number_only_if_all_of_it_is() -> None:
    with duckdb.connect() as connection:
        connection.execute(
            "CREATE TABLE raw AS FROM (VALUES ('1','1.5','01234','x'), (NULL,'2','55555','3')) "
            "t(whole, number, zip, text)"
        )
        raw = Raw("raw", "users.csv", columns_of(connection, "raw"), text=True)
        sql = ", ".join(kept(connection, raw, tuple(raw.types)))
        assert connection.execute(f"SELECT {sql} FROM raw ORDER BY rowid").fetchall() == [
            (1, 1.5, "01234", "x"),
            (None, 2.0, "55555", "3"),
        ]
