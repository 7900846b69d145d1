"""Collision policy `nearest_free`: an item takes the nearest code that is free at the last level.

No paper of OneRec's describes it; the rule is ours. Below each prefix: of the items on one code the
nearest to its entry keeps it; the others, nearest first, take the free code whose entry is nearest
to what the levels before left of them. Equal distances go by a hash of the content, so that the
result does not depend on how items are numbered, but for items of equal content. Where all N codes
below a prefix are taken the items that are left keep their code and share it.

Shapes: n items, e dimensions of the codebooks, L levels, N codes of the last level.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

AT_A_TIME = 2**24
"""Distances that are held in memory together."""


@dataclass(frozen=True)
class LastLevel:
    """What the last level quantises, and with what."""

    residual: np.ndarray  # (n, e) what the levels before left of each item
    entries: np.ndarray  # (N, e) the last codebook

    @classmethod
    def of(cls, encoded: Tensor, codes: Tensor, codebooks: Tensor) -> LastLevel:
        """From the encoded items (n, e), their codes (n, L) and the codebooks (L, N, e)."""
        residual = encoded.float().clone()
        for book, own in zip(codebooks[:-1], codes.T[:-1], strict=True):
            residual -= book[own]
        return cls(residual.cpu().numpy(), codebooks[-1].float().cpu().numpy())

    @cached_property
    def _entries(self) -> Tensor:
        return torch.from_numpy(self.entries).double()  # (N, e)

    @cached_property
    def _lengths(self) -> Tensor:
        return self._entries.square().sum(1)  # (N,)

    def distances(self, items: np.ndarray) -> np.ndarray:
        """(m, N) float64: squared distance of the items' residuals to every entry."""
        rows = torch.from_numpy(self.residual[items]).double()
        product = torch.addmm(self._lengths, rows, self._entries.T, alpha=-2)
        result: np.ndarray = (product + rows.square().sum(1, keepdim=True)).numpy()
        return result


def nearest_free(codes: np.ndarray, prefix: np.ndarray, last: LastLevel) -> np.ndarray:
    """The last codes (n,) after the policy: codes (n,) before it, prefix (n,) group numbers.

    A prefix without a collision is left as it is.
    """
    result = codes.copy()
    size = len(last.entries)
    pair = np.unique(prefix * size + codes, return_inverse=True)[1].reshape(-1)
    crowded = np.bincount(pair)[pair] > 1
    order = np.argsort(prefix, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(prefix[order]) > 0])
    for members in np.split(order, starts[1:]):
        if crowded[members].any():
            _spread(result, members, crowded, last)
    return result


def _spread(codes: np.ndarray, members: np.ndarray, crowded: np.ndarray, last: LastLevel) -> None:
    """Tell the members of one prefix apart, in place."""
    taken = np.zeros(len(last.entries), dtype=bool)
    taken[codes[members]] = True  # someone keeps each
    items = members[crowded[members]]
    rows = max(1, AT_A_TIME // len(taken))
    whole = last.distances(items) if len(items) <= rows else None  # (m, N)
    if whole is not None:
        own = whole[np.arange(len(items)), codes[items]]
    else:
        parts = [items[begin : begin + rows] for begin in range(0, len(items), rows)]
        own = np.concatenate(
            [last.distances(part)[np.arange(len(part)), codes[part]] for part in parts]
        )
    hashes = [hashlib.sha256(last.residual[item].tobytes()).digest() for item in items]
    queue = sorted(range(len(items)), key=lambda place: (own[place], hashes[place], items[place]))
    kept: set[int] = set()
    for place in queue:
        code = int(codes[items[place]])
        if code not in kept:
            kept.add(code)
            continue
        if taken.all():
            return
        asked = last.distances(items[[place]])[0] if whole is None else whole[place]  # (N,)
        free = np.where(taken, np.inf, asked)
        codes[items[place]] = nearest = int(free.argmin())
        taken[nearest] = True
