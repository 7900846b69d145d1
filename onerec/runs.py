"""The run folder as a reader sees it: list, open, compare, rename, delete, export.

A run is a folder of plain files below `<home>/runs/`; everything here works on a run that is still
being written, because each file but `metrics.jsonl` and `log.txt` is replaced whole. Whether a run
is running is derived from the disk and the process table, never from what somebody remembers.
The writing side stands in `onerec.run_writer`. No torch.
"""

from __future__ import annotations

import difflib
import json
import os
import shutil
import time
import uuid
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
from safetensors.numpy import load_file

from onerec.errors import RunError
from onerec.run_files import (
    STAGE_FOLDERS,
    STAGES,
    cursor,
    dataset_folder,
    flatten,
    process_lives,
    read_json,
    valid_name,
    write_json,
)

__all__ = [
    "STAGES",
    "STAGE_FOLDERS",
    "Run",
    "RunInfo",
    "Status",
    "compare",
    "default_home",
    "delete_run",
    "export_run",
    "flatten",
    "list_runs",
    "open_run",
    "process_lives",
    "read_json",
    "rename_run",
    "runs_home",
    "valid_name",
    "write_json",
]

STALLED_AFTER_SECONDS = 60.0
ACTIVE = ("running", "paused", "stalled")


@dataclass(frozen=True)
class Status:
    """What a run is doing. `state` is new, running, paused, stalled, interrupted, stopped, done
    or failed; times are seconds since 1970."""

    state: str = "new"
    stage: str = ""
    step: int = 0
    of: int = 0
    message: str = ""
    pid: int | None = None
    started: float | None = None
    heartbeat: float | None = None
    seconds_since_heartbeat: float | None = None

    @property
    def active(self) -> bool:
        return self.state in ACTIVE

    @property
    def share(self) -> float:
        """How much of the stage is done, 0 to 1."""
        return min(1.0, self.step / self.of) if self.of > 0 else 0.0


@dataclass(frozen=True)
class RunInfo:
    """One line of the table of runs."""

    name: str
    path: Path
    state: str
    stage: str = ""
    step: int = 0
    of: int = 0
    message: str = ""
    recipe: str = ""
    dataset: str = ""
    started: float | None = None
    metrics: Mapping[str, Any] | None = None


def default_home() -> Path:
    """The folder of all data: ONEREC_HOME, else `./data`."""
    return Path(os.environ.get("ONEREC_HOME") or "data")


def runs_home(home: Path | None = None) -> Path:
    return (home or default_home()) / "runs"


