"""Item vectors by who consumes them: what content does not tell.

Items that the same users consume get near vectors. Fitted on training rows alone, so that no target
enters a tokenizer.

Shapes: N rows of the log, P pairs of items.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from onerec.tokenizer.sparse import SparseMatrix, truncated_svd

PAIRS_AT_A_TIME = 2**22
USER_LIMIT = 128
"""Most items of one user that are paired with one another; ours."""
CONTEXT_POWER = 0.75

Rows = NDArray[np.int64]
Vectors = NDArray[np.float32]


def co_consumption_vectors(
    user: NDArray[np.integer[Any]],
    item: NDArray[np.integer[Any]],
    n_items: int,
    dim: int,
    generator: torch.Generator,
) -> Vectors:
    """From the training rows (N,) user and item to item vectors (n_items, dim) float32.

    Positive pointwise mutual information of two items that the same user consumed, with the context
    distribution raised to .75, then u * sqrt(s) of its SVD (Levy, Goldberg & Dagan 2015, §2-3). A
    user counts an item once, and of a user with more than 128 items a random 128. An item without a
    row, or without company, gets zeros.
    """
    row, column, count = _pair_counts(user, item, n_items, generator)
    if len(row) == 0:
        return np.zeros((n_items, dim), dtype=np.float32)
    weight = np.bincount(row, weights=count, minlength=n_items)
    context = weight**CONTEXT_POWER
    expected = weight[row] * context[column] / context.sum()
    information = np.log(count / expected)
    keep = information > 0
    ppmi = SparseMatrix.from_triplets(
        row[keep], column[keep], information[keep].astype(np.float32), (n_items, n_items)
    )
    u, s, _ = truncated_svd(ppmi, dim, generator)
    vectors = np.zeros((n_items, dim), dtype=np.float32)
    vectors[:, : len(s)] = F.normalize(u * s.sqrt(), eps=1e-6).numpy()
    return vectors


def _pair_counts(
    user: NDArray[np.integer[Any]],
    item: NDArray[np.integer[Any]],
    n_items: int,
    generator: torch.Generator,
) -> tuple[Rows, Rows, NDArray[np.int64]]:
    """Ordered pairs of different items and the number of users that have both."""
    cell = np.unique(user.astype(np.int64) * n_items + item)  # each user and item once
    cell = cell[torch.randperm(len(cell), generator=generator).numpy()]
    cell = cell[np.argsort(cell // n_items, kind="stable")]  # by user, items in random order
    owner, items = cell // n_items, cell % n_items
    _, start, size = np.unique(owner, return_index=True, return_counts=True)
    place = np.arange(len(cell)) - np.repeat(start, size)
    items = items[place < USER_LIMIT]
    size = np.minimum(size, USER_LIMIT)
    start = np.cumsum(size) - size  # of each user among the kept items
    batch = np.cumsum(size**2) // PAIRS_AT_A_TIME  # users of about that many pairs together
    keys, counts = np.empty(0, np.int64), np.empty(0, np.int64)
    for users in np.split(np.arange(len(size)), np.flatnonzero(np.diff(batch)) + 1):
        new, new_counts = np.unique(
            _pairs(items, start[users], size[users], n_items), return_counts=True
        )
        keys, counts = _merge(keys, counts, new, new_counts)
    return keys // n_items, keys % n_items, counts


def _pairs(items: Rows, start: Rows, size: Rows, n_items: int) -> Rows:
    """first * n_items + second for all ordered pairs of different items of each user."""
    partners = np.repeat(size, size)  # (K,) for each kept item of these users: how many partners
    first = np.repeat(np.arange(len(partners)), partners)  # which of these items, per pair
    begin = np.repeat(start, size)  # (K,)
    rank = np.arange(len(partners)) - np.repeat(
        np.cumsum(size) - size, size
    )  # (K,) within its user
    offset = np.arange(len(first)) - np.repeat(np.cumsum(partners) - partners, partners)
    left, right = items[(begin + rank)[first]], items[begin[first] + offset]
    pairs: Rows = (left * n_items + right)[left != right]
    return pairs


def _merge(keys: Rows, counts: Rows, new: Rows, new_counts: Rows) -> tuple[Rows, Rows]:
    """Add counts by key; both lists of keys sorted, and so is the result."""
    if len(keys) == 0:
        return new, new_counts
    both, place = np.unique(np.concatenate([keys, new]), return_inverse=True)
    total = np.bincount(place, weights=np.concatenate([counts, new_counts]))
    return both, total.astype(np.int64)
