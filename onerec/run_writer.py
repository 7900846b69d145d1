"""The run folder as its one writer sees it: claim, status, metrics, control, done stamps.

A run has one writer at a time. The claim is the file `writer.json`, created exclusively, that holds
the process number and the time the process was created: a number alone may be given out again. A
claim whose process is gone is taken over. Nothing here computes; no torch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import psutil

from onerec.errors import OneRecError, RunError
from onerec.run_files import (
    STAGE_FOLDERS,
    flatten,
    process_lives,
    read_json,
    valid_name,
    write_json,
)
from onerec.runs import Run
from onerec.sections import Recipe

POLL_SECONDS = 0.05
BEAT_SECONDS = 1.0
CLAIM = "writer.json"
FIXED = ("name", "recipe", "seed", "dataset")  # what a run is: may not change when it goes on


@dataclass(frozen=True)
class Control:
    """What the people who watch ask for. `steps`: single steps still to do while paused."""

    pause: bool = False
    steps: int = 0
    stop: bool = False


class RunWriter:
    """The one writer of a run folder.

        with RunWriter.claim(path, description) as writer:
            writer.set_status("pretrain", 0, 600)
            for state in loop(...):
                writer.log_metrics("pretrain", state.step, 600, loss=state.loss)
                writer.beat(state.step)
                if writer.obey() == "stop":
                    break
            else:
                writer.finish()

    On leaving the block the state is `done` after `finish()`, `failed` with the message after an
    exception, else `stopped`; the claim is given back in every case.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run = Run(path)
        self._started = time.time()
        self._status: dict[str, Any] = {"stage": "", "step": 0, "of": 0}
        self._status |= {"state": "running", "message": ""}
        self._stage_started = time.monotonic()
        self._written = 0.0
        self._granted = 0
        self._spent = 0
        self._end = ("stopped", "")

    @classmethod
    def claim(cls, path: Path, description: Mapping[str, Any] | None = None) -> RunWriter:
        """Become the writer of the run at `path`, which is created when it is new.

        Args:
            description: what recipe.json holds. A new run needs it; on a run that exists it must
                agree in name, recipe, seed and dataset.

        Raises:
            RunError: another live process holds the run, or recipe or dataset differ.
        """
        path = Path(path)
        valid_name(path.name)
        known = path / "recipe.json"
        if description is None and not known.is_file():
            raise RunError(f"run {path.name!r} is new: it needs --recipe and --dataset")
        if known.is_file() and description is not None:
            _refuse_other(path.name, read_json(known), description)
        path.mkdir(parents=True, exist_ok=True)
        take(path)
        writer = cls(path)
        try:
            if description is not None and not known.is_file():
                write_json(known, description)
            writer.clear_control()
            writer._write_status()
        except BaseException:
            (path / CLAIM).unlink(missing_ok=True)
            raise
        return writer

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        state, message = self._end
        if isinstance(error, KeyboardInterrupt):
            state, message = "stopped", "interrupted from the keyboard"
        elif error is not None:
            text = str(error).strip() or type(error).__name__
            plain = isinstance(error, OneRecError)
            state, message = "failed", text if plain else f"{type(error).__name__}: {text}"
        try:
            self._status |= {"state": state, "message": message}
            self._write_status()
        finally:
            (self.path / CLAIM).unlink(missing_ok=True)

    def set_status(
        self, stage: str, step: int = 0, of: int = 0, state: str = "running", message: str = ""
    ) -> None:
        """Say what the run is doing; a change of stage starts its clock."""
        if stage != self._status["stage"]:
            self._stage_started = time.monotonic()
        self._status = {"stage": stage, "step": step, "of": of, "state": state, "message": message}
        self._write_status()

    def beat(self, step: int | None = None, message: str | None = None) -> None:
        """A sign of life: cheap, call it every step. The file is replaced at most once a second."""
        if step is not None:
            self._status["step"] = step
        if message is not None:
            self._status["message"] = message
        if time.monotonic() - self._written >= BEAT_SECONDS:
            self._write_status()

    def log_metrics(self, stage: str, step: int, of: int, **values: Any) -> None:
        """Append one line to metrics.jsonl; `seconds` since the stage began is added if not given.

        Raises:
            ValueError: a value is NaN or infinite.
        """
        line: dict[str, Any] = {"stage": stage, "step": int(step), "of": int(of)}
        line["seconds"] = round(time.monotonic() - self._stage_started, 3)
        line |= {name: float(value) for name, value in values.items()}
        text = json.dumps(line, allow_nan=False) + "\n"
        with open(self.path / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(text)

    def rewind_metrics(self, stage: str, step: int) -> None:
        """Drop the lines of `stage` after `step`, and a torn last line: call it before resuming."""
        path = self.path / "metrics.jsonl"
        if not path.is_file():
            return
        kept = []
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if value.get("stage") != stage or value.get("step", 0) <= step:
                kept.append(line)
        temporary = path.with_name(f".metrics.{os.getpid()}.tmp")
        temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        os.replace(temporary, path)

    def control(self) -> Control:
        """What is asked for now. A file that cannot be read asks for nothing."""
        try:
            asked = read_json(self.path / "control.json")
        except RunError:
            return Control()
        self._granted = int(asked.get("steps") or 0)
        left = max(0, self._granted - self._spent)
        return Control(bool(asked.get("pause")), left, bool(asked.get("stop")))

    def used_step(self) -> None:
        """Count one of the single steps as done."""
        self._spent = min(self._spent + 1, self._granted)

    def obey(self, sleep: Callable[[float], None] = time.sleep) -> Literal["go", "stop"]:
        """Call between two steps: returns at once, or waits here while the run is paused."""
        asked = self.control()
        if not asked.pause:
            self._spent = self._granted  # steps asked for while running are no credit for later
        while asked.pause and not asked.stop and asked.steps == 0:
            self._set_state("paused")
            sleep(POLL_SECONDS)
            self.beat()
            asked = self.control()
        if asked.stop:
            return "stop"
        if asked.pause:
            self.used_step()
        else:
            self._set_state("running")
        return "go"

    def clear_control(self) -> None:
        """Forget what was asked of an earlier process."""
        (self.path / "control.json").unlink(missing_ok=True)
        self._granted = self._spent = 0

    def log(self, text: str) -> None:
        """Append to log.txt, with the local time."""
        with open(self.path / "log.txt", "a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def write_json(self, relative: str, value: Mapping[str, Any]) -> None:
        write_json(self.path / relative, value)

    def mark_done(self, stage: str, **info: Any) -> None:
        """Stamp a stage as finished. Write it last: a stage reads only finished stages."""
        stamp = {"finished": time.time(), "seconds": time.monotonic() - self._stage_started}
        write_json(self.path / STAGE_FOLDERS.get(stage, stage) / "done.json", stamp | info)

    def is_done(self, stage: str) -> bool:
        return self.run.is_done(stage)

    def finish(self, message: str = "") -> None:
        """The run is whole: leaving the block says `done`."""
        self._end = ("done", message)

    def stop(self, message: str = "") -> None:
        """The run ends early because it was asked to: leaving the block says `stopped`."""
        self._end = ("stopped", message)

    def _set_state(self, state: str) -> None:
        if self._status["state"] != state:
            self._status["state"] = state
            self._write_status()

    def _write_status(self) -> None:
        own = {**_identity(), "started": self._started, "heartbeat": time.time()}
        write_json(self.path / "status.json", own | self._status)
        self._written = time.monotonic()


def _identity() -> dict[str, Any]:
    process = psutil.Process()
    return {"pid": process.pid, "process_started": process.create_time()}


def take(path: Path, what: str = "run") -> None:
    """Create writer.json in a folder exclusively; take over a claim whose process is gone.

    Who is done with the folder removes the file. Messages call it `what`.

    Raises:
        RunError: another live process holds the folder.
    """
    with _alone(path):
        _take(path, what)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time looks at a claim and takes it over, where folders can be locked.

    Two could take over a dead one: while the second put back the claim of the first, which it had
    set aside, a third made its own.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _take(path: Path, what: str) -> None:
    claim = path / CLAIM
    own = json.dumps({**_identity(), "host": socket.gethostname(), "since": time.time()})
    for _ in range(3):
        try:
            descriptor = os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            holder = _holder(claim)
            if holder is not None:
                raise RunError(f"{what} {path.name!r} is held by {holder}; stop it first") from None
            _set_aside(claim)
            continue
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(own)
        return
    raise RunError(f"{what} {path.name!r} is being started by another process at this moment")


def _holder(claim: Path) -> str | None:
    """Who holds a claim, in words; None when nobody alive does."""
    for _ in range(10):
        try:
            held = read_json(claim)
            break
        except RunError:
            time.sleep(POLL_SECONDS)  # created a moment ago and not filled yet, or just given back
    else:
        return None
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(held.get("since") or 0)))
    words = f"process {held.get('pid')} on {held.get('host')} since {since}"
    if held.get("host") != socket.gethostname():
        return f"{words} (if it is gone, delete {claim})"
    lives = process_lives(int(held.get("pid") or 0), float(held.get("process_started") or 0))
    return words if lives else None


