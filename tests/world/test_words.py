"""The word lists are even, so that a draw can index them."""

from onerec.world.words import (
    CATEGORIES,
    N_CATEGORIES,
    N_TOPICS,
    TOPIC_NAMES,
    TOPIC_WORDS,
    TOPICS_PER_CATEGORY,
    WORDS_PER_TOPIC,
)


def test_every_category_has_as_many_topics_and_every_topic_as_many_words():
    assert {len(topics) for topics in CATEGORIES.values()} == {TOPICS_PER_CATEGORY}
    assert N_TOPICS == N_CATEGORIES * TOPICS_PER_CATEGORY == len(set(TOPIC_NAMES))
    assert {len(set(words)) for words in TOPIC_WORDS} == {WORDS_PER_TOPIC}
