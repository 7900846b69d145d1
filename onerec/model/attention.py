"""Attention by whatever kernel is the fastest for what is asked.

Masked by torch's, whole by cuDNN's; over sequences one after another by flash attention; a
handful of positions written out, where a compiler makes one pass of it.

Shapes: B batch, T positions or tokens, S encoder states, Q queries, H heads, Dh width of a head, D
width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.varlen import varlen_attn

from onerec.model.packing import Mask, Packing, Segments

KeyValue = tuple[Tensor, Tensor]  # keys and values of one layer
Cache = list[list[KeyValue]]  # of each decoder layer, position after position

WRITTEN_OUT = 1 << 14  # queries times keys of a head; beyond, a CPU's training would keep too much
FEW = 8  # positions that are too few for a kernel of attention
WIDEST = 256  # a head of flash attention
CUDNN_HEAD = 128  # the widest head of cuDNN's attention
MASKED = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Who attends where something is hidden and a GPU trains: of scores in the thousands, as a QFormer
without norms comes to make them, cuDNN's gradient is not a number (torch 2.11, H200)."""


@dataclass
class Memory:
    """An encoded context: where its states stand, and each decoder layer's keys and values."""

    where: Packing
    keys_values: list[KeyValue]

    @property
    def mask(self) -> Tensor:
        """(B, S), True for states that exist."""
        return self.where.mask

    @property
    def attendable(self) -> Mask:
        """What of each context may be attended to, as attention wants it."""
        return self.where.attendable


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, T, D) -> (B, H, T, Dh)."""
    batch, length, width = x.shape
    return x.view(batch, length, heads, width // heads).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, H, T, Dh) -> (B, T, D)."""
    return x.transpose(1, 2).flatten(2)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k / sqrt(Dh)) v: queries (B, H, T, Dh), keys and values (B, H, S, Dh).

    `mask` is bool, broadcastable to (B, H, T, S); True may be attended to. On a CPU it is written
    out where that fits: two threads share its batched products better than torch's kernel.
    """
    gradients = torch.is_grad_enabled()
    if q.is_cpu and not torch.compiler.is_compiling():
        if not gradients or q.shape[-2] * k.shape[-2] <= WRITTEN_OUT:
            return attend_written(q, k, v, mask)
        return F.scaled_dot_product_attention(q, k, v, mask)
    if max(q.shape[-2], k.shape[-2]) <= FEW and q.is_cuda and torch.compiler.is_compiling():
        return attend_few(q, k, v, mask)
    if mask is None and cudnn_serves(q, k):
        whole: Tensor = torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, None, True)[0]
        return whole
    if mask is not None and q.is_cuda and gradients:
        with sdpa_kernel(MASKED):
            return F.scaled_dot_product_attention(q, k, v, mask)
    return F.scaled_dot_product_attention(q, k, v, mask)


def attend_written(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """As `attend`, in products and a softmax. Who may attend to nothing gets a mean of the values.

    (Not zeros, as of torch's kernel: nobody reads it, and it is a number.)
    """
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)  # (B, H, T, S)
    if mask is not None and not mask.all():
        scores += _hidden(mask, q.dtype)
    y: Tensor = scores.softmax(-1) @ v
    return y


def _hidden(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to scores: the least number where a mask says no, else 0."""
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)


