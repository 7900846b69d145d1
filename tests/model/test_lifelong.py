"""Hierarchical k-means of long histories: by hand, against a slow recursion, and its properties."""

import math
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_hash import uniform

from onerec.model import lifelong, ragged_kmeans
from onerec.model.lifelong import Clusters, compress, single_events


def offsets_of(lengths):
    return torch.tensor([0, *np.cumsum(lengths)])


def random_history(lengths, n=60, d=5, seed=0):
    """Vectors (n, d) float64 and items of users with that many events."""
    g = torch.Generator().manual_seed(seed)
    topics = 3 * torch.randn(4, d, generator=g, dtype=torch.float64)
    vectors = topics[torch.arange(n) % 4] + torch.randn(n, d, generator=g, dtype=torch.float64)
    return vectors, torch.randint(0, n, (sum(lengths),), generator=g), offsets_of(lengths)


def members(found, position):
    start = int(found.size[:position].sum())
    return found.members[start : start + int(found.size[position])].tolist()


def partition(found, user):
    first, last = found.offsets[user : user + 2].tolist()
    return [members(found, position) for position in range(first, last)]


# ------------------------------------------------------------------------- a slow reference


def seeds_of(vectors, items, k, seed, depth):
    kinds = sorted(set(items))
    chosen = []
    for round_ in range(k):
        waits = []
        for kind in kinds:
            far = min((((vectors[kind] - c) ** 2).sum() for c in chosen), default=1.0)
            u = uniform(kind, seed, depth, round_)
            waits.append(-math.log(u) / (items.count(kind) * far) if far > 0 else math.inf)
        if min(waits) == math.inf:
            break
        chosen.append(vectors[kinds[int(np.argmin(waits))]])
    return np.array(chosen)


def reference(vectors, items, limit, seed, events=None, depth=0):
    """The events of each leaf, one user, event by event and set by set."""
    events = list(range(len(items))) if events is None else events
    own = [items[e] for e in events]
    if len(events) <= limit:
        return [events]
    k = max(k for k in range(1, 200) if k**3 <= len(events))
    centres = seeds_of(vectors, own, k, seed, depth)
    rows = vectors[own]  # an item that comes again is a row again
    for _ in range(ragged_kmeans.ITERATIONS):
        label = ((rows[:, None] - centres[None]) ** 2).sum(-1).argmin(1)
        for j in set(label.tolist()):
            centres[j] = rows[label == j].mean(0)
    parts = [[e for e, one in zip(events, label, strict=True) if one == j] for j in set(label)]
    if len(parts) == 1:
        return [events]
    return [
        leaf for part in parts for leaf in reference(vectors, items, limit, seed, part, depth + 1)
    ]


@pytest.mark.parametrize("iterations", [1, 2, 10])
@pytest.mark.parametrize("seed", [0, 5])
def test_it_is_the_slow_recursion_of_each_user(monkeypatch, seed, iterations):
    monkeypatch.setattr(ragged_kmeans, "ITERATIONS", iterations)
    lengths = [300, 7, 0, 1, 90, 31]
    vectors, item, offsets = random_history(lengths, seed=seed)
    found = compress(vectors, item, offsets, limit=8, seed=seed, chunk=100)
    for user, length in enumerate(lengths):
        first = int(offsets[user])
        own = item[first : first + length].tolist()
        wanted = reference(vectors.numpy(), own, 8, seed) if length else []
        got = partition(found, user)
        assert sorted(got) == sorted([[first + e for e in leaf] for leaf in wanted])
        assert len(got) > 10 or length < 300


# --------------------------------------------------------------------------------- by hand


def test_two_heaps_by_hand():
    """Nine events at 0 and 10: floor(9^(1/3)) = 2 clusters."""
    vectors = torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0], [13.0]])
    item = torch.tensor([3, 0, 1, 2, 1, 4, 5, 3, 4])
    found = compress(vectors, item, torch.tensor([0, 9]), limit=8)
    assert partition(found, 0) == [[1, 2, 3, 4], [0, 5, 6, 7, 8]]
    # Means 1 and 11: items 1 and 4, and of their events the newest.
    assert found.representative.tolist() == [4, 8]
    assert found.size.tolist() == [4, 5]
    seconds, begun = torch.arange(9), 1_700_000_000
    same = compress(vectors, item, torch.tensor([0, 9]), limit=8, time=begun + seconds)
    assert partition(same, 0) == partition(found, 0)
    turned = compress(vectors, item, torch.tensor([0, 9]), limit=8, time=begun - seconds)
    assert partition(turned, 0) == [[0, 5, 6, 7, 8], [1, 2, 3, 4]]
    largest = compress(vectors, item, torch.tensor([0, 9]), limit=8, length=1)
    assert partition(largest, 0) == [[0, 5, 6, 7, 8]]
    assert (largest.offsets.tolist(), largest.representative.tolist()) == ([0, 1], [8])
    item, offsets = torch.cat([item, item[1:2]]), torch.tensor([0, 10])
    newer = compress(vectors, item, offsets, limit=8, length=1)  # of two heaps of five events
    assert partition(newer, 0) == [[0, 5, 6, 7, 8]]
    newer = compress(vectors, item, offsets, limit=8, length=1, time=-torch.arange(10))
    assert partition(newer, 0) == [[1, 2, 3, 4, 9]]


