"""How a benchmark ends where it cannot go on: in one line on stderr, as `onerec` does.

    @told_in_a_line
    def main(argv: Sequence[str] | None = None) -> None: ...

The exit code is 2 for what the user can mend: a mistake, a file that cannot be read or written, a
package that is not installed, and any of these in a case that had a process of its own; 1 where
such a case failed by us. What is ours in this process keeps its traceback.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import duckdb

from onerec.errors import DataError, OneRecError, RecipeError, first_line
from onerec.run_files import read_json

MISTAKE = 2


class Main(Protocol):
    """A command line that returns its exit code."""

    def __call__(self, argv: Sequence[str] | None = None, /) -> int: ...


def told_in_a_line(main: Callable[[Sequence[str] | None], int | None]) -> Main:
    """The command line `main`, ending in a line and an exit code; see the module's docstring."""

    @functools.wraps(main)
    def told(argv: Sequence[str] | None = None, /) -> int:
        words = sys.argv[1:] if argv is None else list(argv)
        try:
            _refuse_folder(words)
            with as_mistakes():
                return main(argv) or 0
        except OneRecError as error:
            said = str(error)
            if any(word.startswith("--device") for word in words):
                said = said.replace("--set device=", "--device ")
            print(f"onerec: {said}", file=sys.stderr)
            return MISTAKE
        except subprocess.CalledProcessError as error:
            return _case_failed(error)

    return told


def _refuse_folder(words: Sequence[str]) -> None:
    """Before hours of work: where the result should go to, `--out`, is no file that can be made.

    Raises:
        DataError: it is a folder, or stands below a file.
    """
    for word, after in itertools.pairwise([*words, ""]):
        option, given, value = word.partition("=")
        name = (value if given else after) if option == "--out" else ""
        out = Path(name)
        if name and out.is_dir():
            raise DataError(f"--out {name}: is a folder; name a file in it")
        for above in out.parents if name else ():
            if above.exists() and not above.is_dir():
                raise DataError(f"--out {name}: {above} is a file, no folder")


@contextlib.contextmanager
def as_mistakes() -> Iterator[None]:
    """What files and missing packages raise, as the errors that the command line tells.

    Raises:
        DataError: a file or folder cannot be read or written.
        OneRecError: a package that is compared with is not installed.
    """
    try:
        yield
    except OSError as error:
        named = error.filename is not None and error.strerror is not None
        raise DataError(
            f"{error.filename}: {error.strerror}" if named else first_line(error)
        ) from error
    except duckdb.IOException as error:
        raise DataError(first_line(error)) from error
    except ModuleNotFoundError as error:
        if (error.name or "onerec").partition(".")[0] == "onerec":
            raise
        raise OneRecError(
            f"{error.name} is not installed; `pip install onerec[bench]` brings the peers"
        ) from error


def log_of(part: Path) -> Path:
    """Where the stderr of the process that makes a part is kept while it has something to say."""
    return part.with_suffix(".log")


def last_line(text: str) -> str:
    """The last line that says something, without the `onerec:` before it; empty if none does."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("onerec: ") if lines else ""


def _case_failed(error: subprocess.CalledProcessError) -> int:
    """Pass on what a case's process said last; where it is not enough, where the rest is."""
    case, log = error.cmd[error.cmd.index("--one") + 1], log_of(Path(error.cmd[-1]))
    there = log.exists()
    said = last_line(log.read_text(errors="replace")) if there else ""
    said = said or f"it said nothing and ended with status {error.returncode}"
    if error.returncode == MISTAKE:
        print(f"onerec: {case}: {said}", file=sys.stderr)
        return MISTAKE
    more = f"; all of it in {log}" if there else ""
    print(f"onerec: {case} failed: {said}{more}; the same command goes on", file=sys.stderr)
    return 1


def refuse_below_one(chosen: argparse.Namespace, names: Sequence[str]) -> None:
    """Numbers of the command line that count something; None is left to the benchmark.

    Raises:
        RecipeError: one of them is below 1.
    """
    for name in names:
        value = getattr(chosen, name)
        for number in value if isinstance(value, list | tuple) else [value]:
            if number is not None and number < 1:
                raise RecipeError(f"--{name.replace('_', '-')} {number}: at least 1")


def refuse_no_amount(
    chosen: argparse.Namespace, names: Sequence[str], *, zero: bool = True
) -> None:
    """Numbers of the command line that measure something, from 0 up, or without `zero` above it.

    Raises:
        RecipeError: one of them is below that or not finite.
    """
    asked = "a number from 0 up" if zero else "a number above 0"
    for name in names:
        value = getattr(chosen, name)
        for number in value if isinstance(value, list | tuple) else [value]:
            if not (math.isfinite(number) and (number > 0 or (zero and number == 0))):
                raise RecipeError(f"--{name.replace('_', '-')} {number}: {asked}")


def read_results(paths: Sequence[Path], *keys: str) -> list[dict[str, Any]]:
    """The results in files, to be put together.

    Raises:
        RunError: a file is missing or is no JSON object.
        DataError: a file has not the `keys` of this benchmark's results.
    """
    found = [read_json(path) for path in paths]
    for path, one in zip(paths, found, strict=True):
        for key in keys:
            if not one.get(key):
                raise DataError(f"{path}: holds no {key!r}; give results of this benchmark")
    return found


def refuse_unlike(
    paths: Sequence[Path], parts: Sequence[dict[str, Any]], alike: Sequence[str], *, other_than: str
) -> None:
    """Results that do not belong together, where all may differ in one thing and have to.

    Raises:
        DataError: one differs from the first in a key of `alike`, or is twice the same in the key
            `other_than`, or lacks it.
    """
    first, seen = parts[0], dict[str, Path]()
    for path, one in zip(paths, parts, strict=True):
        for key in alike:
            if one.get(key) != first.get(key):
                raise DataError(
                    f"{path}: {key} is {one.get(key)!r}, and {first.get(key)!r} in {paths[0]}; "
                    f"join results that differ in {other_than} alone"
                )
        if other_than not in one:
            raise DataError(f"{path}: holds no {other_than!r}; give results of this benchmark")
        number = str(one[other_than])
        if number in seen:
            raise DataError(f"{path}: {other_than} {number} is in {seen[number]} too; give it once")
        seen[number] = path
