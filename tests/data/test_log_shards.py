"""Shards of a log: cut by hand, read back whole, made anew where damaged or of old data."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import toy_log

from onerec.data import log_shards, tables
from onerec.data.batches import Features, examples_of
from onerec.data.log_shards import INDEX, LogShards, log_fingerprint, user_ranges
from onerec.data.split import Split
from onerec.errors import DataError


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of at most 150 rows."""
    monkeypatch.setattr(log_shards, "ROWS", 150)


def made(folder: Path, split: Split, features: Features, dataset: str = "d") -> LogShards:
    return LogShards.made(folder, split, features, log_fingerprint(dataset, split, features))


def with_lengths(split: Split, lengths: list[int]) -> Split:
    """A split whose users have so many training rows."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    log = dataclasses.replace(split.log, offsets=offsets, n_users=len(lengths))
    return dataclasses.replace(split, log=log, train_end=offsets[1:])


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([75, 75, 1, 149, 150], [(0, 2), (2, 4), (4, 5)]),  # up to 150 rows are one shard
        ([151, 400, 1], [(0, 1), (1, 2), (2, 3)]),  # a user is never cut in two
        ([0, 0, 150, 0, 5], [(0, 4), (4, 5)]),
        ([], []),
    ],
)
def test_a_shard_is_neighbouring_users_with_about_so_many_rows(
    lengths: list[int], expected: list[tuple[int, int]], small: None
) -> None:
    split, _ = toy_log.make_split()
    ranges = user_ranges(with_lengths(split, lengths))
    assert [(users.start, users.stop) for users in ranges] == expected


def test_all_shards_in_any_order_hold_each_users_training_rows(tmp_path: Path, small: None) -> None:
    split, features = toy_log.make_split()
    shards = made(tmp_path, split, features)
    assert len(shards.shards) > 3
    numbers = np.random.default_rng(0).permutation(len(shards.shards)).tolist()
    log, read = shards.read(numbers, features)
    ranges = [range(shards.shards[n].first, shards.shards[n].last) for n in numbers]
    users = [user for each in ranges for user in each]
    assert sorted(users) == list(range(toy_log.USERS))
    assert log.n_users == toy_log.USERS
    for number, user in enumerate(users):
        mine = slice(log.offsets[number], log.offsets[number + 1])
        his = slice(split.log.offsets[user], split.train_end[user])
        assert (log.user[mine] == number).all()
        for ours, theirs in (
            (log.item, split.log.item),
            (log.columns["timestamp"], split.log.columns["timestamp"]),
            (log.positive, split.log.positive),
            (read.event.play, features.event.play),
            (read.event.labels, features.event.labels),
        ):
            assert ours.dtype == theirs.dtype
            assert np.array_equal(ours[mine], theirs[his])
        assert np.array_equal(read.user.codes[number], features.user.codes[user])
    for place, shard in enumerate(shards.shards):
        alone, _ = shards.read([place], features)
        assert len(alone) == shard.rows
        assert len(examples_of(alone, alone.positive)) == shard.examples


def test_a_log_without_times_or_behaviours_has_no_such_columns(tmp_path: Path) -> None:
    split, features = toy_log.make_split(timed=False)
    event = dataclasses.replace(features.event, labels=features.event.labels[:, :0], behaviours=())
    features = dataclasses.replace(features, event=event)
    shards = made(tmp_path, split, features)
    frame = tables.read_parquet(tmp_path / shards.shards[0].file)
    assert frame.columns.tolist() == ["user", "item", "play", "positive"]
    log, read = shards.read([0], features)
    assert log.columns == {}
    assert read.event.labels.shape == (len(log), 0)


def test_what_is_whole_is_not_written_again(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    split, features = toy_log.make_split()
    told: list[tuple[int, int]] = []
    fingerprint = log_fingerprint("d", split, features)
    first = LogShards.made(
        tmp_path, split, features, fingerprint, lambda done, of: told.append((done, of))
    )
    assert told == [(n + 1, len(first.shards)) for n in range(len(first.shards))]
    assert {path.name for path in tmp_path.iterdir()} == {INDEX, *(s.file for s in first.shards)}
    monkeypatch.delattr(log_shards, "write_parquet")
    assert made(tmp_path, split, features).shards == first.shards


@pytest.mark.parametrize(
    "damage", ["no shard", "half a shard", "half an index", "no index", "more"]
)
def test_what_is_damaged_is_made_anew(tmp_path: Path, small: None, damage: str) -> None:
    split, features = toy_log.make_split()
    first = made(tmp_path, split, features)
    path = tmp_path / first.shards[2].file
    if damage == "no shard":
        path.unlink()
    elif damage == "half a shard":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "half an index":
        (tmp_path / INDEX).write_text((tmp_path / INDEX).read_text()[:80])
    elif damage == "no index":
        (tmp_path / INDEX).unlink()
    else:
        index = json.loads((tmp_path / INDEX).read_text())
        index["shards"][0]["colour"] = "red"
        (tmp_path / INDEX).write_text(json.dumps(index))
    fingerprint = log_fingerprint("d", split, features)
    assert LogShards.opened(tmp_path, fingerprint) is None
    again = made(tmp_path, split, features)
    log, _ = again.read(range(len(again.shards)), features)
    assert np.array_equal(log.item, split.log.item[split.train])
    assert LogShards.opened(tmp_path, fingerprint) is not None


def test_shards_of_something_else_are_made_anew_and_none_is_left(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    split, features = toy_log.make_split()
    made(tmp_path, split, features)
    other = dataclasses.replace(split, train_end=split.log.offsets[1:])
    untimed = dataclasses.replace(features, timed=False)
    known = log_fingerprint("d", split, features)
    assert log_fingerprint("e", split, features) != known
    assert log_fingerprint("d", other, features) != known
    assert log_fingerprint("d", split, untimed) != known
    monkeypatch.setattr(log_shards, "ROWS", 1_000_000)
    assert log_fingerprint("d", split, features) != known
    again = made(tmp_path, other, features)
    assert len(again.shards) == 1
    assert {path.name for path in tmp_path.iterdir()} == {INDEX, again.shards[0].file}
    log, _ = again.read([0], features)
    assert np.array_equal(log.item, split.log.item)


@pytest.mark.parametrize("damage", ["gone", "cut", "other rows"])
def test_a_shard_damaged_while_it_is_in_use_is_named(tmp_path: Path, damage: str) -> None:
    split, features = toy_log.make_split()
    shards = made(tmp_path, split, features)
    path = tmp_path / shards.shards[0].file
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-40])
    else:
        tables.write_parquet(path, tables.read_parquet(path).iloc[1:])
    said = (
        r"shard-00000\.parquet: .*(cannot be read|rows, shards\.json says).*; delete .* and start"
    )
    with pytest.raises(DataError, match=said) as caught:
        shards.read([0], features)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_told_and_what_is_there_is_not_taken_for_whole(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    split, features = toy_log.make_split()
    written = []

    def replace(source: str, target: Path) -> None:
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        written.append(target)
        Path(source).rename(target)

    with monkeypatch.context() as patch:
        patch.setattr(tables.os, "replace", replace)
        with pytest.raises(DataError, match=r"shard-00002\.parquet: cannot be written .*No space"):
            made(tmp_path, split, features)
    assert LogShards.opened(tmp_path, log_fingerprint("d", split, features)) is None
    assert not list(tmp_path.iterdir())  # what fills the disk is gone
    assert len(made(tmp_path, split, features).shards) > 2


def test_a_stop_while_shards_are_written_leaves_none(tmp_path: Path, small: None) -> None:
    split, features = toy_log.make_split()

    def stop(done: int, of: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LogShards.made(tmp_path, split, features, "same", stop)
    assert not list(tmp_path.iterdir())
