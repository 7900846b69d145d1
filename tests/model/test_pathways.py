"""Events to encoder states: by hand, under any padding, and with features that are not there."""

from dataclasses import replace

import pytest
import torch
import toy_model as toy

from onerec.model import packing
from onerec.model.onerec import Batch, Events
from onerec.model.pathways import CodeEmbedding, age, dense_pair
from onerec.model.qformer import QFormerConfig

BARE = dict.fromkeys(("n_authors", "n_tags", "n_time", "n_play", "n_duration", "behaviours"), 0)


def padded(events: Events, left: int, right: int) -> Events:
    """The same events with more padding on both sides."""

    def more(tensor):
        shape = list(tensor.shape)
        sides = []
        for count in (left, right):
            shape[1] = count
            sides.append(torch.zeros(shape, dtype=tensor.dtype))
        return torch.cat([sides[0], tensor, sides[1]], dim=1)

    return type(events)(*(more(getattr(events, name)) for name in events.__dataclass_fields__))


def test_age_counts_back_from_the_newest():
    mask = torch.tensor([[1, 1, 1, 0], [0, 1, 0, 1]]).bool()
    assert age(mask)[mask].tolist() == [2, 1, 0, 1, 0]
    assert age(torch.zeros(1, 3).bool()).tolist() == [[0, 0, 0]]


def test_code_embedding_reads_the_level_of_each_code():
    codes = CodeEmbedding((2, 3), 4)
    weight = codes.table.weight
    got = codes(torch.tensor([[1, 2]]))
    assert got[0, 0].equal(weight[1])
    assert got[0, 1].equal(weight[2 + 2])
    assert codes(torch.tensor([[2]]), first=1)[0, 0].equal(weight[4])
    torch.testing.assert_close(codes.total(torch.tensor([[[1, 2]]]))[0, 0], weight[1] + weight[4])
    assert [len(rows) for rows in codes.rows()] == [2, 3]


def test_what_has_nothing_to_read_gets_a_gradient_of_zero_where_that_is_asked():
    """FSDP of torch 2.11 counts on gradients of the same parameters in every process."""
    model, batch = toy.make_model(lifelong=QFormerConfig(2)), toy.make_batch()
    assert batch.lifelong is None
    expected = model.loss(batch)[0]
    assert model.pathways.qformer.queries.grad is None
    model.pathways.reads_all = True
    loss = model.loss(batch)[0]
    assert loss.equal(expected)
    loss.backward()
    assert all(p.grad is not None for p in model.pathways.parameters())
    assert not model.pathways.qformer.queries.grad.any()


def test_padding_changes_nothing():
    model, batch = toy.make_model(), toy.make_batch()
    expected = model(batch)
    for left, right in ((3, 0), (0, 5), (2, 2)):
        more = Batch(
            batch.static,
            padded(batch.short, left, right),
            padded(batch.positive, right, left),
            batch.target,
        )
        for a, b in zip(expected, model(more), strict=True):
            torch.testing.assert_close(a, b)


def test_length_of_the_sequence_and_the_state_of_a_user_without_history():
    model, batch = toy.make_model(), toy.make_batch(lengths=(4, 0))
    states, packing = model.pathways(batch, model.items, model.codes)
    assert packing.mask.shape == (2, 1 + 4 + 6)
    assert packing.mask.sum(1).tolist() == [1 + 4 + 4, 1]
    assert states.shape == (1 + 4 + 4 + 1, 16)
    nobody = toy.make_batch(lengths=(0, 0))
    states, packing = model.pathways(nobody, model.items, model.codes)
    static = model.pathways.static(nobody.static)
    torch.testing.assert_close(
        packing.unpack(states)[:, 0], static + model.pathways.static_position
    )
    assert all(level.isfinite().all() for level in model(nobody))
    assert all(level.isfinite().all() for level in model(batch))


def test_a_feature_that_is_not_there_costs_nothing():
    nothing = dict.fromkeys(("n_authors", "n_tags", "n_time", "n_play", "n_duration"), 0)
    bare = toy.make_model(vocabulary={**nothing, "behaviours": 0, "user_features": ()})
    assert list(bare.pathways.features.tables) == ["item"]
    assert bare.pathways.features.label is None
    assert bare.pathways.features.dim == 2 * 16  # item and codes
    batch = toy.make_batch()
    batch.static = batch.static[:, :0]
    for events in (batch.short, batch.positive):
        events.label = events.label[..., :0]
    assert all(level.isfinite().all() for level in bare(batch))


