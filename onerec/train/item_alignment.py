"""Training of the item QFormer: items of a pair near each other, captions told from the states.

    L = a L_I2I + b L_caption            (V1 section 2.1; both trained together)

The paper prints neither the weights, nor the temperature, nor the similarity, nor an optimiser:
equal weights, a learned temperature that begins at .07, the cosine of all states laid end to end
and AdamW are ours. Pairs and captions come in streams of their own, so that switching one loss off
leaves the batches of the other as they were.

    aligner = ItemAligner(ItemQFormer(...), Captioner(...), config)
    aligner.init_weights(generator)
    for result in align_items(aligner, content, pairs, captions, fit=split.fit_items):
        ...
    vectors = item_vectors(aligner.qformer, content)

Shapes: B pairs, C captions, T tokens of a caption, n items, Q states of width D, E = Q D.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from onerec.errors import DataError, RecipeError
from onerec.loop import EpochRows, StepResult, Trainee, loop
from onerec.model.captioner import PADDING, CaptionModel
from onerec.model.item_qformer import ItemQFormer, check_content, content_rows, flat_vectors
from onerec.tokenizer.content import Precomputed
from onerec.train.optim import OptimConfig, cosine_schedule, make_adamw

LOWEST_TEMPERATURE = 0.01
"""A learned temperature stays above it (CLIP's bound, arXiv 2103.00020)."""

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class AlignmentConfig:
    """A loss of weight 0 is off. `batch_size` counts the pairs of a step, `caption_batch` captions.

    A caption costs several times what a pair costs, and its words are many: 64 are enough (ours).
    """

    contrastive_weight: float = 1.0
    caption_weight: float = 1.0
    temperature: float = 0.07
    learn_temperature: bool = True
    steps: int = 1_000
    batch_size: int = 256
    caption_batch: int = 64
    learning_rate: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.contrastive_weight, self.caption_weight) < 0 or not (
            self.contrastive_weight + self.caption_weight > 0
        ):
            raise RecipeError(
                f"contrastive_weight {self.contrastive_weight} and caption_weight "
                f"{self.caption_weight}: neither below 0, and one above"
            )
        if self.temperature < LOWEST_TEMPERATURE:
            raise RecipeError(
                f"temperature is {self.temperature}; it must be at least {LOWEST_TEMPERATURE}"
            )
        if self.steps < 1 or self.batch_size < 2 or self.caption_batch < 1:
            raise RecipeError(
                f"steps {self.steps}, batch_size {self.batch_size} and caption_batch "
                f"{self.caption_batch}: at least 1, 2 and 1, since the other pairs of a batch are "
                "the negatives"
            )


def contrastive_loss(first: Tensor, second: Tensor, items: Tensor, temperature: Tensor) -> Tensor:
    """L_I2I: from the first item of each pair, its second among the second ones of the batch.

    The mean over pairs (i, j) of -log softmax_j(sim(i, j') / tau), in one direction as printed.
    Where j' is i or j itself it is no negative (ours).

    Args:
        first, second: (B, E), unit vectors.
        items: (B, 2) int64, which items they are.
        temperature: tau, ().
    """
    with torch.autocast(first.device.type, enabled=False):
        scores = first @ second.T / temperature  # (B, B)
    i, j = items.unbind(1)
    itself = (j[None] == j[:, None]) | (j[None] == i[:, None])
    scores = scores.masked_fill(itself.fill_diagonal_(False), -torch.inf)
    return F.cross_entropy(scores, torch.arange(len(scores), device=scores.device))


def caption_loss(logits: Tensor, captions: Tensor) -> Tensor:
    """L_caption: the mean of -log P(token | states, tokens before it), in nats.

    The paper prints the sum over a caption; the mean over all tokens of the batch is ours, so that
    long captions do not outweigh the other loss. Its first token is told from the states alone.

    Args:
        logits: (R, V), one row for each token that is not padding.
        captions: (C, T) int64.
    """
    told = captions[captions != PADDING]
    return F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), told)


@dataclass(frozen=True)
class AlignmentBatch:
    """Content of the items that a step reads, each once, and which of them play which part.

    Attributes:
        tokens, mask: (U, N_M, d_t), (U, N_M).
        items: (B, 2), the pairs.
        pairs: (B, 2), where they stand among the U.
        told: (C,), where the items whose captions are told stand among the U.
        captions: (C, T).
    """

    tokens: Tensor
    mask: Tensor
    items: Tensor
    pairs: Tensor
    told: Tensor
    captions: Tensor


