"""`onerec stream`: what it prints, and what it says of a mistake."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import toy_home

from onerec.data.dataset import dataset_path, write_dataset
from onerec.data.sources.world import make_world_dataset
from onerec.pipeline import run as run_stages
from onerec.world import WorldConfig

ROOT = Path(__file__).resolve().parents[2]
SHORT = ("--rounds", "2", "--steps", "2", "--lag", "2", "--share", "0.2", "--shown", "4")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a small world and the run `r` with a reward model; do not change."""
    found = tmp_path_factory.mktemp("stream")
    make_world_dataset("w", WorldConfig(n_items=500, n_users=120, mean_history=25), found)
    changes = {**toy_home.ALIGNED, "evaluate.split": "temporal", "train.steps": "5"}
    recipe = toy_home.make_recipe(changes | {"history.item_input": "codes"})
    run_stages("r", recipe, "w", home=found, stages=("tokenize", "pretrain", "reward", "align"))
    return found


@pytest.fixture
def world(home: Path, made: Path) -> Path:
    shutil.copytree(made, home, dirs_exist_ok=True)
    return home


def test_a_stream_is_one_object(cli: Any, world: Path) -> None:
    command = ("stream", "--run", "r", "--arm", "all", *SHORT, "--json")
    answer = cli(*command)
    assert answer.err == ""
    done = answer.json()
    assert (done["run"], done["stream"], done["state"], done["rounds"]) == ("r", "all", "done", 2)
    assert Path(done["path"]) == world / "runs" / "r" / "stream" / "all"
    assert done["last"]["step"] == 2
    assert done["last"]["true_watch_s"] > 0
    assert cli(*command).json() == done, "the same command again has nothing left to do"


def test_for_people_it_says_where_and_how_it_went(cli: Any, world: Path) -> None:
    answer = cli("stream", "--run", "r", "--arm", "frozen", "--name", "mine", *SHORT)
    assert (answer.code, answer.out) == (0, "")
    assert "stream 'mine' of run 'r': done" in answer.err
    assert "true_watch_s: " in answer.err
    assert "in round 2" in answer.err
    assert "reward" not in answer.err, "a frozen arm learns from no reward"


def test_more_rounds_or_another_seed_are_another_stream(
    cli: Any, check_refused: Any, world: Path
) -> None:
    first = ("stream", "--run", "r", "--arm", "frozen", *SHORT)
    assert cli(*first, "--json").code == 0
    check_refused(cli(*first, "--seed", "5"), "frozen", "seed = 0, now asked for 5")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("--arm", "rfst"), ("arm 'rfst': choose one of frozen, all, half, rsft",)),
        (("--rounds", "0"), ("rounds=0: needs at least 1",)),
        (("--share", "2"), ("share=2.0", "1 at most")),
        (("--name", "../out"), ("'../out'", "use up to 80 letters")),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_stream(
    cli: Any, check_refused: Any, world: Path, arguments: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    for flag in ((), ("--json",)):
        check_refused(cli("stream", "--run", "r", *arguments, *flag), *parts)
    assert not (world / "runs" / "r" / "stream").exists()


def test_a_run_without_a_reward_model_or_of_another_name_is_refused(
    cli: Any, check_refused: Any, finished: Path
) -> None:
    check_refused(cli("stream", "--run", "first"), "'first'", "no reward model")
    check_refused(cli("stream", "--run", "frist"), "did you mean 'first'?")
    assert not (finished / "runs" / "first" / "stream").exists()


def test_without_a_run_the_usage_is_shown(cli: Any, home: Path) -> None:
    answer = cli("stream")
    assert answer.code == 2
    assert "--run" in answer.err
    assert "Traceback" not in answer.err


def test_a_log_without_times_cannot_be_played_back(
    cli: Any, check_refused: Any, home: Path
) -> None:
    log, items, users = toy_home.tables()
    log["position"] = np.arange(len(log))
    log = pd.DataFrame(log.drop(columns="timestamp"))
    write_dataset(dataset_path("n", home), "n", log, items, users, source="toy")
    recipe = toy_home.make_recipe({**toy_home.ALIGNED, "train.steps": "5"})
    run_stages("r", recipe, "n", home=home, stages=("tokenize", "pretrain", "reward"))
    check_refused(cli("stream", "--run", "r", *SHORT), "no exact times", "use a world")
    assert not (home / "runs" / "r" / "stream").exists()


@pytest.mark.slow
def test_as_a_program_it_ends_with_2_and_one_line(finished: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "onerec", "stream", "--run", "first", "--json"],
        env={**os.environ, "ONEREC_HOME": str(finished)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("onerec: ")
    assert "no reward model" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_log_is_played_back_to_its_end_and_not_beyond(
    cli: Any, check_refused: Any, home: Path
) -> None:
    toy_home.make_dataset(home, shortest=16)
    changes = {**toy_home.ALIGNED, "train.steps": "5", "evaluate.split": "temporal"}
    recipe = toy_home.make_recipe(changes)
    run_stages("r", recipe, "toy", home=home, stages=("tokenize", "pretrain", "reward"))
    check_refused(cli("stream", "--run", "r"), "arm 'rsft_ecpo'", "no play_ms", "--arm all")
    frozen = ("stream", "--run", "r", "--arm", "frozen", "--steps", "2", "--lag", "2")
    check_refused(cli(*frozen, "--rounds", "99"), "rounds=99: the log has", "days to play back")
    assert not (home / "runs" / "r" / "stream").exists()
    answer = cli(*frozen)
    assert answer.code == 0
    assert "days to play back, so " in answer.err
    assert "stream 'frozen' of run 'r': done" in answer.err
