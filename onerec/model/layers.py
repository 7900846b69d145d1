"""The parts every transformer here is made of: attention with a cache, SwiGLU, the two blocks.

Blocks are pre-norm with RMSNorm and no biases. Positions, features and output heads live elsewhere.
Dropout acts on what a branch adds to the residual stream, never inside attention.

Shapes: B batch, T positions, S encoder states, M sequences per context (targets or beams),
D width, H heads, Dh width of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KeyValue = tuple[Tensor, Tensor]  # keys and values of one layer

EPSILON = 1e-6  # RMSNorm; the paper prints none, ours
ONEDNN = hasattr(torch.ops.mkldnn, "_linear_pointwise")
# MKL leaves half of an AMD core unused; on Intel, known by its matrix tiles, MKL is the faster one.
MKL_IS_FAST = torch.cpu._is_amx_tile_supported()


class Linear(nn.Linear):
    """`nn.Linear` that asks oneDNN where nothing needs a gradient on a CPU and MKL is slow."""

    def forward(self, x: Tensor) -> Tensor:
        if not MKL_IS_FAST and fusable(x, self.weight):
            product = torch.ops.mkldnn._linear_pointwise
            y: Tensor = product(x, self.weight, self.bias, "none", [], "")
            return y
        return F.linear(x, self.weight, self.bias)


def fusable(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN's products with something done to their result can be used."""
    plain = x.is_cpu and x.dtype == weight.dtype == torch.float32
    return ONEDNN and plain and x.numel() > 0 and not torch.is_grad_enabled()


class RMSNorm(nn.RMSNorm):
    """`nn.RMSNorm` with `EPSILON`; without gradients on a CPU in half of its passes over memory."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() or not x.is_cpu or x.dtype != torch.float32:
            return super().forward(x)
        mean_square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1])
        y: Tensor = x * mean_square.add_(EPSILON).rsqrt_()
        return y.mul_(self.weight)


def ffn_hidden(width: int) -> int:
    """Hidden width of a dense block: 2 D, as in Table 1 of the technical report."""
    return 2 * width


def expert_hidden(width: int) -> int:
    """Hidden width of an expert: 8/3 D to the nearest multiple of 128, as the report's text says.

    Its Table 1 prints 2 D instead; parameter counts speak for the text (2688 at D = 1024).
    """
    return max(128, round(8 * width / 3 / 128) * 128)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, T, D) -> (B, H, T, Dh)."""
    batch, length, width = x.shape
    return x.view(batch, length, heads, width // heads).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, H, T, Dh) -> (B, T, D)."""
    return x.transpose(1, 2).flatten(2)


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *, causal: bool = False
) -> Tensor:
    """softmax(q k / sqrt(Dh)) v: queries (B, H, T, Dh), keys and values (B, H, S, Dh).

    `mask` is bool, broadcastable to (B, H, T, S); True may be attended to. Without gradients on a
    CPU it is written out, as two threads share its batched products better than torch's kernel.
    """
    if torch.is_grad_enabled() or not q.is_cpu or causal:
        return F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)  # (B, H, T, S)
    if mask is not None and not mask.all():
        scores += torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, -torch.inf)
    y: Tensor = scores.softmax(-1) @ v
    return y


class SelfAttention(nn.Module):
    """Multi-head self-attention with queries, keys and values from one product."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width, bias=False)
        self.out = Linear(width, width, bias=False)

    def forward(self, x: Tensor, mask: Tensor | None = None, *, causal: bool = False) -> Tensor:
        """(B, T, D) -> (B, T, D); see `attend` for the mask."""
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        result: Tensor = self.out(merge_heads(attend(q, k, v, mask, causal=causal)))
        return result

    def step(self, x: Tensor, past: list[KeyValue]) -> tuple[Tensor, list[KeyValue]]:
        """One more position of K sequences, after the positions in `past`.

        Args:
            x: (B, K, D).
            past: keys and values of each earlier position, (B, K, H, Dh), or (B, 1, H, Dh) where
                all sequences share the position. There are a handful, so they stay apart: beams are
                re-ordered position by position, and nothing is put together anew at each step.

        Returns:
            (B, K, D), and `past` with this position at its end.
        """
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in self.qkv(x).chunk(3, dim=-1))
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

    def keys_values(self, states: Tensor) -> KeyValue:
        """(B, S, D) -> keys, values (B, H, S, Dh)."""
        k, v = self.key_value(states).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return k.contiguous(), v.contiguous()

    def forward(self, x: Tensor, memory: KeyValue, mask: Tensor) -> Tensor:
        """(B, Q, D) queries on (B, H, S, Dh) keys, mask (B, 1, 1, S) -> (B, Q, D)."""
        q = split_heads(self.query(x), self.heads)  # (B, H, Q, Dh)
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
        if fusable(x, weight):
            hidden = fused_gate(x, *weight.chunk(2))
        else:
            gate, up = self.gate_up(x).chunk(2, dim=-1)
            hidden = F.silu(gate) * up
        y: Tensor = self.down(hidden)
        return y


def fused_gate(x: Tensor, gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate x) * (up x) in two oneDNN products: weights (F, D), x (..., D) -> (..., F)."""
    product = torch.ops.mkldnn._linear_pointwise
    opened: Tensor = product(x, gate, None, "swish", [1.0], "")
    y: Tensor = product.binary(x, opened, up, None, "mul")
    return y


class EncoderBlock(nn.Module):
    """z <- z + SelfAttn(RMSNorm(z)); z <- z + FFN(RMSNorm(z)), bidirectional (V1 section 2.2)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(width)
        self.attention = SelfAttention(width, heads)
        self.ffn_norm = RMSNorm(width)
        self.ffn = SwiGLU(width, ffn_hidden(width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, S, D) with mask (B, 1, 1, S) -> (B, S, D)."""
        x = x + self.dropout(self.attention(self.attention_norm(x), mask))
        y: Tensor = self.dropout(self.ffn(self.ffn_norm(x)))
        return x + y


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
        self, x: Tensor, memory: KeyValue, mask: Tensor, counted: Tensor | None = None
    ) -> Tensor:
        """All positions of M sequences per context, which share its keys and values uncopied.

        Args:
            x: (B, M, T, D); self-attention stays inside each of the M sequences.
            memory: cross-attention keys and values (B, H, S, Dh).
            mask: (B, 1, 1, S) bool, True for states that exist.
            counted: (B, M, T) bool, tokens that enter the load of a mixture of experts.
        """
        y = self.attention(self.attention_norm(x).flatten(0, 1), causal=True)  # (B M, T, D)
        x = x + self.dropout(y.view(x.shape))
        return self._read(x, memory, mask, counted)

    def step(
        self, x: Tensor, memory: KeyValue, mask: Tensor, past: list[KeyValue]
    ) -> tuple[Tensor, list[KeyValue]]:
        """The next position (B, K, D) of K sequences per context; see `SelfAttention.step`."""
        y, present = self.attention.step(self.attention_norm(x), past)
        return self._read(x + y, memory, mask, None), present

    def _read(self, x: Tensor, memory: KeyValue, mask: Tensor, counted: Tensor | None) -> Tensor:
        """Cross-attention and feed-forward of x (B, ..., D): sequences become query length."""
        queries = self.cross_norm(x).view(len(x), -1, x.shape[-1])
        x = x + self.dropout(self.cross(queries, memory, mask).view(x.shape))
        y: Tensor = self.dropout(self.ffn(self.ffn_norm(x), counted))
        return x + y
