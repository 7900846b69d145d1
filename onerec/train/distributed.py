"""Data-parallel training by the processes that torchrun started, and by parts of a batch.

Each process works out its rows of the batch of a step; gradients, losses and the experts' loads are
summed over all, so that every process makes the same step. Two ways:

    ddp     every process has the whole model; gradients are summed after the backward pass in flat
            buffers. By hand and not by DistributedDataParallel: that needs a `forward` and the same
            parameters in every step, while losses here are methods and competing routers come and
            go. What it costs is the overlap with the backward pass.
    fsdp    torch's fully_shard (FSDP2): each process keeps a part of every parameter, gradient and
            moment, and blocks are put together when they are needed.

The first process leads: it alone writes, evaluates and prints, and says what comes next with one
word over a gloo group of its own, in which the others may wait for as long as it takes. Opens no
file. Left out: tensor, expert and pipeline parallelism, overlap of ddp's sums.
"""

from __future__ import annotations

import contextlib
import copy
import datetime
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from onerec.errors import OneRecError, RecipeError, RunError
from onerec.model.layers import DecoderBlock
from onerec.model.onerec import OneRec
from onerec.train.compiled import as_a_whole, compile_training

Word = Literal["join", "go", "stop", "end", "failed"]

WORDS: tuple[Word, ...] = ("join", "go", "stop", "end", "failed")
MODES = ("ddp", "fsdp")
PATIENCE = datetime.timedelta(days=7)  # others wait while the first one evaluates or tokenizes
GRACE = datetime.timedelta(seconds=10)  # for the first one to say what went wrong in all
LINGER_SECONDS = 0.5
_FAILED = "onerec/failed"
SEED_STEP = 15_485_863  # a prime between the seeds of two processes; ours


