"""Points in the plane for the playground: a few shapes, each the same for the same seed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def _clouds(n: int, random: np.random.Generator) -> Floats:
    """Seven clouds of unequal size and width."""
    centres = random.uniform(-0.8, 0.8, (7, 2))
    widths = random.uniform(0.05, 0.14, 7)
    own = random.choice(7, n, p=random.dirichlet(np.full(7, 4.0)))
    return np.asarray(centres[own] + widths[own, None] * random.standard_normal((n, 2)))


def _ring(n: int, random: np.random.Generator) -> Floats:
    angle = random.uniform(0, 2 * np.pi, n)
    radius = 0.8 + 0.06 * random.standard_normal(n)
    return np.asarray(radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1))


def _moons(n: int, random: np.random.Generator) -> Floats:
    """Two half circles that reach into each other."""
    angle, upper = random.uniform(0, np.pi, n), random.random(n) < 0.5
    x = np.where(upper, np.cos(angle) - 0.4, 0.4 - np.cos(angle))
    y = np.where(upper, np.sin(angle) - 0.3, 0.3 - np.sin(angle))
    return 0.7 * np.stack([x, y], 1) + 0.05 * random.standard_normal((n, 2))


def _uniform(n: int, random: np.random.Generator) -> Floats:
    return np.asarray(random.uniform(-1, 1, (n, 2)))


SHAPES: dict[str, Callable[[int, np.random.Generator], Floats]] = {
    "clouds": _clouds,
    "ring": _ring,
    "moons": _moons,
    "uniform": _uniform,
}


def points(shape: str, n: int, seed: int) -> Floats:
    """(n, 2) points within about [-1, 1]^2, the same for the same seed."""
    random = np.random.default_rng(seed)
    return SHAPES[shape](n, random)
