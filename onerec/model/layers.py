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

KeyValue = tuple[Tensor, Tensor]  # keys and values, (B, H, T, Dh) each

EPSILON = 1e-6  # RMSNorm; the paper prints none, ours


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


class SelfAttention(nn.Module):
    """Multi-head self-attention with queries, keys and values from one product."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        causal: bool = False,
        past: KeyValue | None = None,
    ) -> tuple[Tensor, KeyValue]:
        """Attend and return (B, T, D) with the keys and values of all positions so far.

        Args:
            x: (B, T, D).
            mask: bool, broadcastable to (B, H, T, T); True may be attended to.
            causal: position t attends to positions <= t. With `past`, T must be 1.
            past: keys and values of earlier positions.
        """
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if past is not None:
            k, v = torch.cat((past[0], k), dim=2), torch.cat((past[1], v), dim=2)
        causal = causal and past is None and x.shape[1] > 1
        y = F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal)  # (B, H, T, Dh)
        return self.out(merge_heads(y)), (k, v)


class CrossAttention(nn.Module):
    """Attention to encoder states whose keys and values are computed once per context."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def keys_values(self, states: Tensor) -> KeyValue:
        """(B, S, D) -> keys, values (B, H, S, Dh)."""
        k, v = self.key_value(states).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return k.contiguous(), v.contiguous()

    def forward(self, x: Tensor, memory: KeyValue, mask: Tensor) -> Tensor:
        """(B, Q, D) queries on (B, H, S, Dh) keys, mask (B, 1, 1, S) -> (B, Q, D)."""
        q = split_heads(self.query(x), self.heads)  # (B, H, Q, Dh)
        y = F.scaled_dot_product_attention(q, memory[0], memory[1], mask)
        result: Tensor = self.out(merge_heads(y))
        return result


class SwiGLU(nn.Module):
    """down(silu(gate x) * up x), gate and up from one product."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor, counted: Tensor | None = None) -> Tensor:
        """(..., D) -> (..., D). `counted` is for mixtures, whose place this takes; unused."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        y: Tensor = self.down(F.silu(gate) * up)
        return y


class EncoderBlock(nn.Module):
    """z <- z + SelfAttn(RMSNorm(z)); z <- z + FFN(RMSNorm(z)), bidirectional (V1 section 2.2)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(width, eps=EPSILON)
        self.attention = SelfAttention(width, heads)
        self.ffn_norm = nn.RMSNorm(width, eps=EPSILON)
        self.ffn = SwiGLU(width, ffn_hidden(width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, S, D) with mask (B, 1, 1, S) -> (B, S, D)."""
        x = x + self.dropout(self.attention(self.attention_norm(x), mask)[0])
        y: Tensor = self.dropout(self.ffn(self.ffn_norm(x)))
        return x + y


class DecoderBlock(nn.Module):
    """Causal self-attention, cross-attention, then `ffn`: dense or a mixture of experts.

    The paper prints a norm before the last only (V1 section 2.3); a norm before each is ours.
    """

    def __init__(self, width: int, heads: int, dropout: float, ffn: nn.Module) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(width, eps=EPSILON)
        self.attention = SelfAttention(width, heads)
        self.cross_norm = nn.RMSNorm(width, eps=EPSILON)
        self.cross = CrossAttention(width, heads)
        self.ffn_norm = nn.RMSNorm(width, eps=EPSILON)
        self.ffn = ffn
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        memory: KeyValue,
        mask: Tensor,
        past: KeyValue | None = None,
        counted: Tensor | None = None,
    ) -> tuple[Tensor, KeyValue]:
        """Decode M sequences per context; they share the context's keys and values uncopied.

        Args:
            x: (B, M, T, D); self-attention stays inside each of the M sequences.
            memory: cross-attention keys and values (B, H, S, Dh).
            mask: (B, 1, 1, S) bool, True for states that exist.
            past: self-attention keys and values (B M, H, t, Dh) of earlier positions.
            counted: (B, M, T) bool, tokens that enter the load of a mixture of experts.
        """
        shape = x.shape
        y = self.attention_norm(x).flatten(0, 1)  # (B M, T, D)
        y, present = self.attention(y, causal=True, past=past)
        x = x + self.dropout(y.view(shape))
        y = self.cross_norm(x).flatten(1, 2)  # (B, M T, D): sequences become query length
        x = x + self.dropout(self.cross(y, memory, mask).view(shape))
        return x + self.dropout(self.ffn(self.ffn_norm(x), counted)), present
