"""One bounded cache over what `onerec.explain` reads, keyed by run, stamp and arguments.

The stamp changes when a stage of the run (or an import of the dataset) finishes, so a finished
thing is read once and a changed one is read again. Live curves do not pass here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import streamlit as st

from onerec.runs import Run

Read = TypeVar("Read")
Source = Run | Path  # what the functions of explain take: a run, or the folder of a dataset


def read(function: Callable[..., Read], source: Source, *arguments: Any, **options: Any) -> Read:
    """`function(source, *arguments, **options)`, remembered while the source stays the same."""
    name = f"{function.__module__}.{function.__qualname__}"
    key = (str(_path(source)), stamp(source), arguments, tuple(sorted(options.items())))
    return _read(name, key, lambda: function(source, *arguments, **options))


def stamp(source: Source) -> str:
    """Changes when the source does: a run's own stamp, a dataset's time of writing."""
    if isinstance(source, Run):
        return source.stamp()
    file = source / "dataset.json"
    return str(file.stat().st_mtime_ns) if file.exists() else ""


@st.cache_data(max_entries=256, show_spinner=False)
def _read(name: str, key: tuple[Any, ...], _compute: Callable[[], Any]) -> Any:
    return _compute()


def _path(source: Source) -> Path:
    return source.path if isinstance(source, Run) else source