def _set_aside(claim: Path) -> None:
    """Remove a dead claim. Renaming first lets one of two processes win, never both."""
    aside = claim.with_name(f".writer.{os.getpid()}.{time.monotonic_ns()}.tmp")
    try:
        os.rename(claim, aside)
    except FileNotFoundError:
        return
    if _holder(aside) is not None and not claim.exists():
        os.rename(aside, claim)  # it was claimed again between the look and the rename: put back
        return
    aside.unlink()


def _with_newer(held: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe as it was written, with the defaults of what recipes did not have then."""
    full = dict(held)
    for section, settings in dataclasses.asdict(Recipe("")).items():
        asked, before = wanted.get(section), held.get(section, {})
        if isinstance(asked, Mapping) and isinstance(before, Mapping):
            newer = {key: settings[key] for key in asked.keys() & settings.keys() - before.keys()}
            full[section] = {**before, **newer}
    return full


def _refuse_other(name: str, known: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """RunError that names the first setting in which a run differs from what is asked for.

    Settings of the recipe that are newer than the run have their defaults in it.
    """
    held = known.get("recipe", {})
    if isinstance(held, Mapping):
        known = {**known, "recipe": _with_newer(held, wanted.get("recipe", {}))}
    old = flatten({key: known.get(key, {}) for key in FIXED})
    new = flatten({key: json.loads(json.dumps(wanted.get(key, {}))) for key in FIXED})
    for setting in dict.fromkeys([*old, *new]):
        if old.get(setting) != new.get(setting):
            shown = setting.removeprefix("recipe.")
            kind, option = ("stream", "--name") if "run" in wanted else ("run", "--run name")
            raise RunError(
                f"{kind} {name!r} was made with {shown} = {old.get(setting, 'nothing')}, now asked "
                f"for {new.get(setting, 'nothing')}: use another {option}, or delete this {kind}"
            )
