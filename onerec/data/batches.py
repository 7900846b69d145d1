"""From the log to the model's `Batch`: contexts cut out of the log, on the device, by gathers.

A context is (user, end): the user's log rows before row `end`. Training draws (context, targets),
evaluation and serving give contexts alone. All tables stand on the device once, so a batch costs a
few gathers there and no Python per user. For a log too large for that see `onerec.data.stream`.

Time is given to the model as the gap between an event and the newest event of its context, never
the gap to the target, whose time is not known when a recommendation is made.
"""

import copy
import threading
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from onerec.data.dataset import Dataset, Interactions
from onerec.data.features import (
    GAP_BUCKETS,
    EventFeatures,
    ItemFeatures,
    UserFeatures,
    event_features,
    item_features,
    user_features,
)
from onerec.data.snapshots import Lifelong, Snapshots, gap_bucket
from onerec.data.split import Cases, Split
from onerec.errors import RecipeError
from onerec.model.batch import Batch, Events
from onerec.model.onerec import ItemTable, Vocabulary

Ints = NDArray[np.int64]

POOL = 16  # batches whose examples are sorted by length together; ours
MIXING = 0.3  # of the log, by which a stream of examples is stirred; ours, chosen on the world


@dataclass(frozen=True)
class Features:
    """Everything the model may read of a dataset but the order of events."""

    user: UserFeatures
    item: ItemFeatures
    event: EventFeatures
    timed: bool

    @classmethod
    def of(cls, dataset: Dataset, log: Interactions) -> "Features":
        timed = "timestamp" in log.columns and dataset.info.get("time") == "exact"
        return cls(user_features(dataset), item_features(dataset), event_features(log), timed)

    def vocabulary(self, sizes: tuple[int, ...], n_items: int) -> Vocabulary:
        """Cardinalities for the model; a feature that the data lack has none."""
        return Vocabulary(
            sizes=sizes,
            n_items=n_items,
            user_features=self.user.sizes,
            n_authors=self.item.n_authors,
            n_tags=self.item.n_tags,
            n_time=GAP_BUCKETS if self.timed else 0,
            n_play=self.event.n_play,
            n_duration=self.item.n_durations,
            behaviours=len(self.event.behaviours),
        )

    def item_table(
        self, codes: NDArray[np.int64], content: NDArray[np.float32] | None = None
    ) -> ItemTable:
        """The model's table of items: codes (n, L), features, content (n, d); row 0 is padding."""
        padded = np.concatenate([np.zeros((1, codes.shape[1]), dtype=np.int64), codes])
        return ItemTable(
            codes=torch.from_numpy(padded),
            author=_padded(self.item.author),
            tag=_padded(self.item.tag),
            duration=_padded(self.item.duration),
            content=None if content is None else F.pad(torch.from_numpy(content), (0, 0, 1, 0)),
        )


def _padded(column: Ints) -> Tensor:
    """(n,) -> (n + 1,) with the padding's 0 in front."""
    return torch.from_numpy(np.concatenate([[0], column]))


