"""The model: loss by hand, gradients against float64, targets that share a context."""

import copy
import math
from dataclasses import replace

import pytest
import torch
import toy_model as toy
from slow_attention import slow_sequences

from onerec.model import attention, onerec, packing
from onerec.model.onerec import ItemTable, OneRec, OneRecConfig, Vocabulary
from onerec.model.routers import RouterConfig


def test_loss_of_a_model_that_knows_nothing_is_the_sum_of_log_n():
    model, batch = toy.make_model(), toy.make_batch()
    with torch.no_grad():
        for head in model.heads:
            head.weight.zero_()
    loss, parts = model.loss(batch)
    assert loss.item() == pytest.approx(sum(math.log(n) for n in toy.SIZES))
    assert parts["loss_2"].item() == pytest.approx(math.log(6))
    assert list(parts) == ["loss_1", "loss_2", "loss_3"]


def test_loss_is_the_mean_over_targets_that_exist_of_the_sum_over_levels():
    model, batch = toy.make_model(), toy.make_batch()
    batch.target[0, 1] = batch.target[2, 0] = 0
    total, count = 0.0, 0
    logits = model(batch)
    for b in range(3):
        for m in range(3):
            if batch.target[b, m]:
                count += 1
                codes = model.items.codes[batch.target[b, m]]
                for level in range(3):
                    total -= logits[level][b, m].log_softmax(0)[codes[level]].item()
    assert model.loss(batch)[0].item() == pytest.approx(total / count, rel=1e-5)


def test_label_smoothing_mixes_in_the_mean_over_codes():
    plain, batch = toy.make_model(), toy.make_batch(targets=1)
    smooth = toy.make_model(label_smoothing=0.1)
    uniform = sum(-logits.log_softmax(-1).mean() for logits in plain(batch))
    expected = 0.9 * plain.loss(batch)[0] + 0.1 * uniform
    torch.testing.assert_close(smooth.loss(batch)[0], expected)


def test_a_code_sees_only_the_codes_before_it():
    codes = toy.item_codes()
    codes[1] = codes[0]
    codes[1, 2] = (codes[0, 2] + 1) % 4  # items 0 and 1 differ in the last code only
    codes[2] = codes[0]
    codes[2, 1] = (codes[0, 1] + 1) % 6  # item 2 in the middle one
    model, batch = toy.make_model(codes=codes), toy.make_batch(lengths=(3,), targets=3)
    batch.target = torch.tensor([[1, 2, 3]])
    first, second, third = model(batch)
    torch.testing.assert_close(first[0, 0], first[0, 2])
    torch.testing.assert_close(second[0, 0], second[0, 2])
    torch.testing.assert_close(third[0, 0], third[0, 1])
    assert not torch.allclose(third[0, 0], third[0, 2])


@pytest.mark.parametrize("experts", [0, 3])
def test_targets_share_a_context_as_if_each_had_its_own(experts):
    model, batch = toy.make_model(experts=experts), toy.make_batch()
    together = model(batch)
    for m in range(3):
        alone = toy.make_batch()
        alone.target = batch.target[:, m : m + 1]
        for a, b in zip(together, model(alone), strict=True):
            torch.testing.assert_close(a[:, m], b[:, 0])


def test_keys_and_values_are_made_once_per_context_and_layer():
    model, batch = toy.make_model(), toy.make_batch(targets=5)
    seen = []
    for block in model.decoder:
        block.cross.key_value.register_forward_hook(lambda _m, _i, y: seen.append(y.shape))
    model.loss(batch)
    assert seen == [(3 + 4 + 0 + 2 + 4 + 0 + 2, 32)] * 2  # states that exist, for both layers


@pytest.mark.parametrize(
    "settings",
    [{}, {"experts": 3}, {"experts": 3, "layers": 2, "expert_blocks": "alternate"}],
    ids=["dense", "decoder", "alternate"],
)
def test_gradients_agree_with_float64_and_with_finite_differences(settings):
    model, batch = toy.make_model(**settings).train(), toy.make_batch()
    exact = copy.deepcopy(model).double()
    wide = toy.make_batch()
    for events in (wide.short, wide.positive):
        events.label = events.label.double()
    model.loss(batch)[0].backward()
    exact.loss(wide)[0].backward()
    reference = dict(exact.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            parameter.grad.double(), reference[name].grad, rtol=1e-3, atol=1e-5, msg=name
        )
    step = 1e-6
    for name, parameter in exact.named_parameters():
        place = int(parameter.grad.abs().argmax())
        with torch.no_grad():
            flat = parameter.view(-1)
            flat[place] += step
            above = exact.loss(wide)[0]
            flat[place] -= 2 * step
            below = exact.loss(wide)[0]
            flat[place] += step
        slope = ((above - below) / (2 * step)).item()
        assert slope == pytest.approx(parameter.grad.view(-1)[place].item(), rel=1e-5), name


