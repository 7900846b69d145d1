"""Pairs of items whose vectors should be near: item-to-item and user-to-item (V1 section 2.1).

Item-to-item: an item and those most similar to it by Swing. User-to-item: an item that a user took
and the most similar to it of those he had taken last. How many neighbours and how far back the
paper does not say; 10 and 20 are ours.

Shapes: N rows of the log, P pairs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onerec.errors import DataError
from onerec.tokenizer.swing import ItemSimilarity

NEIGHBOURS = 10
RECENT = 20

Pairs = NDArray[np.int64]


def item_to_item_pairs(similarity: ItemSimilarity, neighbours: int = NEIGHBOURS) -> Pairs:
    """(P, 2): each item with its most similar ones, the nearest first; both ways where both say so.

    An item without a similar one is in no pair.
    """
    item, other, _ = similarity.nearest(neighbours)
    return np.stack([item, other], axis=1)


def user_to_item_pairs(
    user: NDArray[np.integer[Any]],
    item: NDArray[np.integer[Any]],
    similarity: ItemSimilarity,
    recent: int = RECENT,
) -> Pairs:
    """(P, 2): what a user took, and of the `recent` rows before it the item most similar to it.

    A target without a similar one among them is in no pair, and never is an item its own partner;
    of equal ones the latest is taken. Pairs come in the order of the rows, as often as users make
    them.

    Args:
        user, item: (N,), positive training rows by user, each user's oldest first.

    Raises:
        DataError: the rows of a user do not stand together.
    """
    blocks = int((np.diff(user) != 0).sum()) + (len(user) > 0)
    if blocks != len(np.unique(user)):
        raise DataError(
            "user-to-item pairs: the rows of a user do not stand together; order them by user, "
            "each user's oldest first"
        )
    best, partner = np.zeros(len(user)), np.full(len(user), -1, dtype=np.int64)
    for back in range(1, min(recent, len(user) - 1) + 1):
        row = np.flatnonzero(user[back:] == user[:-back]) + back
        if not len(row):
            break
        earlier = item[row - back].astype(np.int64)
        score = similarity.of(item[row].astype(np.int64), earlier)
        better = score > best[row]
        best[row[better]], partner[row[better]] = score[better], earlier[better]
    found = partner >= 0
    return np.stack([item[found].astype(np.int64), partner[found]], axis=1)
