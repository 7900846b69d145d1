"""`onerec stream`: the online loop of one arm."""

from typing import Annotated

import typer

from onerec.cli.show import Bars, JsonFlag, err, print_json

app = typer.Typer()


@app.command("stream")
def stream_command(
    run: Annotated[str, typer.Option("--run", help="The run that it begins from.")],
    arm: Annotated[
        str, typer.Option(help="frozen, all, half, rsft, rsft_grpo or rsft_ecpo.")
    ] = "rsft_ecpo",
    name: Annotated[str | None, typer.Option(help="Name of the stream; default the arm.")] = None,
    rounds: Annotated[
        int | None,
        typer.Option(
            help="Days; default 20, or all that a log has to play back.", show_default=False
        ),
    ] = None,
    steps: Annotated[int, typer.Option(help="Updates of the policy a round.")] = 20,
    lag: Annotated[int, typer.Option(help="Updates after which new weights serve.")] = 20,
    share: Annotated[float, typer.Option(help="Share of the users who come in a round.")] = 0.1,
    shown: Annotated[int, typer.Option(help="Items that each of them sees.")] = 10,
    window: Annotated[int, typer.Option(help="Rounds of feedback that are trained on.")] = 3,
    seed: Annotated[int, typer.Option(help="Of visitors, answers and training.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Serve users of the world (or play a log back), learn from their feedback, serve again."""
    from onerec.stream import StreamConfig, stream

    config = StreamConfig(
        arm=arm,
        rounds=rounds,
        steps=steps,
        lag=lag,
        share=share,
        shown=shown,
        window=window,
        seed=seed,
    )
    with Bars(quiet=as_json) as bars:
        made = stream(run, config, name=name, report=bars.report)
    status = made.status()
    metrics = made.metrics("stream")
    last = {} if metrics.empty else metrics.iloc[-1].dropna().to_dict()
    if as_json:
        print_json(
            {
                "run": run,
                "stream": made.name,
                "path": str(made.path),
                "state": status.state,
                "rounds": len(metrics),
                "last": {str(k): v for k, v in last.items() if k != "stage"},
            }
        )
        return
    err.print(f"stream {made.name!r} of run {run!r}: {status.state} ({made.path})")
    if status.message:
        err.print(f"  {status.message}")
    for key in ("true_watch_s", "watch_s", "hits", "positives", "reward"):
        if key in last:
            err.print(f"  {key}: {last[key]:.3f} in round {len(metrics)}")
