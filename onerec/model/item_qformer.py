"""From an item's content tokens to the few states that are quantised (V1 section 2.1).

    Q <- CrossAttn(Q, M, M);  Q <- FFN(RMSNorm(Q))          N_c = 4 blocks, 4 learned queries

The blocks are those of the lifelong pathway (`model.qformer`), with its switch for the residual
that the paper does not print. The whole matrix of states is an item's vector, as in the paper. A
norm of the tokens, and a projection where they are not as wide as the queries, are ours: encoders
differ in scale. Missing modalities are masked and not read; tokens have no positions.

Shapes: B items, N_M tokens of an item, d_t their width, Q queries, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from onerec.common import evaluating
from onerec.errors import DataError, RecipeError
from onerec.model.layers import CrossAttention, RMSNorm
from onerec.model.products import Linear
from onerec.model.qformer import QFormerBlock
from onerec.model.sizes import ITEM_QFORMER_HEADS
from onerec.tokenizer.content import Precomputed

AT_A_TIME = 2**23
"""Numbers of content that are read together when vectors are made: 12 items of the paper's size."""


@dataclass(frozen=True)
class ItemQFormerConfig:
    """4 queries, 4 blocks and width 512 are the paper's; it does not say how many heads."""

    queries: int = 4
    blocks: int = 4
    width: int = 512
    heads: int = ITEM_QFORMER_HEADS
    dropout: float = 0.0
    residual: bool = False

    def __post_init__(self) -> None:
        for name in ("queries", "blocks", "width", "heads"):
            if getattr(self, name) < 1:
                raise RecipeError(f"QFormer {name} is {getattr(self, name)}; it must be at least 1")
        if self.width % self.heads:
            raise RecipeError(
                f"QFormer width {self.width} is not a multiple of its {self.heads} heads"
            )


class ItemQFormer(nn.Module):
    """Learned queries that read an item's content; `dim` is d_t."""

    def __init__(self, config: ItemQFormerConfig, dim: int) -> None:
        super().__init__()
        self.config, self.dim, width = config, dim, config.width
        self.norm = RMSNorm(dim)
        self.project = nn.Identity() if dim == width else Linear(dim, width, bias=False)
        self.queries = nn.Parameter(torch.empty(config.queries, width))
        self.blocks = nn.ModuleList(
            QFormerBlock(width, config.heads, config.dropout, config.residual)
            for _ in range(config.blocks)
        )

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Norms 1, queries normal(0, 1), matrices normal with deviation 1/sqrt(inputs); ours.

        Smaller queries would all spread their attention evenly and begin as one.
        """
        for parameter in self.parameters():
            if parameter.ndim < 2:
                parameter.fill_(1.0)
            elif parameter is self.queries:
                parameter.normal_(generator=generator)
            else:
                parameter.normal_(0.0, parameter.shape[1] ** -0.5, generator=generator)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Tokens (B, N_M, d_t), mask (B, N_M) true for those there -> states (B, Q, D).

        Every item needs a token that is there. What stands at masked places is never read, not even
        if it is not a number.
        """
        tokens = tokens.masked_fill(~mask[..., None], 0.0)
        tokens = self.project(self.norm(tokens))  # (B, N_M, D)
        h = self.queries.expand(len(tokens), -1, -1)  # (B, Q, D)
        for block in self.blocks:
            assert isinstance(block, QFormerBlock)
            h = block.after(h, read_by_few(block.cross, h, tokens, mask))
        return h


def read_by_few(cross: CrossAttention, h: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    """What `cross` reads, without keys and values of all tokens: equal but for rounding.

    (W_q h)(W_k m) = (W_k' W_q h) m, and the mean of W_v m is W_v of the mean of m: Q H vectors of
    an item are multiplied by matrices, where keys and values need 2 N_M (at the paper's size 64
    where they need 2560).

    Args:
        h: (B, Q, D).
        tokens: (B, N_M, D).
        mask: (B, N_M), true for those there.
    """
    batch, count, width = h.shape
    key, value = cross.key_value.weight.view(2, cross.heads, -1, width)  # (H, Dh, D) each
    query = cross.query(h).view(batch, count, cross.heads, -1)
    asked = torch.einsum("bqhd,hde->bhqe", query, key).flatten(1, 2)  # (B, H Q, D)
    scores = asked @ tokens.transpose(1, 2) * key.shape[1] ** -0.5  # (B, H Q, N_M)
    weights = scores.masked_fill(~mask[:, None], -torch.inf).softmax(-1).to(tokens.dtype)
    seen = (weights @ tokens).view(batch, cross.heads, count, width)
    y: Tensor = cross.out(torch.einsum("bhqe,hde->bqhd", seen, value).flatten(2))
    return y


def flat_vectors(states: Tensor) -> Tensor:
    """States (B, Q, D) -> unit vectors (B, Q D), whose product is the cosine; at least float32.

    The paper clusters the whole matrix and does not print its similarity; the cosine is ours, and
    so is the length of 1, which no loss would teach.
    """
    states = states.to(torch.promote_types(states.dtype, torch.float32))
    return F.normalize(states.flatten(1), dim=1)


def check_content(content: Precomputed, dim: int | None = None) -> None:
    """What `Precomputed` checks, and that each item has something to read.

    Raises:
        DataError: an item without a token, or tokens of another width than `dim`.
    """
    if dim is not None and content.dim != dim:
        raise DataError(
            f"content tokens are {content.dim} wide, the QFormer was made for {dim}; "
            "train it on these tokens, or encode the items with the encoder it was trained on"
        )
    empty = np.flatnonzero(~content.mask.astype(bool).any(axis=1))
    if len(empty):
        raise DataError(
            f"item {empty[0]} has no content token that is not masked "
            f"({len(empty)} of {len(content.mask)} items have none); "
            "give it a text, an image or another vector, or leave it out"
        )


def item_vectors(model: ItemQFormer, content: Precomputed) -> NDArray[np.float32]:
    """What is quantised: (n, Q D) float32 of length 1, made batch by batch.

    Raises:
        DataError: see `check_content`.
    """
    check_content(content, model.dim)
    device = model.queries.device
    vectors = np.empty((len(content.mask), model.queries.numel()), dtype=np.float32)
    size = max(1, AT_A_TIME // (content.tokens.shape[1] * model.config.width))
    with evaluating(model):
        for begin in range(0, len(vectors), size):
            tokens, mask = content_rows(content, slice(begin, begin + size), device)
            vectors[begin : begin + size] = flat_vectors(model(tokens, mask)).cpu().numpy()
    return vectors


def content_rows(
    content: Precomputed, rows: NDArray[np.int64] | slice, device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """Tokens (B, N_M, d_t) float32 and mask (B, N_M) of some items, on `device`."""
    tokens = torch.from_numpy(np.array(content.tokens[rows], dtype=np.float32))
    mask = torch.from_numpy(np.array(content.mask[rows], dtype=bool))
    return tokens.to(device), mask.to(device)
