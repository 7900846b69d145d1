"""Positives by rule, and rows taken out of a log."""

import numpy as np
import numpy.typing as npt
import pytest

from onerec.data.log import Interactions, positive_rows, user_offsets
from onerec.errors import DataError

YES = np.array([1, 0, -1, 0], dtype=np.int8)
NO = np.zeros(4, dtype=np.int8)
LATE = np.array([0, 0, 0, 1], dtype=np.int8)


@pytest.mark.parametrize(
    ("columns", "expected", "rule"),
    [
        ({"like": LATE, "long_view": YES, "click": NO}, [1, 0, 0, 1], "long_view|like"),
        ({"click": YES, "dislike": LATE}, [1, 0, 0, 0], "click"),
        ({"rating": np.array([4, 3.5, np.nan, 5])}, [1, 0, 0, 1], "rating>=4"),
        ({"timestamp": np.arange(4)}, [1, 1, 1, 1], "every row"),
        ({"follow": NO, "click": YES}, [1, 0, 0, 0], "click"),  # nobody ever followed
        ({"rating": np.ones(4)}, [1, 1, 1, 1], "every row"),  # ratings that are only a mark
    ],
)
def test_positives(
    columns: dict[str, npt.NDArray[np.int8]], expected: list[int], rule: str
) -> None:
    found, named = positive_rows(columns, 4, None)
    assert (found.tolist(), named) == (expected, rule)


def test_a_named_rule_stands_and_an_impossible_one_is_refused() -> None:
    assert positive_rows({"click": YES}, 4, "every row")[0].all()
    assert positive_rows({"rating": np.array([1, 2, 3, 4])}, 4, "rating>=3")[0].sum() == 2
    with pytest.raises(DataError, match="has no column like"):
        positive_rows({"click": YES}, 4, "click|like")


def log() -> Interactions:
    user = np.array([0, 0, 2, 2, 2], dtype=np.int32)
    return Interactions(
        user=user,
        item=np.array([4, 3, 2, 1, 0], dtype=np.int32),
        offsets=user_offsets(user, 4),
        n_users=4,
        n_items=5,
        columns={"position": np.arange(5)},
        positive=np.array([True, False, True, False, True]),
        positive_rule="click",
    )


def test_offsets_of_users_with_and_without_events() -> None:
    assert log().offsets.tolist() == [0, 2, 2, 5, 5]


def test_take_and_reorder() -> None:
    part = log().take(np.array([True, False, False, True, True]))
    assert part.offsets.tolist() == [0, 1, 1, 3, 3]
    assert part.item.tolist() == [4, 1, 0]
    assert part.columns["position"].tolist() == [0, 3, 4]
    assert log().reorder(np.array([1, 0, 4, 3, 2])).item.tolist() == [3, 4, 0, 1, 2]
    with pytest.raises(ValueError, match="order of the users"):
        log().reorder(np.array([4, 0, 1, 2, 3]))
    with pytest.raises(ValueError, match="permutation of 5 rows"):
        log().reorder(np.array([0, 1]))


def test_time_is_exact_only_if_every_row_says_so() -> None:
    one = log()
    assert not one.exact_time
    one.columns["timestamp"] = np.arange(5)
    assert one.exact_time
    one.columns["exact_time"] = np.array([1, 1, 1, 1, -1], dtype=np.int8)
    assert not one.exact_time
