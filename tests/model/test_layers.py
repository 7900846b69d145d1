"""Attention against explicit softmax, the cache against the whole sequence, SwiGLU by hand."""

import pytest
import torch

from onerec.model import layers, products
from onerec.model.attention import merge_heads, split_heads
from onerec.model.layers import (
    CrossAttention,
    DecoderBlock,
    EncoderBlock,
    RMSNorm,
    SelfAttention,
    SwiGLU,
    gated,
)
from onerec.model.packing import Packing


def explicit_attention(q, k, v, allowed):
    """softmax(q k / sqrt(Dh)) v, position by position; allowed (B, Tq, Tk) bool."""
    out = torch.zeros(*q.shape[:-1], v.shape[-1], dtype=q.dtype)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            for t in range(q.shape[2]):
                keys = allowed[b, t].nonzero()[:, 0]
                weight = (k[b, h, keys] @ q[b, h, t] / q.shape[-1] ** 0.5).softmax(0)
                out[b, h, t] = weight @ v[b, h, keys]
    return out


def test_self_attention_equals_explicit_softmax():
    torch.manual_seed(0)
    attention = SelfAttention(12, 3).double()
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    exists = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 1, 0]]).bool()
    q, k, v = (split_heads(part, 3) for part in attention.qkv(x).chunk(3, -1))
    everywhere = exists[:, None].expand(2, 5, 5)
    expected = attention.out(merge_heads(explicit_attention(q, k, v, everywhere)))
    torch.testing.assert_close(attention.packed(x, Packing(exists)), expected)
    rows = exists.flatten().nonzero()[:, 0].flip(0)  # in any order
    got = attention.packed(x.flatten(0, 1)[rows], Packing(exists, rows))
    torch.testing.assert_close(got, expected.flatten(0, 1)[rows])


def test_sequences_that_share_their_first_position_equal_explicit_softmax():
    torch.manual_seed(8)
    attention = SelfAttention(12, 3).double()
    first, rest = torch.randn(2, 1, 12).double(), torch.randn(2, 4, 3, 12).double()
    got = attention.sequences(torch.cat((first, rest.flatten(1, 2)), dim=1), 4)
    causal = torch.ones(4, 4).tril().bool().expand(2, 4, 4)
    for m in range(4):
        x = torch.cat((first, rest[:, m]), dim=1)
        q, k, v = (split_heads(part, 3) for part in attention.qkv(x).chunk(3, -1))
        expected = attention.out(merge_heads(explicit_attention(q, k, v, causal)))
        torch.testing.assert_close(got[:, 1 + 3 * m : 4 + 3 * m], expected[:, 1:])
        torch.testing.assert_close(got[:, 0], expected[:, 0])
    torch.testing.assert_close(attention.sequences(first, 4), got[:, :1])


def test_cross_attention_equals_explicit_softmax():
    torch.manual_seed(1)
    attention = CrossAttention(8, 2).double()
    x, states = torch.randn(2, 3, 8).double(), torch.randn(2, 4, 8).double()
    exists = torch.tensor([[1, 0, 1, 1], [1, 1, 1, 0]]).bool()
    k, v = (split_heads(part, 2) for part in attention.key_value(states).chunk(2, -1))
    q = split_heads(attention.query(x), 2)
    allowed = exists[:, None].expand(2, 3, 4)
    expected = attention.out(merge_heads(explicit_attention(q, k, v, allowed)))
    memory = attention.keys_values(states, Packing(exists))
    got = attention(x, memory, exists[:, None, None])
    torch.testing.assert_close(got, expected)


def test_cache_gives_what_the_whole_sequence_gives():
    torch.manual_seed(2)
    block = DecoderBlock(8, 2, 0.0, SwiGLU(8, 16)).double()
    first, rest = torch.randn(2, 1, 8).double(), torch.randn(2, 3, 3, 8).double()  # (B, M, l, D)
    grid = Packing(torch.ones(2, 5).bool())
    memory = block.cross.keys_values(torch.randn(2, 5, 8).double(), grid)
    whole = block(torch.cat((first, rest.flatten(1, 2)), dim=1), memory, grid.attendable, 3)
    y, past = block.step(first, memory, grid.attendable, [])
    torch.testing.assert_close(y, whole[:, :1])
    for t in range(3):
        y, past = block.step(rest[:, :, t], memory, grid.attendable, past)
        torch.testing.assert_close(y, whole[:, 1:].view(2, 3, 3, 8)[:, :, t])


def test_a_position_that_sequences_share_is_kept_once():
    torch.manual_seed(5)
    attention = SelfAttention(8, 2).double()
    first, second = torch.randn(2, 1, 8).double(), torch.randn(2, 3, 8).double()
    qkv = attention.qkv
    _, past = attention.step(qkv(first), [])
    y, present = attention.step(qkv(second), past)
    assert [key.shape[1] for key, _ in present] == [1, 3]
    _, copied = attention.step(qkv(first.expand(2, 3, 8)), [])
    torch.testing.assert_close(y, attention.step(qkv(second), copied)[0])


