"""A built-in short-video platform whose truth is known: seeded, fast, made of arrays alone."""

from onerec.world.config import WorldConfig
from onerec.world.world import World, make_world

__all__ = ["World", "WorldConfig", "make_world"]
