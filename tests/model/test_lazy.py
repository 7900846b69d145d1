"""The lazy decoder against loops over positions in float64, and what callers rely on."""

import math

import pytest
import torch
import torch.nn.functional as F
import toy_model as toy

from onerec.common import generator
from onerec.model import packing
from onerec.model.generate import beam_search
from onerec.model.lazy import LazyDecoder
from onerec.model.onerec import Batch
from onerec.model.sample import sample, sequence_log_probs
from onerec.tokenizer.trie import Trie

KINDS = {  # L_kv, S_kv, G_kv, width of context tokens, experts
    "one set": {},
    "sets": {"context": {"sets": 2, "separate_values": True, "groups": 2}},
    "one group": {"context": {"sets": 3, "groups": 1, "width": 24}, "decoder_layers": 4},
    "experts": {
        "context": {"separate_values": True, "width": 8},
        "experts": 3,
        "shared_experts": 1,
    },
    "late experts": {
        "experts": 3,
        "shared_experts": 1,
        "decoder_layers": 3,
        "expert_blocks": "late",
    },
}


def exact(**settings):
    """A model and a batch in float64, norms off their start."""
    model, batch = toy.make_lazy(**settings).double(), toy.make_batch()
    g = generator(9)
    with torch.no_grad():
        for norm in [module for module in model.modules() if isinstance(module, torch.nn.RMSNorm)]:
            norm.weight.uniform_(0.5, 2.0, generator=g)
    for events in (batch.short, batch.positive):
        events.label = events.label.double()
    return model, batch


def rms(x, norm):
    return x / (x.square().mean() + 1e-6).sqrt() * norm.weight


def swiglu(x, ffn):
    gate, up = (ffn.gate_up.weight @ x).chunk(2)
    return ffn.down.weight @ (F.silu(gate) * up)


def feed_forward(x, ffn):
    """Dense, or the shared expert plus the routed ones by their definition."""
    if not hasattr(ffn, "router"):
        return swiglu(x, ffn)
    affinity = torch.sigmoid(ffn.router.weight @ x)
    chosen = (affinity + ffn.router.bias).topk(ffn.router.active).indices.tolist()
    y = swiglu(x, ffn.shared)
    for e in chosen:
        gate, up = (x @ ffn.gate_up[e]).chunk(2)
        weight = affinity[e] / sum(affinity[i] for i in chosen)
        y = y + weight * ((F.silu(gate) * up) @ ffn.down[e])
    return y


def read_context(model, block, x, tokens, index):
    """Lazy cross-attention of one position, head after head, from V2's formulas."""
    config, layer = model.config, model.decoder[index]
    context, width = config.context, config.width
    heads, groups = config.heads, config.context.groups or config.heads
    head, kinds = width // heads, 1 + context.separate_values
    chunk = groups * head
    place = math.floor(index * context.sets / config.decoder_layers) * kinds
    keys, values = [], []
    for token in tokens:
        projected = model.context.project.weight @ token  # S_kv L_kv G Dh
        own = projected[place * chunk : (place + 1) * chunk]
        keys.append(rms(own, model.context.norms[place]))
        if context.separate_values:
            own = projected[(place + 1) * chunk : (place + 2) * chunk]
            values.append(rms(own, model.context.norms[place + 1]))
        else:
            values.append(keys[-1])
    q = layer.cross.query.weight @ rms(x, layer.cross_norm)
    out = []
    for h in range(heads):
        g = h // (heads // groups)
        part = slice(g * head, (g + 1) * head)
        scores = torch.stack([q[h * head : (h + 1) * head] @ key[part] for key in keys])
        weights = (scores / head**0.5).softmax(0)
        out.append(sum(w * value[part] for w, value in zip(weights, values, strict=True)))
    return layer.cross.out.weight @ torch.cat(out)


def self_attention(layer, states, heads):
    """Of the last of `states`, causal."""
    normed = [rms(x, layer.attention_norm) for x in states]
    q, k, v = (
        [part.chunk(heads) for part in column]
        for column in zip(*[(layer.attention.qkv.weight @ x).chunk(3) for x in normed], strict=True)
    )
    out = []
    for h in range(heads):
        scores = torch.stack([q[-1][h] @ key[h] for key in k]) / len(q[-1][h]) ** 0.5
        out.append(sum(w * value[h] for w, value in zip(scores.softmax(0), v, strict=True)))
    return layer.attention.out.weight @ torch.cat(out)


def reference_logits(model, tokens, codes):
    """Logits after BOS, s_1, ..: one list entry per level, from the tokens of one context."""
    lift = (lambda x: x) if model.lift is None else (lambda x: model.lift.weight @ x)
    rows = model.codes.rows()
    states = [model.begin] + [lift(rows[level][code]) for level, code in enumerate(codes[:-1])]
    for index, layer in enumerate(model.decoder):
        read = [x + read_context(model, layer, x, tokens, index) for x in states]
        seen = [
            x + self_attention(layer, read[: t + 1], model.config.heads) for t, x in enumerate(read)
        ]
        states = [x + feed_forward(rms(x, layer.ffn_norm), layer.ffn) for x in seen]
    heads = rows if model.heads is None else [head.weight for head in model.heads]
    return [
        head @ rms(x, norm) for head, x, norm in zip(heads, states, model.level_norms, strict=True)
    ]


