"""The one training loop.

`loop` is a generator: it makes one optimiser step and yields what happened, so that the caller can
log, save, evaluate, pause or stop between two steps without a callback. Pre-training, tokenizer
training and alignment differ only in the batches and the loss that they hand in. Nothing here
touches the disk.

A step's randomness (dropout) is seeded by `seed` and the step's number, and batches are asked for
by number, so a run that resumes at step s does exactly what the uninterrupted run did from s on.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from onerec.common import SEEDS, autocast, generator, spread
from onerec.errors import RunError

BatchT = TypeVar("BatchT")
LossFunction = Callable[[BatchT], tuple[Tensor, Mapping[str, Tensor]]]

NAMED = 5  # rows of a batch, or parameters, that are named at most
_STEP_SEED = 1_000_003  # keeps the streams of neighbouring seeds apart


@dataclass(frozen=True)
class StepResult:
    """What one step did. `seconds` since the loop began; `grad_norm` before clipping."""

    step: int
    loss: float
    values: dict[str, float]
    grad_norm: float
    lr: float
    seconds: float


class Parallel(Protocol[BatchT]):
    """Works a batch out in parts, here or in other processes; see `train.distributed`."""

    def gradients(
        self, loss: LossFunction[BatchT], batch: BatchT, device: torch.device
    ) -> tuple[Tensor, dict[str, Tensor]]: ...

    def clip(self, limit: float) -> Tensor: ...


class EpochRows:
    """`size` of n rows at a step, each once per epoch in an order of its own; all where n is less.

    What is left over at the end of an epoch is left out. The rows (size,) int64 are a pure function
    of (seed, step).
    """

    def __init__(self, n: int, size: int, seed: int) -> None:
        self.n, self.size, self.seed = n, min(size, n), seed
        self._order: tuple[int, Tensor] = (-1, torch.arange(n))

    def __call__(self, step: int) -> Tensor:
        if self.size == self.n:
            return torch.arange(self.n)
        epoch, place = divmod(step, self.n // self.size)
        if epoch != self._order[0]:
            stream = generator(self.seed * _STEP_SEED + epoch)
            self._order = epoch, torch.randperm(self.n, generator=stream)
        return self._order[1][place * self.size : (place + 1) * self.size]


@dataclass
class Trainee(Generic[BatchT]):
    """What a loop trains: parameters, their optimiser, the loss and the batch of a given step.

    `beside` is a second loss of the same batch, added to the first; the two may be worked out in
    threads of their own, so they share nothing that either writes to. `before_step` gets the number
    of the step, from 0. With `parallel` a batch is worked out in parts; not with `beside`. `each`
    gives the losses of the rows of a batch (B,) without gradients, to name those that are not
    finite.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss: LossFunction[BatchT]
    batch: Callable[[int], BatchT]
    learning_rate: Callable[[int], float]
    before_step: Callable[[int], None] | None = None
    after_step: Callable[[], None] | None = None
    beside: LossFunction[BatchT] | None = None
    parallel: Parallel[BatchT] | None = None
    each: Callable[[BatchT], Tensor] | None = None


def loop(
    trainee: Trainee[BatchT],
    *,
    steps: int,
    start: int = 0,
    clip: float = 1.0,
    seed: int = 0,
    device: torch.device | None = None,
    workers: Callable[[], int] = lambda: 1,
) -> Iterator[StepResult]:
    """Train from `start` to `steps`, yielding after each step.

    `clip` bounds the global gradient norm (0: never). Steps are counted from 1 in what is yielded,
    so `result.step == steps` is the last. Where `workers()` is two, a loss and the one `beside`
    it are worked out at once; the result is the same bit for bit.

    Raises:
        RunError: a loss or a gradient norm is not finite. The weights are still those before it.
    """
    device = device or torch.device("cpu")
    begun = time.perf_counter()
    trainee.model.train()
    for step in range(start, steps):
        _seed_step(seed, step)
        lr = trainee.learning_rate(step)
        for group in trainee.optimizer.param_groups:
            group["lr"] = lr
        if trainee.before_step is not None:
            trainee.before_step(step)
        batch = trainee.batch(step)
        loss, values = _gradients(trainee, batch, device, workers())
        norm = _clip(trainee, clip or float("inf"))
        # One transfer for every number of the step: each .item() would stall the GPU on its own.
        numbers = torch.stack(
            [loss.detach().float(), norm.float(), *(v.detach().float() for v in values.values())]
        ).tolist()
        if not all(map(math.isfinite, numbers[:2])):
            raise _non_finite(trainee, batch, step, numbers[0], numbers[1], device, seed)
        trainee.optimizer.step()
        trainee.optimizer.zero_grad(set_to_none=True)
        if trainee.after_step is not None:
            trainee.after_step()
        yield StepResult(
            step=step + 1,
            loss=numbers[0],
            values=dict(zip(values.keys(), numbers[2:], strict=True)),
            grad_norm=numbers[1],
            lr=lr,
            seconds=time.perf_counter() - begun,
        )
        trainee.model.train()  # the caller may have evaluated between two steps


