"""Recall of partners among nearest items: by hand, and against loops."""

import numpy as np
import pytest

from onerec.errors import DataError
from onerec.tokenizer import retrieval
from onerec.tokenizer.retrieval import partner_recall

LINE = np.array([[0.0], [1.0], [3.0], [7.0], [7.5]])


def test_recall_by_hand() -> None:
    """0 is nearest to 1, then 2; 3 to 4, then 2."""
    pairs = np.array([[0, 1], [0, 3], [3, 2], [3, 2]])
    assert partner_recall(LINE, pairs, 1).tolist() == [1.0, 0.0]
    assert partner_recall(LINE, pairs, 2).tolist() == [0.5, 1.0]
    assert partner_recall(LINE, pairs, 99).tolist() == [1.0, 1.0]


def test_candidates_are_the_only_neighbours_and_the_only_partners() -> None:
    among = np.array([True, False, True, True, True])
    pairs = np.array([[0, 1], [0, 3], [1, 0]])
    assert partner_recall(LINE, pairs, 1, among).tolist() == [0.0, 1.0]
    assert partner_recall(LINE, pairs, 2, among).tolist() == [1.0, 1.0]


def test_it_equals_loops_in_any_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x, pairs = rng.normal(size=(40, 3)), rng.integers(0, 40, (60, 2))
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    slow = []
    for item in np.unique(pairs[:, 0]):
        partners = set(pairs[pairs[:, 0] == item, 1].tolist())
        order = [j for j in np.argsort(((x - x[item]) ** 2).sum(1)).tolist() if j != item][:4]
        slow.append(len(partners & set(order)) / min(4, len(partners)))
    assert partner_recall(x, pairs, 4).tolist() == pytest.approx(slow)
    monkeypatch.setattr(retrieval, "AT_A_TIME", 100)
    assert partner_recall(x, pairs, 4).tolist() == pytest.approx(slow)


def test_of_equally_near_items_the_lower_number_comes_first() -> None:
    assert partner_recall(np.zeros((4, 2)), np.array([[2, 0], [1, 3]]), 1).tolist() == [0.0, 1.0]


def test_vectors_far_from_zero_have_the_neighbours_that_they_have() -> None:
    """About a mean of 1,000 the products swallowed differences: of 5 neighbours 3 were found."""
    x = (np.random.default_rng(0).normal(size=(200, 16)) + 1_000).astype(np.float32)
    distance = np.square(x[:, None].astype(np.float64) - x[None]).sum(-1)
    near = np.argsort(distance + np.diag([np.inf] * 200), axis=1)[:, :5]
    pairs = np.stack([np.repeat(np.arange(200), 5), near.reshape(-1)], axis=1)
    assert partner_recall(x, pairs, 5).mean() > 0.999


def test_without_a_partner_to_be_found_there_is_no_recall() -> None:
    nobody = np.array([False, False, True, True, True])
    for pairs, among in ((np.zeros((0, 2), np.int64), None), (np.array([[2, 1]]), nobody)):
        with pytest.raises(DataError, match="no pair to measure retrieval on"):
            partner_recall(LINE, pairs, 2, among)
