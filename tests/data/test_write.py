"""What becomes of rows: ids, order, duplicates, unknowns, refusals, and the same bytes again."""

import hashlib
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest
from safetensors import SafetensorError

from onerec.data.dataset import Content, Dataset, write_dataset
from onerec.errors import DataError

LOG: dict[str, Any] = {
    "user_id": ["b", "a", "b", "b", "a", "b"],
    "item_id": ["y", "x", "x", "y", "z", "z"],
    "timestamp": [30, 10, 20, 30, 10, 40],
    "click": [True, False, None, False, True, None],
}


def write(folder: Path, log: Any = None, items: Any = None, **options: Any) -> Dataset:
    frame = pd.DataFrame(LOG if log is None else log)
    return write_dataset(
        folder / "made", "made", frame, items, options.pop("users", None), source="test", **options
    )


def rows(dataset: Dataset) -> list[tuple[Any, ...]]:
    """(user id, item id, timestamp) in the stored order."""
    users, items = dataset.users["user_id"], dataset.items["item_id"]
    log = dataset.log
    return [
        (users[u], items[i], int(t))
        for u, i, t in zip(log.user, log.item, log.columns["timestamp"], strict=True)
    ]


def test_the_dense_index_is_the_rank_of_md5(tmp_path: Path) -> None:
    dataset = write(tmp_path)
    by_md5 = sorted("xyz", key=lambda one: hashlib.md5(one.encode()).hexdigest())
    assert dataset.items["item_id"].tolist() == by_md5
    assert dataset.items["item"].tolist() == [0, 1, 2]


def test_rows_are_in_the_order_of_user_time_and_source(tmp_path: Path) -> None:
    dataset = write(tmp_path, duplicates="keep")
    a = [("a", "x", 10), ("a", "z", 10)]  # one time: the order of the source
    b = [("b", "x", 20), ("b", "y", 30), ("b", "y", 30), ("b", "z", 40)]
    first_a = dataset.users["user_id"][0] == "a"
    assert rows(dataset) == (a + b if first_a else b + a)
    assert dataset.info["counts"]["time_backwards"] == 1  # b: 30, 20, 30


def test_position_settles_what_time_leaves_open(tmp_path: Path) -> None:
    log = {"user_id": [1, 1, 1], "item_id": [7, 8, 9], "timestamp": [5, 5, 5]}
    dataset = write(tmp_path, log | {"position": [2, 0, 1]})
    assert [row[1] for row in rows(dataset)] == [8, 9, 7]


def test_duplicates_become_one_event_that_shows_what_any_of_them_shows(tmp_path: Path) -> None:
    log = {
        "user_id": [1, 1, 1, 1],
        "item_id": [5, 6, 5, 5],
        "timestamp": [1, 2, 1, 3],
        "click": [False, None, True, False],
        "like": [None, None, None, True],
        "play_ms": [10, 1, 30, 5],
        "rating": [2.0, 3.0, 4.0, 5.0],
    }
    dataset = write(tmp_path / "merge", log)
    assert dataset.info["counts"]["duplicates"] == 1
    assert dataset.info["duplicates_rule"] == "merge"
    assert dataset.log.columns["click"].tolist() == [1, -1, 0]
    assert dataset.log.columns["like"].tolist() == [-1, -1, 1]
    assert dataset.log.columns["play_ms"].tolist() == [30, 1, 5]
    assert dataset.log.columns["rating"].tolist() == [4, 3, 5]  # the later one stands
    assert len(write(tmp_path / "keep", log, duplicates="keep").log) == 4


def test_unknown_items_are_kept_with_an_empty_row_or_dropped(tmp_path: Path) -> None:
    log = {"user_id": [1] * 4, "item_id": [5, 6, 7, 7], "timestamp": [1, 2, 3, 4]}
    items = pd.DataFrame({"item_id": ["5", "6", "9"], "title": ["five", "six", "nine"]})
    kept = write(tmp_path / "keep", log, items)
    assert kept.info["counts"]["unknown_items"] == 2
    assert kept.info["counts"]["items_without_events"] == 1
    titles = dict(zip(kept.items["item_id"], kept.items["title"].fillna(""), strict=True))
    assert titles == {5: "five", 6: "six", 7: "", 9: "nine"}
    log = {"user_id": [1] * 5, "item_id": [5, 6, 5, 7, 7], "timestamp": [1, 2, 3, 4, 5]}
    dropped = write(tmp_path / "drop", log, items, unknown_items="drop")
    assert dropped.n_items == 3
    assert [row[1] for row in rows(dropped)] == [5, 6, 5]


def test_users_are_those_of_the_file_and_of_the_log(tmp_path: Path) -> None:
    users = {"user_id": np.array(["a", "c"], dtype=object), "age": np.array([20, 30])}
    dataset = write(tmp_path, users=users)
    ages = dict(zip(dataset.users["user_id"], dataset.users["age"].fillna(-1), strict=True))
    assert ages == {"a": 20, "b": -1, "c": 30}
    assert dataset.info["counts"]["users_without_row"] == 1
    assert dataset.info["counts"]["users_without_events"] == 1
    assert dataset.log.n_users == 3


