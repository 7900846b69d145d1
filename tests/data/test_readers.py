"""Files of each kind, and files that are not what they say."""

import gzip
import json
from pathlib import Path
from typing import Any

import duckdb
import pytest

from onerec.data.readers import Source, read_raw
from onerec.errors import DataError


def read(source: Source | Path) -> tuple[list[str], list[Any]]:
    """Column names and rows."""
    with duckdb.connect() as connection:
        raw = read_raw(connection, "t", source if isinstance(source, Source) else Source((source,)))
        return list(raw.types), connection.execute("SELECT * FROM t ORDER BY rowid").fetchall()


def file(folder: Path, name: str, text: str, encoding: str = "utf-8") -> Path:
    path = folder / name
    data = text.encode(encoding)
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", 'user,title\n1,"Hello, you"\n2,\n'),
        ("a.csv.gz", 'user,title\n1,"Hello, you"\n2,NULL\n'),
        ("a.tsv", "user\ttitle\n1\tHello, you\n2\t\n"),
        ("a.csv", "user;title\r\n1;Hello, you\r\n2;\r\n"),
        ("a.dat", "user::title\n1::Hello, you\n2::\n"),
        ("a.csv", '\ufeffuser,title\n1,"Hello, you"\n2,\n'),
    ],
)
def test_separated_text(tmp_path: Path, name: str, text: str) -> None:
    assert read(file(tmp_path, name, text)) == (
        ["user", "title"],
        [("1", "Hello, you"), ("2", None)],
    )


def test_ids_keep_their_leading_zeros(tmp_path: Path) -> None:
    assert read(file(tmp_path, "a.csv", "asin\n0001048791\n12\n"))[1] == [("0001048791",), ("12",)]


def test_without_a_header_the_names_are_given(tmp_path: Path) -> None:
    path = file(tmp_path, "movies.dat", "1::Amélie (2001)::Comedy\n", encoding="latin-1")
    source = Source((path,), names=("id", "title", "genres"), delimiter="::")
    assert read(source) == (["id", "title", "genres"], [("1", "Amélie (2001)", "Comedy")])


def test_a_quotation_mark_inside_a_field_is_a_character(tmp_path: Path) -> None:
    path = file(tmp_path, "a.tsv", 'id\ttitle\n1\tThe 5" show\n2\t"Q"uit\n')
    assert read(path)[1] == [("1", 'The 5" show'), ("2", '"Q"uit')]


def test_an_index_column_and_a_repeated_name_do_no_harm(tmp_path: Path) -> None:
    names, rows = read(file(tmp_path, "a.csv", ",user,User\n0,7,8\n"))
    assert names == ["column_1", "user", "User_"]
    assert rows == [("0", "7", "8")]


def test_a_row_with_too_few_columns_is_named(tmp_path: Path) -> None:
    path = file(tmp_path, "a.csv", "user,item,time\n1,2,3\n4,5\n")
    with pytest.raises(DataError, match=r"a\.csv: line 3 \('4,5'\): Expected Number of Columns: 3"):
        read(path)


def test_json_lines_and_python_literals_read_the_same(tmp_path: Path) -> None:
    rows = [{"asin": "A1", "categories": [["Beauty", "It's"]]}, {"asin": "A2", "title": "x"}]
    strict = file(tmp_path, "s.json.gz", "".join(json.dumps(row) + "\n" for row in rows))
    literal = file(tmp_path, "l.json.gz", "".join(f"{row!r}\n" for row in rows))
    expected = (
        ["asin", "categories", "title"],
        [("A1", [["Beauty", "It's"]], None), ("A2", None, "x")],
    )
    assert read(strict) == expected
    assert read(literal) == expected


def test_a_literal_is_never_run(tmp_path: Path) -> None:
    path = file(tmp_path, "l.json", "{'asin': 'A1'}\n{'asin': __import__('os').getcwd()}\n")
    with pytest.raises(DataError, match=r"l\.json, line 2: neither JSON nor a literal"):
        read(path)


def test_only_items_that_somebody_met_are_read(tmp_path: Path) -> None:
    meta = file(tmp_path, "m.json", "{'asin': 'A1', 'x': 1}\n{'asin': 'A2', 'x': 2}\n")
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE interactions AS SELECT 'A2' AS asin")
        read_raw(connection, "items", Source((meta,), known_by="asin"))
        assert connection.execute("FROM items").fetchall() == [("A2", 2)]


@pytest.mark.parametrize("name", ["a.xlsx", "a", "a.zip"])
def test_an_unknown_kind_of_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="unknown kind of file"):
        read(file(tmp_path, name, "x"))


def test_missing_empty_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.csv: no such file"):
        read(tmp_path / "gone.csv")
    with pytest.raises(DataError, match=r"empty\.csv: the file is empty"):
        read(file(tmp_path, "empty.csv", ""))
    with pytest.raises(DataError, match=r"bad\.parquet: "):
        read(file(tmp_path, "bad.parquet", "no parquet at all, but long enough to be one"))
    (tmp_path / "bad.csv.gz").write_bytes(b"no gzip")
    with pytest.raises(DataError, match=r"bad\.csv\.gz: cannot be read"):
        read(tmp_path / "bad.csv.gz")


@pytest.mark.parametrize("damage", ["cut off", "overwritten"])
@pytest.mark.parametrize("name", ["a.csv.gz", "a.json.gz"])
def test_a_damaged_gzip_is_told_in_one_line(tmp_path: Path, name: str, damage: str) -> None:
    """Amazon's metadata, lines of Python, ended in an EOFError; damage inside in a zlib.error."""
    rows = "".join(str({"asin": f"b{n}", "price": n * 7919 % 1009}) + "\n" for n in range(3000))
    path = file(tmp_path, name, rows if "json" in name else f"asin,price\n{rows}")
    data = path.read_bytes()
    path.write_bytes(data[:-99] if damage == "cut off" else data[:20] + b"\xff" * 30 + data[50:])
    with pytest.raises(DataError, match=rf"{name}: "):
        read(path)
