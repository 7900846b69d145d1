"""Contexts and examples worked out by hand on a log of three users."""

import numpy as np
import pytest
import torch

from onerec.data.batches import (
    Contexts,
    EpochSampler,
    Examples,
    Features,
    TrainingBatches,
    case_batches,
    examples_of,
    table_bytes,
    training_examples,
)
from onerec.data.features import GAP_BUCKETS, EventFeatures, ItemFeatures, UserFeatures
from onerec.data.log import Interactions
from onerec.data.snapshots import Snapshots
from onerec.data.split import Cases, Split, make_split

# user: (item, seconds, positive); the rows of the log are numbered 0..9.
EVENTS = [
    [(0, 0, True), (1, 1, False), (2, 4, True), (3, 1_000, True)],  # rows 0..3
    [(4, 50, False)],  # row 4
    [(1, 0, True), (2, 10, True), (1, 20, True), (0, 30, True), (4, 40, False)],  # rows 5..9
]
N_ITEMS = 5


def make_log(timed: bool = True) -> Interactions:
    rows = [(u, *event) for u, events in enumerate(EVENTS) for event in events]
    user, item, seconds, positive = (np.array(column) for column in zip(*rows, strict=True))
    return Interactions(
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        offsets=np.array([0, 4, 5, 10]),
        n_users=3,
        n_items=N_ITEMS,
        columns={"timestamp": seconds.astype(np.int64) * 1000} if timed else {},
        positive=positive,
        positive_rule="like",
    )


def make_features(timed: bool = True) -> Features:
    """Row r was played for bucket r + 1 and carries the label r % 2."""
    empty = np.zeros(N_ITEMS, dtype=np.int64)
    labels = (np.arange(10) % 2).astype(np.float32)[:, None]
    return Features(
        user=UserFeatures(np.array([[1], [2], [0]]), (2,), ("city",), ()),
        item=ItemFeatures(np.arange(N_ITEMS), empty, empty, N_ITEMS - 1, 0, 0),
        event=EventFeatures(np.arange(10) + 1, labels, ("like",), 10),
        timed=timed,
    )


def make_contexts(short: int = 3, positive: int = 2, timed: bool = True) -> Contexts:
    return Contexts(
        make_log(timed), make_features(timed), short_length=short, positive_length=positive
    )


def test_windows_hold_the_newest_events_before_the_end_oldest_first() -> None:
    batch = make_contexts().batch(torch.tensor([0, 1, 2]), torch.tensor([3, 5, 10]))
    assert batch.short.item.tolist() == [[1, 2, 3], [5, 0, 0], [2, 1, 5]]
    assert batch.positive.item.tolist() == [[1, 3], [0, 0], [2, 1]]
    assert batch.short.play.tolist() == [[1, 2, 3], [5, 0, 0], [8, 9, 10]]
    assert batch.short.label[..., 0].tolist() == [[0, 1, 0], [0, 0, 0], [1, 0, 1]]
    assert batch.positive.play.tolist() == [[1, 3], [0, 0], [8, 9]]
    assert batch.static.tolist() == [[1], [2], [0]]
    assert batch.target.tolist() == [[0], [0], [0]]


def test_a_context_never_reaches_into_another_user_and_may_be_empty() -> None:
    batch = make_contexts(short=9, positive=9).batch(
        torch.tensor([1, 2, 2]), torch.tensor([4, 5, 6])
    )
    assert batch.short.item[0].sum() == 0  # user 1 before his only event
    assert batch.short.item[1].sum() == 0  # user 2 before his first, behind another user's rows
    assert batch.short.item[2].tolist() == [2] + [0] * 8
    assert batch.positive.item[2].tolist() == [2] + [0] * 8


def test_gaps_count_from_the_newest_event_of_the_context_in_powers_of_two() -> None:
    batch = make_contexts(short=4, positive=4).batch(torch.tensor([0]), torch.tensor([4]))
    # 1000, 999, 996 and 0 seconds before the newest: 1 + floor(log2(1 + gap)).
    assert batch.short.time.tolist() == [[10, 10, 10, 1]]
    assert batch.positive.time.tolist() == [[10, 10, 1, 0]]  # padding is 0, and so unknown
    before = make_contexts(short=4, positive=4).batch(torch.tensor([0]), torch.tensor([3]))
    assert before.short.time.tolist() == [[3, 3, 1, 0]]  # 4, 3 and 0 seconds
    assert int(batch.short.time.max()) <= GAP_BUCKETS


