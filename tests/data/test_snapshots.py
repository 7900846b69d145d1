"""Snapshots of long histories: by hand, and proofs that no context reads what comes after it."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onerec.data.batches import Contexts, Features, training_examples
from onerec.data.features import EventFeatures, ItemFeatures, UserFeatures
from onerec.data.log import Interactions, user_offsets
from onerec.data.snapshots import (
    Lifelong,
    Snapshots,
    gap_bucket,
    make_snapshots,
    snapshot_events,
    snapshot_sizes,
)
from onerec.data.split import make_split
from onerec.errors import DataError

N_ITEMS = 12
CPU = torch.device("cpu")
VECTORS = torch.randn(N_ITEMS, 3, generator=torch.Generator().manual_seed(0)).double()
SECONDS = np.array([np.nan, *np.arange(1.0, N_ITEMS)])
ITEMS = ItemFeatures(
    *(np.zeros(N_ITEMS, dtype=np.int64), np.arange(N_ITEMS) % 4, np.zeros(N_ITEMS, dtype=np.int64)),
    *(0, 3, 5),
)


def make_log(lengths: list[int], seed: int = 0) -> Interactions:
    """Users with so many events, one a second, watched up to twice, sometimes liked."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(len(lengths)), lengths).astype(np.int32)
    n = len(user)
    time = np.concatenate([np.arange(length) for length in lengths]) if n else np.zeros(0)
    return Interactions(
        user=user,
        item=rng.integers(0, N_ITEMS, n).astype(np.int32),
        offsets=user_offsets(user, len(lengths)),
        n_users=len(lengths),
        n_items=N_ITEMS,
        columns={
            "timestamp": time.astype(np.int64) * 1000,
            "play_ms": rng.integers(0, 2_000, n).astype(np.float64),
            "duration_ms": np.where(rng.random(n) < 0.1, 0.0, 1_000.0),
            "like": rng.integers(-1, 2, n).astype(np.int8),
            "split": rng.integers(0, 3, n).astype(np.int8),
        },
        positive=rng.random(n) < 0.6,
        positive_rule="like",
    )


def events_of(log: Interactions) -> EventFeatures:
    """Likes, also where they do not vary."""
    likes = (log.columns["like"] == 1).astype(np.float32)[:, None]
    return EventFeatures(np.zeros(len(log), dtype=np.int64), likes, ("like",), 0)


def snapshots_of(log: Interactions, limit: int = 8, length: int = 1_000) -> Snapshots:
    return make_snapshots(
        log,
        ITEMS,
        events_of(log),
        SECONDS,
        VECTORS,
        slice(0, log.n_users),
        limit=limit,
        length=length,
    )


def contexts_of(log: Interactions, snapshots: Snapshots | None) -> Contexts:
    nobody = UserFeatures(np.zeros((log.n_users, 0), dtype=np.int64), (), (), ())
    features = Features(nobody, ITEMS, events_of(log), timed=True)
    return Contexts(log, features, short_length=3, positive_length=3, snapshots=snapshots)


def test_a_history_is_clustered_whenever_it_has_grown_by_a_quarter() -> None:
    assert snapshot_sizes(15).tolist() == []
    assert snapshot_sizes(63).tolist() == [16, 20, 25, 32, 40, 50, 63]
    assert snapshot_events(np.array([0, 15, 35, 35])).tolist() == [0, 16 + 20, 0]
    sizes = snapshot_sizes(100_000)
    assert (sizes[1:] <= 1.25 * sizes[:-1] + 1).all()
    assert snapshot_events(np.array([0, 100_000]))[0] < 5 * 100_000