def test_sequences_of_one_context_do_not_see_one_another():
    torch.manual_seed(3)
    block = DecoderBlock(8, 2, 0.0, SwiGLU(8, 16)).double()
    first, rest = torch.randn(1, 1, 8).double(), torch.randn(1, 4, 8).double()
    grid = Packing(torch.ones(1, 5).bool())
    memory = block.cross.keys_values(torch.randn(1, 5, 8).double(), grid)
    together = block(torch.cat((first, rest), dim=1), memory, grid.attendable, 2)
    for own in (slice(0, 2), slice(2, 4)):
        alone = block(torch.cat((first, rest[:, own]), dim=1), memory, grid.attendable, 1)
        torch.testing.assert_close(together[:, 1:][:, own], alone[:, 1:])


def test_encoder_block_ignores_masked_states():
    torch.manual_seed(4)
    block = EncoderBlock(8, 2, 0.0)
    x = torch.randn(1, 4, 8)
    grid = Packing(torch.tensor([[1, 1, 0, 1]]).bool())
    changed = x.clone()
    changed[:, 2] = 100.0
    kept = torch.tensor([0, 1, 3])
    expected = block(x, grid)[0, kept]
    torch.testing.assert_close(block(changed, grid)[0, kept], expected)
    torch.testing.assert_close(block(x[0, kept], Packing(grid.mask, kept)), expected)


@pytest.mark.parametrize("level", [1, 2])
def test_a_step_per_code_is_the_step_of_each_sequence(level):
    torch.manual_seed(10)
    block = DecoderBlock(8, 2, 0.0, SwiGLU(8, 16)).double().eval()
    grid = Packing(torch.tensor([[1, 1, 0], [1, 1, 1]]).bool())
    memory = block.cross.keys_values(torch.randn(2, 3, 8).double(), grid)
    rows, begin = torch.randn(5, 8).double(), torch.randn(8).double().expand(2, 1, 8)
    code = torch.randint(5, (2, 4, 2))
    with torch.no_grad():
        _, past = block.step(begin, memory, grid.attendable, [])
        for earlier in range(level):
            x = rows[code[..., earlier]]
            expected = block.step(x, memory, grid.attendable, past)
            got = block.first_step(rows, code[..., earlier], memory, grid.attendable, past)
            past = expected[1]
            torch.testing.assert_close(got, expected)


def test_the_norms_own_gradient_is_torchs():
    torch.manual_seed(9)
    x, g = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    own, theirs = RMSNorm(8), torch.nn.RMSNorm(8, eps=1e-6)
    for norm in (own, theirs):
        with torch.no_grad():
            norm.weight.copy_(torch.linspace(0.5, 2.0, 8))
    inputs = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    for norm, value in zip((own, theirs), inputs, strict=True):
        norm(value).backward(g)
    with torch.no_grad():
        torch.testing.assert_close(own(x), theirs(x))
    torch.testing.assert_close(own(x), theirs(x))
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    torch.testing.assert_close(own.weight.grad, theirs.weight.grad)


def test_the_gates_own_gradient_is_that_of_finite_differences():
    torch.manual_seed(10)
    x = torch.randn(3, 2, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(gated, x)
    gate, up = x.chunk(2, dim=-1)
    torch.testing.assert_close(gated(x), torch.nn.functional.silu(gate) * up)


def test_swiglu_by_hand():
    layer = SwiGLU(1, 2)
    with torch.no_grad():
        layer.gate_up.weight.copy_(torch.tensor([[1.0], [-1.0], [2.0], [3.0]]))
        layer.down.weight.copy_(torch.tensor([[1.0, 10.0]]))
    # x = 2: gates 2, -2; ups 4, 6; silu(2) = 1.76159, silu(-2) = -.23841
    expected = 1.761594 * 4 + 10 * -0.238406 * 6
    torch.testing.assert_close(layer(torch.tensor([2.0])), torch.tensor([expected]))


def test_the_fused_gate_is_the_gate_written_out():
    g = torch.Generator().manual_seed(0)
    block = layers.SwiGLU(16, 24)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, generator=g)
    x = torch.randn(3, 5, 16, generator=g)
    gate, up = (x @ block.gate_up.weight.T).chunk(2, dim=-1)
    wanted = (torch.nn.functional.silu(gate) * up) @ block.down.weight.T
    assert torch.allclose(block(x), wanted, atol=1e-4)  # with gradients: written out
    with torch.no_grad():
        assert products.fusable(x, block.gate_up.weight) == products.ONEDNN
        assert torch.allclose(block(x), wanted, atol=1e-4)
        assert torch.equal(block.double()(x.double()), block(x.double()))  # never in float64
