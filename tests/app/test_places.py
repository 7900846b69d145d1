"""Places: the reader's own things first, the demo's with a prefix and read-only."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import fake_run
import places

from onerec.run_files import write_json
from onerec.runs import Run


def test_own_runs_stand_before_the_demos(use_home: Callable[..., Path], tmp_path: Path) -> None:
    own = fake_run.build(tmp_path / "own", run="mine").home
    demo = fake_run.build(tmp_path / "demo", dataset="world", run="tiny").home
    use_home(own, demo)
    assert list(places.run_infos()) == ["mine", "demo/tiny"]
    assert list(places.dataset_folders()) == ["toy", "demo/world"]
    assert places.read_only("demo/tiny")
    assert not places.read_only("mine")
    infos = places.run_infos()
    assert places.dataset_of("demo/tiny", infos["demo/tiny"]) == "demo/world"
    assert places.dataset_of("mine", infos["mine"]) == "toy"


def test_a_run_of_ones_own_on_the_demos_dataset_is_shown_with_it(
    use_home: Callable[..., Path], tmp_path: Path
) -> None:
    demo = fake_run.build(tmp_path / "demo", dataset="world").home
    own = fake_run.build(tmp_path / "own", run="mine", dataset="world")
    shutil.rmtree(own.home / "datasets")
    recipe = Run(own.run).recipe() | {"dataset_path": str(demo / "datasets" / "world")}
    write_json(own.run / "recipe.json", recipe)
    use_home(own.home, demo)
    assert places.dataset_of("mine", places.run_infos()["mine"]) == "demo/world"


def test_the_command_line_gets_a_path_it_can_open(
    use_home: Callable[..., Path], tmp_path: Path
) -> None:
    demo = fake_run.build(tmp_path / "demo", dataset="world").home
    use_home(tmp_path / "own", demo)
    assert places.command_line_name("demo/world") == str(demo / "datasets" / "world")
    assert places.command_line_name("mine") == "mine"


def test_nothing_anywhere_is_no_error(use_home: Callable[..., Path], tmp_path: Path) -> None:
    use_home(tmp_path / "nowhere")
    assert places.run_infos() == {}
    assert places.dataset_folders() == {}


def test_a_home_that_is_the_demo_is_listed_once(
    use_home: Callable[..., Path], tmp_path: Path
) -> None:
    home = fake_run.build(tmp_path / "both").home
    use_home(home, home)
    assert list(places.run_infos()) == ["toy_run"]


def test_a_command_finds_its_runs_where_it_is_typed(
    use_home: Callable[..., Path], own_home: Path, tmp_path: Path
) -> None:
    """The demo lies in another home: without ONEREC_HOME the command would find no run."""
    own, demo = Run(own_home / "runs" / "toy_run"), fake_run.build(tmp_path / "the demo")
    use_home(own_home, demo.home)
    assert places.command("runs show toy_run", own) == "onerec runs show toy_run"
    line = places.command("runs show toy_run", Run(demo.run))
    assert line == f"ONEREC_HOME='{demo.home}' onerec runs show toy_run"
    done = subprocess.run(
        line.replace(" onerec ", f" {sys.executable} -m onerec "),
        shell=True, cwd=places.ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    both = places.command("runs compare a b", own, Run(demo.run))
    assert both == "onerec runs compare a b", "runs of two homes are named by their paths"
