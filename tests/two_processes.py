"""Two processes that train a small model together in float64, for the tests of `train.distributed`.

Spawned processes import this file by its name, so what they do stands here and not in a test.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar
from unittest import mock

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import toy_model
from plain_main import plain_main
from torch import Tensor

from onerec.checkpoint import put_training, save_checkpoint, save_tensors, training_state
from onerec.loop import Trainee, loop
from onerec.model.batch import Batch, Events
from onerec.model.onerec import OneRec
from onerec.model.qformer import QFormerConfig
from onerec.model.routers import RouterConfig
from onerec.shards import read_checkpoint, save_shards
from onerec.train import compiled, distributed
from onerec.train.data_parallel import DataParallel
from onerec.train.distributed import Processes
from onerec.train.optim import OptimConfig, make_adamw

EventsT = TypeVar("EventsT", bound=Events)

STEPS, WORLD, BALANCE = 3, 2, 0.05
WAYS = {  # name -> (fsdp, parts of a process's rows, compiled as a whole)
    "ddp": (False, 1, False),
    "ddp in parts": (False, 2, False),
    "fsdp": (True, 1, False),
    "fsdp in parts": (True, 2, False),
    "fsdp whole in parts": (True, 2, True),
}
MODELS: dict[str, Callable[[], OneRec]] = {
    "experts": lambda: toy_model.make_model(experts=3, active_experts=2, expert_blocks="alternate"),
    "lazy": lambda: toy_model.make_lazy(experts=3, active_experts=2),
    "lifelong": lambda: toy_model.make_model(lifelong=QFormerConfig(3)),
    "tied": lambda: toy_model.make_model(
        vocabulary={"tied_output": True}, router=RouterConfig("softmax")
    ),
}


CASES = [  # what is tried: shards in parts once each, since they are slow
    (way, name) for way in WAYS for name in MODELS if "fsdp " not in way or name == "experts"
]


def new_model(name: str) -> OneRec:
    """The model in float64, in training, with the weights of its seed."""
    return MODELS[name]().double().train()


def batch(step: int) -> Batch:
    """Six contexts of different lengths; the last ones have fewer targets than the others."""
    whole = toy_model.make_batch((4, 0, 2, 3, 4, 1), seed=10 * step)
    target = whole.target.clone()
    target[3:, 2] = 0
    target[5, 1] = 0
    return replace(
        whole,
        short=doubled(whole.short),
        positive=doubled(whole.positive),
        target=target,
        lifelong=doubled(toy_model.make_clusters((3, 0, 1, 0, 5, 0), 6)),
    )


def rows_of(whole: Batch, rows: slice) -> Batch:
    """The batch of a process, without what none of its contexts has: every second has no clusters.

    A model without the pathway does not read them.
    """
    mine = whole.rows(rows)
    assert mine.lifelong is not None
    return mine if mine.lifelong.item.any() else replace(mine, lifelong=None)


def reference(name: str) -> tuple[dict[str, Tensor], Tensor]:
    """Gradients and loss of the first batch, worked out at once by one process."""
    model = new_model(name)
    loss, _ = model.loss(batch(0))
    loss.backward()
    return whole_gradients(model), loss.detach()


def doubled(events: EventsT) -> EventsT:
    return replace(events, label=events.label.double())


def targets(of: Batch) -> Tensor:
    return (of.target > 0).sum()


def trainee(
    name: str, model: OneRec, processes: Processes | None = None
) -> tuple[Trainee[Batch], torch.optim.Optimizer]:
    """What the loop trains, alone or with the other process."""
    optimizer = make_adamw(model, OptimConfig())
    shared = None
    rows = slice(None)
    if processes is not None:
        shared = DataParallel(processes, model, targets, Batch.split)
        rows = slice(processes.rank, None, processes.world)

    def balance() -> None:
        if processes is not None:
            processes.sum_loads(model)
        model.update_router_bias(BALANCE)

    made = Trainee(
        model=model,
        optimizer=optimizer,
        loss=model.loss,
        batch=lambda step: rows_of(batch(step), rows),
        learning_rate=lambda step: 0.01,
        after_step=balance,
        parallel=shared,
    )
    return made, optimizer


def both(folder: Path) -> None:
    """Let two processes do all that stands below; most of it is imports."""
    save_alone(folder, 2)
    with plain_main():
        mp.spawn(_begin, (folder,), WORLD)


def _begin(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=WORLD)
    processes = Processes(rank, WORLD, rank, WORLD, _control=dist.new_group(backend="gloo"))
    for way, name in CASES:
        processes.sharded, processes.micro_batches, whole = WAYS[way]
        with compiled_as_a_whole() if whole else contextlib.nullcontext():
            train(processes, folder / f"{way} {name}", name, whole)
    processes.sharded, processes.micro_batches = True, 1
    checkpoints(processes, folder)
    processes.leave()


@contextlib.contextmanager
def compiled_as_a_whole() -> Iterator[None]:
    """Inside, a CPU's models are compiled in one piece, without turning it into machine code."""
    with (
        mock.patch.object(distributed, "as_a_whole", return_value=True),
        mock.patch.object(compiled, "BACKEND", "aot_eager"),
    ):
        yield


