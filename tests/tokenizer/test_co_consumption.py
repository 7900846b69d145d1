"""Co-consumption: pair counts by hand and by loop, and vectors that know who goes with whom."""

from collections import Counter

import numpy as np
import pytest
import torch

from onerec.tokenizer import co_consumption as module
from onerec.tokenizer.co_consumption import co_consumption_vectors


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pairs(user: list[int], item: list[int], n_items: int) -> dict[tuple[int, int], int]:
    row, column, count = module._pair_counts(np.array(user), np.array(item), n_items, generator())
    return dict(zip(zip(row.tolist(), column.tolist(), strict=True), count.tolist(), strict=True))


def test_pair_counts_by_hand() -> None:
    """User 0 has items 0, 1, 1; user 7 has 0, 1, 2; user 3 has 3 alone."""
    found = pairs([0, 0, 0, 7, 7, 7, 3], [0, 1, 1, 1, 2, 0, 3], 5)
    assert found == {(0, 1): 2, (1, 0): 2, (0, 2): 1, (2, 0): 1, (1, 2): 1, (2, 1): 1}


@pytest.mark.parametrize("batch", [1, 50, 2**22])
def test_pair_counts_equal_the_loop_in_any_batch(
    batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, 30, 400), rng.integers(0, 20, 400)
    expected: Counter[tuple[int, int]] = Counter()
    for u in range(30):
        own = set(item[user == u].tolist())
        expected.update((a, b) for a in own for b in own if a != b)
    monkeypatch.setattr(module, "PAIRS_AT_A_TIME", batch)
    assert pairs(user.tolist(), item.tolist(), 20) == dict(expected)


def test_a_heavy_user_counts_for_a_limited_number_of_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "USER_LIMIT", 4)
    found = pairs([0] * 50 + [1, 1], [*range(50), 0, 1], 50)
    assert sum(found.values()) == 4 * 3 + 2


def test_a_user_after_a_heavy_one_has_the_pairs_of_his_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "USER_LIMIT", 4)
    found = pairs([0] * 50 + [1, 1], [*range(50), 50, 51], 52)
    assert found[50, 51] == found[51, 50] == 1
    assert len({first for first, _ in found}) == 4 + 2


def test_items_of_the_same_users_are_near() -> None:
    """Two groups of ten items; every user consumes six of one group."""
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(200), 6)
    item = np.concatenate([rng.permutation(10)[:6] + 10 * (u % 2) for u in range(200)])
    vectors = co_consumption_vectors(user, item, 22, 4, generator())
    assert vectors.shape == (22, 4)
    assert vectors.dtype == np.float32
    cosine = vectors[:20] @ vectors[:20].T
    assert cosine[:10, :10].mean() > 0.8
    assert cosine[10:, 10:].mean() > 0.8
    assert abs(cosine[:10, 10:]).mean() < 0.1
    assert not vectors[20:].any()  # never consumed
    again = co_consumption_vectors(user, item, 22, 4, generator())
    assert np.array_equal(vectors, again)


@pytest.mark.parametrize("user", [[], [0], [0, 1, 2]])
def test_no_company_gives_zeros(user: list[int]) -> None:
    vectors = co_consumption_vectors(np.array(user, int), np.arange(len(user)), 5, 3, generator())
    assert vectors.tolist() == np.zeros((5, 3)).tolist()


def test_vectors_are_those_of_the_formula() -> None:
    """ln(count / expected), the context to the power .75, nothing below 0; then u sqrt(s)."""
    rng = np.random.default_rng(1)
    user, item = rng.integers(0, 40, 300), np.minimum(rng.geometric(0.2, 300) - 1, 11)
    has = np.zeros((40, 12))
    has[user, item] = 1
    count = has.T @ has
    np.fill_diagonal(count, 0)
    weight = count.sum(1)
    expected = np.outer(weight, weight**0.75) / (weight**0.75).sum()
    ppmi = np.log(np.maximum(count / expected, 1))
    u, s, _ = np.linalg.svd(ppmi)
    wanted = u[:, :3] * np.sqrt(s[:3])
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    vectors = co_consumption_vectors(user, item, 12, 3, generator())
    np.testing.assert_allclose(vectors @ vectors.T, wanted @ wanted.T, atol=1e-4)


def test_which_items_of_a_heavy_user_count_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first by number would leave most of the catalogue without company."""
    monkeypatch.setattr(module, "USER_LIMIT", 4)
    kept = set()
    for seed in range(30):
        user, item = np.zeros(20, dtype=np.int64), np.arange(20)
        kept |= set(module._pair_counts(user, item, 20, generator(seed))[0].tolist())
    assert kept == set(range(20))
