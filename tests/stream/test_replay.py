"""A log that is played back from its first held-out day to its last, and what stops it early."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_home

from onerec.assembly import setting_of
from onerec.data.dataset import dataset_path, write_dataset
from onerec.data.tables import read_parquet
from onerec.errors import DataError, RecipeError, RunError
from onerec.explain.online import comparable
from onerec.pipeline import run as run_stages
from onerec.runs import Run, open_run
from onerec.stream import StreamConfig, stream
from onerec.stream.online import Online

DAY_MS = 86_400_000
SMALL = {"steps": 2, "lag": 2, "shown": 5, "window": 2}


def make(home: Path, name: str, split: str, play: bool) -> None:
    log, items, users = toy_home.tables(shortest=16)
    if play:
        random = np.random.default_rng(0)
        log["play_ms"], log["duration_ms"] = random.integers(1, 9_000, len(log)), 10_000
    write_dataset(dataset_path(name, home), name, log, items, users, source="toy")
    recipe = toy_home.make_recipe({**toy_home.ALIGNED, "evaluate.split": split, "train.steps": "5"})
    run_stages(name, recipe, name, home=home, stages=("tokenize", "pretrain", "reward"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of one log: with play times in order of time, and by users; and without play times."""
    found = tmp_path_factory.mktemp("replay")
    make(found, "timed", "temporal", play=True)
    make(found, "by_users", "leave_one_out", play=True)
    make(found, "bare", "temporal", play=False)
    return found


@pytest.fixture
def streams(home: Path) -> Iterator[Path]:
    """Where streams of the run `timed` stand."""
    return home / "runs" / "timed" / "stream"


def days(home: Path, run: str) -> np.ndarray:
    """The days of the rows that the run was not trained on."""
    split = setting_of(open_run(run, home), home).split
    return np.unique(split.log.columns["timestamp"][~split.train] // DAY_MS)


@pytest.mark.slow
def test_by_default_the_log_is_played_back_to_its_end(home: Path) -> None:
    count = len(days(home, "timed"))
    assert 3 < count < 20
    made = stream("timed", StreamConfig(arm="rsft_ecpo", **SMALL), home=home)
    assert made.status().state == "done"
    assert made.status().message == f"the log has {count} days to play back, so {count} rounds"
    assert made.recipe()["recipe"]["rounds"] == count
    lines = made.metrics("stream")
    assert lines["step"].tolist() == list(range(1, count + 1))
    assert (lines["examples"] > 0).any()
    assert lines["hits"].between(0, SMALL["shown"]).all()
    split = setting_of(open_run("timed", home), home).split
    events = [read_parquet(path) for path in sorted(made.path.glob("rounds/events-*.parquet"))]
    assert sum(map(len, events)) == (~split.train).sum(), "every held-out event once"
    played = [set(frame["timestamp"] // DAY_MS) for frame in events]
    assert played == [{day} for day in days(home, "timed")]


def test_two_replays_of_one_cut_are_compared_whatever_their_recipes_call_it(home: Path) -> None:
    """Once a run that left the rule to the log could not stand beside one that named it."""
    config = StreamConfig(arm="frozen", rounds=2, **SMALL)
    timed = open_run("timed", home)
    stream("timed", config, name="ab", home=home)
    left = timed.path.with_name("left")
    shutil.copytree(timed.path, left, ignore=shutil.ignore_patterns("stream"))
    described = json.loads((left / "recipe.json").read_text())
    described["recipe"]["evaluate"]["split"] = "auto"
    (left / "recipe.json").write_text(json.dumps(described))
    assert stream("left", config, name="ab", home=home).recipe()["split"] == "temporal"
    assert comparable(timed, "ab", "ab", "left") == ""


def test_a_stop_in_the_middle_loses_nothing(home: Path, streams: Path) -> None:
    config = StreamConfig(arm="rsft_grpo", **SMALL)
    whole = stream("timed", config, name="whole", home=home)

    def stop(stage, step, of, values):
        if step == 2:
            Run(streams / "part").control(stop=True)

    part = stream("timed", config, name="part", home=home, report=stop)
    assert part.status().state == "stopped"
    assert len(part.metrics("stream")) == 2
    part.control(stop=False)
    part = stream("timed", config, name="part", home=home)
    assert part.status().state == "done"
    same = ["step", "users", "hits", "positives", "examples", "loss"]
    assert whole.metrics("stream")[same].equals(part.metrics("stream")[same])


def test_more_rounds_than_days_are_refused_before_the_folder_is_made(
    home: Path, streams: Path
) -> None:
    count = len(days(home, "timed"))
    config = StreamConfig(arm="frozen", rounds=count + 1, **SMALL)
    with pytest.raises(RecipeError, match=f"rounds={count + 1}: the log has {count} days"):
        stream("timed", config, name="long", home=home)
    assert not (streams / "long").exists()
    made = stream("timed", StreamConfig(arm="frozen", rounds=2, **SMALL), name="short", home=home)
    assert (made.status().state, made.status().message) == ("done", "")
    with pytest.raises(RunError, match="rounds = 2, now asked for"):
        stream("timed", StreamConfig(arm="frozen", **SMALL), name="short", home=home)


@pytest.mark.parametrize("arm", ["rsft", "rsft_grpo", "rsft_ecpo"])
def test_an_arm_that_needs_play_times_is_refused_before_the_folder_is_made(
    home: Path, arm: str
) -> None:
    with pytest.raises(DataError, match=f"arm '{arm}'.*no play_ms; use --arm all, half or frozen"):
        stream("bare", StreamConfig(arm=arm, **SMALL), home=home)
    assert not (home / "runs" / "bare" / "stream" / arm).exists()


@pytest.mark.parametrize("arm", ["all", "half", "frozen"])
def test_the_other_arms_need_none(home: Path, arm: str) -> None:
    made = stream("bare", StreamConfig(arm=arm, **SMALL, rounds=2), home=home)
    assert made.status().state == "done"


def test_only_what_was_played_back_is_feedback(home: Path) -> None:
    """Split by users, training rows of some are later than the held-out rows of others."""
    run = open_run("by_users", home)
    config = StreamConfig(arm="all", **SMALL)
    online = Online(run, setting_of(run, home), config, torch.device("cpu"), home / "feedback")
    online.step()
    online.round = 0
    log, examples = online.log, online._examples()
    played = read_parquet(home / "feedback" / "rounds" / "events-000001.parquet")
    time = log.columns["timestamp"]
    old = log.columns["round"] == 0
    assert (time[old] > played["timestamp"].max()).any()
    assert 0 < len(examples) <= len(played)
    assert not old[examples.end].any()


def test_a_day_without_anybody_who_is_known_is_a_round(home: Path) -> None:
    run = open_run("timed", home)
    config = StreamConfig(arm="all", **SMALL)
    online = Online(run, setting_of(run, home), config, torch.device("cpu"), home / "nobody")
    online.platform.visitors = lambda log, round_: np.zeros(0, dtype=np.int64)
    line = online.step()
    assert line["users"] == 0
    assert all(np.isfinite(value) for value in line.values())
    assert "hits" not in line
