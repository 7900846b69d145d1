"""What reader and writer of a run folder share: stages, names, JSON, tables, live processes.

No torch, and nothing about what the files mean: that stands in `onerec.runs`.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import re
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb
import psutil

from onerec.errors import RunError

STAGES = ("tokenize", "pretrain", "reward", "align", "evaluate", "recommend")
STAGE_FOLDERS = {"tokenize": "tokenizer"} | {stage: stage for stage in STAGES[1:]}
SAME_PROCESS_SECONDS = 2.0  # clocks may be adjusted while a process lives
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


def valid_name(name: str, what: str = "run name") -> str:
    """The name unchanged, if it may be a folder's; `what` says whose it is.

    Raises:
        RunError: anything but letters, digits, dot, dash and underscore, or over 80 characters.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise RunError(
            f"{what} {name!r}: use up to 80 letters, digits, '.', '-' and '_', "
            "beginning with a letter or digit"
        )
    return name


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        RunError: the file is missing, cut off or holds no object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path}: no such file") from None
    except (ValueError, OSError) as error:
        raise RunError(f"{path}: not readable as JSON ({error}); restore or delete it") from None
    if not isinstance(value, dict):
        raise RunError(f"{path}: expected an object, found {type(value).__name__}")
    return value


def dataset_folder(home: Path, described: Mapping[str, Any]) -> Path | None:
    """Where the dataset of a recipe.json lies: the home's of that name, or the folder trained from.

    The second where the home has none, or another of that name. None: it is nowhere.
    """
    said = described.get("dataset") or {}
    name, elsewhere = str(said.get("name") or ""), str(described.get("dataset_path") or "")
    places = [home / "datasets" / name] if name else []
    places += [Path(elsewhere)] if elsewhere else []
    there = [place for place in places if (place / "dataset.json").is_file()]
    for place in there[:-1]:
        try:
            if read_json(place / "dataset.json").get("fingerprint") == said.get("fingerprint"):
                return place
        except RunError:
            continue  # damaged
    return there[-1] if there else None


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace a JSON file in one step; a reader sees the old text or the new, never half.

    Raises:
        ValueError: a value is NaN or infinite.
        RunError: no space is left; the old file stands and no temporary one is left behind.
    """
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno == errno.ENOSPC:
            raise RunError(
                f"{path}: no space left on the disk; free some and start again"
            ) from None
        raise


def cursor() -> duckdb.DuckDBPyConnection:
    """A cursor on this process's in-memory DuckDB: opening one anew costs ten times a small query.

    Nothing is kept between queries: no table is made, and files are read again each time, since a
    run replaces them while it is watched. Safe from any thread; a forked child opens its own.
    """
    return _connection(os.getpid()).cursor()


@functools.lru_cache(maxsize=1)
def _connection(pid: int) -> duckdb.DuckDBPyConnection:
    return duckdb.connect(config={"enable_external_file_cache": False})


def process_lives(pid: int, started: float) -> bool:
    """Whether this very process still lives: the number and the time of its creation agree."""
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - started) < SAME_PROCESS_SECONDS
        return bool(same and process.status() != psutil.STATUS_ZOMBIE)
    except (psutil.Error, OverflowError, ValueError):
        return False


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted names with JSON texts: {"a": {"b": 1}} -> {"a.b": "1"}."""
    flat: dict[str, str] = {}
    for key, inner in value.items():
        name = f"{prefix}{key}"
        if isinstance(inner, Mapping):
            flat |= flatten(inner, f"{name}.")
        else:
            flat[name] = inner if isinstance(inner, str) else json.dumps(inner)
    return flat
