"""Matrix products on a CPU in float32, by the faster of two libraries.

MKL leaves half of an AMD core unused; oneDNN does not: products of one core reach 230 to 250
GFLOP/s instead of 95 to 105 (AVX-512), with the gradients of both factors. But it makes a plan for
each shape, half a millisecond or more, and keeps it for the next time. So it is asked where a shape
comes again: for a grid (B, T, D), for packed tokens (T, D) of a rounded number (see
`onerec.model.packing`), and for more work than a plan is worth. On Intel, known by its matrix
tiles, MKL is the faster one. Elsewhere, in other dtypes and in what torch.compile makes, torch
chooses. With AVX2 alone both reach 60 to 85, and so does, with AVX-512, a core whose other thread
is busy: then 105 and 100. So nothing is asked of oneDNN that pays on a free core alone.

Shapes: T rows, I and O features in and out.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import register_flop_formula

ONEDNN = hasattr(torch.ops.mkldnn, "_linear_pointwise")
MKL_IS_FAST = torch.cpu._is_amx_tile_supported()
ROUND = 128  # packed tokens of a training batch come in multiples of it
PLANNED = 1 << 27  # multiply-adds from which a plan is worth it though its shape never comes again
SMALL = 1 << 23  # multiply-adds below which a step through Python costs more than oneDNN spares
NARROW = 256  # features up to which turning the rows costs oneDNN what it spares of a gradient


class Linear(nn.Linear):
    """`nn.Linear` by `product`."""

    def forward(self, x: Tensor) -> Tensor:
        return product(x, self.weight, self.bias)


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., I) times weight (O, I) transposed, and bias (O,): (..., O)."""
    if MKL_IS_FAST or not plain(x, weight) or not comes_again(x, weight):
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled():
        y: Tensor = _Product.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return y
    return _linear(x, weight, bias)


def fusable(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN's products with something done to their result can be used: no gradients."""
    return plain(x, weight) and x.ndim > 2 and not torch.is_grad_enabled()


def plain(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN can be asked at all: float32 on a CPU, some of it, and not compiled."""
    same = x.is_cpu and x.dtype == weight.dtype == torch.float32
    if not (ONEDNN and same and x.numel() > 0) or torch.compiler.is_compiling():
        return False
    return not torch.is_autocast_enabled("cpu")


def comes_again(x: Tensor, weight: Tensor) -> bool:
    """Whether a plan for this shape pays; packed tokens are rounded in training alone."""
    if not torch.is_grad_enabled():
        return x.ndim > 2
    if x.ndim < 2 or x.numel() * len(weight) < SMALL:
        return False
    return x.ndim > 2 or len(x) % ROUND == 0 or len(x) * weight.numel() >= PLANNED


def fused_gate(x: Tensor, gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate x) * (up x) in two oneDNN products: weights (F, D), x (..., D) -> (..., F)."""
    opened: Tensor = torch.ops.mkldnn._linear_pointwise(x, gate, None, "swish", [1.0], "")
    y: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, opened, up, None, "mul")
    return y


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if not (weight.is_contiguous() or weight.t().is_contiguous()):
        # a part of wider rows, such as the gradient of one of what was concatenated: a product by
        # oneDNN's reference takes hundreds of times as long as the copy
        weight = weight.contiguous()
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


class _Product(torch.autograd.Function):
    """y = x W' + b: dx = g W, dW = g' x, db = the sum of g over its rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        y = _linear(x, weight, bias)
        unviewed: Tensor = torch.ops.aten._unsafe_view(y, y.shape)  # else autograd takes it for one
        return unviewed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        rows = grad.flatten(0, -2)
        to_x = _linear(grad, weight.t()) if ctx.needs_input_grad[0] else None
        to_weight = _over_rows(rows, x.flatten(0, -2)) if ctx.needs_input_grad[1] else None
        return to_x, to_weight, rows.sum(0) if ctx.needs_input_grad[2] else None


def _over_rows(left: Tensor, right: Tensor) -> Tensor:
    """(T, O) and (T, I) -> left' right (O, I). oneDNN turns the first, so that is the narrower."""
    outputs, inputs = left.shape[1], right.shape[1]
    if max(outputs, inputs) <= NARROW:
        return left.t() @ right
    if outputs < inputs:
        return _linear(left.t(), right.t())
    return _linear(right.t(), left.t()).t()


if ONEDNN:

    @register_flop_formula(torch.ops.mkldnn._linear_pointwise)
    def _operations(x: Any, second: Any, third: Any, *_: Any, **__: Any) -> int:
        """Two per multiply-add; with something multiplied to it the weights come third."""
        weight = third if third is not None and len(third) == 2 else second
        operations: int = 2 * math.prod(x) * weight[0]
        return operations
