"""Metrics: numbers worked out by hand, then a slow obvious reference, then misuse."""

import math

import numpy as np
import pytest

from onerec import metrics

# Case 0 wants {3}; case 1 wants {1, 4}; case 2 wants {0, 2, 5}; case 3 wants {9}.
OFFSETS = np.array([0, 1, 3, 6, 7])
ITEMS = np.array([3, 1, 4, 0, 2, 5, 9])
RANKED = np.array(
    [
        [7, 3, 1],  # hit at rank 2
        [4, 0, 1],  # hits at ranks 1 and 3
        [6, 2, -1],  # one of three at rank 2, then nothing
        [-1, -1, -1],  # nothing at all
    ]
)


def test_recall_by_hand():
    assert metrics.recall_at_k(RANKED, OFFSETS, ITEMS).tolist() == [1.0, 1.0, 1 / 3, 0.0]
    assert metrics.recall_at_k(RANKED, OFFSETS, ITEMS, k=2).tolist() == [1.0, 0.5, 1 / 3, 0.0]
    assert metrics.recall_at_k(RANKED, OFFSETS, ITEMS, k=1).tolist() == [0.0, 0.5, 0.0, 0.0]


def test_hit_by_hand():
    assert metrics.hit_at_k(RANKED, OFFSETS, ITEMS).tolist() == [1, 1, 1, 0]
    assert metrics.hit_at_k(RANKED, OFFSETS, ITEMS, k=1).tolist() == [0, 1, 0, 0]


def test_ndcg_by_hand():
    second, third = 1 / math.log2(3), 1 / 2
    expected = [second, (1 + third) / (1 + second), second / (1 + second + third), 0.0]
    assert metrics.ndcg_at_k(RANKED, OFFSETS, ITEMS) == pytest.approx(expected)
    # At k = 2 the ideal list of case 2 has two hits although it has three targets.
    assert metrics.ndcg_at_k(RANKED, OFFSETS, ITEMS, k=2)[2] == pytest.approx(second / (1 + second))


def test_a_perfect_list_has_ndcg_one():
    ranked = np.array([[5, 2, 0]])
    assert metrics.ndcg_at_k(ranked, np.array([0, 3]), np.array([0, 2, 5])) == pytest.approx([1.0])


def test_against_plain_loops():
    rng = np.random.default_rng(0)
    n_items, n_cases, k = 30, 50, 8
    targets = [rng.choice(n_items, rng.integers(1, 12), replace=False) for _ in range(n_cases)]
    ranked = np.stack([rng.choice(n_items, k, replace=False) for _ in range(n_cases)])
    ranked[rng.random(ranked.shape) < 0.1] = -1
    offsets = np.concatenate([[0], np.cumsum([len(t) for t in targets])])
    recall, ndcg = [], []
    for row, wanted in zip(ranked, targets, strict=True):
        gains = [1 / math.log2(r + 2) for r, item in enumerate(row) if item in set(wanted)]
        recall.append(len(gains) / len(wanted))
        ndcg.append(sum(gains) / sum(1 / math.log2(r + 2) for r in range(min(k, len(wanted)))))
    flat = np.concatenate(targets)
    assert metrics.recall_at_k(ranked, offsets, flat) == pytest.approx(recall)
    assert metrics.ndcg_at_k(ranked, offsets, flat) == pytest.approx(ndcg)


def test_an_item_of_another_case_is_no_hit():
    """One flat search over all cases must not let case 1 find the target of case 0."""
    hits = metrics.hit_matrix(np.array([[5], [3]]), np.array([0, 1, 2]), np.array([3, 5]))
    assert not hits.any()


def test_nothing_never_hits_the_last_item_of_the_case_before():
    """-1 in case i has the same flat number as the highest item of case i - 1."""
    hits = metrics.hit_matrix(np.array([[0], [-1]]), np.array([0, 1, 2]), np.array([9, 0]))
    assert not hits.any()


def test_small_integer_types_do_not_overflow():
    cases = 40_000
    ranked = np.full((cases, 1), 32_767, dtype=np.int16)
    items = np.full(cases, 32_767, dtype=np.int16)
    assert metrics.recall_at_k(ranked, np.arange(cases + 1), items).all()


@pytest.mark.parametrize(
    ("ranked", "offsets", "items", "k", "message"),
    [
        ([[1, 1]], [0, 1], [1], None, "case 0 names an item twice"),
        ([[1, 2]], [0, 0], [], None, "case 0 has no target"),
        ([[1, 2]], [0, 1, 2], [1, 2], None, "1 ranked lists for 2 cases"),
        ([[1, 2]], [0, 1], [1, 2], None, "do not cover the 2 targets"),
        ([[1, 2]], [0, 1], [1], 3, "k = 3, but the lists have 2 ranks"),
        ([[1, -2]], [0, 1], [1], None, "only -1 stands for nothing"),
        ([1, 2], [0, 1], [1], None, "not of shape"),
    ],
)
def test_misuse_is_named(ranked, offsets, items, k, message):
    with pytest.raises(ValueError, match=message):
        metrics.recall_at_k(np.array(ranked), np.array(offsets), np.array(items, dtype=int), k)


def test_coverage_by_hand():
    assert metrics.coverage_at_k(RANKED, 10) == 7 / 10  # 0 1 2 3 4 6 7
    assert metrics.coverage_at_k(RANKED, 10, k=1) == 3 / 10
    assert metrics.coverage_at_k(np.full((2, 3), -1), 10) == 0.0
    with pytest.raises(ValueError, match="item 7 in a catalogue of 5"):
        metrics.coverage_at_k(RANKED, 5)