def test_a_position_by_hand() -> None:
    """Sixteen events and a limit of 16: one position with the means of all of them."""
    log = make_log([17])
    found = snapshots_of(log, limit=16)
    assert (found.offsets.tolist(), found.events.tolist()) == ([0, 1], [16])
    assert found.begin.tolist() == [0, 1]
    items = log.item[:16]
    away = np.square(VECTORS.numpy()[items] - VECTORS.numpy()[items].mean(0)).sum(1)
    chosen = max(np.flatnonzero(items == items[away.argmin()]))
    assert found.item.tolist() == [items[chosen] + 1]
    assert found.label.tolist() == [[int(log.columns["like"][chosen] == 1)]]
    assert found.time.tolist() == [7_500.0]
    known = log.columns["duration_ms"][:16] > 0
    share = (log.columns["play_ms"][:16] / 1_000)[known].mean()
    assert found.play.tolist() == [1 + int(share * 5)]
    mean = np.nanmean(SECONDS[items])
    assert found.duration.tolist() == [1 + int(np.log2(1 + mean))]
    tags = np.bincount(items % 4, minlength=4)[1:]
    assert found.tag.tolist() == [1 + int(tags.argmax())]


def test_rivals_are_single_events_of_the_same_snapshots() -> None:
    log = make_log([40, 3])
    clusters = snapshots_of(log)
    for by in ("recent", "random"):
        found = make_snapshots(
            log, ITEMS, events_of(log), SECONDS, VECTORS, slice(0, 2), limit=8, length=7, by=by
        )
        assert found.events.equal(clusters.events)
        assert found.begin.diff().tolist() == [7] * len(clusters.events)
        if by == "recent":
            rows = np.arange(33, 40)  # of the last snapshot, of 40 events
            assert found.item[-7:].tolist() == (log.item[rows] + 1).tolist()
            assert found.time[-7:].tolist() == (rows * 1_000.0).tolist()
            assert found.tag[-7:].tolist() == (log.item[rows] % 4).tolist()
            assert found.label[-7:, 0].tolist() == (log.columns["like"][rows] == 1).tolist()


def test_a_rating_is_averaged_before_it_is_rounded() -> None:
    log = make_log([16])
    del log.columns["play_ms"]
    log.columns["rating"] = np.array([4.0] * 9 + [1.0] * 6 + [np.nan])
    assert snapshots_of(log, limit=16).play.tolist() == [1 + 6]  # 2.8 stars are 5.6 halves


def test_a_context_reads_the_newest_snapshot_of_its_own_past() -> None:
    log = make_log([15, 33, 0, 17])
    snapshots = snapshots_of(log)
    assert snapshots.offsets.tolist() == [0, 0, 4, 4, 5]
    assert snapshots.events.tolist() == [16, 20, 25, 32, 16]
    user = torch.tensor([0, 1, 1, 1, 1, 1, 2, 3, 3])
    held = torch.tensor([15, 15, 16, 24, 25, 33, 0, 17, 900])
    newest = torch.tensor([0, 0, 15, 23, 24, 32, 0, 16, 16]) * 1_000
    events = Lifelong(snapshots, CPU).events(user, held, newest)
    count = snapshots.begin.diff().tolist()
    read = [0, 0, count[0], count[1], count[2], count[3], 0, count[4], count[4]]
    assert (events.item > 0).sum(1).tolist() == read
    first, last = snapshots.begin[1:3].tolist()
    row = slice(0, count[1])
    assert events.item[3, row].tolist() == snapshots.item[first:last].tolist()
    assert events.tag[3, row].tolist() == snapshots.tag[first:last].tolist()
    assert events.play[3, row].tolist() == snapshots.play[first:last].tolist()
    assert events.duration[3, row].tolist() == snapshots.duration[first:last].tolist()
    assert events.label[3, row].tolist() == snapshots.label[first:last].tolist()
    gap = 23.0 - snapshots.time[first:last] / 1_000
    assert events.time[3, row].equal(gap_bucket(gap))
    assert sum(int(column[0].sum()) for column in vars(events).values()) == 0
    unknown = Lifelong(snapshots, CPU).events(user, held, None)
    assert int(unknown.time.sum()) == 0
    assert unknown.item.equal(events.item)


def test_nobody_with_enough_events_is_a_batch_without_clusters() -> None:
    log = make_log([3, 0, 15])
    batch = contexts_of(log, snapshots_of(log)).batch(torch.tensor([0, 2]), torch.tensor([3, 18]))
    assert batch.lifelong is not None
    assert batch.lifelong.item.shape == (2, 0)
    assert contexts_of(log, None).batch(torch.tensor([0]), torch.tensor([3])).lifelong is None


