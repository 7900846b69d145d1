"""Swing: four users by hand, the definition as a double loop in float64, and what limits leave."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from onerec.errors import DataError, RecipeError
from onerec.tokenizer import swing as module
from onerec.tokenizer.swing import ItemSimilarity, SwingConfig, swing

# A {0, 1, 2}, B {0, 1}, C {0, 1, 2}, D {0, 2}: AB share 2 items, AC 3, AD 2, BC 2, BD 1, CD 2.
USER = np.array([7, 7, 7, 1, 1, 4, 4, 4, 9, 9])
ITEM = np.array([0, 1, 2, 1, 0, 2, 1, 0, 0, 2])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scores(similarity: ItemSimilarity) -> dict[tuple[int, int], float]:
    pairs = zip(similarity.first.tolist(), similarity.second.tolist(), strict=True)
    return dict(zip(pairs, similarity.score.tolist(), strict=True))


def by_definition(
    user: NDArray[np.int64], item: NDArray[np.int64], n_items: int, alpha: float, power: float
) -> NDArray[np.float64]:
    """The formula, pair of users by pair of users."""
    owned = [set(item[user == u].tolist()) for u in np.unique(user)]
    result = np.zeros((n_items, n_items))
    for u in range(len(owned)):
        for v in range(u):
            both = owned[u] & owned[v]
            said = (len(owned[u]) * len(owned[v])) ** -power / (alpha + len(both)) if both else 0
            for i in both:
                for j in both - {i}:
                    result[i, j] += said
    return result


def random_log(rows: int, users: int, items: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    return rng.integers(0, users, rows), rng.integers(0, items, rows)


def test_four_users_by_hand() -> None:
    plain = swing(USER, ITEM, 4, generator(), SwingConfig(user_power=0.0))
    assert scores(plain) == pytest.approx(
        {(0, 1): 1 / 3 + 1 / 4 + 1 / 3, (0, 2): 1 / 4 + 1 / 3 + 1 / 3, (1, 2): 1 / 4}
    )
    # w is 3^-.5 for A and C, 2^-.5 for B and D.
    uneven = 6**-0.5 / 3
    assert scores(swing(USER, ITEM, 4, generator())) == pytest.approx(
        {(0, 1): 2 * uneven + 1 / 12, (0, 2): 2 * uneven + 1 / 12, (1, 2): 1 / 12}
    )
    wide = swing(USER, ITEM, 4, generator(), SwingConfig(alpha=7.0, user_power=0.0))
    assert scores(wide)[1, 2] == pytest.approx(1 / 10)


@pytest.mark.parametrize("at_a_time", [1, 60, 2**22])
@pytest.mark.parametrize(("rows", "users", "items"), [(400, 40, 25), (600, 12, 70), (30, 30, 30)])
def test_equals_the_definition_in_pieces_of_any_size(
    at_a_time: int, rows: int, users: int, items: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AT_A_TIME", at_a_time)
    user, item = random_log(rows, users, items)
    found = swing(user, item, items, generator(), SwingConfig(alpha=0.5, user_power=0.3))
    expected = by_definition(user, item, items, 0.5, 0.3)
    assert (found.first < found.second).all()
    assert (found.score > 0).all()
    dense = np.zeros((items, items))
    dense[found.first, found.second] = found.score
    np.testing.assert_allclose(dense + dense.T, expected, rtol=1e-12, atol=1e-15)
    one, other = np.divmod(np.arange(items**2), items)
    symmetric = found.of(one, other).reshape(items, items)
    np.testing.assert_allclose(symmetric, expected, rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(symmetric, symmetric.T)


def test_rows_in_another_order_or_twice_change_nothing() -> None:
    user, item = random_log(400, 40, 25)
    order = np.random.default_rng(1).permutation(400)
    order = np.concatenate([order, order[:50]])
    one, two = (swing(user[o], item[o], 25, generator()) for o in (np.arange(400), order))
    assert scores(one) == scores(two)
    assert one.counts == two.counts


def test_a_heavy_user_keeps_some_items_and_the_weight_of_all() -> None:
    """Both users have the same 6 items; 3 of each stay, and w is still 1 / sqrt(6)."""
    user, item = np.repeat([0, 1], 6), np.tile(np.arange(6), 2)
    found = swing(user, item, 6, generator(1), SwingConfig(user_limit=3))
    assert found.counts["heavy_users"] == 2
    assert found.counts["left_out_by_user_limit"] == 6
    shared = {3: 3, 2: 1, 1: 0, 0: 0}  # items in common -> pairs of them
    common = next(c for c, pairs in shared.items() if pairs == len(found))
    np.testing.assert_allclose(found.score, 1 / 6 / (1 + common))
    whole = swing(user, item, 6, generator(), SwingConfig(user_limit=6))
    assert len(whole) == 15
    assert whole.counts["heavy_users"] == whole.counts["left_out_by_user_limit"] == 0


def test_two_heavy_items_keep_the_users_that_they_share() -> None:
    """Users 0 to 39 have both items and others one: samples of their own would share few."""
    both, single = np.arange(40), np.arange(40, 100)
    user = np.concatenate([both, both, single, single + 60])
    item = np.repeat([0, 1, 0, 1], [40, 40, 60, 60])
    config = SwingConfig(user_power=0.0, item_limit=100)
    assert scores(swing(user, item, 2, generator(), config)) == {(0, 1): 40 * 39 / 2 / 3}
    limited = SwingConfig(user_power=0.0, item_limit=30)
    kept = []
    for seed in range(20):
        found = swing(user, item, 2, generator(seed), limited)
        assert found.counts["heavy_items"] == 2
        assert found.counts["left_out_by_item_limit"] == 140
        kept.append(found.score.sum() * 3 * 2)
    # About 30 of 100 users stay, so 12 of the 40 shared; of drawn apart it would be 3.6.
    assert 8 * 7 < np.mean(kept) < 16 * 15


def test_nearest_ranks_and_breaks_ties_by_number() -> None:
    found = swing(USER, ITEM, 4, generator())
    item, other, score = found.nearest(2)
    assert list(zip(item.tolist(), other.tolist(), strict=True)) == [
        (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1),
    ]  # fmt: skip
    np.testing.assert_array_equal(score, found.of(item, other))
    assert found.nearest(1)[1].tolist() == [1, 0, 0]


def test_what_is_not_known_is_nought() -> None:
    found = swing(USER, ITEM, 4, generator())
    assert found.of(np.array([3, 0, 1]), np.array([0, 0, 3])).tolist() == [0, 0, 0]


@pytest.mark.parametrize("user", [[], [0], [0, 1, 2], [5, 5, 5]])
def test_without_two_users_of_two_items_nothing_is_similar(user: list[int]) -> None:
    found = swing(np.array(user, int), np.arange(len(user)), 5, generator())
    assert len(found) == 0
    assert found.counts["cells"] == len(user)
    assert [len(part) for part in found.nearest(3)] == [0, 0, 0]
    assert found.of(np.array([0]), np.array([1])).tolist() == [0]


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(DataError, match="3 users and 2 items"):
        swing(np.arange(3), np.arange(2), 5, generator())
    with pytest.raises(DataError, match="items 0 to 5 of a catalogue of 5"):
        swing(np.arange(6), np.arange(6), 5, generator())
    with pytest.raises(RecipeError, match=r"swing alpha is -1\.0; it must be at least 0"):
        SwingConfig(alpha=-1.0)
    with pytest.raises(RecipeError, match="swing item_limit is 1; it must be at least 2"):
        SwingConfig(item_limit=1)


def test_each_limit_counts_what_it_leaves_out_itself() -> None:
    """User 0 keeps 2 of 5 items, item 9 then 2 of 3 users; item 0 has few of 30 left by then."""
    user, item = np.array([0, 0, 0, 0, 0, 1, 2, 3]), np.array([0, 1, 2, 3, 4, 9, 9, 9])
    config = SwingConfig(user_limit=2, item_limit=2)
    counts = swing(user, item, 10, generator(), config).counts
    assert (counts["left_out_by_user_limit"], counts["left_out_by_item_limit"]) == (3, 1)
    user, item = np.repeat(np.arange(30), 61), np.arange(30 * 61)
    item[::61] = 0
    config = SwingConfig(user_limit=2, item_limit=20)
    counts = swing(user, item, 30 * 61, generator(), config).counts
    assert (counts["heavy_users"], counts["heavy_items"]) == (30, 0)


def test_an_item_with_as_many_users_as_the_limit_is_not_heavy() -> None:
    """Item 0 has 4 users, the others 3."""
    for limit, heavy, left_out in ((4, 0, 0), (3, 1, 1)):
        counts = swing(USER, ITEM, 4, generator(), SwingConfig(item_limit=limit)).counts
        assert (counts["heavy_items"], counts["left_out_by_item_limit"]) == (heavy, left_out)


def test_a_user_of_a_single_item_would_make_no_pair() -> None:
    with pytest.raises(RecipeError, match="swing user_limit is 1; it must be at least 2"):
        SwingConfig(user_limit=1)
    assert SwingConfig(user_limit=2).user_limit == 2