class Run:
    """One run folder, read on each call: nothing is remembered, so nothing is ever stale."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def home(self) -> Path:
        return self.path.parent.parent

    @property
    def dataset_folder(self) -> Path | None:
        """The folder of the dataset that the run was made from, if it is still there."""
        return dataset_folder(self.home, self.recipe())

    def recipe(self) -> dict[str, Any]:
        """recipe.json, or {} when there is none."""
        return self._optional("recipe.json") or {}

    def evaluate(self) -> dict[str, Any] | None:
        return self._optional("evaluate.json")

    def report(self) -> dict[str, Any] | None:
        """tokenizer/report.json."""
        return self._optional("tokenizer/report.json")

    def done(self, stage: str) -> dict[str, Any] | None:
        """The stamp of a finished stage, else None."""
        return self._optional(f"{STAGE_FOLDERS.get(stage, stage)}/done.json")

    def is_done(self, stage: str) -> bool:
        return (self.path / STAGE_FOLDERS.get(stage, stage) / "done.json").is_file()

    def stamp(self) -> str:
        """A text that changes when a stage finishes or a result is replaced: a key for caches."""
        files = [self.path / folder / "done.json" for folder in STAGE_FOLDERS.values()]
        files += [self.path / "evaluate.json", self.path / "recommendations.parquet"]
        return "-".join(str(f.stat().st_mtime_ns) if f.exists() else "0" for f in files)

    def status(self, now: float | None = None) -> Status:
        """What the run is doing now, checked against the process table."""
        written = self._optional("status.json")
        if written is None:
            return Status()
        pid, heartbeat = int(written.get("pid") or 0), float(written.get("heartbeat") or 0.0)
        age = max(0.0, (time.time() if now is None else now) - heartbeat)
        state = str(written.get("state") or "running")
        if state in ("running", "paused"):
            if not process_lives(pid, float(written.get("process_started") or 0.0)):
                state = "interrupted"
            elif age > STALLED_AFTER_SECONDS:
                state = "stalled"
        return Status(
            state=state,
            stage=str(written.get("stage") or ""),
            step=int(written.get("step") or 0),
            of=int(written.get("of") or 0),
            message=str(written.get("message") or ""),
            pid=pid,
            started=float(written.get("started") or heartbeat),
            heartbeat=heartbeat,
            seconds_since_heartbeat=age,
        )

    def metrics(self, stage: str | None = None) -> pd.DataFrame:
        """metrics.jsonl as a frame, one row a line; a last line that is cut off is left out."""
        path = self.path / "metrics.jsonl"
        lines = path.read_bytes().split(b"\n") if path.is_file() else []
        rows = []
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                rows.append(json.loads(line))
            except ValueError:
                if number < len(lines):
                    raise RunError(f"{path}: line {number} is not JSON; delete the line") from None
        frame = pd.DataFrame(rows, columns=None if rows else ["stage", "step", "of", "seconds"])
        return frame if stage is None else frame[frame["stage"] == stage].reset_index(drop=True)

    def semantic_ids(self) -> pd.DataFrame:
        """item, item_id, code_1 .. code_L, leaf_size, popularity: a row an item, in item order."""
        return self._parquet("tokenizer/semantic_ids.parquet", "ORDER BY item", ("item", "item_id"))

    def codebooks(self) -> np.ndarray | None:
        """(L, N, e) float32: levels, codes, width of `encoded`."""
        return self._tensor("tokenizer/codebooks.safetensors", "codebooks")

    def vectors(self) -> np.ndarray | None:
        """(n, d) float32: the content of the items, row = item."""
        return self._tensor("tokenizer/vectors.safetensors", "vectors")

    def encoded(self) -> np.ndarray | None:
        """(n, e) float32: what the codebooks quantise, `vectors` or an RQ-VAE's latents of them."""
        latents = self._tensor("tokenizer/latents.safetensors", "latents")
        return self.vectors() if latents is None else latents

    def recommendations(self, user: int | None = None, model: str | None = None) -> pd.DataFrame:
        """model, user, user_id, rank, item, item_id, score, lp_1 .. lp_L, hit; ranks from 1."""
        asked = {k: v for k, v in (("user", user), ("model", model)) if v is not None}
        clauses, values = [f'"{column}" = ?' for column in asked], list(asked.values())
        where = f"WHERE {' AND '.join(clauses)}" if clauses else ""
        columns = ("model", "user", "user_id", "rank", "item", "item_id", "score", "hit")
        sql = f'{where} ORDER BY model, "user", rank'
        return self._parquet("recommendations.parquet", sql, columns, values)

    def targets(self, user: int | None = None) -> pd.DataFrame:
        """user, item, part: what the evaluated users really took next."""
        where = "" if user is None else 'WHERE "user" = ?'
        values = [] if user is None else [user]
        return self._parquet("targets.parquet", where, ("user", "item", "part"), values)

    def checkpoints(self, stage: str = "pretrain") -> pd.DataFrame:
        """step, path, bytes, written (seconds since 1970) of each whole checkpoint."""
        rows = []
        for path in sorted((self.path / stage).glob("checkpoint-*.safetensors")):
            if path.with_suffix(".json").is_file():
                found = path.stat()
                step = int(path.stem.rsplit("-", 1)[1])
                rows.append((step, path, found.st_size, found.st_mtime))
        return pd.DataFrame(rows, columns=["step", "path", "bytes", "written"])

    def control(
        self, *, pause: bool | None = None, steps: int | None = None, stop: bool | None = None
    ) -> dict[str, Any]:
        """Ask the process that writes this run to pause, go on, do `steps` more steps, or stop.

        The file holds the number of single steps asked for since the process began, so that two
        presses are two steps; the process counts what it has done and never writes the file.
        """
        path = self.path / "control.json"
        now: dict[str, Any] = {"pause": False, "steps": 0, "stop": False}
        now |= self._optional("control.json") or {}
        now["pause"] = now["pause"] if pause is None else pause
        now["stop"] = now["stop"] if stop is None else stop
        now["steps"] += steps or 0
        write_json(path, now)
        return now

    def log_tail(self, lines: int = 50) -> str:
        path = self.path / "log.txt"
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        return "\n".join(text.splitlines()[-lines:])

    def _optional(self, relative: str) -> dict[str, Any] | None:
        path = self.path / relative
        return read_json(path) if path.is_file() else None

    def _tensor(self, relative: str, key: str) -> np.ndarray | None:
        path = self.path / relative
        if not path.is_file():
            return None
        try:
            return np.asarray(load_file(path)[key], dtype=np.float32)
        except Exception as error:  # safetensors raises its own kinds for a cut file
            raise RunError(f"{path}: cannot be read ({error}); run tokenize again") from None

    def _parquet(
        self, relative: str, rest: str, columns: Sequence[str], values: Sequence[Any] = ()
    ) -> pd.DataFrame:
        path = self.path / relative
        if not path.is_file():
            return pd.DataFrame(columns=list(columns))
        try:
            sql = f"SELECT * FROM read_parquet(?) {rest}"
            return cursor().execute(sql, [str(path), *values]).df()
        except duckdb.Error as error:
            raise RunError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from None