def test_the_gap_of_a_lifetime_stays_in_the_table() -> None:
    log = make_log()
    log.columns["timestamp"][:] = [0, 1, 2, 2**62, 0, 0, 0, 0, 0, 0]
    contexts = Contexts(log, make_features(), short_length=4, positive_length=1)
    batch = contexts.batch(torch.tensor([0]), torch.tensor([4]))
    assert batch.short.time.tolist() == [[GAP_BUCKETS] * 3 + [1]]


def test_a_log_without_exact_times_has_no_gaps() -> None:
    batch = make_contexts(timed=False).batch(torch.tensor([0]), torch.tensor([4]))
    assert batch.short.time.sum() == 0
    assert make_features(timed=False).vocabulary((4, 4), N_ITEMS).n_time == 0
    assert make_features().vocabulary((4, 4), N_ITEMS).n_time == GAP_BUCKETS


def test_a_pathway_of_length_0_is_empty() -> None:
    batch = make_contexts(short=0, positive=1).batch(torch.tensor([0]), torch.tensor([4]))
    assert batch.short.item.shape == (1, 0)
    assert batch.positive.item.tolist() == [[4]]


def test_a_log_without_positives_gives_empty_positive_windows() -> None:
    log = make_log()
    log.positive[:] = False
    contexts = Contexts(log, make_features(), short_length=2, positive_length=2)
    batch = contexts.batch(torch.tensor([0]), torch.tensor([4]))
    assert batch.positive.item.tolist() == [[0, 0]]
    assert batch.short.item.tolist() == [[3, 4]]


def test_the_item_table_shifts_by_one_and_row_0_is_padding() -> None:
    codes = np.array([[1, 0], [2, 1], [0, 2], [1, 1], [2, 2]])
    table = make_features().item_table(codes)
    assert table.codes.tolist() == [[0, 0], *codes.tolist()]
    assert table.author.tolist() == [0, 0, 1, 2, 3, 4]


def everything() -> Split:
    """All rows are training rows."""
    log = make_log()
    none = Cases(*(np.zeros(0, dtype=np.int64),) * 2, np.zeros(1, dtype=np.int64), np.zeros(0, int))
    return Split("given", log, log.offsets[1:].copy(), none, none, np.ones(N_ITEMS, dtype=bool))


def test_every_positive_with_a_history_is_an_example() -> None:
    examples = training_examples(everything(), targets=1)
    # Row 0 and row 5 are positive, but nothing stands before them.
    assert examples.end.tolist() == [2, 3, 6, 7, 8]
    assert examples.user.tolist() == [0, 0, 2, 2, 2]
    assert examples.target.tolist() == [[3], [4], [3], [2], [1]]


def test_three_targets_are_the_next_positives_of_the_same_user() -> None:
    examples = training_examples(everything(), targets=3)
    assert examples.end.tolist() == [2, 3, 6, 7, 8]
    assert examples.target.tolist() == [[3, 4, 0], [4, 0, 0], [3, 2, 1], [2, 1, 0], [1, 0, 0]]


def test_more_targets_than_there_are_positives() -> None:
    """Two positives and three targets ended in numpy's words about shapes that do not fit."""
    only = np.isin(np.arange(10), (2, 3))
    examples = training_examples(everything(), targets=4, allowed=only)
    assert examples.target.tolist() == [[3, 4, 0, 0], [4, 0, 0, 0]]


def test_targets_are_training_rows_and_no_example_sees_its_targets() -> None:
    split = make_split(make_log(), "leave_one_out")
    assert split.train_end.tolist() == [2, 5, 7]
    examples = training_examples(split, targets=3)
    assert examples.end.tolist() == [6]
    assert examples.target.tolist() == [[3, 0, 0]]  # rows 7 and 8 are valid and test


def test_a_target_at_its_own_row_is_not_in_its_context() -> None:
    """Against a slow reference: the context of each example, row by row."""
    split, contexts = everything(), make_contexts(short=9, positive=9)
    examples = training_examples(split, targets=2)
    batch = contexts.batch(torch.from_numpy(examples.user), torch.from_numpy(examples.end))
    log = split.log
    for row, (user, end) in enumerate(zip(examples.user, examples.end, strict=True)):
        before = [int(log.item[r]) + 1 for r in range(log.offsets[user], end)]
        good = [int(log.item[r]) + 1 for r in range(log.offsets[user], end) if log.positive[r]]
        assert [i for i in batch.short.item[row].tolist() if i] == before
        assert [i for i in batch.positive.item[row].tolist() if i] == good
        assert examples.target[row, 0] == log.item[end] + 1


