"""OneRec: an encoder over what a user did, a decoder that writes an item's semantic codes.

Encoder: pathways -> bidirectional pre-norm blocks. Decoder: [BOS, s_1 .. s_{L-1}] -> causal
self-attention, cross-attention, dense SwiGLU or mixture of experts -> one head per level.
Source: OneRec technical report (V1) sections 2.2 and 2.3; what it does not print is ours and said.
`onerec.model.lazy` is the model of OneRec-V2 in its place.

    model = OneRec(OneRecConfig(), vocabulary, items)
    model.init_weights(generator(seed))
    loss, parts = model.loss(batch)

Shapes: B contexts, M targets (or beams) per context, L levels, N codes per level, S encoder states,
D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onerec.common import in_float32
from onerec.model import packing
from onerec.model.attention import Cache, Memory, segments_serve
from onerec.model.layers import DecoderBlock, EncoderBlock, RMSNorm, SwiGLU
from onerec.model.moe import BIAS_STEP, MixtureOfExperts, RouterConfig
from onerec.model.next_token import level_losses
from onerec.model.pathways import Batch, CodeEmbedding, Events, ItemTable, Pathways, Vocabulary
from onerec.model.pieces import Call, directly
from onerec.model.products import Linear
from onerec.model.qformer import QFormer, QFormerConfig
from onerec.model.routers import CompetitionRouter
from onerec.model.sizes import (
    ExpertBlocks,
    expert_blocks,
    expert_hidden,
    ffn_hidden,
    qformer_heads,
)

CODE_START = 0.125  # deviation of a code's coordinates at level 1 where codebooks give the start
HEAD_START = 0.3  # output heads start at this share of the code's embedding
PER_CODE = 2  # sequences per code from which a first block works per code

__all__ = ["Batch", "Events", "ItemTable", "Memory", "OneRec", "OneRecConfig", "Vocabulary"]


@dataclass(frozen=True)
class OneRecConfig:
    """Size and regularisation. `experts` 0 is a dense model; a length of 0 drops the pathway.

    `expert_blocks` says which blocks hold the experts; see `onerec.model.sizes`. `shared_experts`
    stand beside the routed ones and see every token. `lifelong` None drops the lifelong pathway.
    """

    width: int = 128
    layers: int = 4
    decoder_layers: int = 4
    heads: int = 4
    short_length: int = 20
    positive_length: int = 256
    experts: int = 0
    active_experts: int = 2
    shared_experts: int = 0
    router: RouterConfig = field(default_factory=RouterConfig)
    dropout: float = 0.0
    label_smoothing: float = 0.0
    residual: str = "float32"
    expert_blocks: ExpertBlocks = "decoder"
    lifelong: QFormerConfig | None = None


class OneRec(nn.Module):
    """Encoder-decoder over semantic IDs; see the module's docstring.

    Args:
        config: sizes.
        vocabulary: cardinalities of what is read and of the codes that are written.
        items: codes and features of every item.

    Raises:
        ValueError: the width is no multiple of the heads, or codes and vocabulary disagree.
    """

    def __init__(self, config: OneRecConfig, vocabulary: Vocabulary, items: ItemTable) -> None:
        super().__init__()
        if config.width % config.heads:
            raise ValueError(f"width={config.width} is no multiple of heads={config.heads}")
        if items.codes.shape[1] != len(vocabulary.sizes):
            raise ValueError(
                f"items have {items.codes.shape[1]} codes, the vocabulary {len(vocabulary.sizes)}"
            )
        self.config, self.vocabulary, self.items = config, vocabulary, items
        self._build()
        self.heads = (
            None
            if vocabulary.tied_output
            else nn.ModuleList(Linear(config.width, n, bias=False) for n in vocabulary.sizes)
        )
        self.dropout = nn.Dropout(config.dropout)
        self.init_weights(torch.Generator().manual_seed(0))

    def _build(self) -> None:
        """Everything between the items and the heads."""
        config, vocabulary = self.config, self.vocabulary
        width, heads, dropout = config.width, config.heads, config.dropout
        encoder, decoder = expert_blocks(config.expert_blocks, config.layers, config.decoder_layers)
        self.codes = CodeEmbedding(vocabulary.sizes, width)
        self.begin = nn.Parameter(torch.empty(width))
        self.pathways = self._pathways(width)
        self.encoder = nn.ModuleList(
            EncoderBlock(width, heads, dropout, self._ffn(mixture)) for mixture in encoder
        )
        self.encoder_norm: nn.Module = RMSNorm(width)
        self.decoder = nn.ModuleList(
            DecoderBlock(width, heads, dropout, self._ffn(mixture)) for mixture in decoder
        )
        self.decoder_norm: nn.Module = RMSNorm(width)

    def _pathways(self, width: int) -> Pathways:
        """All that the recipe reads, in tokens of that width."""
        config, qformer = self.config, None
        if config.lifelong is not None:
            heads = qformer_heads(width, config.heads)
            qformer = QFormer(config.lifelong, width, heads, config.dropout)
        lengths = config.short_length, config.positive_length
        return Pathways(self.vocabulary, width, *lengths, qformer)

    def _ffn(self, mixture: bool) -> nn.Module:
        """A block's feed-forward, dense or a mixture where the model has experts."""
        config, (dense, expert) = self.config, self._hidden()
        if not (mixture and config.experts):
            return SwiGLU(config.width, dense)
        return MixtureOfExperts(
            config.width,
            expert,
            config.experts,
            config.active_experts,
            config.shared_experts,
            config.router,
        )

    def _hidden(self) -> tuple[int, int]:
        """Hidden widths of a dense block and of an expert."""
        return ffn_hidden(self.config.width), expert_hidden(self.config.width)

    @property
    def levels(self) -> int:
        """L, the number of codes of an item."""
        return len(self.vocabulary.sizes)

    # ------------------------------------------------------------------ weights

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Set every parameter anew; call it before moving the model to a GPU.

        Matrices are normal with deviation 1/sqrt(inputs); those that write into the residual stream
        are smaller by the square root of the number of branches; tables 1/sqrt(D), so that they are
        not drowned by the first blocks; output heads and routers .02. All ours.
        """
        blocks = {"encoder": 2 * len(self.encoder), "decoder": 3 * len(self.decoder)}
        for name, parameter in self.named_parameters():
            module = self.get_submodule(name.rpartition(".")[0]) if "." in name else self
            if isinstance(module, RMSNorm):
                parameter.fill_(1.0)
            elif name.endswith("bias"):
                parameter.zero_()
            elif parameter.ndim < 2 or isinstance(module, nn.Embedding):
                parameter.normal_(0.0, self.config.width**-0.5, generator=generator)
            elif name.startswith("heads") or name.endswith("router.weight"):
                parameter.normal_(0.0, 0.02, generator=generator)
            else:  # linear weights are (out, in), experts' (E, in, out)
                deviation = parameter.shape[1] ** -0.5
                if name.endswith(("out.weight", "down.weight", "ffn.down")):
                    deviation /= math.sqrt(blocks.get(name.partition(".")[0], 1))
                parameter.normal_(0.0, deviation, generator=generator)
        for name, buffer in self.named_buffers():
            if name.endswith("router.bias"):
                buffer.zero_()

    @torch.no_grad()
    def start_from_codebooks(self, codebooks: Tensor, generator: torch.Generator) -> None:
        """Let similar codes start similar: tables and heads begin at the centroids.

        The centroids (L, N, d) are turned onto their principal axes, cut or filled to D, and
        rotated at random, so that no coordinate is special. Ours: on the built-in world it saves
        about half of the steps. A level without a codebook keeps its random start.
        """
        levels, codes, dim = codebooks.shape
        flat = codebooks.reshape(levels * codes, dim).to(self.begin)
        axes = torch.linalg.svd(flat, full_matrices=False).Vh  # (min(L N, d), d)
        width = self.codes.table.embedding_dim
        axes = axes[:width]
        rotation = torch.linalg.qr(torch.randn(width, width, generator=generator)).Q
        start = flat @ axes.T @ rotation[: len(axes)]  # (L N, D)
        start *= CODE_START * math.sqrt(width) / start[:codes].norm(dim=1).mean().clamp(min=1e-12)
        self.codes.table.weight[: levels * codes] = start
        per_level = torch.split(self.lifted(start), codes)
        for head, rows in zip(self.heads or [], per_level, strict=False):
            head.get_parameter("weight").copy_(HEAD_START * rows)

    def mixtures(self) -> list[MixtureOfExperts]:
        """The mixtures of experts in the order of the layers; empty for a dense model."""
        return [module for module in self.modules() if isinstance(module, MixtureOfExperts)]

    def update_router_bias(self, step: float = BIAS_STEP) -> None:
        """Balance the experts by the load of the last step; call after each optimiser step."""
        for mixture in self.mixtures():
            mixture.update_bias(step)

    def compete(self, layers: Tensor) -> None:
        """Say in which mixtures (Y,) bool experts compete from now on, in training alone.

        `routers.competition_schedule` has a row per step. For competition routers; nothing else
        heeds it.
        """
        for mixture, competing in zip(self.mixtures(), layers.tolist(), strict=True):
            if isinstance(mixture.router, CompetitionRouter):
                mixture.router.competing = competing

    # ------------------------------------------------------------------ encoder

    def encode(self, batch: Batch) -> Memory:
        """Encode each context once, and the keys and values that every decoder layer will read."""
        return self.read(*self.embed(batch))

    def of_few_shapes(self, batch: Batch) -> Batch:
        """The contexts as compiled code wants them, see `Batch.of_few_shapes`."""
        return batch.of_few_shapes(self.config.short_length, self.config.positive_length)

    def embed(self, batch: Batch) -> tuple[Tensor, packing.Packing]:
        """What the encoder reads: tokens of all pathways, and where they stand."""
        x, where = self.pathways(batch, self.items, self.codes)  # tokens of a grid
        if not segments_serve(x.device, self.config.width // self.config.heads):
            return x, where
        if packing.packs(x.device, self.config.width):
            return packing.one_after_another(x, where)
        return packing.in_front(x, where.mask)

    def read(self, x: Tensor, where: packing.Packing, call: Call = directly) -> Memory:
        """The encoder's blocks over the tokens of `embed`; `call` calls what may be compiled."""
        x = self.dropout(x)
        if self.config.residual == "bfloat16" and torch.is_autocast_enabled(x.device.type):
            x = x.bfloat16()
        for block in self.encoder:
            x = call(block, x, where)
        states = call(self.encoder_norm, x)
        cross = [cast(DecoderBlock, block).cross for block in self.decoder]
        return Memory(where, [call(layer.keys_values, states, where) for layer in cross])

    # ------------------------------------------------------------------ decoder

    def lifted(self, embedded: Tensor) -> Tensor:
        """Code embeddings as the decoder reads them: here as they are."""
        return embedded

    def decode(self, codes: Tensor, memory: Memory, counted: Tensor | None = None) -> Tensor:
        """Hidden states after every prefix of M sequences per context.

        Args:
            codes: (B, M, l) int64, the first l codes of each sequence.
            memory: encoded contexts; never copied per sequence.
            counted: (B, M) bool, sequences that enter the experts' load; None for all.

        Returns:
            (B, M, l + 1, D): before the first code, after it, ..., after code l.
        """
        users, m, length = codes.shape
        rest = self.lifted(self.codes(codes)).flatten(1, 2)  # (B, M l, D)
        x = self.dropout(torch.cat((self.begin.expand(users, 1, -1), rest), dim=1))
        if counted is not None:  # what all sequences share counts once for each of them
            tokens = counted[..., None].expand(codes.shape).flatten(1)
            counted = torch.cat((counted.sum(1, keepdim=True), tokens), dim=1)  # (B, 1 + M l)
        for block, keys_values in zip(self.decoder, memory.keys_values, strict=True):
            x = block(x, keys_values, memory.attendable, m, counted)
        first, rest = self.decoder_norm(x).split([1, m * length], dim=1)
        rest = rest.view(users, m, length, first.shape[-1])
        return torch.cat((first[:, None].expand(-1, m, -1, -1), rest), dim=2)

    def logits(self, level: int, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., N_level)."""
        if self.heads is None:
            return F.linear(hidden, self.codes.rows()[level])
        logits: Tensor = self.heads[level](hidden)
        return logits

    def forward(self, batch: Batch) -> list[Tensor]:
        """Teacher forcing: logits of every target's codes, one (B, M, N_l) per level."""
        return self.target_logits(self.encode(batch), batch.target)

    def target_logits(self, memory: Memory, target: Tensor) -> list[Tensor]:
        """As `forward`, for targets (B, M) of contexts that are encoded already."""
        codes = self.items.codes[target]  # (B, M, L)
        hidden = self.decode(codes[..., :-1], memory, counted=target > 0)  # (B, M, L, D)
        return [self.logits(level, hidden[:, :, level]) for level in range(self.levels)]

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Next-token loss: summed over levels (V1 section 2.3), mean over targets, in nats.

        Returns the loss and its detached parts `loss_1` .. `loss_L`. In training the routers'
        auxiliary losses are added, each times its weight and summed over layers, as Switch does;
        their parts are `aux_balance` and so on, unweighted and the mean over layers.
        """
        parts = self.level_losses(batch)
        named = {f"loss_{level}": part.detach() for level, part in enumerate(parts, start=1)}
        loss = self.over_levels(parts)
        if not self.training:
            return loss, named
        extra, more = self._auxiliary()
        return (loss if extra is None else loss + extra), named | more

    def level_losses(self, batch: Batch) -> Tensor:
        """Mean next-token loss of each level (L,), in nats."""
        return level_losses(self(batch), self.items, batch.target, self.config.label_smoothing)

    def _auxiliary(self) -> tuple[Tensor | None, dict[str, Tensor]]:
        """The routers' losses of the last pass: weighted sum, None without any, and their parts."""
        found: dict[str, list[Tensor]] = {}
        for mixture in self.mixtures():
            for name, value in mixture.take_losses().items():
                found.setdefault(name, []).append(value)
        if not found:
            return None, {}
        layers = {name: torch.stack(values) for name, values in found.items()}
        weights = self.config.router.weights
        total = torch.stack([weights[name] * value.sum() for name, value in layers.items()]).sum()
        return total, {f"aux_{name}": value.detach().mean() for name, value in layers.items()}

    def over_levels(self, losses: Tensor) -> Tensor:
        """The losses of the levels (L,) as one: here their sum."""
        return losses.sum()

    # --------------------------------------------------------------- generation

    def decode_step(
        self, level: int, codes: Tensor, memory: Memory, past: Cache | None = None
    ) -> tuple[Tensor, Cache]:
        """Logits of the next code after K prefixes per context, for generation.

        Args:
            level: how many codes are there already.
            codes: (B, K, level) int64.
            memory: encoded contexts; never copied per prefix.
            past: for each layer the keys and values of the positions before code `level`, from the
                call before; `[]` at level 0. None computes all positions anew.

        Returns:
            Float32 logits (B, K, N_level), also under autocast, and the cache with one more
            position (empty without `past`).
        """
        hidden, present = self.step_states(level, codes, memory, past)
        return self.step_logits(level, hidden), present

    def step_logits(self, level: int, hidden: Tensor) -> Tensor:
        """Float32 logits (B, K, N_level) of states (B, K, D)."""
        with in_float32(hidden):
            return self.logits(level, hidden.float())

    def step_states(
        self,
        level: int,
        codes: Tensor,
        memory: Memory,
        past: Cache | None,
        call: Call = directly,
    ) -> tuple[Tensor, Cache]:
        """The states (B, K, D) that `decode_step` makes its logits of, and its cache."""
        if past is None:
            return self.decode(codes, memory)[:, :, -1], []
        present: Cache = []
        x: Tensor = self.begin
        for index, block in enumerate(self.decoder):
            state = memory.keys_values[index], memory.attendable, past[index] if level else []
            step = cast(DecoderBlock, block).step
            work, given = (step, (x,)) if index else self._first_step(level, codes)
            x, after = call(work, *given, *state)
            present.append(after)
        return call(self.decoder_norm, x), present

    def _first_step(self, level: int, codes: Tensor) -> tuple[Call, tuple[Tensor, ...]]:
        """The first block's step, per code where there are far fewer codes than sequences.

        And what it reads before a state of the search.
        """
        block = cast(DecoderBlock, self.decoder[0])
        if not level:
            return block.step, (self.begin.expand(*codes.shape[:2], -1),)
        code, rows = codes[..., -1], self.codes.rows()[level - 1]
        if code.numel() < PER_CODE * len(rows):
            return block.step, (self.lifted(F.embedding(code, rows)),)
        return block.first_step, (self.lifted(rows), code)
