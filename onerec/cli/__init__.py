"""The command line: `onerec` or `python -m onerec`.

Every command takes `--json`, which prints one JSON object on stdout and nothing else there. Exit
codes: 0, 2 for the user's mistake (one line on stderr, no traceback), 1 for ours. Modules that
import torch are loaded by the commands that need them.
"""

import os
import sys

import typer

from onerec.cli import data, roma, runs, stages, stream, tools
from onerec.errors import OneRecError

# Threads that wait for work must sleep: spinning beside another busy process (the app, a second
# training) makes a step ten times slower. It has to be said before torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

app = typer.Typer(
    help="OneRec: train a generative recommender and look inside it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(stages.app)
app.add_typer(stream.app)
app.add_typer(roma.app)
app.add_typer(data.app, name="data")
app.add_typer(runs.app, name="runs")
app.add_typer(tools.bench, name="bench")
app.add_typer(tools.app)


def main() -> None:
    """Run the command line; the user's mistakes end in one line and exit code 2."""
    try:
        app()
    except OneRecError as error:
        print(f"onerec: {error}", file=sys.stderr)
        sys.exit(2)
