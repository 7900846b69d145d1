"""Parts put together, and lists of nobody."""

import numpy as np
import pytest
import torch

from onerec.errors import DataError
from onerec.lists import Lists, at_least_one, nothing_for, stacked
from onerec.model.generate import Generated


def part(*items: list[int]) -> Generated:
    item = torch.tensor(items)
    codes = torch.stack([item % 3, item % 5], dim=-1)
    return Generated(item, -item.float(), codes, codes.float(), item >= 0)


def test_parts_follow_one_another() -> None:
    lists = stacked([part([4, 2], [1, 0]), part([3, -1])], 2, 2)
    assert lists.items.tolist() == [[4, 2], [1, 0], [3, -1]]
    assert lists.legal.tolist() == [[True, True], [True, True], [True, False]]
    assert lists.scores.dtype == np.float32
    assert lists.code_log_probs.shape == (3, 2, 2)
    assert lists.take(np.array([2, 0])).items.tolist() == [[3, -1], [4, 2]]


def test_lists_as_rows_by_hand() -> None:
    """The second of two users has one item alone; nobody's lists name no user."""
    made = Lists(
        np.array([[1, 0], [2, -1]]),
        np.array([[-1.0, -2.0], [-3.0, -np.inf]]),
        np.array([[[-0.5, -0.5], [-1, -1]], [[-1, -2], [-np.inf, -np.inf]]]),
        np.array([[True, True], [True, False]]),
    )
    frame = made.frame(["a", "b"], np.array(["x", "y", "z"]))
    assert frame.to_dict("list") == {
        "user_id": ["a", "a", "b"],
        "rank": [1, 2, 1],
        "item_id": ["y", "x", "z"],
        "item": [1, 0, 2],
        "score": [-1.0, -2.0, -3.0],
        "lp_1": [-0.5, -1.0, -1.0],
        "lp_2": [-0.5, -1.0, -2.0],
    }
    assert made.frame([], np.array(["x", "y", "z"]))["user_id"].isna().all()


def test_no_parts_are_no_lists() -> None:
    lists = stacked([], 4, 3)
    assert (lists.items.shape, lists.code_log_probs.shape) == ((0, 4), (0, 4, 3))


def test_lists_without_an_item_have_a_row_for_each_user() -> None:
    lists = stacked([nothing_for(3, 2, 4, torch.device("cpu"))], 2, 4)
    assert (lists.items == -1).all()
    assert np.isneginf(lists.scores).all()
    assert lists.code_log_probs.shape == (3, 2, 4)
    assert not lists.legal.any()


def test_a_number_below_1_is_named():
    at_least_one(k=1, beam=5)
    with pytest.raises(DataError, match="k=0: ask for at least one item"):
        at_least_one(beam=1, k=0)
    with pytest.raises(DataError, match="beam=-2: must be at least 1"):
        at_least_one(beam=-2)