def test_every_feature_reaches_the_output():
    model, batch = toy.make_model(), toy.make_batch(lengths=(4, 3, 2))
    before = model(batch)[0]
    for name in ("time", "play", "label"):
        changed = toy.make_batch(lengths=(4, 3, 2))
        events = changed.short
        value = getattr(events, name)
        setattr(events, name, torch.where(value > 0, value * 0, value * 0 + 1))
        assert not torch.allclose(model(changed)[0], before), name
    for name in ("author", "tag", "duration", "codes"):
        model = toy.make_model()
        column = getattr(model.items, name)
        column.copy_(column.roll(7, 0))
        assert not torch.allclose(model(batch)[0], before), name
    changed = toy.make_batch(lengths=(4, 3, 2))
    changed.static = (changed.static + 1) % 3
    assert not torch.allclose(toy.make_model()(changed)[0], before)


def test_item_input_picks_what_stands_for_an_item():
    for choice, tables, dim in (("item", True, 16), ("codes", False, 16), ("both", True, 32)):
        model = toy.make_model(vocabulary={"item_input": choice, "behaviours": 0})
        assert ("item" in model.pathways.features.tables) == tables
        others = sum(
            t.embedding_dim for n, t in model.pathways.features.tables.items() if n != "item"
        )
        assert model.pathways.features.dim == dim + others


def test_content_tells_items_of_one_code_apart():
    """Two items with the same codes and features, read through their content vectors."""
    codes = toy.item_codes()
    codes[1] = codes[0]
    plain, reading = (
        toy.make_model(codes=codes, vocabulary={"item_input": "codes", "content_dim": dim})
        for dim in (0, 5)
    )
    content = torch.randn(len(codes) + 1, 5, generator=torch.Generator().manual_seed(0))
    for model in (plain, reading):
        for name in ("author", "tag", "duration"):
            getattr(model.items, name).zero_()
    reading.items.content = content
    assert reading.pathways.features.dim == plain.pathways.features.dim + 16
    first, second = toy.make_batch(), toy.make_batch()
    first.short.item[0, 0], second.short.item[0, 0] = 1, 2
    assert torch.equal(plain(first)[0], plain(second)[0])
    assert not torch.allclose(reading(first)[0], reading(second)[0])
    content.copy_(content[:1].expand_as(content))
    assert torch.equal(reading(first)[0], reading(second)[0])


def test_a_length_of_zero_drops_the_pathway():
    model = toy.make_model(short_length=0)
    assert list(model.pathways.dense) == ["positive"]
    assert model.encode(toy.make_batch()).mask.shape[1] == 1 + 6


def test_events_older_than_the_table_share_its_last_position():
    pathways = toy.make_model(short_length=3).pathways
    table = pathways.position["short"].weight
    assert pathways._position("short", torch.tensor([0, 2, 3, 7])).equal(table[[0, 2, 2, 2]])


def test_a_pathway_ends_in_dense_leaky_relu_dense():
    pair = dense_pair(1, 1)
    for parameter, value in zip(pair.parameters(), (1.0, -1.0, 2.0, 0.5), strict=True):
        torch.nn.init.constant_(parameter, value)
    expected = torch.tensor([[2 * 2.0 + 0.5], [2 * -0.03 + 0.5]])
    torch.testing.assert_close(pair(torch.tensor([[3.0], [-2.0]])), expected)


def test_order_of_events_matters():
    model = toy.make_model()
    batch = toy.make_batch(lengths=(4, 4, 4))
    before = model(batch)[0]
    for name in batch.short.__dataclass_fields__:
        setattr(batch.short, name, getattr(batch.short, name).flip(1))
    assert not torch.allclose(model(batch)[0], before)


@pytest.mark.parametrize("lifelong", [None, QFormerConfig(3), QFormerConfig(3, residual=True)])
@pytest.mark.parametrize("features", [{}, {"item_input": "codes", "content_dim": 5}, BARE])
def test_without_padding_it_is_what_it_is_with_it(monkeypatch, features, lifelong):
    """The plain way, over the padded grid with every column side by side, in float64."""
    results = []
    for dropped in (True, False):
        monkeypatch.setattr(packing, "packs", lambda *_, dropped=dropped: dropped)
        model = toy.make_model(vocabulary=features, lifelong=lifelong).double()
        content = torch.randn(41, 5, generator=torch.Generator().manual_seed(0)).double()
        model.items.content = content[:, : features.get("content_dim", 0)]
        batch = toy.make_batch(lengths=(4, 0, 2, 6))
        batch.lifelong = toy.make_clusters((3, 1, 0, 7), 7)
        for events in (batch.short, batch.positive, batch.lifelong):
            events.label = events.label[..., : features.get("behaviours", 2)].double()
        logits = model(batch)
        sum((level**2).mean() for level in logits).backward()
        gradients = {name: p.grad for name, p in model.named_parameters()}
        results.append((logits, gradients))
    (logits, gradients), (expected, wanted) = results
    torch.testing.assert_close(logits, expected)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, wanted[name], msg=name)