def test_a_repeated_item_counts_once_and_the_first_row_stands(tmp_path: Path) -> None:
    items = pd.DataFrame({"item_id": ["x", "y", "z", "x"], "title": ["1", "2", "3", "4"]})
    dataset = write(tmp_path, items=items)
    assert dataset.info["counts"]["repeated_items"] == 1
    assert dataset.items.set_index("item_id").loc["x", "title"] == "1"


def test_unknown_stays_unknown_in_every_spelling(tmp_path: Path) -> None:
    log = {
        "user_id": np.array([1, 1, 1]),
        "item_id": np.array([1, 2, 3]),
        "position": np.arange(3),
        "click": np.array([1, 0, -1], dtype=np.int8),
        "like": np.array([1, 0, np.nan]),
        "follow": np.ma.masked_array([True, False, True], [False, False, True]),
        "play_ms": np.array([5.0, 6.0, np.nan]),
    }
    dataset = write_dataset(tmp_path / "d", "d", log, None, None, source="test")
    for name in ("click", "like", "follow"):
        assert dataset.log.columns[name].tolist() == [1, 0, -1], name
    assert np.isnan(dataset.log.columns["play_ms"]).tolist() == [False, False, True]


def test_content_follows_its_item(tmp_path: Path) -> None:
    items = pd.DataFrame({"item_id": ["x", "y"]})  # z is unknown
    content = Content(
        tokens=np.array([[[1.0, 1.0]], [[2.0, 2.0]]], dtype=np.float32),
        mask=np.ones((2, 1), dtype=bool),
        modality=np.array([0]),
        names=("caption",),
    )
    dataset = write(tmp_path, items=items, content=content)
    read = dataset.content()
    assert read is not None
    place = dataset.item_index(["x", "y", "z"])
    assert read.tokens[place, 0, 0].tolist()[:2] == [1, 2]
    assert read.mask[place, 0].tolist() == [True, True, False]
    assert read.names == ("caption",)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_rows_give_the_same_bytes(tmp_path: Path, threads: int) -> None:
    rng = np.random.default_rng(threads)
    log = {
        "user_id": rng.integers(0, 500, 300_000),
        "item_id": rng.integers(0, 900, 300_000),
        "timestamp": rng.integers(0, 10**6, 300_000),
        "click": rng.random(300_000) < 0.2,
    }
    one, two = (write(tmp_path / name, log) for name in ("one", "two"))
    for name in ("interactions", "items", "users"):
        file = f"{name}.parquet"
        assert (one.path / file).read_bytes() == (two.path / file).read_bytes()
    assert one.fingerprint == two.fingerprint
    log["click"][7] = not log["click"][7]
    assert write(tmp_path / "three", log).fingerprint != one.fingerprint


def test_the_order_is_that_of_a_slow_sort(tmp_path: Path) -> None:
    """Over many row groups and threads."""
    rng = np.random.default_rng(3)
    n = 300_000
    log = {
        "user_id": rng.integers(0, 50, n),
        "item_id": np.arange(n),
        "timestamp": rng.integers(0, 100, n),
    }
    dataset = write(tmp_path, log)
    index = dict(zip(dataset.users["user_id"], dataset.users["user"], strict=True))
    user = np.array([index[one] for one in log["user_id"]])
    expected = np.lexsort((np.arange(n), log["timestamp"], user))
    assert (dataset.items["item_id"].to_numpy()[dataset.log.item] == expected).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"timestamp": None}, "neither timestamp nor position"),
        ({"user_id": None}, "no column user_id; there are item_id, timestamp, click"),
        ({"timestamp": [30, 10, None, 30, 10, 40]}, "row 3, column timestamp: empty"),
        ({"timestamp": [30, 10, "soon", 30, 10, 40]}, "value is not of its column's type .*'soon'"),
        ({"item_id": ["x"] * 6}, r"1 item\(s\) in all; a dataset needs at least 2"),
        ({"user_id": list("abcdef")}, "no user has 3 events"),
    ],
)
def test_refusals_leave_nothing_behind(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    log = {name: values for name, values in (LOG | change).items() if values is not None}
    with pytest.raises(DataError, match=message):
        write(tmp_path, log)
    assert list(tmp_path.iterdir()) == []


def test_a_taken_name_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    before = write(tmp_path).fingerprint
    with pytest.raises(DataError, match=r"already there.*onerec data delete made"):
        write(tmp_path, {**LOG, "timestamp": [1, 2, 3, 4, 5, 6]})
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    assert write(tmp_path / "again").fingerprint == before


@pytest.mark.parametrize("name", ["../out", "", ".hidden", "a b", "x" * 65])
def test_a_name_that_is_no_folder_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="dataset name"):
        write_dataset(tmp_path / "d", name, pd.DataFrame(LOG), None, None, source="test")


@pytest.mark.parametrize("kind", [OSError, duckdb.IOException, SafetensorError])
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, kind: type[Exception]) -> None:
    """Each writer says it in its own way; these are their words."""

    def fill(folder: Path) -> None:
        assert (folder / "interactions.parquet").exists()
        raise kind("write failed: No space left on device (os error 28)")

    with pytest.raises(DataError, match=r"No space left on device.*nothing was left behind"):
        write(tmp_path, extra_files=fill)
    assert list(tmp_path.iterdir()) == []


def test_unknown_rules_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unknown_items='maybe': choose keep or drop"):
        write(tmp_path, unknown_items="maybe")
