"""Device, threads and randomness."""

import os
import types

import pytest
import torch
from torch import nn

from onerec import common
from onerec.common import (
    autocast,
    cores,
    device_memory,
    evaluating,
    generator,
    pick_device,
    set_threads,
    spread,
)
from onerec.errors import RecipeError


def test_auto_is_a_gpu_only_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == torch.device("cpu")
    with pytest.raises(RecipeError, match=r"'cuda:1': no CUDA device.*--set device=cpu"):
        pick_device("cuda:1")
    with pytest.raises(RecipeError, match="'mps': unknown; use auto, cpu, cuda"):
        pick_device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto").type == "cuda"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert pick_device("cuda:0") == torch.device("cuda", 0)
    with pytest.raises(RecipeError, match=r"'cuda:1': 1 visible here, numbered from cuda:0"):
        pick_device("cuda:1")


def test_the_memory_of_a_gpu_is_all_of_it_and_a_cpu_has_none_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert device_memory("cpu") is None
    assert device_memory(torch.device("cpu")) is None
    card = types.SimpleNamespace(total_memory=80 << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    assert device_memory("cuda:1") == 80 << 30


def test_an_unknown_device_is_the_users_mistake() -> None:
    with pytest.raises(RecipeError, match="'gpu'"):
        pick_device("gpu")


def test_the_cpu_computes_in_full_precision() -> None:
    with autocast(torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_threads_are_those_asked_for_or_those_the_process_may_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = torch.get_num_threads()
    try:
        assert set_threads(1) == torch.get_num_threads() == 1
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        assert set_threads() == torch.get_num_threads() == 2
        monkeypatch.setenv("OMP_NUM_THREADS", "4,2")  # a nested setting: not one number
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
        assert set_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_cores_are_those_asked_for_or_those_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert cores() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert cores() == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_work_is_spread_in_order_and_each_thread_has_one_core(
    workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common, "_pool", common.one_core_each)  # threads that are new
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        seen = spread(lambda item: (item, torch.get_num_threads()), range(5), workers)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert [item for item, _ in seen] == [0, 1, 2, 3, 4]
    assert {threads for _, threads in seen} == {3 if workers == 1 else 1}
    with pytest.raises(ZeroDivisionError):
        spread(lambda item: 1 / item, [1, 0], workers)


def test_a_seed_is_a_stream_of_its_own() -> None:
    torch.manual_seed(5)
    first = torch.rand(3, generator=generator(7))
    untouched = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), untouched)  # the global stream did not move
    assert torch.equal(first, torch.rand(3, generator=generator(7)))
    assert not torch.equal(first, torch.rand(3, generator=generator(8)))


def test_evaluating_gives_every_module_its_mode_back_even_after_an_error() -> None:
    training, still = nn.Dropout().train(), nn.Dropout().eval()

    def fail() -> None:
        with evaluating(training, still):
            assert not training.training
            assert not torch.is_grad_enabled()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert training.training
    assert not still.training
    assert torch.is_grad_enabled()
