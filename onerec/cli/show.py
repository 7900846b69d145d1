"""What commands share: options, JSON, tables and progress bars."""

import json
from collections.abc import Mapping
from typing import Annotated, Any

import pandas as pd
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object, nothing else.")]

# Titles, names and paths are printed as they are: [words] in them are no markup, :words: no emoji.
out = Console(markup=False, emoji=False)
err = Console(stderr=True, markup=False, emoji=False)


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON object on stdout."""
    print(json.dumps(value, ensure_ascii=False, allow_nan=False, default=str))


def say(text: str, value: Mapping[str, Any], as_json: bool) -> None:
    """A line for people, or the same as JSON."""
    if as_json:
        print_json(value)
    else:
        out.print(text)


def print_table(title: str, frame: pd.DataFrame) -> None:
    """A frame as a table, numbers with four digits."""
    table = Table(*map(str, frame.columns), title=title, title_justify="left")
    for row in frame.itertuples(index=False):
        table.add_row(*(f"{v:.4f}" if isinstance(v, float) else str(v) for v in row))
    out.print(table)


class Bars:
    """Progress on a terminal; nothing where there is none or where JSON is asked for."""

    def __init__(self, quiet: bool) -> None:
        self.progress = Progress(
            TextColumn("{task.description:<9}", markup=False),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[note]}", markup=False),
            TimeElapsedColumn(),
            console=err,
            disable=quiet or not err.is_terminal,
        )
        self.tasks: dict[str, Any] = {}

    def __enter__(self) -> "Bars":
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def report(self, stage: str, step: int, of: int, values: Mapping[str, Any]) -> None:
        if stage not in self.tasks:
            self.tasks[stage] = self.progress.add_task(stage, total=of, note="")
        note = str(values.get("message", ""))
        if "loss" in values:
            note = f"loss {values['loss']:.3f}"
        self.progress.update(self.tasks[stage], completed=step, total=of, note=note)
