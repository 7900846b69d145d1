"""Tokens in and out of the grid."""

import pytest
import torch
from torch import nn

from onerec.model import packing
from onerec.model.layers import EncoderBlock
from onerec.model.moe import MixtureOfExperts
from onerec.model.packing import Packing, Segments, in_front, one_after_another, packs, rounded

MASK = torch.tensor([[True, False, True], [True, False, False]])
ROWS = torch.tensor([3, 0, 2])


def test_tokens_stand_where_their_rows_say():
    tokens = torch.tensor([[1.0], [2.0], [3.0]])
    grid = Packing(MASK, ROWS).unpack(tokens)
    assert grid[..., 0].tolist() == [[2.0, 0.0, 3.0], [1.0, 0.0, 0.0]]
    assert Packing(MASK, ROWS).pack(grid).equal(tokens)
    assert Packing(MASK).attendable.shape == (2, 1, 1, 3)


def test_without_rows_the_tokens_are_the_grid():
    grid = torch.arange(12.0).view(2, 3, 2)
    assert Packing(MASK).unpack(grid) is grid
    assert Packing(MASK).pack(grid) is grid


def test_a_grid_with_little_padding_stays_and_in_training_one_with_hardly_any():
    mask = torch.ones(2, 10).bool()
    mask[0, 0] = False
    rows = mask.flatten().nonzero()[:, 0].flip(0)
    tokens = torch.randn(19, 2)
    with torch.no_grad():
        grid, packing = Packing(mask, rows).filled(tokens)
        assert Packing(MASK, ROWS).filled(tokens[:3])[0].shape == (3, 2)  # half is padding
    assert packing.rows is None
    assert grid.flatten(0, 1)[rows].equal(tokens)
    assert grid[0, 0].eq(0).all()
    assert Packing(mask, rows).filled(tokens)[0] is tokens  # a gradient may be asked for
    full = Packing(torch.ones(2, 10).bool(), torch.arange(20))
    grid, packing = full.filled(torch.randn(20, 2, requires_grad=True))
    assert packing.rows is None
    assert grid.requires_grad


def test_both_directions_have_the_gradient_of_finite_differences():
    packing = Packing(MASK, ROWS)
    tokens = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    grid = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(packing.unpack, tokens)
    assert torch.autograd.gradcheck(packing.pack, grid)


def test_nobody_is_a_grid_too():
    packing = Packing(torch.ones(0, 3).bool(), torch.zeros(0).long())
    assert packing.pack(packing.unpack(torch.zeros(0, 4))).shape == (0, 4)


def test_a_gpu_keeps_the_padding_but_in_the_training_of_a_wide_model():
    assert packs(torch.device("cpu"), 8)
    assert not packs(torch.device("cuda"), packing.WIDE - 1)
    assert packs(torch.device("cuda"), packing.WIDE), "but for a wide model in training"
    with torch.no_grad():
        assert not packs(torch.device("cuda"), packing.WIDE)


def test_tokens_go_in_front_in_their_order_and_segments_say_where_they_end():
    grid = torch.arange(12.0).view(2, 3, 2)
    moved, packing = in_front(grid, MASK)
    assert moved[0].equal(grid[0, [0, 2, 1]])
    assert moved[1].equal(grid[1])
    assert packing.mask.tolist() == [[True, True, False], [True, False, False]]
    assert packing.segments.tolist() == [0, 2, 3, 4, 6]
    assert packing.segments.dtype == torch.int32


@pytest.mark.parametrize("packed", [False, True])
def test_tokens_one_after_another_say_where_rows_begin_and_which_exist(packed, monkeypatch):
    monkeypatch.setattr(packing, "TILE", 4)
    grid = torch.arange(12.0).view(2, 3, 2)
    given = (grid.flatten(0, 1)[ROWS], Packing(MASK, ROWS)) if packed else (grid, Packing(MASK))
    tokens, where = one_after_another(*given)
    assert tokens.tolist() == [*grid[MASK].tolist(), [0.0, 0.0]]
    assert where.segments.tolist() == [0, 2, 3, 4]
    assert where.segments.dtype == torch.int32
    assert where.exists.tolist() == where.counted.tolist() == [True, True, True, False]
    assert (where.attendable.ends.tolist(), where.attendable.longest) == ([0, 2, 3, 4], 4)
    assert where.longest == 4, "those that do not exist are a sequence too"
    monkeypatch.setattr(packing, "TILE", 3)
    tokens, where = one_after_another(*given)
    assert (len(tokens), where.segments.tolist()) == (3, [0, 2, 3, 3])


