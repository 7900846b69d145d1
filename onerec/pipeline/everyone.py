"""Lists for all users in one Parquet file, part by part, so that a kill loses at most one part.

    recommend_all(run, Path("lists.parquet"), k=10)

Parts stand in a folder beside the file, `<file>.parts`, until all are there; then they become the
file, and the folder goes. A folder says in `of.json` what its parts are of: called again with the
same run, k and beam the work goes on, and parts of anything else are made anew. A part is renamed
into its place when it is whole. One call at a time has the folder. Memory is that of one part.
Processes that torchrun started take parts in turn; the first one waits for all, and makes the file.
"""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import torch

from onerec.business_rules import Rules
from onerec.common import pick_device
from onerec.data.split import Cases
from onerec.data.tables import read_parquet, write_parquet
from onerec.errors import DataError, RecipeError
from onerec.lists import at_least_one
from onerec.model.batch import Batch
from onerec.model.generate import Generated, beam_search, repeated
from onerec.model.onerec import OneRec
from onerec.recommend import BATCH, Recommender
from onerec.run_writer import CLAIM, take
from onerec.runs import Run, open_run
from onerec.tokenizer.trie import Trie
from onerec.train.compiled import refuse_without_compiler, told_of_compiler
from onerec.train.distributed import Processes

PART = 4_096  # users of a part; ours: some seconds of work, some megabytes
OTHERS = (".csv", ".tsv", ".txt", ".json", ".jsonl")  # endings that say what Parquet is not
POLL_S = 0.2  # between two looks at what other processes have written

Tell = Callable[[int, int], None]


@dataclass(frozen=True)
class Written:
    """`users` that the file has lists for, its `rows`, and the users `before` this call."""

    path: Path
    users: int
    rows: int
    before: int


def recommend_all(
    run: Run | str,
    out: Path,
    *,
    k: int = 10,
    home: Path | None = None,
    device: str = "auto",
    part: int = PART,
    tell: Tell = lambda done, of: None,
    processes: Processes | None = None,
    compiled: bool = False,
) -> Written:
    """Write the lists of every user, from all that they did, in the order of their ids.

    Args:
        out: the Parquet file: columns of `Recommender.recommend`. It is replaced when all is done.
        part: users of a part. The lists do not depend on it.
        tell: called with how many of all users are done, before the first part and after each.
        processes: those that share the parts, each on its device. All call this, and see the disk
            of `out`; what those that do not lead return says nothing.
        compiled: the search is compiled first, for minutes: for many users, on a GPU.

    Raises:
        RecipeError: there is no GPU to compile for, or no compiler.
        RunError: the run is missing or not trained, or another call is writing this file.
        DataError: k is below 1, or the file cannot be written, or is there and no Parquet file.
        SystemExit: the first of several processes failed, and has said why; the code is 2.
    """
    processes = processes or Processes()
    if not processes.leads:  # the first one says when there is a folder to write to
        parts = out.with_name(f"{out.name}.parts")
        if processes.hear() == "go":
            recommender = _loaded(run, home, device, processes, compiled and k)
            k = min(k, recommender.trie.n_items)
            _share(recommender, parts, part, k, processes, lambda done, of: None)
        return Written(out, 0, 0, 0)
    at_least_one(k=k)
    _check(out)
    recommender = _loaded(run, home, device, processes, compiled and k)
    k = min(k, recommender.trie.n_items)
    of = _described(open_run(run, home) if isinstance(run, str) else run, recommender, k, part)
    folder, users = out.with_name(f"{out.name}.parts"), recommender.setting.dataset.n_users
    with _held(folder):
        _clear(folder, of)
        before = _done(folder, users, part)
        processes.say("go")
        _share(recommender, folder, part, k, processes, tell)
        while (done := _done(folder, users, part)) < users:
            if processes.world == 1:
                raise DataError(f"{folder}: parts were taken away; start the same command again")
            tell(done, users)  # others are still at theirs
            time.sleep(POLL_S)
        if processes.world > 1:
            tell(users, users)
        rows = _joined(folder, out)
        shutil.rmtree(folder)
    return Written(out, users, rows, before)


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """The folder of parts, made where it is not there, for this call alone."""
    try:
        folder.mkdir(exist_ok=True)
        take(folder, "the folder")
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        yield
    finally:
        (folder / CLAIM).unlink(missing_ok=True)


def _begins(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4)


def _check(out: Path) -> None:
    """Refuse a path that cannot become the file, or where something else would be lost."""
    what = ""
    if out.is_dir():
        what = "is a folder"
    elif not out.parent.is_dir():
        what = "stands in a folder that is not there"
    elif out.suffix.lower() in OTHERS:
        what = f"would be no {out.suffix} file"
    elif out.is_file() and _begins(out) not in (b"", b"PAR1"):
        what = "is there and holds something else"
    if what:
        raise DataError(f"{out} {what}; --out names the Parquet file to write")


