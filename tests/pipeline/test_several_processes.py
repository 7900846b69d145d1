"""Pre-training by two processes, as torchrun starts them: same curve, killed, stopped, refused."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import toy_home
import two_commands as two

from onerec.data.tables import read_parquet
from onerec.pipeline import run_stage
from onerec.pipeline.everyone import recommend_all
from onerec.recommend import Recommender
from onerec.runs import Run, open_run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
LAST = f"checkpoint-{toy_home.STEPS:06d}.safetensors"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which two processes carried out all commands; do not change."""
    home = tmp_path_factory.mktemp("shared")
    toy_home.make_dataset(home)
    two.half_alone(home)
    two.both(home)
    return home


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run without experts by one process; do not change."""
    home = tmp_path_factory.mktemp("dense")
    toy_home.make_dataset(home)
    recipe = toy_home.make_recipe(two.DENSE)
    return run_stage("pretrain", "dense", recipe=recipe, dataset="toy", home=home)


def answers(home: Path, name: str) -> list[list[object]]:
    """Exit code, stdout and stderr of each process."""
    return [json.loads((home / f"{name}-{rank}.json").read_text()) for rank in range(two.WORLD)]


def assert_well(home: Path, name: str) -> None:
    """Both ended well, and only the first one said something."""
    (code, out, err), other = answers(home, name)
    assert (code, err) == (0, ""), err
    assert json.loads(str(out))["state"] == "done"
    assert other == [0, "", ""]


def assert_same_curve(run: Run, alone: Run, steps: int = toy_home.STEPS) -> None:
    """The numbers of the first `steps`, each step once."""
    ours, theirs = run.metrics("pretrain"), alone.metrics("pretrain")
    assert ours["step"].tolist() == list(range(1, toy_home.STEPS + 1))
    for name in ("loss", "loss_1", "loss_2", "grad_norm", "lr"):
        np.testing.assert_allclose(ours[name][:steps], theirs[name][:steps], rtol=2e-4)


def assert_finished(run: Run) -> None:
    """As one process leaves a run: ordinary checkpoints alone, which serve."""
    done = run.done("pretrain")
    assert done is not None
    assert run.status().state == "done"
    assert done["checkpoint"] == LAST
    assert not list((run.path / "pretrain").glob("shards-*"))
    assert {20, 30} <= set(run.checkpoints()["step"])
    assert len(Recommender.load(run, device="cpu").recommend(["u00"], k=3)) == 3


def test_two_processes_read_one_stream(shared: Path, dense: Run) -> None:
    """The first one writes the shards, and each makes its own rows of the batches."""
    assert_well(shared, "streamed")
    run = open_run("streamed", shared)
    assert (run.path / "cache" / "shards" / "shards.json").is_file()
    assert_same_curve(run, dense)
    assert_finished(run)


def test_two_processes_give_the_curve_of_one(shared: Path, trained: Path) -> None:
    """Equal until rounding sends a token to another expert, and close after that."""
    assert_well(shared, "ddp")
    run, alone = open_run("ddp", shared), open_run("first", trained)
    assert_same_curve(run, alone, steps=3)
    np.testing.assert_allclose(
        run.metrics("pretrain")["loss"], alone.metrics("pretrain")["loss"], rtol=0.03
    )
    loads = [read_parquet(each.path / "routing" / "load.parquet") for each in (run, alone)]
    first_steps = [load[load["step"] <= 3]["load"].tolist() for load in loads]
    assert first_steps[0] == first_steps[1]
    assert "parameters on cpu and 1 more" in run.log_tail()
    assert_finished(run)


def test_what_is_done_stays_and_nobody_waits_for_anybody(shared: Path) -> None:
    assert_well(shared, "again")


def test_two_processes_write_the_lists_of_all(shared: Path, tmp_path: Path) -> None:
    """Parts in turn; the file is that of one process."""
    (code, out, err), other = answers(shared, "everyone")
    assert (code, err) == (0, ""), err
    assert other == [0, "", ""]
    told = json.loads(str(out))
    assert (told["users"], told["before"]) == (toy_home.USERS, 0)
    recommend_all("ddp", tmp_path / "one.parquet", home=shared, part=7)
    two_made, one_made = (
        read_parquet(p) for p in (shared / "all.parquet", tmp_path / "one.parquet")
    )
    assert two_made["item_id"].tolist() == one_made["item_id"].tolist()
    assert two_made["user_id"].tolist() == one_made["user_id"].tolist()
    assert not (shared / "all.parquet.parts").exists()
    starts = [json.loads((shared / f"starts-{rank}.json").read_text()) for rank in range(two.WORLD)]
    assert starts == [[0, 14, 28], [7, 21, 35]]


def test_a_stop_is_heard_by_both_and_another_two_go_on_another_way(
    shared: Path, dense: Run
) -> None:
    assert [code for code, _, _ in answers(shared, "stopped")] == [0, 0]
    left = json.loads((shared / "stopped.json").read_text())
    assert left == ["shards-000010", "shards-000010.json", "shards-000013", "shards-000013.json"]
    assert_well(shared, "gone on")
    run = open_run("stopped", shared)
    assert "goes on from step 13" in run.log_tail()
    assert_same_curve(run, dense)
    assert_finished(run)


def test_two_go_on_with_shards_where_one_stopped(shared: Path, dense: Run) -> None:
    assert_well(shared, "shards")
    run = open_run("half", shared)
    assert "goes on from step 13" in run.log_tail()
    assert_same_curve(run, dense)
    assert_finished(run)
    valid = [each.metrics("pretrain")["valid_recall@10"].dropna().tolist() for each in (run, dense)]
    assert valid[0] == pytest.approx(valid[1], abs=0.05)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("batch", "2 processes do not divide train.batch_size=31; start 1, or set"),
        ("recipe", "did you mean 'tiny'?"),
        ("stage", "tokenize is no stage for 2 processes, pretrain is; start it without torchrun"),
        ("way", "--parallel tensor: there are ddp and fsdp"),
        ("nowhere", "stands in a folder that is not there"),
        ("rate", "training stopped: the"),
    ],
)
def test_what_is_wrong_is_said_once_and_both_end_with_2(
    shared: Path, command: str, message: str
) -> None:
    (code, out, err), other = answers(shared, command)
    assert (code, out) == (2, "")
    assert str(err).count("\n") == 1
    assert message in str(err)
    assert other == [2, "", ""]
    assert not (shared / "runs" / "bad").exists()
    assert command != "rate" or open_run("rate", shared).status().state == "failed"


def test_one_goes_on_where_a_pair_was_killed(home: Path, dense: Run) -> None:
    """Real processes: one of two gets SIGKILL, the other does not wait for it."""
    (port,) = two.free_ports(1)
    pair = [
        subprocess.Popen(
            [sys.executable, "-m", "onerec", *two.new("x", two.DENSE, "--parallel", "fsdp")],
            env={**os.environ, **two.environment(rank, port), "ONEREC_HOME": str(home)},
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for rank in range(two.WORLD)
    ]
    try:
        wait(lambda: (home / "runs/x/pretrain/shards-000010.json").exists())
        os.kill(pair[1].pid, signal.SIGKILL)
        assert pair[0].wait(60) != 0
    finally:
        for process in pair:
            process.kill()
            process.wait()
    run = open_run("x", home)
    assert not run.is_done("pretrain")
    run_stage("pretrain", "x", home=home)
    assert "pretrain: goes on from step" in run.log_tail()
    assert_same_curve(run, dense)
    assert_finished(run)


def wait(until: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
