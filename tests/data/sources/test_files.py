"""Files in, tables with our names out; overrides; refusals with file, row and column."""

from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest

from onerec.data.sources.files import load
from onerec.errors import DataError

LOG = "userId,movieId,rating,timestamp,tab\n1,10,4.5,1650615870,0\n1,20,3,1650615871,1\n"


def file(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_csv_log(tmp_path: Path) -> None:
    tables = load(file(tmp_path, "log.csv", LOG))
    assert tables.interactions.to_pylist() == [
        {"user_id": "1", "item_id": "10", "timestamp": 1650615870000, "rating": 4.5},
        {"user_id": "1", "item_id": "20", "timestamp": 1650615871000, "rating": 3.0},
    ]
    assert tables.mapping["interactions"]["timestamp"] == "timestamp (seconds)"
    assert tables.ignored["interactions"] == ["tab"]
    assert tables.items is None


def test_items_and_users_keep_what_we_have_no_name_for(tmp_path: Path) -> None:
    items = "movieId,title,genres,budget,vote_average\n10,Heat,Crime|War,60.5,8\n20,,,,7\n"
    users = "id,age,zip\n1,24,01234\n"
    tables = load(
        file(tmp_path, "log.csv", LOG),
        file(tmp_path, "items.csv", items),
        file(tmp_path, "users.csv", users),
    )
    assert tables.items.to_pylist() == [
        {"item_id": "10", "title": "Heat", "category": ["Crime", "War"], "budget": 60.5},
        {"item_id": "20", "title": None, "category": None, "budget": None},
    ]
    assert tables.users.to_pylist() == [{"user_id": "1", "age": 24, "zip": "01234"}]
    assert tables.ignored["items"] == ["vote_average (knows the future)"]


def test_overrides_speak_of_all_files_or_of_one(tmp_path: Path) -> None:
    log = file(tmp_path, "log.csv", "who,what,at,like\n1,10,5,x\n")
    items = file(tmp_path, "items.csv", "what,name,headline\n10,a,b\n")
    columns = {
        "user_id": "who",
        "item_id": "what",
        "timestamp": "at@ms",
        "like": "",
        "items.title": "headline",
    }
    tables = load(log, items, columns=columns)
    assert tables.interactions.to_pylist() == [{"user_id": "1", "item_id": "10", "timestamp": 5}]
    assert tables.items.to_pylist() == [{"item_id": "10", "title": "b", "name": "a"}]
    assert tables.ignored["interactions"] == ["like"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"item": "movieId"}, r"no column 'item'; did you mean item_id\?"),
        ({"user_id": "nobody"}, r"no column 'nobody'; .*log\.csv has userId, movieId"),
        ({"timestamp": "timestamp@hours"}, r"unit 'hours'; use s, ms, us, ns"),
        ({"item_id": ""}, r"log\.csv: no column item_id"),
    ],
)
def test_overrides_that_cannot_be(tmp_path: Path, columns: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(file(tmp_path, "log.csv", LOG), columns=columns)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1,20,3,yesterday", r"log\.csv, row 2, column ts: 'yesterday' is no time"),
        ("1,20,3,", r"row 2, column ts: empty; mend it"),
        (",20,3,1650615871", r"row 2, column user: empty; mend it"),
        ("1,20,maybe,1650615871", r"row 2, column like: 'maybe' is neither yes nor no"),
    ],
)
def test_an_unreadable_value_names_its_row(tmp_path: Path, row: str, message: str) -> None:
    log = file(tmp_path, "log.csv", f"user,item,like,ts\n1,10,1,1650615870\n{row}\n")
    with pytest.raises(DataError, match=message):
        load(log)


def test_an_unreadable_date_of_an_item_is_empty_and_counted(tmp_path: Path) -> None:
    items = file(tmp_path, "items.csv", "movieId,release_date\n10,01-Jan-1995\n20,soon\n")
    tables = load(file(tmp_path, "log.csv", LOG), items)
    assert tables.items.to_pylist() == [
        {"item_id": "10", "published_at": 788918400000},
        {"item_id": "20", "published_at": None},
    ]
    assert tables.counts == {"unreadable_published_at": 1}


def test_a_column_called_like_a_variable_of_ours_is_read(tmp_path: Path) -> None:
    """`x` once was captured by the lambda that reads lists."""
    items = file(tmp_path, "items.csv", 'movieId,x,i\n10,"a,b",1\n')
    tables = load(file(tmp_path, "log.csv", LOG), items, columns={"tags": "x"})
    assert tables.items.to_pylist() == [{"item_id": "10", "tags": ["a", "b"], "i": 1}]


def test_rows_keep_their_order_over_many_row_groups(tmp_path: Path) -> None:
    """Once, `IN (...)` was run as a join and the rows came back in another order."""
    path = tmp_path / "log.parquet"
    with duckdb.connect() as connection:
        connection.execute(
            "COPY (SELECT i % 7 AS user_id, i AS item_id, i AS position, "
            f"['train', 'val', 'test'][1 + i % 3] AS split FROM range(400000) t(i)) TO '{path}'"
        )
    tables = load(path)
    assert tables.interactions["item_id"].to_pylist() == list(range(400_000))
    assert tables.interactions["split"].to_pylist()[:3] == ["train", "valid", "test"]


def test_parquet_types(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    frame = pd.DataFrame(
        {
            "user": [1.0, 2.0],  # whole numbers that were floats
            "item": ["a", "b"],
            "time": pd.to_datetime(["2022-04-22", "2022-04-23"]),
            "is_like": [1, 0],
            "is_hate": [None, True],
        }
    )
    with duckdb.connect() as connection:
        connection.register("frame", frame)
        connection.execute(f"COPY frame TO '{path}'")
    expected: list[dict[str, Any]] = [
        {"user_id": 1, "item_id": "a", "timestamp": 1650585600000, "like": True, "dislike": None},
        {"user_id": 2, "item_id": "b", "timestamp": 1650672000000, "like": False, "dislike": True},
    ]
    assert load(path).interactions.to_pylist() == expected
