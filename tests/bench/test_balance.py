"""MaxVio by hand, and loads that are those of training."""

from dataclasses import replace

import pytest
import torch
import toy_model as toy
import toy_routers

from onerec.bench import routers
from onerec.bench.balance import SETTLE, balance, balance_of, loads, settled


def test_pooled_and_per_batch_by_hand():
    found = torch.tensor(
        [
            [[4.0, 0.0, 0.0, 0.0], [1.0, 1.0, 2.0, 0.0]],  # MaxVio 3 and 1
            [[0.0, 4.0, 0.0, 0.0], [1.0, 1.0, 0.0, 2.0]],  # 3 and 1
        ],
        dtype=torch.float64,
    )
    told = balance(found)  # pooled: 4 4 0 0 and 2 2 2 2
    assert told["batches"] == 2
    assert told["pooled"] == {"worst": 1.0, "mean": 0.5, "by_layer": [1.0, 0.0]}
    assert told["per_batch"] == {"worst": 3.0, "mean": 2.0, "by_layer": [3.0, 1.0]}
    assert told["dead"] == 2
    assert told["least_share"] == 0.0
    uneven = balance(torch.tensor([[[6.0, 2.0]], [[2.0, 2.0]]]))  # pooled 8 4, then .5 and 0
    assert uneven["pooled"]["worst"] == pytest.approx(1 / 3, abs=1e-5)
    assert uneven["per_batch"]["worst"] == 0.25
    assert (uneven["dead"], uneven["least_share"]) == (0, pytest.approx(2 / 3, abs=1e-5))


@pytest.mark.parametrize("blocks", ["decoder", "alternate"])
def test_loads_are_those_that_training_counts(blocks):
    model = toy.make_model(experts=5, layers=2, expert_blocks=blocks)
    batches = [toy.make_batch(seed=seed) for seed in (1, 2)]
    batches[0].target[0, 1] = 0
    found = loads(model, batches)
    assert found.shape == (2, 2, 5)
    for batch, load in zip(batches, found, strict=True):
        model.train().loss(batch)
        for mixture, row in zip(model.mixtures(), load, strict=True):
            torch.testing.assert_close(mixture.load.double(), row)
            mixture.load.zero_()
    assert model.training  # as it was


def test_of_a_model_on_training_contexts_the_same_each_time(tmp_path):
    run, setting = toy_routers.prepare(tmp_path)
    training = routers.new_training(run, routers.arm_setting(setting, "loss_free", 0))
    told = balance_of(training, 3)
    assert (told["batches"], told["batch_size"]) == (3, 32)
    assert told == balance_of(training, 3)
    assert len(told["pooled"]["by_layer"]) == 2
    dense = routers.new_training(run, routers.arm_setting(setting, "dense", 0))
    assert balance_of(dense, 3) is None


def prepared(home, router, model=0.0, events=0.0):
    """An untrained toy model whose training drops so much of its states and events."""
    run, setting = toy_routers.prepare(home)
    recipe = setting.recipe
    history = replace(recipe.history, event_dropout=events)
    recipe = replace(recipe, history=history, model=replace(recipe.model, dropout=model))
    setting = routers.arm_setting(replace(setting, recipe=recipe), router, 0)
    return routers.new_training(run, setting)


@pytest.mark.parametrize("drops", [{"model": 0.4}, {"events": 0.5}])
def test_as_in_training_drops_and_leaves_no_trace(tmp_path, drops):
    training = prepared(tmp_path, "competition", **drops)
    model = training.model.eval()
    for mixture in model.mixtures():
        mixture.router.competing = True  # of the last step of a training
        mixture.load += 3
    before = torch.random.get_rng_state()
    dropping = balance_of(training, 3, dropping=True)
    assert dropping == balance_of(training, 3, dropping=True)
    assert dropping != balance_of(training, 3)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not model.training
    assert all(mixture.load.tolist() == [3.0] * len(mixture.load) for mixture in model.mixtures())
    assert not any(mixture.take_losses() for mixture in model.mixtures())
    assert not any(mixture.router.competing for mixture in model.mixtures())


def test_biases_settle_and_weights_stay(tmp_path, monkeypatch):
    training, asked = prepared(tmp_path, "loss_free", model=0.4, events=0.5), []

    def counted(model, batches, dropping=False):
        found = list(batches)
        asked.append((len(found), dropping, found[0].short.item.clone()))
        return loads(model, found, dropping)

    monkeypatch.setattr("onerec.bench.balance.loads", counted)
    mixtures = training.model.mixtures()
    for mixture in mixtures:
        mixture.router.bias[0] += 0.01  # the first expert gets too many
    weights = {n: p.detach().clone() for n, p in training.model.named_parameters()}
    biases = [mixture.router.bias.clone() for mixture in mixtures]
    uneven, found = balance_of(training, 3), settled(training, 3)
    assert [count for count, _, _ in asked] == [3, *[1] * SETTLE, 3]
    assert not any(dropping for _, dropping, _ in asked)
    first, other, last = (asked[place][2] for place in (0, 1, -1))
    assert torch.equal(first, last)
    assert first.shape != other.shape or not torch.equal(first, other)  # not what is measured
    assert found["pooled"]["worst"] < uneven["pooled"]["worst"]
    assert found["passes"] == SETTLE
    assert found["loss"] > 0
    assert all(torch.equal(p, weights[n]) for n, p in training.model.named_parameters())
    assert all(torch.equal(m.router.bias, b) for m, b in zip(mixtures, biases, strict=True))
