"""Training as a process of its own: start it, steer it, and derive its state from disk.

The process writes the run folder and outlives this server, a reload and a second tab; the app
only reads. `launch.json` in the run folder says what was started, so that the seconds before the
trainer's first status, and a trainer that dies in them, have a state too. One training at a time.
A stream of a run (`onerec stream`) is a job like a training: its folder reads like a run's. So does
that of a task, a computation for one picture of a finished run (`onerec map`).
It leaves out what happens inside the process: that is the command's.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from onerec.errors import RunError
from onerec.runs import Run, process_lives, read_json, valid_name, write_json

BUSY = ("starting", "running", "paused", "stalled")
STREAMS = "stream"  # the folder of a run that holds its streams
STREAM = ", stream "  # between a run and its stream, where a busy one is named
TASKS = {  # folders of the cache
    "umap": "the map",
    "quantisers": "the comparison of quantisers",
    "rival": "the comparison of towers and trees",
}
COMMANDS = {"umap": ["map"], "quantisers": ["bench", "quantisers"], "rival": ["rival"]}
STARTING_LIMIT_SECONDS = 90.0  # importing the libraries on a cold disk takes up to this long

_children: dict[int, subprocess.Popen[bytes]] = {}  # only to reap them; state is read from disk


@dataclass(frozen=True)
class Job:
    """What a run is doing, in the words of the page."""

    state: str  # those of Run.status(), and "starting"
    stage: str
    step: int
    of: int
    share: float
    message: str
    seconds_since_heartbeat: float | None

    @property
    def busy(self) -> bool:
        return self.state in BUSY


def asked(run: Run) -> str:
    """What a run was asked to do and has not done yet by the file alone: "stop", "pause" or ""."""
    path = run.path / "control.json"
    told = read_json(path) if path.is_file() else {}
    return "stop" if told.get("stop") else "pause" if told.get("pause") else ""


def command(recipe: str, dataset: str, run: str, settings: Mapping[str, str]) -> list[str]:
    """The command that trains, as a list for the operating system."""
    words = [sys.executable, "-m", "onerec", "run"]
    words += ["--recipe", recipe, "--dataset", dataset, "--run", run]
    for key, value in settings.items():
        words += ["--set", f"{key}={value}"]
    return words


def stream_command(run: str, name: str, settings: Mapping[str, object]) -> list[str]:
    """The command that starts a stream of a run, or goes on with it."""
    words = [sys.executable, "-m", "onerec", "stream", "--run", run, "--name", name]
    for key, value in settings.items():
        words += [f"--{key}", str(value)]
    return words


def command_line(words: Sequence[str]) -> str:
    """The same command as a person types it."""
    return shlex.join(["onerec", *words[3:]] if words[1:3] == ["-m", "onerec"] else words)


def start(home: Path, name: str, words: Sequence[str]) -> Run:
    """Start (or continue) training in the folder of run `name`; RunError while another trains."""
    return _start(home, home / "runs" / valid_name(name), words)


def start_stream(run: Run, name: str, words: Sequence[str]) -> Run:
    """Start (or continue) stream `name` of a run; RunError while anything else trains."""
    return _start(run.home, run.path / STREAMS / valid_name(name), words)


def task_command(task: str, run: str, settings: Mapping[str, object]) -> list[str]:
    """The command that computes a task of `TASKS` for a run."""
    words = [sys.executable, "-m", "onerec", *COMMANDS[task]]
    words += ["--run", run]
    for key, value in settings.items():
        words += [f"--{key}", str(value)]
    return words


def task_folder(run: Run, task: str) -> Run:
    """Where a task of a run says how far it is; `status` reads it."""
    return Run(run.path / "cache" / task)


def start_task(run: Run, task: str, words: Sequence[str]) -> Run:
    """Start a task of a run; RunError while anything trains or computes."""
    return _start(run.home, task_folder(run, task).path, words)


def _start(home: Path, path: Path, words: Sequence[str]) -> Run:
    with _queue(home):
        holder = active(home)
        if holder is not None:
            raise RunError(f"run {holder} {_busy_words(holder)}")
        path.mkdir(parents=True, exist_ok=True)
        write_json(path / "control.json", {"pause": False, "steps": 0, "stop": False})
        with (path / "log.txt").open("ab") as log:
            child = subprocess.Popen(
                list(words),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "ONEREC_HOME": str(home), "PYTHONUNBUFFERED": "1"},
            )
        _children[child.pid] = child
        write_json(
            path / "launch.json",
            {
                "pid": child.pid,
                "process_started": _created(child.pid),
                "time": time.time(),
                "command": list(words),
            },
        )
    return Run(path)


def _busy_words(holder: str) -> str:
    """What `active` names is at, and where to go."""
    if holder.endswith(tuple(TASKS.values())):
        page = "Rewards" if holder.endswith(TASKS["rival"]) else "Tokenizer"
        return f"is being computed; one at a time: wait for it or end it on page {page}"
    page = "Online" if STREAM in holder else "Train"
    return f"is training; one at a time: wait for it or stop it on page {page}"


def resume(run: Run) -> Run:
    """Continue an unfinished run, or stream, with the command that began it."""
    words = _launch(run.path).get("command")
    if run.path.parent.name == STREAMS:
        owner, asked = Run(run.path.parents[1]), run.recipe().get("recipe") or {}
        again = stream_command(owner.name, run.name, asked)  # the run may have been renamed
        return start_stream(owner, run.name, again if asked or not words else words)
    again = [sys.executable, "-m", "onerec", "run", "--run", run.name]
    return start(run.home, run.name, words or again)


def status(run: Run) -> Job:
    """The state of a run, from its files and from the process table alone."""
    now = run.status()
    launch = _launch(run.path)
    launched = float(launch.get("time", 0.0))
    if launch and launched > (now.heartbeat or 0.0):  # started, and nothing written since
        age = time.time() - launched
        if _alive(launch):
            state = "starting" if age < STARTING_LIMIT_SECONDS else "stalled"
            return Job(state, now.stage, now.step, now.of, now.share, "", age)
        if now.state != "done":
            ended = launch.get("ended", False)  # by `kill`, before it wrote a word
            state, message = ("interrupted", "") if ended else ("failed", last_words(run))
            return Job(state, now.stage, now.step, now.of, now.share, message, age)
    message = now.message or (last_words(run) if now.state == "failed" else "")
    return Job(
        now.state, now.stage, now.step, now.of, now.share, message, now.seconds_since_heartbeat
    )


def active(home: Path) -> str | None:
    """The run that is training under `home`, or the stream or the task that is running, if any."""
    for path in sorted((home / "runs").glob("*")):
        if path.is_dir() and status(Run(path)).busy:
            return path.name
        for stream in sorted((path / STREAMS).glob("[!.]*")):
            if stream.is_dir() and status(Run(stream)).busy:
                return f"{path.name}{STREAM}{stream.name}"
        for task, what in TASKS.items():
            if status(task_folder(Run(path), task)).busy:
                return f"{path.name}: {what}"
    return None


def kill(run: Run) -> None:
    """End at once the process group that we started for this run, and no other."""
    launch = _launch(run.path)
    if not _alive(launch):
        raise RunError(f"run {run.name}: no process of this app is training it; nothing to end")
    pid = int(launch["pid"])
    if os.getpgid(pid) != pid:
        raise RunError(f"run {run.name}: process {pid} leads no group of its own; left alone")
    os.killpg(pid, signal.SIGKILL)
    write_json(run.path / "launch.json", {**launch, "ended": True})
    child = _children.pop(pid, None)
    if child is not None:
        child.wait(timeout=10)


def ended_here(run: Run) -> bool:
    """Whether the last process of this run was ended by `kill`."""
    return bool(_launch(run.path).get("ended", False))


def last_words(run: Run) -> str:
    """The last line of the log that says something, for a run that ended too early."""
    lines = [line.strip() for line in run.log_tail(20).splitlines() if line.strip()]
    return lines[-1] if lines else "the process ended without a word"


@contextmanager
def _queue(home: Path) -> Iterator[None]:
    """Two tabs that press Start at once are served one after the other."""
    (home / "runs").mkdir(parents=True, exist_ok=True)
    with (home / "runs" / ".queue").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _launch(path: Path) -> dict[str, Any]:
    file = path / "launch.json"
    return read_json(file) if file.exists() else {}


def _created(pid: int) -> float:
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return 0.0


def _alive(launch: Mapping[str, Any]) -> bool:
    pid = int(launch.get("pid") or 0)
    if pid in _children and _children[pid].poll() is not None:
        _children.pop(pid)
    return process_lives(pid, float(launch.get("process_started") or 0.0))
