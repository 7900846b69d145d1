"""The parts every transformer here is made of: attention with a cache, SwiGLU, the two blocks.

Blocks are pre-norm with RMSNorm and no biases. Positions, features and output heads live elsewhere.
Dropout acts on what a branch adds to the residual stream, never inside attention.

Shapes: B batch, T positions, S encoder states, M sequences per context (targets or beams),
D width, H heads, Dh width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from onerec.model.attention import (
    KeyValue,
    attend,
    attend_across,
    attend_joined,
    attend_segments,
    merge_heads,
    split_heads,
)
from onerec.model.packing import Mask, Packing, Segments
from onerec.model.products import Linear, fusable, fused_gate
from onerec.model.sizes import ffn_hidden

EPSILON = 1e-6  # RMSNorm; the paper prints none, ours


class RMSNorm(nn.RMSNorm):
    """`nn.RMSNorm` with `EPSILON`; in float32 on a CPU with half of its passes over memory."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.weight.dtype)  # of a narrow residual stream
        if not x.is_cpu or x.dtype != torch.float32 or torch.compiler.is_compiling():
            return super().forward(x)
        if torch.is_grad_enabled():
            normed: Tensor = _RMSNorm.apply(x, self.weight)  # type: ignore[no-untyped-call]
            return normed
        y: Tensor = x * _scale(x)
        return y.mul_(self.weight)


def _scale(x: Tensor) -> Tensor:
    """1 / sqrt(mean square + epsilon) of each row (..., 1)."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.square_().div_(x.shape[-1]).add_(EPSILON).rsqrt_()


class _RMSNorm(torch.autograd.Function):
    """With n = x r and y = n w: dx = r (g w - n mean(g w n)), dw = sum(g n)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        scale = _scale(x)
        normed = x * scale
        ctx.save_for_backward(normed, scale, weight)
        return normed * weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        normed, scale, weight = ctx.saved_tensors
        along = (grad * normed).flatten(0, -2)
        mean = (along @ weight).div_(len(weight)).view(scale.shape)
        to_x = torch.addcmul(grad * weight, normed, mean, value=-1).mul_(scale)
        return to_x, along.sum(0)


def plus(x: Tensor, y: Tensor) -> Tensor:
    """x + y of one shape; without gradients into `y`, which must be nobody else's.

    Not where `y` is the narrower one, as under autocast: the residual stream stays as wide as it
    is, and a narrow one as narrow, whatever a mixture's weights make of its experts' answers.
    """
    if x.dtype == torch.bfloat16:
        y = y.to(x.dtype)
    return x + y if torch.is_grad_enabled() or x.dtype != y.dtype else y.add_(x)


