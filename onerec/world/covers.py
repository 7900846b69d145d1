"""A small picture per video, drawn when asked for.

The category gives the colours, the topic the shape, and what sets the item apart its place, size
and tilt: items of a topic look alike and no two are the same.
Legend: b items, P pixels along a side.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onerec.world.catalogue import Catalogue
from onerec.world.words import N_CATEGORIES, TOPICS_PER_CATEGORY

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Array = NDArray[np.floating]

PIXELS = 48


def covers(catalogue: Catalogue, items: Ints) -> NDArray[np.uint8]:
    """Pictures (b, P, P, 3) of the items (b,)."""
    items = np.asarray(items, dtype=np.int64)
    own = 2.5 * catalogue.own_content[items]  # (b, C), about -1 to 1
    hue = (catalogue.category[items] + 0.2 * own[:, 0]) / N_CATEGORIES
    ground = _colour(hue, 0.35 + 0.1 * own[:, 1])  # (b, 3)
    figure = _colour(hue + 0.45 + 0.05 * own[:, 2], 0.85 + 0.1 * own[:, 3])
    axis = np.linspace(-1, 1, PIXELS, dtype=np.float32)
    x = axis[None, None, :] - 0.35 * own[:, 4, None, None]
    y = axis[None, :, None] - 0.35 * own[:, 5, None, None]
    tilt = 1.5 * own[:, 6, None, None]
    u, v = x * np.cos(tilt) + y * np.sin(tilt), y * np.cos(tilt) - x * np.sin(tilt)  # (b, P, P)
    size = (0.55 + 0.15 * own[:, 7])[:, None, None]
    inside = _shape(catalogue.topic[items] % TOPICS_PER_CATEGORY, u, v, size)
    light = (1.0 - 0.25 * axis)[None, :, None, None]
    drawn = np.where(inside[..., None], figure[:, None, None, :], ground[:, None, None, :] * light)
    return (255 * np.clip(drawn, 0, 1)).astype(np.uint8)


def _shape(kind: Ints, u: Floats, v: Floats, size: Floats) -> NDArray[np.bool_]:
    """Disc, square, triangle, ring or stripes, (b, P, P)."""
    radius = np.sqrt(u**2 + v**2)
    shapes = np.stack(
        [
            radius < size,
            np.maximum(np.abs(u), np.abs(v)) < 0.85 * size,
            (v > -0.7 * size) & (np.abs(u) < 0.6 * (size - v)),
            (radius < 1.1 * size) & (radius > 0.6 * size),
            (np.sin(6 * u / size) > 0.2) & (radius < 1.5 * size),
        ]
    )  # (5, b, P, P)
    return np.asarray(shapes[kind % len(shapes), np.arange(len(kind))])


def _colour(hue: Array, value: Array) -> Floats:
    """Colours (b, 3) around the wheel: hue in turns, value from dark to light."""
    phase = 2 * np.pi * (hue[:, None] + np.array([0, 1 / 3, 2 / 3]))
    mixed: Floats = (value[:, None] * (0.6 + 0.4 * np.cos(phase))).astype(np.float32)
    return mixed
