"""Training batches from shards on disk: for logs whose tables would fill the device.

Which to choose: `TrainingBatches` keeps the whole log on the device, 40 to 60 bytes an event, and
cuts a batch there by gathers, which costs a GPU next to nothing while it fits. `ShardBatches` keeps
at most `KEPT` pools of shards in the CPU's memory, about 100 bytes a row, and cuts batches there.
What it spares is the device's memory: a run's evaluation and routing record read histories from the
log's tables, which stay on the CPU. `onerec.data.ahead` makes batches before they are asked for and
sends them over. The device then waits only where a step takes less than a batch takes a core to
cut, divided by the workers: for small models on fast cards. `onerec.bench.train` says by
`data_wait` whether it does.

In an epoch the shards come in an order drawn anew, `POOLED` at a time, and the examples of such a
pool are shuffled together. That is less than a shuffle of all, since the users of a pool are seen
near one another, and more than the shards one by one. Batches run over the ends of pools and
epochs. Where a step's examples stand follows from the shards' counts, so that no earlier shard is
read for it. A log of a single pool gives the very batches that `TrainingBatches` gives. All of this
is ours.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onerec.common import one_core_each
from onerec.data.batches import Contexts, Features, by_length, examples_of
from onerec.data.log_shards import LogShards
from onerec.data.snapshots import Snapshots
from onerec.errors import DataError
from onerec.model.batch import Batch

Ints = NDArray[np.int64]
Place = tuple[int, int]  # epoch, pool

POOLED = 4  # shards that are shuffled together
KEPT = 3  # pools in memory: the one before, the one in use and the next


@dataclass(frozen=True)
class Pool:
    """The examples of some shards: `order` (E,) is how they come, `length` (E,) their events."""

    contexts: Contexts
    user: Tensor
    end: Tensor
    target: Tensor
    length: Ints
    order: Ints

    def batch(self, numbers: Ints, longest: int) -> Batch:
        """The examples `numbers` (B,), padded to at most `longest` events."""
        chosen = torch.from_numpy(numbers)
        user, end, target = self.user[chosen], self.end[chosen], self.target[chosen]
        return self.contexts.batch(user, end, target, longest)


class ShardBatches:
    """step -> Batch on the CPU, a pure function of (seed, step); threads may call it at once.

    Each example comes once in an epoch; the last, smaller batch of an epoch is filled from the
    next. With `deal_by_length` a batch holds contexts of about one length, see `EpochSampler`. Of
    each batch this one makes the rows `share[0] :: share[1]`. The pool after the one in use is read
    in a thread of its own.

    Args:
        features: of the log that the shards are of; of its events only what they are is read.
        targets, short_length, positive_length, snapshots: see `training_examples` and `Contexts`.
    """

    def __init__(
        self,
        shards: LogShards,
        features: Features,
        batch_size: int,
        seed: int,
        *,
        targets: int = 1,
        short_length: int,
        positive_length: int,
        snapshots: Snapshots | None = None,
        deal_by_length: bool = False,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self.shards, self.features, self.snapshots = shards, features, snapshots
        self.targets, self.lengths = targets, (short_length, positive_length)
        self.deal_by_length, self.share, self.seed = deal_by_length, share, seed
        examples = np.array([shard.examples for shard in shards.shards], dtype=np.int64)
        self.numbers = np.flatnonzero(examples)  # of the shards that have any
        self.examples = examples[self.numbers]
        self.n = int(examples.sum())
        self.batch_size = min(batch_size, self.n)
        self._pools: dict[Place, Future[Pool]] = {}
        self._lock = threading.Lock()
        self._reader = one_core_each(1)

    def __len__(self) -> int:
        return self.n

    def __call__(self, step: int) -> Batch:
        rank, world = self.share
        parts, done = [], 0
        for place, first, count in self.pieces(step):
            pool = self._pool(place)
            parts.append((pool, pool.order[first : first + count][(rank - done) % world :: world]))
            done += count
        parts = [(pool, numbers) for pool, numbers in parts if len(numbers)]
        longest = max(int(pool.length[numbers].max()) for pool, numbers in parts)
        return Batch.joined([pool.batch(numbers, longest) for pool, numbers in parts])

    def close(self) -> None:
        """Stop reading ahead."""
        self._reader.shutdown(cancel_futures=True)

    def pieces(self, step: int) -> Iterator[tuple[Place, int, int]]:
        """Where the examples of a step stand: pool, first place in its order, how many."""
        begin, left = step * self.batch_size, self.batch_size
        while left:
            epoch, place = divmod(begin, self.n)
            starts = self._starts(epoch)
            pool = int(np.searchsorted(starts, place, side="right")) - 1
            count = min(left, int(starts[pool + 1]) - place)
            yield (epoch, pool), place - int(starts[pool]), count
            begin, left = begin + count, left - count

    def _order(self, epoch: int) -> Ints:
        """The shards of an epoch, as places in `numbers`; each `POOLED` are a pool."""
        rng = np.random.default_rng([self.seed, epoch, 0, 1])  # no pool's
        return rng.permutation(len(self.numbers))

    def _starts(self, epoch: int) -> Ints:
        """(P + 1,) Where in the epoch the examples of each pool begin."""
        order = self._order(epoch)
        sums = np.add.reduceat(self.examples[order], np.arange(0, len(order), POOLED))
        return np.concatenate([[0], np.cumsum(sums)])

    def _pool(self, place: Place) -> Pool:
        epoch, number = place
        last = (number + 1) * POOLED >= len(self.numbers)
        after = (epoch + 1, 0) if last else (epoch, number + 1)
        with self._lock:
            for wanted in (place, after):  # what was wanted last stands last
                found = self._pools.pop(wanted, None)
                self._pools[wanted] = found or self._reader.submit(self._read, *wanted)
            future = self._pools[place]
            while len(self._pools) > KEPT:
                del self._pools[next(iter(self._pools))]
        return future.result()

    def _read(self, epoch: int, number: int) -> Pool:
        places = np.sort(self._order(epoch)[number * POOLED : (number + 1) * POOLED])
        chosen = [int(shard) for shard in self.numbers[places]]
        log, features = self.shards.read(chosen, self.features)
        examples = examples_of(log, log.positive, self.targets)
        if len(examples) != self.examples[places].sum():
            raise DataError(
                f"{self.shards.folder}: shards {chosen} hold {len(examples)} examples where "
                f"{int(self.examples[places].sum())} are expected; delete the folder and start "
                "the same command again"
            )
        contexts = Contexts(
            log,
            features,
            short_length=self.lengths[0],
            positive_length=self.lengths[1],
            snapshots=self._snapshots(chosen),
        )
        length = examples.end - log.offsets[examples.user]
        rng = np.random.default_rng([self.seed, epoch, number])  # pool 0 has that of EpochSampler
        order = rng.permutation(len(examples))
        if self.deal_by_length:
            start = epoch * self.n + int(self._starts(epoch)[number])
            dealt = contexts.length(examples)
            order = by_length(order, dealt, -start % self.batch_size, self.batch_size, rng)
        user, end, target = (
            torch.from_numpy(column) for column in (examples.user, examples.end, examples.target)
        )
        return Pool(contexts, user, end, target, length, order)

    def _snapshots(self, chosen: list[int]) -> Snapshots | None:
        if self.snapshots is None:
            return None
        ranges = ((self.shards.shards[n].first, self.shards.shards[n].last) for n in chosen)
        return Snapshots.joined([self.snapshots.of_users(slice(*each)) for each in ranges])
