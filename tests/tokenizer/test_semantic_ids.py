"""Collision policies by hand, and the counts they report."""

import numpy as np
import pytest
import torch

from onerec.errors import DataError, RecipeError
from onerec.tokenizer.nearest_free import LastLevel
from onerec.tokenizer.semantic_ids import code_text, group_rows, make_semantic_ids, with_codes

# Items 0, 2 and 5 share an id, items 1 and 4 another; item 3 is alone.
CODES = np.array([[1, 1], [0, 2], [1, 1], [0, 0], [0, 2], [1, 1]])
BEFORE = {
    "items": 6,
    "distinct": 3,
    "items_sharing": 5,
    "share_sharing": 5 / 6,
    "largest_leaf": 3,
}


def test_share_keeps_the_codes_and_counts() -> None:
    ids = make_semantic_ids(CODES, (2, 3))
    assert ids.codes.tolist() == CODES.tolist()
    assert (ids.sizes, ids.levels, ids.policy) == ((2, 3), 2, "share")
    after = {"items_touched": 0, "share_touched": 0, "leaves": 3, "items_left": 5}
    assert ids.report == {"policy": "share", **BEFORE, **after}
    assert ids.leaf_size().tolist() == [3, 2, 3, 1, 2, 3]


def test_extra_level_separates_in_item_order() -> None:
    ids = make_semantic_ids(torch.from_numpy(CODES), (2, 3), "extra_level")
    assert ids.codes[:, :2].tolist() == CODES.tolist()
    assert ids.codes[:, 2].tolist() == [0, 0, 1, 0, 1, 2]
    assert ids.sizes == (2, 3, 3)
    after = {"items_touched": 3, "share_touched": 0.5, "leaves": 6, "items_left": 0}
    assert ids.report == {"policy": "extra_level", **BEFORE, **after}
    assert ids.leaf_size().tolist() == [1] * 6


def test_extra_level_of_unique_ids_has_one_code() -> None:
    ids = make_semantic_ids(np.array([[0], [1]]), (2,), "extra_level")
    assert ids.codes.tolist() == [[0, 0], [1, 0]]
    assert ids.sizes == (2, 1)


def test_none_names_two_items_that_collide() -> None:
    with pytest.raises(
        DataError, match=r"5 of 6 items share a semantic id, such as items 0 and 2,"
    ):
        make_semantic_ids(CODES, (2, 3), "none")
    assert make_semantic_ids(CODES[1:4], (2, 3), "none").report["items_touched"] == 0


def test_nearest_free_moves_the_last_code_and_counts() -> None:
    """Item 5 is nearest to code 1 and keeps it; 2 takes the free code 2; for 0 only 0 is left."""
    residual = np.array([[1.4], [2.1], [1.2], [0.0], [2.0], [1.1]], dtype=np.float32)
    last = LastLevel(residual, np.array([[0.0], [1.0], [2.0]], dtype=np.float32))
    ids = make_semantic_ids(CODES, (2, 3), "nearest_free", last)
    assert ids.codes.tolist() == [[1, 0], [0, 1], [1, 2], [0, 0], [0, 2], [1, 1]]
    assert ids.sizes == (2, 3)
    after = {"items_touched": 3, "share_touched": 0.5, "leaves": 6, "items_left": 0}
    assert ids.report == {"policy": "nearest_free", **BEFORE, **after}
    with pytest.raises(ValueError, match="needs the items' residuals"):
        make_semantic_ids(CODES, (2, 3), "nearest_free")


def test_unknown_policy_offers_the_known() -> None:
    with pytest.raises(RecipeError, match="'shared' is unknown; choose one of share, extra_level"):
        make_semantic_ids(CODES, (2, 3), "shared")


@pytest.mark.parametrize("codes", [np.zeros((0, 2)), np.zeros((3, 1)), CODES + 2, CODES - 1])
def test_codes_must_fit_their_levels(codes: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"shape|outside"):
        make_semantic_ids(codes, (2, 3))


def test_groups_equal_numpy_unique_rows() -> None:
    codes = np.random.default_rng(0).integers(0, (4, 5, 6), size=(500, 3))
    expected = np.unique(codes, axis=0, return_inverse=True)[1].reshape(-1)
    assert group_rows(codes, (4, 5, 6)).tolist() == expected.tolist()


def test_code_text() -> None:
    assert code_text((3, 17, 5)) == "3-17-5"
    assert code_text(CODES[1]) == "0-2"


# ------------------------------------------------------------------------------ new items


def test_new_items_share_and_nobody_moves() -> None:
    ids = make_semantic_ids(CODES, (2, 3))
    more = with_codes(ids, torch.tensor([[1, 1], [1, 2]]))
    assert more.codes.tolist() == [*CODES.tolist(), [1, 1], [1, 2]]
    assert (more.sizes, more.policy) == (ids.sizes, "share")


def test_new_items_take_the_next_number_of_an_extra_level() -> None:
    ids = make_semantic_ids(CODES, (2, 3), "extra_level")  # three numbers: 0, 1, 2
    more = with_codes(ids, np.array([[0, 0], [0, 2], [0, 0], [1, 2]]))
    assert more.codes[:6].tolist() == ids.codes.tolist()
    assert more.codes[6:].tolist() == [[0, 0, 1], [0, 2, 2], [0, 0, 2], [1, 2, 0]]
    with pytest.raises(DataError, match=r"4 items on one semantic id, and its last level has 3"):
        with_codes(ids, np.array([[1, 1]]))


def test_new_items_may_not_collide_where_nobody_may() -> None:
    ids = make_semantic_ids(CODES[[0, 1, 3]], (2, 3), "none")
    assert with_codes(ids, np.array([[1, 2]])).codes[-1].tolist() == [1, 2]
    with pytest.raises(DataError, match="a new item has a semantic id that is taken"):
        with_codes(ids, np.array([[1, 1]]))
    with pytest.raises(ValueError, match="outside 0 to 2"):
        with_codes(ids, np.array([[1, 3]]))


def test_who_finds_no_free_code_still_shares_and_is_counted() -> None:
    """Three items on (0, 0, 0), two codes at the last level: one moves, two are left on one id.

    Code 1 is free behind (0, 0); that item 3 has it behind (0, 1) does not matter.
    """
    codes = np.array([[0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 1, 1]])
    residual = np.array([[0.1], [0.6], [0.2], [1.0]], dtype=np.float32)
    last = LastLevel(residual, np.array([[0.0], [1.0]], dtype=np.float32))
    ids = make_semantic_ids(codes, (1, 2, 2), "nearest_free", last)
    assert sorted(ids.codes.tolist()) == [[0, 0, 0], [0, 0, 0], [0, 0, 1], [0, 1, 1]]
    told = {"distinct": 2, "items_sharing": 3, "items_touched": 1, "share_touched": 0.25}
    assert ids.report.items() >= (told | {"leaves": 3, "items_left": 2}).items()
