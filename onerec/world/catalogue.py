"""The videos: topics in a tree, authors, content, hidden style, quality, popularity and age.

Everything here is drawn once and is the truth about the items. What a model may read of it (texts,
tokens, pictures, author, duration, publication) is made in `texts`, `tokens` and `covers`.
Legend: n items, C content width, H hidden width.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from onerec.world.config import WorldConfig
from onerec.world.words import N_CATEGORIES, N_TOPICS, TOPICS_PER_CATEGORY

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

CONTENT_WIDTH = 12
HIDDEN_WIDTH = 8
STYLES = 16

# Shares of the variance of an item's content vector: category, topic, author, the item's own.
CONTENT_SHARES = (0.25, 0.45, 0.1, 0.2)
AUTHOR_SHARE_OF_HIDDEN = 0.5
HOME_TOPIC = 0.75  # how often an author stays with the topic he is known for
ITEMS_PER_AUTHOR = 4
AUTHOR_SPREAD = 1.0  # of the logarithm of an author's output

POPULARITY_SPREAD = 2.2  # of the logarithm of an item's weight before the head is bent down
POPULARITY_CAP = 200.0  # no weight passes this many times the median
QUALITY_IN_POPULARITY = 0.5  # correlation of quality and log-popularity
PUBLISHED_BEFORE = 0.88  # share of the items that are there on the first day
AGE_BEFORE_DAYS = 30.0
FRESH_DAYS = 12.0  # attention falls by a factor e in this time ...
EVERGREEN = 0.6  # ... towards this share of what it was

MEDIAN_DURATION_S = 72.0
DURATION_SPREAD = 1.15  # of the logarithm
DURATION_TOPIC_SHARE = 0.3  # of that variance, given by the topic
DURATION_LIMITS_S = (5.0, 600.0)


@dataclass(frozen=True)
class Catalogue:
    """The truth about n items; `successor` (topics, 2) says what people turn to after a topic."""

    topic: Ints  # (n,)
    author: Ints  # (n,)
    content: Floats  # (n, C), unit length on average
    own_content: Floats  # (n, C), what sets the item apart from its topic
    hidden: Floats  # (n, H), unit length on average
    quality: Floats  # (n,), standard normal
    weight: Floats  # (n,), how much attention the item gets on its first day
    published_day: Floats  # (n,), before day 0 for most
    duration_ms: Ints  # (n,)
    style_direction: Floats  # (STYLES, H)
    successor: Ints  # (topics, 2)

    @property
    def n_items(self) -> int:
        return len(self.topic)

    @property
    def category(self) -> Ints:
        """The topic's parent (n,)."""
        return self.topic // TOPICS_PER_CATEGORY

    @property
    def style(self) -> Ints:
        """The direction of the hidden space an item is nearest to (n,)."""
        nearest: Ints = (self.hidden @ self.style_direction.T).argmax(axis=1)
        return nearest

    def attention(self, days: int) -> NDArray[np.float64]:
        """How much attention each item draws on each day, (days, n): 0 before it is published."""
        age = np.arange(days)[:, None] + 0.5 - self.published_day[None, :]  # (days, n)
        fresh = EVERGREEN + (1 - EVERGREEN) * np.exp(-np.maximum(age, 0) / FRESH_DAYS)
        drawn: NDArray[np.float64] = np.where(age > 0, self.weight * fresh, 0.0)
        return drawn

    def state(self) -> dict[str, NDArray[np.generic]]:
        """The arrays by name, for `World.state`."""
        return {f"items.{field.name}": getattr(self, field.name) for field in fields(self)}


def make_catalogue(config: WorldConfig) -> Catalogue:
    """Draw the items; their order says nothing about them."""
    rng = config.stream("catalogue")
    n = config.n_items
    n_authors = max(2, n // ITEMS_PER_AUTHOR)
    home = rng.choice(N_TOPICS, size=n_authors, p=_uneven(rng, N_TOPICS, 0.5))
    author = rng.choice(n_authors, size=n, p=_uneven(rng, n_authors, AUTHOR_SPREAD))
    sibling = home[author] // TOPICS_PER_CATEGORY * TOPICS_PER_CATEGORY + rng.integers(
        TOPICS_PER_CATEGORY, size=n
    )
    topic = np.where(rng.random(n) < HOME_TOPIC, home[author], sibling)
    own_content, content = _content(rng, topic, author, n_authors)
    quality = _normal(rng, n)
    published = np.where(
        rng.random(n) < PUBLISHED_BEFORE,
        -AGE_BEFORE_DAYS * rng.random(n),
        config.days * rng.random(n),
    )
    return Catalogue(
        topic=topic.astype(np.int64),
        author=author.astype(np.int64),
        content=content,
        own_content=own_content,
        hidden=_hidden(rng, author, n_authors),
        quality=quality,
        weight=_weight(rng, quality),
        published_day=published.astype(np.float32),
        duration_ms=_duration_ms(rng, topic),
        style_direction=unit_vectors(rng, STYLES, HIDDEN_WIDTH),
        successor=_successors(rng),
    )


