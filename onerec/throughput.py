"""How fast a training is: samples and operations a second and, where the peak is known, MFU.

Of the last `WINDOW` steps, so that the first, slow ones are soon forgotten; what is done between
two steps (evaluation, saving, a pause) takes no part. Operations are those of `onerec.count` at the
mean number of events, clusters and targets of the batches that were trained on. They are counted on
the batch's device and read when the step is done, so that no step waits on their account.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from onerec.cost import mfu
from onerec.count import Counter
from onerec.model.batch import Batch

WINDOW = 20
COUNTED = ("events", "clusters", "histories", "targets")


def counts(batch: Batch) -> dict[str, Tensor]:
    """Events, clusters, contexts with clusters (`histories`) and targets that exist in a batch.

    Each is 0-d int64 on the batch's device.
    """
    long = batch.lifelong
    events = torch.count_nonzero(batch.short.item) + torch.count_nonzero(batch.positive.item)
    none = torch.zeros_like(events)
    return {
        "events": events,
        "clusters": none if long is None else torch.count_nonzero(long.item),
        "histories": none if long is None else torch.count_nonzero(long.item.any(1)),
        "targets": torch.count_nonzero(batch.target),
    }


class Throughput:
    """The rates of a training whose batches pass through here.

        throughput = Throughput(counter)
        trainee = Trainee(..., batch=throughput.batch(batches))
        for result in loop(trainee, ...):
            throughput.stepped()
            log(**throughput.rates())

    Args:
        counter: of the recipe on the dataset that is trained on.
        peak: FLOP/s of the device, see `onerec.cost.peak_rate`; None where it is not known.
        processes: that share a batch. Rates are of all, taken to have contexts like this one's.
    """

    def __init__(self, counter: Counter, peak: float | None = None, processes: int = 1) -> None:
        self.counter, self.peak, self.processes = counter, peak, processes
        self._steps: deque[dict[str, float]] = deque(maxlen=WINDOW)
        self._begun, self._size = 0.0, 0
        self._counts = torch.zeros(len(COUNTED), dtype=torch.int64)

    def batch(self, batches: Callable[[int], Batch]) -> Callable[[int], Batch]:
        """The same batches; the clock of a step starts when its batch is asked for."""

        def timed(step: int) -> Batch:
            self._begun = time.perf_counter()
            batch = batches(step)
            found = counts(batch)
            self._counts = torch.stack([found[name] for name in COUNTED])
            self._size = batch.size
            return batch

        return timed

    def stepped(self) -> None:
        """A step is done: stop its clock."""
        seconds = time.perf_counter() - self._begun
        named = dict(zip(COUNTED, self._counts.tolist(), strict=True))
        self._steps.append({"seconds": seconds, "contexts": self._size, **named})

    def rates(self) -> dict[str, float]:
        """`samples_per_second`, `flops_per_second` and, with a peak, `mfu`."""
        total = {name: sum(step[name] for step in self._steps) for name in self._steps[0]}
        events, clusters, share, targets = (total[name] / total["contexts"] for name in COUNTED)
        flops = self.counter.training_flops(events, targets, clusters=clusters, long_share=share)
        rate = self.processes * total["contexts"] / max(1e-9, total["seconds"])
        used = mfu(flops, rate, None if self.peak is None else self.processes * self.peak)
        found = {"samples_per_second": rate, "flops_per_second": flops * rate}
        return found if used is None else found | {"mfu": used}
