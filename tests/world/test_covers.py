"""Covers: small pictures that differ between items and repeat for the same item."""

import numpy as np


def test_pictures_are_drawn_on_request_and_always_alike(small_world):
    items = np.array([0, 5, 17])
    drawn = small_world.covers(items)
    assert drawn.shape == (3, 48, 48, 3)
    assert drawn.dtype == np.uint8
    assert np.array_equal(drawn[1], small_world.covers(np.array([5]))[0])
    assert len(np.unique(drawn[0].reshape(-1, 3), axis=0)) > 1


def test_items_of_a_category_share_their_colours(small_world):
    catalogue = small_world.catalogue
    mean = small_world.covers(np.arange(catalogue.n_items)).mean(axis=(1, 2))  # (n, 3)
    distance = np.linalg.norm(mean[:, None] - mean[None], axis=2)
    same = catalogue.category[:, None] == catalogue.category[None]
    assert distance[same].mean() < 0.9 * distance[~same].mean()


def test_no_two_pictures_are_the_same(small_world):
    drawn = small_world.covers(np.arange(small_world.catalogue.n_items))
    assert len({picture.tobytes() for picture in drawn}) == len(drawn)
