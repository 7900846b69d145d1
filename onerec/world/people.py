"""The people: what can be seen of them, how they lean, and interests that drift and come back.

An interest is an item that stands for what the person is after (its exemplar). Each person holds
SLOTS interests at a time; each lasts a random time and is then replaced by one held before, by one
that follows on its topic, or by one of any topic the person may like.
Legend: U users, S slots, E episodes per slot, A favourite authors, H hidden width.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from onerec.world.catalogue import HIDDEN_WIDTH, Catalogue, unit_vectors
from onerec.world.config import WorldConfig
from onerec.world.words import N_CATEGORIES, N_TOPICS, TOPICS_PER_CATEGORY

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

SLOTS = 3
SLOT_WEIGHTS = (0.5, 0.3, 0.2)
PAST_EPISODES = 2  # interests of the time before the first day, which may come back
FAVOURITE_AUTHORS = 4
FOLLOWING_TOPIC = 0.7  # how often an interest that is new follows on the one it replaces
HISTORY_SHAPE = 1.15  # of the gamma distribution of history lengths: nearly exponential

AGE_BANDS = ("under 18", "18-24", "25-34", "35-49", "50+")
GENDERS = ("female", "male", "unknown")
DEVICES = ("android low", "android mid", "android high", "iphone")
CITY_TIERS = ("1", "2", "3", "4", "5")
ACTIVE_DEGREES = ("low_active", "middle_active", "high_active", "full_active")
GROUP_LEANING = 0.8  # how much age and gender move the logarithm of a category's share
PERSONAL_LEANING = 1.2  # how much a person does
DECLARED_IS_TRUE = 0.5  # how often the category named at registration is one the person likes
STATIC_BIAS = 0.25  # of device and city on the readiness to watch


@dataclass(frozen=True)
class People:
    """The truth about U users, and (the five last) the columns that can be seen."""

    bias: Floats  # (U,), readiness to watch, standard normal
    like_bias: Floats  # (U,), readiness to press like and the other buttons, standard normal
    hidden: Floats  # (U, H), unit length
    exemplar: Ints  # (U, S, E), item that stands for the interest
    start_day: Floats  # (U, S, E), when it begins; the first is long before day 0
    favourite: Ints  # (U, A), authors
    events: Ints  # (U,), length of the log
    age_band: Ints  # (U,)
    gender: Ints  # (U,)
    device: Ints  # (U,)
    city_tier: Ints  # (U,)
    declared_category: Ints  # (U,)

    @property
    def n_users(self) -> int:
        return len(self.bias)

    def interests(self, users: Ints, day: NDArray[np.floating]) -> Ints:
        """The exemplars that users hold on a day: (B,), (B,) -> (B, S)."""
        episode = np.zeros((len(users), SLOTS), dtype=np.int64)
        for e in range(1, self.start_day.shape[2]):
            episode += self.start_day[users, :, e] <= day[:, None]
        return self.exemplar[users[:, None], np.arange(SLOTS), episode]

    def state(self) -> dict[str, NDArray[np.generic]]:
        """The arrays by name, for `World.state`."""
        return {f"users.{field.name}": getattr(self, field.name) for field in fields(self)}


def make_people(config: WorldConfig, catalogue: Catalogue) -> People:
    """Draw the users and the whole course of their interests."""
    rng = config.stream("people")
    n = config.n_users
    age = rng.choice(len(AGE_BANDS), size=n, p=(0.12, 0.3, 0.3, 0.2, 0.08))
    gender = rng.choice(len(GENDERS), size=n, p=(0.45, 0.45, 0.1))
    device = rng.choice(len(DEVICES), size=n, p=(0.25, 0.35, 0.2, 0.2))
    city = rng.choice(len(CITY_TIERS), size=n)
    leaning = _leanings(rng, age, gender)  # (U, categories)
    hidden = unit_vectors(rng, n, HIDDEN_WIDTH)
    exemplar, start_day = _interests(rng, config, catalogue, leaning)
    shift = STATIC_BIAS * (device - device.mean() + 0.5 * (city - city.mean()))
    lengths = rng.gamma(HISTORY_SHAPE, config.mean_history / HISTORY_SHAPE, size=n)
    declared = np.where(
        rng.random(n) < DECLARED_IS_TRUE,
        catalogue.category[exemplar[:, 0, 0]],
        rng.integers(N_CATEGORIES, size=n),
    )
    bias = rng.standard_normal(n) + shift
    return People(
        bias=(bias / bias.std()).astype(np.float32),
        like_bias=rng.standard_normal(n).astype(np.float32),
        hidden=hidden,
        exemplar=exemplar,
        start_day=start_day,
        favourite=_favourites(rng, catalogue, hidden, exemplar),
        events=np.maximum(1, np.rint(lengths)).astype(np.int64),
        age_band=age,
        gender=gender,
        device=device,
        city_tier=city,
        declared_category=declared,
    )


def active_degree(people: People, rng: np.random.Generator) -> Ints:
    """How active the platform calls a person, as far as it can tell: a blurred history length."""
    blurred = np.log(people.events) + rng.standard_normal(people.n_users)
    edges = np.quantile(blurred, (0.05, 0.15, 0.4))
    return np.searchsorted(edges, blurred).astype(np.int64)


def _leanings(rng: np.random.Generator, age: Ints, gender: Ints) -> NDArray[np.float64]:
    """Share of each category in a person's interests, (U, categories)."""
    by_age = rng.standard_normal((len(AGE_BANDS), N_CATEGORIES))[age]
    by_gender = rng.standard_normal((len(GENDERS), N_CATEGORIES))[gender]
    own = rng.standard_normal((len(age), N_CATEGORIES))
    logits = GROUP_LEANING * (by_age + by_gender) / np.sqrt(2) + PERSONAL_LEANING * own
    grown = np.exp(logits)
    share: NDArray[np.float64] = grown / grown.sum(axis=1, keepdims=True)
    return share


