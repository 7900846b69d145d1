"""The estimate of a run: close to what is really built, and growing with what it should."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from onerec import cost
from onerec.common import pick_device
from onerec.cost import device_of, estimate
from onerec.errors import RecipeError
from onerec.model.onerec import ItemTable, OneRec, OneRecConfig, Vocabulary
from onerec.model.qformer import QFormer, QFormerConfig
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


def test_the_lifelong_pathway_costs_what_it_adds() -> None:
    base = recipe("tiny")
    long = recipe("tiny", {"history.lifelong_length": "200", "history.lifelong_queries": "16"})
    assert long.model.width == base.model.width == 80
    width = long.model.width
    built = QFormer(QFormerConfig(16), width, 4, 0.0)
    more = estimate(long, 1_000).parameters - estimate(base, 1_000).parameters
    norms, positions = 2 * width, 16 * width
    assert more == sum(p.numel() for p in built.parameters()) - norms + positions
    assert estimate(long, 1_000).seconds > 1.5 * estimate(base, 1_000).seconds
    assert estimate(long, 1_000).memory_bytes > estimate(base, 1_000).memory_bytes


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


def test_auto_is_the_device_that_torch_will_choose() -> None:
    cost.cuda_is_here.cache_clear()
    assert device_of(recipe("tiny")) == pick_device("auto").type


@pytest.mark.parametrize("here", [True, False])
def test_a_device_that_is_asked_for_is_taken_or_refused(
    monkeypatch: pytest.MonkeyPatch, here: bool
) -> None:
    monkeypatch.setattr(cost, "cuda_is_here", lambda: here)
    assert device_of(recipe("tiny")) == ("cuda" if here else "cpu")
    assert device_of(recipe("tiny", {"device": "cpu"})) == "cpu"
    asked = recipe("tiny", {"device": "cuda:0"})
    if here:
        assert device_of(asked) == "cuda"
    else:
        with pytest.raises(RecipeError, match=r"device=cuda:0: no CUDA device .*device=cpu"):
            device_of(asked)


class Driver:
    """A CUDA driver that shows `devices` devices; -1: it cannot start."""

    def __init__(self, devices: int) -> None:
        self.devices = devices

    def cuInit(self, flags: int) -> int:
        return 100 * (self.devices < 0)

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = self.devices
        return 0


@pytest.mark.parametrize(
    ("torch_version", "devices", "here"),
    [
        ("2.13.0+cu130", 2, True),
        ("2.13.0", 1, True),
        ("2.13.0+cpu", 1, False),
        ("2.13.0", 0, False),
        ("2.13.0", -1, False),
        ("2.13.0", None, False),
    ],
)
def test_a_gpu_counts_where_torch_can_use_it(
    monkeypatch: pytest.MonkeyPatch, torch_version: str, devices: int | None, here: bool
) -> None:
    def load(name: str) -> Driver:
        if devices is None:
            raise OSError(f"{name}: no such file")
        return Driver(devices)

    monkeypatch.setattr("importlib.metadata.version", lambda name: torch_version)
    monkeypatch.setattr("ctypes.CDLL", load)
    cost.cuda_is_here.cache_clear()
    try:
        assert cost.cuda_is_here() is here
    finally:
        cost.cuda_is_here.cache_clear()
