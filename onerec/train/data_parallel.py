"""A step's gradients from parts of its batch, in this process and in others.

What the loop hands a batch to in place of its own backward pass; `train.distributed` says who the
processes are. Opens no file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from onerec.common import autocast
from onerec.train.distributed import Processes

BatchT = TypeVar("BatchT")

BUCKET = 1 << 24  # numbers that are summed at once; ours


@dataclass
class DataParallel(Generic[BatchT]):
    """What the loop hands a step's gradients to, where a batch is worked out in parts.

    `weight` says of a batch how many values its loss is the mean of: parts and processes count in
    proportion, so that the result is the mean over the whole batch. `parts` splits a batch into
    that many. Losses that are no means over these values (of routers) are those of each part, in
    the same proportion.
    """

    processes: Processes
    model: nn.Module
    weight: Callable[[BatchT], Tensor]
    parts: Callable[[BatchT, int], Sequence[BatchT]]

    def gradients(
        self,
        loss: Callable[[BatchT], tuple[Tensor, Mapping[str, Tensor]]],
        batch: BatchT,
        device: torch.device,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the whole batch and what is told with it; gradients are left in the model."""
        processes = self.processes
        parts = self.parts(batch, processes.micro_batches)
        weights = torch.stack([self.weight(part).double() for part in parts])
        shares = weights / processes.total(weights.sum())
        # fully_shard takes the mean over processes, where the sum is wanted
        factor = processes.world if processes.sharded else 1
        numbers, names = torch.zeros(1, dtype=torch.float64), list[str]()
        for place, (part, share) in enumerate(zip(parts, shares, strict=True), start=1):
            if processes.sharded:
                root, last = cast(Any, self.model), place == len(parts)
                root.set_requires_gradient_sync(last)
                root.set_reshard_after_backward(last, recurse=False)  # the next part reads it again
            with autocast(device):
                value, values = loss(part)
            (value * (share * factor).to(value.dtype)).backward()
            names = list(values)
            told = torch.stack([v.detach().double() for v in (value, *values.values())])
            numbers = share * told + (numbers if place > 1 else 0.0)
        if processes.control is not None:
            processes.total(numbers)
            if not processes.sharded:
                parameters = [p for p in self.model.parameters() if p.requires_grad]
                in_all(parameters, processes)
                sum_gradients(parameters)
        return numbers[0], dict(zip(names, numbers[1:], strict=True))

    def clip(self, limit: float) -> Tensor:
        """Clip gradients to a global norm of `limit`, also of shards; returns the norm before."""
        parameters = list(self.model.parameters())
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if hasattr(norm, "full_tensor"):
            norm = norm.full_tensor()
        nn.utils.clip_grads_with_norm_(parameters, limit, norm)
        return norm


def in_all(parameters: Sequence[nn.Parameter], processes: Processes) -> None:
    """A gradient of 0 for what another process has a gradient of, and this one has not.

    The lifelong pathway reads nothing where no context of a process has such a history.
    """
    there = torch.tensor([p.grad is not None for p in parameters], dtype=torch.float64)
    for parameter, count in zip(parameters, processes.total(there).tolist(), strict=True):
        if parameter.grad is None and count:
            parameter.grad = torch.zeros_like(parameter)


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Sum gradients over all processes, in flat buffers of at most about `BUCKET` numbers.

    A buffer is on its way while the next one is filled. All processes have gradients in the same
    parameters: see `in_all`.
    """
    buckets: list[list[Tensor]] = []
    size = BUCKET
    for parameter in parameters:
        grad = parameter.grad
        if grad is None:
            continue
        if size + grad.numel() > BUCKET or grad.dtype != buckets[-1][-1].dtype:
            buckets.append([])
            size = 0
        buckets[-1].append(grad)
        size += grad.numel()
    under_way = []
    for bucket in buckets:
        buffer = torch.cat([grad.flatten() for grad in bucket])
        under_way.append((bucket, buffer, dist.all_reduce(buffer, async_op=True)))
    for bucket, buffer, work in under_way:
        work.wait()
        pieces = torch.split(buffer, [grad.numel() for grad in bucket])
        for grad, piece in zip(bucket, pieces, strict=True):
            grad.copy_(piece.view_as(grad))
