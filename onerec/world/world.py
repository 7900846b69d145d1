"""The built-in short-video platform: the whole truth, the log it leaves, and answers at any time.

`make_world` draws catalogue and people; `simulate` runs the logging policy over all days at once;
`respond` answers any showing later (an online loop, an A/B test); `oracle` and `random` are the two
ends of every result. No files: `state` and `from_state` carry the truth as arrays.
Legend: N events, U users, n items, B requests, S slots.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onerec.world import covers, texts, tokens
from onerec.world.catalogue import Catalogue, make_catalogue
from onerec.world.config import WorldConfig
from onerec.world.exposure import SKIP_SEEN, Policy, count_before, repeats
from onerec.world.people import SLOT_WEIGHTS, People, make_people
from onerec.world.response import BEHAVIOURS, Response, ResponseModel, expected_play_ms

Array = NDArray[Any]
Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]

SESSION_EVENTS = 3.0  # events per session, on average
PAUSE_S = (1.0, 6.0)  # between two videos of a session
USERS_AT_ONCE = 2_200  # simulated together; a constant, so that it changes no draw
THREADS = 2
HOURS = (2, 1, 1, 1, 1, 1, 2, 4, 5, 5, 5, 6, 7, 6, 5, 5, 5, 6, 7, 8, 9, 9, 7, 4)  # use by hour


class World:
    """Catalogue, people, logging policy and response model of one seeded platform."""

    def __init__(
        self,
        config: WorldConfig,
        catalogue: Catalogue,
        people: People,
        standard: Doubles | None = None,
    ) -> None:
        self.config = config
        self.catalogue = catalogue
        self.people = people
        self.policy = Policy(catalogue, people, config.days)
        self.model = ResponseModel(
            catalogue, people, config.off_content_share, standard, config.stream("standard")
        )

    def simulate(self) -> dict[str, Array]:
        """The log: user, item, timestamp (ms), behaviours (bool), play_ms, duration_ms, all (N,).

        Rows stand by user and time. Everything is drawn for many events at once; satiation reads
        what was shown before, so showings are drawn first and answered after.
        """

        def part(first: int) -> dict[str, Array]:
            last = min(first + USERS_AT_ONCE, self.config.n_users)
            return self._simulate(self.config.stream(f"log {first}"), np.arange(first, last))

        # Each part has random numbers of its own, so the number of threads changes nothing.
        with ThreadPoolExecutor(THREADS) as pool:
            parts = list(pool.map(part, range(0, self.config.n_users, USERS_AT_ONCE)))
        return {name: np.concatenate([log[name] for log in parts]) for name in parts[0]}

    def respond(
        self,
        users: Ints,
        items: Ints,
        generator: np.random.Generator,
        *,
        days: float | Doubles | None = None,
        repeats: Ints | None = None,
        same_topic: Ints | None = None,
    ) -> Response:
        """Answers of users to items shown to them, (B,), (B,).

        Args:
            days: when, counted from the start; default is the end of the log.
            repeats: how often each user had the item before; default never.
            same_topic: how often its topic came up before in the session; default never.
        """
        users, items = np.asarray(users, dtype=np.int64), np.asarray(items, dtype=np.int64)
        none = np.zeros(len(users), dtype=np.int64)
        when = np.broadcast_to(np.float64(self.config.days if days is None else days), users.shape)
        held = self.people.interests(users, when)
        return self.model.answer(
            generator,
            users,
            items,
            held,
            none if repeats is None else repeats,
            none if same_topic is None else same_topic,
        )

    def truth(
        self, users: Ints, items: Ints, days: Doubles, repeats: Ints | None = None
    ) -> dict[str, Doubles]:
        """What would come of showing items (B, K) to users (B,) at a time (B,): (B, K) each.

        The probability of each behaviour, of any positive (`positive`), and the expected play time
        (`play_ms`), each item by itself, as the first of its topic in a session.

        Args:
            days: since the start.
            repeats: (B, K) how often each user had the item before; default never.
        """
        k = items.shape[1]
        who, what = np.repeat(users, k), np.asarray(items, dtype=np.int64).ravel()
        held = np.repeat(self.people.interests(users, days), k, axis=0)  # (B K, S)
        none = np.zeros(len(who), dtype=np.int64)
        had = none if repeats is None else np.asarray(repeats).ravel()
        affinity = self.model.affinity(who, what, held)
        answers = self.model.probabilities(who, what, affinity, had, none)
        answers["positive"] = self.model.positive(who, what, affinity, had, none)
        answers["play_ms"] = expected_play_ms(answers, self.catalogue.duration_ms[what])
        return {name: value.reshape(items.shape) for name, value in answers.items()}

    def truth_of_all(self, users: Ints, days: Doubles, repeats: Ints) -> dict[str, Doubles]:
        """The same of every item: (B, n) each; `repeats` (B, n)."""
        affinity = self.model.all_affinities(users, self.people.interests(users, days))
        every, none = np.arange(self.catalogue.n_items)[None], np.zeros((1, 1), dtype=np.int64)
        answers = self.model.probabilities(users[:, None], every, affinity, repeats, none)
        answers["positive"] = self.model.positive(users[:, None], every, affinity, repeats, none)
        answers["play_ms"] = expected_play_ms(answers, self.catalogue.duration_ms[every])
        return answers

    def next_positive(
        self, users: Ints, days: Doubles, seen: tuple[Ints, Ints] | None = None
    ) -> NDArray[np.float32]:
        """P(item is the user's next logged positive) at that time, (B, n); rows sum to 1.

        It is exposure x response: what the platform shows next times how likely that is positive.

        Args:
            days: (B,), since the start.
            seen: (row, item) pairs of what was shown before: the platform skips them, people tire.
        """
        held = self.people.interests(users, days)  # (B, S)
        shown = self.policy.probabilities(users, days, held)  # (B, n)
        affinity = self.model.all_affinities(users, held)  # (B, n)
        every = np.arange(self.catalogue.n_items)[None, :]
        had = np.zeros(shown.shape, dtype=np.int64)
        if seen is not None:
            np.add.at(had, seen, 1)
        shown = shown * np.where(had > 0, 1 - SKIP_SEEN, 1.0)
        liked = self.model.positive(users[:, None], every, affinity, had, np.zeros((1, 1), int))
        joint = shown * liked
        chance: NDArray[np.float32] = (joint / joint.sum(axis=1, keepdims=True)).astype(np.float32)
        return chance

    def oracle(
        self,
        users: Ints,
        k: int,
        days: Doubles | float | None = None,
        seen: tuple[Ints, Ints] | None = None,
    ) -> Ints:
        """The k items most likely to be each user's next logged positive, best first, (B, k)."""
        ranked = np.empty((len(users), k), dtype=np.int64)
        when = np.broadcast_to(np.float64(self.config.days if days is None else days), users.shape)
        for low in range(0, len(users), 512):
            rows = np.arange(low, min(low + 512, len(users)))
            had = None
            if seen is not None:
                inside = (seen[0] >= low) & (seen[0] < low + len(rows))
                had = seen[0][inside] - low, seen[1][inside]
            chance = self.next_positive(users[rows], when[rows], had)
            ranked[rows] = _best(chance, k)
        return ranked

    def random(self, users: Ints, k: int, generator: np.random.Generator) -> Ints:
        """k different items for each user, all equally likely, (B, k)."""
        drawn = generator.random((len(users), self.catalogue.n_items), dtype=np.float32)
        chosen: Ints = np.argpartition(drawn, k - 1, axis=1)[:, :k].astype(np.int64)
        return chosen

    def captions(self) -> list[str]:
        """A sentence per item."""
        return texts.captions(self.config, self.catalogue)

    def tags(self) -> list[list[str]]:
        """The tags of each item."""
        return texts.tags(self.config, self.catalogue)

    def categories(self) -> list[list[str]]:
        """The category of each item as its uploader gave it."""
        return texts.categories(self.config, self.catalogue)

    def content_tokens(
        self,
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_], Ints, tuple[str, ...]]:
        """Tokens (n, N_M, d), mask (n, N_M), modality (N_M,) and the modalities' names."""
        return tokens.content_tokens(self.config, self.catalogue)

    def covers(self, items: Ints) -> NDArray[np.uint8]:
        """Pictures (b, 48, 48, 3) of the items (b,), drawn now."""
        return covers.covers(self.catalogue, items)

    def state(self) -> dict[str, Array]:
        """Everything that was drawn, by name; with the config it is the world."""
        return {
            **self.catalogue.state(),
            **self.people.state(),
            "response.standard": self.model.standard,
        }

    @classmethod
    def from_state(cls, config: WorldConfig, arrays: Mapping[str, Array]) -> World:
        """The world that `state` came from."""
        parts: dict[str, dict[str, Array]] = {"items": {}, "users": {}, "response": {}}
        for name, array in arrays.items():
            part, field = name.split(".")
            parts[part][field] = array
        return cls(
            config,
            Catalogue(**parts["items"]),
            People(**parts["users"]),
            parts["response"]["standard"],
        )

    def _simulate(self, rng: np.random.Generator, users: Ints) -> dict[str, Array]:
        user = np.repeat(users, self.people.events[users])
        session, starts_s, intent = self._sessions(rng, user)
        day = starts_s / 86_400  # (sessions,)
        owner = user[np.searchsorted(session, np.arange(len(day)))]
        held = self.people.interests(owner, day)[session]  # (N, S)
        item = self.policy.draw(rng, user, day.astype(np.int64)[session], held, intent[session])
        topic_key = session * np.int64(1_000) + self.catalogue.topic[item]
        response = self.model.answer(
            rng,
            user,
            item,
            held,
            repeats(user, item, self.catalogue.n_items),
            count_before(topic_key),
        )
        offset_s = self._offsets(rng, session, response.play_ms)
        timestamp = self.config.start_ms + (1000 * (starts_s[session] + offset_s)).astype(np.int64)
        order = np.lexsort((timestamp, user))
        columns: dict[str, Array] = {
            "user": user,
            "item": item,
            "timestamp": timestamp,
            **{name: response.draws[name] for name in BEHAVIOURS},
            "play_ms": response.play_ms,
            "duration_ms": self.catalogue.duration_ms[item],
        }
        return {name: column[order] for name, column in columns.items()}

    def _sessions(self, rng: np.random.Generator, user: Ints) -> tuple[Ints, Doubles, Ints]:
        """Session of each event (N,); start in seconds and slot of interest of each session."""
        opens = rng.random(len(user)) < 1 / SESSION_EVENTS
        opens[0] = True
        opens[1:] |= user[1:] != user[:-1]
        session = np.cumsum(opens) - 1
        owner = user[opens]
        hour = np.searchsorted(np.cumsum(HOURS) / np.sum(HOURS), rng.random(len(owner)))
        day = rng.integers(self.config.days, size=len(owner))
        start = 3600.0 * (24 * day + hour + rng.random(len(owner)))
        start = start[np.lexsort((start, owner))]
        intent = np.searchsorted(np.cumsum(SLOT_WEIGHTS)[:-1], rng.random(len(owner)))
        return session, start, intent

    def _offsets(self, rng: np.random.Generator, session: Ints, play_ms: Ints) -> Doubles:
        """Seconds from the start of the session to the start of each event, (N,)."""
        spent = play_ms / 1000 + rng.uniform(*PAUSE_S, size=len(play_ms))
        before = np.cumsum(spent) - spent
        first = np.searchsorted(session, np.arange(session[-1] + 1))
        return before - before[first][session]


def _best(scores: NDArray[np.float32], k: int) -> Ints:
    """The k largest of each row, best first, (B, k)."""
    some = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(scores, some, axis=1), axis=1, kind="stable")
    best: Ints = np.take_along_axis(some, order, axis=1)
    return best


def make_world(config: WorldConfig | None = None) -> World:
    """Draw a world from its settings (default: the default world)."""
    config = config or WorldConfig()
    catalogue = make_catalogue(config)
    return World(config, catalogue, make_people(config, catalogue))
