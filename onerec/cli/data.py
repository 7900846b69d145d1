"""`onerec data`: datasets from files, archives or the built-in world."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from onerec.cli.show import Bars, JsonFlag, out, print_json, say
from onerec.errors import DataError

app = typer.Typer(help="Datasets: list, get, import, describe, delete.", no_args_is_help=True)


def _pairs(entries: list[str] | None) -> dict[str, str]:
    pairs = {}
    for entry in entries or []:
        ours, equals, theirs = entry.partition("=")
        if not equals:
            raise DataError(f"--column {entry!r} has no '='; write --column ours=theirs")
        pairs[ours.strip()] = theirs.strip()
    return pairs


@app.command("import")
def data_import(
    name: Annotated[str, typer.Option(help="Name of the new dataset.")],
    interactions: Annotated[Path, typer.Option(help="CSV or Parquet: user, item, time.")],
    items: Annotated[Path | None, typer.Option(help="CSV or Parquet: one row per item.")] = None,
    users: Annotated[Path | None, typer.Option(help="CSV or Parquet: one row per user.")] = None,
    column: Annotated[list[str] | None, typer.Option(metavar="OURS=THEIRS")] = None,
    unknown_items: Annotated[str, typer.Option(help="keep or drop")] = "keep",
    as_json: JsonFlag = False,
) -> None:
    """Make a dataset from your own files."""
    from onerec.data.describe import describe
    from onerec.data.ingest import import_files

    dataset = import_files(
        interactions, items, users, name=name, columns=_pairs(column), unknown_items=unknown_items
    )
    _print_description(describe(dataset), as_json)


@app.command("get")
def data_get(
    name: Annotated[str, typer.Argument(help="kuairand-pure, ml-100k, beauty, world, ...")],
    source: Annotated[Path | None, typer.Option("--from", help="A local archive.")] = None,
    as_name: Annotated[str | None, typer.Option("--name", help="Name of the dataset.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Of the world: n_users=50000, seed=1, ..."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Download a public dataset from its official address, take an archive, or make a world."""
    from onerec.data.describe import describe
    from onerec.data.ingest import get

    world = None
    if settings:
        from onerec.settings import with_settings
        from onerec.world.config import WorldConfig

        world = with_settings(WorldConfig(), settings, "--set")
    with Bars(quiet=as_json) as bars:

        def progress(done: int, total: int | None) -> None:
            mib = 1 << 20
            bars.report("get", done // mib, (total or done) // mib, {"message": "MiB"})

        dataset = get(name, source=source, name=as_name, progress=progress, world=world)
    _print_description(describe(dataset), as_json)


@app.command("describe")
def data_describe(name: str, as_json: JsonFlag = False) -> None:
    """What a dataset holds, how its columns were read and what was left out."""
    from onerec.data.dataset import open_dataset
    from onerec.data.describe import describe

    _print_description(describe(open_dataset(name)), as_json)


@app.command("list")
def data_list(as_json: JsonFlag = False) -> None:
    """The datasets at hand."""
    from onerec.data.dataset import list_datasets

    found = list_datasets()
    if as_json:
        print_json({"datasets": found})
        return
    table = Table("name", "interactions", "users", "items", "source")
    for info in found:
        if info.get("damaged"):
            table.add_row(info["name"], "damaged", "", "", "delete it and import it again")
            continue
        rows = info["rows"]
        counts = [f"{rows[name]:,}" for name in ("interactions", "users", "items")]
        table.add_row(info["name"], *counts, info["source"])
    out.print(table)


@app.command("delete")
def data_delete(name: str, as_json: JsonFlag = False) -> None:
    """Delete a dataset's folder."""
    from onerec.data.dataset import delete_dataset

    delete_dataset(name)
    say(f"dataset {name!r} is deleted", {"deleted": name}, as_json)


def _print_description(description: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(description)
        return
    table = Table("what", "value", show_lines=False)
    for key, value in description.items():
        text = json.dumps(value, ensure_ascii=False, default=str) if value else str(value)
        table.add_row(key, value if isinstance(value, str) else text)
    out.print(table)
