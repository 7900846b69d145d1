"""Blocks of a model compiled for training by torch.compile, in place.

    refuse_without_compiler(device)
    compile_blocks(model)

What is compiled is the forward pass of each encoder and decoder block, one piece of code for all
blocks that are alike. On a GPU its shapes are the same in every step; on a CPU, where packing drops
the padding, the second batch makes them variable. Left as they are: the pathways, whose sizes
depend on the data; loss and heads; and everything that does not train. A block in evaluation or
without gradients runs as ever, so generation and evaluation compile nothing. A mixture's experts
are compiled where one grouped kernel does them, and on a CPU, where each has another number of rows
in each batch, they are a break in the graph.

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
from torch import nn

from onerec.errors import RecipeError, RunError
from onerec.model.onerec import OneRec

BACKEND = "inductor"


class BlockForward:
    """What stands in for the `forward` of a block: compiled in training, else the block's own.

    An object and no closure: where a model is copied, it is copied along with the block it names.
    """

    def __init__(self, block: nn.Module) -> None:
        self.block = block

    def __call__(self, *inputs: Any) -> Any:
        block = self.block
        forward = type(block).forward
        if block.training and torch.is_grad_enabled():
            forward = _compiled(forward)
        return forward(block, *inputs)


@functools.cache
def _compiled(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The compiled function, made at its first call; one for all blocks of a class."""
    return torch.compile(forward, backend=BACKEND)


def compile_blocks(model: OneRec) -> None:
    """From now on the model's blocks train compiled; nothing is compiled before the first step."""
    for block in (*model.encoder, *model.decoder):
        block.forward = BlockForward(block)


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
