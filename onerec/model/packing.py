"""Padded grids without their padding.

A batch of contexts is a grid (B, S) of which a part is padding: on short videos a quarter, on
Amazon Beauty two thirds. What a model does to each position alone (products, norms, gates) is done
to those that exist; only attention needs the grid. The padding stays where there is little of it
(`stays`), and on a GPU but for the training of a wide model (`packs`), for which the host waits
once a batch to know how many tokens there are. Where flash attention can be used
(`attention.segments_serve`) no mask is read: what does not see one another are sequences of their
own, in such a training one after another (`one_after_another`), else each row's tokens in front and
its padding behind (`in_front`).

Shapes: B batch, S positions of the grid, T positions that exist, W width. "Tokens" are (T, W), or
the grid itself (B, S, W) where the padding stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from onerec.model.products import ROUND

# Of a grid: from here on moving tokens about costs a CPU more than the padding does. With gradients
# the padding costs three times as much, and nothing is gained from fused products.
FULL, FULL_IN_TRAINING = 0.85, 0.97
WIDE = 512  # a model whose products are worth a wait
TILE = 256  # tokens one after another come in multiples of it


@dataclass(frozen=True)
class Segments:
    """Keys and values (T, H, Dh) of sequences one after another, which begin at `ends`.

    (B + 2,): those of each row, and a last one that belongs to nobody. Or, of a grid whose padding
    stands `behind`, (2 B + 1,): those of each row, and after each of them its padding. None is
    longer than `longest`.
    """

    ends: Tensor
    longest: int
    behind: bool = False

    def begins(self, rows: int, queries: int) -> Tensor:
        """Where each sequence's queries begin, and the end; what belongs to nobody has none."""
        count = torch.arange(len(self.ends), device=self.ends.device, dtype=torch.int32)
        return ((count + 1) // 2 if self.behind else count.clamp(max=rows)) * queries


Mask = Tensor | Segments | None  # bool (B, 1, 1, S), True may be attended to; None hides nothing


@dataclass(frozen=True)
class Packing:
    """Which places of a grid exist, `mask` (B, S) bool, and at which of them the tokens stand.

    `rows` (T,) int64 are flat places, distinct, in any order; None where every place has a token.
    The last `spare` of them are places of the padding, there to make the number a round one.
    `segments` int32 are where sequences begin that do not see one another, and the end: (2 B + 1,),
    the tokens and the padding of each row in the flat grid, or, where `exists` is given, (B + 2,),
    the tokens of each row one after another and then those that do not exist; None elsewhere.
    `exists` (T,) bool says of tokens one after another which they are; they know no grid.
    `full`: there is no padding, and the host knows.
    """

    mask: Tensor
    rows: Tensor | None = None
    segments: Tensor | None = None
    spare: int = 0
    exists: Tensor | None = None
    full: bool = False

    @property
    def counted(self) -> Tensor | None:
        """Which of the tokens exist, in their own shape; None where all do."""
        if self.exists is not None:
            return self.exists
        if self.rows is None:
            return None if self.full else self.mask
        return self.mask.view(-1)[self.rows] if self.spare else None

    @property
    def longest(self) -> int:
        """What no segment is longer than, those that do not exist included."""
        return self.mask.shape[1] if self.exists is None else max(self.mask.shape[1], TILE)

    @property
    def attendable(self) -> Mask:
        """What of each row may be attended to, as attention wants it."""
        if self.segments is not None:
            return Segments(self.segments, self.longest, behind=self.exists is None)
        return None if self.full else self.mask[:, None, None]

    def unpack(self, tokens: Tensor) -> Tensor:
        """Tokens -> (B, S, W), zeros where no token stands."""
        if self.rows is None:
            return tokens
        grid: Tensor = _Unpack.apply(tokens, self.rows, self.mask.numel())  # type: ignore[no-untyped-call]
        return grid.view(*self.mask.shape, tokens.shape[-1])

    def pack(self, grid: Tensor) -> Tensor:
        """(B, S, W) -> tokens."""
        if self.rows is None:
            return grid
        flat = grid.reshape(self.mask.numel(), grid.shape[-1])
        tokens: Tensor = _Pack.apply(flat, self.rows)  # type: ignore[no-untyped-call]
        return tokens

    def filled(self, tokens: Tensor) -> tuple[Tensor, Packing]:
        """Tokens of a grid that `stays` as that grid; all others as they are."""
        if self.rows is None or not stays(len(self.rows), self.mask):
            return tokens, self
        return self.unpack(tokens), Packing(self.mask)


def rounded(tokens: Tensor, packing: Packing) -> tuple[Tensor, Packing]:
    """Tokens (T, W) of a training batch with zeros behind them, up to a multiple of `ROUND`.

    They take places of the padding: nothing attends to them, no load counts them, and so no
    gradient comes from them. Without gradients, or where there is too little padding, as they are.
    """
    rows = packing.rows
    short = 0 if rows is None else -len(rows) % ROUND
    if rows is None or not short or not (tokens.is_cpu and torch.is_grad_enabled()):
        return tokens, packing
    free = (~packing.mask).view(-1).nonzero()[:short, 0]
    if len(free) < short:
        return tokens, packing
    tokens = F.pad(tokens, (0, 0, 0, short))
    return tokens, Packing(packing.mask, torch.cat((rows, free)), None, short)


def known_full(packing: Packing) -> Packing:
    """The same grid of a training batch, without a mask if no place of it is padding.

    Attention without a mask is a third faster on a GPU. To know costs a wait for the batch, which a
    loop that reads its loss after each step hardly feels.
    """
    return Packing(packing.mask, full=True) if bool(packing.mask.all()) else packing


def one_after_another(tokens: Tensor, packing: Packing) -> tuple[Tensor, Packing]:
    """Tokens of a grid (B, S), row after row, with zeros behind up to a multiple of `TILE`.

    A grid without padding stays what it is, and is known to be full.
    """
    mask, rows = packing.mask, packing.rows
    if rows is None and (packing := known_full(packing)).full:
        return tokens, packing
    if rows is None:
        order = mask.flatten().nonzero()[:, 0]  # waits for the GPU
        tokens = tokens.flatten(0, 1)
    else:
        order = rows.argsort()
    short = -len(order) % TILE
    tokens = _Pack.apply(tokens, order)  # type: ignore[no-untyped-call]
    if len(order) == mask.numel():
        return tokens.view(*mask.shape, tokens.shape[-1]), Packing(mask, full=True)
    exists = F.pad(torch.ones_like(order, dtype=torch.bool), (0, short))
    ends = F.pad(mask.sum(1).cumsum(0), (1, 1), value=0)
    ends[-1] = len(order) + short
    return F.pad(tokens, (0, 0, 0, short)), Packing(mask, None, ends.int(), exists=exists)


def in_front(grid: Tensor, mask: Tensor) -> tuple[Tensor, Packing]:
    """A grid (B, S, W) with the tokens of each row in front, in their order, and its segments."""
    order = (~mask).byte().argsort(dim=1, stable=True)
    grid = grid.gather(1, order[..., None].expand_as(grid))
    length = mask.sum(1)
    parts = torch.stack((length, mask.shape[1] - length), dim=1).flatten()
    return grid, Packing(mask.gather(1, order), None, F.pad(parts.cumsum(0), (1, 0)).int())


def packs(device: torch.device, width: int) -> bool:
    """Whether padding is worth dropping: on a GPU in the training of a wide model alone.

    There the host waits to know how many tokens there are, and a narrow model's kernels take less
    time than to start them.
    """
    return device.type == "cpu" or (torch.is_grad_enabled() and width >= WIDE)


def stays(tokens: int, mask: Tensor) -> bool:
    """Whether a grid (B, S) with that many tokens keeps its padding."""
    least = FULL_IN_TRAINING if torch.is_grad_enabled() else FULL
    return tokens >= least * mask.numel()


def _spread(tokens: Tensor, rows: Tensor, places: int) -> Tensor:
    grid = tokens.new_zeros(places, tokens.shape[1])
    if torch.compiler.is_compiling():  # torch 2.11 loses the gradient of what is written in place
        return grid.index_copy(0, rows, tokens)
    return grid.index_copy_(0, rows, tokens)


class _Unpack(torch.autograd.Function):
    """Rows are distinct, so both directions copy; torch's own gradient of a gather adds."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, rows: Tensor, places: int) -> Tensor:
        ctx.save_for_backward(rows)
        return _spread(tokens, rows, places)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (rows,) = ctx.saved_tensors
        return grad.index_select(0, rows), None, None


class _Pack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, flat: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.places = len(flat)
        return flat.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (rows,) = ctx.saved_tensors
        return _spread(grad, rows, ctx.places), None
