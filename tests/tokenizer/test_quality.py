"""Quality of codes by hand, against the obvious loops, and against scikit-learn."""

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn import metrics as peer

from onerec.tokenizer.quality import (
    adjusted_rand,
    code_quality,
    information_nats,
    nearest_pairs,
    pairs_kept,
    prefix_groups,
    purity,
)


def random_codes(n: int = 300, levels: int = 3, size: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, size, (n, levels))


def test_groups_are_the_items_with_the_same_first_codes() -> None:
    codes = random_codes()
    for level, group in enumerate(prefix_groups(codes), start=1):
        names = {tuple(row[:level]): number for row, number in zip(codes, group, strict=True)}
        assert len(set(names.values())) == len(names) == group.max() + 1
        assert all(names[tuple(row[:level])] == g for row, g in zip(codes, group, strict=True))


def test_purity_and_information_by_hand() -> None:
    group, category = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 1])
    assert purity(group, category) == 4 / 5
    by_hand = (
        2 / 5 * math.log(2 * 5 / (3 * 2))
        + 1 / 5 * math.log(1 * 5 / (3 * 3))
        + 2 / 5 * math.log(2 * 5 / (2 * 3))
    )
    assert information_nats(group, category) == pytest.approx(by_hand)


def test_information_and_rand_index_equal_scikit_learns() -> None:
    first, second = random_codes(seed=1)[:, 0], random_codes(seed=2)[:, 0]
    second[:150] = first[:150]
    assert information_nats(first, second) == pytest.approx(peer.mutual_info_score(first, second))
    assert adjusted_rand(first, second) == pytest.approx(peer.adjusted_rand_score(first, second))
    assert adjusted_rand(first, first) == 1
    assert adjusted_rand(np.zeros(4, int), np.zeros(4, int)) == 1


def test_pairs_in_a_group_against_the_loop_over_all_ends() -> None:
    group = random_codes(40)[:, 0]
    pairs = np.random.default_rng(3).integers(0, 40, (60, 2))
    kept, chance = pairs_kept(group, pairs)
    assert kept == np.mean([group[i] == group[j] for i, j in pairs])
    ends = itertools.product(pairs[:, 0], pairs[:, 1])
    assert chance == pytest.approx(np.mean([group[i] == group[j] for i, j in ends]))


def test_nearest_pairs_equal_all_distances_and_no_item_is_its_own() -> None:
    x = torch.randn(80, 4, generator=torch.Generator().manual_seed(0))
    pairs = nearest_pairs(x, 3, 20, torch.Generator().manual_seed(1))
    assert pairs.shape == (60, 2)
    assert len(set(pairs[:, 0].tolist())) == 20
    assert set(pairs[:, 0].tolist()) != set(range(20)), "random items, not the first"
    apart = torch.cdist(x, x).fill_diagonal_(torch.inf)
    for item in set(pairs[:, 0].tolist()):
        near = set(pairs[pairs[:, 0] == item, 1].tolist())
        assert near == set(apart[item].argsort()[:3].tolist())


def test_codes_of_the_categories_tell_them_and_shuffled_ones_do_not() -> None:
    category = np.repeat(np.arange(5), 60)
    codes = random_codes()
    codes[:, 0] = category
    other = np.random.default_rng(9).permutation(300)
    neighbours = np.stack([np.arange(300), (np.arange(300) // 60) * 60], axis=1)
    first = code_quality(codes, category, neighbours)[0]
    assert first["groups"] == 5
    assert first["purity"] == first["neighbours"] == 1
    assert first["information_nats"] == pytest.approx(math.log(5))
    assert first["neighbours_chance"] == pytest.approx(1 / 5)
    by_chance = code_quality(codes[other], category, neighbours)[0]
    assert by_chance["purity"] == pytest.approx(by_chance["purity_chance"], abs=0.06)
    assert by_chance["neighbours"] == pytest.approx(1 / 5, abs=0.07)
    assert "consumed" not in by_chance
    last = code_quality(codes, category, None, neighbours)[-1]
    assert last["consumed"] < 0.1
    assert last["purity_chance"] > first["purity_chance"]


@pytest.mark.parametrize("seed", [0, 3])
def test_chance_is_the_mean_over_five_shuffles_that_the_seed_draws(seed: int) -> None:
    codes, category = random_codes(levels=1), random_codes(seed=4)[:, 0]
    random = np.random.default_rng(seed)
    shuffled = [random.permutation(category) for _ in range(5)]
    row = code_quality(codes, category, seed=seed)[0]
    for name, measure in (("purity", purity), ("information_nats", information_nats)):
        by_hand = np.mean([measure(codes[:, 0], one) for one in shuffled])
        assert row[f"{name}_chance"] == pytest.approx(by_hand)
