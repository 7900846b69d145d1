"""Lifelong histories of a run: clustered once, kept below its cache/, and never trusted unread.

The clusters depend on the log, the tokenizer's vectors and settings of `history`; their hash names
the folder. Users are clustered in parts, each a file with a digest of its contents, so that a stop
loses at most one part, and a file that is damaged, cut off or of other data is made again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onerec.assembly import Setting
from onerec.checkpoint import load_tensors, save_tensors
from onerec.data.features import item_seconds
from onerec.data.log import neighbours
from onerec.data.snapshots import Snapshots, make_snapshots, snapshot_events
from onerec.errors import RunError
from onerec.runs import Run

PART = 2**21  # events that are clustered for the users of one file, at least one user
_VERSION = "1"  # of what is clustered and how
_DIGEST = "digest"

Tell = Callable[[int, int], None]


def with_lifelong(
    setting: Setting, run: Run, device: torch.device, tell: Tell = lambda done, of: None
) -> Setting:
    """The setting with the compressed histories of its users, where its recipe reads them.

    They come from the run's cache/ or are made and kept there; `tell(done, of)` is called after
    each part that had to be made.

    Raises:
        RunError: the tokenizer's vectors are not there.
    """
    history = setting.recipe.history
    if not history.lifelong_length or setting.snapshots is not None:
        return setting
    vectors = run.vectors()
    if vectors is None:
        raise RunError(
            "history.lifelong_length needs tokenizer/vectors.safetensors, which is not there; "
            "run `onerec tokenize` again"
        )
    key = _key(setting, vectors)
    folder = run.path / "cache" / f"lifelong-{key[:16]}"
    on_device = torch.from_numpy(vectors).to(device)
    seconds, found = item_seconds(setting.dataset), []
    parts = _parts(setting.split.log.offsets)
    for number, users in enumerate(parts):
        path = folder / f"part-{number:05d}.safetensors"
        part = _read(path, key, users)
        if part is None:
            part = make_snapshots(
                setting.split.log,
                setting.features.item,
                setting.features.event,
                seconds,
                on_device,
                users,
                limit=history.lifelong_limit,
                length=history.lifelong_length,
                by=history.lifelong_by,
            )
            _write(path, part, key, users)
            tell(number + 1, len(parts))
        found.append(part)
    return replace(setting, snapshots=Snapshots.joined(found))


def _key(setting: Setting, vectors: NDArray[np.float32]) -> str:
    """A hash of everything that decides the clusters and their features."""
    history, log, features = setting.recipe.history, setting.split.log, setting.features
    settings = (
        _VERSION,
        setting.dataset.fingerprint,
        setting.split.rule,
        history.lifelong_length,
        history.lifelong_limit,
        history.lifelong_by,
    )
    digest = hashlib.sha256(repr(settings).encode())
    for array in (log.item, log.offsets, features.event.labels, features.item.tag, vectors):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _parts(offsets: NDArray[np.int64]) -> list[slice]:
    """Neighbouring users whose snapshots have at most `PART` events, at least one user each."""
    return neighbours(snapshot_events(offsets), PART)


def _digest(tensors: dict[str, Tensor], key: str, users: slice) -> Tensor:
    """(32,) uint8 over names, types, shapes and bytes, and what the part is of."""
    digest = hashlib.sha256(f"{key} {users.start} {users.stop}".encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return torch.from_numpy(np.frombuffer(digest.digest(), dtype=np.uint8).copy())


def _write(path: Path, part: Snapshots, key: str, users: slice) -> None:
    tensors = dict(vars(part))
    save_tensors(path, {**tensors, _DIGEST: _digest(tensors, key, users)})


def _read(path: Path, key: str, users: slice) -> Snapshots | None:
    """The part, or None where the file is missing, damaged or of something else."""
    try:
        tensors = load_tensors(path)
    except RunError:
        return None
    digest = tensors.pop(_DIGEST, None)
    if set(tensors) != {field.name for field in fields(Snapshots)} or digest is None:
        return None
    if not torch.equal(digest, _digest(tensors, key, users)):
        return None
    return Snapshots(**tensors)