def _interests(
    rng: np.random.Generator,
    config: WorldConfig,
    catalogue: Catalogue,
    leaning: NDArray[np.float64],
) -> tuple[Ints, Floats]:
    """Exemplars (U, S, E) and the days they begin (U, S, E)."""
    n = len(leaning)
    lived = config.days / config.interest_days
    episodes = PAST_EPISODES + 1 + int(np.ceil(lived + 3 * np.sqrt(lived)))
    by_topic = np.argsort(catalogue.topic, kind="stable")
    first = np.searchsorted(catalogue.topic[by_topic], np.arange(N_TOPICS + 1))
    exemplar = np.zeros((n, SLOTS, episodes), dtype=np.int64)
    for e in range(episodes):
        topic = _liked_topic(rng, leaning)  # (U, S)
        if e:
            before = catalogue.topic[exemplar[:, :, e - 1]]
            follows = catalogue.successor[before, rng.integers(2, size=before.shape)]
            topic = np.where(rng.random(topic.shape) < FOLLOWING_TOPIC, follows, topic)
        size = np.maximum(first[topic + 1] - first[topic], 1)
        place = first[topic] + (rng.random(topic.shape) * size).astype(np.int64)
        new = by_topic[np.minimum(place, catalogue.n_items - 1)]
        if e >= 2:
            # One held before, other than the one that ends.
            earlier = (rng.random(topic.shape) * (e - 1)).astype(np.int64)
            old = np.take_along_axis(exemplar, earlier[:, :, None], axis=2)[:, :, 0]
            new = np.where(rng.random(topic.shape) < config.old_interest_weight, old, new)
        exemplar[:, :, e] = new
    start = np.full((n, SLOTS, episodes), -np.inf, dtype=np.float32)
    waits = rng.exponential(config.interest_days, size=(n, SLOTS, episodes - PAST_EPISODES - 1))
    start[:, :, PAST_EPISODES + 1 :] = np.cumsum(waits, axis=2)
    return exemplar, start


def _liked_topic(rng: np.random.Generator, leaning: NDArray[np.float64]) -> Ints:
    """A topic for each slot by the person's leaning to categories, (U, S)."""
    edges = np.cumsum(leaning, axis=1)
    drawn = rng.random((len(leaning), SLOTS))
    category = (drawn[:, :, None] > edges[:, None, :-1]).sum(axis=2)
    leaf: Ints = category * TOPICS_PER_CATEGORY + rng.integers(
        TOPICS_PER_CATEGORY, size=category.shape
    )
    return leaf


def _favourites(
    rng: np.random.Generator, catalogue: Catalogue, hidden: Floats, exemplar: Ints
) -> Ints:
    """Authors of interests the person had, the one of three that suits the hidden taste best."""
    users = np.arange(len(hidden))[:, None]
    chosen = []
    for _ in range(FAVOURITE_AUTHORS):
        slot = rng.integers(SLOTS, size=(len(users), 3))
        items = exemplar[users, slot, rng.integers(PAST_EPISODES + 2, size=slot.shape)]
        suits = np.einsum("uh,uch->uc", hidden, catalogue.hidden[items])
        best = np.take_along_axis(items, suits.argmax(axis=1)[:, None], axis=1)[:, 0]
        chosen.append(catalogue.author[best])
    return np.stack(chosen, axis=1)