def test_entropy_perplexity_utilisation_by_hand():
    assert metrics.entropy_nats(np.array([2, 2, 0, 4])) == pytest.approx(1.5 * math.log(2))
    assert metrics.perplexity(np.array([2, 2, 0, 4])) == pytest.approx(2**1.5)
    assert metrics.utilisation(np.array([2, 2, 0, 4])) == 0.75
    assert metrics.entropy_nats(np.full(8, 3)) == pytest.approx(math.log(8))
    assert metrics.entropy_nats(np.zeros(4)) == 0.0
    assert math.copysign(1, metrics.entropy_nats(np.array([5, 0]))) == 1
    with pytest.raises(ValueError, match="negative"):
        metrics.entropy_nats(np.array([-1, 2]))


def test_auc_by_hand():
    y = np.array([1, 0, 1, 0])
    assert metrics.auc(y, np.array([0.9, 0.1, 0.4, 0.6])) == 0.75
    assert metrics.auc(y, np.array([1.0, 0.0, 1.0, 0.0])) == 1.0
    assert metrics.auc(y, np.zeros(4)) == 0.5


def test_auc_against_all_pairs():
    rng = np.random.default_rng(1)
    y, score = rng.random(80) < 0.3, rng.integers(0, 6, 80)
    pairs = [(p > q) + 0.5 * (p == q) for p in score[y] for q in score[~y]]
    assert metrics.auc(y, score) == pytest.approx(np.mean(pairs))


def test_auc_needs_both_classes_and_numbers():
    with pytest.raises(ValueError, match="2 positive, 0 negative"):
        metrics.auc(np.ones(2), np.zeros(2))
    with pytest.raises(ValueError, match="not a number"):
        metrics.auc(np.array([0, 1]), np.array([np.nan, 1]))


def test_interval_has_the_width_theory_gives():
    values = (np.arange(2_000) < 200).astype(float)  # mean .1
    low, high = metrics.bootstrap_interval(values, np.random.default_rng(0), n=4_000)
    half = 1.96 * math.sqrt(0.1 * 0.9 / 2_000)
    assert low == pytest.approx(0.1 - half, abs=0.002)
    assert high == pytest.approx(0.1 + half, abs=0.002)


def test_interval_equals_plain_resampling():
    rng = np.random.default_rng(3)
    values = rng.choice([0.0, 0.25, 0.5, 1.0], 300)
    means = [values[rng.integers(0, 300, 300)].mean() for _ in range(4_000)]
    low, high = metrics.bootstrap_interval(values, np.random.default_rng(0), n=4_000, level=0.9)
    assert (low, high) == pytest.approx(tuple(np.quantile(means, [0.05, 0.95])), abs=0.005)


def test_interval_is_seeded_and_covers_constants():
    values = np.random.default_rng(0).random(50)
    first = metrics.bootstrap_interval(values, np.random.default_rng(5))
    assert first == metrics.bootstrap_interval(values, np.random.default_rng(5))
    assert metrics.bootstrap_interval(np.ones(9), np.random.default_rng(0)) == (1.0, 1.0)
    with pytest.raises(ValueError, match="at least one value"):
        metrics.bootstrap_interval(np.array([]), np.random.default_rng(0))


def test_paired_interval_is_narrower_than_two_apart():
    """Two models that agree on which users are easy differ with far less noise than each alone."""
    rng = np.random.default_rng(0)
    easy = rng.random(500)
    a, b = easy + 0.02, easy + rng.normal(0, 0.01, 500)
    low, high = metrics.paired_difference_interval(a, b, np.random.default_rng(1))
    assert 0.015 < low < 0.02 < high < 0.025
    with pytest.raises(ValueError, match="same cases"):
        metrics.paired_difference_interval(a, b[:3], rng)


def test_rank_biased_overlap_by_hand():
    same = np.array([[3, 1, 2]])
    assert metrics.rank_biased_overlap(same, same) == pytest.approx([1.0])
    assert metrics.rank_biased_overlap(same, np.array([[7, 8, 9]])) == pytest.approx([0.0])
    # X = 0, 2, 3 of depths 1, 2, 3 where the first two change places
    turned = np.array([[1, 3, 2]])
    p = 0.9
    by_hand = 1.0 * p**3 + (1 - p) / p * (0 + 1.0 * p**2 + 1.0 * p**3)
    assert metrics.rank_biased_overlap(same, turned, p) == pytest.approx([by_hand])
    late = np.array([[3, 1, 9]])  # a difference at the end weighs less than one at the top
    early = np.array([[9, 1, 2]])
    assert metrics.rank_biased_overlap(same, late) > metrics.rank_biased_overlap(same, early)


def test_rank_biased_overlap_takes_no_item_for_agreement():
    empty = np.array([[5, -1, -1]])
    assert metrics.rank_biased_overlap(empty, empty) < 1
    with pytest.raises(ValueError, match="one shape"):
        metrics.rank_biased_overlap(empty, empty[:, :2])


def test_a_bootstrap_holds_a_bounded_number_of_counts(monkeypatch):
    """A thousand resamples of a million different values were 8 GB of counts at once."""

    class Watched:
        def __init__(self):
            self.own, self.most = np.random.default_rng(3), 0

        def multinomial(self, n, share, size):
            self.most = max(self.most, len(share) * size)
            return self.own.multinomial(n, share, size=size)

    values = np.random.default_rng(0).random(200)
    whole = metrics.bootstrap_interval(values, np.random.default_rng(3))
    monkeypatch.setattr(metrics, "COUNTS_AT_A_TIME", 1_500)
    watched = Watched()
    assert metrics.bootstrap_interval(values, watched) == pytest.approx(whole, rel=1e-12)
    assert watched.most == 1_400
