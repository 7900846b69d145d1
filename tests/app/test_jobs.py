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
    assert jobs.status(run).state not in ("running", "starting")


def test_who_is_ended_before_a_word_has_not_failed(tmp_path: Path) -> None:
    """It was "failed: the process ended without a word", after one's own press of End it."""
    run = jobs.start(tmp_path, "early", [sys.executable, "-c", "import time; time.sleep(60)"])
    launch = read_json(run.path / "launch.json")
    jobs.kill(run)
    assert jobs.status(run).state == "interrupted"
    assert jobs.ended_here(run)
    jobs.write_json(run.path / "launch.json", launch)
    assert not jobs.ended_here(run)
    assert jobs.status(run).state == "failed", "as where nobody ended it"


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


# ------------------------------------------------------------------ streams of a run


@pytest.fixture
def streaming(tmp_path: Path) -> Iterator[Run]:
    """Stream `ecpo` of run `one`: the stub writes where its folder is."""
    run = Run(tmp_path / "runs" / "one")
    home = run.path / "stream"
    (home / "runs").mkdir(parents=True)
    (home / "runs" / "ecpo").symlink_to(home / "ecpo")
    stream = jobs.start_stream(run, "ecpo", words(home, "ecpo"))
    until(lambda: jobs.status(stream).step > 2)
    yield stream
    if jobs.status(stream).busy:
        jobs.kill(stream)


def test_command_of_a_stream_is_the_one_a_person_types() -> None:
    command = jobs.stream_command("one", "mine", {"arm": "rsft", "share": 0.1})
    assert command[:4] == [sys.executable, "-m", "onerec", "stream"]
    line = "onerec stream --run one --name mine --arm rsft --share 0.1"
    assert jobs.command_line(command) == line


def test_a_stream_takes_the_place_of_a_training(streaming: Run, tmp_path: Path) -> None:
    assert streaming.path == tmp_path / "runs" / "one" / "stream" / "ecpo"
    assert jobs.active(tmp_path) == "one, stream ecpo"
    with pytest.raises(RunError, match=r"run one, stream ecpo is training.*on page Online"):
        jobs.start(tmp_path, "two", words(tmp_path, "two"))
    with pytest.raises(RunError, match="run one, stream ecpo is training"):
        jobs.start_stream(Run(tmp_path / "runs" / "one"), "other", ["true"])


def test_a_training_takes_the_place_of_a_stream(started: Run) -> None:
    with pytest.raises(RunError, match=r"run one is training.*on page Train"):
        jobs.start_stream(started, "ecpo", ["true"])
    assert not (started.path / "stream").exists()


def test_a_stream_is_stopped_and_resumed_with_its_command(streaming: Run) -> None:
    streaming.control(stop=True)
    until(lambda: jobs.status(streaming).state == "stopped")
    before = read_json(streaming.path / "launch.json")["command"]
    jobs.resume(streaming)
    until(lambda: jobs.status(streaming).state == "running")
    assert read_json(streaming.path / "launch.json")["command"] == before


def test_a_stream_that_a_terminal_began_is_resumed_from_its_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Run(tmp_path / "runs" / "one" / "stream" / "mine")
    stream.path.mkdir(parents=True)
    asked = {"name": "stream", "recipe": {"arm": "all", "rounds": 7}}
    jobs.write_json(stream.path / "recipe.json", asked)
    begun: list[tuple[Path, str, list[str]]] = []
    monkeypatch.setattr(
        jobs, "start_stream", lambda run, name, words: begun.append((run.path, name, words))
    )
    jobs.resume(stream)
    command = jobs.stream_command("one", "mine", {"arm": "all", "rounds": 7})
    assert begun == [(tmp_path / "runs" / "one", "mine", command)]


def test_a_task_is_a_job_of_its_run_that_bars_a_training_meanwhile(started: Run) -> None:
    map_words = jobs.task_command("umap", "one", {"seed": 3})
    assert jobs.command_line(map_words) == "onerec map --run one --seed 3"
    with pytest.raises(RunError, match="run one is training"):
        jobs.start_task(started, "umap", words(started.home, "one"))
    jobs.kill(started)
    asleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    folder = jobs.start_task(started, "umap", asleep)
    assert folder.path == started.path / "cache" / "umap"
    assert jobs.status(folder).state == "starting"
    assert jobs.active(started.home) == "one: the map"
    try:
        with pytest.raises(RunError, match=r"run one: the map is being computed.*page Tokenizer"):
            jobs.start(started.home, "two", words(started.home, "two"))
    finally:
        jobs.kill(folder)
    assert jobs.active(started.home) is None


@pytest.mark.parametrize(
    ("task", "line", "page"),
    [
        ("umap", "map", "Tokenizer"),
        ("quantisers", "bench quantisers", "Tokenizer"),
        ("rival", "rival", "Rewards"),
    ],
)
def test_each_task_has_its_command_and_its_page(task: str, line: str, page: str) -> None:
    assert jobs.command_line(jobs.task_command(task, "one", {})) == f"onerec {line} --run one"
    assert jobs._busy_words(f"one: {jobs.TASKS[task]}").endswith(f"on page {page}")


def test_a_task_that_dies_at_once_has_failed_with_its_last_words(tmp_path: Path) -> None:
    run = Run(tmp_path / "runs" / "one")
    run.path.mkdir(parents=True)
    folder = jobs.start_task(
        run, "quantisers", [sys.executable, "-c", "raise SystemExit('no room')"]
    )
    until(lambda: jobs.status(folder).state == "failed")
    assert jobs.status(folder).message == "no room"
