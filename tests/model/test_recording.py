"""Who saw what: equal to routing each token again, and to the load that training counts."""

import numpy as np
import pytest
import torch
import toy_model as toy

from onerec.model.moe import MixtureOfExperts
from onerec.model.recording import TargetRouting, decoder_mixtures, recording, target_routing
from onerec.model.routers import RouterConfig


def seen_by_mixtures(model, batch):
    """What each mixture was given, and how its router routes it: token by token, by hand."""
    inputs = []
    hooks = [
        mixture.register_forward_hook(lambda _m, given, _y: inputs.append(given[0]))
        for mixture in model.mixtures()
    ]
    with torch.no_grad():
        model(batch)
    for hook in hooks:
        hook.remove()
    return inputs


@pytest.mark.parametrize("kind", ["loss_free", "softmax"])
def test_each_token_of_each_target_is_routed_as_its_router_says(kind):
    model = toy.make_model(experts=5, router=RouterConfig(kind))
    batch = toy.make_batch()
    got = target_routing(model, batch)
    assert got.expert.shape == got.weight.shape == (2, 3, 3, 3, 2)
    for layer, x in enumerate(seen_by_mixtures(model, batch)):
        router = model.mixtures()[layer].router
        for b in range(3):
            for m in range(3):
                for p in range(3):
                    token = x[b, 0] if p == 0 else x[b, 1 + 2 * m + p - 1]
                    routing = router(token[None])
                    assert got.expert[layer, b, m, p].equal(routing.expert[0])
                    torch.testing.assert_close(got.weight[layer, b, m, p], routing.weight[0])


def test_a_target_alone_is_routed_as_among_others():
    model, batch = toy.make_model(experts=5), toy.make_batch()
    together = target_routing(model, batch)
    for m in range(3):
        alone = toy.make_batch()
        alone.target = batch.target[:, m : m + 1]
        assert target_routing(model, alone).expert[:, :, 0].equal(together.expert[:, :, m])


def test_the_table_counts_what_training_counts():
    model, batch = toy.make_model(experts=5), toy.make_batch()
    batch.target[0, 1] = batch.target[2] = 0
    batch.target[1, 0] = 1
    table = target_routing(model, batch).columns()
    exists = int((batch.target > 0).sum())
    assert {len(column) for column in table.values()} == {2 * exists * 3 * 2}
    model.train().loss(batch)
    for layer, mixture in enumerate(model.mixtures()):
        rows = table["layer"] == layer
        load = np.bincount(table["expert"][rows], minlength=5)
        assert load.tolist() == mixture.load.tolist()
    assert sorted(set(table["level"])) == [1, 2, 3]
    items = batch.target.numpy()[table["context"], table["target"]] - 1
    assert np.array_equal(table["item"], items)
    order = np.lexsort([table[name] for name in ("rank", "level", "target", "context", "layer")])
    assert np.array_equal(order, np.arange(len(order)))
    pairs = table["weight"].reshape(-1, 2).sum(1)
    assert np.allclose(pairs, 1)


def test_an_item_of_one_code_has_the_begin_token_alone():
    codes = torch.arange(40)[:, None] % 5
    model = toy.make_model(sizes=(5,), codes=codes, experts=5)
    assert target_routing(model, toy.make_batch()).expert.shape == (2, 3, 3, 1, 2)


def test_dense_weights_are_zero_for_those_not_chosen():
    expert = torch.tensor([[[[[2, 0]]]]])
    routing = TargetRouting(expert, torch.tensor([[[[[0.75, 0.25]]]]]), torch.tensor([[1]]))
    assert routing.dense(4).tolist() == [[[[[0.25, 0.0, 0.75, 0.0]]]]]


def test_looking_changes_nothing():
    model, batch = toy.make_model(experts=5).train(), toy.make_batch()
    target_routing(model, batch)
    assert model.training
    assert all(mixture.load.sum() == 0 for mixture in model.mixtures())
    model.eval()
    with recording(model) as layers:
        watched = model(batch)
    alone = model(batch)
    assert [len(passes) for passes in layers] == [1, 1]
    assert all(a.equal(b) for a, b in zip(watched, alone, strict=True))


def test_a_dense_model_has_nothing_to_record():
    with pytest.raises(ValueError, match="dense"):
        target_routing(toy.make_model(), toy.make_batch())


def test_experts_of_the_encoder_see_no_targets():
    model = toy.make_model(layers=2, decoder_layers=2, experts=5, expert_blocks="alternate")
    assert len(model.mixtures()) == 2
    assert list(decoder_mixtures(model).values()) == [
        one for one in model.decoder.modules() if isinstance(one, MixtureOfExperts)
    ]
    assert target_routing(model, toy.make_batch()).expert.shape == (1, 3, 3, 3, 2)