def _seed_step(seed: int, step: int) -> None:
    torch.manual_seed((seed * _STEP_SEED + step) % SEEDS)


def _gradients(
    trainee: Trainee[BatchT], batch: BatchT, device: torch.device, workers: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and what is told with it; gradients are left in the parameters."""
    if trainee.parallel is not None:
        return trainee.parallel.gradients(trainee.loss, batch, device)
    if trainee.beside is None:
        with autocast(device):
            loss, values = trainee.loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach(), dict(values)
    parameters = [p for p in trainee.model.parameters() if p.requires_grad]

    def alone(function: LossFunction[BatchT]) -> tuple[Tensor, Mapping[str, Tensor], Any]:
        with autocast(device):
            loss, values = function(batch)
        if not loss.requires_grad:
            return loss, values, [None] * len(parameters)
        return loss.detach(), values, torch.autograd.grad(loss, parameters, allow_unused=True)

    (loss, values, grads), (other, more, others) = spread(
        alone, (trainee.loss, trainee.beside), workers
    )
    for parameter, one, two in zip(parameters, grads, others, strict=True):
        parameter.grad = one if two is None else two if one is None else one + two
    return loss + other, {**values, **more}


def _clip(trainee: Trainee[BatchT], limit: float) -> Tensor:
    """Clip the gradients; returns their global norm before."""
    if trainee.parallel is not None:
        return trainee.parallel.clip(limit)
    return nn.utils.clip_grad_norm_(trainee.model.parameters(), limit)


def _non_finite(
    trainee: Trainee[BatchT],
    batch: BatchT,
    step: int,
    loss: float,
    norm: float,
    device: torch.device,
    seed: int,
) -> RunError:
    """What a loss or a gradient norm that is no number is told as: with its rows or parameters."""
    name, value = ("gradient norm", norm) if math.isfinite(loss) else ("loss", loss)
    where, mend = "", "with a lower train.learning_rate"
    rows, of = _rows(trainee, batch)
    if rows:
        where = f" (rows {_first(rows)} of {of})"
        mend += ", or without what these rows read"
    elif math.isfinite(loss) and trainee.parallel is None:
        trainee.optimizer.zero_grad(set_to_none=True)
        _seed_step(seed, step)
        _gradients(trainee, batch, device, 1)
        wrong = [
            called
            for called, parameter in trainee.model.named_parameters()
            if parameter.grad is not None and not parameter.grad.isfinite().all()
        ]
        where = f" (of {_first(wrong)})" if wrong else " and finite when worked out again"
    return RunError(
        f"training stopped: the {name} of batch {step} is {value}{where}; weights are "
        f"those of step {step}; start a new run {mend}"
    )


def _rows(trainee: Trainee[BatchT], batch: BatchT) -> tuple[list[int], int]:
    """The rows of a batch whose loss is not finite, and how many rows there are."""
    if trainee.each is None:
        return [], 0
    each = trainee.each(batch)
    return (~each.isfinite()).nonzero()[:, 0].tolist(), len(each)


def _first(names: Sequence[object]) -> str:
    """The first `NAMED`, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(map(str, names[:NAMED])) + more