def _loaded(
    run: Run | str, home: Path | None, device: str, processes: Processes, compiled: int
) -> Recommender:
    """`compiled`: the length of lists that a compiled search makes; 0: none does."""
    chosen = processes.device(pick_device(device))
    if compiled:
        refuse_to_compile_search(chosen)
    recommender = Recommender.load(run, home, str(chosen))
    if compiled:
        recommender.search = partial(compiled_search, compiled)
    return recommender


def refuse_to_compile_search(device: torch.device) -> None:
    """Compiled pieces are for shapes that only a GPU has few of.

    Raises:
        RecipeError: the device is a CPU, or has no compiler.
    """
    if device.type == "cpu":
        raise RecipeError(
            "--compile: a search is compiled on a GPU, and there is none; leave it out"
        )
    refuse_without_compiler(device)


@told_of_compiler()
def compiled_search(
    length: int,
    model: OneRec,
    batch: Batch,
    trie: Trie,
    *,
    k: int,
    exclude: torch.Tensor | None,
    **how: Any,
) -> Generated:
    """`beam_search`, compiled for lists of that length; others, of some users alone, are rare.

    The last users are as many as all others at once, some of them twice, so that nothing is
    compiled for them alone.
    """
    if k != length:
        return beam_search(model, batch, trie, k=k, exclude=exclude, **how)
    users = batch.size
    batch, exclude = repeated(batch, exclude, BATCH)
    found = beam_search(model, batch, trie, k=k, exclude=exclude, compiled=True, **how)
    return found.first(users)


def _share(
    recommender: Recommender, folder: Path, part: int, k: int, processes: Processes, tell: Tell
) -> None:
    """Write this process's parts that are not there: every `world`-th."""
    users = recommender.setting.dataset.n_users
    tell(_done(folder, users, part), users)
    for start in range(processes.rank * part, users, processes.world * part):
        path = _path(folder, start, part)
        if not path.exists():
            write_parquet(path, _lists(recommender, start, min(start + part, users), k))
            tell(_done(folder, users, part), users)


def _path(folder: Path, start: int, part: int) -> Path:
    return folder / f"part-{start // part:06d}.parquet"


def _done(folder: Path, users: int, part: int) -> int:
    """Users in parts that are there."""
    starts = [start for start in range(0, users, part) if _path(folder, start, part).exists()]
    return sum(min(start + part, users) - start for start in starts)


def _lists(recommender: Recommender, start: int, stop: int, k: int) -> pd.DataFrame:
    """The rows of neighbouring users."""
    index = np.arange(start, stop, dtype=np.int64)
    none = np.zeros(len(index) + 1, dtype=np.int64)
    end = recommender.setting.split.log.offsets[index + 1]
    ids = recommender.setting.dataset.users["user_id"]
    lists = recommender.lists(Cases(index, end, none, none[:0]), k, rules=Rules())
    frame = recommender.frame(ids.iloc[start:stop].tolist(), lists, k)
    return frame.assign(user_id=frame["user_id"].astype(ids.dtype))


def _described(run: Run, recommender: Recommender, k: int, part: int) -> dict[str, Any]:
    setting = recommender.setting
    return {
        "run": str(run.path.resolve()),
        "stamp": run.stamp(),
        "dataset": setting.dataset.fingerprint,
        "k": k,
        "beam": setting.recipe.evaluate.beam,
        "part": part,
    }


def _clear(folder: Path, of: dict[str, Any]) -> None:
    """Take away what a call of something else left in the folder, and parts that are cut off."""
    file = folder / "of.json"
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = None
    try:
        if known != of:
            for path in folder.iterdir():
                if path.name != CLAIM:
                    path.unlink()
            file.write_text(json.dumps(of, indent=1), encoding="utf-8")
        for path in folder.glob("part-*.parquet"):
            if not _whole(path):
                path.unlink()
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(folder: Path, error: OSError) -> DataError:
    return DataError(f"{folder}: cannot be written ({error.strerror}); choose another --out")


def _whole(path: Path) -> bool:
    try:
        return path.is_file() and read_parquet(path) is not None
    except DataError:
        return False


def _joined(folder: Path, out: Path) -> int:
    """All parts as one file, in their order: how many rows it has."""
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    parts = sorted(str(path) for path in folder.glob("part-*.parquet"))
    try:
        with duckdb.connect() as connection:
            target = str(temporary).replace("'", "''")
            connection.execute("SET preserve_insertion_order = true")
            (rows,) = connection.execute(
                f"COPY (FROM read_parquet($parts)) TO '{target}' (FORMAT parquet, "
                "COMPRESSION zstd)",
                {"parts": parts},
            ).fetchone() or (0,)
        os.replace(temporary, out)
    except (OSError, duckdb.IOException) as error:
        raise DataError(
            f"{out}: cannot be written ({str(error).splitlines()[0]}); free some disk space, the "
            "same command goes on"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return int(rows)
