"""Imports: an upload is known by its content, and each mistake is one line."""

from pathlib import Path

import duckdb
import imports
import pytest

from onerec.errors import DataError

CSV = b"reviewerID,asin,unixReviewTime,overall,extra\nu1,i1,1700000000,5,x\n"


def test_columns_and_proposal_of_a_csv() -> None:
    names = imports.columns(CSV, "interactions")
    assert names == ["reviewerID", "asin", "unixReviewTime", "overall", "extra"]
    proposed = imports.proposal("interactions", names)
    assert proposed["user_id"] == "reviewerID"
    assert proposed["item_id"] == "asin"
    assert proposed["timestamp"] == "unixReviewTime"
    assert proposed["rating"] == "overall"
    assert proposed["like"] == ""


def test_parquet_is_known_by_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "named.csv"
    with duckdb.connect() as connection:
        sql = "COPY (SELECT 'u' AS user_id, 'i' AS item_id) TO '{}' (FORMAT parquet)"
        connection.execute(sql.format(path))
    assert imports.columns(path.read_bytes(), "interactions") == ["user_id", "item_id"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"PAR1garbage", "not readable as Parquet"),
        (b"word\n1\n", "only one column, “word”"),
        (bytes(range(256)) * 20, "not readable as CSV; choose a table"),
        ("商品,标题\n1,猫\n".encode("gbk"), "not in UTF-8"),
        (b"PK\x03\x04\x14" + bytes(range(200)), "looks like an Excel workbook"),
        (b'[{"user_id": 1, "item_id": 2}]', "looks like JSON"),
    ],
)
def test_what_cannot_be_read_is_one_line(content: bytes, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        imports.columns(content, "items")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("items:")
    assert "/tmp" not in str(caught.value)


def test_a_file_above_the_limit_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "LIMIT_BYTES", 10)
    with pytest.raises(DataError, match="onerec data import"):
        imports.columns(CSV, "interactions")


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("/x/log.csv: no column user_id; it has a; name it with --column user_id=THEIRS",
         "log.csv: no column user_id; it has a; choose it for user_id above"),
        ("uploaded in the app: no user has 3 events; is --column user_id=THEIRS needed?",
         "this upload: no user has 3 events; is another column the user_id?"),
        ("interactions: neither timestamp nor position, so the order of events is unknown; name "
         "one with --column timestamp=THEIRS or --column position=THEIRS",
         "interactions: neither timestamp nor position, so the order of events is unknown; choose "
         "a column for one of them above"),
        ("/x/log.csv, row 1, column user_id: empty; mend it",
         "log.csv, row 1, column user_id: empty; mend the file and choose it again"),
    ],
)  # fmt: skip
def test_a_reader_of_the_form_is_told_what_to_do_in_the_form(said: str, shown: str) -> None:
    assert imports._for_the_form(said, "/x") == shown


def test_required_columns() -> None:
    assert imports.required("interactions") == ["user_id", "item_id"]
    assert imports.required("items") == ["item_id"]
