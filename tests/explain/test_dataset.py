"""What is said of a dataset, against a slow reading of the same Parquet with pandas."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from onerec.errors import DataError
from onerec.explain import dataset


@pytest.fixture(scope="module")
def log(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "interactions.parquet")


def test_the_summary_counts_what_is_there(folder: Path, log: pd.DataFrame) -> None:
    found = dataset.summary(folder)
    positive = log["long_view"] | log["like"] | log["follow"].fillna(False).astype(bool)
    assert (found["interactions"], found["users"], found["items"]) == (420, 24, 48)
    assert found["positives"] == positive.sum() == 254
    assert found["positive_share"] == 254 / 420
    assert found["density"] == 420 / (24 * 48)
    assert found["events_per_user_median"] == 17.5
    assert found["days"] == (log["timestamp"].max() - log["timestamp"].min()) / 86_400_000
    assert found["behaviours"] == ["click", "long_view", "like", "follow"]
    assert found["splits"] == {}
    assert not found["has_images"]


def test_gini_by_hand() -> None:
    assert dataset.gini(np.array([5, 5, 5, 5])) == 0
    assert dataset.gini(np.array([0, 0, 0, 8])) == 0.75  # (n - 1) / n: one item has everything
    assert dataset.gini(np.array([1, 3])) == 0.25
    assert dataset.gini(np.array([], dtype=int)) == 0


def test_the_time_line_adds_up(folder: Path, log: pd.DataFrame) -> None:
    frame = dataset.timeline(folder)
    sums = frame.groupby("behaviour")["count"].sum()
    assert sums["events"] == 420
    assert sums["like"] == log["like"].sum()
    assert sums["follow"] == log["follow"].sum()
    assert set(frame["unit"]) == {"day"}
    assert frame["day"].min() == pd.Timestamp("2023-11-14")


def test_without_exact_times_there_is_no_time_line(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "d")
    about = json.loads((copy / "dataset.json").read_text())
    (copy / "dataset.json").write_text(json.dumps(about | {"time": "order"}))
    assert dataset.timeline(copy).empty
    assert dataset.summary(copy)["days"] is None


def test_a_rate_is_over_the_rows_that_know(folder: Path, log: pd.DataFrame) -> None:
    frame = dataset.behaviours(folder).set_index("behaviour")
    assert frame.loc["follow", "known"] == log["follow"].notna().sum() == 216
    assert frame.loc["follow", "rate"] == 48 / 216
    assert frame.loc["click", "rate"] == 1
    assert list(frame.index[frame["positive"]]) == ["long_view", "like", "follow"]


def test_history_bins_double_and_hold_every_user(folder: Path) -> None:
    frame = dataset.history_lengths(folder)  # user u has 6 + u events: 6 .. 29
    assert frame["label"].tolist() == ["5-8", "9-16", "17-32"]
    assert frame["users"].tolist() == [3, 8, 13]
    assert frame["share"].sum() == pytest.approx(1)


def test_popularity_against_a_sort(folder: Path, log: pd.DataFrame) -> None:
    frame = dataset.popularity(folder)
    counts = np.sort(np.bincount(log["item"], minlength=48))[::-1]
    assert frame["rank"].iloc[0] == 1
    assert frame["rank"].iloc[-1] == 48
    assert (frame["count"].to_numpy() == counts[frame["rank"] - 1]).all()
    assert frame["cumulative"].iloc[-1] == pytest.approx(1)
    assert frame["cumulative"].iloc[1] == pytest.approx(counts[:2].sum() / 420)
    assert len(dataset.popularity(folder, points=5)) <= 5


def test_a_history_is_in_order_and_never_turns_unknown_into_no(
    folder: Path, log: pd.DataFrame
) -> None:
    own = log[log["user"] == 3].reset_index(drop=True)
    frame = dataset.user_history(folder, 3)
    assert frame["item"].tolist() == own["item"].tolist()
    assert frame["position"].tolist() == list(range(1, 10))
    assert (frame["play_share"] == own["play_ms"] / own["duration_ms"]).all()
    assert frame["title"][0].endswith(f"clip {own['item'][0]}")
    last = dataset.user_history(folder, 3, limit=2)
    assert last["position"].tolist() == [8, 9]
    even = dataset.user_history(folder, 2)  # follow is unknown for users of even number
    assert not even["behaviours"].str.contains("follow").any()
    assert dataset.user_history(folder, 99).empty


def test_a_dataset_with_nothing_but_ids(folder: Path, tmp_path: Path) -> None:
    """Titles, times, behaviours and play times may all be missing."""
    import duckdb

    bare = tmp_path / "bare"
    bare.mkdir()
    connection = duckdb.connect()
    for table, columns in (
        ("interactions", 'user_id, item_id, "user", item'),
        ("items", "item, item_id"),
        ("users", '"user", user_id'),
    ):
        source, target = folder / f"{table}.parquet", bare / f"{table}.parquet"
        connection.execute(
            f"COPY (SELECT {columns} FROM '{source}') TO '{target}' (FORMAT parquet)"
        )
    about = json.loads((folder / "dataset.json").read_text())
    about |= {"time": "none", "positive": "every row"}
    (bare / "dataset.json").write_text(json.dumps(about))
    found = dataset.summary(bare)
    assert (found["positives"], found["behaviours"], found["first_ms"]) == (420, [], None)
    history = dataset.user_history(bare, 0)
    assert history["title"][0] == f"item {history['item_id'][0]}"
    assert history["positive"].all()
    assert history["play_share"].isna().all()
    assert history["time"].isna().all()
    assert dataset.behaviours(bare).empty
    assert dataset.timeline(bare).empty
    assert dataset.search_items(bare, "v1003")["events"].iloc[0] > 0
    assert set(dataset.item(bare, 3)) == {"item", "item_id", "events", "positives"}


def test_search_finds_by_every_text(folder: Path, log: pd.DataFrame) -> None:
    assert len(dataset.search_items(folder)) == 48
    assert set(dataset.search_items(folder, "FOOTBALL")["item"]) == set(range(1, 48, 4))
    assert dataset.search_items(folder, "v1007")["item"].tolist() == [7]
    assert dataset.search_items(folder, "100% '").empty
    first = dataset.search_items(folder, limit=1).iloc[0]
    assert first["events"] == np.bincount(log["item"]).max()
    second = dataset.search_items(folder, limit=1, offset=1).iloc[0]
    assert second["item"] != first["item"]
    assert dataset.search_users(folder, "u1", limit=2)["user_id"].tolist() == ["u19", "u18"]
    assert dataset.search_users(folder, "u05").iloc[0]["events"] == 11


def test_ids_are_looked_up_as_text(folder: Path) -> None:
    assert dataset.user_index(folder, "u03") == 3
    assert [dataset.user_id(folder, index) for index in (0, 3)] == ["u00", "u03"]
    assert dataset.user_id(folder, -1) is None
    assert dataset.user_id(folder, 1_000_000) is None
    assert dataset.item_index(folder, "v1004") == 4
    assert dataset.item_index(folder, "nobody") is None
    assert dataset.titles(folder, [3, -1, 2, 3]) == [
        "music clip 3",
        "",
        "travel clip 2",
        "music clip 3",
    ]
    assert dataset.titles(None, [3, -1]) == ["item 3", ""]
    assert dataset.item(folder, 48) == {}
    assert dataset.item(folder, 3)["tags"] == "music, tag3"
    assert dataset.cover(folder, 3) is None


def test_a_folder_that_is_no_dataset_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="onerec data list"):
        dataset.summary(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(DataError, match=r"dataset\.json"):
        dataset.summary(tmp_path)
