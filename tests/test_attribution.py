"""Influence against slow loops, numeric derivatives and sums by hand."""

from dataclasses import replace

import pytest
import torch
import toy_model as toy

from onerec.attribution import (
    RANDOM_ORDERS,
    Places,
    attention,
    attention_weights,
    code_log_probs,
    deletion_curves,
    gradient,
    leave_one_out,
    log_probs_without,
    steps,
)
from onerec.common import evaluating, generator
from onerec.model.qformer import QFormerConfig
from onerec.tokenizer.trie import Trie

ITEM = 7
# Six events: 0 is too old for the short side, 5 is unseen, 4 stands in both pathways.
SHORT, POSITIVE = torch.tensor([1, 2, 3, 4]), torch.tensor([0, 2, 4, -1, -1, -1])


def doubled(model):
    """The model in float64, its item table too, with biases that are not 0."""
    model = model.double()
    stream = toy.stream()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_(0.0, 0.3, generator=stream)
    model.items.content = model.items.content.double()
    return model


def one_user(kind=torch.float64):
    batch = toy.make_batch(lengths=(4,), targets=1)
    batch.short = toy.make_events([4], 4, seed=11)
    batch.positive = toy.make_events([3], 6, seed=12)
    for column in ("item", "time", "play"):  # the same event is the same in both pathways
        getattr(batch.positive, column)[0, 1:3] = getattr(batch.short, column)[0, [1, 3]]
    batch.positive.label[0, 1:3] = batch.short.label[0, [1, 3]]
    batch.short.label, batch.positive.label = (
        batch.short.label.to(kind),
        batch.positive.label.to(kind),
    )
    return batch, Places(6, SHORT, POSITIVE)


MODELS = {
    "encoder_decoder": lambda: doubled(toy.make_model(experts=3)),
    "lazy": lambda: doubled(toy.make_lazy(context={"groups": 2})),
}


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]()


def codes_of(model, item=ITEM):
    return model.items.codes[item + 1]


def slow_log_prob(model, batch, codes):
    """One forward pass of one context: log p of each code, step by step."""
    found = []
    with torch.no_grad():
        memory = model.encode(batch)
        for level in range(model.levels):
            hidden = model.decode(codes[None, None, :level], memory)[0, 0, -1]
            logits = model.logits(level, hidden)
            found.append(logits[codes[level]] - logits.exp().sum().log())
    return torch.stack(found)


def without(batch, places, gone):
    """The context with some events hidden, place by place."""

    def side(events, where):
        keep = torch.tensor([[int(event) not in gone for event in where]])
        return events.kept(keep)

    short, positive = side(batch.short, places.short), side(batch.positive, places.positive)
    return replace(batch, short=short, positive=positive)


def test_leave_one_out_equals_a_loop_of_single_passes(model):
    batch, places = one_user()
    codes = codes_of(model)
    whole = slow_log_prob(model, batch, codes)
    expected = torch.stack(
        [whole - slow_log_prob(model, without(batch, places, {e}), codes) for e in range(6)]
    )
    effect = leave_one_out(model, batch, places, codes)
    torch.testing.assert_close(effect, expected, rtol=1e-9, atol=1e-12)
    assert effect[:5].abs().amax(1).min() > 1e-6
    torch.testing.assert_close(
        leave_one_out(model, batch, places, codes, chunk=2), effect, rtol=1e-9, atol=1e-12
    )


def test_an_event_that_the_model_cannot_see_has_no_influence_at_all(model):
    batch, places = one_user()
    codes = codes_of(model)
    assert places.seen(model).tolist() == [True] * 5 + [False]
    for effect in (
        leave_one_out(model, batch, places, codes),
        attention(model, batch, places, codes).events,
        gradient(model, batch, places, codes),
    ):
        assert effect.shape == (6, 3)
        assert (effect[5] == 0).all()
        assert (effect[:5].abs().sum(1) > 0).all()


