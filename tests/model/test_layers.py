"""Attention against explicit softmax, the cache against the whole sequence, SwiGLU by hand."""

import torch

from onerec.model.layers import (
    CrossAttention,
    DecoderBlock,
    EncoderBlock,
    SelfAttention,
    SwiGLU,
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
    torch.testing.assert_close(attention(x, exists[:, None, None])[0], expected)
    before = torch.ones(5, 5).tril().bool().expand(2, 5, 5)
    expected = attention.out(merge_heads(explicit_attention(q, k, v, before)))
    torch.testing.assert_close(attention(x, causal=True)[0], expected)


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
    whole, _ = block(x, memory, mask)
    past, steps = None, []
    for t in range(4):
        y, past = block(x[:, :, t : t + 1], memory, mask, past)
        steps.append(y)
    torch.testing.assert_close(torch.cat(steps, dim=2), whole)


def test_sequences_of_one_context_do_not_see_one_another():
    torch.manual_seed(3)
    block = DecoderBlock(8, 2, 0.0, SwiGLU(8, 16)).double()
    x = torch.randn(1, 2, 3, 8).double()
    memory = block.cross.keys_values(torch.randn(1, 5, 8).double())
    mask = torch.ones(1, 1, 1, 5).bool()
    together, _ = block(x, memory, mask)
    for m in range(2):
        torch.testing.assert_close(together[:, m], block(x[:, m : m + 1], memory, mask)[0][:, 0])


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