class SelfAttention(nn.Module):
    """Multi-head self-attention with queries, keys and values from one product."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width, bias=False)
        self.out = Linear(width, width, bias=False)

    def sequences(self, x: Tensor, m: int) -> Tensor:
        """Causal, over M sequences that share their first position: (B, 1 + M l, D) -> the same.

        The first position comes once, then the l others of each sequence. Nothing stands before the
        first, so all its weight is on itself.
        """
        first, rest = self.qkv(x).split([1, x.shape[1] - 1], dim=1)
        own = first.chunk(3, dim=-1)[2]  # (B, 1, D)
        if not rest.shape[1]:
            alone: Tensor = self.out(own)
            return alone
        batch, positions, _ = rest.shape
        rest = rest.view(batch, m, positions // m, -1)
        whole = torch.cat((first[:, None].expand(-1, m, -1, -1), rest), dim=2).flatten(0, 1)
        q, k, v = (split_heads(part, self.heads) for part in whole.chunk(3, dim=-1))
        length = whole.shape[1]
        mask = torch.ones(length - 1, length, dtype=torch.bool, device=x.device).tril(1)
        y = merge_heads(attend(q[:, :, 1:], k, v, mask)).view(batch, positions, -1)
        result: Tensor = self.out(torch.cat((own, y), dim=1))
        return result

    def packed(self, x: Tensor, packing: Packing) -> Tensor:
        """In both directions, over tokens of a grid: (T, D) or (B, S, D) -> the same."""
        qkv = self.qkv(x)
        if packing.segments is not None:
            flat = qkv.view(-1, 3, self.heads, x.shape[-1] // self.heads)  # (T, 3, H, Dh)
            q, k, v = flat.unbind(1)
            within = attend_segments(q, k, v, packing)
            segmented: Tensor = self.out(within.view(x.shape))
            return segmented
        grid = packing.unpack(qkv)  # (B, S, 3 D)
        hidden = None if packing.full else packing.mask[:, None, None]
        result: Tensor = self.out(packing.pack(attend_joined(grid, self.heads, hidden)))
        return result

    def step(self, qkv: Tensor, past: list[KeyValue]) -> tuple[Tensor, list[KeyValue]]:
        """One more position of K sequences, after the positions in `past`.

        Args:
            qkv: (B, K, 3 D), queries, keys and values of the new position, side by side.
            past: keys and values of each earlier position, (B, K, H, Dh), or (B, 1, H, Dh) where
                all sequences share the position. There are a handful, so they stay apart: beams are
                re-ordered position by position, and nothing is put together anew at each step.

        Returns:
            (B, K, D), and `past` with this position at its end.
        """
        q, k, v = qkv.view(*qkv.shape[:2], 3, self.heads, -1).unbind(2)
        present = [*past, (k, v)]
        if not past:  # one position has all the weight
            return self.out(v.flatten(2)), present
        scores = torch.stack([(q * key).sum(-1) for key, _ in present])  # (t, B, K, H)
        weights = (scores * q.shape[-1] ** -0.5).softmax(0)[..., None]
        y = weights[0] * present[0][1]  # (B, K, H, Dh)
        for weight, (_, value) in zip(weights[1:], present[1:], strict=True):
            y.addcmul_(weight, value)
        return self.out(y.flatten(2)), present


class CrossAttention(nn.Module):
    """Attention to encoder states whose keys and values are computed once per context."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = Linear(width, width, bias=False)
        self.key_value = Linear(width, 2 * width, bias=False)
        self.out = Linear(width, width, bias=False)

    def keys_values(self, states: Tensor, packing: Packing) -> KeyValue:
        """Encoder states, tokens of a grid (B, S) -> keys, values (B, H, S, Dh).

        Of tokens in segments they are (T, H, Dh).
        """
        made = self.key_value(states)
        if packing.segments is not None:
            k, v = made.view(-1, 2, self.heads, states.shape[-1] // self.heads).unbind(1)
            return k, v
        grid = packing.unpack(made)
        k, v = (split_heads(part, self.heads) for part in grid.chunk(2, dim=-1))
        apart = states.is_cpu and not torch.is_grad_enabled()  # read at every step
        return (k.contiguous(), v.contiguous()) if apart else (k, v)

    def forward(self, x: Tensor, memory: KeyValue, mask: Mask) -> Tensor:
        """(B, Q, D) queries on what `keys_values` made, mask (B, 1, 1, S) -> (B, Q, D)."""
        return self.read(self.query(x), memory, mask)

    def read(self, query: Tensor, memory: KeyValue, mask: Mask) -> Tensor:
        """As `forward`, of queries (B, Q, D) that are made already."""
        if isinstance(mask, Segments):
            heads = query.view(*query.shape[:2], self.heads, -1)  # (B, Q, H, Dh)
            across = attend_across(heads, *memory, mask)
            segmented: Tensor = self.out(across.flatten(2))
            return segmented
        q = split_heads(query, self.heads)  # (B, H, Q, Dh)
        result: Tensor = self.out(merge_heads(attend(q, *memory, mask)))
        return result


class SwiGLU(nn.Module):
    """down(silu(gate x) * up x), gate and up from one product."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_up = Linear(width, 2 * hidden, bias=False)
        self.down = Linear(hidden, width, bias=False)

    def forward(self, x: Tensor, counted: Tensor | None = None) -> Tensor:
        """(..., D) -> (..., D). `counted` is for mixtures, whose place this takes; unused."""
        weight = self.gate_up.weight
        fused = fusable(x, weight)
        y: Tensor = self.down(fused_gate(x, *weight.chunk(2)) if fused else gated(self.gate_up(x)))
        return y


def gated(x: Tensor) -> Tensor:
    """silu(gate) * up: x (..., 2 F), gate and up side by side -> (..., F)."""
    if not x.is_cpu or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate) * up
    y: Tensor = _Gated.apply(x)  # type: ignore[no-untyped-call]
    return y


class _Gated(torch.autograd.Function):
    """Both halves of the gradient are written where they belong, not put together afterwards."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        gate, up = x.chunk(2, dim=-1)
        opened = F.silu(gate)
        ctx.save_for_backward(x, opened)
        return opened * up

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        x, opened = ctx.saved_tensors
        gate, up = x.chunk(2, dim=-1)
        result = torch.empty_like(x)
        to_gate, to_up = result.chunk(2, dim=-1)
        torch.mul(grad, opened, out=to_up)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=to_gate)
        return result