@dataclass
class Processes:
    """Who takes part in a training; `Processes()` is one process alone.

    `rank` of `world` in all, `local` of `local_world` on this machine. `sharded` is fsdp.
    `micro_batches`: parts into which a process splits its rows.
    """

    rank: int = 0
    world: int = 1
    local: int = 0
    local_world: int = 1
    sharded: bool = False
    micro_batches: int = 1
    _control: dist.ProcessGroup | None = field(default=None, repr=False)
    _store: Any = field(default=None, repr=False)

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes, evaluates and prints."""
        return self.rank == 0

    @property
    def control(self) -> dist.ProcessGroup | None:
        """The group over which words go: gloo, on the CPU. None for a process alone."""
        return self._control

    @property
    def alone(self) -> bool:
        """Whether nothing is shared: no other process, no shards and one part."""
        return self.world == 1 and not self.sharded and self.micro_batches == 1

    def seed(self, seed: int) -> int:
        """The seed of this process's dropout; the first one's is that of a process alone."""
        return seed + SEED_STEP * self.rank

    def refuse(self, batch_size: int, examples: int) -> None:
        """Say what cannot be shared out.

        Raises:
            RecipeError: the processes do not divide the batch, or there are more parts than rows.
        """
        if batch_size % self.world:
            fits = max(n for n in range(1, self.world) if batch_size % n == 0)
            raise RecipeError(
                f"{self.world} processes do not divide train.batch_size={batch_size}; start "
                f"{fits}, or set train.batch_size={self.world * (batch_size // self.world + 1)}"
            )
        rows = min(batch_size, examples) // self.world
        if rows < self.micro_batches:
            raise RecipeError(
                f"--micro-batches {self.micro_batches}: each of {self.world} processes has {rows} "
                "rows of a batch; use fewer parts or fewer processes"
            )

    def device(self, device: torch.device) -> torch.device:
        """This process's device, where `device` is what the recipe says.

        Raises:
            RecipeError: one GPU is named for several processes, or there are too few.
        """
        if device.type != "cuda" or self.control is None:
            return device
        if device.index is not None and self.local_world > 1:
            raise RecipeError(
                f"device={device} is one GPU for {self.local_world} processes; "
                "use --set device=cuda"
            )
        if self.local_world > torch.cuda.device_count():
            raise RecipeError(
                f"{self.local_world} processes for {torch.cuda.device_count()} GPUs on this "
                "machine; start as many as there are GPUs, or use --set device=cpu"
            )
        torch.cuda.set_device(self.local)
        return torch.device("cuda", self.local)

    # ---------------------------------------------------------------- words

    def say(self, word: Word) -> None:
        """Tell the others what comes next; nothing unless this process leads others."""
        if self.control is not None and self.leads:
            dist.broadcast(torch.tensor(WORDS.index(word)), 0, group=self.control)

    def hear(self) -> Word:
        """What the first process says; after `end` this one is no longer among them.

        Raises:
            RunError: the first process is gone.
            SystemExit: it failed, and has said why; the code is 2.
        """
        assert self.control is not None
        said = torch.zeros((), dtype=torch.int64)
        try:
            dist.broadcast(said, 0, group=self.control)
        except RuntimeError as error:
            raise RunError(
                "the first process is gone; the same command goes on from the last checkpoint"
            ) from error
        word = WORDS[int(said)]
        if word == "failed":
            self._end()
        if word == "end":
            self._close()
        return word

    def agreed(self, value: Any) -> Any:
        """What the first process has here."""
        if self.control is None:
            return value
        values = [value]
        dist.broadcast_object_list(values, 0, group=self.control)
        return values[0]

    def everywhere(self, true: bool) -> bool:
        """Whether it is true in every process."""
        if self.control is None:
            return true
        flag = torch.tensor(int(true))
        dist.all_reduce(flag, dist.ReduceOp.MIN, group=self.control)
        return bool(flag)

    def leave(self) -> None:
        """The end of what is shared: every process goes on alone from here."""
        if self.control is None:
            return
        if self.leads:
            self.say("end")
            self._close()
        else:
            self.hear()

    def fail(self, error: BaseException) -> None:
        """The same after an error.

        What goes wrong in all processes alike (a loss that is not finite), the first one says: the
        others give it a moment. What goes wrong in one of them alone ends it at once, and torchrun
        ends the rest.

        Raises:
            SystemExit: the first one failed too, and says why; the code is 2.
        """
        if self.control is None:
            return
        try:
            if self.leads:
                if self._store is not None:
                    self._store.set(_FAILED, "1")  # for those who failed, and no longer hear
                self.say("failed")
            elif self._store is not None and isinstance(error, OneRecError):
                self._store.wait([_FAILED], GRACE)
                self._end()
        except RuntimeError:
            pass  # the others are gone, or the first one did not fail
        finally:
            if self.control is not None:
                self._close()

    def _end(self) -> None:
        """Leave after the first one, so that torchrun does not cut off what it says."""
        self._close()
        time.sleep(LINGER_SECONDS)
        raise SystemExit(2)

    def _close(self) -> None:
        self._control = self._store = None
        dist.destroy_process_group()

    # ---------------------------------------------------------------- tensors

    def total(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all processes, in place."""
        if self.control is not None:
            dist.all_reduce(tensor)
        return tensor

    def spread(self, model: OneRec, compiled: bool = False) -> OneRec:
        """What this process trains: `model` itself with the first one's weights, or its shards.

        Under fsdp the first process keeps `model` whole beside its shards, to evaluate it; the
        others' `model` becomes shards. What is trained is `compiled` before it is sharded.
        """
        if self.control is not None:
            for tensor in (*model.parameters(), *model.buffers()):
                if tensor.numel():
                    dist.broadcast(tensor.data, 0)
        trained = model
        if self.sharded and self.leads:
            trained = copy.deepcopy(model, {id(model.items): model.items})
            for whole, part in zip(model.mixtures(), trained.mixtures(), strict=True):
                whole.last_load = part.last_load
        in_one = compiled and as_a_whole(model.begin.device)
        if compiled:
            compile_training(trained, in_one)
        if self.sharded:
            shard(trained, in_one)
        return trained

    def gather(self, trained: OneRec, model: OneRec) -> None:
        """Put shards together in the first process's whole model; nothing without shards."""
        if not self.sharded:
            return
        whole = model.state_dict() if self.leads else {}
        for name, part in trained.state_dict().items():
            full = part.full_tensor() if hasattr(part, "full_tensor") else part
            if self.leads:
                whole[name].copy_(full)

    def sum_loads(self, model: OneRec) -> None:
        """Let every process know what load the experts had in all of them."""
        mixtures = model.mixtures()
        if self.control is None or not mixtures:
            return
        loads = self.total(torch.stack([mixture.load for mixture in mixtures]))
        for mixture, load in zip(mixtures, loads, strict=True):
            mixture.load.copy_(load)