class Contexts:
    """Builds `Batch`es for (user, end) pairs over one log.

    `short_length` newest events of any kind and `positive_length` newest positives; 0 leaves the
    pathway out. Sequences are left-aligned, oldest first, padding (item 0) behind. With
    `snapshots` batches have a lifelong history too. Batches come out on `device`; the tables stand
    there too, or on the device `tables`, where batches are cut and sent from.
    """

    def __init__(
        self,
        log: Interactions,
        features: Features,
        *,
        short_length: int,
        positive_length: int,
        snapshots: Snapshots | None = None,
        device: torch.device | str = "cpu",
        tables: torch.device | str | None = None,
    ) -> None:
        self.short_length, self.positive_length = short_length, positive_length
        self.timed = features.timed

        def put(array: NDArray[np.generic]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(tables or device)

        self.offsets = put(log.offsets)
        self.item = put(log.item.astype(np.int64) + 1)
        self.play = put(features.event.play)
        self.labels = put(features.event.labels)
        self.static = put(features.user.codes)
        self.time = put(log.columns["timestamp"]) if self.timed else None
        # Row numbers of the positives (and a 0, so that a window past the last one reads something
        # to mask), and for each row how many positives stand before it.
        self.positive_rows = put(np.append(np.flatnonzero(log.positive), 0))
        self.positives_before = put(np.concatenate([[0], np.cumsum(log.positive)]))
        self.tables = self.item.device
        self.device = self.tables if tables is None else torch.device(device)
        self.lifelong = None if snapshots is None else Lifelong(snapshots, self.tables)

    def batch(
        self,
        user: Tensor,
        end: Tensor,
        target: Tensor | None = None,
        longest: int | None = None,
    ) -> Batch:
        """user (B,), end (B,) log rows, target (B, M) item + 1 or None -> Batch on the device.

        A caller that knows that no context has more than `longest` rows saves the padding beyond.
        """
        longest = self.short_length + self.positive_length if longest is None else longest
        short_length = min(self.short_length, longest)
        positive_length = min(self.positive_length, longest)
        user, end = user.to(self.tables), end.to(self.tables)
        start = self.offsets[user]
        newest = None if self.time is None else self.time[(end - 1).clamp(min=0)]  # (B,)
        rows, mask = _last(start, end, short_length)
        first, last = self.positives_before[start], self.positives_before[end]
        picks, picked = _last(first, last, positive_length)
        short = self._events(rows, mask, newest)
        found = self.positive_rows[picks.clamp(max=len(self.positive_rows) - 1)]
        positive = self._events(found, picked, newest)
        if target is None:
            target = torch.zeros(len(user), 1, dtype=torch.int64)
        long = self.lifelong
        batch = Batch(
            static=self.static[user],
            short=short,
            positive=positive,
            target=target.to(self.tables),
            lifelong=None if long is None else long.events(user, end - start, newest),
        )
        return batch if self.tables == self.device else batch.to(self.device)

    def length(self, examples: "Examples") -> Ints:
        """(E,) by which examples are dealt: how many events are read, then how many there are.

        A positive recent event is read twice.
        """
        start = self.offsets.cpu().numpy()[examples.user]
        before = self.positives_before.cpu().numpy()
        events = examples.end - start
        positive = np.minimum(before[examples.end] - before[start], self.positive_length)
        read = np.minimum(events, self.short_length) + positive
        length: Ints = read * (1 + events.max(initial=0)) + events
        return length

    def here(self) -> "Contexts":
        """The same tables, for batches on the device on which they stand."""
        same = copy.copy(self)
        same.device = self.tables
        return same

    def age(self, examples: "Examples") -> NDArray[np.float64]:
        """The place of each example (E,) in time, from 0 for the oldest to 1 for the newest.

        Raises:
            RecipeError: the log has no exact times.
        """
        if self.time is None:
            raise RecipeError("train.order=time needs exact timestamps; use train.order=shuffled")
        time = self.time.cpu().numpy()[examples.end]
        rank = np.empty(len(time))
        rank[np.argsort(time, kind="stable")] = np.linspace(0.0, 1.0, len(time))
        return rank

    def _events(self, rows: Tensor, mask: Tensor, newest: Tensor | None) -> Events:
        """rows (B, T) of the log, mask (B, T) -> Events; what is masked is all zeros."""
        rows = rows.clamp(0, len(self.item) - 1)
        if self.time is not None and newest is not None:
            seconds = (newest[:, None] - self.time[rows]).clamp(min=0) / 1000.0
            gap = gap_bucket(seconds)
        else:
            gap = torch.zeros_like(rows)
        return Events(
            item=self.item[rows] * mask,
            time=gap * mask,
            play=self.play[rows] * mask,
            label=self.labels[rows] * mask[..., None],
        )


def table_bytes(log: Interactions, features: Features, snapshots: Snapshots | None = None) -> int:
    """What the tables of `Contexts` take on their device."""
    arrays = [log.offsets, features.event.play, features.event.labels, features.user.codes]
    if features.timed:
        arrays.append(log.columns["timestamp"])
    tensors = () if snapshots is None else vars(snapshots).values()
    numbers = 2 * len(log) + int(log.positive.sum()) + 2  # item, positives_before, positive_rows
    return 8 * numbers + sum(int(each.nbytes) for each in (*arrays, *tensors))


def _last(start: Tensor, end: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """The last `length` numbers of each range [start, end): (B, length) and which are real."""
    first = torch.maximum(start, end - length)
    rows = first[:, None] + torch.arange(length, device=start.device)
    return rows, rows < end[:, None]


@dataclass(frozen=True)
class Examples:
    """Contexts (E,) as (user, end) and their targets (E, M) as item + 1, 0 for none."""

    user: Ints
    end: Ints
    target: Ints

    def __len__(self) -> int:
        return len(self.user)


def training_examples(
    split: Split, targets: int = 1, allowed: NDArray[np.bool_] | None = None
) -> Examples:
    """Every positive training row with something before it starts an example.

    Its context is all that its user did before; its targets are the `targets` positives from it on,
    inside the training rows: they share the context, as the targets of a session do in the first
    OneRec paper and five exposures do in OneRec-V2. `allowed` (N,) bool leaves out targets.
    """
    chosen = split.log.positive & split.train
    return examples_of(split.log, chosen if allowed is None else chosen & allowed, targets)


def examples_of(log: Interactions, chosen: NDArray[np.bool_], targets: int = 1) -> Examples:
    """An example for each `chosen` (N,) row with something before it; see `training_examples`."""
    rows = np.flatnonzero(chosen)
    user = log.user[rows].astype(np.int64)
    keep = rows > log.offsets[user]
    target = np.zeros((len(rows), targets), dtype=np.int64)
    for m in range(min(targets, len(rows))):
        same = np.zeros(len(rows), dtype=bool)
        same[: len(rows) - m] = user[: len(rows) - m] == user[m:]
        target[same, m] = log.item[rows[m:][same[: len(rows) - m]]].astype(np.int64) + 1
    return Examples(user[keep], rows[keep].astype(np.int64), target[keep])


class EpochSampler:
    """Example numbers of step s, in an order drawn anew each epoch.

    The order is a plain shuffle, or with `age` (n,), the rank of each example in time as a share of
    all, a stream: old examples first, each displaced at random by up to `MIXING` of the log, so
    that a batch still mixes users and days. With `length` (n,) a shuffle again, but the examples of
    every `POOL` batches are dealt out by length, so that a batch holds contexts of about one length
    and little padding; the batches of a pool follow in random order.

    A pure function of (seed, step): a resumed run asks for step s and gets what the uninterrupted
    one got. The last, smaller batch of an epoch is filled from the next epoch's order. `skip`
    examples of the first epoch are passed over, so that a stream can end with the newest.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        seed: int,
        *,
        age: NDArray[np.float64] | None = None,
        length: Ints | None = None,
        skip: int = 0,
    ) -> None:
        self.skip = skip
        self.n, self.batch_size, self.seed = n, min(batch_size, n), seed
        self.age, self.length = age, length
        self._orders: dict[int, Ints] = {}  # of the last two epochs, which threads may ask for
        self._lock = threading.Lock()

    def order(self, epoch: int) -> Ints:
        """The permutation (n,) of an epoch."""
        with self._lock:
            if epoch not in self._orders:
                self._orders = dict([*self._orders.items(), (epoch, self._drawn(epoch))][-2:])
            return self._orders[epoch]

    def _drawn(self, epoch: int) -> Ints:
        rng = np.random.default_rng([self.seed, epoch])
        if self.age is not None:
            return np.argsort(self.age + MIXING * rng.random(self.n), kind="stable")
        order = rng.permutation(self.n)
        if self.length is None:
            return order
        head = -epoch * self.n % self.batch_size
        return by_length(order, self.length, head, self.batch_size, rng)

    def __call__(self, step: int) -> Ints:
        begin = self.skip + step * self.batch_size
        epoch, place = divmod(begin, self.n)
        numbers = self.order(epoch)[place : place + self.batch_size]
        if len(numbers) < self.batch_size:
            rest = self.batch_size - len(numbers)
            numbers = np.concatenate([numbers, self.order(epoch + 1)[:rest]])
        return numbers


def by_length(
    order: Ints, length: Ints, head: int, batch_size: int, rng: np.random.Generator
) -> Ints:
    """A shuffle whose examples of every `POOL` batches are sorted, its batches in random order.

    The first `head` examples fill up a batch that began before.
    """
    pools = [order[:head]]
    for begin in range(head, len(order), POOL * batch_size):
        pool = order[begin : begin + POOL * batch_size]
        pool = pool[np.argsort(length[pool], kind="stable")]
        whole = len(pool) // batch_size * batch_size
        batches = pool[:whole].reshape(-1, batch_size)
        pools += [batches[rng.permutation(len(batches))].ravel(), pool[whole:]]
    return np.concatenate(pools)


class TrainingBatches:
    """step -> Batch: examples drawn by an `EpochSampler`, contexts cut by `Contexts`.

    Each event of a context is hidden with probability `event_dropout` (ours; what dropout on the
    item embeddings is to SASRec). It draws from torch's global stream, which the loop seeds anew at
    each step. Contexts are padded to the longest of their batch, not further. A stream of `steps`
    batches ends with the newest example, wherever it has to begin for that. Of each batch this one
    makes the rows `share[0] :: share[1]`; other processes make the others.
    """

    def __init__(
        self,
        contexts: Contexts,
        examples: Examples,
        batch_size: int,
        seed: int,
        *,
        event_dropout: float = 0.0,
        order: str = "shuffled",
        steps: int = 0,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self.contexts, self.event_dropout = contexts, event_dropout
        self.rows = slice(share[0], None, share[1])
        length = examples.end - contexts.offsets.cpu().numpy()[examples.user]  # (E,) events
        self.sampler = EpochSampler(
            len(examples),
            batch_size,
            seed,
            age=contexts.age(examples) if order == "time" else None,
            length=contexts.length(examples) if order == "length" else None,
            skip=-steps * batch_size % len(examples) if order == "time" else 0,
        )
        self.length = torch.from_numpy(length)
        self.user = torch.from_numpy(examples.user)
        self.end = torch.from_numpy(examples.end)
        self.target = torch.from_numpy(examples.target)

    def __call__(self, step: int) -> Batch:
        numbers = torch.from_numpy(self.sampler(step)[self.rows])
        longest = int(self.length[numbers].max())
        batch = self.contexts.batch(
            self.user[numbers], self.end[numbers], self.target[numbers], longest
        )
        return batch.thinned(self.event_dropout)


def case_batches(
    contexts: Contexts, cases: Cases, size: int
) -> "list[tuple[slice, Tensor, Tensor]]":
    """Evaluation cases in slices of `size`, as (slice, user, end)."""
    return [
        (
            slice(begin, min(begin + size, len(cases.user))),
            torch.from_numpy(cases.user[begin : begin + size]),
            torch.from_numpy(cases.end[begin : begin + size]),
        )
        for begin in range(0, len(cases.user), size)
    ]
