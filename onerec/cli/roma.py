"""`onerec roma`: the routers of a finished run tuned, as a run of its own."""

from typing import Annotated

import typer

from onerec.cli.show import Bars, JsonFlag, err, print_json

app = typer.Typer()


@app.command("roma")
def roma_command(
    run: Annotated[str, typer.Option("--run", help="The finished run to begin from.")],
    into: Annotated[str, typer.Option("--into", help="Name of the new run.")],
    steps: Annotated[int, typer.Option(help="Updates of the routers.")] = 200,
    learning_rate: Annotated[float, typer.Option(help="Highest, falls as a cosine.")] = 1e-3,
    weight: Annotated[float, typer.Option(help="Of the manifold term; 0 leaves it out.")] = 1.0,
    bank: Annotated[int, typer.Option(help="Training contexts asked for success.")] = 4_096,
    as_json: JsonFlag = False,
) -> None:
    """RoMA: move the routers of a finished run, and nothing else; the result is a new run."""
    from onerec.pipeline.roma import read_report, roma
    from onerec.pipeline.router_tuning import Tuning

    tuning = Tuning(steps=steps, rate=learning_rate, weight=weight, bank=bank)
    with Bars(quiet=as_json) as bars:
        made = roma(run, into, tuning, report=bars.report)
    status, told = made.status(), read_report(made)
    if as_json:
        summary = {"run": made.name, "path": str(made.path), "state": status.state}
        print_json(summary | {"roma": told})
        return
    err.print(f"run {made.name!r}: {status.state} ({made.path})")
    for key, before in told.get("before", {}).items():
        err.print(f"  {key}: {before:.4f} -> {told['after'][key]:.4f}")
    if told:
        moved = told["parameters"]
        err.print(f"  routers: {moved['moved']:,} of {moved['all']:,} parameters moved")
        err.print(f"  next: onerec evaluate --run {made.name}")
