"""What people really did as an advantage: OneRec-V2's duration-aware reward (V2 section 3.3).

A long video is played longer, so play time is compared with plays of videos about as long: q is
the share of the user's past plays in the same duration bucket that were not longer. The top quarter
of a batch is worth +1, a dislike -1, the rest 0.

Shapes: N plays that are judged, P past plays.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Numbers = NDArray[Any]

BASE = 2.0  # beta, NOT FOUND in the paper: each bucket is twice as long as the one before
OFFSET_SECONDS = 1.0  # eps, NOT FOUND: everything under a second is one bucket
ENOUGH = 20  # plays of a user in a bucket, below which everybody's stand in; ours
TOP_SHARE = 0.25


def duration_bucket(duration_ms: Numbers) -> Ints:
    """floor(log_beta(d + eps)) of a duration in seconds (V2 section 3.3), from 0."""
    seconds = np.maximum(np.asarray(duration_ms, dtype=np.float64), 0.0) / 1000.0
    bucket: Ints = np.floor(np.log(seconds + OFFSET_SECONDS) / np.log(BASE)).astype(np.int64)
    return bucket


class PlayQuantiles:
    """Past plays by user and duration bucket, and where a new play stands among them.

    A user with fewer than `enough` plays in a bucket is compared with everybody's plays there (on
    KuaiRand the median is 3), and a bucket that nobody has played gives one half; both ours.
    """

    def __init__(self, enough: int = ENOUGH) -> None:
        self.enough = enough

    def fit(self, user: Numbers, duration_ms: Numbers, play_ms: Numbers) -> Self:
        """Remember past plays (P,)."""
        bucket = duration_bucket(duration_ms)
        self._buckets = int(bucket.max(initial=0)) + 1
        self._values = np.sort(np.asarray(play_ms, dtype=np.float64))  # (P,)
        rank = self._rank(play_ms)
        key = np.asarray(user, dtype=np.int64) * self._buckets + bucket
        self._own = np.sort(self._cell(key, rank))
        self._all = np.sort(self._cell(bucket, rank))
        return self

    def quantile(self, user: Numbers, duration_ms: Numbers, play_ms: Numbers) -> Floats:
        """Share of past plays, the user's or everybody's, that were not longer: (N,) in [0, 1]."""
        bucket, rank = duration_bucket(duration_ms), self._rank(play_ms)
        known = bucket < self._buckets
        bucket = np.where(known, bucket, 0)
        key = np.asarray(user, dtype=np.int64) * self._buckets + bucket
        own, own_number = self._share(self._own, key, rank)
        everybody, number = self._share(self._all, bucket, rank)
        q = np.where(own_number >= self.enough, own, everybody)
        return np.where(known & (number > 0), q, 0.5)

    def in_order(self, user: Numbers, duration_ms: Numbers, play_ms: Numbers) -> Floats:
        """The same of plays (N,) that stand in the order of time: each among its user's before it.

        A play is no past of its own, and neither is what came after it. Everybody's plays, which
        stand in where a user has few, are all that were fitted, whatever their time.
        """
        bucket, rank = duration_bucket(duration_ms), self._rank(play_ms)
        known = bucket < self._buckets
        bucket = np.where(known, bucket, 0)
        key = np.asarray(user, dtype=np.int64) * self._buckets + bucket
        own, own_number = self._earlier(key, rank)
        everybody, number = self._share(self._all, bucket, rank)
        q = np.where(own_number >= self.enough, own, everybody)
        return np.where(known & (number > 0), q, 0.5)

    def _rank(self, play_ms: Numbers) -> Ints:
        """How many past plays were not longer: order as whole numbers, 0..P."""
        values = np.asarray(play_ms, dtype=np.float64)
        return np.searchsorted(self._values, values, side="right").astype(np.int64)

    def _cell(self, key: Ints, rank: Ints) -> Ints:
        """One number that orders by key, then by rank."""
        return key * (len(self._values) + 1) + rank

    def _share(self, cells: Ints, key: Ints, rank: Ints) -> tuple[Floats, Ints]:
        """Share of a key's plays at or below the rank (N,), and how many plays it has (N,)."""
        begin = np.searchsorted(cells, self._cell(key, np.zeros_like(key)))
        end = np.searchsorted(cells, self._cell(key + 1, np.zeros_like(key)))
        number = end - begin
        return self._below(cells, key, rank) / np.maximum(number, 1), number

    def _below(self, cells: Ints, key: Ints, rank: Ints) -> Ints:
        """How many of a key's plays stand at or below the rank (N,)."""
        begin = np.searchsorted(cells, self._cell(key, np.zeros_like(key)))
        below: Ints = np.searchsorted(cells, self._cell(key, rank), side="right") - begin
        return below

    def _earlier(self, key: Ints, rank: Ints) -> tuple[Floats, Ints]:
        """`_share` among the plays of the same key that stand before each (N,).

        Counted as merge sort counts: plays of a key stand in blocks, those of each second block are
        compared with the block before it, and blocks double until one holds all.
        """
        order = np.argsort(key, kind="stable")
        key, rank = key[order], rank[order]
        place = np.arange(len(key)) - np.searchsorted(key, key)  # plays of the key before it
        below = np.zeros(len(key), dtype=np.int64)
        width = 1
        while width <= place.max(initial=0):
            begins = place % (2 * width) == 0
            pair = np.cumsum(begins)
            second = place // width % 2 == 1
            first = np.sort(self._cell(pair[~second], rank[~second]))
            below[second] += self._below(first, pair[second], rank[second])
            width *= 2
        share, number = np.zeros(len(key)), np.zeros(len(key), dtype=np.int64)
        share[order], number[order] = below / np.maximum(place, 1), place
        return share, number


def feedback_advantage(
    quantile: Numbers, dislike: NDArray[np.bool_], top_share: float = TOP_SHARE
) -> Floats:
    """+1 for plays above the batch's top-quarter threshold, -1 for a dislike, else 0: (N,).

    Not normalised, as in the paper. A dislike outweighs a long play. A quantile that is NaN, where
    the play or its duration is not known, moves no threshold and is never above it.
    """
    quantile = np.asarray(quantile, dtype=np.float64)
    known = quantile[~np.isnan(quantile)]
    threshold = np.quantile(known, 1 - top_share) if len(known) else np.inf
    return np.where(dislike, -1.0, np.where(quantile > threshold, 1.0, 0.0))