def test_users_clustered_in_parts_are_as_users_clustered_together() -> None:
    log = make_log([40, 3, 70, 16])
    whole = snapshots_of(log)
    parts = [
        make_snapshots(log, ITEMS, events_of(log), SECONDS, VECTORS, users, limit=8, length=1_000)
        for users in (slice(0, 1), slice(1, 3), slice(3, 4))
    ]
    joined = Snapshots.joined(parts)
    assert all(a.equal(b) for a, b in zip(vars(whole).values(), vars(joined).values(), strict=True))
    for users, part in zip((slice(0, 1), slice(1, 3), slice(3, 4)), parts, strict=True):
        cut = whole.of_users(users)
        pairs = zip(vars(cut).values(), vars(part).values(), strict=True)
        assert all(a.equal(b) for a, b in pairs)


def changed_after(log: Interactions, user: int, end: int, rng: Any) -> Interactions:
    """The log with all that this user did from row `end` on, and what others did, made up anew."""
    rows = np.ones(len(log), dtype=bool)
    rows[log.offsets[user] : end] = False
    item = np.where(rows, rng.integers(0, N_ITEMS, len(log)), log.item).astype(np.int32)
    columns = dict(log.columns)
    columns["play_ms"] = np.where(rows, rng.integers(0, 9_000, len(log)), columns["play_ms"])
    columns["like"] = np.where(rows, 1 - np.abs(columns["like"]), columns["like"])
    columns["timestamp"] = columns["timestamp"] + np.where(rows, 10_000_000, 0)
    return Interactions(**{**vars(log), "item": item, "columns": columns})


@given(
    lengths=st.lists(st.integers(0, 60), min_size=1, max_size=4).filter(any),
    rule=st.sampled_from(["leave_one_out", "temporal", "given"]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=30, deadline=None, database=None)
def test_no_context_reads_its_target_or_what_comes_after_it(
    lengths: list[int], rule: str, seed: int
) -> None:
    """For every rule and every kind of context: what a context reads holds no more than its user's
    rows before its end, and stays as it is whatever comes after. The rows of valid and test targets
    come after every training context, as `test_split` proves, so training never reads them."""
    log = make_log(lengths, seed)
    try:
        split = make_split(log, rule, valid_share=0.2, test_share=0.2)
    except DataError:
        assume(False)
    log, rng = split.log, np.random.default_rng(seed)
    examples = training_examples(split)
    assert (examples.end < split.train_end[examples.user]).all()
    snapshots = snapshots_of(log)
    for who in (examples, split.valid, split.test):
        if not len(who.user):
            continue
        batch = contexts_of(log, snapshots).batch(
            torch.from_numpy(who.user), torch.from_numpy(who.end)
        )
        held = who.end - log.offsets[who.user]
        assert batch.lifelong is not None
        reads = (batch.lifelong.item > 0).any(1).numpy()
        assert (reads == (held >= 16)).all()
        case = int(rng.integers(len(who.user)))
        user, end = int(who.user[case]), int(who.end[case])
        other = changed_after(log, user, end, rng)
        again = contexts_of(other, snapshots_of(other)).batch(
            torch.tensor([user]), torch.tensor([end])
        )
        assert again.lifelong is not None
        width = again.lifelong.item.shape[1]
        for name, column in vars(again.lifelong).items():
            assert getattr(batch.lifelong, name)[case, :width].equal(column[0]), name
        assert not batch.lifelong.item[case, width:].any()


@pytest.mark.parametrize("labels", [0, 2])
def test_any_number_of_behaviours(labels: int) -> None:
    log = make_log([20])
    events = EventFeatures(
        np.zeros(20, dtype=np.int64), np.ones((20, labels), dtype=np.float32), ("a",) * labels, 0
    )
    found = make_snapshots(log, ITEMS, events, SECONDS, VECTORS, slice(0, 1), limit=8, length=9)
    assert found.label.shape == (len(found.item), labels)
    assert (
        Lifelong(found, CPU).events(torch.tensor([0]), torch.tensor([20]), None).label.shape[2]
        == labels
    )
