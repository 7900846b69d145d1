"""Batches made ahead of the step that asks for them, by threads, so that a device need not wait.

    with Ahead(batches, device) as ahead:
        batch = ahead(step)

`batches` is a pure function step -> Batch on the CPU, so what is made ahead is what would have been
made then, and asking for another step than the next (a run that goes on) only starts anew from it.
On a GPU a worker puts its batch into pinned memory and starts the copy on a stream of its own; the
consumer's stream waits for that copy, the consumer does not. Threads and no processes: the work is
DuckDB's, numpy's and torch's, which leave Python's lock while they do it, and nothing has to be
pickled or shared. Numbers of workers and batches are ours.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

import torch

from onerec.common import one_core_each
from onerec.model.batch import Batch

WORKERS = 2  # threads that make batches
DEPTH = 8  # batches at most that are made or being made beyond the one in use

Made = tuple[Batch, torch.cuda.Event | None]


class Ahead:
    """step -> Batch on `device`, in the order in which they are asked for.

    Events are hidden at `event_dropout` when a batch is handed over, by torch's global stream as in
    `TrainingBatches`. What a worker raises is raised by the call that asks for its batch.
    """

    def __init__(
        self,
        batches: Callable[[int], Batch],
        device: torch.device | str = "cpu",
        *,
        event_dropout: float = 0.0,
        workers: int = WORKERS,
        depth: int = DEPTH,
    ) -> None:
        self.batches, self.device = batches, torch.device(device)
        self.event_dropout, self.depth = event_dropout, depth
        self._copies: torch.cuda.Stream | None = None
        if self.device.type == "cuda":
            self._copies = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        self._workers = one_core_each(workers)
        self._queue: deque[Future[Made]] = deque()
        self._first = 0  # the step of the queue's first batch

    def __call__(self, step: int) -> Batch:
        if not self._queue or step != self._first:
            self._forget()
            self._first = step
        while len(self._queue) <= self.depth:
            self._queue.append(self._workers.submit(self._make, self._first + len(self._queue)))
        self._first += 1
        batch, copied = self._queue.popleft().result()
        if copied is not None:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(copied)
            batch.mapped(lambda tensor: _used_by(tensor, stream))
        return batch.thinned(self.event_dropout)

    def _make(self, step: int) -> Made:
        batch = self.batches(step)
        if self._copies is None:
            return batch, None
        with torch.cuda.stream(self._copies):  # makes its device this thread's
            pinned = batch.mapped(torch.Tensor.pin_memory)
            there = pinned.mapped(lambda tensor: tensor.to(self.device, non_blocking=True))
            return there, self._copies.record_event()

    def _forget(self) -> None:
        while self._queue:
            self._queue.pop().cancel()

    def close(self) -> None:
        """Stop the threads; a batch that is being made is finished first, and lost."""
        self._forget()
        self._workers.shutdown(cancel_futures=True)

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _used_by(tensor: torch.Tensor, stream: torch.cuda.Stream) -> torch.Tensor:
    """Let the allocator know that a tensor of another stream is read on this one."""
    tensor.record_stream(stream)
    return tensor