def test_initialisation_is_the_generators_and_leaves_nothing_unset():
    one, other = toy.make_model(seed=5), toy.make_model(seed=5)
    different = dict(toy.make_model(seed=6).named_parameters())
    for (name, a), b in zip(one.named_parameters(), other.parameters(), strict=True):
        assert a.equal(b), name
        assert a.isfinite().all()
        constant = a.unique().numel() == 1
        assert constant or not a.equal(different[name]), name
    for parameter in one.parameters():
        parameter.data.fill_(float("nan"))
    one.init_weights(torch.Generator().manual_seed(5))
    assert all(parameter.isfinite().all() for parameter in one.parameters())


def test_tied_heads_are_the_code_embeddings():
    tied = toy.make_model(vocabulary={"tied_output": True})
    free = toy.make_model()
    heads = sum(head.weight.numel() for head in free.heads)
    count = lambda model: sum(p.numel() for p in model.parameters())  # noqa: E731
    assert count(free) - count(tied) == heads
    hidden = torch.randn(2, 16)
    torch.testing.assert_close(tied.logits(1, hidden), hidden @ tied.codes.table.weight[5:11].T)
    tied.loss(toy.make_batch())[0].backward()


def test_router_bias_moves_only_when_asked():
    model, batch = toy.make_model(experts=3).train(), toy.make_batch()
    batch.target[0] = 0
    model.loss(batch)
    assert all(mixture.router.bias.eq(0).all() for mixture in model.mixtures())
    # 6 targets that exist x 3 positions x 2 experts
    assert [mixture.load.sum().item() for mixture in model.mixtures()] == [36.0, 36.0]
    model.update_router_bias(0.25)
    assert all(mixture.router.bias.abs().max() == 0.25 for mixture in model.mixtures())


@pytest.mark.parametrize("packed", [True, False])
def test_experts_of_the_encoder_serve_the_states_that_exist(packed, monkeypatch):
    """The second block of both sides holds experts; padding, where it stays, is no load."""
    monkeypatch.setattr(packing, "packs", lambda *_: packed)
    settings = {"experts": 3, "layers": 2, "expert_blocks": "alternate"}
    model, batch = toy.make_model(**settings).train(), toy.make_batch()
    model.loss(batch)
    found = [name for name, module in model.named_modules() if module in model.mixtures()]
    assert found == ["encoder.1.ffn", "decoder.1.ffn"]
    states, written = 3 + 4 + 0 + 2 + 4 + 0 + 2, 3 * 3 * 3
    assert [mixture.load.sum().item() for mixture in model.mixtures()] == [2 * states, 2 * written]


def test_dropout_acts_in_training_alone():
    model, batch = toy.make_model(dropout=0.5), toy.make_batch()
    assert model(batch)[0].equal(model(batch)[0])
    model.train()
    assert not model(batch)[0].equal(model(batch)[0])


def test_the_item_table_is_not_a_weight():
    model = toy.make_model()
    assert not any(name.startswith("items") for name in model.state_dict())
    assert len(model.items) == toy.N_ITEMS


