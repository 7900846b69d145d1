"""The lazy decoder of OneRec-V2: a decoder that reads its context without working on it.

Context processor: the pathways' tokens, each projected once to L_kv sets of keys and values, which
the decoder's blocks share. Block: lazy cross-attention (its own query and output products, keys and
values as they are), causal self-attention, dense SwiGLU or experts. There is no encoder, so almost
all products are spent on the target. Source: OneRec-V2 (V2) section 3.2.

Where V2 is silent it is ours: the context tokens are V1's pathways; keys and values are normed over
all their groups at once, as printed; code tables have the width of the context tokens and are
lifted to D by one product; the decoder has no positions but its tables, one per level.

    model = LazyDecoder(LazyConfig(), vocabulary, items)    # the interface of OneRec

Shapes: B contexts, M targets (or beams) per context, L levels, S context tokens, D width, C width
of a context token, H query heads, G groups of keys and values, Dh width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onerec.model.attention import KeyValue, Memory, attend, merge_heads, split_heads
from onerec.model.layers import RMSNorm, SelfAttention
from onerec.model.onerec import OneRec, OneRecConfig
from onerec.model.packing import Mask, Packing, Segments, known_full, packs
from onerec.model.pathways import Batch, CodeEmbedding, ItemTable, Vocabulary
from onerec.model.pieces import Call, directly
from onerec.model.products import Linear
from onerec.model.sizes import (
    ContextConfig,
    expert_blocks,
    kv_set,
    lazy_expert_hidden,
    lazy_ffn_hidden,
)

__all__ = ["ContextConfig", "LazyConfig", "LazyDecoder"]


@dataclass(frozen=True)
class LazyConfig(OneRecConfig):
    """As OneRec's, with a context processor in the place of the encoder: `layers` is not read."""

    layers: int = 0
    context: ContextConfig = field(default_factory=ContextConfig)


