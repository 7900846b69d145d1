"""Long histories in few positions: hierarchical k-means, all users at once (V1 section 2.2).

A user's events are split by the content of their items: a set of |D| events into floor(|D|^(1/3))
clusters, each of these again, until a set has at most `limit` events (the paper's M, which it does
not print). The member nearest to a set's mean stands for it. All sets of one depth, of all users of
a chunk, are clustered together; nothing loops over users or clusters.

The paper prints no more, so the rest is ours. An item that a user met w times is one point of
weight w. `ragged_kmeans` says how a set is clustered: from a k-means++ start, with `ITERATIONS` of
Lloyd, and so that a user's clusters depend neither on who else is in the chunk nor on its size (but
for rounding). Items of one vector cannot be split: such a set is one position however large. Left
out: the features of a position, made in `onerec.data`.

Shapes: N events, U users, n items, d dimensions, P points, S sets,
C positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from onerec.model.batch import LENGTH as LENGTH
from onerec.model.ragged_kmeans import Sets, segment_sum, uniform, weighted_means

LIMIT = 192
"""M: the smallest multiple of 32 with which 100,000 events stayed within 2,000 positions on five
mixtures of interests (1,564 to 1,743; 160 gave up to 2,017), and 904 on 1,200 items in all."""
TIE = 64  # roundings within which distances are equal; of equal ones the first point
SMALLEST_LIMIT = 8  # floor(|D|^(1/3)) is 1 below 8 events
CHUNK, GPU_CHUNK = 2**16, 2**20  # events clustered at once, or one user where he has more


@dataclass(frozen=True)
class Clusters:
    """Positions of U users, each user's in the order of their mean time.

    `offsets` (U + 1,): those of user u are offsets[u]:offsets[u + 1]. `representative` (C,) event;
    `size` (C,) events; `members` (sum of sizes,) events, position by position, each oldest first.
    All int64; an event is its place in the arrays that were clustered.
    """

    offsets: Tensor
    representative: Tensor
    size: Tensor
    members: Tensor

    def mean(self, values: Tensor) -> Tensor:
        """The mean of values (N,) over the members of each position: (C,) float64.

        NaN is unknown and left out; NaN where no member is known.
        """
        values = values[self.members].double()
        known = ~values.isnan()
        total = segment_sum(values.nan_to_num(0.0), self.size)
        return total / segment_sum(known.double(), self.size)

    def mode(self, values: Tensor, classes: int) -> Tensor:
        """The most frequent of values (N,) in [0, classes) at each position: (C,).

        0 is unknown and only wins alone; of equally frequent ones the lowest.
        """
        cluster = torch.arange(len(self.size), device=values.device).repeat_interleave(self.size)
        pair, count = torch.unique(cluster * classes + values[self.members], return_counts=True)
        cluster, value = pair // classes, pair % classes
        rank = torch.where(value > 0, count * classes + classes - value, 0)  # distinct but for 0
        best = torch.full_like(self.size, -1).scatter_reduce(0, cluster, rank, "amax")
        return torch.where(best > 0, classes - 1 - (best - 1) % classes, 0)


def compress(
    vectors: Tensor,
    item: Tensor,
    offsets: Tensor,
    *,
    limit: int = LIMIT,
    length: int = LENGTH,
    time: Tensor | None = None,
    seed: int = 0,
    chunk: int | None = None,
) -> Clusters:
    """Cluster the history of every user; on the device of `vectors`.

    Args:
        vectors: (n, d) float32 or float64, the content of each item.
        item: (N,) int64 items, user after user, oldest first.
        offsets: (U + 1,) int64; the events of user u are offsets[u]:offsets[u + 1].
        limit: M, the most events of a position, where vectors differ.
        length: the most positions of a user. Of more, the largest stay (equal ones: the newer);
            the events of the others are in no position.
        time: (N,) of any unit, by whose mean positions are ordered; None: by place.
        seed: of the k-means starts.
        chunk: events at once. Memory is about chunk * (3 d + 64) numbers. None: what suits the
            device.

    Raises:
        ValueError: a limit below 8, a length or chunk below 1, or arrays that do not fit together.
    """
    device = vectors.device
    chunk = (GPU_CHUNK if vectors.is_cuda else CHUNK) if chunk is None else chunk
    _check(vectors, item, offsets, limit, length, chunk)
    item, offsets = item.to(device), offsets.to(device)
    clock = torch.arange(len(item), device=device) if time is None else time.to(device)
    parts = []
    for first, last in _chunks(offsets, chunk):
        rows = slice(int(offsets[first]), int(offsets[last]))
        begin = offsets[first : last + 1] - offsets[first]
        part = _compress(
            vectors, item[rows], begin, clock[rows].double(), limit=limit, length=length, seed=seed
        )
        parts.append((part, rows.start))
    return _joined(parts, device)


def single_events(offsets: Tensor, length: int, by: str) -> Clusters:
    """At most `length` events of each user (U + 1,), each a position of its own (ours).

    What clusters are compared with at equal length. `by` is recent, or random: the same places of
    every history.

    Raises:
        ValueError: `by` is neither, or the length is below 1.
    """
    if by not in ("recent", "random") or length < 1:
        raise ValueError(f"by={by!r} must be recent or random, length={length} at least 1")
    count = offsets.diff()
    user = torch.arange(len(count), device=offsets.device).repeat_interleave(count)
    place = torch.arange(len(user), device=offsets.device) - offsets[user]
    order = _sorted(-place if by == "recent" else uniform(place, 0, 0, 0), user)
    rank = torch.arange(len(user), device=offsets.device) - offsets[user]
    events = order[rank < length].sort().values
    ends = F.pad(count.clamp(max=length).cumsum(0), (1, 0))
    return Clusters(ends, events, torch.ones_like(events), events)


def _check(
    vectors: Tensor, item: Tensor, offsets: Tensor, limit: int, length: int, chunk: int
) -> None:
    if limit < SMALLEST_LIMIT:
        raise ValueError(f"limit={limit}: needs at least {SMALLEST_LIMIT}, below which sets stay")
    if min(length, chunk) < 1:
        raise ValueError(f"length={length} and chunk={chunk}: need at least 1 each")
    if vectors.ndim != 2 or not vectors.is_floating_point():
        raise ValueError(f"vectors {tuple(vectors.shape)} must be (n, d) numbers")
    if int(offsets[-1]) != len(item):
        raise ValueError(f"{len(item)} events, but offsets end at {int(offsets[-1])}")
    if len(item) and not 0 <= int(item.min()) <= int(item.max()) < len(vectors):
        raise ValueError(f"items {int(item.min())} to {int(item.max())}, vectors {len(vectors)}")


def _chunks(offsets: Tensor, chunk: int) -> list[tuple[int, int]]:
    """Neighbouring users with at most `chunk` events together, at least one user each."""
    ends, chunks, first = offsets.cpu(), [], 0
    while first < len(ends) - 1:
        last = int(torch.searchsorted(ends, ends[first] + chunk, right=True)) - 1
        last = max(last, first + 1)
        chunks.append((first, last))
        first = last
    return chunks


def _joined(parts: list[tuple[Clusters, int]], device: torch.device) -> Clusters:
    counts = [part.offsets.diff() for part, _ in parts]
    nothing = [torch.zeros(0, dtype=torch.int64, device=device)]
    count = torch.cat(nothing + counts)
    return Clusters(
        offsets=F.pad(count.cumsum(0), (1, 0)),
        representative=torch.cat(nothing + [part.representative + at for part, at in parts]),
        size=torch.cat(nothing + [part.size for part, _ in parts]),
        members=torch.cat(nothing + [part.members + at for part, at in parts]),
    )


def _compress(
    vectors: Tensor,
    item: Tensor,
    offsets: Tensor,
    time: Tensor,
    *,
    limit: int,
    length: int,
    seed: int,
) -> Clusters:
    """`compress` of one chunk."""
    users = len(offsets) - 1
    if not len(item):
        return Clusters(torch.zeros_like(offsets), item, item, item)
    events = torch.arange(len(item), device=item.device)
    user = torch.arange(users, device=item.device).repeat_interleave(offsets.diff())
    pair, point, weight = torch.unique(
        user * len(vectors) + item, return_inverse=True, return_counts=True
    )
    owner, kind = pair // len(vectors), pair % len(vectors)  # (P,)
    leaf = _leaves(vectors, kind, owner, weight, limit, seed)  # (P,)
    order = torch.argsort(leaf, stable=True)
    near = _nearest_member(vectors, kind[order], weight[order], leaf[order])  # (C,) into `order`
    newest = torch.zeros_like(pair).scatter_reduce(0, point, events, "amax")  # (P,)
    of_leaf = order[near]
    leaf_user, representative = owner[of_leaf], newest[of_leaf]
    size = torch.bincount(leaf[point], minlength=len(near))
    by_leaf = torch.argsort(leaf[point], stable=True)
    mean_time = segment_sum(time[by_leaf], size) / size
    kept = _largest(leaf_user, size, mean_time, length)
    place = kept[_sorted(mean_time[kept], leaf_user[kept])]  # leaves in the order of positions
    rank = torch.full_like(size, len(place)).scatter(
        0, place, torch.arange(len(place), device=item.device)
    )
    members = torch.argsort(rank[leaf[point]], stable=True)[: int(size[place].sum())]
    count = torch.bincount(leaf_user[place], minlength=users)
    return Clusters(F.pad(count.cumsum(0), (1, 0)), representative[place], size[place], members)


def _largest(user: Tensor, size: Tensor, time: Tensor, length: int) -> Tensor:
    """Which leaves (C,) are among the `length` largest of their user; of equal ones the newer."""
    order = _sorted(-time, -size, user)
    first = torch.searchsorted(user[order], user[order])
    rank = torch.arange(len(order), device=user.device) - first
    return order[rank < length].sort().values


def _sorted(*keys: Tensor) -> Tensor:
    """The order by the last key, then the last but one, ...; equal ones keep their order."""
    order = torch.arange(len(keys[0]), device=keys[0].device)
    for key in keys:
        order = order[torch.argsort(key[order], stable=True)]
    return order


# --------------------------------------------------------------------- the recursion


def _leaves(
    vectors: Tensor, item: Tensor, owner: Tensor, weight: Tensor, limit: int, seed: int
) -> Tensor:
    """The final set of each point (P,), numbered without gaps; `owner` (P,) ascending."""
    leaf = torch.zeros_like(owner)
    made, depth = 0, 0
    points = torch.arange(len(owner), device=owner.device)
    group, split = owner, torch.ones_like(owner, dtype=torch.bool)
    while len(points):
        # Sets that are small enough, or that the last k-means left whole, are done.
        _, group = torch.unique(group, return_inverse=True)
        size = torch.bincount(group, weights=weight[points]).long()  # (S,) events, exact
        whole = torch.zeros_like(size).scatter_reduce(0, group, (~split).long(), "amax") > 0
        done = (size <= limit) | whole
        number = torch.where(done, made + done.cumsum(0) - 1, -1)
        made += int(done.sum())
        leaf[points] = number[group]
        # The others, largest first, so that those with more than j clusters stand in front.
        order = torch.argsort(size.masked_fill(done, 0), descending=True, stable=True)
        rank = torch.zeros_like(order).scatter(
            0, order, torch.arange(len(order), device=order.device)
        )
        active = ~done[group]
        points, group = points[active], rank[group[active]]
        ascending = torch.argsort(group, stable=True)
        points, group = points[ascending], group[ascending]
        size = size[order][: int((~done).sum())]
        if not len(points):
            break
        sets = Sets(vectors[item[points]], item[points], weight[points], group, size)
        label = sets.cluster(seed, depth)
        lowest, highest = (
            torch.zeros_like(size).scatter_reduce(0, group, label, which, include_self=False)
            for which in ("amin", "amax")
        )
        split = (lowest < highest)[group]
        group = group * (int(label.max()) + 1) + label
        depth += 1
    return leaf


def _nearest_member(vectors: Tensor, item: Tensor, weight: Tensor, group: Tensor) -> Tensor:
    """For each set the place of the point nearest to its weighted mean; `group` (P,) ascending.

    Of points as near, the first, also where rounding says otherwise: two are as far from their
    middle, and another device rounds in another way.
    """
    x, sets = vectors[item], int(group[-1]) + 1 if len(group) else 0
    means = weighted_means(x, weight.to(x.dtype), group, x.new_zeros(sets, x.shape[1]))
    distance = (x - means[group]).square().sum(1)
    best = distance.new_full((sets,), torch.inf).scatter_reduce(0, group, distance, "amin")
    place = torch.arange(len(group), device=group.device)
    least = best * (1 + TIE * torch.finfo(best.dtype).eps)
    place = torch.where(distance <= least[group], place, len(group))
    return torch.full((sets,), len(group), device=group.device).scatter_reduce(
        0, group, place, "amin"
    )