def test_each_epoch_holds_every_example_once() -> None:
    sampler = EpochSampler(10, 4, seed=3)
    drawn = np.concatenate([sampler(step) for step in range(5)])  # 20 numbers: two epochs
    assert all(len(sampler(step)) == 4 for step in range(5))
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10))
    assert drawn[:10].tolist() != drawn[10:].tolist()


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    forth = EpochSampler(10, 4, seed=3)
    numbers = {step: forth(step).tolist() for step in range(9)}
    for step in (8, 0, 5, 2, 5):
        assert EpochSampler(10, 4, seed=3)(step).tolist() == numbers[step]
    assert any(EpochSampler(10, 4, seed=4)(s).tolist() != numbers[s] for s in range(3))


def test_a_batch_larger_than_the_data_is_all_of_it() -> None:
    sampler = EpochSampler(3, 100, seed=0)
    assert sorted(sampler(0)) == sorted(sampler(7)) == [0, 1, 2]


def training_batches(event_dropout: float) -> TrainingBatches:
    examples = training_examples(everything(), targets=2)
    contexts = make_contexts(short=4, positive=4)
    return TrainingBatches(contexts, examples, 3, seed=1, event_dropout=event_dropout)


def test_a_training_batch_is_the_examples_of_its_step() -> None:
    batches = training_batches(0.0)
    examples = training_examples(everything(), targets=2)
    numbers = EpochSampler(len(examples), 3, seed=1)(4)
    batch = batches(4)
    assert batch.target.tolist() == examples.target[numbers].tolist()
    contexts = make_contexts(short=4, positive=4)
    same = contexts.batch(batches.user[numbers], batches.end[numbers])
    kept = batch.short.item.shape[1]  # padding beyond the longest context is not made
    assert torch.equal(batch.short.item, same.short.item[:, :kept])
    assert not same.short.item[:, kept:].any()


def test_shares_of_several_processes_are_the_batch_of_one() -> None:
    whole, contexts = training_batches(0.0), make_contexts(short=4, positive=4)
    examples = training_examples(everything(), targets=2)
    shares = [
        TrainingBatches(contexts, examples, 3, seed=1, share=(rank, 2))(4) for rank in range(2)
    ]
    batch = whole(4)
    assert [share.size for share in shares] == [2, 1]
    for rank, share in enumerate(shares):
        assert torch.equal(share.target, batch.target[rank::2])
        kept = share.short.item.shape[1]  # each pads to the longest of its own
        assert torch.equal(share.short.item, batch.short.item[rank::2, :kept])
        assert not batch.short.item[rank::2, kept:].any()


def test_hidden_events_are_gone_whole_and_the_same_for_the_same_seed() -> None:
    whole, batches = training_batches(0.0)(0), training_batches(0.5)
    torch.manual_seed(0)
    batch = batches(0)
    torch.manual_seed(0)
    again = batches(0)
    kept = batch.short.item > 0
    assert 0 < int(kept.sum()) < int((whole.short.item > 0).sum())
    for name in ("item", "time", "play", "label"):
        short, full = getattr(batch.short, name), getattr(whole.short, name)
        assert torch.equal(short, getattr(again.short, name))
        assert torch.equal(short[kept], full[kept])
        assert short[~kept].abs().sum() == 0
    assert torch.equal(batch.target, whole.target)  # targets are never hidden


@pytest.mark.parametrize("size", [1, 2, 5])
def test_cases_come_in_slices_that_cover_them(size: int) -> None:
    cases = Cases(np.arange(5), np.arange(5) * 2, np.arange(6), np.zeros(5, dtype=np.int64))
    parts = case_batches(make_contexts(), cases, size)
    assert torch.cat([user for _, user, _ in parts]).tolist() == [0, 1, 2, 3, 4]
    assert torch.cat([end for _, _, end in parts]).tolist() == [0, 2, 4, 6, 8]
    assert [list(range(5))[piece] for piece, _, _ in parts] == [
        list(range(5))[begin : begin + size] for begin in range(0, 5, size)
    ]


