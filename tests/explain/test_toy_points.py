"""Each shape lies within the square that is drawn, and is the same for the same seed."""

import numpy as np
import pytest

from onerec.explain.toy_points import SHAPES, points


@pytest.mark.parametrize("shape", SHAPES)
def test_points_are_inside_and_repeatable(shape: str) -> None:
    x = points(shape, 400, 3)
    assert x.shape == (400, 2)
    assert np.abs(x).max() < 1.25
    assert np.array_equal(x, points(shape, 400, 3))
    assert not np.array_equal(x, points(shape, 400, 4))


def test_a_ring_is_hollow_and_moons_are_two() -> None:
    radius = np.linalg.norm(points("ring", 400, 0), axis=1)
    assert radius.min() > 0.5
    moons = points("moons", 400, 0)
    upper = moons[moons[:, 0] < -0.5]
    assert upper[:, 1].mean() > 0, "the left end belongs to the upper moon"
