"""What is measured, in numpy alone: ranked lists, code usage, AUC, and intervals of a mean.

Ranked lists are `(M, k)` integers, one row per case, best first; -1 stands for nothing and never
hits. The targets of case i are `target_items[target_offsets[i]:target_offsets[i + 1]]`, distinct.
Every ranking metric comes back per case, `(M,)`, so that one mean, one interval and one paired
comparison serve all of them. Sampled candidates are left out on purpose: ranks are over all items.

Legend: M cases, T targets of all cases, k ranks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

COUNTS_AT_A_TIME = 2**24  # numbers that a bootstrap holds in memory together

IntArray = NDArray[np.integer[Any]]
FloatArray = NDArray[np.float64]


def hit_matrix(
    ranked: IntArray, target_offsets: IntArray, target_items: IntArray, k: int | None = None
) -> NDArray[np.bool_]:
    """Which of the first `k` ranks of each case hold one of its targets: `(M, k)` bool.

    Args:
        ranked: `(M, at least k)` items, best first, -1 for nothing.
        target_offsets: `(M + 1,)` where the targets of each case begin.
        target_items: `(T,)` targets, at least one per case, distinct within a case.
        k: ranks that count; all of them by default.

    Raises:
        ValueError: the shapes do not fit, a case has no target, or a list names an item twice
            (which would count one hit as two).
    """
    ranked = _first_ranks(ranked, k)
    target_counts = np.diff(target_offsets)
    if len(target_counts) != len(ranked):
        raise ValueError(f"{len(ranked)} ranked lists for {len(target_counts)} cases")
    if (target_counts < 1).any():
        raise ValueError(f"case {int(np.argmin(target_counts))} has no target")
    if target_offsets[0] != 0 or target_offsets[-1] != len(target_items):
        raise ValueError(f"the offsets do not cover the {len(target_items)} targets")
    in_order = np.sort(ranked, axis=1)
    repeated = ((in_order[:, 1:] == in_order[:, :-1]) & (in_order[:, 1:] >= 0)).any(axis=1)
    if repeated.any():
        raise ValueError(f"the list of case {int(np.argmax(repeated))} names an item twice")

    # One number per (case, item), so that a single sorted search answers for all cases.
    stride = int(max(ranked.max(initial=0), target_items.max(initial=0))) + 1
    case = np.arange(len(ranked), dtype=np.int64)
    wanted = np.sort(np.repeat(case, target_counts) * stride + target_items)
    offered = case[:, None] * stride + ranked
    found = wanted[np.searchsorted(wanted, offered).clip(max=len(wanted) - 1)] == offered
    return np.asarray(found & (ranked >= 0))


def recall_at_k(
    ranked: IntArray, target_offsets: IntArray, target_items: IntArray, k: int | None = None
) -> FloatArray:
    """Hits among the first `k`, divided by the number of targets: `(M,)`."""
    hits = hit_matrix(ranked, target_offsets, target_items, k)
    return np.asarray(hits.sum(axis=1) / np.diff(target_offsets), dtype=np.float64)


def hit_at_k(
    ranked: IntArray, target_offsets: IntArray, target_items: IntArray, k: int | None = None
) -> FloatArray:
    """1 where at least one of the first `k` is a target, else 0: `(M,)`."""
    hits = hit_matrix(ranked, target_offsets, target_items, k)
    return np.asarray(hits.any(axis=1), dtype=np.float64)


def ndcg_at_k(
    ranked: IntArray, target_offsets: IntArray, target_items: IntArray, k: int | None = None
) -> FloatArray:
    """Discounted gain of the first `k` over that of an ideal list: `(M,)`.

    Rank r counts 1 / log2(r + 1) where it hits (Jarvelin and Kekalainen 2002, binary gain); the
    ideal list has its min(k, number of targets) hits first.
    """
    hits = hit_matrix(ranked, target_offsets, target_items, k)
    discount = 1.0 / np.log2(np.arange(2, hits.shape[1] + 2))
    ideal = np.concatenate([[0.0], np.cumsum(discount)])
    best = ideal[np.minimum(np.diff(target_offsets), hits.shape[1])]
    return np.asarray(hits @ discount / best, dtype=np.float64)


def coverage_at_k(ranked: IntArray, n_items: int, k: int | None = None) -> float:
    """The share of all `n_items` that at least one list shows among its first `k`."""
    ranked = _first_ranks(ranked, k)
    if ranked.max(initial=-1) >= n_items:
        raise ValueError(f"item {int(ranked.max())} in a catalogue of {n_items} items")
    return len(np.unique(ranked[ranked >= 0])) / n_items


def entropy_nats(counts: IntArray | FloatArray) -> float:
    """Entropy of a distribution given by counts, in nats; 0 when nothing was counted."""
    if (counts < 0).any():
        raise ValueError("counts must not be negative")
    share = counts[counts > 0] / max(float(counts.sum()), 1e-300)
    return float(-(share * np.log(share)).sum()) + 0.0  # + 0.0 turns -0.0 into 0.0


def perplexity(counts: IntArray | FloatArray) -> float:
    """exp(entropy): how many equally used codes would have the same entropy."""
    return float(np.exp(entropy_nats(counts)))


def utilisation(counts: IntArray | FloatArray) -> float:
    """The share of codes that were used at least once."""
    return float((counts > 0).mean())


def auc(y: NDArray[Any], score: NDArray[Any]) -> float:
    """The chance that a positive scores above a negative, a tie counting one half.

    Args:
        y: `(n,)` 0/1 or bool.
        score: `(n,)`.

    Raises:
        ValueError: only one class is there, or a score is not a number.
    """
    positive = np.asarray(y).astype(bool)
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if n_positive == 0 or n_negative == 0:
        raise ValueError(f"auc needs both classes: {n_positive} positive, {n_negative} negative")
    if np.isnan(score).any():
        raise ValueError("a score is not a number")
    _, level, level_size = np.unique(score, return_inverse=True, return_counts=True)
    last_rank = np.cumsum(level_size)
    middle_rank = last_rank - (level_size - 1) / 2  # ranks from 1, shared by equal scores
    rank_sum = float(middle_rank[level.reshape(-1)[positive]].sum())
    return (rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)


def grouped_auc(y: NDArray[Any], score: NDArray[Any], group: NDArray[Any]) -> float | None:
    """GAUC: the mean AUC within groups (users), weighted by their rows.

    Groups with one class alone say nothing and are left out; None where all are.

    Args:
        y: `(n,)` 0/1 or bool.
        score: `(n,)`.
        group: `(n,)`, any values.
    """
    each, rows = aucs_of_groups(y, score, group)
    return float(np.average(each, weights=rows)) if len(each) else None


def aucs_of_groups(
    y: NDArray[Any], score: NDArray[Any], group: NDArray[Any]
) -> tuple[FloatArray, NDArray[np.int64]]:
    """AUC and number of rows of each group (G,) that has both classes, in the order of groups.

    Which groups those are depends on `y` alone, so that two scores can be compared by group.
    """
    _, place = np.unique(group, return_inverse=True)
    place = place.reshape(-1)
    positive = np.asarray(y).astype(bool)
    _, level = np.unique(score, return_inverse=True)
    order = np.lexsort((level.reshape(-1), place))
    g, s, p = place[order], level.reshape(-1)[order], positive[order]
    rank = np.arange(len(g)) - np.searchsorted(g, g)  # within the group, from 0
    opens = np.ones(len(g), dtype=bool)
    opens[1:] = (g[1:] != g[:-1]) | (s[1:] != s[:-1])
    tie = np.cumsum(opens) - 1
    middle = np.bincount(tie, rank) / np.bincount(tie)  # equal scores share their mean rank
    rows, ones = np.bincount(g), np.bincount(g, p)
    ranks = np.bincount(g, middle[tie] * p)
    both = (ones > 0) & (ones < rows)
    n1, n0 = ones[both], (rows - ones)[both]
    return (ranks[both] - n1 * (n1 - 1) / 2) / (n1 * n0), rows[both]


def bootstrap_interval(
    values: FloatArray, generator: np.random.Generator, n: int = 1000, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of `values`, resampling cases.

    A resample only matters through how often each distinct value occurs in it, and these counts are
    multinomial: so they are drawn directly, the same distribution at a fraction of the cost.

    Args:
        values: `(M,)`, one per case.
        n: resamples.
        level: coverage of the interval.

    Raises:
        ValueError: there is no value, or one is not finite.
    """
    if len(values) == 0 or not np.isfinite(values).all():
        raise ValueError("an interval needs at least one value, all finite")
    distinct, counts = np.unique(values, return_counts=True)
    means = np.empty(n)
    some = max(1, COUNTS_AT_A_TIME // len(distinct))  # resamples; the stream of draws is the same
    for begin in range(0, n, some):
        part = means[begin : begin + some]
        drawn = generator.multinomial(len(values), counts / len(values), size=len(part))
        part[:] = drawn @ distinct / len(values)  # (some, distinct) @ (distinct,)
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return float(low), float(high)


def paired_difference_interval(
    a: FloatArray,
    b: FloatArray,
    generator: np.random.Generator,
    n: int = 1000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Interval of mean(a) - mean(b) over the same cases: both are resampled together.

    Raises:
        ValueError: the two are not over the same number of cases.
    """
    if a.shape != b.shape:
        raise ValueError(f"paired values need the same cases: {a.shape} and {b.shape}")
    return bootstrap_interval(a - b, generator, n, level)


def _first_ranks(ranked: IntArray, k: int | None) -> IntArray:
    """The first `k` columns, once it is sure that there are as many."""
    if ranked.ndim != 2:
        raise ValueError(f"ranked lists are (cases, ranks), not of shape {ranked.shape}")
    if ranked.min(initial=0) < -1:
        raise ValueError(f"item {int(ranked.min())}: only -1 stands for nothing")
    k = ranked.shape[1] if k is None else k
    if not 1 <= k <= ranked.shape[1]:
        raise ValueError(f"k = {k}, but the lists have {ranked.shape[1]} ranks")
    return ranked[:, :k]


def rank_biased_overlap(a: IntArray, b: IntArray, p: float = 0.9) -> FloatArray:
    """How far two lists agree, top ranks first: extrapolated RBO of rows (M, k), `(M,)` in [0, 1].

        X_k / k p^k + (1 - p) / p sum over d = 1..k of X_d / d p^d

    X_d is how many items the first d of both share (Webber, Moffat and Zobel 2010, eq. 32). -1 is
    no item and agrees with nothing.

    Raises:
        ValueError: lists of different shapes, or p outside (0, 1).
    """
    if a.shape != b.shape or not 0 < p < 1:
        raise ValueError(f"lists {a.shape} and {b.shape} must be of one shape, p={p} in (0, 1)")
    k = a.shape[1]
    same = (a[:, :, None] == b[:, None, :]) & (a >= 0)[:, :, None]  # (M, k, k)
    later = np.maximum(np.arange(k)[:, None], np.arange(k)[None])  # the depth that has both
    shared = np.zeros((len(a), k))
    for depth in range(k):
        shared[:, depth] = (same & (later <= depth)).sum((1, 2))
    depths = np.arange(1, k + 1)
    agreed = shared / depths
    weights = (1 - p) / p * p**depths
    return np.asarray(agreed[:, -1] * p**k + agreed @ weights, dtype=np.float64)
