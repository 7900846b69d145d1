"""Weights on disk: safetensors beside readable JSON, complete when the JSON is there.

A training checkpoint holds the weights (`model.<name>`) and the optimiser's moments
(`optim.<name>.<moment>`), so that a resumed run is the uninterrupted one. No pickle. Shapes and
fingerprints are checked at load; a file cut in half is named and passed over for the one before.
All of a checkpoint is read before any of it is put into a model.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from onerec.errors import RunError
from onerec.runs import read_json, write_json

_MODEL, _OPTIM = "model.", "optim."
FoundT = TypeVar("FoundT", Tensor, torch.Size)


class OtherModelError(RunError):
    """A checkpoint that is sound, and of a model of other sizes."""


@dataclass(frozen=True)
class Checkpoint:
    """A finished checkpoint: its two files and the step after which it was written."""

    path: Path
    step: int
    info: dict[str, Any]


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file under a temporary name, then rename it.

    Raises:
        RunError: the disk is full or the folder cannot be written; no half of a file is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, temporary)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        why = (getattr(error, "strerror", None) or str(error)).splitlines()[0]
        raise RunError(f"{path}: cannot write ({why}); free some disk space") from error
    finally:
        temporary.unlink(missing_ok=True)


def load_tensors(path: Path, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a safetensors file whose name starts with `prefix`, which is cut off.

    Raises:
        RunError: the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
            return {name[len(prefix) :]: file.get_tensor(name) for name in names}
    except FileNotFoundError:
        raise RunError(f"{path}: no such file; run the stage that writes it again") from None
    except (SafetensorError, OSError) as error:
        raise RunError(
            f"{path}: damaged ({str(error).splitlines()[0]}); delete it and run the stage again"
        ) from None


def save_checkpoint(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    info: dict[str, Any],
) -> Checkpoint:
    """Write checkpoint-NNNNNN.safetensors, then its .json, which makes it valid."""
    return write_checkpoint(folder, step, training_state(model, optimizer), info)


def training_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Weights and moments by the names that they have in a checkpoint."""
    tensors = {_MODEL + name: tensor for name, tensor in model.state_dict().items()}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for parameter, moments in optimizer.state.items():
        for moment, value in moments.items():
            tensors[f"{_OPTIM}{names[id(parameter)]}.{moment}"] = torch.as_tensor(value)
    return tensors


def write_checkpoint(
    folder: Path, step: int, state: Mapping[str, Tensor], info: dict[str, Any]
) -> Checkpoint:
    """As `save_checkpoint`, from a `training_state`."""
    path = folder / f"checkpoint-{step:06d}.safetensors"
    save_tensors(path, state)
    info = {**info, "step": step, "bytes": path.stat().st_size}
    write_json(path.with_suffix(".json"), info)
    return Checkpoint(path, step, info)


def checkpoints(folder: Path) -> list[Checkpoint]:
    """Finished checkpoints of a folder, oldest first; one that is cut short is left out."""
    found = []
    for description in folder.glob("checkpoint-*.json"):
        path = description.with_suffix(".safetensors")
        try:
            info = read_json(description)
        except (RunError, json.JSONDecodeError):
            continue
        if path.is_file() and path.stat().st_size == info.get("bytes"):
            found.append(Checkpoint(path, int(info["step"]), info))
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def prune(folder: Path, keep: int, also: set[int] | None = None) -> None:
    """Delete all but the newest `keep` checkpoints and those of the steps in `also`."""
    for old in checkpoints(folder)[:-keep]:
        if old.step not in (also or set()):
            old.path.with_suffix(".json").unlink(missing_ok=True)  # first, so none is half there
            old.path.unlink(missing_ok=True)


