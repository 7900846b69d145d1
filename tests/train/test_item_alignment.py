"""Alignment of items: both losses by hand and as loops in float64, and what training must do."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from onerec.errors import DataError, RecipeError
from onerec.model.captioner import Captioner, CaptionerConfig
from onerec.model.item_qformer import ItemQFormer, ItemQFormerConfig, item_vectors
from onerec.tokenizer.content import Precomputed
from onerec.train.item_alignment import (
    LOWEST_TEMPERATURE,
    AlignmentBatch,
    AlignmentConfig,
    ItemAligner,
    align_items,
    caption_loss,
    contrastive_loss,
)

TAU = torch.tensor(0.5, dtype=torch.float64)
SMALL = AlignmentConfig(steps=60, batch_size=24, learning_rate=3e-3)
N, WORDS = 24, 7


def vectors(n: int, seed: int) -> Tensor:
    drawn = torch.randn(n, 5, generator=torch.Generator().manual_seed(seed)).double()
    return torch.nn.functional.normalize(drawn, dim=1)


def toy(seed: int = 0) -> tuple[Precomputed, np.ndarray, np.ndarray]:
    """Content that says nothing of who belongs together: item i and i + 12 make a pair."""
    rng = np.random.default_rng(seed)
    mask = rng.random((N, 3)) < 0.7
    mask[:, 0] = True
    tokens = rng.normal(size=(N, 3, 10)).astype(np.float32)
    half = np.arange(N // 2)
    captions = rng.integers(1, WORDS, (N, 4))
    captions[np.arange(4) >= rng.integers(1, 5, N)[:, None]] = 0
    return Precomputed(tokens, mask), np.stack([half, half + N // 2], axis=1), captions


def make(config: AlignmentConfig = SMALL, dim: int = 10) -> ItemAligner:
    qformer = ItemQFormer(ItemQFormerConfig(queries=2, blocks=2, width=16, heads=2), dim)
    captioner = Captioner(CaptionerConfig(width=16, blocks=1, heads=2), (2, 16), WORDS, 4)
    aligner = ItemAligner(qformer, captioner, config)
    aligner.init_weights(torch.Generator().manual_seed(0))
    return aligner


def test_contrastive_loss_by_hand() -> None:
    """Cosines 1, 0; 0, 1: each pair's own score is 1 / tau = 2, the other's 0."""
    first = torch.eye(2, dtype=torch.float64)
    items = torch.tensor([[0, 1], [2, 3]])
    found = contrastive_loss(first, first, items, TAU)
    assert found.item() == pytest.approx(math.log(1 + math.exp(-2)))


def test_contrastive_loss_and_gradients_equal_the_loop() -> None:
    """Item 3 is second twice and item 4 is first here and second there."""
    items = torch.tensor([[0, 3], [1, 3], [2, 4], [4, 5], [0, 6]])
    first, second = vectors(5, 0).requires_grad_(), vectors(5, 1).requires_grad_()
    tau = TAU.clone().requires_grad_()
    terms = []
    for a, (i, j) in enumerate(items.tolist()):
        scores = [
            first[a] @ second[b] / tau
            for b, other in enumerate(items[:, 1].tolist())
            if b == a or other not in (i, j)
        ]
        own = first[a] @ second[a] / tau
        terms.append(torch.logsumexp(torch.stack(scores), 0) - own)
    expected = torch.stack(terms).mean()
    found = contrastive_loss(first, second, items, tau)
    torch.testing.assert_close(found, expected)
    for one, two in zip(
        torch.autograd.grad(found, (first, second, tau)),
        torch.autograd.grad(expected, (first, second, tau)),
        strict=True,
    ):
        torch.testing.assert_close(one, two)


def test_a_copy_of_the_same_pair_is_no_negative() -> None:
    """Pair 0 comes twice: no negative of its copy, and both are negatives of pair 1."""
    items, rows = torch.tensor([[0, 1], [2, 3], [0, 1]]), torch.tensor([0, 1, 0])
    first, second = vectors(2, 0), vectors(2, 1)
    found = contrastive_loss(first[rows], second[rows], items, TAU)
    cosine = (first @ second.T).tolist()
    zero = math.log(1 + math.exp((cosine[0][1] - cosine[0][0]) / 0.5))
    one = math.log(1 + 2 * math.exp((cosine[1][0] - cosine[1][1]) / 0.5))
    assert found.item() == pytest.approx((2 * zero + one) / 3)


def test_caption_loss_and_gradients_equal_the_loop() -> None:
    captions = torch.tensor([[3, 1, 0], [0, 0, 0], [2, 0, 0]])
    logits = vectors(3, 2).requires_grad_()
    parts = [logits[row].log_softmax(0)[word] for row, word in enumerate((3, 1, 2))]
    expected = -torch.stack(parts).sum() / 3
    found = caption_loss(logits, captions)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, logits)[0], torch.autograd.grad(expected, logits)[0]
    )
    uniform = caption_loss(torch.zeros(3, 5), captions)
    assert uniform.item() == pytest.approx(math.log(5))


@pytest.mark.parametrize(("contrastive", "caption"), [(1.0, 0.0), (0.0, 1.0), (0.5, 2.0)])
def test_losses_are_weighed_and_switched_off(contrastive: float, caption: float) -> None:
    config = dataclasses.replace(
        SMALL, contrastive_weight=contrastive, caption_weight=caption, steps=1
    )
    content, pairs, captions = toy()
    aligner = make(config)
    (result,) = align_items(aligner, content, pairs, captions)
    values = result.values
    assert ("contrastive" in values) == (contrastive > 0)
    assert ("caption" in values) == (caption > 0)
    expected = contrastive * values.get("contrastive", 0) + caption * values.get("caption", 0)
    assert result.loss == pytest.approx(expected, rel=1e-5)
    assert not aligner.training


def neighbours(aligner: ItemAligner, content: Precomputed) -> np.ndarray:
    found = item_vectors(aligner.qformer, content)
    cosine = found @ found.T
    np.fill_diagonal(cosine, -1)
    return cosine.argmax(axis=1)


@pytest.mark.parametrize("caption", [0.0, 1.0])
def test_items_of_a_pair_become_nearest_neighbours(caption: float) -> None:
    content, pairs, captions = toy()
    partner = (np.arange(N) + N // 2) % N
    aligner = make(dataclasses.replace(SMALL, caption_weight=caption))
    assert (neighbours(aligner, content) == partner).mean() < 0.3
    results = list(align_items(aligner, content, pairs, captions))
    assert (neighbours(aligner, content) == partner).all()
    assert results[-1].values["contrastive"] < 0.2 < results[0].values["contrastive"]


def test_captions_are_learned_from_the_states() -> None:
    """More than how often words come: with the items' content mixed up the loss is far higher."""
    content, _, captions = toy()
    config = dataclasses.replace(SMALL, contrastive_weight=0.0, learning_rate=1e-2)
    aligner = make(config)
    results = list(align_items(aligner, content, None, captions))
    assert results[0].loss == pytest.approx(math.log(WORDS), abs=0.3)
    assert results[-1].loss < 0.7
    mixed = Precomputed(content.tokens[::-1].copy(), content.mask[::-1].copy())
    aligner.config = dataclasses.replace(config, steps=1, learning_rate=1e-9)
    (wrong,) = align_items(aligner, mixed, None, captions)
    assert wrong.loss > results[-1].loss + 1


