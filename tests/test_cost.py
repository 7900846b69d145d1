"""The estimate of a run: close to what is really built, and growing with what it should."""

from dataclasses import replace
from typing import Any

import pytest

from onerec import cost
from onerec.common import pick_device
from onerec.cost import device_of, estimate
from onerec.count import Cardinalities, Counter
from onerec.errors import RecipeError
from onerec.recipes import recipe


def test_it_adds_up_what_is_counted() -> None:
    made, known = recipe("tiny"), Cardinalities((128,) * 3, 4_000, n_authors=50, n_time=9)
    counter = Counter(made, known)
    expected, kept = estimate(made, 0, known=known), sum(counter.activations().values())
    assert expected.parameters == counter.total()
    assert expected.active_parameters == counter.active_total()
    assert expected.flops_per_sample == counter.training_flops()
    assert expected.memory_bytes == 16 * counter.total() + 4 * 192 * kept
    assert expected.seconds == 400 * 192 * counter.training_flops() / cost.CPU_RATE


def test_without_cardinalities_the_codebook_shrinks_as_the_tokenizers_does() -> None:
    base = recipe("tiny")
    few = Cardinalities((25,) * 3, 100)
    assert estimate(base, 100).parameters == estimate(base, 100, known=few).parameters
    exact = recipe("tiny", {"tokenizer.codebook_size": "90"})
    meant = Cardinalities((90,) * 3, 100)
    assert estimate(exact, 100).parameters == estimate(exact, 100, known=meant).parameters


def test_utilisation_is_the_share_of_the_peak() -> None:
    assert cost.peak_rate("NVIDIA H100 80GB HBM3") == 989e12
    assert cost.peak_rate("NVIDIA H200") == 989e12
    assert cost.peak_rate("NVIDIA H100 PCIe") == 756e12
    assert cost.peak_rate("AMD EPYC") is None
    assert cost.mfu(989e9, 250.0, cost.peak_rate("NVIDIA H200")) == pytest.approx(0.25)
    assert cost.mfu(989e9, 250.0, None) is None


def test_more_steps_take_longer_and_a_gpu_less_long() -> None:
    base = recipe("tiny")
    twice = replace(base, train=replace(base.train, steps=2 * base.train.steps))
    assert estimate(twice, 1_000).seconds == pytest.approx(2 * estimate(base, 1_000).seconds)
    assert estimate(base, 1_000, "cuda").seconds < estimate(base, 1_000).seconds


def test_idle_experts_cost_parameters_and_of_time_their_routers_alone() -> None:
    base = recipe("tiny")
    more = replace(base, model=replace(base.model, experts=base.model.experts + 12))
    few, many = estimate(base, 1_000), estimate(more, 1_000)
    assert many.parameters - few.parameters == 12 * 80 * (3 * 256 + 1)  # width 80, hidden 256
    assert many.active_parameters - few.active_parameters == 12 * 80
    tokens = 1 + 4 * 2  # the first position, then two codes of each of four targets
    assert many.flops_per_sample - few.flops_per_sample == 6 * tokens * 12 * 80


def test_a_shared_expert_costs_what_an_active_one_does_but_its_routing() -> None:
    base = recipe("tiny")
    shared = replace(base, routing=replace(base.routing, shared_experts=1))
    more = replace(
        base,
        model=replace(
            base.model,
            experts=base.model.experts + 1,
            active_experts=base.model.active_experts + 1,
        ),
    )
    one, other = estimate(shared, 1_000), estimate(more, 1_000)
    assert other.parameters - one.parameters == 80  # of the router
    assert other.active_parameters - one.active_parameters == 80
    tokens = 1 + 4 * 2  # the first position, then two codes of each of four targets
    assert other.flops_per_sample - one.flops_per_sample == 6 * tokens * 80


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
