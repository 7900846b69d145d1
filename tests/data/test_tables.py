"""Frames to Parquet and back, whole or not at all."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from onerec.data import tables
from onerec.data.tables import check_rows, check_step, read_parquet, write_parquet
from onerec.errors import DataError


def test_columns_come_back_with_their_order_types_and_gaps(tmp_path: Path) -> None:
    path = tmp_path / "new" / "it's.parquet"
    write_parquet(
        path,
        {
            "item": np.array([3, 1, 2], dtype=np.int32),
            "score": [0.5, np.nan, -1.0],
            "name": ["b", None, "a"],
            "hit": [True, False, True],
            "part": "test",  # one value stands for all rows
        },
    )
    frame = read_parquet(path)
    assert frame["item"].tolist() == [3, 1, 2]
    assert frame["item"].dtype == np.int32
    assert frame["score"].isna().tolist() == [False, True, False]
    assert frame["name"].isna().tolist() == [False, True, False]
    assert frame["hit"].tolist() == [True, False, True]
    assert frame["part"].tolist() == ["test"] * 3
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_what_stands_there_is_replaced_and_kept_when_writing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, pd.DataFrame({"x": [1]}))
    write_parquet(path, pd.DataFrame({"x": [2]}))
    assert read_parquet(path)["x"].tolist() == [2]

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tables.os, "replace", full)
    with pytest.raises(DataError, match=r"a\.parquet: cannot be written .*No space left"):
        write_parquet(path, pd.DataFrame({"x": [3]}))
    assert read_parquet(path)["x"].tolist() == [2]
    assert [p.name for p in tmp_path.iterdir()] == ["a.parquet"]


def test_a_missing_or_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "b.parquet"
    with pytest.raises(DataError, match=r"b\.parquet: cannot be read"):
        read_parquet(path)
    write_parquet(path, pd.DataFrame({"x": range(1000)}))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"b\.parquet: cannot be read") as caught:
        read_parquet(path)
    assert "\n" not in str(caught.value)


def test_rows_that_are_gone_are_counted() -> None:
    check_rows({"users": 3, "group": 5}, 15)
    check_rows({}, 7)
    with pytest.raises(ValueError, match=r"^10 of 15 rows$"):
        check_rows({"users": 3, "group": 5}, 10)


def step_of(**changes: object) -> pd.DataFrame:
    columns = {"code_1": [0, 1], "code_2": [2, 3], "lp_1": [-1.0, -2.0], "lp_2": [-0.5, -0.1]}
    return pd.DataFrame({**columns, "factor": [1.0, 0.5], "step": ["{}", "{}"], **changes})


def test_a_step_lacks_no_level_and_no_number() -> None:
    check_step(step_of())
    check_step(step_of().drop(columns=["lp_1", "lp_2"]))
    for frame, said in (
        (step_of().drop(columns="lp_2"), "column lp_2 is missing"),
        (step_of().drop(columns="code_2"), "column lp_2 is one too many"),
        (step_of(drawn_1=[0.0, 0.0]), "column drawn_2 is missing"),
        (step_of(lp_1=[-1.0, np.nan]), "column lp_1 holds nan in row 1"),
        (step_of(factor=[np.inf, 1.0]), "column factor holds inf in row 0"),
        (step_of(factor=pd.Series([1.0, None], dtype=object)), "column factor holds .* in row 1"),
        (step_of(factor=["x", "1"]), "could not convert"),
    ):
        with pytest.raises(ValueError, match=f"^{said}"):
            check_step(frame)
    with pytest.raises(ValueError, match=r"^column lp_1 is missing$"):
        check_step(step_of().drop(columns=["lp_1", "lp_2"]), needed=["lp_"])