def test_the_same_seed_gives_the_same_weights_and_items_outside_fit_tell_nothing() -> None:
    content, pairs, captions = toy()
    fit = np.arange(N) < 20
    config = dataclasses.replace(SMALL, steps=4, batch_size=5, caption_batch=5)

    def trained(captions: np.ndarray, config: AlignmentConfig = config) -> np.ndarray:
        aligner = make(config)
        for _ in align_items(aligner, content, pairs, captions, fit):
            pass
        return item_vectors(aligner.qformer, content)

    once = trained(captions)
    other = captions.copy()
    other[20:, 0] = captions[20:, 0] % (WORDS - 1) + 1
    np.testing.assert_array_equal(trained(other), once)
    other[3, 0] = captions[3, 0] % (WORDS - 1) + 1
    assert not np.array_equal(trained(other), once)
    assert not np.array_equal(trained(captions, dataclasses.replace(config, seed=1)), once)


def test_switching_one_loss_off_leaves_the_batches_of_the_other() -> None:
    content, pairs, captions = toy()
    first = []
    for weight in (0.0, 1.0):
        config = dataclasses.replace(SMALL, caption_weight=weight, steps=1, batch_size=5)
        (result,) = align_items(make(config), content, pairs, captions)
        first.append(result.values["contrastive"])
    assert first[0] == pytest.approx(first[1], rel=1e-5)


