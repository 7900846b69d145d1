"""Captions and tags: made by the grammar, telling of the topic, and sometimes wrong."""

import re

from onerec.world.words import CATEGORY_NAMES, COMMON_TAGS, TOPIC_NAMES, TOPIC_WORDS


def test_a_caption_has_a_word_of_its_topic(small_world):
    captions = small_world.captions()
    assert len(captions) == small_world.catalogue.n_items
    for caption, topic in zip(captions, small_world.catalogue.topic, strict=True):
        assert any(word in caption for word in TOPIC_WORDS[topic])
        assert re.fullmatch(r"[a-z0-9:\- ]+", caption), caption


def test_alike_items_share_words(small_world):
    # The words follow the content: two items of a topic with the same first word are closer.
    catalogue, captions = small_world.catalogue, small_world.captions()
    near, far = [], []
    for i in range(200):
        for j in range(i):
            if catalogue.topic[i] == catalogue.topic[j]:
                shared = set(captions[i].split()) & set(captions[j].split())
                same = bool(shared & set(TOPIC_WORDS[catalogue.topic[i]]))
                fit = float(catalogue.own_content[i] @ catalogue.own_content[j])
                (near if same else far).append(fit)
    assert sum(near) / len(near) > sum(far) / len(far)


def test_tags_tell_the_topic_of_most_items_and_never_of_all(small_world):
    right = [
        TOPIC_NAMES[topic] in tags
        for topic, tags in zip(small_world.catalogue.topic, small_world.tags(), strict=True)
    ]
    assert 0.75 < sum(right) / len(right) < 0.95
    known = {*TOPIC_NAMES, *CATEGORY_NAMES, *COMMON_TAGS}
    assert all(set(tags) <= known and tags for tags in small_world.tags())


def test_some_categories_are_wrong(small_world):
    right = [
        CATEGORY_NAMES[category] == given[0]
        for category, given in zip(
            small_world.catalogue.category, small_world.categories(), strict=True
        )
    ]
    assert 0.85 < sum(right) / len(right) < 1.0
