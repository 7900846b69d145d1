"""Batches from shards: every example once an epoch, as `Contexts` cuts it, whatever the shards."""

import dataclasses
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_log

from onerec.data import log_shards, stream
from onerec.data.batches import Contexts, Features, TrainingBatches, training_examples
from onerec.data.log_shards import LogShards
from onerec.data.snapshots import Snapshots
from onerec.data.split import Split
from onerec.data.stream import ShardBatches
from onerec.errors import DataError
from onerec.model.batch import Batch

SIZE, SEED, LENGTHS = 16, 5, (6, 4)  # of a batch; short and positive events
LAYOUTS = {"one shard": (10**6, 4), "pools of two": (100, 2), "a pool a shard": (60, 1)}


@pytest.fixture
def made() -> Iterator[list[ShardBatches]]:
    """What is to be closed in the end."""
    found: list[ShardBatches] = []
    yield found
    for each in found:
        each.close()


class Maker:
    """Makes batches from shards of one log, and the same by tables."""

    def __init__(self, folder: Path, made: list[ShardBatches], timed: bool = True) -> None:
        self.made = made
        self.split, self.features = toy_log.make_split(timed=timed)
        self.shards = LogShards.made(folder, self.split, self.features, "same")

    def batches(
        self,
        *,
        size: int = SIZE,
        targets: int = 3,
        snapshots: Snapshots | None = None,
        deal_by_length: bool = False,
        share: tuple[int, int] = (0, 1),
    ) -> ShardBatches:
        found = ShardBatches(
            self.shards,
            self.features,
            size,
            SEED,
            targets=targets,
            short_length=LENGTHS[0],
            positive_length=LENGTHS[1],
            snapshots=snapshots,
            deal_by_length=deal_by_length,
            share=share,
        )
        self.made.append(found)
        return found


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the shards of a layout are written once."""
    return tmp_path_factory.mktemp("shards")


@pytest.fixture
def place(folders: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """The folder of a layout: how many rows are a shard, and how many shards a pool."""
    layout = getattr(request, "param", "pools of two")
    rows, pooled = LAYOUTS[layout]
    monkeypatch.setattr(log_shards, "ROWS", rows)
    monkeypatch.setattr(stream, "POOLED", pooled)
    return folders / layout


@pytest.fixture
def maker(place: Path, made: list[ShardBatches]) -> Maker:
    return Maker(place, made)


every_layout = pytest.mark.parametrize("place", LAYOUTS, indirect=True)


def contexts(split: Split, features: Features, snapshots: Snapshots | None = None) -> Contexts:
    return Contexts(
        split.log,
        features,
        short_length=LENGTHS[0],
        positive_length=LENGTHS[1],
        snapshots=snapshots,
    )


def rows(batch: Batch) -> list[bytes]:
    """Each context with its targets as bytes; what is padded behind is left out."""
    events = [batch.short, batch.positive, *([batch.lifelong] if batch.lifelong else [])]
    found = []
    for row in range(batch.size):
        text = [batch.static[row].tolist(), batch.target[row].tolist()]
        for each in events:
            real = each.item[row] > 0
            text += [getattr(each, name)[row][real].tolist() for name in each.__dataclass_fields__]
        found.append(repr(text).encode())
    return found


def epoch(batches: ShardBatches | TrainingBatches, n: int, number: int = 0) -> Counter[bytes]:
    """How often each context comes in an epoch; other epochs' examples in its batches left out."""
    size = min(SIZE, n)
    first, last = number * n, (number + 1) * n
    steps = range(first // size, -(-last // size))
    found = [row for step in steps for row in rows(batches(step))]
    begin = first - steps.start * size
    return Counter(found[begin : begin + n])


def assert_equal(one: Batch, other: Batch) -> None:
    for name in ("static", "target"):
        assert torch.equal(getattr(one, name), getattr(other, name))
    for pathway in ("short", "positive", "lifelong"):
        ours, theirs = getattr(one, pathway), getattr(other, pathway)
        assert (ours is None) == (theirs is None)
        if ours is not None:
            for name in ours.__dataclass_fields__:
                a, b = getattr(ours, name), getattr(theirs, name)
                assert a.dtype == b.dtype
                assert torch.equal(a, b), f"{pathway}.{name}"


@every_layout
@pytest.mark.parametrize("number", [0, 2])
def test_an_epoch_holds_the_examples_of_training_batches_once_each(
    maker: Maker, number: int
) -> None:
    batches = maker.batches()
    examples = training_examples(maker.split, 3)
    assert len(batches) == len(examples) > 6 * SIZE
    tables = TrainingBatches(contexts(maker.split, maker.features), examples, SIZE, SEED)
    expected = epoch(tables, len(examples))
    assert max(expected.values()) < 3  # nearly all differ, so that the next line says something
    assert epoch(batches, len(examples), number) == expected


@pytest.mark.parametrize("deal_by_length", [False, True], ids=["shuffled", "by length"])
def test_the_shards_of_one_pool_give_what_training_batches_give(
    maker: Maker, monkeypatch: pytest.MonkeyPatch, deal_by_length: bool
) -> None:
    monkeypatch.setattr(stream, "POOLED", 100)
    assert len(maker.shards.shards) > 3
    batches = maker.batches(deal_by_length=deal_by_length, share=(1, 2))
    tables = TrainingBatches(
        contexts(maker.split, maker.features),
        training_examples(maker.split, 3),
        SIZE,
        SEED,
        order="length" if deal_by_length else "shuffled",
        share=(1, 2),
    )
    for step in (0, 5, 9, 20):
        assert_equal(batches(step), tables(step))


def located(maker: Maker, batches: ShardBatches, step: int) -> tuple[torch.Tensor, ...]:
    """user, end and targets of a step's examples, found by counting through the whole log."""
    examples = training_examples(maker.split, 3)
    shards = batches.shards.shards
    owner = np.searchsorted([shard.last for shard in shards], examples.user, side="right")
    chosen: list[int] = []
    for (number, pool), first, count in batches.pieces(step):
        places = batches._order(number)[pool * stream.POOLED : (pool + 1) * stream.POOLED]
        mine = np.flatnonzero(np.isin(owner, batches.numbers[places]))
        order = batches._pool((number, pool)).order
        chosen += mine[order[first : first + count]].tolist()
    parts = (examples.user[chosen], examples.end[chosen], examples.target[chosen])
    return tuple(torch.from_numpy(part) for part in parts)


@every_layout
@pytest.mark.parametrize("long", [False, True], ids=["without", "with lifelong"])
def test_a_batch_is_what_contexts_cut_from_the_whole_log(maker: Maker, long: bool) -> None:
    snapshots = toy_log.snapshots(maker.split, maker.features) if long else None
    batches = maker.batches(snapshots=snapshots)
    whole = contexts(maker.split, maker.features, snapshots)
    for step in (0, 3, 12):  # the last is another epoch's
        user, end, target = located(maker, batches, step)
        longest = int((end - whole.offsets[user]).max())
        assert_equal(batches(step), whole.batch(user, end, target, longest))
        assert batches(step).size == SIZE


def test_a_log_without_times_streams_as_well(
    place: Path, tmp_path: Path, made: list[ShardBatches]
) -> None:
    maker = Maker(tmp_path, made, timed=False)
    batches = maker.batches()
    user, end, target = located(maker, batches, 1)
    longest = int((end - torch.from_numpy(maker.split.log.offsets)[user]).max())
    whole = contexts(maker.split, maker.features)
    assert_equal(batches(1), whole.batch(user, end, target, longest))


def test_a_step_is_the_same_after_a_restart_and_in_any_order(maker: Maker) -> None:
    batches = maker.batches()
    straight = [batches(step) for step in range(14)]
    again = maker.batches()
    for step in (9, 3, 13, 0):
        assert_equal(again(step), straight[step])
    assert not torch.equal(straight[0].target, straight[1].target)


def test_threads_that_ask_at_once_get_what_one_gets(maker: Maker) -> None:
    alone, batches = maker.batches(), maker.batches()
    expected = [alone(step) for step in range(12)]
    found: dict[int, Batch] = {}

    def make(first: int) -> None:
        for step in range(first, 12, 3):
            found[step] = batches(step)

    threads = [threading.Thread(target=make, args=(first,)) for first in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for step, batch in enumerate(expected):
        assert_equal(found[step], batch)


def test_shares_join_to_the_whole(maker: Maker) -> None:
    whole, shares = maker.batches(), [maker.batches(share=(rank, 3)) for rank in range(3)]
    several = [step for step in range(20) if len(list(whole.pieces(step))) > 1]
    assert len(several) > 2  # batches out of two pools
    for step in (1, *several[:3]):
        batch, parts = whole(step), [share(step) for share in shares]
        assert [part.size for part in parts] == [6, 5, 5]
        for rank, part in enumerate(parts):
            assert rows(part) == rows(batch)[rank::3]
            assert torch.equal(part.target, batch.target[rank::3])
            longest = int((part.short.item > 0).sum(1).max())  # each pads to its own longest
            assert part.short.item.shape[1] == longest


def test_dealing_by_length_within_pools_keeps_every_example(maker: Maker) -> None:
    plain, dealt = maker.batches(), maker.batches(deal_by_length=True)
    assert epoch(dealt, len(dealt), 1) == epoch(plain, len(plain), 1)
    assert not torch.equal(dealt(0).target, plain(0).target)


def test_another_epoch_has_another_order_and_a_batch_has_several_users(maker: Maker) -> None:
    batches = maker.batches()
    n = len(batches)
    first, second = (
        [batches._pool(place).order.tolist() for place, *_ in batches.pieces(number * n // SIZE)]
        for number in (0, SIZE)  # both begin an epoch
    )
    assert first[0] != second[0]
    orders = {tuple(batches._order(number)) for number in range(8)}
    assert len(orders) > 2  # shards meet other shards
    assert len(np.unique(batches(0).static.numpy(), axis=0)) > 2


def test_a_batch_larger_than_the_log_is_all_of_it(maker: Maker) -> None:
    batches = maker.batches(size=10**6)
    assert batches(0).size == batches(5).size == len(batches)
    assert Counter(rows(batches(0))) == Counter(rows(batches(5)))


def test_at_most_three_pools_are_kept_and_earlier_shards_are_not_read(
    tmp_path: Path, made: list[ShardBatches], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_shards, "ROWS", 40)
    monkeypatch.setattr(stream, "POOLED", 1)
    batches = Maker(tmp_path, made).batches()
    read: list[list[int]] = []
    plain = LogShards.read

    def noted(self, numbers, features):
        read.append(list(numbers))
        return plain(self, numbers, features)

    monkeypatch.setattr(LogShards, "read", noted)
    places = [place for place, *_ in batches.pieces(6)]
    assert places[0][1] > 1
    batches(6)
    batches.close()
    order = batches.numbers[batches._order(0)].tolist()
    first, last = places[0][1], places[-1][1]
    assert read == [[order[number]] for number in range(first, first + len(read))]
    assert len(read) <= last - first + 2  # its own and the next
    assert len(batches._pools) <= stream.KEPT


def test_a_shard_that_goes_missing_is_told_by_the_step_that_needs_it(
    tmp_path: Path, made: list[ShardBatches]
) -> None:
    batches = Maker(tmp_path, made).batches()
    (tmp_path / batches.shards.shards[0].file).unlink()
    with pytest.raises(DataError, match=r"shard-00000\.parquet: cannot be read .*start the same"):
        batches(0)


def test_shards_with_other_examples_than_were_counted_are_refused(
    tmp_path: Path, made: list[ShardBatches]
) -> None:
    maker = Maker(tmp_path, made)
    shards = maker.shards.shards
    wrong = [dataclasses.replace(shard, examples=shard.examples + 1) for shard in shards]
    maker.shards = LogShards(tmp_path, wrong)
    with pytest.raises(DataError, match=r"hold \d+ examples where \d+ are expected; delete"):
        maker.batches()(0)
