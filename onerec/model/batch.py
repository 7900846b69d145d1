"""What a model is handed: events of users, and contexts with their targets.

Shapes: B users or contexts, T events, M targets, F static features, K behaviours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

LENGTH = 2_000  # clusters of a user at most: L_l of the paper
FEWEST = 16  # events that a roomy grid has room for (ours)


def power_of_two(count: int) -> int:
    """The next one from a number on; 0 of 0."""
    return 1 << (count - 1).bit_length() if count else 0


@dataclass
class Events:
    """Events of B users, padded on either side; padding is item 0.

    `item` (B, T) int64 item index + 1; `time` (B, T) int64 bucket of the gap, 0 unknown;
    `play` (B, T) int64 bucket, 0 unknown; `label` (B, T, K) float, 1 where the user did it.
    """

    item: Tensor
    time: Tensor
    play: Tensor
    label: Tensor

    @property
    def own(self) -> tuple[str, ...]:
        """Columns that are rows of a table and say something of the event, not of its item."""
        return ("time", "play")

    def rows(self, rows: slice) -> Self:
        """Some of the users, as views."""
        return self.mapped(lambda column: column[rows])

    def picked(self, places: Tensor) -> Self:
        """The events at flat places (P,) of the grid (B, T): every column is (P, ...)."""
        return self.mapped(lambda column: column.flatten(0, 1).index_select(0, places))

    def kept(self, mask: Tensor) -> Self:
        """What mask (B, T) hides is padding."""
        return self.mapped(lambda c: c * mask.view(*mask.shape, *(1,) * (c.ndim - 2)))

    def thinned(self, share: float) -> Self:
        """The events, of which that share is hidden at random by torch's global stream."""
        return self.kept(torch.rand(self.item.shape, device=self.item.device) >= share)

    def padded(self, length: int) -> Self:
        """The events with padding behind, up to that length; as they are where they are longer."""
        more = length - self.item.shape[1]
        if more <= 0:
            return self
        return self.mapped(lambda c: F.pad(c, (0, 0) * (c.ndim - 2) + (0, more)))

    def roomy(self, most: int) -> Self:
        """Padded to a power of two from `FEWEST` on, but not beyond `most`."""
        count = self.item.shape[1]
        room = max(FEWEST, power_of_two(count))
        return self.padded(most if count <= most < room else room)

    def to(self, device: torch.device | str) -> Self:
        return self.mapped(lambda tensor: tensor.to(device))

    def mapped(self, function: Callable[[Tensor], Tensor]) -> Self:
        """The events with every column as `function` returns it."""
        return type(self)(*(function(getattr(self, name)) for name in self.__dataclass_fields__))

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The users of all parts, padded behind to the longest."""
        longest = max(part.item.shape[1] for part in parts)
        parts = [part.padded(longest) for part in parts]
        return cls(
            *(torch.cat([getattr(p, name) for p in parts]) for name in cls.__dataclass_fields__)
        )


@dataclass
class ClusteredEvents(Events):
    """Clusters of events, in the places of events: the lifelong history.

    `item` and `label` are those of the event that stands for the cluster, `time` and `play` buckets
    of the means over its events. `tag` and `duration` (B, T) int64 are the cluster's own, 0
    unknown, and take the place of the item's.
    """

    tag: Tensor
    duration: Tensor

    @property
    def own(self) -> tuple[str, ...]:
        return ("time", "play", "tag", "duration")


@dataclass
class Batch:
    """Contexts and their targets.

    `static` (B, F) int64, 0 unknown; `target` (B, M) int64 item index + 1, 0 for none. The M
    targets of a row are independent of one another and share its context.
    """

    static: Tensor
    short: Events
    positive: Events
    target: Tensor
    lifelong: ClusteredEvents | None = None

    @property
    def size(self) -> int:
        """B, the number of contexts."""
        return len(self.target)

    def rows(self, rows: slice) -> Batch:
        """Some of the contexts, as views."""
        return self.mapped(lambda tensor: tensor[rows])

    def split(self, parts: int) -> list[Batch]:
        """The contexts in so many neighbouring parts, as even as can be, as views."""
        ends = [self.size * part // parts for part in range(parts + 1)]
        return [self.rows(slice(a, b)) for a, b in pairwise(ends)]

    def thinned(self, share: float) -> Batch:
        """The contexts with that share of their events hidden, see `Events.thinned`."""
        if not share:
            return self
        return replace(
            self,
            short=self.short.thinned(share),
            positive=self.positive.thinned(share),
            lifelong=None if self.lifelong is None else self.lifelong.thinned(share),
        )

    def of_few_shapes(self, short: int, positive: int) -> Batch:
        """The same contexts in grids of few sizes: code is made for each size anew.

        A model reads `short` and `positive` events, and `LENGTH` clusters; see `Events.roomy`.
        """
        return replace(
            self,
            short=self.short.roomy(short),
            positive=self.positive.roomy(positive),
            lifelong=None if self.lifelong is None else self.lifelong.roomy(LENGTH),
        )

    def to(self, device: torch.device | str) -> Batch:
        return self.mapped(lambda tensor: tensor.to(device))

    def mapped(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with every tensor as `function` returns it."""
        return Batch(
            static=function(self.static),
            short=self.short.mapped(function),
            positive=self.positive.mapped(function),
            target=function(self.target),
            lifelong=None if self.lifelong is None else self.lifelong.mapped(function),
        )

    @classmethod
    def joined(cls, parts: Sequence[Batch]) -> Batch:
        """The contexts of all parts, which have the same pathways."""
        if len(parts) == 1:
            return parts[0]
        long = [part.lifelong for part in parts if part.lifelong is not None]
        return cls(
            static=torch.cat([part.static for part in parts]),
            short=Events.joined([part.short for part in parts]),
            positive=Events.joined([part.positive for part in parts]),
            target=torch.cat([part.target for part in parts]),
            lifelong=ClusteredEvents.joined(long) if long else None,
        )