def attend_joined(qkv: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Self-attention of what one product made, (B, T, 3 D): queries, keys, values -> (B, T, D).

    As `attend`, which serves but where a CPU trains: there each of the three is copied once, and
    their gradients are written side by side, where the product wants them.
    """
    few = qkv.shape[1] ** 2 <= WRITTEN_OUT and qkv.dtype in (torch.float32, torch.float64)
    trains = qkv.is_cpu and torch.is_grad_enabled() and not torch.compiler.is_compiling()
    if few and trains and not torch.is_autocast_enabled("cpu"):
        y: Tensor = _Joined.apply(qkv, heads, mask)  # type: ignore[no-untyped-call]
        return y
    q, k, v = (split_heads(part, heads) for part in qkv.chunk(3, dim=-1))
    return merge_heads(attend(q, k, v, mask))


class _Joined(torch.autograd.Function):
    """P = softmax(s q k'), y = P v, s = 1 / sqrt(Dh), per head.

    With G = dy v' and dS = P (G - rowsum(G P)): dq = s dS k, dk = s dS' q, dv = P' dy.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, heads: int, mask: Tensor | None) -> Tensor:
        batch, length, width = qkv.shape
        apart = qkv.view(batch, length, 3, heads, width // 3 // heads)
        parts = apart.permute(2, 0, 3, 1, 4).contiguous()  # (3, B, H, T, Dh)
        q, k, v = parts.flatten(1, 2)
        hidden, beta = q.new_zeros(1, 1, 1), 0
        if mask is not None and not mask.all():
            hidden = _hidden(mask, q.dtype).expand(batch, heads, -1, -1).flatten(0, 1)
            beta = 1
        scores = torch.baddbmm(
            hidden, q, k.transpose(1, 2), beta=beta, alpha=q.shape[-1] ** -0.5
        )  # (B H, T, T)
        weights = scores.softmax(-1)
        ctx.save_for_backward(parts, weights)
        return merge_heads((weights @ v).view(parts.shape[1:]))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        parts, weights = ctx.saved_tensors
        _, batch, heads, length, head = parts.shape
        q, k, v = parts.flatten(1, 2)
        grad = split_heads(grad, heads).flatten(0, 1)  # (B H, T, Dh)
        made = torch.empty_like(parts)
        to_q, to_k, to_v = made.flatten(1, 2)
        torch.bmm(weights.transpose(1, 2), grad, out=to_v)
        to_weights = grad @ v.transpose(1, 2)
        to_scores = torch._softmax_backward_data(to_weights, weights, -1, weights.dtype)
        scale = head**-0.5
        torch.baddbmm(to_q, to_scores, k, beta=0, alpha=scale, out=to_q)
        torch.baddbmm(to_k, to_scores.transpose(1, 2), q, beta=0, alpha=scale, out=to_k)
        joined = made.permute(1, 3, 0, 2, 4).reshape(batch, length, 3 * heads * head)
        return joined, None, None


def attend_few(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """As `attend`, for a handful of positions: sums of products in float32, no matrix product.

    Compiled it is one pass over memory, where a kernel made for long sequences has little to do in
    many blocks.
    """
    scores = (q[..., :, None, :].float() * k[..., None, :, :].float()).sum(-1)  # (B, H, T, S)
    scores = scores * q.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    weights = scores.softmax(-1)[..., None]
    y: Tensor = (weights * v[..., None, :, :].float()).sum(-2)
    return y.to(v.dtype)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _flash_attends() -> bool:
    """Whether it runs on this GPU: from Ampere on. Asked as `_cudnn_attends` is."""
    return torch.cuda.get_device_capability() >= (8, 0)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _cudnn_attends() -> bool:
    """Whether cuDNN's attention is allowed, and the fastest: from Hopper on.

    In compiled code it is asked once, while that is made: torch 2.11 breaks the graph where it is
    asked within, at every layer.
    """
    allowed: bool = torch.backends.cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
    return allowed and torch.cuda.get_device_capability() >= (9, 0)


def cudnn_serves(q: Tensor, k: Tensor) -> bool:
    """Whether attention without a mask is cuDNN's: in half precision from Hopper on.

    It is asked directly, so what torch would look at is looked at here: one key alone it refuses.
    """
    if not q.is_cuda or q.dtype not in (torch.bfloat16, torch.float16):
        return False
    sizes = q.shape[-1] % 8 == 0 and q.shape[-1] <= CUDNN_HEAD and k.shape[-2] > 1
    return sizes and min(q.shape) > 0 and _cudnn_attends()


def segments_serve(device: torch.device, head: int) -> bool:
    """Whether attention over segments is there for heads of that width.

    It is flash attention: in bfloat16, from Ampere on, and torch pads no heads for it.
    """
    if device.type != "cuda" or not torch.is_autocast_enabled("cuda"):
        return False
    return head % 8 == 0 and head <= WIDEST and _flash_attends()


def attend_segments(q: Tensor, k: Tensor, v: Tensor, packing: Packing) -> Tensor:
    """Attention within each segment of a grid (B, S): q, k, v (B S, H, Dh) -> the same."""
    ends, length = packing.segments, packing.longest
    assert ends is not None
    y = varlen_attn(q, k, v, ends, ends, length, length)
    assert isinstance(y, Tensor)
    return y


def attend_across(q: Tensor, k: Tensor, v: Tensor, among: Segments) -> Tensor:
    """Attention of Q queries of each row (B, Q, H, Dh) to its keys and values -> the same."""
    queries = q.shape[1]
    begins = among.begins(len(q), queries)
    y = varlen_attn(q.flatten(0, 1), k, v, begins, among.ends, queries, among.longest)
    assert isinstance(y, Tensor)
    return y.view(q.shape)
