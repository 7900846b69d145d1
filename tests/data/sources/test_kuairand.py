"""The published layout of KuaiRand, in small."""

from pathlib import Path

import pytest

from onerec.data.ingest import import_files
from onerec.data.sources import kuairand
from onerec.errors import DataError

HEAD = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,"
    "is_hate,long_view,play_time_ms,duration_ms,profile_stay_time,comment_stay_time,"
    "is_profile_enter,is_rand,tab\n"
)


def test_standard_logs_and_basic_features(tmp_path: Path) -> None:
    data = tmp_path / "KuaiRand-Pure" / "data"
    data.mkdir(parents=True)
    row = "{},{},20220421,800,{},1,0,0,0,0,{},1,61802,49866,0,0,0,0,1\n"
    (data / "log_standard_4_08_to_4_21_pure.csv").write_text(
        HEAD + row.format(7, 0, 1650500000001, 0) + row.format(7, 1, 1650500000002, 1)
    )
    (data / "log_standard_4_22_to_5_08_pure.csv").write_text(
        HEAD + row.format(7, 0, 1650600000000, 0)
    )
    (data / "log_random_4_22_to_5_08_pure.csv").write_text(HEAD + row.format(8, 1, 1, 0))
    (data / "user_features_pure.csv").write_text("user_id,user_active_degree\n7,full_active\n")
    (data / "video_features_basic_pure.csv").write_text(
        'video_id,author_id,upload_dt,video_duration,tag\n0,99,2022-04-10,87433.0,"39,68"\n'
        "1,98,2022-04-10,,\n"
    )
    (data / "video_features_statistic_pure.csv").write_text("video_id,show_cnt\n0,5\n")
    tables = kuairand.sources(tmp_path)
    log = tables["interactions"]
    assert log is not None
    dataset = import_files(log, tables["items"], tables["users"], name="kr", home=tmp_path)
    assert (dataset.n_users, dataset.n_items, len(dataset.log)) == (1, 2, 3)
    assert dataset.log.columns["dislike"].tolist() == [0, 1, 0]
    assert dataset.log.columns["play_ms"].tolist() == [61802] * 3
    assert dataset.behaviours == (
        *("click", "long_view", "like", "follow", "comment", "forward", "profile_enter"),
        "dislike",
    )
    assert dataset.info["ignored"]["interactions"] == [
        *("date", "hourmin", "profile_stay_time", "comment_stay_time", "is_rand", "tab"),
    ]
    first = dataset.items.set_index("item_id").loc[0]
    assert list(first["tags"]) == ["39", "68"]
    assert first["duration_ms"] == 87433
    assert first["published_at"] == 1649548800000
    assert "show_cnt" not in dataset.items


def test_another_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is this KuaiRand"):
        kuairand.sources(tmp_path)