def test_masking_equals_never_having_had_the_event():
    """Ages count from the newest that is there, so a hole is no trace of the event."""
    model, (batch, places) = MODELS["encoder_decoder"](), one_user()
    codes = codes_of(model)
    hidden = torch.zeros(1, 6, dtype=torch.bool)
    hidden[0, 1] = True  # stands in the short pathway alone
    shorter = replace(batch, short=batch.short.mapped(lambda c: c[:, [0, 0, 1, 2, 3]][:, 2:]))
    torch.testing.assert_close(
        log_probs_without(model, batch, places, codes, hidden)[0],
        slow_log_prob(model, shorter, codes),
    )


def test_the_gradient_equals_the_numeric_derivative(model, monkeypatch):
    """An embedding is made larger and smaller where it is made, not where the gradient hooks in."""
    batch, places = one_user()
    codes = codes_of(model)
    factors = torch.ones(6, dtype=torch.float64)
    order = [places.short, places.positive[:3]]  # the events that exist, as they are picked

    def products(sides, layers, items, tables):
        features = model.pathways.features
        return [
            layer(features(events, items, tables) * factors[of][:, None])
            for events, layer, of in zip(sides, layers, order, strict=True)
        ]

    monkeypatch.setattr(model.pathways.features, "products", products)
    expected, step = torch.zeros(6, 3, dtype=torch.float64), 1e-5
    for event in range(6):
        ends = []
        for sign in (1, -1):
            factors[event] = 1 + sign * step
            ends.append(slow_log_prob(model, batch, codes))
        factors[event] = 1
        expected[event] = (ends[0] - ends[1]) / (2 * step)
    monkeypatch.undo()
    found = gradient(model, batch, places, codes)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)
    assert found[4].abs().sum() > 0
    assert all(parameter.grad is None for parameter in model.parameters())


def test_attention_weights_by_hand():
    """One head, keys (0, 0), (2, 0), (0, 2): a query of (1, 0) scores 0, 2 / sqrt 2, 0."""
    query, key = (
        torch.tensor([[[1.0, 0.0]]]),
        torch.tensor([[[[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]]]]),
    )
    mask = torch.tensor([True, True, False])[None, None, None]
    weight = attention_weights(query, key, mask, heads=1)
    high = torch.tensor(2.0).sqrt().exp()
    expected = torch.tensor([1 / (1 + high), high / (1 + high), 0.0])
    torch.testing.assert_close(weight, expected.view(1, 1, 1, 3))


