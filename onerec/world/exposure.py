"""The logging policy: what the platform showed, and how likely it was to show it.

Each showing has one of five sources: what is popular, the category or the topic of an interest, the
style the platform has learned of the user, an author the user follows. A source names a group of
items; within the group items are drawn by the attention they get that day. So the log is biased
(towards popular items, towards what the platform believes) and yet the probability of each showing
is known exactly: `probabilities` is the truth that `draw` samples from.
Legend: N events, n items, B requests, S slots.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onerec.world.catalogue import STYLES, Catalogue
from onerec.world.people import FAVOURITE_AUTHORS, SLOT_WEIGHTS, People
from onerec.world.words import N_CATEGORIES, N_TOPICS

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

SOURCES = ("popular", "category", "topic", "style", "author")
SOURCE_SHARES = (0.1, 0.05, 0.6, 0.15, 0.1)
STYLE_SHARPNESS = 4.0
SESSION_INTENT = 0.6  # how often a showing in a session stays with the session's interest
SKIP_SEEN = 0.95  # how often an item that the user has had is replaced by a fresh draw
REDRAWS = 3


@dataclass(frozen=True)
class Groups:
    """Items sorted by group, with the running sum of attention over all days.

    So a draw from any group on any day is one search. `key` (n,) group of each item; `order` (n,)
    item at each place; `first` (groups + 1,) place where each group starts; `total`
    (days * n + 1,) the sum of attention before each (day, place).
    """

    key: Ints
    order: Ints
    first: Ints
    total: Doubles

    @classmethod
    def by(cls, key: Ints, n_groups: int, attention: Doubles) -> Groups:
        order = np.argsort(key, kind="stable")
        first = np.searchsorted(key[order], np.arange(n_groups + 1))
        total = np.concatenate([[0.0], np.cumsum(attention[:, order])])
        return cls(key, order, first, total)

    def draw(self, day: Ints, group: Ints | None, uniform: Doubles) -> Ints:
        """An item of each group by the attention of that day; of all, where a group draws none."""
        start = day * len(self.order)
        low, high = self.total[start], self.total[start + len(self.order)]
        if group is not None:
            inside = self.total[start + self.first[group]]
            end = self.total[start + self.first[group + 1]]
            low, high = np.where(end > inside, (inside, end), (low, high))
        place = np.searchsorted(self.total, low + uniform * (high - low), side="right") - 1
        drawn: Ints = self.order[np.clip(place - start, 0, len(self.order) - 1)]
        return drawn


class Policy:
    """The platform's way to choose; it knows interests, styles and authors, but no response."""

    def __init__(self, catalogue: Catalogue, people: People, days: int) -> None:
        self.catalogue = catalogue
        self.people = people
        self.days = days
        self.attention = catalogue.attention(days)  # (days, n)
        n_authors = int(catalogue.author.max()) + 1
        self._groups = {
            "category": Groups.by(catalogue.category, N_CATEGORIES, self.attention),
            "topic": Groups.by(catalogue.topic, N_TOPICS, self.attention),
            "style": Groups.by(catalogue.style, STYLES, self.attention),
            "author": Groups.by(catalogue.author, n_authors, self.attention),
        }
        logits = STYLE_SHARPNESS * people.hidden.astype(np.float64) @ catalogue.style_direction.T
        self.style_share = _softmax(logits)  # (U, STYLES)
        self._style_edges = np.cumsum(self.style_share, axis=1)

    def draw(
        self, rng: np.random.Generator, user: Ints, day: Ints, held: Ints, intent: Ints
    ) -> Ints:
        """The item shown at each event, (N,).

        Args:
            user: (N,), whole `day` (N,), both in the order of time for each user.
            held: (N, S) exemplars of the interests of that time.
            intent: (N,) slot of the interest that the session is about.
        """
        item = self._draw_once(rng, user, day, held, intent)
        for _ in range(REDRAWS):
            seen = repeats(user, item, self.catalogue.n_items) > 0
            again = np.flatnonzero(seen & (rng.random(len(item)) < SKIP_SEEN))
            item[again] = self._draw_once(rng, user[again], day[again], held[again], intent[again])
        return item

    def _draw_once(
        self, rng: np.random.Generator, user: Ints, day: Ints, held: Ints, intent: Ints
    ) -> Ints:
        """One showing per event, whether the user has had the item or not."""
        n = len(user)
        slot = np.searchsorted(np.cumsum(SLOT_WEIGHTS)[:-1], rng.random(n))
        slot = np.where(rng.random(n) < SESSION_INTENT, intent, slot)
        source = np.searchsorted(np.cumsum(SOURCE_SHARES)[:-1], rng.random(n))
        uniform = rng.random(n)
        which = rng.random(n)
        item = np.empty(n, dtype=np.int64)
        for s, name in enumerate(SOURCES):
            rows = np.flatnonzero(source == s)
            groups = self._groups.get(name, self._groups["topic"])
            if name == "popular":
                group = None
            elif name == "style":
                edges = self._style_edges[user[rows], :-1]
                group = (which[rows, None] > edges).sum(axis=1)
            elif name == "author":
                place = (which[rows] * FAVOURITE_AUTHORS).astype(np.int64)
                group = self.people.favourite[user[rows], place]
            else:
                kind = self.catalogue.topic if name == "topic" else self.catalogue.category
                group = kind[held[rows, slot[rows]]]
            item[rows] = groups.draw(day[rows], group, uniform[rows])
        return item

    def probabilities(self, users: Ints, days: Doubles, held: Ints) -> Floats:
        """How likely each item is to be what a user is shown next, (B, n).

        The session's interest is averaged over and seen items are not skipped yet.

        Args:
            users: (B,), at the time `days` (B,), when they hold the exemplars `held` (B, S).
        """
        rows = np.arange(len(users))
        on = np.clip(days.astype(np.int64), 0, self.days - 1)
        attention = self.attention[on]  # (B, n)
        popular = attention / attention.sum(axis=1, keepdims=True)
        share = dict(zip(SOURCES, SOURCE_SHARES, strict=True))
        total = share["popular"] * popular
        named = {
            "category": (self.catalogue.category[held], np.array(SLOT_WEIGHTS)),
            "topic": (self.catalogue.topic[held], np.array(SLOT_WEIGHTS)),
            "style": (np.tile(np.arange(STYLES), (len(users), 1)), self.style_share[users]),
            "author": (self.people.favourite[users], np.full(FAVOURITE_AUTHORS, 1.0)),
        }
        for name, (group, weight) in named.items():
            groups = self._groups[name]
            wanted = np.zeros((len(users), len(groups.first) - 1))
            np.add.at(wanted, (rows[:, None], group), weight / weight.sum(axis=-1, keepdims=True))
            start = (on * len(groups.order))[:, None]
            edges = groups.total[start + groups.first[None, :]]
            total += share[name] * _within(wanted, groups.key, np.diff(edges, axis=1), attention)
            lost = np.where(np.diff(edges, axis=1) > 0, 0.0, wanted).sum(axis=1, keepdims=True)
            total += share[name] * lost * popular
        chance: Floats = total.astype(np.float32)
        return chance


def repeats(user: Ints, item: Ints, n_items: int) -> Ints:
    """How often the user had the item before, for events in time order: (N,) -> (N,)."""
    return count_before(user * np.int64(n_items) + item)


def count_before(key: Ints) -> Ints:
    """How often each key stands earlier in the array, (N,) -> (N,)."""
    n = len(key)
    if n == 0:
        return np.zeros(0, dtype=np.int64)
    order = np.argsort(key, kind="stable")
    ordered = key[order]
    starts = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    place = np.arange(n)
    before = np.empty(n, dtype=np.int64)
    before[order] = place - np.maximum.accumulate(np.where(starts, place, 0))
    return before


def _within(wanted: Doubles, key: Ints, mass: Doubles, attention: Doubles) -> Doubles:
    """Weights of groups (B, groups) spread over each group's items by attention, (B, n)."""
    per_mass = np.divide(wanted, mass, out=np.zeros_like(wanted), where=mass > 0)
    spread: Doubles = per_mass[:, key] * attention
    return spread


def _softmax(logits: NDArray[np.floating]) -> Doubles:
    grown = np.exp(logits - logits.max(axis=1, keepdims=True), dtype=np.float64)
    share: Doubles = grown / grown.sum(axis=1, keepdims=True)
    return share
