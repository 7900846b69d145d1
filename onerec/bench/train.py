"""Training speed of a recipe, and the share of the hardware that it uses.

    python -m onerec.bench.train --json [--recipe small] [--steps 30] [--stream]
                                 [--compile] [--micro-batches N] [--ready] [--set KEY=VALUE ...]

The recipe trains on the built-in world through the real path: its own iterator (shuffled, where
train.order is auto), loss, optimiser and loop. `flops_per_sample` counts the tokens that exist
(`onerec.count`, at the mean number of events and targets of the batches that were timed), and no
recomputed work; `mfu` is that times the samples a second over the device's dense bfloat16 peak,
null where no peak is known. `data_wait` is the share of the time that the loop waited for its
batches: cut on the device from the log's tables, or with --stream made ahead from shards of the
log. Beside it: parameters, peak memory, and the loss at the beginning and the end.
`onerec.bench.train_peer` compares with T5.

With --compile (or --set train.compile=true) the model is compiled (`onerec.train.compiled`). That
happens in the steps before those that are timed, which took `warm_up_seconds`; `torch_compile`
counts the graphs and what broke them, in all steps (null without). With --micro-batches a step adds
up the gradients of so many parts of its batch. With --ready the pathways are left out: what they
make of the first batches is kept and used again, nothing of them is trained, and their operations
are not counted.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from onerec.assembly import Setting, load_semantic_ids
from onerec.bench.generate import as_json, commit, cpu_name, write
from onerec.bench.mistakes import refuse_below_one, told_in_a_line
from onerec.common import autocast, pick_device, set_threads
from onerec.cost import mfu, peak_rate
from onerec.count import Cardinalities, Counter
from onerec.data.sources.world import make_world_dataset
from onerec.lifelong import with_lifelong
from onerec.loop import Trainee, loop
from onerec.model.onerec import Batch, OneRec
from onerec.model.packing import Packing
from onerec.pipeline import run as run_stages
from onerec.pipeline.feeding import prepare_stream, training_batches
from onerec.pipeline.memory import told_of_memory
from onerec.recipes import parse_overrides, recipe
from onerec.runs import Run
from onerec.throughput import COUNTED, counts
from onerec.train import compiled
from onerec.train.data_parallel import DataParallel
from onerec.train.distributed import Processes
from onerec.train.optim import OptimConfig, cosine_schedule, make_adamw
from onerec.world import WorldConfig

WARM_UP = 5
BEFORE_ENCODER = ("pathways", "qformer")
WORLD = WorldConfig(n_items=4_000, n_users=2_000)


def run(
    *,
    name: str | None = None,
    steps: int = 30,
    changes: Mapping[str, str] | None = None,
    out: Path | None = None,
    world: WorldConfig = WORLD,
    stream: bool = False,
    micro_batches: int = 1,
    ready: bool = False,
    words: Sequence[str] = (),
) -> dict[str, Any]:
    """Train `steps` steps of a recipe, by default `small`, and measure them."""
    threads, device = set_threads(), pick_device("auto")
    chosen = recipe(name or "small", {"baselines.names": "popularity", **(changes or {})})
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        dataset = make_world_dataset("world", world, home)
        made = run_stages("t", chosen, "world", home=home, stages=("tokenize",))
        setting = with_lifelong(Setting.of(chosen, dataset), made, device)
        set_threads(threads)
        with told_of_memory("pretrain", chosen):
            measured = measure(made, setting, device, steps, stream, micro_batches, ready)
    on = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    result = {
        "benchmark": "train",
        "command": " ".join(["python -m onerec.bench.train", *words]),
        "commit": commit(),
        "recipe": chosen.name,
        "device": on if device.type == "cuda" else f"{on}, {threads} threads",
        "micro_batches": micro_batches,
        "encoder_input_ready": ready,
        **measured,
    }
    if out is not None:
        write(result, out)
    return result


def measure(
    made: Run,
    setting: Setting,
    device: torch.device,
    steps: int,
    stream: bool = False,
    micro_batches: int = 1,
    ready: bool = False,
) -> dict[str, Any]:
    """Speed, utilisation, memory and loss of `steps` steps after `WARM_UP` that are not timed."""
    chosen = setting.recipe
    ids, _ = load_semantic_ids(made)
    model = setting.new_model(ids, made.codebooks(), made.vectors()).to(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    order = chosen.train.order if chosen.train.order != "auto" else "shuffled"
    if stream:
        prepare_stream(setting, made, order)
    contexts = setting.contexts(device, tables="cpu" if stream else None)
    with training_batches(setting, made, contexts, order=order, stream=stream) as source:
        batches = Counted(source)
        source = Ready(model, batches, micro_batches) if ready else batches
        losses, seconds, warm_up = _train(model, source, setting, device, steps, micro_batches)
    rate = steps * chosen.train.batch_size / seconds
    events, clusters, share, targets = batches.means(0 if ready else WARM_UP)
    counter = Counter(chosen, Cardinalities.of(model.vocabulary))
    flops = counter.training_flops(events, targets, clusters=clusters, long_share=share)
    if ready:
        parts = counter.forward_flops(events, targets, clusters=clusters, long_share=share)
        flops -= 3 * sum(parts.get(name, 0.0) for name in BEFORE_ENCODER)
    peak = peak_rate(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    used = mfu(flops, rate, peak)
    return {
        "parameters": counter.total(),
        "active_parameters": counter.active_total(),
        "events_per_sample": round(events, 2),
        "targets_per_sample": round(targets, 2),
        "flops_per_sample": round(flops),
        "samples_per_second": round(rate, 1),
        "flops_per_second": round(flops * rate),
        "mfu": None if used is None else round(used, 4),
        "warm_up_seconds": round(warm_up, 2),
        "torch_compile": graphs() if chosen.train.compile else None,
        "data_wait": round(sum(batches.waited[WARM_UP:]) / seconds, 4),
        "peak_memory_bytes": peak_memory(device),
        "loss": {"first": round(losses[0], 4), "last": round(losses[-1], 4)},
    }


def _train(
    model: OneRec,
    batches: Callable[[int], Batch],
    setting: Setting,
    device: torch.device,
    steps: int,
    micro_batches: int = 1,
) -> tuple[list[float], float, float]:
    """The loss of each step, and the seconds of those after `WARM_UP` and of those before."""
    chosen = setting.recipe
    if chosen.train.compile:
        compiled.refuse_without_compiler(device)
        compiled.compile_training(model, device.type == "cuda")
    optim = OptimConfig(chosen.train.learning_rate, warmup_steps=WARM_UP)
    processes, size = Processes(micro_batches=micro_batches), chosen.train.batch_size
    processes.refuse(size, size)
    parts: DataParallel[Batch] = DataParallel(processes, model, targets_of, Batch.split)
    trainee = Trainee(
        model=model,
        optimizer=make_adamw(model, optim),
        loss=model.loss,
        batch=batches,
        learning_rate=cosine_schedule(optim, WARM_UP + steps),
        after_step=lambda: model.update_router_bias(chosen.model.balance_rate),
        parallel=parts if micro_batches > 1 else None,
    )
    losses, times = [], [time.perf_counter()]
    for result in loop(trainee, steps=WARM_UP + steps, seed=chosen.seed, device=device):
        losses.append(result.loss)
        times.append(time.perf_counter())  # the loop has read the loss: the device is done
    return losses, times[-1] - times[WARM_UP], times[WARM_UP] - times[0]


def targets_of(batch: Batch) -> torch.Tensor:
    """How many targets the loss of a batch is the mean of."""
    return (batch.target > 0).sum()


class Ready:
    """The first batches over and over, whose encoder input the model has already.

    What the pathways made of each part of them is kept; gradients go as far as there.
    """

    def __init__(
        self, model: OneRec, batches: Callable[[int], Batch], parts: int, kept: int = 2
    ) -> None:
        self.batches = [batches(step) for step in range(kept)]
        self.parts = [part for batch in self.batches for part in batch.split(parts)]
        self.made = {}
        for part in self.parts:
            with autocast(part.target.device):
                x, where = model.embed(part)
            if model.config.residual == "bfloat16" and x.is_cuda:
                x = x.bfloat16()
            self.made[part.target.data_ptr()] = x.detach(), where
        model.embed = self.embed  # type: ignore[method-assign]

    def __call__(self, step: int) -> Batch:
        return self.batches[step % len(self.batches)]

    def embed(self, batch: Batch) -> tuple[torch.Tensor, Packing]:
        """As `OneRec.embed`, of a part that is known."""
        x, where = self.made[batch.target.data_ptr()]
        return x.detach().requires_grad_(), where


def graphs() -> dict[str, int]:
    """What torch.compile has made in this process: graphs, and places where one was broken off."""
    from torch._dynamo.utils import counters

    return {
        "graphs": int(counters["stats"]["unique_graphs"]),
        "breaks": sum(counters["graph_break"].values()),
    }


class Counted:
    """The batches, how many events, clusters and targets a context of each has, and the wait.

    `waited` are the seconds until each was there; of one that is cut on a GPU, until it was asked
    of it.
    """

    def __init__(self, batches: Callable[[int], Batch]) -> None:
        self.batches = batches
        self.counts: list[torch.Tensor] = []
        self.waited: list[float] = []

    def __call__(self, step: int) -> Batch:
        begun = time.perf_counter()
        batch = self.batches(step)
        self.waited.append(time.perf_counter() - begun)
        found = counts(batch)
        self.counts.append(torch.stack([found[name] for name in COUNTED]) / batch.size)
        return batch

    def means(self, first: int) -> list[float]:
        """`COUNTED` of a context, from batch `first` on."""
        means: list[float] = torch.stack(self.counts[first:]).mean(0).tolist()
        return means


def peak_memory(device: torch.device) -> int:
    """Bytes: of tensors on a GPU, of the process on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@told_in_a_line
