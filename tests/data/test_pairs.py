"""Pairs of a split: what is not for training must not be able to change them."""

import dataclasses

import numpy as np
import pytest
import torch

from onerec.data.log import Interactions, user_offsets
from onerec.data.pairs import ItemPairs, training_pairs
from onerec.data.split import make_split
from onerec.tokenizer.swing import swing


def make_log(seed: int = 0, users: int = 60, items: int = 20) -> Interactions:
    rng = np.random.default_rng(seed)
    user = np.sort(rng.integers(0, users, 900)).astype(np.int32)
    time = rng.permutation(900).astype(np.int64)
    return Interactions(
        user=user,
        item=rng.integers(0, items, 900).astype(np.int32),
        offsets=user_offsets(user, users),
        n_users=users,
        n_items=items + 1,
        columns={"timestamp": time[np.lexsort((time, user))]},
        positive=rng.random(900) < 0.7,
        positive_rule="click",
    )


def pairs_of(log: Interactions, rule: str) -> ItemPairs:
    return training_pairs(make_split(log, rule), torch.Generator().manual_seed(0))


@pytest.mark.parametrize("rule", ["leave_one_out", "temporal"])
def test_items_of_valid_and_test_rows_change_nothing(rule: str) -> None:
    """Every row outside training gets an item that no other row has."""
    log = make_log()
    split = make_split(log, rule)
    assert (~split.train & log.positive).sum() > 0
    item = log.item.copy()
    item[~split.train] = log.n_items - 1
    changed = dataclasses.replace(log, item=item)
    assert (make_split(changed, rule).train == split.train).all()
    before, after = pairs_of(log, rule), pairs_of(changed, rule)
    assert before.counts == after.counts
    np.testing.assert_array_equal(before.item_to_item, after.item_to_item)
    np.testing.assert_array_equal(before.user_to_item, after.user_to_item)
    assert len(before.item_to_item) > 100
    assert len(before.user_to_item) > 100
    assert after.item_to_item.max() < log.n_items - 1


def test_rows_that_are_no_success_change_nothing() -> None:
    log = make_log()
    item = np.where(log.positive, log.item, log.n_items - 1).astype(np.int32)
    before = pairs_of(log, "leave_one_out")
    after = pairs_of(dataclasses.replace(log, item=item), "leave_one_out")
    assert before.counts == after.counts
    np.testing.assert_array_equal(before.user_to_item, after.user_to_item)


def test_a_training_row_does_change_them() -> None:
    log = make_log()
    split = make_split(log, "leave_one_out")
    row = int(np.flatnonzero(split.train & log.positive)[0])
    item = log.item.copy()
    item[row] = log.n_items - 1
    before = pairs_of(log, "leave_one_out")
    after = pairs_of(dataclasses.replace(log, item=item), "leave_one_out")
    assert before.counts != after.counts
    assert before.counts["positive_train_rows"] == int((split.train & log.positive).sum())
    assert before.counts["user_to_item"] == len(before.user_to_item)


def test_how_many_rows_before_a_target_are_looked_at_can_be_said() -> None:
    split = make_split(make_log(), "leave_one_out")
    few, many = (
        training_pairs(split, torch.Generator().manual_seed(0), recent=recent).counts
        for recent in (1, 20)
    )
    assert few["user_to_item"] < many["user_to_item"]
    assert few["item_to_item"] == many["item_to_item"]


def test_how_many_neighbours_an_item_has_can_be_said() -> None:
    split = make_split(make_log(), "leave_one_out")
    made = training_pairs(split, torch.Generator().manual_seed(0), neighbours=3)
    assert np.bincount(made.item_to_item[:, 0]).max() == 3
    log = split.train_log()
    similarity = swing(
        log.user[log.positive],
        log.item[log.positive],
        log.n_items,
        torch.Generator().manual_seed(0),
    )
    nearest = np.stack(similarity.nearest(3)[:2], axis=1)
    np.testing.assert_array_equal(made.item_to_item, nearest)
    assert made.counts["similar_pairs"] == len(similarity) > len(nearest)
    assert made.counts["item_to_item"] == len(nearest) != made.counts["user_to_item"]
