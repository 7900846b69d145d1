"""The item QFormer against its equations written out, and what masked and missing tokens do."""

import numpy as np
import pytest
import torch
from torch import Tensor

from onerec.errors import DataError, RecipeError
from onerec.model import item_qformer as module
from onerec.model.item_qformer import (
    ItemQFormer,
    ItemQFormerConfig,
    check_content,
    flat_vectors,
    item_vectors,
    read_by_few,
)
from onerec.model.packing import Packing
from onerec.tokenizer.content import Precomputed

MASK = torch.tensor([[True, True, False, True], [False, True, False, False], [True] * 4])


def make(residual: bool = False, width: int = 8, dim: int = 6) -> ItemQFormer:
    config = ItemQFormerConfig(queries=3, blocks=2, width=width, heads=2, residual=residual)
    former = ItemQFormer(config, dim)
    former.init_weights(torch.Generator().manual_seed(0))
    with torch.no_grad():
        former.norm.weight.copy_(torch.linspace(0.5, 2.0, dim))
    return former.double().eval()


def tokens(dim: int = 6) -> Tensor:
    return torch.randn(3, 4, dim, generator=torch.Generator().manual_seed(1)).double()


def norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def by_hand(former: ItemQFormer, own: Tensor) -> Tensor:
    """One item's states from the tokens it has (S, d_t), head by head and block by block."""
    seen = norm(own, former.norm.weight)
    if former.dim != former.config.width:
        seen = seen @ former.project.weight.T
    h = former.queries
    for block in former.blocks:
        keys, values = (seen @ block.cross.key_value.weight.T).chunk(2, dim=-1)
        query = h @ block.cross.query.weight.T
        heads = [
            (query[:, cut] @ keys[:, cut].T / 2.0).softmax(-1) @ values[:, cut]
            for cut in (slice(0, 4), slice(4, 8))
        ]
        y = torch.cat(heads, 1) @ block.cross.out.weight.T
        h = h + y if former.config.residual else y
        gate, up = (norm(h, block.ffn_norm.weight) @ block.ffn.gate_up.weight.T).chunk(2, dim=-1)
        y = (gate * gate.sigmoid() * up) @ block.ffn.down.weight.T
        h = h + y if former.config.residual else y
    return h


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("dim", [6, 8])
def test_the_equation_is_the_papers(residual: bool, dim: int) -> None:
    """Values, and gradients to queries, weights and tokens; d_t = D needs no projection."""
    former, content = make(residual, dim=dim), tokens(dim).requires_grad_()
    assert isinstance(former.project, torch.nn.Identity) == (dim == 8)
    states = former(content, MASK)
    wanted = torch.stack([by_hand(former, content[i][MASK[i]]) for i in range(3)])
    torch.testing.assert_close(states, wanted)
    leaves = [content, *former.parameters()]
    weights = torch.randn(states.shape, generator=torch.Generator().manual_seed(2)).double()
    found = torch.autograd.grad((states * weights).sum(), leaves)
    expected = torch.autograd.grad((wanted * weights).sum(), leaves)
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two)
    assert not found[0][~MASK].any()


def test_few_queries_read_what_cross_attention_reads() -> None:
    former, seen = make(), tokens(8)
    block = former.blocks[0]
    h = torch.randn(3, 3, 8, generator=torch.Generator().manual_seed(3)).double()
    wanted = block(h, seen, Packing(MASK))
    torch.testing.assert_close(block.after(h, read_by_few(block.cross, h, seen, MASK)), wanted)


def test_order_of_tokens_and_what_is_masked_do_not_matter() -> None:
    former, content = make(), tokens()
    wanted = former(content, MASK)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(former(content[:, order], MASK[:, order]), wanted)
    spoiled = content.clone()
    spoiled[~MASK] = torch.nan
    torch.testing.assert_close(former(spoiled, MASK), wanted)
    padded = torch.cat([content, torch.full((3, 5, 6), torch.inf).double()], dim=1)
    more = torch.nn.functional.pad(MASK, (0, 5))
    torch.testing.assert_close(former(padded, more), wanted)
    zeroed = former(content.masked_fill(~MASK[..., None], 0.0), torch.ones_like(MASK))
    assert not torch.allclose(zeroed[0], wanted[0])  # masked is not zero


def test_queries_begin_apart() -> None:
    """With small queries all four would read the mean of the tokens and be one."""
    former = ItemQFormer(ItemQFormerConfig(width=32, heads=4), 32).eval()
    former.init_weights(torch.Generator().manual_seed(0))
    content = torch.randn(20, 10, 32, generator=torch.Generator().manual_seed(1))
    states = torch.nn.functional.normalize(former(content, torch.ones(20, 10).bool()), dim=-1)
    alike = (states @ states.transpose(1, 2))[:, *torch.triu_indices(4, 4, 1)]
    assert alike.mean() < 0.9


def test_flat_vectors_are_all_states_with_length_one() -> None:
    states = torch.tensor([[[3.0, 0.0], [0.0, 4.0]]], dtype=torch.bfloat16)
    vectors = flat_vectors(states)
    assert vectors.dtype == torch.float32
    torch.testing.assert_close(vectors, torch.tensor([[0.6, 0.0, 0.0, 0.8]]))


def test_item_vectors_come_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    former = ItemQFormer(ItemQFormerConfig(3, 2, width=8, heads=2, dropout=0.5), 6)
    former.init_weights(torch.Generator().manual_seed(0))
    content = Precomputed(tokens().numpy().astype(np.float16), MASK.numpy())
    content.tokens.flags.writeable = False
    content.mask.flags.writeable = False
    whole = item_vectors(former, content)
    assert (whole.shape, whole.dtype) == ((3, 24), np.float32)
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1.0, rtol=1e-6)
    monkeypatch.setattr(module, "AT_A_TIME", 2 * 4 * 8)  # two items
    np.testing.assert_allclose(item_vectors(former, content), whole, rtol=1e-5, atol=1e-6)
    assert former.training  # as it was


def test_an_item_without_content_is_named() -> None:
    mask = MASK.numpy().copy()
    mask[1] = False
    with pytest.raises(DataError, match=r"item 1 has no content token .*\(1 of 3 items have none"):
        item_vectors(make().float(), Precomputed(tokens().numpy(), mask))
    wide = Precomputed(tokens(8).numpy(), MASK.numpy())
    with pytest.raises(DataError, match="8 wide, the QFormer was made for 6"):
        item_vectors(make().float(), wide)
    spoiled = tokens().numpy()
    spoiled[0, 2] = spoiled[1, 1, 3] = np.nan  # the first is masked, the second is not
    with pytest.raises(DataError, match="content tokens of item 1 are not all finite"):
        check_content(Precomputed(spoiled, MASK.numpy()))


def test_the_paper_has_4_queries_4_blocks_of_512_and_prints_no_residual() -> None:
    config = ItemQFormerConfig()
    assert (config.queries, config.blocks, config.width) == (4, 4, 512)
    assert not config.residual
    with pytest.raises(RecipeError, match="QFormer queries is 0"):
        ItemQFormerConfig(queries=0)
    with pytest.raises(RecipeError, match="width 10 is not a multiple of its 4 heads"):
        ItemQFormerConfig(width=10, heads=4)


def test_flat_vectors_are_at_least_single_precision() -> None:
    for given, made in (
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
    ):
        assert flat_vectors(torch.ones(2, 3, 4, dtype=given)).dtype == made