def main(argv: Sequence[str] | None = None) -> int:
    """The command line; prints one JSON object with --json, else a line."""
    parser = argparse.ArgumentParser(description="training speed and utilisation of a recipe")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--recipe", default="small", help="tiny, small, beauty, ...")
    parser.add_argument("--steps", type=int, default=30, help="that are timed")
    parser.add_argument("--stream", action="store_true", help="read the log from shards")
    parser.add_argument("--items", type=int, default=WORLD.n_items, help="of the world")
    parser.add_argument("--users", type=int, default=WORLD.n_users, help="of the world")
    parser.add_argument("--history", type=float, default=WORLD.mean_history, help="events a user")
    parser.add_argument("--set", nargs="*", action="extend", default=[], help="KEY=VALUE")
    parser.add_argument("--micro-batches", type=int, default=1, help="parts of a step's batch")
    parser.add_argument("--ready", action="store_true", help="leave the pathways out")
    parser.add_argument("--compile", action="store_true", help="as train.compile=true")
    parser.add_argument("--out", type=Path, help="also write it to this file")
    chosen = parser.parse_args(argv)
    refuse_below_one(chosen, ("steps", "items", "users", "micro_batches"))
    changes = parse_overrides(chosen.set)
    changes |= {"train.compile": "true"} if chosen.compile else {}
    world = WorldConfig(n_items=chosen.items, n_users=chosen.users, mean_history=chosen.history)
    result = run(
        words=sys.argv[1:] if argv is None else argv,
        name=chosen.recipe,
        steps=chosen.steps,
        changes=changes,
        out=chosen.out,
        world=world,
        stream=chosen.stream,
        micro_batches=chosen.micro_batches,
        ready=chosen.ready,
    )
    if chosen.json:
        print(as_json(result))
        return 0
    print(
        f"{result['recipe']} on {result['device']}: {result['samples_per_second']} samples a "
        f"second, {result['flops_per_second'] / 1e9:.1f} GFLOP/s, MFU {result['mfu']}"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
