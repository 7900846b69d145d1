"""Features as codes: 0 is unknown, the rest counts from 1, and what says nothing is dropped."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from onerec.data.dataset import Dataset
from onerec.data.features import (
    DURATION_BUCKETS,
    MAX_CATEGORIES,
    NUMERIC_BINS,
    PLAY_BUCKETS,
    event_features,
    item_features,
    user_features,
)
from onerec.data.log import Interactions

NAN = float("nan")


def make_log(item: list[int] | None = None, **columns: Any) -> Interactions:
    items = np.zeros(len(next(iter(columns.values()))), int) if item is None else np.array(item)
    return Interactions(
        user=np.zeros(len(items), dtype=np.int32),
        item=items.astype(np.int32),
        offsets=np.array([0, len(items)]),
        n_users=1,
        n_items=int(items.max()) + 1,
        columns={name: np.array(values) for name, values in columns.items()},
        positive=np.ones(len(items), dtype=bool),
        positive_rule="every row",
    )


def with_users(**columns: Any) -> Dataset:
    frame = pd.DataFrame(columns)
    frame.insert(0, "user", range(len(frame)))
    frame.insert(1, "user_id", [f"u{i}" for i in range(len(frame))])
    return cast(Dataset, SimpleNamespace(users=frame))


def with_items(log: Interactions | None = None, **columns: Any) -> Dataset:
    frame = pd.DataFrame(columns)
    made = SimpleNamespace(items=frame, n_items=len(frame), log=log or make_log(click=[1]))
    return cast(Dataset, made)


def test_text_columns_are_coded_by_frequency_then_name() -> None:
    made = user_features(with_users(city=["b"] * 5 + ["a"] * 5 + ["c"] * 6 + ["rare"] * 4 + [None]))
    assert made.names == ("city",)
    assert made.codes[:, 0].tolist() == [3] * 5 + [2] * 5 + [1] * 6 + [0] * 5
    assert made.sizes == (3,)


def test_numbers_of_many_values_become_quantile_bins() -> None:
    made = user_features(with_users(days=[*range(100), NAN]))
    column = made.codes[:, 0]
    assert column[-1] == 0
    assert made.sizes == (NUMERIC_BINS,)
    assert np.bincount(column[:-1]).tolist() == [0] + [10] * NUMERIC_BINS
    assert (np.diff(column[:-1]) >= 0).all()  # a larger number has no smaller bin


def test_numbers_of_few_values_are_categories() -> None:
    made = user_features(with_users(level=[1] * 6 + [2] * 5))
    assert made.codes[:, 0].tolist() == [1] * 6 + [2] * 5


def test_columns_that_say_nothing_are_dropped_by_name() -> None:
    many = MAX_CATEGORIES + 1
    made = user_features(
        with_users(
            same=["x"] * many,
            empty=[None] * many,
            name=[f"person {i}" for i in range(many)],
            friends=[[1, 2]] * many,
            city=["n", "s", "s"] * (many // 3) + ["s"] * (many % 3),
        )
    )
    assert made.names == ("city",)
    assert made.dropped == ("same", "empty", "name", "friends")
    assert user_features(with_users()).codes.shape == (0, 0)


def test_an_author_of_one_item_is_unknown_and_brand_stands_in() -> None:
    items = with_items(author_id=["x", "y", "y", "z", None])
    assert item_features(items).author.tolist() == [0, 1, 1, 0, 0]
    assert item_features(items).n_authors == 1
    assert item_features(with_items(brand=["b", "b", "c"])).author.tolist() == [1, 1, 0]
    constant = item_features(with_items(author_id=["x"] * 4, brand=["b", "b", "c", "c"]))
    assert constant.author.tolist() == [1, 1, 2, 2]


def test_a_list_is_no_author() -> None:
    items = item_features(with_items(author_id=["x"] * 4, brand=[["b"], ["b"], ["c"], []]))
    assert (items.author.tolist(), items.n_authors) == ([0] * 4, 0)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"tags": [["a", "x"], ["b", "x"], ["a"], ["b"]]}, [1, 2, 1, 2]),
        # Amazon's paths all begin with the name of the shop's department.
        ({"category": [["All", "p"], ["All", "q"], ["All", "q"], ["All", "p"]]}, [1, 2, 2, 1]),
        ({"tags": [["all"]] * 4, "category": [["p"], ["q"], ["q"], ["p"]]}, [1, 2, 2, 1]),
        ({"tags": [["a"], [], ["b"], ["a"]]}, [1, 0, 0, 1]),
        ({"title": list("abcd")}, [0, 0, 0, 0]),
    ],
)
def test_a_tag_is_the_first_depth_at_which_items_differ(
    columns: dict[str, Any], expected: list[int]
) -> None:
    assert item_features(with_items(**columns)).tag.tolist() == expected


def test_durations_are_powers_of_two_of_seconds() -> None:
    made = item_features(with_items(duration_ms=[0, 1_000, 3_000, 7_500, NAN, -5, 1e15]))
    assert made.duration.tolist() == [1, 2, 3, 4, 0, 0, DURATION_BUCKETS]
    assert made.n_durations == DURATION_BUCKETS


def test_a_duration_that_only_the_log_knows_is_its_median() -> None:
    log = make_log(item=[0, 0, 0, 1], duration_ms=[1_000.0, 3_000.0, 900_000.0, NAN])
    made = item_features(with_items(log, title=["a", "b", "c"]))
    assert made.duration.tolist() == [3, 0, 0]


def test_play_is_in_fifths_of_the_video_up_to_twice() -> None:
    log = make_log(
        play_ms=[0.0, 199.0, 200.0, 1_000.0, 1_999.0, 9_999.0, NAN, 5.0],
        duration_ms=[1_000.0] * 6 + [1_000.0, 0.0],
    )
    made = event_features(log)
    assert made.play.tolist() == [1, 1, 2, 6, 10, 10, 0, 0]
    assert made.n_play == PLAY_BUCKETS


def test_ratings_are_in_halves() -> None:
    made = event_features(make_log(rating=[0.5, 1.0, 3.5, 5.0, NAN]))
    assert made.play.tolist() == [2, 3, 8, PLAY_BUCKETS, 0]


def test_what_was_never_played_costs_nothing() -> None:
    assert event_features(make_log(click=[1, 0])).n_play == 0


def test_labels_hold_what_was_done_and_unknown_is_not_done() -> None:
    made = event_features(make_log(like=[1, 0, -1], click=[1, 1, 1], follow=[-1, 0, 1]))
    assert made.behaviours == ("like", "follow")  # everyone clicked: that says nothing
    assert made.labels.tolist() == [[1, 0], [0, 0], [0, 1]]
