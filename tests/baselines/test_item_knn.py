"""Item-KNN: similarities by hand, then dense numpy as the reference, then the bugs once seen."""

import numpy as np
import pytest
import torch

from onerec.baselines import item_knn
from onerec.baselines.item_knn import GRID, ItemKNNConfig, co_users, fit

PLAIN = ItemKNNConfig(shrinkage=0.0, neighbours=10, half_life=None)


@pytest.fixture
def split(toy):
    """Item 4 occurs as a target only; item 2 only once with a positive."""
    log = toy.log(
        [[(0, 1), (1, 1), (0, 1), (4, 1)], [(0, 1), (1, 0), (2, 1), (4, 1)], [(1, 1), (4, 1)]],
        n_items=6,
    )
    cases = toy.cases([0, 1, 2], [3, 7, 9], [[4], [4], [4]])
    return toy.split(log, [3, 7, 9], cases, cases)


def test_overlap_counts_users_once_and_training_rows_only(split):
    assert co_users(split, positives_only=False).toarray()[:3, :3].tolist() == [
        [2, 2, 1],
        [2, 3, 1],
        [1, 1, 1],
    ]
    assert co_users(split, False).toarray()[4].sum() == 0
    assert co_users(split, positives_only=True).toarray()[1].tolist() == [1, 2, 0, 0, 0, 0]


def test_cosine_and_shrinkage_by_hand(split, generator):
    plain = fit(split, PLAIN, generator).similarity.toarray()
    assert plain[0, 1] == pytest.approx(2 / np.sqrt(2 * 3))
    assert plain[0, 2] == pytest.approx(1 / np.sqrt(2 * 1))
    assert (np.diag(plain) == 0).all()
    shrunk = fit(split, ItemKNNConfig(shrinkage=5.0, neighbours=10), generator).similarity
    assert shrunk.toarray()[0, 1] == pytest.approx(2 / (np.sqrt(6) + 5))


def test_ranks_by_similarity_then_popularity(split, generator):
    """User 2 has item 1 alone: 0 is closer to it than 2. The rest, never seen together with it,
    follows by popularity, and then by the permutation."""
    ranked = fit(split, PLAIN, generator).recommend(split, split.test, 6)
    assert ranked[2, :3].tolist() == [0, 2, 1]
    assert set(ranked[2, 3:].tolist()) == {3, 4, 5}


def test_recency_by_hand(toy, generator):
    """The latest event decides where an old one, twice as similar, has faded."""
    log = toy.log([[(0, 1), (2, 1)], [(0, 1), (2, 1)], [(1, 1), (3, 1)], [(0, 1), (1, 1)]], 4)
    cases = toy.cases([3], [8], [[3]])
    split = toy.split(log, log.offsets[1:], cases, cases)
    even = fit(split, PLAIN, generator).recommend(split, cases, 4, True)
    fading = ItemKNNConfig(shrinkage=0.0, neighbours=10, half_life=0.5)
    faded = fit(split, fading, generator).recommend(split, cases, 4, True)
    assert even[0, 0] == 2  # 2 / sqrt(3 * 2) against 1 / sqrt(2 * 1)
    assert faded[0].tolist() == [3, 2, -1, -1]  # the first now counts a quarter


def random_split(toy, rng, n_items=40, n_users=60):
    events = [
        [(int(i), int(rng.random() < 0.6)) for i in rng.integers(0, n_items, rng.integers(2, 15))]
        for _ in range(n_users)
    ]
    log = toy.log(events, n_items)
    cases = toy.cases(np.arange(n_users), log.offsets[1:] - 1, [[row[-1][0]] for row in events])
    return toy.split(log, log.offsets[1:] - 1, cases, cases)


@pytest.mark.parametrize(
    "config",
    [
        ItemKNNConfig(shrinkage=2.0, neighbours=5, half_life=3.0),
        ItemKNNConfig(shrinkage=0.0, neighbours=100, half_life=None, positives_only=True),
        ItemKNNConfig(shrinkage=10.0, neighbours=1, half_life=1.0, positives_only=True),
    ],
)
def test_against_dense_loops(toy, generator, config):
    split = random_split(toy, np.random.default_rng(0))
    log, n = split.log, split.log.n_items
    used = split.train & log.positive if config.positives_only else split.train
    table = np.zeros((log.n_users, n), dtype=np.float32)
    table[log.user[used], log.item[used]] = 1
    norm = np.sqrt(table.sum(0))
    similarity = (table.T @ table) / (np.outer(norm, norm) + np.float32(config.shrinkage) + 1e-30)
    np.fill_diagonal(similarity, 0)
    for row in similarity:
        row[row < np.sort(row)[-min(config.neighbours, n)]] = 0
    model = fit(split, config, generator)
    assert model.similarity.toarray() == pytest.approx(similarity, rel=1e-6)

    popularity = np.bincount(log.item[split.train & log.positive], minlength=n)
    ranked = model.recommend(split, split.test, 10)
    for user, end, mine in zip(split.test.user, split.test.end, ranked, strict=True):
        rows = [r for r in range(log.offsets[user], end) if used[r] or not config.positives_only]
        newest_first = log.item[rows][::-1].tolist()
        score = np.zeros(n)
        for item in set(newest_first):
            age = newest_first.index(item)
            fade = 1.0 if config.half_life is None else 0.5 ** (age / config.half_life)
            score += fade * similarity[item]
        score = np.where(score > 0, score, -1 / (1 + popularity))
        assert score[mine] == pytest.approx(np.sort(score)[::-1][:10], rel=1e-5)


def test_trying_settings_leaves_the_shared_overlap_alone(split, generator):
    """Once, dropping zeros of one similarity shortened the index arrays of the overlap it came
    from, and the second setting of a grid failed."""
    overlap = co_users(split, False)
    before = overlap.toarray()
    fit(split, ItemKNNConfig(neighbours=1), generator, overlap)
    assert np.array_equal(overlap.toarray(), before)
    assert len(overlap.indices) == len(overlap.data)


def test_neighbours_that_tie_at_the_border_all_stay(toy, generator):
    """Which of several equal neighbours stays must not depend on their ids."""
    log = toy.log([[(0, 1), (1, 1), (2, 1), (3, 1)]], 4)
    split = toy.split(log, [4], None, None)
    model = fit(split, ItemKNNConfig(neighbours=2), generator)
    assert np.diff(model.similarity.indptr).tolist() == [3, 3, 3, 3]


def test_same_seed_same_lists(toy):
    split = random_split(toy, np.random.default_rng(1))
    first, again = (
        fit(split, GRID[0], torch.Generator().manual_seed(3)).recommend(split, split.test, 10)
        for _ in range(2)
    )
    assert np.array_equal(first, again)


def test_settings(split, generator):
    assert GRID[0] == ItemKNNConfig()
    assert len(set(GRID)) == len(GRID)
    for wrong in (ItemKNNConfig(neighbours=0), ItemKNNConfig(half_life=-1.0)):
        with pytest.raises(ValueError, match="neighbours >= 1"):
            fit(split, wrong, generator)
    assert item_knn.ItemKNN.name == "item_knn"