def test_examples_have_a_length() -> None:
    assert len(Examples(np.zeros(3), np.zeros(3), np.zeros((3, 1)))) == 3


def test_a_stream_shows_old_examples_first_and_each_one_once() -> None:
    n = 1_000
    age = np.linspace(0.0, 1.0, n)[::-1].copy()  # example 0 is the newest
    sampler = EpochSampler(n, 100, seed=1, age=age)
    order = sampler.order(0)
    assert sorted(order) == list(range(n))
    assert age[order[:100]].max() < 0.31  # nothing newer than the mixing allows
    assert age[order[-100:]].min() > 0.69
    assert not np.array_equal(order, sampler.order(1))
    assert np.array_equal(order, EpochSampler(n, 100, seed=1, age=age).order(0))


def test_batches_by_length_hold_every_example_once_and_little_padding() -> None:
    n, size = 4_010, 50
    length = np.random.default_rng(0).integers(1, 100, n)
    sampler = EpochSampler(n, size, seed=1, length=length)
    for epoch in (0, 1, 7):
        assert sorted(sampler.order(epoch)) == list(range(n))
    assert np.array_equal(sampler.order(1), EpochSampler(n, size, seed=1, length=length).order(1))
    plain = EpochSampler(n, size, seed=1)

    def padded(these: EpochSampler) -> float:
        """Share of the positions that are padding, over an epoch that begins inside a batch."""
        chosen = [length[these(step)] for step in range(81, 161)]
        return 1 - sum(part.sum() for part in chosen) / sum(size * part.max() for part in chosen)

    assert padded(plain) > 0.4
    assert padded(sampler) < 0.1
    means = [length[sampler(step)].mean() for step in range(81, 97)]
    assert not np.all(np.diff(means) > 0)  # the batches of a pool are not sorted


def test_the_length_of_an_example_is_what_its_batch_holds() -> None:
    contexts = make_contexts()
    log = make_log()
    examples = examples_of(log, np.ones(len(log), dtype=bool))
    batch = contexts.batch(*(torch.from_numpy(part) for part in (examples.user, examples.end)))
    held = (batch.short.item > 0).sum(1) + (batch.positive.item > 0).sum(1)
    events = examples.end - log.offsets[examples.user]
    read, among = np.divmod(contexts.length(examples), 1 + events.max())
    assert read.tolist() == held.tolist()
    assert among.tolist() == events.tolist(), "as before where all events are positive"
    assert len(set(held.tolist())) > 2


@pytest.mark.parametrize("timed", [True, False])
def test_what_tables_take_is_known_before_they_are_made(timed: bool) -> None:
    contexts = make_contexts(timed=timed)
    tables = [value for value in vars(contexts).values() if isinstance(value, torch.Tensor)]
    assert len(tables) == 7 + timed
    taken = sum(table.nbytes for table in tables)
    assert table_bytes(make_log(timed), make_features(timed)) == taken
    snapshots = Snapshots(*(torch.zeros(3, dtype=torch.int64) for _ in range(9)))
    assert table_bytes(make_log(timed), make_features(timed), snapshots) == taken + 9 * 3 * 8


def test_padding_beyond_the_longest_context_is_not_made() -> None:
    contexts = make_contexts(short=4, positive=4)
    examples = training_examples(everything(), targets=1)
    user, end = torch.from_numpy(examples.user), torch.from_numpy(examples.end)
    short = end - contexts.offsets[user] <= 2
    assert short.any()
    full, cut = (contexts.batch(user[short], end[short], longest=longest) for longest in (None, 2))
    assert cut.short.item.shape[1] == cut.positive.item.shape[1] == 2
    for name in ("item", "time", "play", "label"):
        assert torch.equal(getattr(cut.short, name), getattr(full.short, name)[:, :2])
        assert torch.equal(getattr(cut.positive, name), getattr(full.positive, name)[:, :2])
    assert not full.short.item[:, 2:].any()


def test_content_stands_one_row_below_the_padding() -> None:
    content = np.arange(2 * N_ITEMS, dtype=np.float32).reshape(-1, 2)
    table = make_features().item_table(np.zeros((N_ITEMS, 3), dtype=np.int64), content)
    assert table.content[0].tolist() == [0.0, 0.0]
    assert torch.equal(table.content[1:], torch.from_numpy(content))
