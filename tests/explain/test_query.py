"""Questions to Parquet files."""

from pathlib import Path

import pytest

from onerec.errors import DataError
from onerec.explain.query import as_text, column_types, empty, fetch


def test_values_fill_the_question_marks(folder: Path) -> None:
    frame = fetch("SELECT title FROM read_parquet(?) WHERE item = ?", folder / "items.parquet", 5)
    assert frame["title"].tolist() == ["football clip 5"]


def test_lists_are_shown_as_text_and_absent_columns_as_null(folder: Path) -> None:
    types = column_types(folder / "items.parquet")
    assert types["tags"] == "VARCHAR[]"
    names = ", ".join(as_text(name, types) for name in ("tags", "duration_ms", "image"))
    row = fetch(f"SELECT {names} FROM read_parquet(?) LIMIT 1", folder / "items.parquet").iloc[0]
    assert row["tags"] == "cooking, tag0"
    assert row["duration_ms"] == "10000"
    assert row.isna()["image"]


def test_a_missing_or_damaged_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.parquet"):
        fetch("SELECT * FROM read_parquet(?)", tmp_path / "none.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(DataError, match=r"bad\.parquet"):
        fetch("SELECT * FROM read_parquet(?)", tmp_path / "bad.parquet")


def test_an_empty_frame_has_its_columns() -> None:
    assert list(empty(("a", "b")).columns) == ["a", "b"]
    assert empty(("a",)).empty
