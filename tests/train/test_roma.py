"""RoMA by hand, against loops in float64, and on a model whose routers alone may move."""

import math

import pytest
import torch
import toy_model as toy

from onerec.loop import Trainee, loop
from onerec.model.recording import target_routing
from onerec.model.routers import RouterConfig
from onerec.train import roma
from onerec.train.roma import (
    Bank,
    RomaBatch,
    RomaConfig,
    collect,
    find_neighbours,
    gaussian_weights,
    manifold_loss,
    median_distance,
    random_neighbours,
    roma_loss,
    routers_only,
    routing_vectors,
)


def make_batch(users=8, targets=2, seed=0, sample=0):
    g = torch.Generator().manual_seed(seed)
    batch = toy.make_batch(lengths=(4, 0, 2, 3) * (users // 4), targets=targets, seed=seed)
    return RomaBatch(
        batch,
        embedding=torch.randn(users, 3, generator=g),
        sample=torch.arange(users) + sample,
        success=torch.rand(users, targets, generator=g) < 0.6,
    )


# -------------------------------------------------------------------- by hand


def test_neighbours_by_hand_and_never_ones_own():
    bank = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0], [9.0, 9.0]])
    owner = torch.tensor([7, 8, 9, 7])
    index, distance = find_neighbours(
        torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.tensor([7, 1]), bank, owner, 2
    )
    assert index.tolist() == [[2, 1], [0, 2]]
    torch.testing.assert_close(distance, torch.tensor([[1.0, 5.0], [0.0, 1.0]]))
    with pytest.raises(ValueError, match="4 successful samples are too few for 4 neighbours"):
        find_neighbours(bank, owner, bank, owner, 4)


def test_neighbours_are_the_same_under_autocast():
    embedding = 10 + torch.randn(64, 8, generator=toy.stream())  # near one another, far from 0
    owner = torch.arange(64)
    expected = find_neighbours(embedding, owner, embedding, owner, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = find_neighbours(embedding, owner, embedding, owner, 3)
    assert found[0].equal(expected[0])


def test_gaussian_weights_by_hand():
    near, far = math.exp(-0.5), math.exp(-2.0)
    weight = gaussian_weights(torch.tensor([[2.0, 4.0]]), sigma=2.0)
    expected = torch.tensor([[near / (near + far), far / (near + far)]])
    torch.testing.assert_close(weight, expected)
    same = gaussian_weights(torch.zeros(1, 4), sigma=0.0)
    torch.testing.assert_close(same, torch.full((1, 4), 0.25))


def test_manifold_loss_by_hand():
    routing = torch.tensor([[0.5, 0.5, 0.0]])
    neighbours = torch.tensor([[[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]]])
    loss = manifold_loss(routing, neighbours, torch.tensor([[0.25, 0.75]]))
    torch.testing.assert_close(loss, torch.tensor([0.75 * 0.5]))


def test_random_neighbours_are_others_and_the_generators():
    owner = torch.arange(5)
    draw = lambda seed: random_neighbours(owner, owner, 4, toy.stream(seed))  # noqa: E731
    index = draw(1)
    assert index.equal(draw(1))
    assert not index.equal(draw(2))
    for row, others in enumerate(index.tolist()):
        assert sorted(others) == [other for other in range(5) if other != row]
    counts = torch.zeros(5)
    for seed in range(400):
        first = random_neighbours(owner[:1], owner, 1, toy.stream(seed))
        counts[first.item()] += 1
    assert counts[0] == 0
    assert counts[1:].min() > 70  # of 100 each, deviation 9


def test_sigma_is_the_median_distance(monkeypatch):
    line = torch.tensor([[3.0], [0.0], [7.0], [1.0]])  # nearest: 2, 1, 4, 1
    assert median_distance(line, torch.arange(4), 1) == 1.0
    assert median_distance(line, torch.arange(4), 2) == 2.0  # 1 1 2 2 3 3 4 6: the lower one
    monkeypatch.setattr(roma, "SIGMA_SAMPLE", 3)
    assert median_distance(line, torch.arange(4), 1) == 2.0  # of 3 and 7, among all


# ----------------------------------------------------------------- on a model


def test_routing_vectors_are_the_chosen_layers_and_positions_end_to_end():
    model, batch = toy.make_model(experts=5), toy.make_batch()
    routing = target_routing(model, batch)
    config = RomaConfig(positions=(0, 2), layers=(1,))
    r = routing_vectors(routing, 5, config)
    assert r.shape == (3, 3, 10)
    for place, position in enumerate((0, 2)):
        for rank in range(2):
            expert = routing.expert[1, :, :, position, rank]
            weight = routing.weight[1, :, :, position, rank]
            found = r.gather(-1, (5 * place + expert)[..., None])[..., 0]
            torch.testing.assert_close(found, weight)
    assert (r > 0).sum(-1).eq(4).all()
    assert routing_vectors(routing, 5, RomaConfig()).shape == (3, 3, 10)  # two layers
    for wrong in ({"positions": (3,)}, {"layers": (2,)}, {"layers": (-1,)}, {"positions": ()}):
        with pytest.raises(ValueError, match="positions"):
            routing_vectors(routing, 5, RomaConfig(**wrong))


def test_the_bank_holds_the_first_success_of_each_context():
    model, config = toy.make_model(experts=5).train(), RomaConfig(positions=(0, 1, 2))
    batches = [make_batch(), make_batch(seed=1, sample=100)]
    batches[0].batch.target[2, 0] = 0
    batches[0].success[2] = True
    batches[0].success[3] = False
    bank = collect(model, batches, config)
    expected = []
    for one in batches:
        r = routing_vectors(target_routing(model, one.batch), 5, config)
        for b in range(8):
            for m in range(2):
                if one.success[b, m] and one.batch.target[b, m]:
                    expected.append((one.embedding[b], r[b, m], one.sample[b]))
                    break
    for got, want in zip(bank[:3], zip(*expected, strict=True), strict=True):
        torch.testing.assert_close(got, torch.stack(want))
    assert 3 not in bank.sample.tolist()
    assert bank.sigma == median_distance(bank.embedding, bank.sample, 3)
    assert model.training
    assert all(mixture.load.sum() == 0 for mixture in model.mixtures())


@pytest.mark.parametrize("kind", ["loss_free", "softmax"])
def test_loss_and_gradients_equal_the_definition_target_by_target(kind):
    model = toy.make_model(experts=5, router=RouterConfig(kind), dropout=0.3).double().train()
    config = RomaConfig(weight=0.7, positions=(0, 2))
    one = make_batch()
    one.batch.target[1, 0] = 0
    for events in (one.batch.short, one.batch.positive):
        events.label = events.label.double()
    bank = collect(model, [make_batch_double(seed=1, sample=4)], config)
    with routers_only(model) as routers:
        loss, parts = roma_loss(model, one, bank, config)
        got = torch.autograd.grad(loss, routers)
        slow = slow_loss(model.eval(), one, bank, config)
        expected = torch.autograd.grad(slow, routers)
    torch.testing.assert_close(loss, slow)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)
    assert set(parts) == {"next_token", "manifold", "loss_1", "loss_2", "loss_3"}
    torch.testing.assert_close(parts["next_token"] + 0.7 * parts["manifold"], loss.detach())