def open_run(name_or_path: str | Path, home: Path | None = None) -> Run:
    """A run by name, or by the path of its folder.

    Raises:
        RunError: there is none of that name; the nearest one is named.
    """
    folder = Path(name_or_path)
    if isinstance(name_or_path, str) and len(folder.parts) == 1:
        folder = runs_home(home) / valid_name(name_or_path)
    if folder.is_dir():
        return Run(folder)
    known = [path.name for path in _folders(folder.parent)]
    near = difflib.get_close_matches(folder.name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "`onerec runs list` shows what is there"
    raise RunError(f"no run {folder.name!r} in {folder.parent}: {hint}")


def list_runs(home: Path | None = None) -> list[RunInfo]:
    """All runs, the newest start first. A damaged one is listed with the state `damaged`."""
    infos = [_info(Run(path)) for path in _folders(runs_home(home))]
    return sorted(infos, key=lambda info: (-(info.started or 0.0), info.name))


def _folders(parent: Path) -> list[Path]:
    found = parent.iterdir() if parent.is_dir() else ()
    return sorted(p for p in found if p.is_dir() and not p.name.startswith("."))


def _info(run: Run) -> RunInfo:
    try:
        status, recipe, evaluated = run.status(), run.recipe(), run.evaluate() or {}
        return RunInfo(
            name=run.name,
            path=run.path,
            state=status.state,
            stage=status.stage,
            step=status.step,
            of=status.of,
            message=status.message,
            recipe=str(recipe.get("name") or ""),
            dataset=str((recipe.get("dataset") or {}).get("name") or ""),
            started=status.started,
            metrics=(evaluated.get("models") or {}).get("onerec", {}),
        )
    except (RunError, TypeError, ValueError, AttributeError) as error:
        return RunInfo(run.name, run.path, "damaged", message=str(error), metrics={})


def compare(runs: Sequence[Run]) -> pd.DataFrame:
    """Only the settings that differ: `setting`, then a column of texts per run ("" = not there)."""
    settings = []
    for run in runs:
        described = {**run.recipe().get("recipe", {}), **run.recipe()}
        settings.append(flatten({k: v for k, v in described.items() if k != "recipe"}))
    names = list(dict.fromkeys(name for flat in settings for name in flat))
    rows = [[name, *(flat.get(name, "") for flat in settings)] for name in names]
    differing = [row for row in rows if len(set(row[1:])) > 1]
    return pd.DataFrame(differing, columns=["setting", *(run.name for run in runs)])


def rename_run(run: Run, new_name: str) -> Run:
    """Give a run another name.

    Raises:
        RunError: the name is taken or no name, or the run is being written.
    """
    target = run.path.with_name(valid_name(new_name))
    _refuse_active(run, "rename")
    if target.exists():
        raise RunError(f"a run {new_name!r} is already there; choose another name")
    os.rename(run.path, target)
    return Run(target)


def delete_run(run: Run) -> None:
    """Delete a run's folder. Raises RunError when it is being written."""
    _refuse_active(run, "delete")
    hidden = run.path.with_name(f".deleted-{uuid.uuid4().hex[:8]}")
    os.rename(run.path, hidden)  # out of every list at once, then file by file
    shutil.rmtree(hidden)


def export_run(run: Run, target: Path, checkpoints: bool = False) -> Path:
    """Write a run as a zip file, by default without its weights. RunError when it cannot be."""
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(run.path.rglob("*")):
                weights = path.name.startswith(("checkpoint-", "served-", "shard"))
                passing = path.name in ("writer.json", "control.json") or path.suffix == ".tmp"
                if path.is_file() and not passing and (checkpoints or not weights):
                    archive.write(path, Path(run.name) / path.relative_to(run.path))
        os.replace(temporary, target)
    except OSError as error:
        raise RunError(f"{target}: cannot be written ({error.strerror})") from error
    finally:
        temporary.unlink(missing_ok=True)
    return target


def _refuse_active(run: Run, what: str) -> None:
    whose = {"stream": "its stream", "cache": "its task"}
    for path in (run.path, *sorted(run.path.glob("stream/*/")), *sorted(run.path.glob("cache/*/"))):
        if (status := Run(path).status()).active:
            name = f"{whose.get(path.parent.name, 'run')} {path.name!r} is {status.state}"
            raise RunError(f"{name} (process {status.pid}): stop it first, then {what}")
