"""Pieces of a model by torch.compile: one for all blocks of a kind, each made at its first call.

Whoever runs a model's parts takes a `Call`: `directly`, or `compiled_call`. A method's module is
one of the arguments of what is compiled, so a piece serves every block like it, and depth costs no
waiting. Pieces are made for just the shapes that they are called with, of which callers see to it
that there are few.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any, Protocol

import torch
from torch import nn

from onerec.model.moe import MixtureOfExperts

BACKEND = "inductor"
SHAPES = 96  # that a piece is made for; from then on it runs uncompiled

Call = Callable[..., Any]  # of work and what it is given


class _Mixed(Protocol):
    def mixtures(self) -> list[MixtureOfExperts]: ...


def directly(work: Callable[..., Any], *given: Any) -> Any:
    """work(*given)."""
    return work(*given)


@functools.cache
def compiled_piece(work: Callable[..., Any]) -> Callable[..., Any]:
    """A function as torch.compile makes it."""
    made: Callable[..., Any] = torch.compile(work, backend=BACKEND, dynamic=False)
    return made


def compiled_call(work: Callable[..., Any], *given: Any) -> Any:
    """work(*given) by the compiled piece of a function, a bound method or a module's forward."""
    if isinstance(work, nn.Module):
        return compiled_piece(type(work).forward)(work, *given)
    if isinstance(work, MethodType):
        return compiled_piece(work.__func__)(work.__self__, *given)
    return compiled_piece(work)(*given)


@contextlib.contextmanager
def settled(model: _Mixed, compiled: bool) -> Iterator[None]:
    """Inside, what compiled pieces take for granted holds: weights are cast, shapes may be many."""
    if not compiled:
        yield
        return
    if torch.is_autocast_enabled("cuda"):
        for mixture in model.mixtures():
            mixture.keep(torch.get_autocast_dtype("cuda"))
    with torch._dynamo.config.patch(recompile_limit=SHAPES):
        yield