def make_batch_double(**settings):
    made = make_batch(**settings)
    for events in (made.batch.short, made.batch.positive):
        events.label = events.label.double()
    return made


def slow_loss(model, one, bank, config):
    """Each target by itself: its routers, its distances to everyone, the three nearest."""
    inputs = []
    hooks = [
        mixture.register_forward_hook(lambda _m, given, _y: inputs.append(given[0]))
        for mixture in model.mixtures()
    ]
    cross_entropy = model.loss(one.batch)[0]
    for hook in hooks:
        hook.remove()
    total, count = 0.0, 0
    for b in range(len(one.sample)):
        for m in range(2):
            if not one.batch.target[b, m]:
                continue
            r = []
            for mixture, x in zip(model.mixtures(), inputs, strict=True):
                for position in config.positions:
                    token = x[b, 0] if position == 0 else x[b, 1 + 2 * m + position - 1]
                    routing = mixture.router(token[None])
                    r.append(x.new_zeros(5).scatter(0, routing.expert[0], routing.weight[0]))
            r = torch.cat(r)
            others = [j for j in range(len(bank.sample)) if bank.sample[j] != one.sample[b]]
            away = {j: (one.embedding[b] - bank.embedding[j]).norm().item() for j in others}
            nearest = sorted(others, key=away.get)[: config.neighbours]
            similar = [math.exp(-(away[j] ** 2) / (2 * bank.sigma**2)) for j in nearest]
            for j, s in zip(nearest, similar, strict=True):
                total = total + s / sum(similar) * (r - bank.routing[j]).square().sum()
            count += 1
    return cross_entropy + config.weight * total / count


