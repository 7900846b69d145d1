"""The trie: by hand, against a set of prefixes, and equal whichever way a level is stored."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from onerec.tokenizer.trie import Trie

# Five items, three levels of 3, 2 and 4 codes; items 1 and 3 share an id.
CODES = torch.tensor([[2, 0, 3], [0, 1, 2], [0, 0, 1], [0, 1, 2], [0, 1, 0]])
SIZES = (3, 2, 4)


@pytest.fixture(params=[2**24, 0], ids=["dense", "searched"])
def trie(request: pytest.FixtureRequest) -> Trie:
    return Trie(CODES, SIZES, torch.tensor([5, 1, 5, 9, 5]), dense_limit=request.param)


def test_numbers_prefixes_in_lexicographic_order(trie: Trie) -> None:
    # level 1: 0, 2 -- level 2: 00, 01, 20 -- leaves: 001, 010, 012, 203
    assert trie.nodes_per_level == [1, 2, 3, 4]
    assert trie.leaf_codes.tolist() == [[0, 0, 1], [0, 1, 0], [0, 1, 2], [2, 0, 3]]


def test_legal_by_hand(trie: Trie) -> None:
    assert trie.legal(0, torch.tensor([0])).tolist() == [[True, False, True]]
    assert trie.legal(1, torch.tensor([0, 1, -1])).tolist() == [
        [True, True],
        [True, False],
        [False, False],
    ]
    assert trie.legal(2, torch.tensor(1)).tolist() == [True, False, True, False]


def test_step_by_hand(trie: Trie) -> None:
    nodes = torch.tensor([[0, 0, 0], [1, 1, -1]])
    codes = torch.tensor([[0, 1, 2], [0, 1, 0]])  # code 2 is outside level 2 of size 2
    assert trie.step(1, nodes, codes).tolist() == [[0, 1, -1], [2, -1, -1]]


def test_step_refuses_a_code_that_would_reach_into_the_next_node(trie: Trie) -> None:
    """Node 0 with code N is node 1 with code 0 in a flat table; -1 is the last code before."""
    assert trie.step(1, torch.tensor([0, 1]), torch.tensor([2, -1])).tolist() == [-1, -1]


def test_continuations_by_hand(trie: Trie) -> None:
    codes, nodes = trie.continuations(1, torch.tensor([0, 1, -1]))
    assert codes.tolist() == [[0, 1], [0, -1], [-1, -1]]
    assert nodes.tolist() == [[0, 1], [2, -1], [-1, -1]]


def test_leaves_hold_items_by_popularity(trie: Trie) -> None:
    assert trie.items_of(2).tolist() == [3, 1]
    assert trie.leaf_start.tolist() == [0, 1, 2, 4, 5]
    assert trie.leaf_of(CODES).tolist() == [3, 2, 0, 2, 1]
    assert trie.leaf_of(torch.tensor([[0, 0, 0], [1, 0, 0], [9, 0, 0]])).tolist() == [-1, -1, -1]
    assert trie.is_legal(torch.tensor([[2, 0, 3], [2, 1, 3]])).tolist() == [True, False]


def test_expand_gives_each_item_one_rank(trie: Trie) -> None:
    items, beam = trie.expand(torch.tensor([[2, -1, 3], [0, 1, 2], [-1, -1, -1]]), 3)
    assert items.tolist() == [[3, 1, 0], [2, 4, 3], [-1, -1, -1]]
    assert beam.tolist() == [[0, 0, 2], [0, 1, 2], [-1, -1, -1]]
    items, beam = trie.expand(torch.tensor([2, 1]), 5)
    assert items.tolist() == [3, 1, 4, -1, -1]
    assert beam.tolist() == [0, 0, 1, -1, -1]


def test_equal_popularity_is_broken_by_the_seed() -> None:
    codes = torch.zeros(50, 1, dtype=torch.int64)
    order = [Trie(codes, (1,), seed=seed).items_of(0).tolist() for seed in (0, 0, 1)]
    assert order[0] == order[1] != order[2]
    assert order[0] != list(range(50))
    assert sorted(order[0]) == list(range(50))


def test_a_checkpoint_holds_nothing_of_it(trie: Trie) -> None:
    assert trie.state_dict() == {}
    assert trie.to("cpu") is trie  # a method named `children` once broke this


class SlowTrie:
    """The obvious one: a set of prefixes."""

    def __init__(self, codes: Tensor) -> None:
        rows = [tuple(row) for row in codes.tolist()]
        self.level = [
            sorted({row[:length] for row in rows}) for length in range(codes.shape[1] + 1)
        ]

    def children(self, level: int, node: int) -> dict[int, int]:
        if node < 0:
            return {}
        prefix = self.level[level][node]
        following = enumerate(self.level[level + 1])
        return {row[-1]: child for child, row in following if row[:-1] == prefix}


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    n=st.integers(1, 40),
    seed=st.integers(0, 1000),
    limit=st.sampled_from([0, 7, 2**24]),
)
def test_equals_a_set_of_prefixes(sizes: list[int], n: int, seed: int, limit: int) -> None:
    rng = np.random.default_rng(seed)
    codes = torch.from_numpy(rng.integers(0, sizes, size=(n, len(sizes))))
    trie, slow = Trie(codes, sizes, dense_limit=limit), SlowTrie(codes)
    for level, size in enumerate(sizes):
        nodes = torch.arange(-1, len(slow.level[level]))
        expected = [slow.children(level, int(node)) for node in nodes]
        tried = torch.arange(-1, size + 1).expand(len(nodes), -1)
        found = trie.step(level, nodes[:, None].expand_as(tried), tried)
        assert found.tolist() == [
            [kids.get(c, -1) for c in range(-1, size + 1)] for kids in expected
        ]
        assert trie.legal(level, nodes).tolist() == [
            [c in kids for c in range(size)] for kids in expected
        ]
        listed, below = trie.continuations(level, nodes)
        for kids, left, right in zip(expected, listed.tolist(), below.tolist(), strict=True):
            assert dict(zip(left, right, strict=True)) | {-1: -1} == kids | {-1: -1}
    assert trie.leaf_codes[trie.leaf_of(codes)].equal(codes)
    found_items = [i for leaf in range(trie.n_leaves) for i in trie.items_of(leaf).tolist()]
    assert sorted(found_items) == list(range(n))


def test_levels_may_be_stored_differently() -> None:
    """Every code of every node agrees between tables and sorted edges, for many beams at once."""
    codes = torch.from_numpy(np.random.default_rng(0).integers(0, (30, 70, 11), size=(4000, 3)))
    dense, sparse = Trie(codes, (30, 70, 11)), Trie(codes, (30, 70, 11), dense_limit=30)
    assert [dense.is_dense(level) for level in range(3)] == [True, True, True]
    assert [sparse.is_dense(level) for level in range(3)] == [True, False, False]
    for level in range(3):
        nodes = torch.arange(dense.nodes_per_level[level]).view(-1, 1)
        every = torch.arange(dense.sizes[level]).expand(len(nodes), -1)
        assert dense.legal(level, nodes).equal(sparse.legal(level, nodes))
        below = dense.step(level, nodes.expand_as(every), every)
        assert below.equal(sparse.step(level, nodes.expand_as(every), every))
        assert below.dtype == torch.int64


def test_many_items_at_three_levels_of_8192() -> None:
    codes = torch.from_numpy(np.random.default_rng(0).integers(0, 8192, size=(200_000, 3)))
    trie = Trie(codes, (8192, 8192, 8192))
    assert trie.leaf_codes[trie.leaf_of(codes)].equal(codes)
    assert [trie.is_dense(level) for level in range(3)] == [True, False, False]


@pytest.mark.parametrize(
    ("codes", "sizes", "popularity", "message"),
    [
        (torch.zeros(0, 3), (2, 2, 2), None, "not empty"),
        (torch.zeros(4, 2), (2, 2, 2), None, "2 levels but 3 sizes"),
        (torch.tensor([[0, 2]]), (2, 2), None, "level 2 has codes 2 to 2, outside 0 to 1"),
        (torch.tensor([[-1, 0]]), (2, 2), None, "level 1 has codes -1"),
        (torch.zeros(4, 2), (2, 2), torch.zeros(3), "3 values for 4 items"),
    ],
)
def test_says_what_does_not_fit(
    codes: Tensor, sizes: tuple[int, ...], popularity: Tensor | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Trie(codes, sizes, popularity)


def test_product_of_sizes_may_exceed_64_bits() -> None:
    """Eight levels of 8192 codes are 2^104 ids; keys are made per level and never overflow."""
    codes = torch.tensor(list(itertools.islice(itertools.cycle([[8191] * 8, [0] * 8]), 4)))
    trie = Trie(codes, (8192,) * 8)
    assert trie.n_leaves == 2
    assert trie.leaf_of(codes).tolist() == [1, 0, 1, 0]