def _content(
    rng: np.random.Generator, topic: Ints, author: Ints, n_authors: int
) -> tuple[Floats, Floats]:
    """What sets an item apart (n, C), and that with its category and topic (n, C)."""
    by_category, by_topic, by_author, by_item = np.sqrt(CONTENT_SHARES)
    width = CONTENT_WIDTH
    own = by_author * unit_vectors(rng, n_authors, width)[author]
    own = own + by_item * unit_vectors(rng, len(topic), width)
    kind = by_category * unit_vectors(rng, N_CATEGORIES, width)[topic // TOPICS_PER_CATEGORY]
    kind = kind + by_topic * unit_vectors(rng, N_TOPICS, width)[topic]
    return own.astype(np.float32), (own + kind).astype(np.float32)


def _hidden(rng: np.random.Generator, author: Ints, n_authors: int) -> Floats:
    by_author = np.sqrt(AUTHOR_SHARE_OF_HIDDEN) * unit_vectors(rng, n_authors, HIDDEN_WIDTH)[author]
    by_item = np.sqrt(1 - AUTHOR_SHARE_OF_HIDDEN) * unit_vectors(rng, len(author), HIDDEN_WIDTH)
    hidden: Floats = (by_author + by_item).astype(np.float32)
    return hidden


def _weight(rng: np.random.Generator, quality: Floats) -> Floats:
    """Log-normal, with the head bent down to the cap as the head of real catalogues is."""
    rho = QUALITY_IN_POPULARITY
    score = rho * quality + np.sqrt(1 - rho**2) * rng.standard_normal(len(quality))
    weight = np.exp(POPULARITY_SPREAD * score)
    bent: Floats = (weight / (1 + weight / POPULARITY_CAP)).astype(np.float32)
    return bent


def _duration_ms(rng: np.random.Generator, topic: Ints) -> Ints:
    share = DURATION_TOPIC_SHARE
    by_topic = np.sqrt(share) * rng.standard_normal(N_TOPICS)[topic]
    score = by_topic + np.sqrt(1 - share) * rng.standard_normal(len(topic))
    seconds = MEDIAN_DURATION_S * np.exp(DURATION_SPREAD * score)
    duration_ms: Ints = (1000 * np.clip(seconds, *DURATION_LIMITS_S)).astype(np.int64)
    return duration_ms


def _successors(rng: np.random.Generator) -> Ints:
    """Two topics that follow on each topic: one of its own category, one of any other."""
    topic = np.arange(N_TOPICS)
    start = topic // TOPICS_PER_CATEGORY * TOPICS_PER_CATEGORY
    step = rng.integers(1, TOPICS_PER_CATEGORY, size=N_TOPICS)
    near = start + (topic - start + step) % TOPICS_PER_CATEGORY
    far = (topic + rng.integers(TOPICS_PER_CATEGORY, N_TOPICS - TOPICS_PER_CATEGORY, N_TOPICS)) % (
        N_TOPICS
    )
    return np.stack([near, far], axis=1).astype(np.int64)


def _uneven(rng: np.random.Generator, size: int, spread: float) -> NDArray[np.float64]:
    grown = np.exp(spread * rng.standard_normal(size))
    shares: NDArray[np.float64] = grown / grown.sum()
    return shares


def unit_vectors(rng: np.random.Generator, rows: int, width: int) -> Floats:
    """Vectors of length 1 in all directions alike, (rows, width)."""
    drawn = rng.standard_normal((rows, width))
    unit: Floats = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)
    return unit


def _normal(rng: np.random.Generator, size: int) -> Floats:
    return rng.standard_normal(size).astype(np.float32)
