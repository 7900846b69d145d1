"""The training rows of a log as Parquet shards, for training where the log is too large to gather.

A shard is a range of neighbouring users with about `ROWS` rows, at least one user. Only rows that a
training example can read are kept, which of each user are the first ones, and of them only what
`Contexts` needs:

    shard-NNNNN.parquet  user, item, time (ms; where the features are timed), play (bucket),
                         positive, label_0 .. label_K-1 (1 where the user did it)
    shards.json          written last: the fingerprint of what they were made from and, of each
                         shard, its users, rows, examples and bytes

Shards of another fingerprint, or with a file that is missing or of another size, are made anew.
All of this is ours; the papers say nothing of files.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onerec.data.batches import Features
from onerec.data.log import Interactions, neighbours, user_offsets
from onerec.data.split import Split
from onerec.data.tables import read_parquet, write_parquet
from onerec.errors import DataError, RunError
from onerec.run_files import read_json, write_json

ROWS = 2**20  # of a shard; ours
VERSION = 1  # of what is written and what it means
INDEX = "shards.json"

Tell = Callable[[int, int], None]


@dataclass(frozen=True)
class Shard:
    """Rows and examples of the users `first` to `last` - 1, in `size` bytes."""

    file: str
    first: int
    last: int
    rows: int
    examples: int
    size: int


def log_fingerprint(dataset: str, split: Split, features: Features) -> str:
    """A hash of all that decides what stands in the shards; `dataset` is the log's fingerprint."""
    said = (
        VERSION,
        ROWS,
        dataset,
        split.rule,
        split.log.positive_rule,
        features.timed,
        features.event.behaviours,
    )
    digest = hashlib.sha256(repr(said).encode())
    digest.update(np.ascontiguousarray(split.train_end).tobytes())
    return digest.hexdigest()


class LogShards:
    """Shards that are all there, to be read in any order."""

    def __init__(self, folder: Path, shards: Sequence[Shard]) -> None:
        self.folder, self.shards = folder, tuple(shards)

    @classmethod
    def opened(cls, folder: Path, fingerprint: str) -> LogShards | None:
        """The shards in a folder; None where any is missing, cut off or made from something else.

        Sizes of files are compared, contents are not: what is wrong with them is said by `read`.
        """
        try:
            index = read_json(folder / INDEX)
            if index["fingerprint"] != fingerprint:
                return None
            found = cls(folder, [Shard(**each) for each in index["shards"]])
            whole = all((folder / s.file).stat().st_size == s.size for s in found.shards)
        except (RunError, OSError, KeyError, TypeError):
            return None
        return found if whole else None

    @classmethod
    def made(
        cls,
        folder: Path,
        split: Split,
        features: Features,
        fingerprint: str,
        tell: Tell = lambda done, of: None,
    ) -> LogShards:
        """The shards in a folder, written where they are not there; only one process may do this.

        `tell(done, of)` is called after each shard that was written.

        Raises:
            DataError, RunError: the disk is full or the folder cannot be written; no shard is left.
        """
        found = cls.opened(folder, fingerprint)
        if found is not None:
            return found
        _clear(folder)
        ranges = user_ranges(split)
        shards = []
        try:
            for number, users in enumerate(ranges):
                path = folder / f"shard-{number:05d}.parquet"
                columns = shard_columns(split, features, users)
                write_parquet(path, columns)
                rows = len(columns["user"])
                examples, size = _examples(columns), path.stat().st_size
                shards.append(Shard(path.name, users.start, users.stop, rows, examples, size))
                tell(number + 1, len(ranges))
            said = [dataclasses.asdict(shard) for shard in shards]
            write_json(folder / INDEX, {"fingerprint": fingerprint, "shards": said})
        except BaseException:  # also a stop that the user asks for
            _clear(folder)
            raise
        return cls(folder, shards)

    def read(self, numbers: Sequence[int], features: Features) -> tuple[Interactions, Features]:
        """The log of some shards, one after the other, its users numbered from 0, and its features.

        Raises:
            DataError: a shard was removed or damaged since it was opened.
        """
        parts = [self._columns(self.shards[number]) for number in numbers]
        users = [np.arange(self.shards[n].first, self.shards[n].last) for n in numbers]
        base = np.cumsum([0, *(len(each) for each in users)])
        for part, own, start in zip(parts, users, base, strict=False):
            part["user"] = part["user"].astype(np.int32) - np.int32(own[0] - start)
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        labels = np.zeros((len(joined["user"]), len(features.event.behaviours)), dtype=np.float32)
        for k in range(labels.shape[1]):
            labels[:, k] = joined[f"label_{k}"]
        log = Interactions(
            user=joined["user"],
            item=joined["item"],
            offsets=user_offsets(joined["user"], int(base[-1])),
            n_users=int(base[-1]),
            n_items=len(features.item.author),
            columns={"timestamp": joined["time"]} if features.timed else {},
            positive=joined["positive"],
            positive_rule="",
        )
        play = joined["play"].astype(np.int64)
        codes = features.user.codes[np.concatenate(users)]
        return log, dataclasses.replace(
            features,
            user=dataclasses.replace(features.user, codes=codes),
            event=dataclasses.replace(features.event, play=play, labels=labels),
        )

    def _columns(self, shard: Shard) -> dict[str, NDArray[Any]]:
        path = self.folder / shard.file
        again = f"delete {self.folder} and start the same command again"
        try:
            frame = read_parquet(path)
        except DataError as error:
            raise DataError(f"{error}; {again}") from error
        columns = {str(name): frame[name].to_numpy() for name in frame.columns}
        if len(frame) != shard.rows:
            raise DataError(f"{path}: {len(frame)} rows, {INDEX} says {shard.rows}; {again}")
        return columns


def _clear(folder: Path) -> None:
    """Remove shards, the index before what it names."""
    for path in (folder / INDEX, *folder.glob("shard-*.parquet")):
        path.unlink(missing_ok=True)


def user_ranges(split: Split) -> list[slice]:
    """Neighbouring users with at most `ROWS` training rows, at least one user each."""
    return neighbours(split.train_end - split.log.offsets[:-1], ROWS)


def shard_columns(split: Split, features: Features, users: slice) -> dict[str, NDArray[Any]]:
    """The training rows of neighbouring users, as a shard has them."""
    log, event = split.log, features.event
    start, lengths = log.offsets[:-1][users], (split.train_end - log.offsets[:-1])[users]
    place = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    rows = np.repeat(start, lengths) + place
    columns = {"user": log.user[rows], "item": log.item[rows]}
    if features.timed:
        columns["time"] = log.columns["timestamp"][rows]
    columns |= {"play": event.play[rows].astype(np.uint8), "positive": log.positive[rows]}
    labels = {f"label_{k}": event.labels[rows, k] > 0 for k in range(event.labels.shape[1])}
    return columns | labels


def _examples(columns: dict[str, NDArray[Any]]) -> int:
    """How many rows are positive and not their user's first."""
    user, positive = columns["user"], columns["positive"]
    return int((positive[1:] & (user[1:] == user[:-1])).sum())
