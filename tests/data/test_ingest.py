"""The whole way in: files, official names, and the real datasets where they are at hand."""

import hashlib
import io
import tarfile
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pytest

from onerec.data import ingest
from onerec.data.describe import describe
from onerec.data.ingest import get, import_files, official
from onerec.data.split import make_split
from onerec.errors import DataError
from onerec.world.config import WorldConfig

LOG = "user_id,item_id,timestamp\n" + "".join(
    f"{u},{i},{u + i}\n" for u in (1, 2) for i in range(4)
)


def test_import_leaves_only_the_dataset(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text(LOG)
    dataset = import_files(log, name="mine", home=tmp_path / "home")
    assert (dataset.n_users, dataset.n_items) == (2, 4)
    assert dataset.info["source"] == "log.csv"
    assert [path.name for path in (tmp_path / "home").rglob("*") if path.is_dir()] == [
        "datasets",
        "mine",
    ]
    with pytest.raises(DataError, match="already there"):
        import_files(log, name="mine", home=tmp_path / "home")


def test_a_refused_import_leaves_nothing(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text(LOG + "1,9,whenever\n")
    with pytest.raises(DataError, match=r"row 9, column timestamp: 'whenever' is no time"):
        import_files(log, name="mine", home=tmp_path / "home")
    assert not (tmp_path / "home").exists()


def archive(path: Path) -> str:
    """A tiny KuaiRand-Pure.tar.gz; returns its checksum."""
    rows = "".join(f"1,{i},{1650000000000 + i},1\n" for i in range(4))
    files = {
        "KuaiRand-Pure/data/log_standard_4_08_to_4_21_pure.csv": (
            "user_id,video_id,time_ms,is_click\n" + rows
        ),
        "KuaiRand-Pure/data/video_features_basic_pure.csv": "video_id,tag\n0,5\n",
        "KuaiRand-Pure/LICENSE": "x",
    }
    with tarfile.open(path, "w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    return "md5:" + hashlib.md5(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("given", ["archive", "folder"])
def test_get_from_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    file = tmp_path / "KuaiRand-Pure.tar.gz"
    digest = archive(file)
    known = ingest.OFFICIAL["kuairand-pure"]
    url = next(iter(known.files))
    monkeypatch.setitem(ingest.OFFICIAL, "kuairand-pure", replace(known, files={url: digest}))
    home = tmp_path / "home"
    dataset = get("kuairand-pure", file if given == "archive" else tmp_path, home, name="kr")
    assert dataset.name == "kr"
    assert (dataset.n_users, dataset.n_items, len(dataset.log)) == (1, 4, 4)
    assert dataset.info["source"] == f"{url} ({digest})"
    assert dataset.info["licence"] == "CC BY-SA 4.0"
    assert [path.name for path in home.iterdir()] == ["datasets"]  # what was unpacked is gone


def test_another_archive_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "KuaiRand-Pure.tar.gz"
    archive(file)
    with pytest.raises(DataError, match="expected 0820331067a3784d9691136f772b35a7"):
        get("kuairand-pure", file, tmp_path / "home")
    with pytest.raises(DataError, match="no such file or folder"):
        get("kuairand-pure", tmp_path / "gone", tmp_path / "home")
    assert not (tmp_path / "home").exists()


def test_unknown_names_offer_the_nearest() -> None:
    with pytest.raises(DataError, match=r"no published dataset 'ml1m'; did you mean ml-1m\?"):
        official("ml1m")
    assert next(iter(official("amazon-2014-Beauty").files)).endswith("reviews_Beauty_5.json.gz")


def test_a_short_name_and_the_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert official("beauty").files == official("amazon-2014-Beauty").files
    made: list[tuple[str, WorldConfig | None, Path | None]] = []
    monkeypatch.setattr(
        "onerec.data.sources.world.make_world_dataset",
        lambda name, config, home: made.append((name, config, home)),
    )
    get("world", None, tmp_path)
    get("world", None, tmp_path, name="mine")
    get("world", None, tmp_path, name="large", world=WorldConfig(n_users=9_000))
    assert made == [
        ("world", None, tmp_path),
        ("mine", None, tmp_path),
        ("large", WorldConfig(n_users=9_000), tmp_path),
    ]
    with pytest.raises(DataError, match="'world' is the name of the default world"):
        get("world", None, tmp_path, world=WorldConfig(n_users=9_000))
    with pytest.raises(DataError, match="only a world has --set"):
        get("ml-100k", None, tmp_path, world=WorldConfig(n_users=9_000))


def test_kuairand_of_the_shared_data(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "kuairand_pure_partial"
    source = folder / "interactions.parquet"
    dataset = import_files(
        source, folder / "items.parquet", folder / "users.parquet", name="kr", home=tmp_path
    )
    found = describe(dataset)
    lost = found["counts"]["duplicates"]
    assert found["rows"]["interactions"] + lost == 228_329
    assert found["rows"]["items"] == 7_583
    assert found["rows"]["users"] == 27_285
    with duckdb.connect() as connection:
        for ours, theirs in found["columns"]["interactions"].items():
            if ours in found["behaviours"]:
                # Each event once: the sum over distinct events, not over rows logged twice.
                truth = connection.execute(
                    f"SELECT count(*) FROM (SELECT bool_or({theirs} = 1) AS b FROM '{source}' "
                    "GROUP BY user_id, item_id, timestamp) WHERE b"
                ).fetchall()[0][0]
                assert found["behaviours"][ours]["true"] == truth, ours
    assert len(found["behaviours"]) == 8
    assert found["time"]["kind"] == "exact"
    assert found["positive"]["rule"] == "long_view|like|follow|comment|forward"


def test_the_merged_events_of_the_shared_data(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "kuairand_pure_partial"
    dataset = import_files(
        folder / "events.parquet", folder / "items.parquet", name="events", home=tmp_path
    )
    found = describe(dataset)
    assert found["rows"]["interactions"] + found["counts"]["duplicates"] == 1_045_516
    assert found["time"]["kind"] == "order"
    assert found["counts"]["time_backwards"] == 0
    assert found["behaviours"]["click"]["known"] == found["split"]["valid"] + found["split"]["test"]
    assert found["behaviours"]["like"]["known"] == found["rows"]["interactions"]
    split = make_split(dataset)
    assert split.rule == "given"
    assert int(split.train.sum()) == found["split"]["train"] == 817_187
    with pytest.raises(DataError, match="some times only give the order"):
        make_split(dataset, "temporal")


def test_beauty_of_the_shared_data(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "amazon14_beauty"
    dataset = import_files(
        folder / "interactions.parquet", folder / "items.parquet", name="beauty", home=tmp_path
    )
    assert (dataset.n_users, dataset.n_items, len(dataset.log)) == (22_363, 12_101, 198_502)
    split = make_split(dataset)
    assert split.rule == "leave_one_out"
    assert len(split.test) == 22_363
    with duckdb.connect() as connection:  # the last position of every user, by their own ids
        truth = connection.execute(
            "SELECT user_id, arg_max(item_id, position) FROM "
            f"'{folder / 'interactions.parquet'}' GROUP BY user_id"
        ).fetchall()
    users = dataset.user_index(user for user, _ in truth)
    items = dataset.item_index(item for _, item in truth)
    assert (split.test.target_items[np.argsort(split.test.user)] == items[np.argsort(users)]).all()
    with pytest.raises(DataError, match="it has no times"):
        make_split(dataset, "temporal")


def test_movielens_of_the_shared_data(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "ml-100k"
    dataset = import_files(
        folder / "interactions.parquet",
        folder / "items.parquet",
        folder / "users.parquet",
        name="ml",
        home=tmp_path,
    )
    found = describe(dataset)
    assert found["rows"] == {"interactions": 100_000, "items": 1_682, "users": 943}
    assert found["columns"]["interactions"]["timestamp"] == "timestamp (seconds)"
    assert found["time"]["first"].startswith("1997-09-20")
    assert found["values"]["rating"]["mean"] == pytest.approx(3.52986)
    assert found["positive"]["rule"] == "rating>=4"