def test_groups_of_keys_serve_neighbouring_heads():
    g = torch.Generator().manual_seed(0)
    query, key = torch.randn(1, 2, 8, generator=g), torch.randn(1, 2, 5, 2, generator=g)
    mask = torch.ones(1, 1, 1, 5, dtype=torch.bool)
    weights = attention_weights(query, key, mask, heads=4)
    for head in range(4):
        q, k = query[0, :, 2 * head : 2 * head + 2], key[0, head // 2]
        torch.testing.assert_close(weights[0, head], (q @ k.T / 2**0.5).softmax(-1))


def test_attention_is_what_the_layers_weigh_their_values_with(model):
    """Weights times values is what each layer hands to its output product; rows add up to 1."""
    batch, places = one_user()
    codes, queries, read = codes_of(model), [], []
    for block in model.decoder:
        block.cross.query.register_forward_hook(lambda module, x, y: queries.append(y))
        block.cross.out.register_forward_pre_hook(lambda module, x: read.append(x[0]))
    with evaluating(model):
        memory = model.encode(batch)
        model.decode(codes[None, None, :-1], memory)
    expected = []
    for query, heads_out, (key, value) in zip(queries, read, memory.keys_values, strict=True):
        heads = model.config.heads
        weights = attention_weights(query, key, memory.attendable, heads)  # (1, H, L, S)
        values = value.repeat_interleave(heads // value.shape[1], dim=1)
        torch.testing.assert_close((weights @ values).transpose(1, 2).flatten(2), heads_out)
        expected.append(weights.mean(1)[0])
    rows = torch.stack(expected).mean(0)  # (L, S): the user's own, 4 short, 6 positive places
    found = attention(model, batch, places, codes)
    torch.testing.assert_close(found.static, rows[:, 0])
    torch.testing.assert_close(found.events[4], rows[:, 4] + rows[:, 7])
    total = found.events.sum(0) + found.static + found.lifelong
    torch.testing.assert_close(total, torch.ones(3, dtype=torch.float64))


def test_attention_by_hand_on_one_layer():
    """In one layer the first query is made of BOS alone, so the row can be written out."""
    model = doubled(toy.make_model(decoder_layers=1, heads=1))
    batch, places = one_user()
    found = attention(model, batch, places, codes_of(model))
    with evaluating(model):
        memory = model.encode(batch)
        key = memory.keys_values[0][0][0, 0][memory.mask[0]]  # (S, D): static, 4 short, 3 positive
        block = model.decoder[0]
        x = model.begin[None, None]
        v = block.attention.qkv(block.attention_norm(x)).chunk(3, dim=-1)[2]
        x = x + block.attention.out(v)
        q = block.cross.query(block.cross_norm(x))[0, 0]
        row = ((key @ q) / 16**0.5).softmax(0)
    assert len(row) == 8
    torch.testing.assert_close(found.static[0], row[0])
    by_event = [row[5], row[1], row[2] + row[6], row[3], row[4] + row[7]]  # 2 and 4 stand twice
    torch.testing.assert_close(found.events[:5, 0], torch.stack(by_event))


def with_three_clusters():
    """A model with the lifelong pathway and `one_user`, whose units 6, 7 and 8 are clusters."""
    model = doubled(toy.make_model(lifelong=QFormerConfig(2)))
    batch, places = one_user()
    batch.lifelong = toy.make_clusters([3], 4)
    batch.lifelong.label = batch.lifelong.label.double()
    places = Places(9, places.short, places.positive, torch.tensor([6, 7, 8, -1]))
    return model, batch, places


def test_clusters_are_units_of_their_own_and_their_states_no_events():
    model, batch, places = with_three_clusters()
    codes = codes_of(model)
    effect = leave_one_out(model, batch, places, codes)
    whole = slow_log_prob(model, batch, codes)
    hidden = replace(batch, lifelong=batch.lifelong.kept(torch.tensor([[True, False, True, True]])))
    torch.testing.assert_close(effect[7], whole - slow_log_prob(model, hidden, codes))
    found = attention(model, batch, places, codes)
    assert (found.lifelong > 0).all()
    assert (found.events[6:] == 0).all()
    torch.testing.assert_close(
        (found.events.sum(0) + found.static + found.lifelong).sum().item(), 3.0
    )
    assert (gradient(model, batch, places, codes)[6:].abs().sum(1) > 0).all()


def test_deletion_curves_equal_deleting_by_hand(model):
    batch, places = one_user()
    codes = codes_of(model)
    score = torch.tensor([0.1, 0.5, 0.3, 0.0, 0.5, 9.0])  # the unseen one counts for nothing
    curves = deletion_curves(model, batch, places, codes, {"own": score}, most=3)
    order = [1, 4, 2]
    expected = [
        slow_log_prob(model, without(batch, places, set(order[:m])), codes).sum() for m in range(4)
    ]
    torch.testing.assert_close(curves["own"], torch.stack(expected))
    recent = slow_log_prob(model, without(batch, places, {4, 3}), codes).sum()
    torch.testing.assert_close(curves["recent"][2], recent)
    assert curves["random"].shape == (4,)
    torch.testing.assert_close(curves["random"][0], expected[0])
    everything = deletion_curves(model, batch, places, codes, {"own": score})
    ends = torch.stack([curve[-1] for curve in everything.values()])
    assert len(everything["own"]) == 6  # five events can be seen
    torch.testing.assert_close(ends, ends[:1].expand(3))


def test_the_newest_events_are_deleted_before_any_cluster():
    """Clusters are numbered behind the events; they are older than what the windows hold."""
    model, batch, places = with_three_clusters()
    codes = codes_of(model)
    recent = deletion_curves(model, batch, places, codes, {})["recent"]
    order = [4, 3, 2, 1, 0, 8, 7, 6]  # event 5 is unseen
    for m in range(9):
        left = without(batch, places, set(order[:m]))
        kept = torch.tensor([[unit not in order[:m] for unit in (6, 7, 8)] + [True]])
        left.lifelong = batch.lifelong.kept(kept)
        torch.testing.assert_close(recent[m], slow_log_prob(model, left, codes).sum())


def test_the_random_curve_is_the_mean_of_different_orders(model):
    batch, places = one_user()
    codes, stream = codes_of(model), generator(3)
    orders = [torch.randperm(5, generator=stream).tolist() for _ in range(RANDOM_ORDERS)]
    assert len({tuple(order) for order in orders}) > 1
    found = deletion_curves(model, batch, places, codes, {}, most=3, seed=3)["random"]
    for m in range(4):
        left = [
            slow_log_prob(model, without(batch, places, set(order[:m])), codes).sum()
            for order in orders
        ]
        torch.testing.assert_close(found[m], torch.stack(left).mean())


def test_a_user_without_a_history_has_nothing_to_explain(model):
    batch, places = one_user()
    nothing = replace(batch, short=batch.short.kept(torch.zeros(1, 4, dtype=torch.bool)))
    nothing.positive = batch.positive.kept(torch.zeros(1, 6, dtype=torch.bool))
    places = Places(0, torch.full((4,), -1), torch.full((6,), -1))
    codes = codes_of(model)
    assert leave_one_out(model, nothing, places, codes).shape == (0, 3)
    assert gradient(model, nothing, places, codes).shape == (0, 3)
    found = attention(model, nothing, places, codes)
    torch.testing.assert_close(found.static, torch.ones(3, dtype=torch.float64))
    curves = deletion_curves(model, nothing, places, codes, {"own": torch.zeros(0)})
    assert curves["own"].shape == (1,)


def test_steps_name_the_rivals_of_each_code(model):
    batch, _ = one_user()
    codes, trie = codes_of(model), Trie(toy.item_codes(), toy.SIZES)
    found = steps(model, batch, trie, codes, few=3)
    with torch.no_grad():
        hidden = model.decode(codes[None, None, :-1], model.encode(batch))[0, 0]
    table = toy.item_codes()
    for level in range(3):
        chance = model.logits(level, hidden[level]).softmax(-1).detach()
        prefix = (table[:, :level] == codes[:level]).all(1)
        legal = set(table[prefix, level].tolist())
        own = chance[codes[level]]
        torch.testing.assert_close(found.probability[level], own)
        assert found.rank[level] == 1 + sum(float(p) > float(own) for p in chance)
        torch.testing.assert_close(found.legal_probability[level], chance[list(legal)].sum())
        order = chance.argsort(descending=True)[:3]
        assert found.code[level].tolist() == order.tolist()
        torch.testing.assert_close(found.alternative[level], chance[order])
        assert found.legal[level].tolist() == [int(code) in legal for code in order]
    torch.testing.assert_close(
        found.probability.log(), slow_log_prob(model, batch, codes), rtol=1e-9, atol=1e-12
    )


def test_nothing_stays_behind(model):
    """No hook, no gradient, and the mode that the model was in."""
    batch, places = one_user()
    codes = codes_of(model)
    with torch.no_grad():
        before = code_log_probs(model, model.encode(batch), codes[None, None])
    model.train()
    attention(model, batch, places, codes)
    gradient(model, batch, places, codes)
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    model.eval()
    with torch.no_grad():
        after = code_log_probs(model, model.encode(batch), codes[None, None])
    assert torch.equal(before, after)


def test_what_cannot_be_explained_is_refused(model):
    batch, places = one_user()
    two = toy.make_batch(lengths=(2, 3))
    with pytest.raises(ValueError, match="one user at a time, not 2"):
        leave_one_out(model, two, places, codes_of(model))
    with pytest.raises(ValueError, match=r"codes \(2,\) must be those of one item, \(3,\)"):
        gradient(model, batch, places, codes_of(model)[:2])
    with pytest.raises(ValueError, match="pathway short has 4 places, `places` has 3"):
        attention(model, batch, replace(places, short=SHORT[1:]), codes_of(model))