def whole_gradients(model: OneRec) -> dict[str, Tensor]:
    """Gradients by name, put together where they are shards."""
    found = {}
    for name, parameter in model.named_parameters():
        grad = parameter.grad
        if grad is not None:
            found[name] = grad.full_tensor() if hasattr(grad, "full_tensor") else grad
    return found


def train(processes: Processes, path: Path, name: str, whole: bool) -> None:
    """Write what a training ends with: gradients of a step, losses, norms, weights, loads."""
    model = new_model(name)
    if not processes.leads:  # weights that are not the first one's must not matter
        for parameter in model.parameters():
            parameter.data += 1.0
    trained = processes.spread(model, compiled=whole)
    made, _ = trainee(name, trained, processes)
    assert made.parallel is not None
    loss, _ = made.parallel.gradients(made.loss, made.batch(0), torch.device("cpu"))
    gradients = whole_gradients(trained)
    trained.zero_grad()
    for mixture in trained.mixtures():
        mixture.load.zero_()
    told = [{"loss": r.loss, "norm": r.grad_norm, **r.values} for r in loop(made, steps=STEPS)]
    processes.gather(trained, model)
    if processes.leads:
        state = {f"grad.{k}": v for k, v in gradients.items()} | {"loss": loss}
        state |= {f"weight.{k}": v for k, v in model.state_dict().items()}
        loads = [mixture.last_load for mixture in model.mixtures()]
        state |= {f"load.{i}": load for i, load in enumerate(loads)}
        save_tensors(Path(f"{path}.safetensors"), state)
        Path(f"{path}.json").write_text(json.dumps(told))


def checkpoints(processes: Processes, folder: Path) -> None:
    """Save shards and load them again, and shards from a file of one process; go on from both."""

    def fresh(steps: int) -> tuple[OneRec, torch.optim.Optimizer]:
        trained = processes.spread(new_model("experts"))
        made, optimizer = trainee("experts", trained, processes)
        list(loop(made, steps=steps))
        return trained, optimizer

    trained, optimizer = fresh(STEPS)
    state = whole_state(trained, optimizer)
    info = {"valid": {"3": 0.5}} if processes.leads else {}
    if processes.leads:  # passed over when it was read; left, it would hide the shards
        damaged = folder / f"checkpoint-{STEPS:06d}.safetensors"
        damaged.write_bytes(b"damaged")
        damaged.with_suffix(".json").write_text(json.dumps({"step": STEPS, "bytes": 7}))
    save_shards(folder, STEPS, trained, optimizer, info, processes.control)
    if processes.leads:
        save_tensors(folder / "state.safetensors", state)
    for path in (folder / f"shards-{STEPS:06d}", folder / "checkpoint-000002.safetensors"):
        other, moments = fresh(0)
        put_training(read_checkpoint(path, other, processes.control), other, moments)
        loaded = whole_state(other, moments)
        if processes.leads:
            save_tensors(folder / f"loaded {path.name[:6]}.safetensors", loaded)
        made = trainee("experts", other, processes)[0]
        made.optimizer = moments
        start = int(path.stem[-6:])
        list(loop(made, start=start, steps=STEPS + 1))
        final = whole_state(other, moments)
        if processes.leads:
            save_tensors(folder / f"final {path.name[:6]}.safetensors", final)


def whole_state(model: OneRec, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What a checkpoint holds, put together."""
    state = training_state(model, optimizer)
    return {
        name: (t.full_tensor() if hasattr(t, "full_tensor") else t).clone()
        for name, t in state.items()
    }


def save_alone(folder: Path, steps: int) -> dict[str, Tensor]:
    """Train so many steps alone, write an ordinary checkpoint and return what it holds."""
    model = new_model("experts")
    made, optimizer = trainee("experts", model)
    list(loop(made, steps=steps))
    save_checkpoint(folder, steps, model, optimizer, {})
    return whole_state(model, optimizer)