class LazyDecoder(OneRec):
    """Decoder-only model with the interface of `OneRec`; see the module's docstring.

    `loss` is the mean over levels, where OneRec's is the sum.

    Raises:
        ValueError: as OneRec; more sets than blocks; heads no multiple of groups; or tied outputs
            with code tables narrower than the decoder.
    """

    config: LazyConfig

    def __init__(self, config: LazyConfig, vocabulary: Vocabulary, items: ItemTable) -> None:
        context = config.context
        if not 1 <= context.sets <= config.decoder_layers:
            raise ValueError(
                f"sets={context.sets} must be from 1 to decoder_layers={config.decoder_layers}"
            )
        if config.heads % (context.groups or config.heads):
            raise ValueError(f"heads={config.heads} is no multiple of groups={context.groups}")
        if vocabulary.tied_output and context.width not in (0, config.width):
            raise ValueError(
                f"tied_output needs code tables of the decoder's width={config.width}, "
                f"not context width={context.width}"
            )
        super().__init__(config, vocabulary, items)

    def _build(self) -> None:
        config, vocabulary = self.config, self.vocabulary
        width, context = config.width, config.context
        read = context.width or width  # C
        groups = context.groups or config.heads
        _, places = expert_blocks(config.expert_blocks, 0, config.decoder_layers)
        self.codes = CodeEmbedding(vocabulary.sizes, read)
        self.begin = nn.Parameter(torch.empty(width))
        self.pathways = self._pathways(read)
        head = width // config.heads
        self.context = ContextProcessor(read, head, groups, context.sets, context.separate_values)
        self.lift = None if read == width else Linear(read, width, bias=False)
        self.encoder = nn.ModuleList()
        self.decoder = nn.ModuleList(
            LazyBlock(width, config.heads, groups, config.dropout, self._ffn(mixture))
            for mixture in places
        )
        self.decoder_norm = nn.Identity()
        self.level_norms = nn.ModuleList(RMSNorm(width) for _ in vocabulary.sizes)

    def _hidden(self) -> tuple[int, int]:
        return lazy_ffn_hidden(self.config.width), lazy_expert_hidden(self.config.width)

    def embed(self, batch: Batch) -> tuple[Tensor, Packing]:
        """The context's tokens where the pathways leave them: nothing here attends to segments."""
        x, where = self.pathways(batch, self.items, self.codes)
        waits = not where.mask.is_cpu and where.rows is None and packs(x.device, self.config.width)
        return x, known_full(where) if waits else where

    def read(self, x: Tensor, where: Packing, call: Call = directly) -> Memory:
        """The keys and values that the blocks share, made once of the context's tokens."""
        sets = call(self.context, self.dropout(x), where)
        blocks = len(self.decoder)
        shared = [sets[kv_set(block, len(sets), blocks)] for block in range(blocks)]
        return Memory(where, shared)

    def lifted(self, embedded: Tensor) -> Tensor:
        """Code embeddings (..., C) -> (..., D)."""
        return embedded if self.lift is None else self.lift(embedded)

    def logits(self, level: int, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., N_level), with the norm of that position (V2)."""
        return super().logits(level, self.level_norms[level](hidden))

    def over_levels(self, losses: Tensor) -> Tensor:
        """Their mean (V2 section 3.2; V1 sums)."""
        return losses.mean()


class ContextProcessor(nn.Module):
    """Tokens -> L_kv sets of keys and values (V2 section 3.2).

    One product to S_kv L_kv chunks of width G Dh, then k = RMSNorm(chunk), v = RMSNorm(next chunk)
    or v = k, each with a norm of its own.
    """

    def __init__(self, width: int, head: int, groups: int, sets: int, separate: bool) -> None:
        super().__init__()
        self.groups, self.separate = groups, separate
        chunks = sets * (1 + separate)
        self.project = Linear(width, chunks * groups * head, bias=False)
        self.norms = nn.ModuleList(RMSNorm(groups * head) for _ in range(chunks))

    def forward(self, tokens: Tensor, packing: Packing) -> list[KeyValue]:
        """Tokens of a grid (B, S) -> for each set keys and values (B, G, S, Dh)."""
        chunks = self.project(tokens).chunk(len(self.norms), dim=-1)  # (T, G Dh) each
        kind = self.project.weight.dtype  # of the norms too: under autocast chunks are narrower
        normed = [norm(c.to(kind)).to(c.dtype) for norm, c in zip(self.norms, chunks, strict=True)]
        heads = [split_heads(packing.unpack(chunk), self.groups) for chunk in normed]
        if not torch.is_grad_enabled():
            heads = [table.contiguous() for table in heads]
        if self.separate:
            return list(zip(heads[::2], heads[1::2], strict=True))
        return [(table, table) for table in heads]


class LazyCrossAttention(nn.Module):
    """Attention to keys and values that come as they are; groups of queries share theirs."""

    def __init__(self, width: int, heads: int, groups: int) -> None:
        super().__init__()
        self.heads, self.groups = heads, groups
        self.query = Linear(width, width, bias=False)
        self.out = Linear(width, width, bias=False)

    def forward(self, x: Tensor, memory: KeyValue, mask: Mask) -> Tensor:
        """(B, Q, D) queries on (B, G, S, Dh) keys, mask (B, 1, 1, S) -> (B, Q, D)."""
        q = split_heads(self.query(x), self.heads)  # (B, H, Q, Dh)
        grouped = q.reshape(len(q), self.groups, -1, q.shape[-1])  # (B, G, H/G Q, Dh)
        assert not isinstance(mask, Segments), "the context's tokens keep their grid"
        y = attend(grouped, *memory, mask).reshape(q.shape)
        result: Tensor = self.out(merge_heads(y))
        return result


class LazyBlock(nn.Module):
    """Lazy cross-attention, causal self-attention, `ffn`; a norm before each (V2 section 3.2).

    Called as `DecoderBlock` is.
    """

    def __init__(self, width: int, heads: int, groups: int, dropout: float, ffn: nn.Module) -> None:
        super().__init__()
        self.cross_norm = RMSNorm(width)
        self.cross = LazyCrossAttention(width, heads, groups)
        self.attention_norm = RMSNorm(width)
        self.attention = SelfAttention(width, heads)
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
        """x (B, 1 + M l, D), the position that M sequences share and the l others of each."""
        x = x + self.dropout(self.cross(self.cross_norm(x), memory, mask))
        x = x + self.dropout(self.attention.sequences(self.attention_norm(x), m))
        y: Tensor = self.dropout(self.ffn(self.ffn_norm(x), counted))
        return x + y

    def step(
        self, x: Tensor, memory: KeyValue, mask: Mask, past: list[KeyValue]
    ) -> tuple[Tensor, list[KeyValue]]:
        """The next position (B, K, D) of K sequences per context; see `SelfAttention.step`."""
        x = x + self.dropout(self.cross(self.cross_norm(x), memory, mask))
        y, present = self.attention.step(self.attention.qkv(self.attention_norm(x)), past)
        x = x + y
        return x + self.dropout(self.ffn(self.ffn_norm(x))), present

    def first_step(
        self,
        rows: Tensor,
        code: Tensor,
        memory: KeyValue,
        mask: Mask,
        past: list[KeyValue],
    ) -> tuple[Tensor, list[KeyValue]]:
        """`step` of a first block with x = rows[code], rows (N, D), code (B, K)."""
        return self.step(F.embedding(code, rows), memory, mask, past)
