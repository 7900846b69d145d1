"""Queries that read a sequence: by hand, and as attention written out."""

import pytest
import torch
from slow_attention import slow_sequences

from onerec.model import attention, qformer
from onerec.model.packing import Packing
from onerec.model.qformer import QFormer, QFormerConfig

MASK = torch.tensor([[True, True, False], [False, False, False], [True, False, True]])


def make(residual=False, queries=2, blocks=2, width=8):
    former = QFormer(QFormerConfig(queries, blocks, residual), width, 2, 0.0).double()
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in former.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=g) / parameter.shape[-1] ** 0.5)
    return former


def tokens_of(mask=MASK, width=8):
    return torch.randn(mask.numel(), width, generator=torch.Generator().manual_seed(1)).double()


def by_hand(former, own, residual):
    """One user's states from his tokens (S, D), head by head and block by block."""
    h = former.queries
    for block in former.blocks:
        keys, values = (own @ block.cross.key_value.weight.T).chunk(2, dim=-1)
        q = h @ block.cross.query.weight.T
        heads = []
        for part in range(2):
            cut = slice(4 * part, 4 * part + 4)
            weight = (q[:, cut] @ keys[:, cut].T / 2.0).softmax(-1)
            heads.append(weight @ values[:, cut])
        y = torch.cat(heads, 1) @ block.cross.out.weight.T
        h = h + y if residual else y
        normed = h / (h.square().mean(-1, keepdim=True) + 1e-6).sqrt() * block.ffn_norm.weight
        gate, up = (normed @ block.ffn.gate_up.weight.T).chunk(2, dim=-1)
        y = (gate * gate.sigmoid() * up) @ block.ffn.down.weight.T
        h = h + y if residual else y
    return h


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize(("packed", "segments"), [(False, False), (True, False), (True, True)])
def test_the_equation_is_the_papers(residual, packed, segments, monkeypatch):
    monkeypatch.setattr(qformer, "segments_serve", lambda device, head: segments)
    monkeypatch.setattr(attention, "varlen_attn", slow_sequences)
    former, tokens = make(residual), tokens_of()
    rows = torch.tensor([7 - 1, 8, 1, 0])  # the places that exist, in any order
    grid = tokens.view(3, 3, 8)
    states, where = former(
        *((tokens[rows], Packing(MASK, rows)) if packed else (grid, Packing(MASK)))
    )
    assert where.mask.tolist() == [[True] * 2, [False] * 2, [True] * 2]
    states = where.unpack(states)
    for user in (0, 2):
        wanted = by_hand(former, grid[user][MASK[user]], residual)
        torch.testing.assert_close(states[user], wanted)
    assert states.isfinite().all()


@pytest.mark.parametrize("segments", [False, True])
def test_nobody_with_a_sequence_has_no_states_and_finite_gradients(segments, monkeypatch):
    monkeypatch.setattr(qformer, "segments_serve", lambda device, head: segments)
    former, mask = make(), torch.zeros(2, 3, dtype=torch.bool)
    none = torch.zeros(0, dtype=torch.int64)
    states, where = former(tokens_of(mask)[:0], Packing(mask, none))
    assert states.shape == (0, 8)
    assert where.rows.shape == (0,)
    for gradients in (True, False):  # without them attention is written out
        with torch.set_grad_enabled(gradients):
            states, where = former(tokens_of(mask).view(2, 3, 8), Packing(mask))
        assert not where.mask.any()
        assert states.isfinite().all()


def test_the_paper_has_two_blocks_and_128_queries_and_prints_no_residual():
    assert QFormerConfig() == QFormerConfig(queries=128, blocks=2, residual=False)
