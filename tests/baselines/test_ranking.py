"""Histories and ranked lists: by hand, against plain sorting, then the bugs that ties invite."""

import numpy as np
import pytest
import torch

from onerec.baselines import ranking
from onerec.baselines.ranking import Histories, rank_all, tie_order, top_k

EVENTS = [[(4, 1), (2, 0), (4, 1)], [(1, 1)], [(0, 0), (3, 1)]]


def test_histories_by_hand(toy):
    log = toy.log(EVENTS, n_items=5)
    histories = Histories.of(log, np.array([2, 0, 1]), np.array([6, 2, 3]))
    assert histories.rows.tolist() == [4, 5, 0, 1]  # user 1 has no event before row 3
    assert histories.case.tolist() == [0, 0, 1, 1]
    assert histories.age.tolist() == [1, 0, 1, 0]


def test_age_counts_the_kept_rows_alone(toy):
    log = toy.log(EVENTS, n_items=5)
    histories = Histories.of(log, np.array([0, 2]), np.array([3, 6]))
    kept = histories.where(log.positive[histories.rows])
    assert kept.rows.tolist() == [0, 2, 5]
    assert kept.case.tolist() == [0, 0, 1]
    assert kept.age.tolist() == [1, 0, 0]


def test_top_k_by_hand():
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.5], [-1.0, -2.0, -0.0, 0.0]])
    ties = torch.tensor([0, 1, 3, 2])
    assert top_k(scores, 3, ties).tolist() == [[1, 2, 3], [2, 3, 0]]
    assert top_k(scores, 2, ties).tolist() == [[1, 2], [2, 3]]  # the tie lies across the border


def test_what_cannot_be_offered_is_minus_one():
    scores = torch.tensor([[1.0, -torch.inf, 2.0]])
    assert top_k(scores, 5, torch.arange(3)).tolist() == [[2, 0, -1, -1, -1]]


def test_not_a_number_is_refused():
    with pytest.raises(ValueError, match="not a number"):
        top_k(torch.tensor([[1.0, torch.nan]]), 1, torch.arange(2))


@pytest.mark.parametrize("k", [1, 3, 10, 40, 60])
def test_top_k_against_plain_sorting(k):
    rng = np.random.default_rng(0)
    scores = rng.integers(-3, 4, (30, 40)).astype(np.float32) / 3  # many ties, both signs
    scores[rng.random(scores.shape) < 0.1] = -np.inf
    ties = tie_order(40, torch.Generator().manual_seed(1))
    got = top_k(torch.from_numpy(scores), k, ties).numpy()
    for row, mine in zip(scores, got, strict=True):
        ranked = sorted(range(40), key=lambda i: (row[i], ties[i]), reverse=True)
        offered = [i for i in ranked if row[i] > -np.inf][:k]
        assert mine.tolist() == offered + [-1] * (k - len(offered))


def test_ties_follow_the_seed_and_not_the_ids():
    """Lists that favour low ids would turn the order of a file into a result."""
    scores = torch.zeros(1, 1_000)
    lists = [top_k(scores, 20, tie_order(1_000, torch.Generator().manual_seed(s))) for s in (0, 1)]
    assert not torch.equal(*lists)
    assert all(lst.float().mean().item() > 250 for lst in lists)


def test_chunks_do_not_change_the_lists(toy, monkeypatch):
    log = toy.log(EVENTS, n_items=5)
    cases = toy.cases([0, 1, 2], [3, 4, 6], [[1], [2], [4]])

    def score(histories):
        return torch.zeros(histories.size, 5)

    ties = torch.arange(5)
    whole = rank_all(score, log, cases, 3, ties, exclude_seen=True)
    monkeypatch.setattr(ranking, "SCORES_PER_CHUNK", 5)  # one case at a time
    assert np.array_equal(rank_all(score, log, cases, 3, ties, exclude_seen=True), whole)
    assert whole.tolist() == [[3, 1, 0], [4, 3, 2], [4, 2, 1]]


def test_no_case_gives_an_empty_list(toy):
    log = toy.log(EVENTS, n_items=5)
    none = toy.cases([], [], [])
    assert rank_all(lambda h: torch.zeros(h.size, 5), log, none, 3, torch.arange(5)).shape == (0, 3)
