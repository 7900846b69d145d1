"""Attention against explicit softmax, the cache against the whole sequence, SwiGLU by hand."""

import pytest
import torch

from onerec.model import layers
from onerec.model.layers import (
    CrossAttention,
    DecoderBlock,
    EncoderBlock,
    Linear,
    SelfAttention,
    SwiGLU,
    attend,
    expert_hidden,
    ffn_hidden,
    merge_heads,
    split_heads,
)


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


def test_hidden_widths_are_those_of_the_paper():
    assert ffn_hidden(128) == 256  # Table 1, 0.015B
    assert ffn_hidden(1024) == 2048
    assert expert_hidden(1024) == 2688  # 2/3 * 4 * 1024 = 2730.7, to a multiple of 128
    assert expert_hidden(32) == 128


def test_heads_split_and_merge():
    x = torch.arange(24.0).view(1, 2, 12)
    heads = split_heads(x, 3)
    assert heads.shape == (1, 3, 2, 4)
    assert heads[0, 1, 0].tolist() == [4.0, 5.0, 6.0, 7.0]
    assert merge_heads(heads).equal(x)


def test_self_attention_equals_explicit_softmax():
    torch.manual_seed(0)
    attention = SelfAttention(12, 3).double()
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    exists = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 1, 0]]).bool()
    q, k, v = (split_heads(part, 3) for part in attention.qkv(x).chunk(3, -1))
    everywhere = exists[:, None].expand(2, 5, 5)
    expected = attention.out(merge_heads(explicit_attention(q, k, v, everywhere)))
    torch.testing.assert_close(attention(x, exists[:, None, None]), expected)
    before = torch.ones(5, 5).tril().bool().expand(2, 5, 5)
    expected = attention.out(merge_heads(explicit_attention(q, k, v, before)))
    torch.testing.assert_close(attention(x, causal=True), expected)


def test_cross_attention_equals_explicit_softmax():
    torch.manual_seed(1)
    attention = CrossAttention(8, 2).double()
    x, states = torch.randn(2, 3, 8).double(), torch.randn(2, 4, 8).double()
    exists = torch.tensor([[1, 0, 1, 1], [1, 1, 1, 0]]).bool()
    k, v = (split_heads(part, 2) for part in attention.key_value(states).chunk(2, -1))
    q = split_heads(attention.query(x), 2)
    allowed = exists[:, None].expand(2, 3, 4)
    expected = attention.out(merge_heads(explicit_attention(q, k, v, allowed)))
    got = attention(x, attention.keys_values(states), exists[:, None, None])
    torch.testing.assert_close(got, expected)


def test_cache_gives_what_the_whole_sequence_gives():
    torch.manual_seed(2)
    block = DecoderBlock(8, 2, 0.0, SwiGLU(8, 16)).double()
    x = torch.randn(2, 3, 4, 8).double()  # (B, M, T, D)
    memory = block.cross.keys_values(torch.randn(2, 5, 8).double())
    mask = torch.ones(2, 1, 1, 5).bool()
    whole = block(x, memory, mask)
    past, steps = [], []
    for t in range(4):
        y, past = block.step(x[:, :, t], memory, mask, past)
        steps.append(y)
    torch.testing.assert_close(torch.stack(steps, dim=2), whole)


def test_a_position_that_sequences_share_is_kept_once():
    torch.manual_seed(5)
    attention = SelfAttention(8, 2).double()
    first, second = torch.randn(2, 1, 8).double(), torch.randn(2, 3, 8).double()
    _, past = attention.step(first, [])
    y, present = attention.step(second, past)
    assert [key.shape[1] for key, _ in present] == [1, 3]
    _, copied = attention.step(first.expand(2, 3, 8), [])
    torch.testing.assert_close(y, attention.step(second, copied)[0])


@pytest.mark.parametrize("masked", [True, False])
def test_attention_without_gradients_equals_attention_with_them(masked):
    torch.manual_seed(6)
    q, k, v = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 7, 4), torch.randn(2, 3, 7, 4)
    mask = (torch.rand(2, 1, 1, 7) < 0.6) | (torch.arange(7) == 0) if masked else None
    expected = attend(q, k, v, mask)
    with torch.no_grad():
        torch.testing.assert_close(attend(q, k, v, mask), expected)


@pytest.mark.parametrize("bias", [True, False])
def test_linear_without_gradients_equals_linear_with_them(bias):
    torch.manual_seed(7)
    layer = Linear(5, 3, bias=bias)
    for shape in ((4, 5), (2, 3, 5), (2, 1, 3, 5), (0, 5)):
        x = torch.randn(shape)
        with torch.no_grad():
            got = layer(x)
        torch.testing.assert_close(got, layer(x).detach())
        wide = x.repeat_interleave(2, -1)[..., ::2]  # not contiguous
        with torch.no_grad():
            torch.testing.assert_close(layer(wide), got)


def test_sequences_of_one_context_do_not_see_one_another():
    torch.manual_seed(3)
    block = DecoderBlock(8, 2, 0.0, SwiGLU(8, 16)).double()
    x = torch.randn(1, 2, 3, 8).double()
    memory = block.cross.keys_values(torch.randn(1, 5, 8).double())
    mask = torch.ones(1, 1, 1, 5).bool()
    together = block(x, memory, mask)
    for m in range(2):
        torch.testing.assert_close(together[:, m], block(x[:, m : m + 1], memory, mask)[:, 0])


def test_encoder_block_ignores_masked_states():
    torch.manual_seed(4)
    block = EncoderBlock(8, 2, 0.0)
    x = torch.randn(1, 4, 8)
    mask = torch.tensor([1, 1, 0, 1]).bool()[None, None, None]
    changed = x.clone()
    changed[0, 2] = 100.0
    kept = [0, 1, 3]
    torch.testing.assert_close(block(x, mask)[:, kept], block(changed, mask)[:, kept])


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
        assert layers.fusable(x, block.gate_up.weight) == layers.ONEDNN
        assert torch.allclose(block(x), wanted, atol=1e-4)
        assert torch.equal(block.double()(x.double()), block(x.double()))  # never in float64