def test_the_mean_and_the_mode_of_a_position():
    found = Clusters(
        offsets=torch.tensor([0, 2, 2, 3]),
        representative=torch.tensor([0, 3, 5]),
        size=torch.tensor([3, 2, 1]),
        members=torch.tensor([0, 1, 2, 3, 4, 5]),
    )
    nan = torch.nan
    values = torch.tensor([1.0, nan, 2.0, nan, nan, 7.0])
    torch.testing.assert_close(
        found.mean(values), torch.tensor([1.5, nan, 7.0]).double(), equal_nan=True
    )
    assert found.mode(torch.tensor([0, 0, 3, 2, 1, 0]), 4).tolist() == [3, 1, 0]
    assert found.mode(torch.tensor([3, 2, 3, 1, 1, 2]), 4).tolist() == [3, 1, 2]


def test_a_chunk_is_whole_users_and_one_of_them_may_be_larger():
    ends = torch.tensor([0, 50, 100, 101, 300, 301])
    assert lifelong._chunks(ends, 100) == [(0, 2), (2, 3), (3, 4), (4, 5)]


def test_single_events_by_hand():
    offsets = torch.tensor([0, 5, 5, 7])
    found = single_events(offsets, 3, "recent")
    assert found.offsets.tolist() == [0, 3, 3, 5]
    assert found.representative.tolist() == found.members.tolist() == [2, 3, 4, 5, 6]
    assert found.size.tolist() == [1] * 5
    assert single_events(torch.tensor([0]), 3, "recent").offsets.tolist() == [0]
    for length, by in ((3, "newest"), (0, "recent")):
        with pytest.raises(ValueError, match=f"by='{by}'.*length={length}"):
            single_events(offsets, length, by)


def test_random_events_are_the_same_number_drawn_from_all():
    offsets = torch.tensor([0, 1_000, 1_004, 2_004])
    found = single_events(offsets, 100, "random")
    assert found.offsets.tolist() == [0, 100, 104, 204]
    first, last = found.representative[:100], found.representative[104:]
    assert first.unique().equal(first)
    assert last.sub(1_004).equal(first)  # the same places of every history
    assert abs(float(first.double().mean()) - 500) < 100
    assert found.representative[100:104].tolist() == [1_000, 1_001, 1_002, 1_003]


def test_users_with_little_are_one_position_or_none():
    vectors, item, offsets = random_history([1, 0, 8])
    found = compress(vectors, item, offsets, limit=8)
    assert found.offsets.tolist() == [0, 1, 1, 2]
    assert partition(found, 0) == [[0]]
    assert partition(found, 2) == [list(range(1, 9))]
    empty = compress(vectors, item[:0], torch.tensor([0, 0, 0]), limit=8)
    assert empty.offsets.tolist() == [0, 0, 0]
    assert empty.members.tolist() == empty.representative.tolist() == []
    assert compress(vectors, item[:0], torch.tensor([0])).offsets.tolist() == [0]


def test_what_cannot_be_split_is_one_position():
    """Items of one vector, of which it once looked for another cluster forever."""
    vectors = torch.full((6, 3), 0.1)
    vectors[5] = 4.0
    item = torch.tensor([2] * 267 + [0, 1, 3, 4] * 10)
    found = compress(vectors, item, offsets_of([267, 40]), limit=8)
    assert found.size.tolist() == [267, 40]
    assert found.representative.tolist() == [266, 303]  # the newest of the lowest item
    item[0] = 5
    assert partition(compress(vectors, item, offsets_of([267, 40]), limit=8), 0)[0] == [0]


# ------------------------------------------------------------------------------ properties


