"""Lloyd's assignment without most of the distances: lower bounds per group of centroids.

Ding et al. 2015, "Yinyang K-Means": centroids that stand near each other form a group; a row keeps
a lower bound of its distance to the centroids of each group other than its own. When centroids
move, a bound falls by the farthest move in its group, and a group whose bound stays above the
row's distance to its own centroid cannot hold a nearer one. The labels are those of all distances
but for ties of rounding. What differs from the paper and is ours: groups have one size and are kept
for all iterations; the rows that a group concerns are gathered for one matrix product, without the
paper's test per centroid; a chunk that most groups concern is computed whole; bounds give way by a
margin for float32.

Shapes: n vectors, d dimensions, k centroids, G groups of g centroids, c rows of a chunk, m of them
that a group concerns.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from onerec.common import spread
from onerec.tokenizer import distances

LEAST_CENTROIDS = 256
"""Below so many a dense pass is about as fast."""
GROUP, MOST_GROUPS = 64, 32
"""Centroids of a group, more where groups would be too many: G n numbers are kept."""
ENTRIES = 2**20
"""Numbers of x in a chunk of rows: what a cache holds beside its scores."""
SCORES = 2**20
"""Scores at a time where a chunk is computed whole."""
WHOLE = 0.6
"""A chunk is computed whole where more of its bounds than this share do not hold; measured."""
OPEN, SAMPLE = 0.25, 1024
"""Bounds begin where a move of the centroids leaves less than this share of them open, as so many
rows tell; before, a dense pass is faster. Measured."""
MARGIN = 4e-6
"""Relative error that the bounds allow squared distances in float32, by |x|^2 + |c|^2: products of
a few thousand dimensions stay within."""


def worth_bounds(x: Tensor, k: int) -> bool:
    """Whether bounds pay: on a CPU, with many centroids in whole groups."""
    return x.device.type == "cpu" and k >= LEAST_CENTROIDS and k & (k - 1) == 0


def few_open(x: Tensor, members: Tensor, before: Tensor, after: Tensor) -> bool:
    """Whether bounds of groups (G, g) would spare most distances of x (n, d), were the centroids
    (k, d) to move so again."""
    rows = x[:: max(1, len(x) // SAMPLE)].float()
    apart = torch.cdist(rows, after)
    own, label = apart.min(1)
    apart[torch.arange(len(rows)), label] = math.inf
    lower = apart[:, members].amin(2) - (after - before).norm(dim=1)[members].amax(1)  # (c, G)
    return bool((lower < own[:, None]).float().mean() < OPEN)


class GroupBounds:
    """The nearest centroid of each row of x (n, d), again and again while the centroids move.

    The first `step` computes all distances. k is a power of two.
    """

    def __init__(self, x: Tensor, centroids: Tensor, labels: Tensor) -> None:
        """`labels` (n,): any assignment to start from."""
        self.x, self.labels, self.centroids = x, labels.clone(), centroids
        self.members = groups(centroids)  # (G, g): numbers of centroids
        place = torch.empty(len(centroids), dtype=torch.int64)
        place[self.members.flatten()] = torch.arange(len(centroids))
        size = self.members.shape[1]
        self.group_of, self.column = place // size, place % size  # (k,) each
        self.lower = torch.zeros(len(self.members), len(x))  # (G, n) distances, not squares

    def step(self, centroids: Tensor) -> tuple[Tensor, Tensor]:
        """Labels (n,) and squared distances (n,) float32 to centroids (k, d), as `nearest` has."""
        moved = (centroids - self.centroids).norm(dim=1) * (1 + MARGIN)  # (k,)
        self.lower -= moved[self.members].amax(1, keepdim=True)
        self.centroids = centroids
        books = centroids[self.members]  # (G, g, d)
        self.twice, self.lengths = -2 * books, books.square().sum(2)  # (G, g, d), (G, g)
        count = max(1, ENTRIES // self.x.shape[1])
        parts = zip(
            torch.split(self.x, count),
            torch.split(self.labels, count),
            torch.split(self.lower, count, dim=1),
            strict=True,
        )
        squared = spread(self._chunk, list(parts), distances.workers(self.x))
        return self.labels.clone(), torch.cat(squared)

    def _chunk(self, part: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Squared distances (c,) of x (c, d); labels (c,) and lower (G, c) change in place."""
        x, labels, lower = part[0].float(), *part[1:]
        squared = (x - self.centroids[labels]).square().sum(1)
        norm = x.square().sum(1)
        open_to = lower < squared.sqrt() * (1 + MARGIN)  # (G, c)
        whole = int(open_to.sum()) > WHOLE * open_to.numel()
        few = max(1, SCORES // len(self.centroids))
        if whole and len(x) > few:
            parts = torch.split(x, few), torch.split(labels, few), torch.split(lower, few, dim=1)
            return torch.cat([self._chunk(part) for part in zip(*parts, strict=True)])
        scores = self._all(x, labels) if whole else None  # (c, G, g)
        if scores is not None:
            least = scores.amin(2).T + norm  # (G, c)
        else:
            least = self._some(x, norm, labels, open_to)
        value, group = least.min(0)  # (c,)
        who = torch.nonzero(value < squared)[:, 0]  # rows that change
        home, own = self.group_of[labels[who]], squared[who]
        if scores is not None:
            self._take(group[who], who, scores[who, group[who]], norm, labels, least)
        else:
            for g in range(len(self.members)):
                rows = who[group[who] == g]
                found = self._scores(g, x[rows], labels[rows])
                self._take(torch.full_like(rows, g), rows, found, norm, labels, least)
        least[home, who] = torch.minimum(least[home, who], own)  # the centroid that was left
        error = MARGIN * (norm + self.lengths.max())
        bound = (least - error).clamp_(min=0).sqrt_()  # infinite where nothing was computed
        lower.copy_(bound if whole else torch.where(open_to, bound, torch.minimum(lower, bound)))
        squared[who] = (x[who] - self.centroids[labels[who]]).square().sum(1)
        return squared

    def _take(
        self,
        group: Tensor,
        rows: Tensor,
        scores: Tensor,
        norm: Tensor,
        labels: Tensor,
        least: Tensor,
    ) -> None:
        """Rows (m,) go to the lowest of the scores (m, g) of a group (m,); its next stays least."""
        column = scores.argmin(1, keepdim=True)
        least[group, rows] = scores.scatter_(1, column, math.inf).amin(1) + norm[rows]
        labels[rows] = self.members[group, column[:, 0]]

    def _some(self, x: Tensor, norm: Tensor, labels: Tensor, open_to: Tensor) -> Tensor:
        """The least squared distance to each group less the own centroid (G, c), or infinity."""
        least = torch.full(open_to.shape, math.inf)
        for g, concerned in enumerate(open_to):
            rows = torch.nonzero(concerned)[:, 0]  # (m,)
            if len(rows):
                scores = self._scores(g, x.index_select(0, rows), labels[rows])
                least[g, rows] = scores.amin(1) + norm[rows]
        return least

    def _all(self, x: Tensor, labels: Tensor) -> Tensor:
        """|c|^2 - 2 x.c for all centroids (c, G, g); infinite for a row's own."""
        scores = distances.scores(self.lengths.flatten(), x, self.twice.flatten(0, 1))
        scores = scores.view(len(x), *self.members.shape)
        scores[torch.arange(len(x)), self.group_of[labels], self.column[labels]] = math.inf
        return scores

    def _scores(self, g: int, x: Tensor, labels: Tensor) -> Tensor:
        """`_all` for the centroids of one group (m, g); m is new each time, so not by oneDNN."""
        scores = torch.addmm(self.lengths[g], x, self.twice[g].T)
        mine = torch.nonzero(self.group_of[labels] == g)[:, 0]
        scores[mine, self.column[labels[mine]]] = math.inf
        return scores


def groups(centroids: Tensor) -> Tensor:
    """The numbers of the centroids (k, d) by neighbourhood, (G, g): k is a power of two.

    Halved again and again at the median of the direction in which a part is widest, which a few
    power iterations find.
    """
    found = torch.arange(len(centroids))[None]
    while found.shape[1] > GROUP and len(found) < MOST_GROUPS:
        points = centroids[found]  # (G, g, d)
        points = points - points.mean(1, keepdim=True)
        direction = points[:, :1].mT  # (G, d, 1)
        for _ in range(8):
            direction = F.normalize(points.mT @ (points @ direction), dim=1)
        order = (points @ direction)[:, :, 0].argsort(dim=1, stable=True)
        found = found.gather(1, order).view(2 * len(found), -1)
    return found
