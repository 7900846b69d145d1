"""Popularity: counts by hand, and which rows may count."""

import numpy as np
import pytest
import torch

from onerec.baselines.popularity import GRID, PopularityConfig, fit


@pytest.fixture
def split(toy):
    log = toy.log(
        [[(0, 1), (1, 1), (2, 0), (3, 1)], [(1, 1), (0, 1), (3, 1)], [(1, 1), (2, 1), (3, 1)]],
        n_items=5,
        timestamps=[10, 20, 30, 99, 40, 50, 99, 60, 70, 99],
    )
    cases = toy.cases([0, 1, 2], [3, 6, 9], [[3], [3], [3]])
    return toy.split(log, [3, 6, 9], cases, cases)


def test_only_training_positives_count(split, generator):
    """Item 3 is everybody's target, and item 2 was once shown without success."""
    model = fit(split, PopularityConfig(), generator)
    assert model.scores.tolist() == [2, 3, 1, 0, 0]
    ranked = model.recommend(split, split.test, 3)
    assert ranked.tolist() == [[1, 0, 2]] * 3
    assert ranked.dtype == np.int64


def test_half_life_by_hand(split, generator):
    """Seven training rows: with a half-life of 2/7, every two later rows halve a weight."""
    model = fit(split, PopularityConfig(half_life=2 / 7), generator)
    later = {10: 6, 20: 5, 40: 3, 50: 2, 60: 1, 70: 0}
    weight = {time: 0.5 ** (rows / 2) for time, rows in later.items()}
    expected = [weight[10] + weight[50], weight[20] + weight[40] + weight[60], weight[70], 0, 0]
    assert model.scores.tolist() == pytest.approx(expected)


def test_rows_of_one_moment_weigh_the_same(toy, generator):
    log = toy.log([[(0, 1), (1, 1)], [(2, 1)]], 3, timestamps=[5, 5, 5])
    split = toy.split(log, [2, 3], None, None)
    assert len(set(fit(split, PopularityConfig(half_life=0.1), generator).scores.tolist())) == 1


def test_without_a_clock_every_event_weighs_one(split, generator):
    split.log.columns.clear()
    assert fit(split, PopularityConfig(half_life=0.1), generator).scores.tolist() == [2, 3, 1, 0, 0]


def test_seen_items_are_left_out_on_request(split, generator):
    ranked = fit(split, PopularityConfig(), generator).recommend(split, split.test, 4, True)
    assert [set(row) - {-1} for row in ranked.tolist()] == [{3, 4}, {2, 3, 4}, {0, 3, 4}]
    assert ranked[0, 2:].tolist() == [-1, -1]


def test_seed_decides_ties(split):
    split.log.positive[:] = False
    lists = set()
    for seed in range(8):
        model = fit(split, PopularityConfig(), torch.Generator().manual_seed(seed))
        lists.add(tuple(model.recommend(split, split.test, 5)[0].tolist()))
    assert len(lists) > 1


def test_settings(split, generator):
    assert GRID[0] == PopularityConfig()
    assert len(set(GRID)) == len(GRID)
    with pytest.raises(ValueError, match="above 0"):
        fit(split, PopularityConfig(half_life=0.0), generator)
