"""Compressed histories as a model reads them: snapshots of each user, taken as his history grew.

Clustering a history anew for each of its targets would cost its square. So it is clustered when it
has `FIRST` events, and again whenever it has grown by a quarter, and a context reads the newest
snapshot that holds nothing but its own past. Events since then, at most a fifth, are for the other
pathways. Which events a snapshot holds depends on their number alone, never on a split or a target,
so a context cannot see what comes after it. All of this is ours.

A position has the item and the label of the event that stands for it, and the mean time, play time
and duration of its events, averaged before they are put into buckets. Its tag is the commonest (the
paper counts tag as continuous; a category has no mean).

Shapes: N events, U users, S snapshots, C positions, K behaviours, n items, B contexts.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from onerec.data.features import (
    GAP_BUCKETS,
    EventFeatures,
    ItemFeatures,
    duration_bucket,
    play_amount,
    play_bucket,
)
from onerec.data.log import Interactions
from onerec.model.batch import ClusteredEvents
from onerec.model.lifelong import Clusters, compress, single_events

Ints = NDArray[np.int64]

FIRST, GROWTH = 16, 1.25


@dataclass(frozen=True)
class Snapshots:
    """All snapshots of U users, in the order of users and of time.

    `offsets` (U + 1,): those of user u are offsets[u]:offsets[u + 1]. `events` (S,): how many of
    his events each holds. `begin` (S + 1,): positions of snapshot s are begin[s]:begin[s + 1]; of
    each position (C,) `item` index + 1, mean `time` in ms, buckets `play` and `duration`, `tag`,
    and `label` (C, K) uint8.
    """

    offsets: Tensor
    events: Tensor
    begin: Tensor
    item: Tensor
    time: Tensor
    play: Tensor
    tag: Tensor
    duration: Tensor
    label: Tensor

    @classmethod
    def joined(cls, parts: list[Snapshots]) -> Snapshots:
        """The snapshots of the users of all parts, one part after the other."""
        columns = {
            field.name: torch.cat([getattr(part, field.name) for part in parts])
            for field in fields(cls)
            if field.name not in ("offsets", "begin")
        }
        for name in ("offsets", "begin"):
            counts = torch.cat([getattr(part, name).diff() for part in parts])
            columns[name] = F.pad(counts.cumsum(0), (1, 0))
        return cls(**columns)

    def of_users(self, users: slice) -> Snapshots:
        """The snapshots of neighbouring users, of whom the first becomes user 0."""
        offsets = self.offsets[users.start : users.stop + 1]
        begin = self.begin[int(offsets[0]) : int(offsets[-1]) + 1]
        positions = slice(int(begin[0]), int(begin[-1]))
        columns = {
            field.name: getattr(self, field.name)[positions]
            for field in fields(Snapshots)
            if field.name not in ("offsets", "events", "begin")
        }
        return Snapshots(
            offsets=offsets - offsets[0],
            events=self.events[int(offsets[0]) : int(offsets[-1])],
            begin=begin - begin[0],
            **columns,
        )


def snapshot_sizes(longest: int) -> Ints:
    """At how many events a history is clustered, up to `longest`."""
    sizes = [FIRST]
    while sizes[-1] <= longest:
        sizes.append(int(np.ceil(sizes[-1] * GROWTH)))
    return np.array(sizes[:-1], dtype=np.int64)


def snapshot_events(offsets: Ints) -> Ints:
    """How many events are clustered for each user (U,), over all of his snapshots."""
    length = np.diff(offsets)
    sizes = snapshot_sizes(int(length.max(initial=0)))
    total = np.concatenate([[0], np.cumsum(sizes)])
    return np.asarray(total[np.searchsorted(sizes, length, side="right")])


def make_snapshots(
    log: Interactions,
    items: ItemFeatures,
    events: EventFeatures,
    seconds: NDArray[np.float64],
    vectors: Tensor,
    users: slice,
    *,
    limit: int,
    length: int,
    by: str = "clusters",
) -> Snapshots:
    """The snapshots of some of a log's users.

    Args:
        seconds: (n,) durations of items, NaN unknown.
        vectors: (n, d) content of items; the clustering is done on their device.
        limit, length: see `onerec.model.lifelong.compress`.
        by: clusters, or the `recent` or `random` events that they are compared with.
    """
    offsets = log.offsets[users.start : users.stop + 1]
    sizes = snapshot_sizes(int(np.diff(offsets).max(initial=0)))
    count = np.searchsorted(sizes, np.diff(offsets), side="right")  # (U,) snapshots
    first = np.cumsum(count) - count
    held = sizes[np.arange(count.sum()) - np.repeat(first, count)]  # (S,) events
    start = np.cumsum(held) - held
    rows = np.repeat(np.repeat(offsets[:-1], count) - start, held) + np.arange(held.sum())
    item = log.item[rows].astype(np.int64)
    time = log.columns["timestamp"][rows].astype(np.float64) if "timestamp" in log.columns else None
    device = vectors.device
    ends = torch.from_numpy(np.concatenate([[0], np.cumsum(held)]))
    if by != "clusters":
        clusters = single_events(ends.to(device), length, by)
    else:
        clusters = compress(
            vectors,
            torch.from_numpy(item),
            ends,
            limit=limit,
            length=length,
            time=None if time is None else torch.from_numpy(time),
        )

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(clusters.mean(torch.from_numpy(values).to(device)).cpu().numpy())

    chosen = clusters.representative.cpu().numpy()
    play = play_bucket(log, mean(play_amount(log)[rows]))
    return Snapshots(
        offsets=torch.from_numpy(np.concatenate([[0], np.cumsum(count)])),
        events=torch.from_numpy(held),
        begin=clusters.offsets.cpu(),
        item=torch.from_numpy(item[chosen] + 1),
        time=torch.from_numpy(mean(time if time is not None else np.zeros(len(rows)))),
        play=torch.from_numpy(play),
        tag=_commonest(clusters, items, item),
        duration=torch.from_numpy(duration_bucket(mean(seconds[item]))),
        label=torch.from_numpy(events.labels[rows[chosen]].astype(np.uint8)),
    )


def gap_bucket(seconds: Tensor) -> Tensor:
    """The bucket of the time between an event and the newest of its context, from 1."""
    return 1 + torch.log2(1 + seconds).long().clamp(max=GAP_BUCKETS - 1)


def _commonest(clusters: Clusters, items: ItemFeatures, item: Ints) -> Tensor:
    tag = torch.from_numpy(items.tag[item]).to(clusters.members.device)
    return clusters.mode(tag, items.n_tags + 1).cpu()


class Lifelong:
    """The lifelong side of batches, its tables on `device`."""

    def __init__(self, snapshots: Snapshots, device: torch.device) -> None:
        self.table = Snapshots(**{name: t.to(device) for name, t in vars(snapshots).items()})
        self.begin = F.pad(self.table.begin, (0, 1))  # something to read where there is nothing
        users = torch.arange(len(snapshots.offsets) - 1)
        owner = users.repeat_interleave(snapshots.offsets.diff())
        self.stride = int(snapshots.events.max()) + 1 if len(owner) else 1
        self.key = (owner * self.stride + snapshots.events).to(device)  # (S,) ascending

    def events(self, user: Tensor, held: Tensor, newest: Tensor | None) -> ClusteredEvents:
        """What contexts of users (B,) read who have done `held` (B,) events.

        The newest snapshot with at most that many events; nothing where there is none. Gaps count
        from `newest` (B,) ms; None leaves them unknown.
        """
        table, key = self.table, user * self.stride + held.clamp(max=self.stride - 1)
        snapshot = torch.searchsorted(self.key, key, right=True) - 1
        exists = snapshot >= table.offsets[user]
        begin = self.begin[snapshot.clamp(min=0)]
        count = torch.where(exists, self.begin[snapshot.clamp(min=0) + 1] - begin, 0)
        place = torch.arange(int(count.max()) if len(count) else 0, device=count.device)
        mask = place < count[:, None]  # (B, T)
        rows = (begin[:, None] + place).clamp(max=max(0, len(table.item) - 1))
        if newest is None:
            gap = torch.zeros_like(rows)
        else:
            gap = gap_bucket((newest[:, None] - table.time[rows]).clamp(min=0) / 1000.0)
        return ClusteredEvents(
            item=table.item[rows],
            time=gap,
            play=table.play[rows],
            label=table.label[rows].float(),
            tag=table.tag[rows],
            duration=table.duration[rows],
        ).kept(mask)