def tokens_of(model, batch):
    """The context tokens of each user that exist, from the pathways."""
    tokens, grid = model.pathways(batch, model.items, model.codes)
    whole = grid.unpack(tokens)
    return [row[mask] for row, mask in zip(whole, grid.mask, strict=True)]


@pytest.mark.parametrize("kind", KINDS)
def test_it_equals_loops_over_positions_in_values_and_gradients(kind):
    model, batch = exact(**KINDS[kind])
    batch.target[1, 1] = 0
    logits = model(batch)
    total, count = 0.0, 0
    contexts = tokens_of(model, batch)
    for b, tokens in enumerate(contexts):
        for m in range(3):
            codes = model.items.codes[batch.target[b, m]].tolist()
            expected = reference_logits(model, tokens, codes)
            for level in range(3):
                torch.testing.assert_close(logits[level][b, m], expected[level])
            if batch.target[b, m]:
                count += 1
                parts = [-e.log_softmax(0)[c] for e, c in zip(expected, codes, strict=True)]
                total = total + sum(parts) / 3  # V2: mean over the tokens
    loss, named = model.loss(batch)
    torch.testing.assert_close(loss, total / count)
    assert loss.item() == pytest.approx(sum(part.item() for part in named.values()) / 3)
    names, weights = zip(*model.named_parameters(), strict=True)
    mine = torch.autograd.grad(loss, weights)
    slow = torch.autograd.grad(total / count, weights)
    for name, a, b in zip(names, mine, slow, strict=True):
        torch.testing.assert_close(a, b, msg=name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gradients", [True, False])
def test_a_step_with_the_cache_is_the_whole_sequence(kind, gradients):
    model, batch = exact(**KINDS[kind])[0].float(), toy.make_batch()
    codes = model.items.codes[batch.target]
    with torch.set_grad_enabled(gradients):
        memory, past = model.encode(batch), []
        for level in range(3):
            logits, past = model.decode_step(level, codes[..., :level], memory, past)
            whole, _ = model.decode_step(level, codes[..., :level], memory)
            expected = model.target_logits(memory, batch.target)[level]
            torch.testing.assert_close(logits.expand(whole.shape), whole)
            torch.testing.assert_close(whole, expected)
    assert [len(layer) for layer in past] == [3] * model.config.decoder_layers


@pytest.mark.parametrize("kind", KINDS)
def test_targets_of_a_context_are_independent_in_values_and_gradients(kind):
    model, batch = exact(**KINDS[kind])
    together = model(batch)
    for m in range(3):
        alone = model(Batch(batch.static, batch.short, batch.positive, batch.target[:, m : m + 1]))
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[:, m], b[:, 0])


@pytest.mark.parametrize("kind", ["sets", "one group"])
def test_padding_and_where_it_stands_have_no_influence(kind, monkeypatch):
    """Packed or as a grid, as on a GPU, whatever stands in the padding: the same gradients too."""
    model, batch = exact(**KINDS[kind])
    weights = list(model.parameters())
    expected = torch.autograd.grad(model.loss(batch)[0], weights)
    monkeypatch.setattr(packing, "packs", lambda *_: False)
    for events in (batch.short, batch.positive):
        events.play[events.item == 0] = 3
        events.label[events.item == 0] = 1.0
    got = torch.autograd.grad(model.loss(batch)[0], weights)
    for a, b in zip(expected, got, strict=True):
        torch.testing.assert_close(a, b)


def test_keys_and_values_are_made_once_and_shared_not_copied():
    model, batch = toy.make_lazy(decoder_layers=4, context={"sets": 2}), toy.make_batch()
    seen = []
    model.context.project.register_forward_hook(lambda _m, _i, y: seen.append(tuple(y.shape)))
    memory = model.encode(batch)
    assert seen == [(3 + 4 + 0 + 2 + 4 + 0 + 2, 2 * 16)]  # tokens that exist, both sets at once
    keys = [key for key, _ in memory.keys_values]
    assert [key is keys[0] for key in keys] == [True, True, False, False]
    assert keys[2] is keys[3]
    assert all(key is value for key, value in memory.keys_values)  # S_kv = 1


@pytest.mark.parametrize("kind", KINDS)
def test_beam_search_finds_the_items_that_teacher_forcing_scores_best(kind):
    model, batch = toy.make_lazy(**KINDS[kind]), toy.make_batch()
    codes = toy.item_codes().unique(dim=0)
    trie = Trie(codes, toy.SIZES, torch.arange(len(codes)))
    with torch.no_grad():
        scores = sequence_log_probs(model, batch, codes.expand(3, -1, -1)).sum(-1)
    found = beam_search(model, batch, trie, k=5, beam=40)
    best, order = scores.topk(5)
    torch.testing.assert_close(found.scores, best)
    assert found.items.equal(order)
    drawn = sample(model, batch, trie, group=4, generator=generator(0))
    again = sequence_log_probs(model, batch, drawn.codes, trie=trie).sum(-1)
    torch.testing.assert_close(drawn.drawn, again)