def ends_of_a_training(weight):
    """The manifold loss in the first and the last steps, and what has moved."""
    model, config = toy.make_model(experts=5, dropout=0.1), RomaConfig(weight=weight)
    batches = [make_batch(16, seed=s, sample=16 * s) for s in range(2)]
    bank = collect(model, batches, config)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with routers_only(model) as routers:
        trainee = Trainee(
            model=model,
            optimizer=torch.optim.Adam(routers, lr=0.01),
            loss=lambda batch: roma_loss(model, batch, bank, config),
            batch=lambda step: batches[step % 2],
            learning_rate=lambda step: 0.01,
        )
        results = list(loop(trainee, steps=20))
    moved = {n for n, tensor in model.state_dict().items() if not tensor.equal(before[n])}
    assert all(parameter.requires_grad for parameter in model.parameters())
    ends = [sum(r.values["manifold"] for r in part) for part in (results[:4], results[-4:])]
    return *ends, moved


def test_only_routers_move_and_the_manifold_tightens():
    first, last, moved = ends_of_a_training(weight=3.0)
    assert moved == {f"decoder.{layer}.ffn.router.weight" for layer in range(2)}
    assert last < 0.8 * first
    assert ends_of_a_training(weight=0.0)[1] > last


def test_nothing_but_routers_gets_a_gradient():
    model, one, config = toy.make_model(experts=5), make_batch(), RomaConfig()
    bank = collect(model, [one], config)
    model.begin.requires_grad_(False)
    with routers_only(model) as routers:
        roma_loss(model, one, bank, config)[0].backward()
    assert [p for p in model.parameters() if not p.requires_grad] == [model.begin]
    assert {id(p) for p in model.parameters() if p.grad is not None} == set(map(id, routers))
    assert all(router.grad.abs().max() > 0 for router in routers)


def test_controls():
    model, one = toy.make_model(experts=5), make_batch()
    bank = collect(model, [make_batch(seed=1, sample=50)], RomaConfig())
    plain = model.loss(one.batch)[0]
    none, parts = roma_loss(model, one, bank, RomaConfig(weight=0.0))
    assert none.equal(plain)
    assert not model.training
    assert parts["manifold"] > 0
    random = RomaConfig(choose="random")
    loss, parts = roma_loss(model, one, bank, random, toy.stream(5))
    index = random_neighbours(one.sample, bank.sample, 3, toy.stream(5))
    r = routing_vectors(target_routing(model, one.batch), 5, random)
    away = (r[:, :, None] - bank.routing[index][:, None]).square().sum(-1)  # (B, M, k)
    torch.testing.assert_close(parts["manifold"], away.mean())
    torch.testing.assert_close(loss, plain + away.mean())
    with pytest.raises(ValueError, match="need a generator"):
        roma_loss(model, one, bank, random)
    with pytest.raises(ValueError, match="choose='near': there are nearest and random"):
        roma_loss(model, one, bank, RomaConfig(choose="near"))


def test_a_refreshed_bank_has_the_routing_of_the_new_routers():
    model, config, batches = toy.make_model(experts=5), RomaConfig(), [make_batch()]
    old = collect(model, batches, config)
    with torch.no_grad():
        for mixture in model.mixtures():
            mixture.router.weight.normal_(generator=toy.stream())
    new = collect(model, batches, config)
    assert new.sample.equal(old.sample)
    assert not torch.allclose(new.routing, old.routing)
    assert isinstance(new, Bank)


def test_models_that_cannot_be_post_trained_are_refused():
    with pytest.raises(ValueError, match=r"dense: it needs model\.experts"):
        collect(toy.make_model(), [make_batch()], RomaConfig())
    single = toy.make_model(experts=3, active_experts=1, router=RouterConfig("competition"))
    with (
        pytest.raises(ValueError, match=r"model\.active_experts of at least 2"),
        routers_only(single),
    ):
        pass
    for kind in ("loss_free", "softmax"):
        weighed = toy.make_model(experts=3, active_experts=1, router=RouterConfig(kind))
        with routers_only(weighed) as routers:
            assert len(routers) == 2
    two = toy.make_model(experts=3, active_experts=2, router=RouterConfig("competition"))
    with routers_only(two) as routers:
        assert len(routers) == 2
    with pytest.raises(ValueError, match="no batch"):
        collect(toy.make_model(experts=3), [], RomaConfig())
    few = make_batch()
    few.success[3:] = False
    with pytest.raises(ValueError, match="too few for 3 neighbours"):
        collect(toy.make_model(experts=3), [few], RomaConfig())
