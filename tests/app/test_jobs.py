"""Jobs: a real process is started, steered and lost; its state comes from disk alone."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jobs
import psutil
import pytest

from onerec.errors import RunError
from onerec.runs import Run, read_json

STUB = Path(__file__).with_name("stub_trainer.py")


def words(home: Path, name: str, steps: int = 500, pause: float = 0.02) -> list[str]:
    return [sys.executable, str(STUB), str(home), name, str(steps), str(pause)]


def until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Run]:
    run = jobs.start(tmp_path, "one", words(tmp_path, "one"))
    until(lambda: jobs.status(run).step > 2)
    yield run
    if jobs.status(run).busy:
        jobs.kill(run)


def test_command_is_the_one_a_person_types() -> None:
    command = jobs.command("tiny", "world", "t1", {"train.steps": "5"})
    assert command[:4] == [sys.executable, "-m", "onerec", "run"]
    line = "onerec run --recipe tiny --dataset world --run t1 --set train.steps=5"
    assert jobs.command_line(command) == line


def test_a_started_run_leads_a_process_group_of_its_own(started: Run) -> None:
    import os

    pid = int(read_json(started.path / "launch.json")["pid"])
    assert os.getpgid(pid) == pid != os.getpgid(0)
    assert jobs.status(started).state == "running"


def test_pause_step_and_go_on(started: Run) -> None:
    started.control(pause=True)
    until(lambda: jobs.status(started).state == "paused")
    before = jobs.status(started).step
    started.control(steps=1)
    until(lambda: jobs.status(started).step == before + 1)
    time.sleep(0.1)
    assert jobs.status(started).step == before + 1
    started.control(pause=False)
    until(lambda: jobs.status(started).step > before + 2)


def test_stop_then_resume_with_the_same_command(started: Run) -> None:
    started.control(stop=True)
    until(lambda: jobs.status(started).state == "stopped")
    pid = int(read_json(started.path / "launch.json")["pid"])
    until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie")
    jobs.resume(started)
    assert read_json(started.path / "control.json") == {"pause": False, "steps": 0, "stop": False}
    until(lambda: jobs.status(started).state == "running")


def test_one_training_at_a_time_says_which(started: Run) -> None:
    with pytest.raises(RunError, match="run one is training"):
        jobs.start(started.home, "two", words(started.home, "two"))
    assert not (started.home / "runs" / "two").exists()


def test_a_killed_trainer_is_interrupted_and_frees_the_queue(started: Run) -> None:
    assert jobs.active(started.home) == "one"
    jobs.kill(started)
    assert jobs.status(started).state == "interrupted"
    assert jobs.active(started.home) is None


def test_kill_takes_the_children_of_the_trainer_too(tmp_path: Path) -> None:
    code = (
        "import subprocess,sys,time;"
        "c=subprocess.Popen([sys.executable,'-c','import time;time.sleep(60)']);"
        "print(c.pid,flush=True);time.sleep(60)"
    )
    run = jobs.start(tmp_path, "parent", [sys.executable, "-c", code])
    until(lambda: run.log_tail().strip().isdigit())
    child = psutil.Process(int(run.log_tail()))
    jobs.kill(run)
    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_kill_leaves_a_process_alone_that_only_has_the_same_number(tmp_path: Path) -> None:
    run = jobs.start(tmp_path, "short", [sys.executable, "-c", "pass"])
    until(lambda: jobs.status(run).state == "failed")
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    launch = read_json(run.path / "launch.json") | {"pid": other.pid, "process_started": 1.0}
    jobs.write_json(run.path / "launch.json", launch)
    try:
        with pytest.raises(RunError, match="nothing to end"):
            jobs.kill(run)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_before_the_first_status_the_run_is_starting(tmp_path: Path) -> None:
    run = jobs.start(tmp_path, "slow", [sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        assert jobs.status(run).state == "starting"
        assert jobs.active(tmp_path) == "slow"
    finally:
        jobs.kill(run)


def test_a_trainer_that_dies_at_once_failed_with_its_last_words(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no recipe tinny; did you mean tiny?')"]
    run = jobs.start(tmp_path, "bad", command)
    until(lambda: jobs.status(run).state == "failed")
    assert jobs.status(run).message == "no recipe tinny; did you mean tiny?"


def test_a_name_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError):
        jobs.start(tmp_path, "../out", ["true"])
    assert not (tmp_path / "out").exists()