def test_the_temperature_is_learned_or_not_and_stays_above_its_bound() -> None:
    content, pairs, _ = toy()
    for learn in (True, False):
        config = dataclasses.replace(SMALL, caption_weight=0.0, learn_temperature=learn, steps=3)
        aligner = make(config)
        *_, last = align_items(aligner, content, pairs)
        assert (last.values["temperature"] != pytest.approx(0.07, rel=1e-6)) == learn
    config = dataclasses.replace(config, temperature=LOWEST_TEMPERATURE, steps=1)
    low = make(dataclasses.replace(config, learning_rate=1e-9))
    with torch.no_grad():
        low.log_temperature.sub_(1.0)  # as a step might
    assert len(list(align_items(low, content, pairs))) == 1
    assert low.temperature.item() == pytest.approx(LOWEST_TEMPERATURE)


def test_what_cannot_be_learned_from_is_refused() -> None:
    content, pairs, captions = toy()

    def message(**changed: object) -> str:
        inputs = {"content": content, "pairs": pairs, "captions": captions, "fit": None} | changed
        with pytest.raises(DataError) as caught:
            next(align_items(make(), **inputs))  # type: ignore[arg-type]
        return str(caught.value)

    mask = content.mask.copy()
    mask[5] = False
    assert message(content=Precomputed(content.tokens, mask)).startswith("item 5 has no content")
    assert "no pair of items" in message(pairs=pairs[:0])
    assert "items 0 to 24; expected (pairs, 2) with items 0 to 23" in message(
        pairs=np.array([[0, 24]])
    )
    assert "there are no captions" in message(captions=None)
    assert "expected (24 items, tokens)" in message(captions=captions[:-1])
    assert "none of 24 items has a caption" in message(fit=np.zeros(N, bool))
    for token, said in ((-1, "outside 0 to 6"), (7, "outside 0 to 6")):
        strange = captions.copy()
        strange[9, 0] = token
        assert f"caption of item 9 has a token {said}" in message(captions=strange)
    gap = captions.copy()
    gap[8] = [1, 0, 2, 0]
    assert "caption of item 8 has padding (0) before its end" in message(captions=gap)
    long = np.ones((N, 5), dtype=np.int64)
    assert "a caption has 5 tokens, the language model reads 4" in message(captions=long)


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(RecipeError, match="neither below 0, and one above"):
        AlignmentConfig(contrastive_weight=0.0, caption_weight=0.0)
    with pytest.raises(RecipeError, match=r"temperature is 0\.001"):
        AlignmentConfig(temperature=0.001)
    with pytest.raises(RecipeError, match="batch_size 1 and caption_batch 64"):
        AlignmentConfig(batch_size=1)
    with pytest.raises(RecipeError, match="no language model to tell captions"):
        ItemAligner(make().qformer, None, AlignmentConfig())


def test_the_seed_draws_pairs_and_captions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one step of 6 pairs and 5 captions; weights and content are the same."""
    content, pairs, captions = toy()
    seen, loss = [], ItemAligner.loss

    def watched(self: ItemAligner, batch: AlignmentBatch) -> Any:
        seen.append(batch)
        return loss(self, batch)

    monkeypatch.setattr(ItemAligner, "loss", watched)
    for seed in (0, 1):
        config = AlignmentConfig(steps=1, batch_size=6, caption_batch=5, seed=seed)
        list(align_items(make(config), content, pairs, captions))
    one, other = seen
    assert (one.items.shape, len(one.told)) == ((6, 2), 5)
    assert not one.items.equal(other.items)
    assert not (one.captions.shape == other.captions.shape and one.captions.equal(other.captions))


def test_the_learning_rate_rises_over_a_twentieth_of_the_steps() -> None:
    content, pairs, captions = toy()
    config = AlignmentConfig(steps=40, batch_size=6, learning_rate=1e-3)
    rates = [result.lr for result in align_items(make(config), content, pairs, captions)]
    assert rates[:2] == pytest.approx([5e-4, 1e-3])
    assert rates[2:] == sorted(rates[2:], reverse=True)
