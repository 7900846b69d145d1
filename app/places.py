"""Where datasets and runs lie: the reader's own home, and the shipped demo beside it.

Names of the demo carry the prefix `demo/`; they are read-only. Nothing here imports torch.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from onerec import runs

ROOT = Path(__file__).resolve().parents[1]
DEMO = "demo/"


def home() -> Path:
    """ONEREC_HOME, else ./data: where imports and trainings are written."""
    return runs.default_home().resolve()


def demo_home() -> Path:
    """The shipped demo (ONEREC_DEMO moves it, for tests and for a mounted copy)."""
    return Path(os.environ.get("ONEREC_DEMO", ROOT / "data" / "demo")).resolve()


def homes() -> list[tuple[str, Path]]:
    """(name prefix, folder) of every place that is looked at, the reader's own first."""
    own, demo = home(), demo_home()
    return [("", own)] if own == demo else [("", own), (DEMO, demo)]


def run_infos() -> dict[str, runs.RunInfo]:
    """Every run by its name in the app, newest first, the demo's last."""
    return {
        prefix + info.name: info
        for prefix, folder in homes()
        if (folder / "runs").is_dir()
        for info in runs.list_runs(folder)
    }


def dataset_folders() -> dict[str, Path]:
    """Every dataset folder by its name in the app."""
    return {
        prefix + path.parent.name: path.parent
        for prefix, folder in homes()
        for path in sorted((folder / "datasets").glob("*/dataset.json"))
    }


def dataset_of(run_name: str, info: runs.RunInfo) -> str:
    """The app's name of the dataset that a run was trained on."""
    folder = runs.Run(info.path).dataset_folder
    here = {path.resolve(): name for name, path in dataset_folders().items()}
    if folder and folder.resolve() in here:
        return here[folder.resolve()]
    return DEMO + info.dataset if read_only(run_name) else info.dataset


def read_only(name: str) -> bool:
    """Whether a run or dataset belongs to the shipped demo."""
    return name.startswith(DEMO)


def command(words: str, *runs_: runs.Run) -> str:
    """`onerec <words>` for these runs, with ONEREC_HOME where a terminal would not find them."""
    elsewhere = {run.home.resolve() for run in runs_} - {home()}
    if len(elsewhere) == 1 and all(run.home.resolve() in elsewhere for run in runs_):
        folder = next(iter(elsewhere))
        return f"ONEREC_HOME={shlex.quote(_near(folder))} onerec {words}"
    return f"onerec {words}"


def _near(path: Path) -> str:
    """A path as it is typed in the folder where the server was started."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def command_line_name(name: str) -> str:
    """A demo's name as the command line takes it: the path of its folder."""
    if not read_only(name):
        return name
    folder = dataset_folders().get(name)
    return str(folder) if folder else name
