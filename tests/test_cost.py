"""The estimate of a run: close to what is really built, and growing with what it should."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from onerec import cost
from onerec.common import pick_device
from onerec.cost import ROOM, code_sizes, device_of, estimate, memory_of, refuse_hopeless, too_much
from onerec.count import Cardinalities, Counter
from onerec.errors import RecipeError
from onerec.recipes import recipe
from onerec.tokenizer.rq_kmeans import codebook_size_for


def test_it_adds_up_what_is_counted() -> None:
    made, known = recipe("tiny"), Cardinalities((128,) * 3, 4_000, n_authors=50, n_time=9)
    counter = Counter(made, known)
    expected, kept = estimate(made, 0, known=known), sum(counter.activations().values())
    assert expected.parameters == counter.total()
    assert expected.active_parameters == counter.active_total()
    assert expected.flops_per_sample == counter.training_flops()
    assert expected.memory_bytes == 16 * counter.total() + 4 * 192 * kept
    assert expected.seconds == 400 * 192 * counter.training_flops() / cost.CPU_RATE


def test_the_parts_of_a_cost_add_up_and_tables_are_told_apart() -> None:
    made, known = recipe("tiny"), Cardinalities((128,) * 3, 4_000, n_authors=50, n_time=9)
    cost = estimate(made, 0, known=known, events=10.0, targets=2.0)
    counter = Counter(made, known)
    assert cost.flops_per_sample == counter.training_flops(10.0, 2.0)
    assert cost.flops == 400 * 192 * cost.flops_per_sample
    assert cost.memory_bytes == cost.state_bytes + 192 * cost.sample_bytes
    width = made.model.width
    assert cost.embeddings == 3 * 128 * width + 51 * (width // 2) + 10 * 16


def test_too_much_memory_names_the_setting_that_lowers_it() -> None:
    made = recipe("tiny", {"train.batch_size": "1000"})
    cost = estimate(made, 1_200)
    assert too_much(made, cost, int(cost.memory_bytes)) is None
    for fits in (1, 500):
        room = int((cost.state_bytes + fits * cost.sample_bytes) / ROOM) + 1
        told = f"lower train.batch_size from 1,000 to {fits} or less."
        assert told in str(too_much(made, cost, room))
    none = int(cost.state_bytes)
    assert "model.width (now 80)." in str(too_much(made, cost, none))
    assert "this machine has" in str(too_much(made, cost, none))
    assert "its GPU has" in str(too_much(made, cost, none, "cuda"))


def test_the_memory_of_a_machine_is_what_a_container_may_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = psutil.virtual_memory().total
    for text, expected in [("max", whole), ("1048576", 2**20), (str(2**63), whole)]:
        (tmp_path / "limit").write_text(text + "\n")
        monkeypatch.setattr(cost, "_CGROUPS", (str(tmp_path / "limit"), "missing"))
        memory_of.cache_clear()
        assert memory_of("cpu") == expected
    memory_of.cache_clear()


@pytest.mark.parametrize(("driver", "memory"), [(True, 80 * 2**30), (False, None)])
def test_the_memory_of_a_gpu_is_the_drivers_word(
    monkeypatch: pytest.MonkeyPatch, driver: bool, memory: int | None
) -> None:
    def load(name: str) -> Driver:
        if not driver:
            raise OSError(f"{name}: no such file")
        return Driver(1)

    monkeypatch.setattr("ctypes.CDLL", load)
    memory_of.cache_clear()
    try:
        assert memory_of("cuda") == memory
    finally:
        memory_of.cache_clear()


def test_without_cardinalities_the_codebook_shrinks_as_the_tokenizers_does() -> None:
    base = recipe("tiny")
    few = Cardinalities((16,) * 3, 100)  # the largest power of two of at most a quarter of 100
    assert estimate(base, 100).parameters == estimate(base, 100, known=few).parameters
    for n in (1, 9, 100, 600, 1_200, 10**6):
        assert code_sizes(base, n) == (codebook_size_for(n, base.tokenizer.codebook_size),) * 3
    exact = recipe("tiny", {"tokenizer.codebook_size": "90"})
    meant = Cardinalities((90,) * 3, 100)
    assert estimate(exact, 100).parameters == estimate(exact, 100, known=meant).parameters


def test_utilisation_is_the_share_of_the_peak() -> None:
    assert cost.peak_rate("NVIDIA H100 80GB HBM3") == 989e12
    assert cost.peak_rate("NVIDIA H200") == 989e12
    assert cost.peak_rate("NVIDIA H100 PCIe") == 756e12
    assert cost.peak_rate("NVIDIA H100 NVL") == cost.peak_rate("NVIDIA H200 NVL") == 835e12
    assert cost.peak_rate("AMD EPYC") is None
    assert cost.mfu(989e9, 250.0, cost.peak_rate("NVIDIA H200")) == pytest.approx(0.25)
    assert cost.mfu(989e9, 250.0, None) is None


def test_only_what_takes_many_times_the_memory_is_refused() -> None:
    base = recipe("tiny", {"train.batch_size": "8000"})
    whole = estimate(base, 1_000).memory_bytes
    refuse_hopeless(base, 1_000, 1, None)
    refuse_hopeless(base, 1_000, 1, int(whole / cost.HOPELESS) + 1)
    few = int(whole / cost.HOPELESS) - 1
    with pytest.raises(RecipeError, match=r"lower train\.batch_size from 8,000 to"):
        refuse_hopeless(base, 1_000, 1, few)
    refuse_hopeless(base, 1_000, 2, few)
    with pytest.raises(RecipeError, match=r"from 8,000 to 8\d\d or less"):
        refuse_hopeless(base, 1_000, 2, few // 2)


def test_what_weights_alone_take_is_told_by_experts_and_width() -> None:
    def told(**model: str) -> str:
        large = recipe("tiny", {f"model.{name}": value for name, value in model.items()})
        return too_much(large, estimate(large, 1_000), 2**20) or ""

    assert "lower model.experts (now 100,000) or model.width (now 80)" in told(experts="100000")
    assert "lower model.width (now 80)" in told(experts="0")


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

    def cuDeviceGet(self, device: Any, number: int) -> int:
        return 0

    def cuDeviceTotalMem_v2(self, size: Any, device: Any) -> int:
        size._obj.value = 80 * 2**30
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


def test_tiny_asks_for_no_more_work_than_fits_its_ninety_seconds() -> None:
    """On two cores the run takes 58 to 66 s; each limit is a tenth above what it asked for then."""
    tiny = recipe("tiny")
    assert estimate(tiny, 5_000).flops < 2.6e12
    reward, align, rivals = tiny.reward, tiny.align, tiny.baselines
    assert reward.steps * reward.batch_size <= 106_000
    assert align.steps * align.users * align.group <= 19_000
    assert rivals.sasrec_steps * rivals.sasrec_batch_size * rivals.sasrec_trials <= 92_000
    assert tiny.evaluate.beam * (tiny.evaluate.valid_users + tiny.evaluate.recommend_users) <= 132e3


def test_a_gpus_rate_grows_with_the_width_between_what_was_measured() -> None:
    assert cost.gpu_rate(64) == cost.gpu_rate(256) == pytest.approx(2.5e13)
    assert cost.gpu_rate(1024) == cost.gpu_rate(1792) == pytest.approx(2.9e14)
    assert cost.gpu_rate(512) == pytest.approx((2.5e13 * 2.9e14) ** 0.5)
    assert cost.gpu_rate(1024, compiled=True) == pytest.approx(4.35e14)
    wide = recipe("onerec_0_935b")
    assert cost.estimate(wide, 100, "NVIDIA H200").rate == pytest.approx(2.9e14)
    compiled = recipe("onerec_0_935b", {"train.compile": "true"})
    assert cost.estimate(compiled, 100, "NVIDIA H200").rate == pytest.approx(4.35e14)
