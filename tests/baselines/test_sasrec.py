"""SASRec: windows by hand, the loss against plain loops, and that it learns what can be learned."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from onerec.baselines import sasrec
from onerec.baselines.ranking import Histories
from onerec.baselines.sasrec import (
    GRID,
    NO_TARGET,
    Network,
    SASRecConfig,
    Sequences,
    Windows,
    fit,
    next_item_loss,
)

TINY = SASRecConfig(
    width=16, layers=1, length=4, dropout=0.0, label_smoothing=0.0, batch_size=8, steps=20,
    evaluations=2, learning_rate=1e-2,
)  # fmt: skip
CPU = torch.device("cpu")


def windows_of(split, config):
    """All windows as plain lists: (items, marks, targets), padding cut off."""
    windows = Windows(split, replace(config, batch_size=1), seed=0, device=CPU)
    rows = []
    for step in range(len(windows.start)):
        batch = windows.batch(step)
        size = int((batch.item[0] > 0).sum())
        rows.append(
            tuple(each[0, :size].tolist() for each in (batch.item, batch.mark, batch.target))
        )
    return sorted(rows)


@pytest.fixture
def split(toy):
    """User 0 has six training events, user 1 one, user 2 two."""
    log = toy.log(
        [
            [(0, 1), (1, 1), (2, 0), (3, 1), (4, 1), (5, 1), (9, 1)],
            [(6, 1), (9, 1)],
            [(7, 1), (8, 1), (9, 1)],
        ],
        n_items=10,
    )
    cases = toy.cases([0, 1, 2], [6, 8, 11], [[9], [9], [9]])
    return toy.split(log, [6, 8, 11], cases, cases)


def test_windows_of_positives_by_hand(split):
    """Items are shown as item + 1; targets are items. The last window of a user is the full one."""
    assert windows_of(split, replace(TINY, length=3)) == [
        ([1], [1], [1]),
        ([2, 4, 5], [1, 1, 1], [3, 4, 5]),
        ([8], [1], [8]),
    ]


def test_windows_of_all_events_teach_positives_only(split):
    assert windows_of(split, replace(TINY, length=3, positives_only=False)) == [
        ([1, 2], [1, 1], [1, NO_TARGET]),
        ([3, 4, 5], [0, 1, 1], [3, 4, 5]),
        ([8], [1], [8]),
    ]


def test_every_training_positive_is_a_target_once(toy):
    rng = np.random.default_rng(0)
    events = [
        [(int(i), int(rng.random() < 0.5)) for i in rng.integers(0, 50, rng.integers(1, 30))]
        for _ in range(40)
    ]
    log = toy.log(events, 50)
    end = log.offsets[:-1] + rng.integers(0, 30, 40).clip(max=np.diff(log.offsets))
    split = toy.split(log, end, None, None)
    for only in (True, False):
        expected = []
        for user, row in enumerate(events):
            kept = [e for e in row[: end[user] - log.offsets[user]] if e[1] or not only]
            expected += [item for item, good in kept[1:] if good]
        got = windows_of(split, replace(TINY, length=7, positives_only=only))
        targets = [t for window in got for t in window[2] if t != NO_TARGET]
        assert sorted(targets) == sorted(expected)


def test_no_target_of_valid_or_test_is_trained_on(split):
    """Item 9 is everybody's target and must not appear on any side of any window."""
    for only in (True, False):
        for item, _, target in windows_of(split, replace(TINY, positives_only=only)):
            assert 10 not in item
            assert 9 not in target


def test_loss_against_plain_loops():
    torch.manual_seed(0)
    network = Network(TINY, 6, torch.Generator().manual_seed(0)).eval()
    batch = Sequences(
        torch.tensor([[1, 2, 3], [4, 5, 0]]),
        torch.tensor([[1, 0, 1], [1, 1, 0]]),
        torch.tensor([[1, NO_TARGET, 3], [4, NO_TARGET, NO_TARGET]]),
    )
    states = network(batch.item, batch.mark)
    total = torch.tensor(0.0)
    for b, t in ((0, 0), (0, 2), (1, 0)):
        scores = states[b, t] @ network.item.weight[1:].T
        total -= scores.log_softmax(0)[batch.target[b, t]]
    assert next_item_loss(network, batch, 0.0).item() == pytest.approx(total.item() / 3, rel=1e-6)


def test_no_position_sees_what_comes_later():
    network = Network(replace(TINY, layers=2), 9, torch.Generator().manual_seed(0)).eval()
    item, mark = torch.tensor([[1, 2, 3, 4]]), torch.ones(1, 4, dtype=torch.int64)
    changed = torch.tensor([[1, 2, 9, 7]])
    before, after = network(item, mark), network(changed, mark)
    assert torch.equal(before[:, :2], after[:, :2])
    assert not torch.allclose(before[:, 2:], after[:, 2:])


def test_padding_changes_nothing():
    network = Network(TINY, 9, torch.Generator().manual_seed(0)).eval()
    short, padded = torch.tensor([[1, 2]]), torch.tensor([[1, 2, 0, 0]])
    states = network(padded, (padded > 0).long())[:, :2]
    assert torch.allclose(network(short, torch.ones_like(short)), states, atol=1e-6)