@contextlib.contextmanager
def joined(parallel: str | None = None, micro_batches: int = 1) -> Iterator[Processes]:
    """The processes of this training, as torchrun's environment says; one alone without it.

    `parallel` is ddp (also None) or fsdp. These are no settings of a recipe: a run goes on with
    others. What is wrong is said by the first process alone; the others leave with exit code 2.

    Raises:
        RecipeError: an unknown way, no parts, or fsdp without torchrun.
    """
    processes = _of_environment()
    processes.sharded, processes.micro_batches = parallel == "fsdp", micro_batches
    try:
        if processes.leads:
            _refuse(parallel, micro_batches, processes)
        yield processes
        processes.leave()
    except BaseException as error:
        processes.fail(error)
        raise


def _of_environment() -> Processes:
    """Join the group that RANK, WORLD_SIZE and MASTER_ADDR describe, where they are set."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if "MASTER_ADDR" not in os.environ or any(name not in os.environ for name in names):
        return Processes()
    rank, world, local, local_world = (int(os.environ[name]) for name in names)
    store, _, _ = next(rendezvous("env://"))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world)
    control = dist.new_group(backend="gloo", timeout=PATIENCE)
    return Processes(rank, world, local, local_world, _control=control, _store=store)


def _refuse(parallel: str | None, micro_batches: int, processes: Processes) -> None:
    if parallel is not None and parallel not in MODES:
        raise RecipeError(f"--parallel {parallel}: there are {' and '.join(MODES)}")
    if micro_batches < 1:
        raise RecipeError(f"--micro-batches {micro_batches}: use at least 1")
    if parallel == "fsdp" and processes.control is None:
        raise RecipeError(
            "--parallel fsdp needs torchrun: torchrun --nproc-per-node 2 -m -- onerec pretrain ..."
        )


def shard(model: OneRec, whole: bool = False) -> None:
    """Shard a model's parameters over all processes: blocks one by one, then what is left.

    The products that make a decoder's keys and values are called outside of their block, all in a
    row, and are a unit of their own. A model that is compiled as a `whole` is one unit, as no hook
    can run inside of it: its parameters are gathered once for a pass and its gradients dealt out
    after it, while optimizer states stay in shards.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(model.begin.device.type, (dist.get_world_size(),))
    if not whole:
        early: list[nn.Module] = [
            block.cross.key_value for block in model.decoder if isinstance(block, DecoderBlock)
        ]
        if early:
            fully_shard(early, mesh=mesh)
        for block in (*model.encoder, *model.decoder):
            fully_shard(block, mesh=mesh)
    root = fully_shard(model, mesh=mesh)
    if whole:  # what is compiled is called beside `forward`
        register_fsdp_forward_method(model, "level_losses")
    # a pathway may have nothing to read in the rows of one process
    if hasattr(root, "set_reduce_scatter_unused_params"):
        root.set_reduce_scatter_unused_params(True)
    else:  # torch 2.11
        model.pathways.reads_all = True
