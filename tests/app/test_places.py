"""Places: the reader's own things first, the demo's with a prefix and read-only."""

from collections.abc import Callable
from pathlib import Path

import fake_run
import places


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