def with_history(lengths=(4, 0, 2), clusters=(5, 2, 0), **settings):
    model = toy.make_model(lifelong=QFormerConfig(3), **settings)
    batch = toy.make_batch(lengths)
    batch.lifelong = toy.make_clusters(clusters, 6)
    return model, batch


def test_a_lifelong_history_is_as_many_states_as_there_are_queries():
    model, batch = with_history()
    states, where = model.pathways(batch, model.items, model.codes)
    assert where.mask.shape == (3, 1 + 4 + 6 + 3)
    assert where.mask[:, -3:].tolist() == [[True] * 3, [True] * 3, [False] * 3]
    assert len(states) == int(where.mask.sum())


def test_the_papers_lengths_are_405_states():
    model = toy.make_model(short_length=20, positive_length=256, lifelong=QFormerConfig())
    batch = replace(
        toy.make_batch((1,)),
        short=toy.make_events((20,), 20),
        positive=toy.make_events((256,), 256),
        lifelong=toy.make_clusters((2_000,), 2_000),
    )
    states, where = model.pathways(batch, model.items, model.codes)
    assert where.mask.shape == (1, 405)
    assert where.unpack(states).shape == (1, 405, 16)


@pytest.mark.parametrize("dropped", [True, False])
def test_a_user_without_a_lifelong_history_is_as_in_a_batch_without_any(monkeypatch, dropped):
    monkeypatch.setattr(packing, "packs", lambda *_: dropped)
    model, batch = with_history()
    logits = model(batch)
    short = replace(batch, lifelong=None)
    for level, alone in zip(logits, model(short), strict=True):
        torch.testing.assert_close(level[2], alone[2])
        assert not torch.allclose(level[0], alone[0])
    for clusters in (toy.make_clusters((0, 0, 0), 6), toy.make_clusters((0, 0, 0), 0)):
        nobody = model(replace(batch, lifelong=clusters))
        torch.testing.assert_close(nobody, model(short))
    model.loss(replace(batch, lifelong=toy.make_clusters((0, 0, 0), 6)))[0].backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_padding_and_the_order_of_clusters_change_nothing():
    """Only their features say when they were; the paper gives them no positions either."""
    model, batch = with_history()
    expected = model(batch)
    more = replace(batch, lifelong=padded(batch.lifelong, 2, 3))
    torch.testing.assert_close(model(more), expected)
    for name in batch.lifelong.__dataclass_fields__:
        setattr(batch.lifelong, name, getattr(batch.lifelong, name).flip(1))
    torch.testing.assert_close(model(batch), expected)


@pytest.mark.parametrize("dropped", [True, False])
def test_every_feature_of_a_cluster_reaches_the_output(monkeypatch, dropped):
    monkeypatch.setattr(packing, "packs", lambda *_: dropped)
    model, batch = with_history()
    before = model(batch)[0]
    for name in batch.lifelong.__dataclass_fields__:
        _, changed = with_history()
        value = getattr(changed.lifelong, name)
        setattr(changed.lifelong, name, torch.where(value > 0, value * 0 + 1, 1))
        changed.lifelong.item.mul_(batch.lifelong.item > 0)
        assert not torch.allclose(model(changed)[0], before), name


@pytest.mark.parametrize("dropped", [True, False])
def test_the_tag_and_duration_of_a_clusters_item_are_not_read(monkeypatch, dropped):
    monkeypatch.setattr(packing, "packs", lambda *_: dropped)
    model, batch = with_history(lengths=(0, 0, 0))
    before = model(batch)[0]
    for name in ("tag", "duration"):
        column = getattr(model.items, name)
        column.copy_(column.roll(7, 0))
        torch.testing.assert_close(model(batch)[0], before)
    model.items.author.copy_(model.items.author.roll(7, 0))
    assert not torch.allclose(model(batch)[0], before)


def test_a_model_without_the_pathway_ignores_the_history():
    model, batch = toy.make_model(), toy.make_batch()
    expected = model(batch)
    batch.lifelong = toy.make_clusters((3, 2, 1), 3)
    assert all(a.equal(b) for a, b in zip(model(batch), expected, strict=True))
    assert not [name for name in model.state_dict() if "lifelong" in name or "qformer" in name]