def load_model(path: Path, model: nn.Module, before: Mapping[str, Tensor] | None = None) -> None:
    """Put a checkpoint's weights into `model`, which may be shards.

    `before` says what those tensors are that a file from before they existed has none of.

    Raises:
        RunError: the file is damaged, or a tensor is missing, unknown or of another shape.
    """
    weights = load_tensors(path, _MODEL)
    if before is not None and not before.keys() & weights.keys():
        weights |= before
    _refuse_other_shapes(weights, model.state_dict(), path.name)
    _put_weights(weights, model)


def read_training(path: Path, model: nn.Module) -> dict[str, Tensor]:
    """The `training_state` in a checkpoint, for `put_training`; neither changes before all is read.

    Raises:
        RunError: the file is damaged, or a tensor is missing, unknown or of another shape.
    """
    state = load_tensors(path)
    refuse_other_state(state, model, path.name)
    return state


def put_training(
    state: Mapping[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Put weights into `model` and moments into `optimizer`, which may be shards or be given so."""
    _put_weights(_under(state, _MODEL), model)
    _put_moments(_under(state, _OPTIM), model, optimizer)


def _under(state: Mapping[str, FoundT], prefix: str) -> dict[str, FoundT]:
    return {name[len(prefix) :]: one for name, one in state.items() if name.startswith(prefix)}


def _put_weights(weights: Mapping[str, Tensor], model: nn.Module) -> None:
    own = model.state_dict()
    model.load_state_dict({key: _part(tensor, own[key]) for key, tensor in weights.items()})


def refuse_other_state(state: Mapping[str, FoundT], model: nn.Module, file: str) -> None:
    """RunError that names the first weight or moment that is not one of this model's."""
    _refuse_other_shapes(_under(state, _MODEL), model.state_dict(), file)
    own = dict(model.named_parameters())
    for moment, found in sorted(_under(state, _OPTIM).items()):
        shape, parameter = _shape_of(found), own.get(moment.rpartition(".")[0])
        if parameter is None or (shape and shape != parameter.shape):
            there = _shape(None if parameter is None else parameter.shape)
            raise RunError(
                f"{file}: the optimiser's {moment!r} is {_shape(shape)} in the file, and its "
                f"parameter {there} in the model; delete it and run the stage again"
            )


def _refuse_other_shapes(
    theirs: Mapping[str, Tensor | torch.Size], ours: Mapping[str, Tensor], file: str
) -> None:
    """OtherModelError that names the first tensor in which a checkpoint and a model differ."""
    for name in sorted(ours.keys() | theirs.keys()):
        there, here = theirs.get(name), ours.get(name)
        shape = _shape_of(there)
        if here is None or shape is None or here.shape != shape:
            raise OtherModelError(
                f"{file}: tensor {name!r} is {_shape(shape)} in the file, "
                f"{_shape(None if here is None else here.shape)} in "
                "the model: another recipe or tokenizer wrote it; start a run of another name"
            )


def _shape_of(found: Tensor | torch.Size | None) -> torch.Size | None:
    return found.shape if isinstance(found, Tensor) else found


def _shape(shape: torch.Size | None) -> str:
    return "absent" if shape is None else str(tuple(shape))


def _part(whole: Tensor, target: Tensor) -> Tensor:
    """This process's part of a tensor where `target` is a shard (DTensor), else all of it."""
    mesh = getattr(target, "device_mesh", None)
    if mesh is None:
        return whole
    from torch.distributed.tensor import distribute_tensor

    placements = target.placements  # type: ignore[attr-defined]
    return distribute_tensor(whole.to(target.device), mesh, placements, src_data_rank=None)


def _put_moments(
    found: Mapping[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Put moments (`<name>.<moment>`) into `optimizer`, parameter by parameter."""
    moments: dict[str, dict[str, Tensor]] = {}
    for key, tensor in found.items():
        name, _, moment = key.rpartition(".")
        moments.setdefault(name, {})[moment] = tensor
    for name, parameter in model.named_parameters():
        if name in moments:
            optimizer.state[parameter] = {
                moment: (_part(value, parameter) if value.ndim else value).to(parameter.device)
                for moment, value in moments[name].items()
            }
