"""Out of memory, told in one line: what was asked for and which setting asks for less."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from onerec.errors import RunError
from onerec.recipes import Recipe

# What sets the memory of a stage, the most effective first.
LOWER = {
    "tokenize": ("tokenizer.codebook_size", "content.text_dim"),
    "pretrain": (
        *("train.batch_size", "history.positive_length", "history.lifelong_length"),
        "model.width",
    ),
    "reward": ("reward.batch_size", "reward.width"),
    "align": ("align.users", "align.group", "train.batch_size"),
    "evaluate": ("evaluate.beam", "baselines.sasrec_batch_size"),
    "recommend": ("evaluate.beam",),
}
_ASKED = re.compile(r"tried to allocate ([\d.]+ \w+)", re.IGNORECASE)
_FREE = re.compile(r"total capacity of ([\d.]+ \w+) of which ([\d.]+ \w+) is free")


@contextlib.contextmanager
def told_of_memory(stage: str, recipe: Recipe) -> Iterator[None]:
    """Within it, an allocation that a GPU (or the system) refuses is the user's to mend.

    Raises:
        RunError: there was not enough memory; says how much was asked for and what to lower.
    """
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one; the CPU's allocator raises plain
        asked = _ASKED.search(str(error))
        if asked is None:
            raise
        free = _FREE.search(str(error))
        there = f", {free[2]} of {free[1]} were free" if free else ""
        known = ((path, _value(recipe, path)) for path in LOWER[stage])
        first, *others = (f"{path} (now {value})" for path, value in known if value)
        last = f", or {' or '.join(others)}" if others else ""
        parts = "go on in smaller parts (--micro-batches 4), or " if stage == "pretrain" else ""
        raise RunError(
            f"{stage}: out of memory: {asked[1]} more were asked for{there}; {parts}start a new "
            f"run with a lower {first}{last}"
        ) from error


def _value(recipe: Recipe, path: str) -> Any:
    section, name = path.split(".")
    return getattr(getattr(recipe, section), name)
