"""Nested frozen dataclasses as settings: set by path, built from JSON, wrong names answered.

Knows nothing of recipes; `recipes` says which settings there are and what they may be.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from onerec.errors import RecipeError

_GREATEST = 10**18  # a larger number is no count of anything, and no array could be indexed by it
_SHOWN = 60  # characters of what cannot be read


def parse_overrides(settings: Iterable[str]) -> dict[str, str]:
    """`["train.steps=10"]` -> `{"train.steps": "10"}`.

    Raises:
        RecipeError: an entry without an equals sign.
    """
    result = {}
    for entry in settings:
        name, equals, value = entry.partition("=")
        if not equals:
            short = entry if len(entry) <= _SHOWN else f"{entry[:_SHOWN]}…"
            raise RecipeError(f"setting {short!r} has no '='; write as in train.steps=100")
        result[name.strip()] = value.strip()
    return result


def build(kind: type, values: Mapping[str, Any], prefix: str = "") -> Any:
    """A dataclass from nested dictionaries; what is not there keeps its default.

    Raises:
        RecipeError: a setting that `kind` does not have, or a number that is not finite.
    """
    hints = typing.get_type_hints(kind)
    known = {item.name for item in dataclasses.fields(kind)}
    for name in values:
        if name not in known:
            raise RecipeError(f"setting {prefix + name!r} is unknown{nearest(name, known)}")
    made = {}
    for name, value in values.items():
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            made[name] = build(typing.cast(type, hint), value, f"{prefix}{name}.")
        else:
            made[name] = tuple(value) if isinstance(value, list) else _finite(value, prefix + name)
    return kind(**made)


def set_by_path(
    config: Any, path: str, text: str, names: Iterable[str], full: str | None = None
) -> Any:
    """`config` with the setting at `path` read from `text`; `names` are all paths there are.

    Raises:
        RecipeError: no such setting (the nearest is named), a value of a wrong type, or a number
            that is not finite.
    """
    full = full or path
    head, _, rest = path.partition(".")
    fields = {item.name: item for item in dataclasses.fields(config)}
    if head not in fields or head == "name":
        raise RecipeError(
            f"no setting {full!r}{nearest(full, names)}; "
            "the command `onerec recipes` lists them all"
        )
    value = getattr(config, head)
    if dataclasses.is_dataclass(value):
        if not rest:
            inner = [f"{full}.{item.name}" for item in dataclasses.fields(value)]
            raise RecipeError(f"{full!r} is a group of settings: {listed(inner)}")
        return replace(config, **{head: set_by_path(value, rest, text, names, full)})
    if rest:
        raise RecipeError(f"{full!r}: {head!r} holds one value; write --set {head}=...")
    hint = typing.get_type_hints(type(config))[head]
    return replace(config, **{head: _parse(text, hint, full)})


def with_settings(config: Any, words: Iterable[str], flag: str) -> Any:
    """`config`, a dataclass of plain values, with the KEY=VALUE words behind a flag.

    Raises:
        RecipeError: a setting that it has not (the flag is named, and the nearest), a wrong value.
    """
    names = [item.name for item in dataclasses.fields(config)]
    for name, text in parse_overrides(words).items():
        if name not in names:
            raise RecipeError(f"{flag}: no {name!r}{nearest(name, names)}; it has {listed(names)}")
        config = set_by_path(config, name, text, names)
    return config


def _parse(text: str, hint: Any, name: str) -> Any:
    if isinstance(hint, types.GenericAlias):  # tuple[str, ...]
        return tuple(part for part in text.split(",") if part)
    if hint is bool:
        if text.lower() in ("true", "1", "yes"):
            return True
        if text.lower() in ("false", "0", "no"):
            return False
        raise RecipeError(f"{name}={text!r}: needs true or false")
    try:
        value = hint(text)
    except ValueError:
        kind = {int: "a whole number", float: "a number"}.get(hint, hint.__name__)
        raise RecipeError(f"{name}={text!r}: needs {kind}") from None
    if hint is int and abs(value) > _GREATEST:
        raise RecipeError(f"{name}={text[:20]}...: needs a whole number up to 10^18")
    return _finite(value, name)


def _finite(value: Any, name: str) -> Any:
    """The value, unless it is a number that no comparison refuses and no JSON file holds."""
    if isinstance(value, float) and not math.isfinite(value):
        raise RecipeError(f"{name}={value}: needs a finite number")
    return value


def nearest(name: str, names: Iterable[str]) -> str:
    """The end of a message: which of `names` was probably meant, or nothing."""
    near = difflib.get_close_matches(str(name), list(names), n=1, cutoff=0.5)
    if not near:  # a bare name of a nested setting: steps -> train.steps
        near = [n for n in names if n.rpartition(".")[2] == name][:1]
    return f" (did you mean {near[0]!r}?)" if near else ""


def listed(names: Iterable[str]) -> str:
    """Names for a message."""
    return ", ".join(names)