def test_a_grid_without_padding_is_known_to_be_full():
    grid, all_of_it = torch.arange(12.0).view(2, 3, 2), torch.ones(2, 3).bool()
    rows = torch.tensor([3, 0, 2, 1, 5, 4])
    for given in ((grid, Packing(all_of_it)), (grid.flatten(0, 1)[rows], Packing(all_of_it, rows))):
        tokens, where = one_after_another(*given)
        assert tokens.equal(grid)
        assert where.full
        assert where.attendable is where.counted is where.rows is where.segments is None


def test_a_training_batch_has_a_round_number_of_tokens_that_change_nothing(monkeypatch):
    monkeypatch.setattr(packing, "ROUND", 2)
    tokens = torch.tensor([[1.0], [2.0], [3.0]])
    more, where = rounded(tokens, Packing(MASK, ROWS))
    assert more[:, 0].tolist() == [1.0, 2.0, 3.0, 0.0]
    assert where.rows.tolist() == [3, 0, 2, 1]  # the first place of the padding
    assert where.spare == 1
    assert where.counted.tolist() == [True, True, True, False]
    assert where.unpack(more)[MASK].equal(Packing(MASK, ROWS).unpack(tokens)[MASK])
    torch.manual_seed(0)
    block = EncoderBlock(8, 2, 0.0, MixtureOfExperts(8, 8, 2, 1)).train()
    for weight in block.parameters():
        nn.init.normal_(weight, std=0.3)
    x = torch.randn(3, 8, requires_grad=True)
    plain = block(x, Packing(MASK, ROWS))
    load = block.ffn.load.clone()
    block.ffn.load.zero_()
    again = block(*rounded(x, Packing(MASK, ROWS)))
    torch.testing.assert_close(again[:3], plain)
    assert block.ffn.load.equal(load), "no load counts what does not exist"
    (one,) = torch.autograd.grad(plain.square().sum(), x)
    (other,) = torch.autograd.grad(again[:3].square().sum(), x)
    torch.testing.assert_close(one, other)


def test_tokens_stay_as_they_are_where_rounding_is_not_wanted_or_not_possible(monkeypatch):
    monkeypatch.setattr(packing, "ROUND", 2)
    tokens, where = torch.ones(3, 1), Packing(MASK, ROWS)
    with torch.no_grad():
        assert rounded(tokens, where)[1] is where
    assert rounded(tokens, Packing(MASK))[1].spare == 0  # a grid
    full = Packing(torch.ones(1, 3).bool(), torch.arange(3))
    assert rounded(tokens, full)[1] is full  # no padding to take
    monkeypatch.setattr(packing, "ROUND", 3)
    assert rounded(tokens, where)[1] is where


def test_queries_belong_to_the_tokens_of_a_row_and_never_to_padding():
    """By hand: two rows of 3 and 1 tokens in a grid of 4, five queries each."""
    mask = torch.tensor([[True, False, True, True], [False, True, False, False]])
    grid, packing = in_front(torch.arange(8.0).view(2, 4, 1), mask)
    assert grid[..., 0].tolist() == [[0.0, 2.0, 3.0, 1.0], [5.0, 4.0, 6.0, 7.0]]
    among = packing.attendable
    assert isinstance(among, Segments)
    assert among.ends.tolist() == [0, 3, 4, 5, 8]  # tokens, padding, token, padding
    assert among.begins(2, 5).tolist() == [0, 5, 5, 10, 10]  # padding is asked by nobody
    tokens, packing = one_after_another(torch.zeros(2, 4, 1), Packing(mask))
    among = packing.attendable
    assert isinstance(among, Segments)
    assert among.ends.tolist() == [0, 3, 4, len(tokens)]
    assert among.begins(2, 5).tolist() == [0, 5, 10, 10]  # and so is what fills up the end
