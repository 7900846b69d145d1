"""How fast a training is: samples and operations a second and, where the peak is known, MFU.

Of the last `WINDOW` steps, so that the first, slow ones are soon forgotten; what is done between
two steps (evaluation, saving, a pause) takes no part. Operations are those of `onerec.count` at the
mean number of events, clusters and targets of the batches that were trained on, which travel with
the numbers that a step reports anyway: no step waits for the device on their account.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from onerec.cost import mfu
from onerec.count import Counter
from onerec.loop import LossFunction, StepResult
from onerec.model.batch import Batch

WINDOW = 20
_MARK = "counted_"  # of the names under which counts travel with a step's numbers


def counts(batch: Batch) -> dict[str, Tensor]:
    """Events, clusters and targets of a batch that exist: 0-d int64 on its device."""
    long = batch.lifelong
    events = torch.count_nonzero(batch.short.item) + torch.count_nonzero(batch.positive.item)
    return {
        "events": events,
        "clusters": torch.zeros_like(events) if long is None else torch.count_nonzero(long.item),
        "targets": torch.count_nonzero(batch.target),
    }


class Throughput:
    """The rates of a training whose batches and loss pass through here.

        throughput = Throughput(counter)
        trainee = Trainee(..., loss=throughput.loss(loss), batch=throughput.batch(batches))
        for result in loop(trainee, ...):
            throughput.stepped(result)
            log(**throughput.rates())

    Args:
        counter: of the recipe on the dataset that is trained on.
        peak: FLOP/s of the device, see `onerec.cost.peak_rate`; None where it is not known.
    """

    def __init__(self, counter: Counter, peak: float | None = None) -> None:
        self.counter, self.peak = counter, peak
        self._steps: deque[dict[str, float]] = deque(maxlen=WINDOW)
        self._begun, self._size = 0.0, 0

    def batch(self, batches: Callable[[int], Batch]) -> Callable[[int], Batch]:
        """The same batches; the clock of a step starts when its batch is asked for."""

        def timed(step: int) -> Batch:
            self._begun = time.perf_counter()
            batch = batches(step)
            self._size = batch.size
            return batch

        return timed

    def loss(self, function: LossFunction[Batch]) -> LossFunction[Batch]:
        """The same loss; the counts of the batch go with what it tells."""

        def counted(batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
            loss, values = function(batch)
            return loss, {**values, **{_MARK + name: n for name, n in counts(batch).items()}}

        return counted

    def stepped(self, result: StepResult) -> None:
        """A step is done: stop its clock and take the counts out of what it reports."""
        seconds = time.perf_counter() - self._begun
        found = {name: result.values.pop(name) for name in [*result.values] if _MARK in name}
        named = {name.removeprefix(_MARK): value for name, value in found.items()}
        self._steps.append({"seconds": seconds, "contexts": self._size, **named})

    def rates(self) -> dict[str, float]:
        """`samples_per_second`, `flops_per_second` and, with a peak, `mfu`."""
        total = {name: sum(step[name] for step in self._steps) for name in self._steps[0]}
        events, clusters, targets = (
            total[name] / total["contexts"] for name in ("events", "clusters", "targets")
        )
        flops = self.counter.training_flops(events, targets, clusters=clusters)
        rate = total["contexts"] / max(1e-9, total["seconds"])
        used = mfu(flops, rate, self.peak)
        found = {"samples_per_second": rate, "flops_per_second": flops * rate}
        return found if used is None else found | {"mfu": used}
