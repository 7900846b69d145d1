"""A QFormer: learned queries that read a long sequence into a few states (V1 section 2.2).

    h <- CrossAttn(h, v, v);  h <- FFN(RMSNorm(h))          N_l blocks, N_q queries

The paper prints no residual connection here, and does not say whether its code has one. The
feed-forward network is SwiGLU as elsewhere (ours); the sequence has no positions but its features.

Shapes: B users, T tokens that they have together, S the longest of their sequences, Q queries,
D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from onerec.model.attention import segments_serve
from onerec.model.layers import CrossAttention, RMSNorm, SwiGLU
from onerec.model.packing import Packing, one_after_another
from onerec.model.sizes import QFORMER_BLOCKS, ffn_hidden


@dataclass(frozen=True)
class QFormerConfig:
    """N_q queries and N_l blocks; `residual` adds the connection that the paper does not print.

    Off by default: where targets follow the commonest interest of 20 to 40 clusters (width 32, 8
    queries, 250 steps, three seeds) the first code's loss ended at .42 to .46 as printed and .62 to
    .69 with it at a rate of 1e-3, .07 to .08 and .09 to .11 at 3e-3; without the pathway 2.77.
    """

    queries: int = 128
    blocks: int = QFORMER_BLOCKS
    residual: bool = False


class QFormerBlock(nn.Module):
    """Cross-attention and a feed-forward network."""

    def __init__(self, width: int, heads: int, dropout: float, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.cross = CrossAttention(width, heads)
        self.ffn_norm = RMSNorm(width)
        self.ffn = SwiGLU(width, ffn_hidden(width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, tokens: Tensor, packing: Packing) -> Tensor:
        """h (B, Q, D) reads tokens of a grid (B, S) -> (B, Q, D)."""
        keys_values = self.cross.keys_values(tokens, packing)
        return self.after(h, self.cross(h, keys_values, packing.attendable))

    def after(self, h: Tensor, y: Tensor) -> Tensor:
        """States h (B, Q, D) and what they read, y (B, Q, D) -> (B, Q, D)."""
        y = self.dropout(y)
        h = h + y if self.residual else y
        y = self.dropout(self.ffn(self.ffn_norm(h)))
        result: Tensor = h + y if self.residual else y
        return result


class QFormer(nn.Module):
    """Q states of each user who has a sequence."""

    def __init__(self, config: QFormerConfig, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.head = width // heads
        self.queries = nn.Parameter(torch.empty(config.queries, width))
        self.blocks = nn.ModuleList(
            QFormerBlock(width, heads, dropout, config.residual) for _ in range(config.blocks)
        )

    def forward(self, tokens: Tensor, packing: Packing) -> tuple[Tensor, Packing]:
        """Tokens of a grid (B, S) -> states of a grid (B, Q), and which of them exist.

        A user without a token has no state. Where the padding has gone he costs nothing; where it
        stays he reads it, since attention to nothing is not a number, and is masked.
        """
        exists = packing.mask.any(1)  # (B,)
        count = len(self.queries)
        rows: Tensor | None = None
        if packing.rows is None:
            mask = packing.mask | ~exists[:, None]
            packing = Packing(mask)
        else:
            users, length = exists.nonzero()[:, 0], packing.mask.shape[1]
            place = exists.cumsum(0) - 1  # of a user among those who have a sequence
            mask = packing.mask[users]
            own = place[packing.rows // length] * length + packing.rows % length
            packing = Packing(mask, own)
            if segments_serve(tokens.device, self.head):
                tokens, packing = one_after_another(tokens, packing)
            rows = (users[:, None] * count + torch.arange(count, device=users.device)).flatten()
        h = self.queries.expand(len(mask), -1, -1)
        for block in self.blocks:
            h = block(h, tokens, packing)
        states = h if rows is None else h.flatten(0, 1)
        return states, Packing(exists[:, None].expand(-1, count), rows)