def test_a_model_that_knows_nothing_has_the_mean_of_log_n():
    model, batch = toy.make_lazy(), toy.make_batch()
    with torch.no_grad():
        for head in model.heads:
            head.weight.zero_()
    assert model.loss(batch)[0].item() == pytest.approx(sum(map(math.log, toy.SIZES)) / 3)


def test_under_autocast_keys_stay_narrow_and_shared_and_the_loss_is_near(monkeypatch):
    """Norms see their own dtype (a mismatch warns, and leaves the fused kernel)."""
    monkeypatch.setattr(packing, "packs", lambda *_: False)  # as on a GPU
    model, batch = toy.make_lazy(), toy.make_batch()
    expected = model.loss(batch)[0].item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        key, value = model.encode(batch).keys_values[0]
        loss, _ = model.loss(batch)
    assert key is value
    assert key.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, rel=0.02)


def test_every_target_that_exists_loads_the_routed_experts_alone():
    model, batch = toy.make_lazy(experts=3).train(), toy.make_batch()
    batch.target[0] = 0
    model.loss(batch)
    # 6 targets that exist x 3 positions x 2 experts, in both blocks
    assert [mixture.load.sum().item() for mixture in model.mixtures()] == [36.0, 36.0]
    model.update_router_bias(0.25)
    assert all(mixture.router.bias.abs().max() == 0.25 for mixture in model.mixtures())


@pytest.mark.parametrize("width", [0, 24, 8])
def test_codes_and_heads_start_at_their_centroids_up_to_a_rotation(width):
    codebooks = torch.randn(3, 4, 5, generator=generator(1))
    codes = torch.randint(0, 4, (9, 3), generator=generator(2))
    vocabulary = toy.toy_vocabulary(8, (4, 4, 4))
    config = toy.make_lazy(context={"width": width}).config
    model = LazyDecoder(config, vocabulary, toy.table(codes))
    model.start_from_codebooks(codebooks, generator(0))
    cosine = F.cosine_similarity
    for level in range(3):
        rows = model.codes.rows()[level]
        expected = cosine(codebooks[level][:, None], codebooks[level][None], dim=-1)
        torch.testing.assert_close(cosine(rows[:, None], rows[None], dim=-1), expected)
        heads = model.heads[level].weight
        torch.testing.assert_close(cosine(heads, model.lifted(rows)), torch.ones(4))
    length = model.codes.rows()[0].norm(dim=1).mean().item()
    assert length == pytest.approx(0.125 * (width or 16) ** 0.5)


def test_weights_are_the_generators_and_none_is_left_unset():
    one, other = toy.make_lazy(seed=5, experts=2), toy.make_lazy(seed=5, experts=2)
    for (name, a), b in zip(one.named_parameters(), other.parameters(), strict=True):
        assert a.equal(b), name
    for parameter in one.parameters():
        parameter.data.fill_(float("nan"))
    one.init_weights(generator(5))
    assert all(parameter.isfinite().all() for parameter in one.parameters())


def test_dropout_acts_in_training_alone():
    model, batch = toy.make_lazy(dropout=0.5), toy.make_batch()
    assert model(batch)[0].equal(model(batch)[0])
    model.train()
    assert not model(batch)[0].equal(model(batch)[0])


def test_all_that_is_read_can_be_dropped_and_so_can_each_step_of_a_block():
    model, batch = toy.make_lazy(dropout=1.0).train(), toy.make_batch()
    assert not any(part.any() for pair in model.encode(batch).keys_values for part in pair)
    model.dropout.p = 0.0  # of what is read and written alone
    torch.testing.assert_close(model(batch)[0][1, 2], model.logits(0, model.begin))


def test_it_learns_a_rule():
    """The next item is the user's newest item: the loss falls far below guessing."""
    torch.manual_seed(0)
    model = toy.make_lazy(width=32, decoder_layers=1, context={"width": 24, "groups": 2}).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for step in range(80):
        batch = toy.make_batch(lengths=(4,) * 32, targets=1, seed=step)
        batch.target = batch.short.item[:, -1:]
        loss, _ = model.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.8  # guessing: (log 5 + log 6 + log 4) / 3 = 1.6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"context": {"sets": 3}}, "sets=3 must be from 1 to decoder_layers=2"),
        ({"context": {"sets": 0}}, "sets=0 must be from 1"),
        ({"context": {"groups": 3}}, "heads=4 is no multiple of groups=3"),
        ({"width": 10}, "width=10 is no multiple of heads=4"),
        (
            {"context": {"width": 8}, "vocabulary": {"tied_output": True}},
            "tied_output needs code tables of the decoder's width=16, not context width=8",
        ),
    ],
)
def test_impossible_shapes_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        toy.make_lazy(**settings)
