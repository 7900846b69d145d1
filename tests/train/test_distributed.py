"""Two processes train as one does on the whole batch: gradients, clipping, loads, weights."""

import json
from pathlib import Path

import pytest
import torch
import two_processes as two

from onerec.checkpoint import load_tensors
from onerec.errors import RecipeError
from onerec.loop import loop
from onerec.train.distributed import Processes, joined

CPU = torch.device("cpu")


@pytest.mark.parametrize(("way", "name"), two.CASES)
def test_gradients_are_those_of_one_process_on_the_whole_batch(
    two_trained: Path, way: str, name: str
) -> None:
    """Processes have different numbers of targets: a mean of their means would be another."""
    expected, loss = two.reference(name)
    state = load_tensors(two_trained / f"{way} {name}.safetensors")
    found = {key[5:]: value for key, value in state.items() if key.startswith("grad.")}
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(state["loss"], loss, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize(("way", "name"), two.CASES)
def test_a_training_is_that_of_one_process(two_trained: Path, way: str, name: str) -> None:
    """Losses, norms before clipping, weights, router biases and loads after some steps."""
    model = two.new_model(name)
    made, _ = two.trainee(name, model)
    alone = list(loop(made, steps=two.STEPS))
    told = json.loads((two_trained / f"{way} {name}.json").read_text())
    for one, shared in zip(alone, told, strict=True):
        assert shared.pop("loss") == pytest.approx(one.loss, rel=1e-6)
        assert shared.pop("norm") == pytest.approx(one.grad_norm, rel=1e-6)
        assert shared == pytest.approx(one.values, rel=1e-6)
    assert min(one.grad_norm for one in alone) > 1.0  # all are clipped
    state = load_tensors(two_trained / f"{way} {name}.safetensors")
    for key, value in model.state_dict().items():
        torch.testing.assert_close(state[f"weight.{key}"], value, rtol=1e-6, atol=1e-9)
    mixtures = model.mixtures()
    assert bool(mixtures) == (name not in ("tied", "lifelong"))
    for number, mixture in enumerate(mixtures):
        assert torch.equal(state[f"load.{number}"], mixture.last_load)


def test_a_process_alone_shares_nothing_and_says_nothing() -> None:
    with joined() as processes:
        assert processes.alone
        assert processes.leads
        assert processes.seed(7) == 7
        assert processes.agreed([1]) == [1]
        assert processes.everywhere(True)
        assert not processes.everywhere(False)
        assert processes.device(CPU) == CPU
        processes.say("go")
    seeds = {Processes(rank=rank, world=4).seed(7) for rank in range(4)}
    assert len(seeds) == 4


@pytest.mark.parametrize(
    ("parallel", "parts", "message"),
    [
        ("fsdp", 1, "--parallel fsdp needs torchrun: torchrun --nproc-per-node 2"),
        ("tensor", 1, "--parallel tensor: there are ddp and fsdp"),
        (None, 0, "--micro-batches 0: use at least 1"),
    ],
)
def test_what_cannot_be_is_refused(parallel: str | None, parts: int, message: str) -> None:
    with pytest.raises(RecipeError, match=message), joined(parallel, parts):
        pass


def test_a_batch_that_cannot_be_dealt_out_is_refused() -> None:
    Processes(world=2, micro_batches=4).refuse(8, 100)
    with pytest.raises(RecipeError, match=r"4 processes do not divide .*=30; start 3, .*=32"):
        Processes(world=4).refuse(30, 100)
    with pytest.raises(RecipeError, match="--micro-batches 5: each of 2 processes has 4 rows"):
        Processes(world=2, micro_batches=5).refuse(8, 100)
    with pytest.raises(RecipeError, match="has 0 rows of a batch; use fewer parts or fewer"):
        Processes(world=4).refuse(8, 3)  # fewer examples than processes