class EncoderBlock(nn.Module):
    """z <- z + SelfAttn(RMSNorm(z)); z <- z + FFN(RMSNorm(z)), bidirectional (V1 section 2.2).

    `ffn` is a dense SwiGLU unless a mixture of experts is given.
    """

    def __init__(
        self, width: int, heads: int, dropout: float, ffn: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(width)
        self.attention = SelfAttention(width, heads)
        self.ffn_norm = RMSNorm(width)
        self.ffn = ffn or SwiGLU(width, ffn_hidden(width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, packing: Packing) -> Tensor:
        """Tokens of a grid, (T, D) or (B, S, D) -> the same; they see those of their own row."""
        x = plus(x, self.dropout(self.attention.packed(self.attention_norm(x), packing)))
        return plus(x, self.dropout(self.ffn(self.ffn_norm(x), packing.counted)))


class DecoderBlock(nn.Module):
    """Causal self-attention, cross-attention, then `ffn`: dense or a mixture of experts.

    The paper prints a norm before the last only (V1 section 2.3); a norm before each is ours.
    """

    def __init__(self, width: int, heads: int, dropout: float, ffn: nn.Module) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(width)
        self.attention = SelfAttention(width, heads)
        self.cross_norm = RMSNorm(width)
        self.cross = CrossAttention(width, heads)
        self.ffn_norm = RMSNorm(width)
        self.ffn = ffn
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        memory: KeyValue,
        mask: Mask,
        m: int,
        counted: Tensor | None = None,
    ) -> Tensor:
        """All positions of M sequences per context, which share its keys and values uncopied.

        Args:
            x: (B, 1 + M l, D), the position that the sequences share and the l others of each.
            memory: cross-attention keys and values (B, H, S, Dh).
            mask: (B, 1, 1, S) bool, True for states that exist; see `packing.Mask`.
            m: M.
            counted: (B, 1 + M l), how often each token enters the load of a mixture of experts.
        """
        x = plus(x, self.dropout(self.attention.sequences(self.attention_norm(x), m)))
        return self._read(x, self.cross.query(self.cross_norm(x)), memory, mask, counted)

    def step(
        self, x: Tensor, memory: KeyValue, mask: Mask, past: list[KeyValue]
    ) -> tuple[Tensor, list[KeyValue]]:
        """The next position (B, K, D) of K sequences per context; see `SelfAttention.step`."""
        y, present = self.attention.step(self.attention.qkv(self.attention_norm(x)), past)
        x = plus(x, y)
        return self._read(x, self.cross.query(self.cross_norm(x)), memory, mask), present

    def first_step(
        self,
        rows: Tensor,
        code: Tensor,
        memory: KeyValue,
        mask: Mask,
        past: list[KeyValue],
    ) -> tuple[Tensor, list[KeyValue]]:
        """`step` of a first block with x = rows[code]: what a code alone decides is made per code.

        Queries, keys and values of the self-attention are; and after the beginning, which all
        users share, also its result and the query of the cross-attention.

        Args:
            rows: (N, D), the input for each code.
            code: (B, K) int64, the last code of each sequence.
            memory, mask, past: as in `step`.
        """
        qkv = self.attention.qkv(self.attention_norm(rows[None]))  # (1, N, 3 D)
        if len(past) > 1:
            y, present = self.attention.step(F.embedding(code, qkv[0]), past)
            x = plus(F.embedding(code, rows), y)
            return self._read(x, self.cross.query(self.cross_norm(x)), memory, mask), present
        y, _ = self.attention.step(qkv, [(key[:1, :1], value[:1, :1]) for key, value in past])
        rows = plus(rows, y[0])
        query = self.cross.query(self.cross_norm(rows[None]))[0]
        x = self._read(F.embedding(code, rows), F.embedding(code, query), memory, mask)
        kept = F.embedding(code, qkv[0, :, rows.shape[1] :])
        key, value = kept.view(*code.shape, 2, self.cross.heads, -1).unbind(2)
        return x, [*past, (key, value)]

    def _read(
        self,
        x: Tensor,
        query: Tensor,
        memory: KeyValue,
        mask: Mask,
        counted: Tensor | None = None,
    ) -> Tensor:
        """Cross-attention, whose queries are made, and feed-forward of x (B, Q, D)."""
        x = plus(x, self.dropout(self.cross.read(query, memory, mask)))
        return plus(x, self.dropout(self.ffn(self.ffn_norm(x), counted)))
