"""Swing: how similar two items are by the pairs of users who consumed both.

    s(i, j) = sum over pairs {u, v} of users who have both i and j of
              w_u w_v / (alpha + |I_u and I_v|),        w_u = |I_u|^-p

Two users who share little else say more about the two items that they do share (Yang et al. 2020,
arXiv 2010.05525). V1 section 2.1 names Swing and prints neither alpha nor a weight: alpha = 1 and
p = 1/2 are what is usual, and ours. Each pair of users counts once.

Nothing here knows of splits: whoever calls gives training rows alone (`onerec.data.pairs`).

Shapes: N rows of the log, z kept pairs of a user and an item, P pairs of items, n items.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from onerec.errors import DataError, RecipeError

AT_A_TIME = 2**22
"""Meetings of two users at an item that are held in memory together."""

Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class SwingConfig:
    """alpha, p (`user_power`), and what heavy users and items are cut to.

    Work grows with the square of an item's users, so of a user with more than `user_limit` items a
    random `user_limit` stay, and of an item with more than `item_limit` users those who come first
    in one random order of all users. Because that order is the same for all items, two popular
    items keep the users they share, which samples of their own would rarely do. Ours. What is left
    out is counted, and makes popular items less similar to all others.
    """

    alpha: float = 1.0
    user_power: float = 0.5
    user_limit: int = 256
    item_limit: int = 512

    def __post_init__(self) -> None:
        for name, least in (("alpha", 0), ("user_power", 0), ("user_limit", 2), ("item_limit", 2)):
            value = getattr(self, name)
            if not value >= least:
                raise RecipeError(f"swing {name} is {value}; it must be at least {least}")


@dataclass(frozen=True)
class ItemSimilarity:
    """Similarities above 0, each pair of items once; s(i, j) = s(j, i), and no item has its own.

    Attributes:
        first, second: (P,) int64, first < second, sorted by (first, second).
        score: (P,) float64.
        n_items: n.
        counts: distinct user-item pairs (`cells`), those that the limits left out
            (`left_out_by_user_limit`, `left_out_by_item_limit`) and `heavy_users`, `heavy_items`.
    """

    first: Ints
    second: Ints
    score: Doubles
    n_items: int
    counts: dict[str, int]

    def __len__(self) -> int:
        return len(self.score)

    @cached_property
    def _keys(self) -> Ints:
        return self.first * self.n_items + self.second

    def of(self, one: Ints, other: Ints) -> Doubles:
        """s of each pair (M,), 0 where it is not known or an item is asked about itself."""
        asked = np.minimum(one, other) * self.n_items + np.maximum(one, other)
        order = np.argsort(asked)  # neighbouring questions read neighbouring memory
        found = np.zeros(len(asked))
        if len(self):
            place = np.minimum(np.searchsorted(self._keys, asked[order]), len(self) - 1)
            found[order] = np.where(self._keys[place] == asked[order], self.score[place], 0.0)
        return found

    def nearest(self, k: int) -> tuple[Ints, Ints, Doubles]:
        """Each item's k most similar items: item (M,), neighbour (M,), score (M,).

        Sorted by item, the most similar first; equal scores by the neighbour's number. An item with
        fewer neighbours has fewer rows.
        """
        item = np.concatenate([self.first, self.second])
        other = np.concatenate([self.second, self.first])
        score = np.concatenate([self.score, self.score])
        order = np.lexsort((other, -score, item))
        item = item[order]
        begin = np.searchsorted(item, np.arange(self.n_items))
        keep = np.arange(len(item)) - begin[item] < k
        return item[keep], other[order][keep], score[order][keep]


def swing(
    user: NDArray[np.integer[Any]],
    item: NDArray[np.integer[Any]],
    n_items: int,
    generator: torch.Generator,
    config: SwingConfig | None = None,
) -> ItemSimilarity:
    """Similarity of all pairs of items that two users share.

    Args:
        user, item: (N,), the positive training rows in any order; a repeated row counts once.
        n_items: n; items are numbered from 0.
        generator: which items and users stay where a limit is passed.

    Raises:
        DataError: columns of different lengths, or an item that is not one of n.
    """
    config = config or SwingConfig()
    if len(user) != len(item):
        raise DataError(f"swing: {len(user)} users and {len(item)} items; give one of each per row")
    if len(item) and (item.min() < 0 or item.max() >= n_items):
        raise DataError(
            f"swing: items {item.min()} to {item.max()} of a catalogue of {n_items}; "
            "number them from 0"
        )
    table, counts = _Table.of(user, item, n_items, generator, config)
    sums = _Sums()
    for begin, end in table.chunks():
        sums.add(*_chunk(table, begin, end, config.alpha))
    key, score = sums.total()
    return ItemSimilarity(key // n_items, key % n_items, score, n_items, counts)


@dataclass(frozen=True)
class _Table:
    """Who has what, in both directions; users are numbered anew, z entries by (user, item).

    Attributes:
        user, item: (z,).
        start: (U + 1,), the entries of each user.
        by_item: (z,), users sorted by (item, user).
        place: (z,), where an entry stands in `by_item`.
        later: (z,), how many users of its item come after it there.
        weight: (U,), w_u from all items of a user, those that a limit left out included.
    """

    user: Ints
    item: Ints
    start: Ints
    by_item: Ints
    place: Ints
    later: Ints
    weight: Doubles
    n_items: int

    @classmethod
    def of(
        cls,
        user: NDArray[np.integer[Any]],
        item: NDArray[np.integer[Any]],
        n_items: int,
        generator: torch.Generator,
        config: SwingConfig,
    ) -> tuple[_Table, dict[str, int]]:
        users, dense = np.unique(user, return_inverse=True)
        cell = np.unique(dense.astype(np.int64) * n_items + item)
        size = np.bincount(cell // n_items, minlength=len(users))
        lot = torch.randperm(len(cell), generator=generator).numpy()
        kept = cell[_first_of_each(cell // n_items, lot, config.user_limit)]
        turn = torch.randperm(len(users), generator=generator).numpy()
        last = kept[_first_of_each(kept % n_items, turn[kept // n_items], config.item_limit)]
        owner, owned = last // n_items, last % n_items
        order = np.argsort(owned, kind="stable")  # by item, then user
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        ends = np.cumsum(np.bincount(owned, minlength=n_items))
        table = cls(
            user=owner,
            item=owned,
            start=np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(users)))]),
            by_item=owner[order],
            place=place,
            later=ends[owned] - place - 1,
            weight=size.astype(np.float64) ** -config.user_power,
            n_items=n_items,
        )
        users_of_item = np.bincount(kept % n_items, minlength=n_items)
        return table, {
            "cells": len(cell),
            "heavy_users": int((size > config.user_limit).sum()),
            "left_out_by_user_limit": len(cell) - len(kept),
            "heavy_items": int((users_of_item > config.item_limit).sum()),
            "left_out_by_item_limit": len(kept) - len(last),
        }

    def chunks(self) -> list[tuple[int, int]]:
        """Ranges of users whose work fits into memory together."""
        own = np.diff(self.start)
        meetings = np.concatenate([[0], np.cumsum(self.later)])
        return _pieces(own**2 + np.diff(meetings[self.start]))


def _first_of_each(group: Ints, rank: Ints, limit: int) -> Ints:
    """Which entries are among the `limit` of lowest rank of their group, in their own order."""
    size = np.bincount(group) if len(group) else np.zeros(0, np.int64)
    heavy = np.flatnonzero(size[group] > limit)
    order = heavy[np.lexsort((rank[heavy], group[heavy]))]
    sizes = size[size > limit]
    within = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    keep = np.ones(len(group), dtype=bool)
    keep[order[within >= limit]] = False
    return np.flatnonzero(keep)


def _chunk(table: _Table, begin: int, end: int, alpha: float) -> tuple[Ints, Doubles]:
    """Users begin..end with all who come after them: keys i n + j, and what to add to s(i, j)."""
    own = np.diff(table.start[begin : end + 1])  # (C,) items of each user
    offset = _before(own**2)  # (C,) where a user's cells begin: one for each two of his items
    pair, place = _meetings(table, begin, end)  # (M,)
    shared = np.diff(np.append(_starts(pair), len(pair)))  # (R,) |I_u and I_v|
    several = np.repeat(shared > 1, shared)  # one item in common makes no pair of items
    pair, place, shared = pair[several], place[several], shared[shared > 1]
    one, other = np.divmod(pair[_before(shared)], len(table.weight))
    said = table.weight[begin + one] * table.weight[other] / (alpha + shared)  # (R,)
    total, ends = np.zeros(int((own**2).sum())), np.cumsum(shared)
    for low, high in _pieces(shared**2):
        runs = slice(low, high)
        inside = slice(ends[low] - shared[low], ends[high - 1])
        p, q, size = _pairs_of_runs(place[inside], shared[runs])
        cell = np.repeat(offset[one[runs]], size) + p * np.repeat(own[one[runs]], size) + q
        total += np.bincount(cell, np.repeat(said[runs], size), len(total))
    there = np.flatnonzero(total)
    owner = np.repeat(np.arange(len(own)), own**2)[there]
    p, q = np.divmod(there - offset[owner], own[owner])
    first, second = (table.item[table.start[begin + owner] + x] for x in (p, q))
    return first * table.n_items + second, total[there]


def _pairs_of_runs(value: Ints, length: Ints) -> tuple[Ints, Ints, Ints]:
    """All pairs of an earlier and a later value of one run: both (K,), and their number by run."""
    earlier = np.arange(len(value)) - np.repeat(_before(length), length)  # of its run
    later = np.repeat(np.arange(len(value)), earlier)
    first = np.arange(len(later)) - np.repeat(_before(earlier), earlier)
    first += np.repeat(np.repeat(_before(length), length), earlier)
    return value[first], value[later], length * (length - 1) // 2


def _pieces(work: Ints) -> list[tuple[int, int]]:
    """Ranges of neighbours whose work together is about `AT_A_TIME`; an empty list of none."""
    cuts = np.flatnonzero(np.diff(np.cumsum(work) // AT_A_TIME)) + 1
    edges = [0, *cuts.tolist(), len(work)]
    return [(low, high) for low, high in itertools.pairwise(edges) if low < high]


def _before(counts: Ints) -> Ints:
    """(Z,) the sum of the counts before each."""
    return np.cumsum(counts) - counts


def _starts(ordered: Ints) -> Ints:
    """Where a new value begins."""
    new = np.ones(len(ordered), dtype=bool)
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    return np.flatnonzero(new)


def _meetings(table: _Table, begin: int, end: int) -> tuple[Ints, Ints]:
    """Each item that a user u of the chunk shares with a user v after him, sorted by (u, v, item).

    Returns (u - begin) U + v (M,), and where the item stands in the list of u (M,).
    """
    low, high = table.start[begin], table.start[end]
    user, later = table.user[low:high], table.later[low:high]
    place = np.arange(low, high) - table.start[user]
    width = int(place.max(initial=0)) + 1
    reader = np.repeat(table.place[low:high] + 1 - _before(later), later)
    reader += np.arange(len(reader))
    key = np.repeat((user - begin) * len(table.weight) * width + place, later)
    key += table.by_item[reader] * width
    key.sort()
    return key // width, key % width


class _Sums:
    """Numbers added up by key; what is new waits until it outweighs what is there."""

    def __init__(self) -> None:
        self._parts: list[tuple[Ints, Doubles]] = []
        self._waiting = 0
        self._there = 0

    def add(self, key: Ints, value: Doubles) -> None:
        self._parts.append((key, value))
        self._waiting += len(key)
        if self._waiting > max(AT_A_TIME, self._there):
            self._reduce()

    def total(self) -> tuple[Ints, Doubles]:
        """Keys, each once and rising, and their sums."""
        self._reduce()
        return self._parts[0]

    def _reduce(self) -> None:
        key = np.concatenate([np.zeros(0, np.int64), *(key for key, _ in self._parts)])
        value = np.concatenate([np.zeros(0), *(value for _, value in self._parts)])
        ordered, order = torch.sort(torch.from_numpy(key), stable=True)
        key = ordered.numpy()
        begin = _starts(key)
        sums = np.add.reduceat(value[order.numpy()], begin) if len(begin) else value
        self._parts, self._waiting, self._there = [(key[begin], sums)], 0, len(begin)
