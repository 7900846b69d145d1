"""MaxVio by hand, and loads that are those of training."""

import pytest
import torch
import toy_model as toy
import toy_routers

from onerec.bench import routers
from onerec.bench.balance import balance, balance_of, loads


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
