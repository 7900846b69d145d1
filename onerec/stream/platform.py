"""Who answers what is shown: the world's people, or a log that is played back.

`World` asks the world's response model; people are the same ones, at the same hour, with the same
luck in every arm (common random numbers), and what they were shown before tires them. `Replay`
knows only what really happened: an item of a list counts where the user took it that day.

Shapes: M users, K items of a list.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onerec.data.log import Interactions
from onerec.data.sources.world import KnownWorld
from onerec.errors import DataError
from onerec.world.config import DAY_MS
from onerec.world.exposure import count_before
from onerec.world.response import BEHAVIOURS

Array = NDArray[Any]
Ints = NDArray[np.int64]

HOUR_OF_VISIT = 20.0
GAP_MS = 2_000  # between two videos of a visit


@dataclass(frozen=True)
class Answers:
    """Events to join the log, and what the visit was worth.

    `events` column -> (F,), with `place` in the list; `values` name -> (M,) per user: `watch_s`
    and `positives` as drawn, `true_watch_s` and `true_long_view` as expected, where that is known.
    """

    events: dict[str, Array]
    values: dict[str, NDArray[np.float64]]


class WorldPlatform:
    """The world's people after the last day of the log: round r is day `days + r`."""

    def __init__(self, known: KnownWorld, seed: int, share: float) -> None:
        self.known, self.seed, self.share = known, seed, share
        self.rounds: int | None = None  # as many as one likes

    def visitors(self, log: Interactions, round_: int) -> Ints:
        """Who comes today: a share of the users with a history, the same ones in every arm."""
        random = np.random.default_rng([self.seed, round_, 1])
        present = np.flatnonzero(np.diff(log.offsets) > 0)
        count = max(1, round(self.share * len(present)))
        return np.sort(random.choice(present, size=count, replace=False)).astype(np.int64)

    def answer(self, log: Interactions, users: Ints, lists: Ints, round_: int) -> Answers:
        """What the users (M,) do with their lists (M, K); -1 shows nothing."""
        world, k = self.known.world, lists.shape[1]
        random = np.random.default_rng([self.seed, round_, 2])
        day = np.full(len(users), world.config.days + round_ + HOUR_OF_VISIT / 24)
        repeats = self._repeats(log, users, lists)
        shown = np.maximum(lists, 0)
        topic = world.catalogue.topic[self.known.item[shown]]  # (M, K)
        visit = np.arange(len(users))[:, None] * 1_000
        before = count_before((visit + topic).ravel()).reshape(lists.shape)
        response = world.respond(
            np.repeat(self.known.user[users], k),
            self.known.item[shown].ravel(),
            random,  # draws by place, whatever is shown there: common random numbers
            days=np.repeat(day, k),
            repeats=repeats.ravel(),
            same_topic=before.ravel(),
        )
        true = world.truth(self.known.user[users], self.known.item[shown], day, repeats)
        there = lists >= 0
        play = response.play_ms.reshape(lists.shape) * there
        values: dict[str, NDArray[np.float64]] = {
            "watch_s": play.sum(1) / 1000.0,
            "positives": (_positive(response.draws).reshape(lists.shape) & there).sum(1) * 1.0,
            "true_watch_s": (true["play_ms"] * there).sum(1) / 1000.0,
            "true_long_view": (true["long_view"] * there).mean(1),
        }
        start = world.config.start_ms + (day * DAY_MS).astype(np.int64)
        spent = np.cumsum(play + GAP_MS, axis=1) - (play + GAP_MS)
        events: dict[str, Array] = {
            "user": np.repeat(users, k),
            "item": lists.ravel(),
            "place": np.tile(np.arange(k), len(users)),
            "timestamp": (start[:, None] + spent).ravel().astype(np.int64),
            "play_ms": play.ravel().astype(np.float32),
            "duration_ms": world.catalogue.duration_ms[self.known.item[shown]].ravel(),
            **{name: response.draws[name].astype(np.int8) for name in BEHAVIOURS},
        }
        kept = there.ravel()
        return Answers({name: column[kept] for name, column in events.items()}, values)

    def _repeats(self, log: Interactions, users: Ints, lists: Ints) -> Ints:
        """How often each user had each item of the list before: (M, K)."""
        keys = np.sort(log.user.astype(np.int64) * log.n_items + log.item)
        asked = users[:, None] * log.n_items + np.maximum(lists, 0)
        right, left = (np.searchsorted(keys, asked, side=side) for side in ("right", "left"))
        return np.asarray(right - left, dtype=np.int64)


class ReplayPlatform:
    """The days of a log after the training part, one a round."""

    def __init__(self, whole: Interactions, train: NDArray[np.bool_]) -> None:
        if not whole.exact_time:
            raise DataError(
                "a log is played back by its days, and this one has no exact times; use a world, "
                "or data with timestamps"
            )
        later = np.flatnonzero(~train)
        day = whole.columns["timestamp"][later] // DAY_MS
        self.whole = whole
        self.days = [later[day == value] for value in np.unique(day)]
        self.rounds = len(self.days)

    def visitors(self, log: Interactions, round_: int) -> Ints:
        """Who did something that day and has a history."""
        users = np.unique(self.whole.user[self._rows(round_)]).astype(np.int64)
        known: Ints = users[np.diff(log.offsets)[users] > 0]
        return known

    def answer(self, log: Interactions, users: Ints, lists: Ints, round_: int) -> Answers:
        """The day's own events, and how many of each list's items were positives in them."""
        rows = self._rows(round_)
        whole = self.whole
        events: dict[str, Array] = {
            "user": whole.user[rows].astype(np.int64),
            "item": whole.item[rows].astype(np.int64),
            "place": np.zeros(len(rows), dtype=np.int64),
            **{name: column[rows] for name, column in whole.columns.items()},
        }
        liked = rows[whole.positive[rows]]
        wanted = whole.user[liked].astype(np.int64) * whole.n_items + whole.item[liked]
        keys = users[:, None] * whole.n_items + lists
        hits = np.isin(keys, wanted) & (lists >= 0)
        taken = np.bincount(whole.user[liked], minlength=whole.n_users)[users]
        values = {"hits": hits.sum(1).astype(np.float64), "positives": taken.astype(np.float64)}
        return Answers(events, values)

    def _rows(self, round_: int) -> Ints:
        if not 0 <= round_ < len(self.days):
            raise DataError(f"round {round_ + 1}: the log has {len(self.days)} days to play back")
        rows: Ints = self.days[round_]
        return rows


def _positive(draws: dict[str, NDArray[np.bool_]]) -> NDArray[np.bool_]:
    found = np.zeros(len(draws["click"]), dtype=bool)
    for name in ("long_view", "like", "follow", "comment", "forward"):
        found |= draws[name]
    return found
