"""The items: shares of variance, order that says nothing, attention by day."""

import numpy as np

from onerec.world import WorldConfig
from onerec.world.catalogue import EVERGREEN, FRESH_DAYS, PUBLISHED_BEFORE, make_catalogue
from onerec.world.words import N_TOPICS, TOPICS_PER_CATEGORY

CATALOGUE = make_catalogue(WorldConfig(n_items=3_000, seed=2))


def test_content_vectors_have_unit_length_on_average():
    length = np.linalg.norm(CATALOGUE.content, axis=1)
    assert abs((length**2).mean() - 1.0) < 0.1
    assert abs((np.linalg.norm(CATALOGUE.hidden, axis=1) ** 2).mean() - 1.0) < 0.1


def test_items_of_a_topic_are_alike_and_of_a_category_less_so():
    fit = CATALOGUE.content @ CATALOGUE.content.T
    topic, category = CATALOGUE.topic, CATALOGUE.category
    same_topic = topic[:, None] == topic[None, :]
    same_category = (category[:, None] == category[None, :]) & ~same_topic
    assert fit[same_topic].mean() > fit[same_category].mean() + 0.2
    assert fit[same_category].mean() > fit[category[:, None] != category[None, :]].mean() + 0.15


def test_the_number_of_an_item_says_nothing():
    number = np.arange(CATALOGUE.n_items)
    for latent in (CATALOGUE.topic, CATALOGUE.quality, CATALOGUE.weight, CATALOGUE.published_day):
        assert abs(np.corrcoef(number, latent)[0, 1]) < 0.06


def test_attention_is_zero_before_publication_and_falls_after_it():
    attention = CATALOGUE.attention(30)
    day = np.arange(30)[:, None] + 0.5
    assert np.array_equal(attention > 0, day > CATALOGUE.published_day[None, :])
    item = int(np.argmin(np.abs(CATALOGUE.published_day)))
    age = 9.5 - float(CATALOGUE.published_day[item])
    expected = CATALOGUE.weight[item] * (EVERGREEN + (1 - EVERGREEN) * np.exp(-age / FRESH_DAYS))
    np.testing.assert_allclose(attention[9, item], expected, rtol=1e-6)


def test_most_items_are_there_on_the_first_day():
    assert abs((CATALOGUE.published_day < 0).mean() - PUBLISHED_BEFORE) < 0.03


def test_successors_are_other_topics_one_of_them_in_the_same_category():
    topic = np.arange(N_TOPICS)
    near, far = CATALOGUE.successor.T
    assert np.all(near != topic)
    assert np.all(near // TOPICS_PER_CATEGORY == topic // TOPICS_PER_CATEGORY)
    assert np.all(far != topic)
    assert far.min() >= 0
    assert far.max() < N_TOPICS
