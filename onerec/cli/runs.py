"""`onerec runs`: what has been trained."""

import json
from pathlib import Path
from typing import Any

import typer
from rich.table import Table

from onerec.cli.show import JsonFlag, out, print_json, print_table, say

app = typer.Typer(help="Runs: list, compare, show, rename, delete, export.", no_args_is_help=True)


@app.command("list")
def runs_list(as_json: JsonFlag = False) -> None:
    """The runs at hand, newest first."""
    from onerec.runs import list_runs

    found = list_runs()
    if as_json:
        rows = [{**vars(info), "path": str(info.path)} for info in found]
        print_json({"runs": rows})
        return
    table = Table("run", "state", "recipe", "dataset", "recall@10")
    for info in found:
        recall = (info.metrics or {}).get("recall@10")
        shown = "" if recall is None else f"{recall:.4f}"
        table.add_row(info.name, info.state, info.recipe, info.dataset, shown)
    out.print(table)


@app.command("show")
def runs_show(name: str, as_json: JsonFlag = False) -> None:
    """Recipe, state and results of a run."""
    from onerec.runs import open_run

    run = open_run(name)
    shown = {"status": vars(run.status()), "recipe": run.recipe(), "evaluate": run.evaluate()}
    if as_json:
        print_json(shown)
    else:
        out.print_json(json.dumps(shown, default=str))


@app.command("compare")
def runs_compare(names: list[str], as_json: JsonFlag = False) -> None:
    """The settings in which runs differ, and their results side by side."""
    from onerec.runs import compare, open_run

    runs = [open_run(name) for name in names]
    frame = compare(runs)
    if as_json:
        results = {run.name: run.evaluate() for run in runs}
        print_json({"settings": json.loads(frame.to_json(orient="records")), "results": results})
        return
    print_table("settings that differ", frame)
    table = Table("run", "model", "recall@10", "ndcg@10")
    for run in runs:
        measured: dict[str, Any] = run.evaluate() or {"models": {}}
        for model, values in measured["models"].items():
            shown = [f"{values[metric]:.4f}" for metric in ("recall@10", "ndcg@10")]
            table.add_row(run.name, model, *shown)
    out.print(table)


@app.command("rename")
def runs_rename(name: str, new_name: str, as_json: JsonFlag = False) -> None:
    """Give a run another name."""
    from onerec.runs import open_run, rename_run

    rename_run(open_run(name), new_name)
    say(f"run {name!r} is now {new_name!r}", {"renamed": new_name}, as_json)


@app.command("delete")
def runs_delete(name: str, as_json: JsonFlag = False) -> None:
    """Delete a run's folder."""
    from onerec.runs import delete_run, open_run

    delete_run(open_run(name))
    say(f"run {name!r} is deleted", {"deleted": name}, as_json)


@app.command("export")
def runs_export(name: str, target: Path, as_json: JsonFlag = False) -> None:
    """A run as a zip file."""
    from onerec.runs import export_run, open_run

    path = export_run(open_run(name), target)
    say(f"run {name!r} is in {path}", {"path": str(path)}, as_json)
