"""Pairs of items: by hand, and against a loop over users and their rows."""

import numpy as np
import pytest

from onerec.errors import DataError
from onerec.tokenizer.pairs import item_to_item_pairs, user_to_item_pairs
from onerec.tokenizer.swing import ItemSimilarity


def similarity(pairs: dict[tuple[int, int], float], n_items: int) -> ItemSimilarity:
    keys = sorted(pairs)
    first, second = (np.array([key[side] for key in keys], dtype=np.int64) for side in (0, 1))
    return ItemSimilarity(first, second, np.array([pairs[key] for key in keys]), n_items, {})


KNOWN = similarity({(0, 1): 3.0, (0, 2): 1.0, (1, 2): 2.0, (2, 3): 2.0}, 6)


def test_item_to_item_takes_each_items_nearest() -> None:
    assert item_to_item_pairs(KNOWN, 1).tolist() == [[0, 1], [1, 0], [2, 1], [3, 2]]
    assert item_to_item_pairs(KNOWN, 2).tolist() == [
        [0, 1], [0, 2], [1, 0], [1, 2], [2, 1], [2, 3], [3, 2],
    ]  # fmt: skip


def test_user_to_item_by_hand() -> None:
    """User 5: 3, 0, 1, 2, 2. Before 0 stands only 3, no kin; 2 ties with 1 and 3, 1 is later."""
    user, item = np.array([5, 5, 5, 5, 5, 6, 6]), np.array([3, 0, 1, 2, 2, 4, 1])
    assert user_to_item_pairs(user, item, KNOWN).tolist() == [[1, 0], [2, 1], [2, 1]]
    # With two rows back the second 2 sees 2 and 1; with one, 2 alone, which is itself.
    assert user_to_item_pairs(user, item, KNOWN, recent=2).tolist() == [[1, 0], [2, 1], [2, 1]]
    assert user_to_item_pairs(user, item, KNOWN, recent=1).tolist() == [[1, 0], [2, 1]]


@pytest.mark.parametrize("recent", [1, 3, 100])
def test_user_to_item_equals_the_loop(recent: int) -> None:
    rng = np.random.default_rng(0)
    pairs = {(i, j): float(rng.integers(0, 4)) for i in range(12) for j in range(i + 1, 12)}
    known = {pair: score for pair, score in pairs.items() if score > 0}
    user, item = np.sort(rng.integers(0, 30, 300)), rng.integers(0, 12, 300)
    expected = []
    for row in range(300):
        best, partner = 0.0, -1
        for earlier in range(row - 1, max(-1, row - 1 - recent), -1):
            pair = (min(item[row], item[earlier]), max(item[row], item[earlier]))
            if user[earlier] == user[row] and known.get(pair, 0.0) > best:
                best, partner = known[pair], int(item[earlier])
        expected += [[int(item[row]), partner]] if partner >= 0 else []
    assert user_to_item_pairs(user, item, similarity(known, 12), recent).tolist() == expected


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_few_rows_and_no_similarity_give_no_pairs(rows: int) -> None:
    none = similarity({}, 3)
    user = np.zeros(rows, dtype=np.int32)
    assert user_to_item_pairs(user, np.arange(rows), none).shape == (0, 2)
    assert item_to_item_pairs(none).shape == (0, 2)


def test_rows_that_are_not_by_user_are_refused() -> None:
    with pytest.raises(DataError, match="do not stand together; order them by user"):
        user_to_item_pairs(np.array([0, 1, 0]), np.array([0, 1, 2]), KNOWN)