class ItemAligner(nn.Module):
    """QFormer, temperature and, where captions are told, the language model that tells them.

    Raises:
        RecipeError: the caption loss is on and there is no language model.
    """

    def __init__(
        self, qformer: ItemQFormer, captioner: CaptionModel | None, config: AlignmentConfig
    ) -> None:
        super().__init__()
        if config.caption_weight > 0 and captioner is None:
            raise RecipeError(
                f"caption_weight is {config.caption_weight} and there is no language model to tell "
                "captions; give one, or set caption_weight=0"
            )
        self.config, self.qformer = config, qformer
        self.captioner = captioner if config.caption_weight > 0 else None
        start = torch.tensor(math.log(config.temperature))
        self.log_temperature = nn.Parameter(start, requires_grad=config.learn_temperature)

    def init_weights(self, generator: torch.Generator) -> None:
        """Every weight anew; of a pretrained language model only what is ours."""
        self.qformer.init_weights(generator)
        if self.captioner is not None:
            self.captioner.init_weights(generator)

    @property
    def temperature(self) -> Tensor:
        """tau ()."""
        return self.log_temperature.exp()

    @torch.no_grad()
    def bound_temperature(self) -> None:
        """Back to the bound where a step went below it."""
        self.log_temperature.clamp_(min=math.log(LOWEST_TEMPERATURE))

    def loss(self, batch: AlignmentBatch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Both losses by their weights, and apart in nats."""
        states = self.qformer(batch.tokens, batch.mask)  # (U, Q, D)
        loss, values = states.new_zeros(()), {}
        if self.config.contrastive_weight > 0:
            vectors = flat_vectors(states)
            first, second = vectors[batch.pairs[:, 0]], vectors[batch.pairs[:, 1]]
            contrastive = contrastive_loss(first, second, batch.items, self.temperature)
            loss = loss + self.config.contrastive_weight * contrastive
            values = {"contrastive": contrastive, "temperature": self.temperature}
        if self.captioner is not None:
            logits = self.captioner(states[batch.told], batch.captions)
            caption = caption_loss(logits, batch.captions)
            loss = loss + self.config.caption_weight * caption
            values["caption"] = caption
        return loss, values


def align_items(
    aligner: ItemAligner,
    content: Precomputed,
    pairs: Ints | None,
    captions: Ints | None = None,
    fit: NDArray[np.bool_] | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[StepResult]:
    """Train step by step; the aligner ends in evaluation mode on `device`.

    Args:
        content: tokens of all n items.
        pairs: (P, 2), of training rows alone (`data.pairs.training_pairs`).
        captions: (n, T) token ids, 0 = padding at the end; a row of padding tells nothing.
        fit: (n,) which items' captions may be learned from, default all.

    Raises:
        DataError: an item without content, pairs or captions that cannot be read.
    """
    device = torch.device(device)
    config = aligner.config
    check_content(content, aligner.qformer.dim)
    batch = _Batches(aligner, content, pairs, captions, fit, device)
    optim = OptimConfig(
        learning_rate=config.learning_rate, warmup_steps=math.ceil(config.steps / 20)
    )
    aligner.to(device)
    trainee = Trainee(
        aligner,
        make_adamw(aligner, optim),
        aligner.loss,
        batch,
        cosine_schedule(optim, config.steps),
        after_step=aligner.bound_temperature,
    )
    yield from loop(trainee, steps=config.steps, clip=optim.clip, seed=config.seed, device=device)
    aligner.eval()


class _Batches:
    """The batch of a step: some pairs, some captions, and the content of all their items."""

    def __init__(
        self,
        aligner: ItemAligner,
        content: Precomputed,
        pairs: Ints | None,
        captions: Ints | None,
        fit: NDArray[np.bool_] | None,
        device: torch.device,
    ) -> None:
        config, n = aligner.config, len(content.mask)
        self.content, self.device = content, device
        self.pairs = np.zeros((0, 2), np.int64)
        self.captions = np.zeros((n, 1), np.int64)
        told = np.zeros(0, np.int64)
        if config.contrastive_weight > 0:
            self.pairs = _checked_pairs(pairs, n)
        if aligner.captioner is not None:
            self.captions = _checked_captions(captions, n, aligner.captioner)
            known = (self.captions != PADDING).any(axis=1)
            told = np.flatnonzero(known if fit is None else known & fit)
            if not len(told):
                raise DataError(
                    f"none of {n} items has a caption to learn from; set caption_weight=0"
                )
        self.draw_pairs = EpochRows(len(self.pairs), config.batch_size, config.seed)
        self.told = told
        self.draw_told = EpochRows(len(told), config.caption_batch, config.seed)

    def __call__(self, step: int) -> AlignmentBatch:
        items = self.pairs[self.draw_pairs(step).numpy()]  # (B, 2)
        told = self.told[self.draw_told(step).numpy()]  # (C,)
        rows, place = np.unique(np.concatenate([items.ravel(), told]), return_inverse=True)
        captions = self.captions[told]
        length = int((captions != PADDING).sum(axis=1).max(initial=0))
        tokens, mask = content_rows(self.content, rows, self.device)
        return AlignmentBatch(
            tokens=tokens,
            mask=mask,
            items=self._moved(items),
            pairs=self._moved(place[: items.size].reshape(-1, 2)),
            told=self._moved(place[items.size :]),
            captions=self._moved(captions[:, :length]),
        )

    def _moved(self, values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)


def _checked_pairs(pairs: Ints | None, n: int) -> Ints:
    if pairs is None or not len(pairs):
        raise DataError(
            "there is no pair of items to learn from, since no two users share two items; "
            "set contrastive_weight=0"
        )
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.min() < 0 or pairs.max() >= n:
        raise DataError(
            f"pairs of shape {pairs.shape} with items {pairs.min()} to {pairs.max()}; expected "
            f"(pairs, 2) with items 0 to {n - 1}"
        )
    return pairs.astype(np.int64)


def _checked_captions(captions: Ints | None, n: int, model: CaptionModel) -> Ints:
    if captions is None:
        raise DataError("the caption loss is on and there are no captions; set caption_weight=0")
    if captions.ndim != 2 or len(captions) != n:
        raise DataError(f"captions of shape {captions.shape}; expected ({n} items, tokens)")
    there = captions != PADDING
    early = (there[:, 1:] & ~there[:, :-1]).any(axis=1)
    if early.any():
        raise DataError(
            f"the caption of item {int(early.argmax())} has padding (0) before its end; "
            "move the padding to the end"
        )
    strange = ((captions < 0) | (captions >= model.vocabulary)).any(axis=1)
    if strange.any():
        raise DataError(
            f"the caption of item {int(strange.argmax())} has a token outside 0 to "
            f"{model.vocabulary - 1}; use the tokens of the language model"
        )
    longest = int(there.sum(axis=1).max(initial=0))
    if model.length is not None and longest > model.length:
        raise DataError(
            f"a caption has {longest} tokens, the language model reads {model.length}; cut captions"
        )
    return captions.astype(np.int64)
