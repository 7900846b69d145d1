"""A model compiled for training by torch.compile, in place.

    refuse_without_compiler(device)
    compile_training(model, whole=True)
    compiled_log_probs(model, batch, codes)

On a GPU everything from the pathways' tokens to the losses of the levels is one piece of code, so
that norms, gates, sums and casts between two products are one pass over memory; of the pathways,
whose sizes depend on the data, it is what each event is the sum of. Shapes are the same in every
step but for the number of tokens. On a CPU, where packing drops the padding and the second batch
makes shapes variable, it is the forward pass of each encoder and decoder block, one piece for all
blocks that are alike. What does not train is left as it is: a model in evaluation or without
gradients runs as ever, so generation and evaluation compile nothing. A mixture's experts are
compiled where one grouped kernel does them, and on a CPU, where each has another number of rows in
each batch, they are a break in the graph.

Names in the state_dict stay, and hooks of fully_shard run outside of what is compiled: compile
first, then shard. With dropout other masks are drawn than without compiling (from the same seeds);
without it numbers agree to rounding. Opens no file.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from onerec.errors import RecipeError, RunError
from onerec.model.batch import Batch
from onerec.model.next_token import level_losses
from onerec.model.onerec import OneRec
from onerec.model.packing import Packing
from onerec.model.sample import sequence_log_probs

BACKEND = "inductor"


class Compiled:
    """What stands in for a module's method: compiled in training, else the module's own.

    An object and no closure: where a model is copied, it is copied along with the module it names.
    """

    def __init__(self, module: nn.Module, name: str = "forward", dynamic: bool | None = None):
        self.module, self.name, self.dynamic = module, name, dynamic

    def __call__(self, *inputs: Any) -> Any:
        module = self.module
        method = getattr(type(module), self.name)
        if module.training and torch.is_grad_enabled():
            method = _compiled(method, self.dynamic)
        return method(module, *inputs)


@functools.cache
def _compiled(function: Callable[..., Any], dynamic: bool | None = None) -> Callable[..., Any]:
    """The compiled function, made at its first call; one for all modules of a class."""
    return torch.compile(function, backend=BACKEND, dynamic=dynamic)


class WholeLosses:
    """What stands in for a model's `level_losses`: compiled in training, else the model's own."""

    def __init__(self, model: OneRec) -> None:
        self.model = model

    def __call__(self, batch: Batch) -> Tensor:
        model = self.model
        if not (model.training and torch.is_grad_enabled()):
            return type(model).level_losses(model, batch)
        x, where = _embedded(model, batch)
        losses: Tensor = _compiled(losses_of)(model, x, where, batch.target)
        return losses


def _embedded(model: OneRec, batch: Batch) -> tuple[Tensor, Packing]:
    """What the encoder reads, of a number of tokens that no compiled piece relies on."""
    x, where = model.embed(batch)
    if where.exists is not None:  # another number in each batch: one code for all
        torch._dynamo.mark_dynamic(x, 0)
        torch._dynamo.mark_dynamic(where.exists, 0)
    return x, where


def losses_of(model: OneRec, x: Tensor, where: Packing, target: Tensor) -> Tensor:
    """The losses of the levels (L,) from what `model.embed` made of a batch."""
    logits = model.target_logits(model.read(x, where), target)
    return level_losses(logits, model.items, target, model.config.label_smoothing)


def compiled_log_probs(model: OneRec, batch: Batch, codes: Tensor, **how: Any) -> Tensor:
    """As `model.sample.sequence_log_probs`, in one piece behind the pathways, in either mode."""
    x, where = _embedded(model, batch)
    found: Tensor = _compiled(log_probs_of)(model, x, where, codes, how)
    return found


def log_probs_of(
    model: OneRec, x: Tensor, where: Packing, codes: Tensor, how: dict[str, Any]
) -> Tensor:
    """The log-probability of each code (B, G, L) from what `model.embed` made of a batch."""
    return sequence_log_probs(model, model.read(x, where), codes, **how)


def as_a_whole(device: torch.device) -> bool:
    """Whether a model on this device is compiled in one piece."""
    return device.type == "cuda"


def compile_training(model: OneRec, whole: bool) -> None:
    """From now on the model trains compiled; nothing is compiled before the first step.

    `whole`: all behind the pathways in one piece; else block by block.
    """
    if whole:
        features = model.pathways.features
        setattr(features, "total", Compiled(features, "total", dynamic=True))  # noqa: B010
        model.level_losses = WholeLosses(model)  # type: ignore[method-assign]
        return
    for block in (*model.encoder, *model.decoder):
        block.forward = Compiled(block)


def refuse_without_compiler(device: torch.device) -> None:
    """Say early what torch.compile would miss.

    Raises:
        RecipeError: there is no C++ compiler for a CPU, or no triton for a GPU.
    """
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            raise RecipeError(
                "train.compile=true: on a GPU torch.compile needs the package triton, which is "
                "not installed; `pip install triton`, or leave train.compile at false"
            )
        return
    wanted = os.environ.get("CXX", "g++")
    if shutil.which(wanted) is None:
        raise RecipeError(
            f"train.compile=true: torch.compile needs a C++ compiler, and {wanted!r} is not found; "
            "install g++ or name another in CXX, or leave train.compile at false"
        )


@contextlib.contextmanager
def told_of_compiler() -> Iterator[None]:
    """Within it, what torch.compile cannot do is said in one line.

    Raises:
        RunError: compiling failed.
    """
    try:
        yield
    except torch._dynamo.exc.TorchDynamoException as error:
        first = next((line for line in str(error).splitlines() if line.strip()), "no message")
        raise RunError(
            f"torch.compile failed ({type(error).__name__}: {first.strip()}); start a new run with "
            "train.compile=false"
        ) from error
