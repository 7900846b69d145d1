"""A small dataset and a small recipe, with which the whole pipeline takes a second or two.

Unlike `fake_run`, everything here goes through the library: the dataset is written by it and runs
are really trained. People walk through one of three shelves of ten items, mostly one item further
each time, so there is something to learn and there are repeats to filter.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from onerec.data.dataset import Dataset, dataset_path, write_dataset
from onerec.recipes import Recipe, recipe

USERS, SHELVES, PER_SHELF = 40, ("cooking", "football", "travel"), 10
ITEMS = len(SHELVES) * PER_SHELF
HOUR_MS = 3_600_000
STEPS = 30
SETTINGS = {
    "content.text_dim": "8",
    "content.behaviour_dim": "8",
    "tokenizer.levels": "2",
    "history.item_input": "both",
    "history.content": "false",
    "evaluate.filter_seen": "false",
    "history.short_length": "5",
    "history.positive_length": "8",
    "model.width": "16",
    "model.heads": "2",
    "model.experts": "2",
    "model.active_experts": "1",
    "train.steps": str(STEPS),
    "train.learning_rate": "0.003",
    "train.batch_size": "32",
    "train.targets": "2",
    "train.warmup_steps": "5",
    "train.evaluate_every": "10",
    "train.checkpoint_every": "10",
    "evaluate.split": "leave_one_out",
    "evaluate.beam": "10",
    "baselines.trials": "1",
    "baselines.sasrec_trials": "1",
    "train.keep": "last",
    "baselines.sasrec_steps": "20",
    "baselines.sasrec_width": "16",
    "reward.steps": "0",
    "align.steps": "0",
}
ALIGNED = {  # with a reward model and a policy aligned with it
    "reward.steps": "20",
    "reward.batch_size": "64",
    "reward.width": "8",
    "reward.rounds": "1",
    "align.steps": "8",
    "align.users": "4",
    "align.group": "6",
    "align.format_items": "2",
}


LIFELONG = {  # with the fourth pathway; histories of 8 events and more are too short for it
    "history.lifelong_length": "12",
    "history.lifelong_limit": "8",
    "history.lifelong_queries": "3",
}


def tables(seed: int = 0, shortest: int = 8) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Interactions, items and users with original ids, as a source would give them.

    Users have `shortest` to `shortest` + 8 events.
    """
    random = np.random.default_rng(seed)
    rows = []
    for user in range(USERS):
        shelf, place = user % len(SHELVES), int(random.integers(PER_SHELF))
        for event in range(shortest + user % 9):
            place = (place + 1 if random.random() < 0.9 else int(random.integers(10))) % PER_SHELF
            rows.append(
                {
                    "user_id": f"u{user:02d}",
                    "item_id": f"i{shelf * PER_SHELF + place:02d}",
                    "timestamp": 1_700_000_000_000 + (event * 50 + user) * HOUR_MS,
                    "click": bool(random.random() < 0.9),
                    "like": None if random.random() < 0.1 else bool(random.random() < 0.8),
                }
            )
    shelf = [SHELVES[item // PER_SHELF] for item in range(ITEMS)]
    items = pd.DataFrame(
        {
            "item_id": [f"i{item:02d}" for item in range(ITEMS)],
            "title": [f"{name} part {i % PER_SHELF}" for i, name in enumerate(shelf)],
            "tags": [[name, f"part{i % PER_SHELF}"] for i, name in enumerate(shelf)],
            "author_id": [f"a{i % 7}" for i in range(ITEMS)],
        }
    )
    users = pd.DataFrame(
        {
            "user_id": [f"u{user:02d}" for user in range(USERS)],
            "city": [("north", "south")[user % 2] for user in range(USERS)],
        }
    )
    return pd.DataFrame(rows), items, users


def make_dataset(home: Path, name: str = "toy", seed: int = 0, shortest: int = 8) -> Dataset:
    """Write the dataset below `home`."""
    log, items, users = tables(seed, shortest)
    return write_dataset(dataset_path(name, home), name, log, items, users, source="toy")


def spoil_moments(folder: Path) -> None:
    """Make every checkpoint of a folder one whose weights can be read and whose moments cannot."""
    for path in folder.glob("checkpoint-*.safetensors"):
        state = load_file(path)
        save_file(state | {"optim.nobody.exp_avg": torch.zeros(3)}, path)
        about = path.with_suffix(".json")
        told = json.loads(about.read_text()) | {"bytes": path.stat().st_size}
        about.write_text(json.dumps(told))


def write_files(folder: Path) -> tuple[Path, Path, Path]:
    """The same tables as CSV files, for import."""
    log, items, users = tables()
    items["tags"] = items["tags"].map("|".join)
    paths = folder / "log.csv", folder / "items.csv", folder / "users.csv"
    for frame, path in zip((log, items, users), paths, strict=True):
        frame.to_csv(path, index=False)
    return paths


def make_recipe(changes: Mapping[str, str] | None = None) -> Recipe:
    """The recipe `tiny` made much smaller, with `changes` on top."""
    return recipe("tiny", {**SETTINGS, **(changes or {})})


def set_options(changes: Mapping[str, str] | None = None) -> list[str]:
    """The same recipe as options of the command line."""
    settings = {**SETTINGS, **(changes or {})}
    named = [f"{key}={value}" for key, value in settings.items()]
    return ["--recipe", "tiny", *(part for entry in named for part in ("--set", entry))]