def test_score_reads_the_latest_events_in_order(toy, generator):
    """What is ranked is what the network says after the last `length` events, oldest first."""
    log = toy.log([[(i, 1) for i in (5, 4, 3, 2, 1, 0)], [(7, 1), (8, 0), (2, 1)]], 9)
    cases = toy.cases([0, 1], [6, 9], [[1], [2]])
    split = toy.split(log, [6, 9], cases, cases)
    model = fit(split, replace(TINY, steps=1), generator)
    histories = Histories.of(log, np.array([1, 0]), np.array([9, 6])).where(
        log.positive[[6, 7, 8, *range(6)]]
    )
    scores = model.score(histories, log.item, log.positive)
    for row, items in zip(scores, ([8, 3], [4, 3, 2, 1]), strict=True):
        states = model.network(torch.tensor([items]), torch.ones(1, len(items), dtype=torch.int64))
        assert torch.allclose(row, model.network.scores(states[0, -1:])[0], atol=1e-5)


def test_a_history_that_says_nothing_gets_the_popular_items(toy, generator):
    log = toy.log([[(1, 1), (1, 1), (2, 1)], [(0, 0), (2, 1)]], 4)
    cases = toy.cases([1], [4], [[2]])
    model = fit(toy.split(log, [3, 4], cases, cases), replace(TINY, steps=1), generator)
    split = toy.split(log, [3, 4], cases, cases)
    assert model.recommend(split, cases, 2).tolist() == [[1, 2]]


def circle(toy, n_items=12, users=60):
    """Each user walks around a circle of items from his own start: the next item is certain."""
    rng = np.random.default_rng(0)
    walks = [
        (np.arange(rng.integers(6, 10)) + rng.integers(n_items)) % n_items for _ in range(users)
    ]
    return toy.leave_one_out([walk.tolist() for walk in walks], n_items)


@pytest.mark.parametrize("positives_only", [True, False])
def test_learns_an_order_that_popularity_cannot_know(toy, generator, positives_only):
    split = circle(toy)
    config = replace(TINY, steps=150, length=8, batch_size=32, positives_only=positives_only)
    model = fit(split, config, generator)
    ranked = model.recommend(split, split.test, 1)
    assert (ranked[:, 0] == split.test.target_items).mean() > 0.95


def test_budget_in_steps_is_reproducible(toy):
    split = circle(toy)
    config = replace(TINY, dropout=0.3, label_smoothing=0.1)
    lists = []
    for _ in range(2):
        torch.rand(3)  # whatever the global state is
        model = fit(split, config, torch.Generator().manual_seed(7))
        lists.append(model.score(
            Histories.of(split.log, split.test.user, split.test.end), split.log.item,
            split.log.positive,
        ))  # fmt: skip
    assert torch.equal(*lists)


def test_training_leaves_the_global_randomness_alone(toy, generator):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    fit(circle(toy), replace(TINY, steps=2), generator)
    assert torch.equal(torch.rand(4), expected)


def test_keeps_the_best_weights_and_stops_when_valid_stops(toy, generator, monkeypatch):
    split = circle(toy)
    recalls = iter([0.1, 0.5, 0.4, 0.3, 0.5, 0.2, 0.9])
    weights = []

    def valid(model, _):
        weights.append({k: v.clone() for k, v in model.network.state_dict().items()})
        return next(recalls)

    monkeypatch.setattr(sasrec, "_valid_recall", valid)
    model = fit(split, replace(TINY, evaluations=10), generator)
    assert [stage["recall@10"] for stage in model.stages] == [0.1, 0.5, 0.4, 0.3, 0.5, 0.2]
    assert [stage["step"] for stage in model.stages] == [2, 4, 6, 8, 10, 12]
    for name, value in model.network.state_dict().items():
        assert torch.equal(value, weights[1][name])


def test_without_valid_cases_it_trains_to_the_end(toy, generator):
    """Every look found a recall of 0: the first weights were kept, and patience ended soon."""
    split = circle(toy)
    split.valid = toy.cases([], [], [])
    config = replace(TINY, evaluations=10)
    model = fit(split, config, generator)
    assert model.stages[-1]["step"] == config.steps
    ranked = model.recommend(split, split.test, 1)
    assert (ranked[:, 0] == split.test.target_items).mean() > 0.3


def test_a_limit_in_seconds_stops_early(toy, generator):
    model = fit(circle(toy), replace(TINY, steps=10_000), generator, seconds=0.0)
    assert [stage["step"] for stage in model.stages] == [1]


def test_what_cannot_be_trained_is_said(toy, generator):
    log = toy.log([[(0, 1)], [(1, 1)]], 3)
    cases = toy.cases([0], [1], [[2]])
    with pytest.raises(ValueError, match="an event and a later positive"):
        fit(toy.split(log, [1, 2], cases, cases), TINY, generator)
    with pytest.raises(ValueError, match="steps, evaluations and length"):
        fit(circle(toy), replace(TINY, steps=0), generator)


def test_grid():
    assert GRID[0] == SASRecConfig()
    assert len(set(GRID)) == len(GRID)