def test_impossible_sizes_are_refused():
    items = ItemTable(torch.zeros(3, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="width=10 is no multiple of heads=4"):
        OneRec(OneRecConfig(width=10), Vocabulary((4, 4), 2), items)
    with pytest.raises(ValueError, match="items have 2 codes, the vocabulary 3"):
        OneRec(OneRecConfig(), Vocabulary((4, 4, 4), 2), items)


def test_it_learns_a_rule():
    """The next item is the user's newest item: the loss falls far below guessing."""
    torch.manual_seed(0)
    model = toy.make_model(width=32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(150):
        batch = toy.make_batch(lengths=(4,) * 32, targets=1, seed=step)
        batch.target = batch.short.item[:, -1:]
        loss, _ = model.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 1.0  # guessing: log 5 + log 6 + log 4 = 4.8


def test_codes_start_at_their_centroids_up_to_a_rotation() -> None:
    """Angles between embeddings are those between centroids, and heads point the same way."""
    codebooks = torch.randn(3, 8, 5, generator=torch.Generator().manual_seed(1))
    codes = torch.zeros(5, 4, dtype=torch.int64)
    vocabulary = Vocabulary(sizes=(8, 8, 8, 2), n_items=4)  # the last level has no codebook
    model = OneRec(OneRecConfig(width=16, layers=1, decoder_layers=1), vocabulary, ItemTable(codes))
    last = model.codes.rows()[3].clone()
    model.start_from_codebooks(codebooks, torch.Generator().manual_seed(0))
    cosine = torch.nn.functional.cosine_similarity
    for level in range(3):
        embedded = model.codes.rows()[level]
        expected = cosine(codebooks[level][:, None], codebooks[level][None], dim=-1)
        assert torch.allclose(
            cosine(embedded[:, None], embedded[None], dim=-1), expected, atol=1e-5
        )
        assert torch.allclose(cosine(model.heads[level].weight, embedded), torch.ones(8), atol=1e-5)
    assert torch.equal(model.codes.rows()[3], last)
    assert model.codes.rows()[0].norm(dim=1).mean().item() == pytest.approx(0.125 * 4)


# --------------------------------------------------------------------- routers


def test_auxiliary_losses_are_added_with_their_weights_and_not_reported_as_levels():
    settings = {"balance_weight": 0.5, "z_weight": 0.25}
    config = {"experts": 3, "router": RouterConfig("softmax", **settings)}
    model, batch = toy.make_model(**config), toy.make_batch()
    batch.target[0, 1] = 0
    plain, levels = model.loss(batch)
    assert list(levels) == ["loss_1", "loss_2", "loss_3"]
    loss, parts = model.train().loss(batch)
    assert list(parts) == [*levels, "aux_balance", "aux_z"]
    for name, value in levels.items():
        torch.testing.assert_close(parts[name], value)
    layers = len(model.mixtures())
    added = layers * (0.5 * parts["aux_balance"] + 0.25 * parts["aux_z"])
    torch.testing.assert_close(loss, plain + added)
    model.eval()
    assert model.loss(batch)[0].equal(plain)
    model.train()(batch)  # a pass whose losses nobody takes
    assert model.eval().loss(batch)[0].equal(plain)


def test_auxiliary_losses_do_not_see_targets_that_do_not_exist():
    """As if every target had a context of its own, and those of nobody were not there."""
    model = toy.make_model(experts=3, router=RouterConfig("softmax")).train()
    batch = toy.make_batch()
    batch.target[0] = batch.target[1, 2] = 0
    _, parts = model.loss(batch)
    kept = (batch.target > 0).nonzero()
    alone = toy.rows(batch, kept[:, 0])
    alone.target = batch.target[kept[:, 0], kept[:, 1]][:, None]
    _, expected = model.loss(alone)
    for name in ("aux_balance", "aux_z"):
        torch.testing.assert_close(parts[name], expected[name])


def test_experts_compete_in_the_layers_that_are_told_to():
    model = toy.make_model(experts=3, router=RouterConfig("competition")).train()
    batch = toy.make_batch()
    normal = {"aux_balance", "aux_z"}
    competing = {"aux_balance", "aux_distillation", "aux_diversity"}
    model.compete(torch.tensor([False, True]))
    assert model.loss(batch)[1].keys() - {"loss_1", "loss_2", "loss_3"} == normal | competing
    model.compete(torch.tensor([True, True]))
    loss, parts = model.loss(batch)
    assert parts.keys() - {"loss_1", "loss_2", "loss_3"} == competing
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.mixtures()[0].parameters())
    other = toy.make_model(experts=3)
    other.compete(torch.tensor([True, True]))
    assert not any(mixture.router.competing for mixture in other.mixtures())


@pytest.mark.parametrize("kind", ["softmax", "competition"])
def test_every_router_starts_from_the_generator_and_survives_a_copy(kind):
    settings = {"experts": 3, "shared_experts": 1, "router": RouterConfig(kind)}
    one, other = toy.make_model(seed=5, **settings), toy.make_model(seed=5, **settings)
    for (name, a), b in zip(one.named_parameters(), other.parameters(), strict=True):
        assert a.equal(b), name
    one.train().loss(toy.make_batch())
    copied = copy.deepcopy(one)
    assert copied.eval()(toy.make_batch())[0].equal(one.eval()(toy.make_batch())[0])


@pytest.mark.parametrize("tile", [1, 8])
@pytest.mark.parametrize(("experts", "stays"), [(0, False), (3, False), (3, True)])
def test_tokens_one_after_another_give_the_loss_and_gradients_of_a_masked_grid(
    experts, stays, tile, monkeypatch
):
    model = toy.make_model(experts=experts, expert_blocks="alternate", layers=2).double().train()
    batch = toy.make_batch()
    batch = replace(batch, short=as_double(batch.short), positive=as_double(batch.positive))
    found, kinds = [], []
    monkeypatch.setattr(packing, "rounded", lambda *given: given)  # as on a GPU
    monkeypatch.setattr(packing, "stays", lambda *_: stays)
    monkeypatch.setattr(packing, "TILE", tile)
    monkeypatch.setattr(attention, "varlen_attn", slow_sequences)
    for segments in (False, True):
        monkeypatch.setattr(onerec, "segments_serve", lambda device, head, s=segments: s)
        monkeypatch.setattr(packing, "packs", lambda *_, s=segments: s and torch.is_grad_enabled())
        model.zero_grad()
        kinds.append(model.embed(batch)[1])
        loss, _ = model.loss(batch)
        loss.backward()
        grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        with torch.no_grad():  # each row's tokens in front, its padding behind
            again = model.loss(batch)[0]
        loads = [mixture.load.clone() for mixture in model.mixtures()]
        model.update_router_bias(0.0)
        found.append((loss.detach(), again, grads, loads))
    torch.testing.assert_close(*found)
    assert kinds[0].exists is None
    assert kinds[1].exists.sum() == batch_tokens(batch)
    assert len(kinds[1].exists) % tile == 0


def batch_tokens(batch):
    return batch.size + int((batch.short.item > 0).sum() + (batch.positive.item > 0).sum())


def test_a_full_batch_is_attended_to_without_a_mask(monkeypatch):
    monkeypatch.setattr(packing, "rounded", lambda *given: given)
    monkeypatch.setattr(onerec, "segments_serve", lambda device, head: True)
    monkeypatch.setattr(attention, "varlen_attn", None)
    model, batch = toy.make_model(), toy.make_batch((4, 4))
    for name in ("short", "positive"):
        events = getattr(batch, name)
        batch = replace(batch, **{name: replace(events, item=events.item.clamp(min=1))})
    x, where = model.embed(batch)
    assert where.full
    assert model.read(x, where).attendable is None
    loss = model.loss(batch)[0]
    monkeypatch.setattr(onerec, "segments_serve", lambda device, head: False)
    assert not model.embed(batch)[1].full
    torch.testing.assert_close(model.loss(batch)[0], loss)


def as_double(events):
    return replace(events, label=events.label.double())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("heads", [2, 4])  # of width 16, and of 8
def test_on_a_gpu_segments_give_the_masked_loss_and_gradients_within_bfloat16(heads, monkeypatch):
    model, batch = toy.make_model(heads=heads, width=32).cuda(), toy.make_batch().to("cuda")
    monkeypatch.setattr(packing, "WIDE", 32)
    attend, calls, found = attention.varlen_attn, [], []

    def counted(*arguments):
        calls.append(0)
        return attend(*arguments)

    for segments in (False, True):
        monkeypatch.setattr(attention, "varlen_attn", counted)
        monkeypatch.setattr(onerec, "segments_serve", lambda device, head, s=segments: s)
        model.zero_grad()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = model.loss(batch)[0]
            with torch.no_grad():
                again = model.loss(batch)[0]
        loss.backward()
        assert len(calls) == segments * (2 * len(model.encoder) + len(model.decoder))
        grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        found.append((loss, again, grads))
        spoilt = torch.full((1 << 20,), torch.nan, dtype=torch.bfloat16, device="cuda")
        del spoilt  # what a kernel does not write is this
    torch.testing.assert_close(*found, rtol=3e-2, atol=3e-2)


@pytest.mark.parametrize("experts", [0, 3])
def test_the_residual_stream_is_as_wide_as_asked_under_autocast_alone(experts):
    shape = {"experts": experts, "layers": 3, "expert_blocks": "alternate"}
    model, batch = toy.make_model(residual="bfloat16", **shape).eval(), toy.make_batch()
    plain = toy.make_model(**shape).eval()
    seen = []
    for block in model.encoder:
        block.register_forward_hook(lambda _m, _i, y: seen.append(y.dtype))
    assert model.loss(batch)[0].equal(plain.loss(batch)[0])
    assert set(seen) == {torch.float32}
    seen.clear()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow, wide = model.loss(batch)[0], plain.loss(batch)[0]
    assert set(seen) == {torch.bfloat16}
    torch.testing.assert_close(narrow, wide, rtol=2e-2, atol=2e-2)


def test_under_autocast_the_residual_stream_is_float32_with_and_without_gradients():
    model, batch = toy.make_model(experts=3).eval(), toy.make_batch()
    seen = []
    for block in (*model.encoder, *model.decoder):
        block.register_forward_hook(lambda _m, _i, y: seen.append(y.dtype))
    losses = []
    for gradients in (True, False):
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.set_grad_enabled(gradients):
            losses.append(model.loss(batch)[0])
    assert set(seen) == {torch.float32}
    torch.testing.assert_close(*losses, rtol=1e-2, atol=1e-2)
