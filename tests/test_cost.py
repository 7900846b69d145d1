"""The estimate of a run: close to what is really built, and growing with what it should."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from onerec.cost import estimate
from onerec.model.onerec import ItemTable, OneRec, OneRecConfig, Vocabulary
from onerec.recipes import RECIPES, recipe


@pytest.mark.parametrize("name", RECIPES)
def test_parameters_are_within_a_fifth_of_the_model_that_is_built(name: str) -> None:
    made, n_items = recipe(name), 4_000
    size = made.tokenizer.codebook_size
    vocabulary = Vocabulary(
        sizes=(size,) * 3,
        n_items=n_items,
        item_input=made.history.item_input,  # type: ignore[arg-type]
    )
    config = OneRecConfig(
        width=made.model.width,
        layers=made.model.encoder_layers,
        decoder_layers=made.model.decoder_layers,
        heads=made.model.heads,
        short_length=made.history.short_length,
        positive_length=made.history.positive_length,
        experts=made.model.experts,
        active_experts=made.model.active_experts,
    )
    codes = torch.from_numpy(np.zeros((n_items + 1, 3), dtype=np.int64))
    built = sum(p.numel() for p in OneRec(config, vocabulary, ItemTable(codes)).parameters())
    assert estimate(made, n_items).parameters == pytest.approx(built, rel=0.2)


def test_more_steps_take_longer_and_a_gpu_less_long() -> None:
    base = recipe("tiny")
    twice = replace(base, train=replace(base.train, steps=2 * base.train.steps))
    assert estimate(twice, 1_000).seconds == pytest.approx(2 * estimate(base, 1_000).seconds)
    assert estimate(base, 1_000, "cuda").seconds < estimate(base, 1_000).seconds


def test_idle_experts_cost_parameters_and_no_time() -> None:
    base = recipe("tiny")
    more = replace(base, model=replace(base.model, experts=4 * base.model.experts))
    assert estimate(more, 1_000).parameters > estimate(base, 1_000).parameters
    assert estimate(more, 1_000).active_parameters == estimate(base, 1_000).active_parameters
    assert estimate(more, 1_000).seconds == estimate(base, 1_000).seconds
