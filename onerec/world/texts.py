"""What the videos say: captions and tags written by a grammar.

The words of a caption are those of the item's topic that lie nearest to its content, with some
chance; so a text encoder finds the topic and a part of what sets the item apart. Some words, tags
and categories are wrong, as on a real platform: no text is the topic itself.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onerec.world.catalogue import CONTENT_WIDTH, Catalogue
from onerec.world.config import WorldConfig
from onerec.world.words import (
    CATEGORY_NAMES,
    CLOSERS,
    COMMON_TAGS,
    LINKS,
    MOODS,
    N_CATEGORIES,
    N_TOPICS,
    OPENERS,
    TOPIC_NAMES,
    TOPIC_WORDS,
    WORDS_PER_TOPIC,
)

Ints = NDArray[np.int64]

WORD_SHARPNESS = 4.0  # how strictly the words follow the content
STRAY_WORD = 0.06  # share of the captions whose second word comes from any topic
MISSING_TOPIC_TAG = 0.15
MISSING_CATEGORY_TAG = 0.4
WRONG_CATEGORY = 0.08


def captions(config: WorldConfig, catalogue: Catalogue) -> list[str]:
    """One sentence per item, n of them."""
    rng = config.stream("captions")
    n = catalogue.n_items
    first, second = _two_words(rng, catalogue)  # (n, 2) of topic and word
    frames = zip(
        rng.integers(len(OPENERS), size=n).tolist(),
        rng.integers(len(MOODS), size=n).tolist(),
        rng.integers(len(LINKS), size=n).tolist(),
        rng.integers(len(CLOSERS), size=n).tolist(),
        first.tolist(),
        second.tolist(),
        strict=True,
    )
    return [
        f"{OPENERS[o]} {MOODS[m]} {TOPIC_WORDS[a][b]} {LINKS[k]} {TOPIC_WORDS[c][d]} "
        f"{CLOSERS[e]}".rstrip()
        for o, m, k, e, (a, b), (c, d) in frames
    ]


def tags(config: WorldConfig, catalogue: Catalogue) -> list[list[str]]:
    """The tags of each item: topic and category where they are not missing, and a common one."""
    rng = config.stream("tags")
    n = catalogue.n_items
    has_topic = rng.random(n) >= MISSING_TOPIC_TAG
    has_category = rng.random(n) >= MISSING_CATEGORY_TAG
    common = rng.integers(len(COMMON_TAGS), size=n)
    rows = zip(catalogue.topic, catalogue.category, has_topic, has_category, common, strict=True)
    return [
        [TOPIC_NAMES[t]] * bool(a) + [CATEGORY_NAMES[c]] * bool(b) + [COMMON_TAGS[k]]
        for t, c, a, b, k in rows
    ]


def categories(config: WorldConfig, catalogue: Catalogue) -> list[list[str]]:
    """The category that the uploader chose, wrong for a few."""
    rng = config.stream("categories")
    n = catalogue.n_items
    wrong = rng.random(n) < WRONG_CATEGORY
    chosen = np.where(wrong, rng.integers(N_CATEGORIES, size=n), catalogue.category)
    return [[CATEGORY_NAMES[c]] for c in chosen]


def _two_words(rng: np.random.Generator, catalogue: Catalogue) -> tuple[Ints, Ints]:
    """(topic, word) of the first and the second noun of each caption, (n, 2) each."""
    meaning = rng.standard_normal((N_TOPICS, WORDS_PER_TOPIC, CONTENT_WIDTH))
    fit = np.einsum("nwc,nc->nw", meaning[catalogue.topic], catalogue.own_content)
    best = np.argsort(-(WORD_SHARPNESS * fit + rng.gumbel(size=fit.shape)), axis=1)
    first = np.stack([catalogue.topic, best[:, 0]], axis=1)
    second = np.stack([catalogue.topic, best[:, 1]], axis=1)
    stray = rng.random(len(best)) < STRAY_WORD
    second[stray, 0] = rng.integers(N_TOPICS, size=int(stray.sum()))
    return first, second
