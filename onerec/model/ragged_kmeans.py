"""k-means of many sets at once, each into floor(|D|^(1/3)) clusters: ragged, on any device.

Sets of alike size are multiplied with their centroids in padded tiles; sums are bags in a fixed
order, so a seed gives the same clusters again. Starts are k-means++ drawn as a race: each point
waits -log(u) / (w D^2), w its weight and D its distance to the nearest seed, and the shortest wait
is the next seed. u is a hash of seed, depth, round and the point's item, so that a set's clusters
do not depend on the sets beside it (but for rounding). Then at most `ITERATIONS` of Lloyd; a
cluster that loses all its points stays where it is. All of this is ours.

Shapes: P points, S sets, K clusters of a set, d dimensions, B tiles of T points.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ITERATIONS = 10
TILE = 128  # points of a set that are multiplied with its centroids at once


def cluster_count(size: Tensor) -> Tensor:
    """floor(size^(1/3)), exactly: (S,) int64 -> (S,)."""
    root = size.double().pow(1 / 3).round().long()
    return root - (root**3 > size).long()


class Sets:
    """The sets of one depth, clustered together.

    `x` (P, d) points, set after set; `group` (P,) ascending; `size` (S,) events, descending, so
    that the sets with more than j clusters, and their points, are a prefix.
    """

    def __init__(
        self, x: Tensor, item: Tensor, weight: Tensor, group: Tensor, size: Tensor
    ) -> None:
        self.x, self.item, self.group = x, item, group
        self.weight = weight.to(x.dtype)
        self.points = torch.bincount(group, minlength=len(size))  # (S,)
        self.first = self.points.cumsum(0) - self.points
        self.clusters = cluster_count(size)  # (S,) K

    def cluster(self, seed: int, depth: int) -> Tensor:
        """The cluster of each point in its set: (P,) below K."""
        centroids = self._seeds(seed, depth)  # (S, K, d) as rows
        tiles = self._tiles()
        old: Tensor | None = None
        for _ in range(ITERATIONS):
            label = self._assign(centroids, tiles)
            if old is not None and torch.equal(label, old):
                break
            centroids = self._means(label, centroids)
            old = label
        return label

    def _seeds(self, seed: int, depth: int) -> Tensor:
        """k-means++ by a race: (sum of K, d). A set with fewer different points has a smaller K."""
        most = int(self.clusters[0])
        count = (self.clusters[:, None] > torch.arange(most, device=self.group.device)).sum(0)
        ends = self.points.cumsum(0)[count - 1].tolist()  # how many points those sets have
        chosen: list[Tensor] = []
        none = len(self.x)
        distance = torch.ones(len(self.x), dtype=torch.float64, device=self.x.device)
        for j, (sets, end) in enumerate(zip(count.tolist(), ends, strict=True)):
            group = self.group[:end]
            if j:
                last = chosen[-1][:sets].clamp(max=none - 1)[group]  # a repeated seed does no harm
                to = (self.x[:end] - self.x[last]).square().sum(1).double()
                distance = to if j == 1 else torch.minimum(distance[:end], to)
            wait = -uniform(self.item[:end], seed, depth, j).log() / (self.weight[:end] * distance)
            best = torch.full((sets,), torch.inf, dtype=wait.dtype, device=wait.device)
            best = best.scatter_reduce(0, group, wait, "amin")
            place = torch.arange(end, device=group.device)
            place = torch.where((wait == best[group]) & (wait < torch.inf), place, none)
            seeds = torch.full((sets,), none, device=group.device)
            chosen.append(seeds.scatter_reduce(0, group, place, "amin"))
        columns = [F.pad(each, (0, len(self.points) - len(each)), value=none) for each in chosen]
        grid = torch.stack(columns, dim=1)  # (S, most)
        self.clusters = (grid < none).sum(1)
        return self.x[grid[grid < none]]

    def _tiles(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Points in padded tiles (x (B, T, d), place (B, T) or P for padding, set (B,)).

        Sets of alike size share a batch of tiles, so that less than half of it is padding.
        """
        tile = _power_of_two(self.points).clamp(max=TILE)
        wide = _power_of_two(self.clusters)
        kinds, kind = torch.unique(tile * (1 << 32) + wide, return_inverse=True)
        tiles = []
        for number, code in enumerate(kinds.tolist()):
            sets = (kind == number).nonzero()[:, 0]
            width = code >> 32
            each = (self.points[sets] + width - 1) // width  # tiles of each set
            owner = sets.repeat_interleave(each)
            begin = torch.arange(len(owner), device=owner.device)
            begin = begin - (each.cumsum(0) - each).repeat_interleave(each)
            place = begin[:, None] * width + torch.arange(width, device=owner.device)
            inside = place < self.points[owner][:, None]
            place = place + self.first[owner][:, None]
            place = place.masked_fill(~inside, len(self.x))
            tiles.append((self.x[place.clamp(max=len(self.x) - 1)], place, owner))
        return tiles

    def _assign(self, centroids: Tensor, tiles: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
        """The nearest centroid of its set for each point (P,); equal ones give the lowest."""
        label = self.group.new_zeros(len(self.x) + 1)  # the last takes what padding says
        start = self.clusters.cumsum(0) - self.clusters
        length = centroids.square().sum(1)
        for x, place, owner in tiles:
            number = torch.arange(int(self.clusters[owner].max()), device=owner.device)
            there = number < self.clusters[owner][:, None]  # (B, K)
            rows = (start[owner][:, None] + number).clamp(max=len(centroids) - 1)
            constant = length[rows].masked_fill(~there, torch.inf)[:, None]  # (B, 1, K)
            score = torch.baddbmm(constant, x, centroids[rows].transpose(1, 2), alpha=-2)
            label[place] = score.argmin(-1)  # (B, T)
        return label[:-1]

    def _means(self, label: Tensor, centroids: Tensor) -> Tensor:
        """Weighted means of the clusters; one without points stays where it is."""
        start = self.clusters.cumsum(0) - self.clusters
        row = start[self.group] + label
        return weighted_means(self.x, self.weight, row, centroids)


def weighted_means(x: Tensor, weight: Tensor, row: Tensor, otherwise: Tensor) -> Tensor:
    """Means of x (P, d) by row (P,): (R, d), rows of `otherwise` (R, d) where nothing is.

    A bag per row in the order of the points: unlike index_add on a GPU, the same each time.
    """
    order = torch.argsort(row, stable=True)
    count = torch.bincount(row, minlength=len(otherwise))
    first = count.cumsum(0) - count
    sums = F.embedding_bag(order, x, first, mode="sum", per_sample_weights=weight[order])
    total = segment_sum(weight[order], count)
    means: Tensor = sums / total.clamp(min=1)[:, None]
    return torch.where(count[:, None] > 0, means, otherwise)


def segment_sum(values: Tensor, lengths: Tensor) -> Tensor:
    """Sums (S,) or (S, d) of neighbouring rows, in their order: the same each time on a GPU too."""
    if not len(lengths):
        return values[:0]
    return torch.segment_reduce(values, "sum", lengths=lengths, axis=0, initial=0, unsafe=True)


def _power_of_two(count: Tensor) -> Tensor:
    """The smallest power of two from each count (S,) on."""
    return 2 ** count.double().log2().ceil().long()


# ----------------------------------------------------------------- random by hashing

_GOLDEN, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_WORD = (1 << 64) - 1


def uniform(item: Tensor, seed: int, depth: int, round_: int) -> Tensor:
    """A number in (0, 1) for each item, the same on every device: splitmix64 of all four."""
    key = 0
    for part in (seed, depth, round_):
        key = _mixed(key + _GOLDEN * (part + 1))
    z = item * _signed(_GOLDEN) + _signed(key)
    z = (z ^ _shifted(z, 30)) * _signed(_MIX_1)
    z = (z ^ _shifted(z, 27)) * _signed(_MIX_2)
    z = z ^ _shifted(z, 31)
    return (_shifted(z, 11).double() + 0.5) * 2.0**-53


def _mixed(z: int) -> int:
    z &= _WORD
    z = (z ^ z >> 30) * _MIX_1 & _WORD
    z = (z ^ z >> 27) * _MIX_2 & _WORD
    return z ^ z >> 31


def _signed(word: int) -> int:
    """The 64 bits as torch's signed integer."""
    return word - (1 << 64) if word >> 63 else word


def _shifted(z: Tensor, bits: int) -> Tensor:
    """A logical shift to the right: torch's keeps the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
