"""Captions from an item's states: what makes the states keep what the content says.

A causal language model that reads the states as a prefix and tells the caption after it (V1 section
2.1: LLaMA3, in training only). `Captioner` is a small one of ours; `PretrainedCaptioner` puts any
causal language model of transformers in its place. Token 0 is padding and stands at the end alone.

Shapes: B items, Q states, D their width, T caption tokens, R of them in the batch that are not
padding, V vocabulary, W width of the language model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onerec.errors import RecipeError
from onerec.model.layers import RMSNorm, SelfAttention, SwiGLU
from onerec.model.products import Linear
from onerec.model.sizes import ffn_hidden

PADDING = 0


@dataclass(frozen=True)
class CaptionerConfig:
    """Sizes of the small language model; all ours."""

    width: int = 128
    blocks: int = 2
    heads: int = 4

    def __post_init__(self) -> None:
        if min(self.width, self.blocks, self.heads) < 1 or self.width % self.heads:
            raise RecipeError(
                f"captioner width {self.width}, blocks {self.blocks}, heads {self.heads}: each at "
                "least 1, the width a multiple of the heads"
            )


class CaptionModel(nn.Module):
    """A causal language model whose prefix are an item's states.

    Attributes:
        vocabulary: V, padding included.
        length: the most tokens of a caption, None for any number.
    """

    vocabulary: int
    length: int | None

    def init_weights(self, generator: torch.Generator) -> None:
        """Set what is not pretrained."""
        raise NotImplementedError

    def forward(self, states: Tensor, captions: Tensor) -> Tensor:
        """States (B, Q, D), captions (B, T) int64 -> logits (R, V).

        Rows are those of `captions[captions != 0]`; each sees the states and the tokens before it.
        """
        raise NotImplementedError


class Captioner(CaptionModel):
    """A causal transformer: learned positions, pre-norm blocks, output tied to the token table.

    Args:
        config: sizes.
        states: (Q, D) of what it reads.
        vocabulary: V, padding included.
        length: T, the most tokens of a caption.
    """

    def __init__(
        self, config: CaptionerConfig, states: tuple[int, int], vocabulary: int, length: int
    ) -> None:
        super().__init__()
        self.vocabulary, self.length, width = vocabulary, length, config.width
        self.project = Linear(states[1], width, bias=False)
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.empty(states[0] + length, width))
        self.blocks = nn.ModuleList(_CausalBlock(width, config.heads) for _ in range(config.blocks))
        self.norm = RMSNorm(width)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Norms 1, the table and positions .02, matrices normal with deviation 1/sqrt(inputs)."""
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2:
                parameter.fill_(1.0)
            elif name in ("tokens.weight", "positions"):
                parameter.normal_(0.0, 0.02, generator=generator)
            else:
                parameter.normal_(0.0, parameter.shape[1] ** -0.5, generator=generator)

    def forward(self, states: Tensor, captions: Tensor) -> Tensor:
        """See `CaptionModel`."""
        prefix = self.project(states)
        x = torch.cat([prefix, self.tokens(captions[:, :-1])], dim=1)  # (B, Q + T - 1, W)
        x = x + self.positions[: x.shape[1]]
        for block in self.blocks:
            x = block(x)
        told = x[:, states.shape[1] - 1 :][captions != PADDING]  # (R, W)
        logits: Tensor = self.norm(told) @ self.tokens.weight.T
        return logits


class _CausalBlock(nn.Module):
    """x <- x + SelfAttn(RMSNorm(x)); x <- x + FFN(RMSNorm(x)); no position sees a later one."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(width)
        self.attention = SelfAttention(width, heads)
        self.ffn_norm = RMSNorm(width)
        self.ffn = SwiGLU(width, ffn_hidden(width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, W) -> the same."""
        x = x + self.attention.sequences(self.attention_norm(x), 1)
        result: Tensor = x + self.ffn(self.ffn_norm(x))
        return result


class PretrainedCaptioner(CaptionModel):
    """A causal language model of transformers, loaded by the caller, behind a projection of ours.

    Captions are its own token ids; its token 0 counts as padding and is not taught. It learns where
    its parameters require gradients: freeze them to train the states alone. Its output layer gets
    the places of captions alone, by a hook that exists only inside a call: a vocabulary is large.

    Args:
        model: e.g. `transformers.AutoModelForCausalLM.from_pretrained(folder)`.
        width: D of the states.
    """

    def __init__(self, model: Any, width: int) -> None:
        super().__init__()
        table = model.get_input_embeddings()
        self.model, self.vocabulary, self.length = model, table.num_embeddings, None
        self.project = Linear(width, table.embedding_dim, bias=False)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """The projection alone, so that a state is about as long as a token's embedding."""
        table = self.model.get_input_embeddings().weight
        deviation = float(table.float().std()) * self.project.weight.shape[1] ** -0.5
        self.project.weight.normal_(0.0, deviation, generator=generator)

    def train(self, mode: bool = True) -> PretrainedCaptioner:
        """A model whose weights stay as they are keeps its dropout off."""
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.model.parameters()):
            self.model.eval()
        return self

    def forward(self, states: Tensor, captions: Tensor) -> Tensor:
        """See `CaptionModel`."""
        prefix = self.project(states)
        told = self.model.get_input_embeddings()(captions[:, :-1])
        read = torch.cat([prefix.to(told.dtype), told], dim=1)
        places = F.pad(captions != PADDING, (states.shape[1] - 1, 0))  # (B, Q + T - 1)

        def told_alone(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
            return (inputs[0][places],)  # (B, Q + T - 1, W) -> (R, W)

        hook = self.model.get_output_embeddings().register_forward_pre_hook(told_alone)
        try:
            logits: Tensor = self.model(inputs_embeds=read).logits
        finally:
            hook.remove()
        return logits
