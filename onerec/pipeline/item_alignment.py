"""Train the item QFormer on a run's content: pairs of items near each other, captions told.

Pairs come from the positives of the training rows (`data.pairs`), captions are the items' texts. A
twentieth of the items that may be fitted on (at most 500) is held out of both: on these, retrieval
of their partners is measured before and after. Ours: the paper measures its pairs nowhere.

Legend: n items, P pairs.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from onerec.assembly import Setting
from onerec.common import generator
from onerec.data.item_text import item_texts
from onerec.data.pairs import ItemPairs, training_pairs
from onerec.errors import DataError
from onerec.loop import StepResult
from onerec.model.captioner import (
    PADDING,
    Captioner,
    CaptionerConfig,
    CaptionModel,
    PretrainedCaptioner,
)
from onerec.model.item_qformer import ItemQFormer, ItemQFormerConfig, item_vectors
from onerec.model.language_model import caption_tokens, load_language_model
from onerec.model.sizes import ITEM_QFORMER_HEADS
from onerec.tokenizer.content import Precomputed, join_vectors, mean_pool
from onerec.tokenizer.retrieval import partner_recall
from onerec.tokenizer.vocabulary import Vocabulary
from onerec.train.item_alignment import AlignmentConfig, ItemAligner, align_items

WIDEST, NARROWEST = 512, 64  # of the QFormer: the paper's d_t, and ours for tokens of a few numbers
WORDS, CAPTION = (
    4_096,
    32,
)  # the small language model's vocabulary and the tokens of a caption; ours
HELD_SHARE, HELD_MOST = 20, 500  # one item of so many is held out, and no more than so many
NEAREST = 10
SHOWN = 20  # steps between two signs of life; and those whose losses are averaged in the report

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class AlignedContent:
    """What is quantised (n, Q D), the QFormer that made it, and what report.json says of it."""

    vectors: NDArray[np.float32]
    qformer: ItemQFormer
    report: dict[str, Any]


@dataclass(frozen=True)
class _Told:
    """A language model and the captions (n, T) in its tokens; `name` says which."""

    model: CaptionModel
    captions: Ints
    name: str


def qformer_config(dim: int, width: int = 0) -> ItemQFormerConfig:
    """Queries of a width or, as in the paper, of that of the tokens, within bounds."""
    heads = ITEM_QFORMER_HEADS
    return ItemQFormerConfig(
        width=width or min(WIDEST, max(NARROWEST, heads * math.ceil(dim / heads)))
    )


def align_content(
    setting: Setting,
    content: Precomputed,
    device: torch.device,
    tell: Callable[[str], None],
    step: Callable[[StepResult, int], None],
) -> AlignedContent:
    """Train on `split.fit_items` and training rows, and read all items.

    Args:
        tell: hears what is being done, and may raise to stop.
        step: hears of each step, and of how many.

    Raises:
        DataError: no item has content, or there is nothing to learn from.
        RecipeError: a language model that cannot be loaded.
    """
    begun = time.perf_counter()
    readable = content.mask.any(axis=1)
    fit = readable & setting.split.fit_items
    if not fit.any():
        raise DataError(
            f"none of {len(fit)} items has a content token to learn from; "
            "set qformer.steps=0, or give the items texts, images or tokens"
        )
    tell("pairs of items")
    pairs = training_pairs(setting.split, generator(setting.recipe.seed))
    held = held_out(pairs, fit, setting.recipe.seed)
    training = _Training(setting, content, pairs, fit & ~held, device)
    for result in training.steps():
        step(result, training.config.steps)
        if result.step % SHOWN == 0:
            tell(f"QFormer: step {result.step:,} of {training.config.steps:,}")
    vectors = np.zeros((len(fit), training.qformer.queries.numel()), dtype=np.float32)
    vectors[readable] = item_vectors(training.qformer, training.content)
    vectors[~readable] = vectors[fit].mean(axis=0)
    report = training.report() | {
        "retrieval": _retrieval(content, vectors, pairs, held, fit),
        "items_without_content": int((~readable).sum()),
        "seconds": round(time.perf_counter() - begun, 1),
    }
    return AlignedContent(vectors, training.qformer, report)


class _Training:
    """The QFormer, what it reads and what it is taught: `taught` (n,) are the items it may learn.

    Items without content are left out: among those it reads, an item has the number `place`.
    """

    def __init__(
        self,
        setting: Setting,
        content: Precomputed,
        pairs: ItemPairs,
        taught: Flags,
        device: torch.device,
    ) -> None:
        recipe, readable = setting.recipe, content.mask.any(axis=1)
        self.device, self.counts = device, pairs.counts
        self.config = AlignmentConfig(
            contrastive_weight=recipe.qformer.contrastive_weight,
            caption_weight=recipe.qformer.caption_weight,
            steps=recipe.qformer.steps,
            seed=recipe.seed,
        )
        rows, place = np.flatnonzero(readable), np.cumsum(readable) - 1
        self.content = content if readable.all() else content.take(rows)
        self.taught = taught[rows]
        both = np.concatenate([pairs.item_to_item, pairs.user_to_item])
        self.pairs = place[_among(both, taught)]
        shape = qformer_config(content.dim, recipe.qformer.width)
        shape = dataclasses.replace(shape, residual=recipe.qformer.residual)
        self.qformer = ItemQFormer(shape, content.dim)
        told = None
        if self.config.caption_weight > 0:
            told = _captioner(setting, taught, self.qformer)
        self.captions = None if told is None else told.captions[rows]
        self.captioner = None if told is None else told.name
        self.aligner = ItemAligner(self.qformer, None if told is None else told.model, self.config)
        self.aligner.init_weights(generator(recipe.seed))
        self.losses: list[dict[str, float]] = []

    def steps(self) -> Iterator[StepResult]:
        """Train, and remember the losses."""
        for result in align_items(
            self.aligner, self.content, self.pairs, self.captions, self.taught, self.device
        ):
            self.losses.append({"loss": result.loss, **result.values})
            yield result

    def report(self) -> dict[str, Any]:
        """What was done, and the losses at both ends."""
        return {
            "qformer": {**dataclasses.asdict(self.qformer.config), "dim": self.qformer.dim},
            "steps": self.config.steps,
            "pairs": {**self.counts, "taught": len(self.pairs)},
            "contrastive_weight": self.config.contrastive_weight,
            "caption_weight": self.config.caption_weight,
            "captioner": self.captioner,
            "first_losses": _mean(self.losses[:SHOWN]),
            "last_losses": _mean(self.losses[-SHOWN:]),
        }


def held_out(pairs: ItemPairs, fit: Flags, seed: int) -> Flags:
    """(n,): a twentieth of the items in `fit` that have a partner there, at most `HELD_MOST`."""
    known = np.unique(_among(pairs.item_to_item, fit)[:, 0])
    count = min(HELD_MOST, len(known) // HELD_SHARE)
    drawn = torch.randperm(len(known), generator=generator(seed)).numpy()[:count]
    held = np.zeros(len(fit), dtype=bool)
    held[known[drawn]] = True
    return held


def _among(pairs: Ints, allowed: Flags) -> Ints:
    """The pairs whose items are both allowed."""
    return pairs[allowed[pairs].all(axis=1)]


def _captioner(setting: Setting, fit: Flags, qformer: ItemQFormer) -> _Told:
    """The language model that the recipe names, or a small one of ours, and its captions."""
    texts, _ = item_texts(setting.dataset.items)
    if not any(texts):
        raise DataError(
            f"the items of {setting.dataset.name!r} have no text to tell; "
            "set qformer.caption_weight=0"
        )
    config, named = qformer.config, setting.recipe.qformer.captioner
    if named:
        model, tokenizer = load_language_model(named)
        captions = caption_tokens(tokenizer, texts, CAPTION)
        return _Told(PretrainedCaptioner(model, config.width), captions, named)
    words = Vocabulary.fit([text for text, ok in zip(texts, fit, strict=True) if ok], WORDS)
    captions = words.encode(texts, CAPTION)
    if not (captions[fit] != PADDING).any():
        raise DataError(
            f"no two items of {setting.dataset.name!r} share a word, so no caption can be learned; "
            "set qformer.caption_weight=0"
        )
    size = CaptionerConfig()
    own = Captioner(size, (config.queries, config.width), len(words), CAPTION)
    name = f"{size.blocks} blocks of width {size.width}, {len(words.known):,} words"
    return _Told(own, captions, name)


def _mean(losses: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(float(np.mean([one[name] for one in losses])), 5) for name in losses[0]}


def _retrieval(
    content: Precomputed, vectors: NDArray[np.float32], pairs: ItemPairs, held: Flags, fit: Flags
) -> dict[str, Any] | None:
    """recall@10 of the held-out items' partners: by the mean of the tokens, and by the QFormer."""
    asked = pairs.item_to_item[held[pairs.item_to_item[:, 0]]]
    asked = asked[fit[asked[:, 1]]]
    if not len(asked):
        return None
    return {
        "k": NEAREST,
        "held_out_items": int(held.sum()),
        "before": round(
            float(partner_recall(mean_vectors(content, fit), asked, NEAREST, fit).mean()), 5
        ),
        "after": round(float(partner_recall(vectors, asked, NEAREST, fit).mean()), 5),
        "by_chance": round(min(1.0, NEAREST / max(1, int(fit.sum()) - 1)), 5),
    }


def mean_vectors(content: Precomputed, fit: Flags) -> NDArray[np.float32]:
    """What the QFormer is measured against (n, d): means of the tokens less that of the items in
    `fit`, of length 1; zeros for an item without a token."""
    mean = join_vectors([(mean_pool(content.tokens, content.mask), 1.0)], fit)
    mean[~content.mask.any(axis=1)] = 0.0
    mean /= np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)
    return mean