@given(
    lengths=st.lists(st.integers(0, 120), min_size=1, max_size=5),
    n=st.integers(1, 80),
    limit=st.integers(8, 30),
    length=st.sampled_from([1, 5, 1_000]),
    chunk=st.sampled_from([1, 150, 10_000]),
    seed=st.integers(0, 100),
)
@settings(max_examples=40, deadline=None, database=None)
def test_properties(lengths, n, limit, length, chunk, seed):
    vectors, item, offsets = random_history(lengths, n=n, seed=seed)
    found = compress(vectors, item, offsets, limit=limit, length=length, seed=seed, chunk=chunk)
    again = compress(vectors, item, offsets, limit=limit, length=length, seed=seed, chunk=chunk)
    assert all(
        torch.equal(a, b) for a, b in zip(vars(found).values(), vars(again).values(), strict=True)
    )
    assert (found.offsets.diff() <= length).all()
    for user, count in enumerate(lengths):
        first = int(offsets[user])
        own = partition(found, user)
        events = sorted(event for one in own for event in one)
        mine = set(range(first, first + count))
        assert len(events) == len(set(events))
        assert set(events) <= mine
        if length == 1_000:
            assert set(events) == mine
        times = [np.mean(one) for one in own]
        assert times == sorted(times)
        for place, one in enumerate(own):
            kinds = item[one].unique()
            assert one == sorted(one)
            assert len(one) <= limit or len(kinds) == 1
            away = (vectors[item[one]] - vectors[item[one]].mean(0)).square().sum(1)
            chosen = int(found.representative[int(found.offsets[user]) + place])
            assert chosen == max(e for e in one if item[e] == item[chosen])
            assert float(away[one.index(chosen)]) <= float(away.min()) * (1 + 1e-9)
        alone = compress(
            vectors,
            item[first : first + count],
            torch.tensor([0, count]),
            limit=limit,
            length=length,
            seed=seed,
        )
        assert [[e - first for e in one] for one in own] == partition(alone, 0)


def test_another_seed_starts_elsewhere():
    vectors, item, offsets = random_history([300])
    first, second = (
        partition(compress(vectors, item, offsets, limit=8, seed=s), 0) for s in (0, 1)
    )
    assert first != second


def test_positions_beyond_the_length_are_the_smallest():
    vectors, item, offsets = random_history([400])
    whole = compress(vectors, item, offsets, limit=8)
    some = compress(vectors, item, offsets, limit=8, length=20)
    assert some.size.sort(descending=True).values.tolist() == (
        whole.size.sort(descending=True).values[:20].tolist()
    )
    kept = partition(some, 0)
    assert [one for one in partition(whole, 0) if one in kept] == kept


def test_a_hundred_thousand_events_cost_little_more_than_their_share():
    """As one user or as many: the time of an event does not depend on how long the history is."""
    g = torch.Generator().manual_seed(0)
    vectors = torch.randn(3_000, 8, generator=g) + 4 * torch.randn(20, 8, generator=g).repeat(
        150, 1
    )
    item = torch.randint(0, 3_000, (100_000,), generator=g)
    seconds = []
    for users in (100, 1):
        begun = time.perf_counter()
        found = compress(vectors, item, torch.arange(users + 1) * (100_000 // users))
        seconds.append(time.perf_counter() - begun)
    assert seconds[1] < 10 * seconds[0]
    assert len(found.size) < 2_000
    assert int(found.size.sum()) == 100_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"limit": 7}, "limit=7: needs at least 8"),
        ({"length": 0}, "length=0"),
        ({"chunk": 0}, "chunk=0"),
        ({"offsets": torch.tensor([0, 4])}, "5 events, but offsets end at 4"),
        ({"item": torch.tensor([0, 1, 2, 3, 60])}, "items 0 to 60, vectors 60"),
        ({"vectors": torch.zeros(60)}, r"vectors \(60,\) must be"),
    ],
)
def test_refusals(change, message):
    vectors, item, offsets = random_history([5])
    asked = {"vectors": vectors, "item": item, "offsets": offsets, **change}
    with pytest.raises(ValueError, match=message):
        compress(**asked)


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_rounding_moves_no_representative(seed):
    vectors, item, offsets = random_history([300, 7, 0, 1, 90, 31], seed=seed)
    g = torch.Generator().manual_seed(seed)
    turned = vectors @ torch.linalg.qr(torch.randn(5, 5, generator=g, dtype=torch.float64)).Q
    wanted, got = (compress(each, item, offsets, limit=8) for each in (vectors, turned))
    for name in vars(wanted):
        assert torch.equal(getattr(wanted, name), getattr(got, name)), name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_finds_the_same():
    vectors, item, offsets = random_history([300, 7, 0, 1, 90, 31])
    wanted = compress(vectors, item, offsets, limit=8)
    got = compress(vectors.cuda(), item, offsets, limit=8)
    assert all(
        torch.equal(a, b.cpu())
        for a, b in zip(vars(wanted).values(), vars(got).values(), strict=True)
    )
