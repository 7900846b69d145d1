"""The log's own feedback as groups, by hand; what may not be read never enters."""

from dataclasses import replace

import numpy as np
import pytest

from onerec.data.log import Interactions, user_offsets
from onerec.data.sources.world import make_world_dataset
from onerec.data.split import make_split
from onerec.errors import DataError
from onerec.pipeline.feedback import LoggedFeedback
from onerec.reward.feedback import ENOUGH
from onerec.world import WorldConfig

USER = [0, 0, 0, 0, 0, 1, 1, 1, 2]
PLAY = [1, 2, 3, 4, 99, 5, 6, 7, 8]  # seconds, all of videos of one length
TRAIN = np.array([1, 1, 1, 1, 0, 1, 1, 1, 1], dtype=bool)  # row 4 is for testing


def make_log(user=USER, play=PLAY, dislike=(), **columns) -> Interactions:
    user = np.array(user, dtype=np.int32)
    n, people = len(user), int(user.max()) + 1
    flags = np.zeros(n, dtype=np.int8)
    flags[list(dislike)] = 1
    columns = {
        "play_ms": np.array(play, dtype=np.float32) * 1000,
        "duration_ms": np.full(n, 20_000, dtype=np.float32),
        "dislike": flags,
    } | columns
    item, offsets = np.arange(n, dtype=np.int32) + 10, user_offsets(user, people)
    return Interactions(user, item, offsets, people, n + 10, columns, item > 0, "every row")


def groups(log, user, end, size, **more):
    made = LoggedFeedback(log, TRAIN, **more).groups(np.array(user), np.array(end), size)
    return [each.tolist() for each in made]


def test_a_group_is_what_the_user_was_shown_next() -> None:
    """Quantiles are k/8 for the k-th longest play, so the top quarter of four rows is one row."""
    items, advantage = groups(make_log(), [0, 1], [2, 6], 2)
    assert items == [[12, 13], [16, 17]]
    assert advantage == [[0, 0], [0, 1]]
    items, advantage = groups(make_log(), [0, 2, 1], [3, 8, 5], 3)
    assert items == [[13, -1, -1], [18, -1, -1], [15, 16, 17]]  # of quantiles 4, 8, 5, 6, 7
    assert advantage == [[0, 0, 0], [1, 0, 0], [0, 0, 0]]
    assert groups(make_log(), [2], [9], 2) == [[[-1, -1]], [[0, 0]]]


def test_types_and_the_two_ways_to_say_which_rows() -> None:
    items, advantage = LoggedFeedback(make_log(), TRAIN).groups(np.array([0]), np.array([0]), 9)
    assert (items.dtype, advantage.dtype) == (np.int64, np.float32)
    same, _ = LoggedFeedback(make_log(), np.flatnonzero(TRAIN)).groups(
        np.array([0]), np.array([0]), 9
    )
    assert same.tolist() == items.tolist() == [[10, 11, 12, 13, -1, -1, -1, -1, -1]]


def test_a_row_that_may_not_be_read_never_enters() -> None:
    """Neither into a group, nor as anybody's past; and a user's other rows behind it still do."""
    short = make_log(play=[1, 2, 3, 4, 0, 5, 6, 7, 8])
    assert LoggedFeedback(make_log(), TRAIN).quantile.tolist() == (
        LoggedFeedback(short, TRAIN).quantile.tolist()
    )
    shown = make_log(dislike=[4])
    assert groups(shown, [0, 1], [0, 5], 8) == groups(make_log(), [0, 1], [0, 5], 8)
    gap = TRAIN.copy()
    gap[[2, 4]] = False, True
    items, _ = LoggedFeedback(make_log(), gap).groups(np.array([0, 0]), np.array([1, 2]), 3)
    assert items.tolist() == [[11, 13, 14], [13, 14, -1]]


def test_a_dislike_outweighs_a_long_play() -> None:
    _, advantage = groups(make_log(dislike=[7]), [0, 1], [2, 6], 2)
    assert advantage == [[0, 0], [0, -1]]
    _, advantage = groups(make_log(dislike=[2]), [0, 1], [2, 6], 2)
    assert advantage == [[-1, 0], [0, 1]]


def test_what_came_later_is_nobodys_past() -> None:
    """Each play is longer than those before it: none of his earlier plays was longer, so 1."""
    n = ENOUGH + 3
    rising = LoggedFeedback(make_log([0] * n, range(n)), np.ones(n, dtype=bool))
    assert rising.quantile[ENOUGH:].tolist() == [1, 1, 1]
    falling = LoggedFeedback(make_log([0] * n, range(n)[::-1]), np.ones(n, dtype=bool))
    assert falling.quantile[ENOUGH:].tolist() == [0, 0, 0]


def test_unknown_plays_and_durations() -> None:
    """The item's duration stands in for the event's; a play without either is worth nothing."""
    log = make_log(play=[1, 2, np.nan, 4, 99, 5, 6, 7, 8], dislike=[2])
    made = LoggedFeedback(log, TRAIN)
    assert np.isnan(made.quantile).tolist() == [False, False, True, *[False] * 5]
    assert made.quantile[-1] == 1
    _, advantage = made.groups(np.array([0, 1]), np.array([2, 6]), 2)
    assert advantage.tolist() == [[-1, 0], [0, 1]]
    bare = make_log(duration_ms=np.full(9, np.nan, dtype=np.float32))
    lengths = np.full(19, 20_000.0)
    assert groups(bare, [0, 1], [2, 6], 2, item_duration_ms=lengths)[1] == [[0, 0], [0, 1]]
    lengths[16] = np.nan
    assert np.isnan(LoggedFeedback(bare, TRAIN, lengths).quantile).sum() == 1


def test_a_log_without_dislikes_has_none() -> None:
    log = make_log()
    log = replace(log, columns={k: v for k, v in log.columns.items() if k != "dislike"})
    assert groups(log, [0, 1], [2, 6], 2)[1] == [[0, 0], [0, 1]]


def test_refusals() -> None:
    log = make_log()
    none = np.full(9, np.nan, dtype=np.float32)
    for column, message in (("play_ms", "has a play_ms"), ("duration_ms", "has a duration")):
        without = {name: values for name, values in log.columns.items() if name != column}
        for columns in (without, log.columns | {column: none}):
            with pytest.raises(DataError, match=message):
                LoggedFeedback(replace(log, columns=columns), TRAIN)
    with pytest.raises(ValueError, match="size=0"):
        LoggedFeedback(log, TRAIN).groups(np.array([0]), np.array([0]), 0)


def test_of_a_split_reads_its_training_rows_and_the_catalogue(tmp_path) -> None:
    config = WorldConfig(n_items=500, n_users=30, mean_history=20)
    dataset = make_world_dataset("w", config, tmp_path)
    split = make_split(dataset, "temporal")
    made = LoggedFeedback.of(dataset, split)
    assert made.rows.tolist() == np.flatnonzero(split.train).tolist()
    without = {k: v for k, v in split.log.columns.items() if k != "duration_ms"}
    bare = replace(split, log=replace(split.log, columns=without))
    assert np.array_equal(LoggedFeedback.of(dataset, bare).quantile, made.quantile)
    items, advantage = made.groups(split.test.user, split.test.end, 5)
    assert (items == -1).all()
    assert not advantage.any()
