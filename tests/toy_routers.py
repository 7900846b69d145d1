"""The toy dataset and a run with its tokenizer, for a small model with four experts, two active."""

from pathlib import Path

import toy_home

from onerec.assembly import Setting, setting_of
from onerec.pipeline import run as run_stages
from onerec.runs import Run

NAME, STEPS = "routed", 4
SETTINGS = {
    "model.experts": "4",
    "model.active_experts": "2",
    "model.decoder_layers": "2",
    "train.steps": str(STEPS),
}


def prepare(home: Path, changes: dict[str, str] | None = None) -> tuple[Run, Setting]:
    """The run and what it learns from."""
    toy_home.make_dataset(home)
    chosen = toy_home.make_recipe(SETTINGS | (changes or {}))
    run = run_stages(NAME, chosen, "toy", home=home, stages=("tokenize",))
    return run, setting_of(run, home)
