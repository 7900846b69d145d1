"""Do vectors lie near where items belong together? Recall of an item's partners among its nearest.

Shapes: n items, d dimensions, P pairs, M asked items.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from onerec.errors import DataError
from onerec.tokenizer.content import Floats

AT_A_TIME = 2**24
"""Distances that are held in memory together."""


def partner_recall(
    vectors: Floats,
    pairs: NDArray[np.int64],
    k: int = 10,
    candidates: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    """Of each first item of `pairs`, the share of its partners among the k nearest: (M,).

    The share is of min(k, its partners), so that 1 can be reached. Nearness is Euclid's, as of the
    quantiser, in single precision; an item is no neighbour of its own, and of equally near ones the
    lower number comes first.

    Args:
        vectors: (n, d).
        pairs: (P, 2); (i, j) says that j is a partner of i.
        candidates: (n,) which items may be neighbours; partners outside do not count. Default all.

    Raises:
        DataError: no pair has a partner that may be found.
    """
    n = len(vectors)
    allowed = np.ones(n, dtype=bool) if candidates is None else candidates
    asked, partner = np.unique(pairs[allowed[pairs[:, 1]]], axis=0).T if len(pairs) else pairs.T
    if not len(asked):
        raise DataError("no pair to measure retrieval on; give users at least two items each")
    items, row = np.unique(asked, return_inverse=True)
    places = np.flatnonzero(allowed)
    x = torch.from_numpy(np.array(vectors, dtype=np.float32))
    x -= x.mean(0, dtype=torch.float64).float()  # far from 0 the distances drown in rounding
    others, hits = x[places], np.zeros(len(items))
    k = min(k, len(places))
    size = max(1, AT_A_TIME // max(1, len(places)))
    for begin in range(0, len(items), size):
        mine = items[begin : begin + size]
        distance = torch.cdist(x[mine], others)
        distance[torch.from_numpy(mine[:, None] == places[None])] = torch.inf
        near = places[distance.sort(dim=1, stable=True).indices[:, :k].numpy()]
        inside = (row >= begin) & (row < begin + len(mine))
        is_partner = np.zeros((len(mine), n), dtype=bool)
        is_partner[row[inside] - begin, partner[inside]] = True
        hits[begin : begin + len(mine)] = np.take_along_axis(is_partner, near, 1).sum(1)
    found: NDArray[np.float64] = hits / np.minimum(np.bincount(row), k)
    return found
