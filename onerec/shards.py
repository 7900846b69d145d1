"""Checkpoints of a sharded training: a folder that every process writes its part of.

`shards-NNNNNN/` holds safetensors files of torch.distributed.checkpoint, `shards-NNNNNN.json`
beside it makes them valid. Tensors have the names that they have in an ordinary checkpoint, so that
any number of processes goes on from either kind, and `consolidate` makes the ordinary one.
"""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from onerec.checkpoint import (
    Checkpoint,
    checkpoints,
    read_training,
    refuse_other_state,
    training_state,
    write_checkpoint,
)
from onerec.errors import RunError
from onerec.runs import read_json, write_json

_MODEL, _OPTIM = "model.", "optim."


def save_shards(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    info: dict[str, Any],
    control: dist.ProcessGroup | None,
) -> Checkpoint:
    """Write shards-NNNNNN/; every process calls it, the first one writes the .json, which is last.

    Raises:
        RunError: the disk is full, or a process could not write.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    path = folder / f"shards-{step:06d}"
    first = dist.get_rank() == 0
    if first:
        _delete(path)
        path.mkdir(parents=True)
    writer = HuggingFaceStorageWriter(str(path), save_distributed=True)
    try:
        save(training_state(model, optimizer), storage_writer=writer, process_group=control)
    except CheckpointException as error:
        raise RunError(f"{path}: cannot write ({_first(error)}); free some disk space") from None
    info = {**info, "step": step, "bytes": _bytes(path)}
    if first:
        _delete(folder / f"checkpoint-{step:06d}.safetensors")  # a damaged one would hide this
        write_json(path.with_suffix(".json"), info)
    return Checkpoint(path, step, info)


def saved(folder: Path) -> list[Checkpoint]:
    """Finished checkpoints of both kinds, oldest first; one that is cut short is left out."""
    found = {}
    for description in folder.glob("shards-*.json"):
        path = description.with_suffix("")
        try:
            info = read_json(description)
        except (RunError, json.JSONDecodeError):
            continue
        if path.is_dir() and _bytes(path) == info.get("bytes"):
            found[int(info["step"])] = Checkpoint(path, int(info["step"]), info)
    found |= {checkpoint.step: checkpoint for checkpoint in checkpoints(folder)}
    return [found[step] for step in sorted(found)]


def prune_saved(folder: Path, keep: int, also: set[int] | None = None) -> None:
    """Delete all but the newest `keep` checkpoints of either kind and those of steps in `also`."""
    for old in saved(folder)[:-keep]:
        if old.step not in (also or set()):
            _delete(old.path)


def read_checkpoint(
    path: Path, model: nn.Module, control: dist.ProcessGroup | None = None
) -> dict[str, Tensor]:
    """A checkpoint of either kind, for `checkpoint.put_training`; in shards if the model is.

    Raises:
        RunError: it is damaged, or a tensor is missing, unknown or of another shape.
    """
    if not path.is_dir():
        return read_training(path, model)
    if any(hasattr(parameter, "device_mesh") for parameter in model.parameters()):
        return _read_own(path, model, control)
    state = read_shards(path)
    refuse_other_state(state, model, path.name)
    return state


def read_shards(path: Path) -> dict[str, Tensor]:
    """Every tensor of a shards-NNNNNN/, whole and on the CPU; needs no other process.

    Raises:
        RunError: a file is damaged.
    """
    state = {
        name: torch.empty(found.size, dtype=found.properties.dtype)
        for name, found in _metadata(path).items()
    }
    _load(path, state)
    return state


def consolidate(checkpoint: Checkpoint) -> Checkpoint:
    """Make an ordinary checkpoint of shards, which are deleted; an ordinary one stays as it is."""
    if not checkpoint.path.is_dir():
        return checkpoint
    folder, state = checkpoint.path.parent, read_shards(checkpoint.path)
    made = write_checkpoint(folder, checkpoint.step, state, checkpoint.info)
    _delete(checkpoint.path)
    return made


def _read_own(path: Path, model: nn.Module, control: dist.ProcessGroup | None) -> dict[str, Tensor]:
    """Each process reads what it keeps: the number of processes may be another one than before."""
    sizes = {name: torch.Size(found.size) for name, found in _metadata(path).items()}
    refuse_other_state(sizes, model, path.name)
    like = {_MODEL + name: tensor for name, tensor in model.state_dict().items()}
    own = dict(model.named_parameters())
    for key, size in sizes.items():
        if key.startswith(_OPTIM):
            parameter = own[key[len(_OPTIM) :].rpartition(".")[0]]
            like[key] = parameter if size else torch.zeros((), device=parameter.device)
    state = {name: torch.zeros_like(tensor).detach() for name, tensor in like.items()}
    _load(path, state, control)
    return state


def _metadata(path: Path) -> dict[str, Any]:
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    try:
        found = HuggingFaceStorageReader(str(path)).read_metadata().state_dict_metadata
    except Exception as error:  # whatever a damaged header makes of the reader
        raise _damaged(path, error) from None
    return dict(found)


def _load(path: Path, state: dict[str, Tensor], group: dist.ProcessGroup | None = None) -> None:
    """Fill `state` in place, together with the others of `group`; alone without one."""
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = HuggingFaceStorageReader(str(path))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            load(state, storage_reader=reader, process_group=group, no_dist=group is None)
    except CheckpointException as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: BaseException) -> RunError:
    return RunError(f"{path}: damaged ({_first(error)}); delete it and run the stage again")


def _first(error: BaseException) -> str:
    """The first line of what went wrong, of the first process where several say it."""
    from torch.distributed.checkpoint.api import CheckpointException

    if isinstance(error, CheckpointException) and error.failures:
        return str(next(iter(error.failures.values()))[0]).strip().splitlines()[0]
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.glob("*.safetensors"))


def _delete(path: Path) -> None:
    """Delete a checkpoint; its .json first, so that none is half there."""
    if path.suffix == ".safetensors":
        path.with_suffix(".json").unlink(missing_ok=True)
        path.unlink(missing_ok=True)
    else:
        path.with_suffix(".json").unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)
