"""RoMA on a trained model: what succeeds, what is near, and that routers alone move."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import toy_model as toy
import toy_routers

from onerec.bench import routers
from onerec.data.batches import Examples, training_examples
from onerec.data.split import Cases
from onerec.errors import RunError
from onerec.metrics import recall_at_k
from onerec.pipeline import router_tuning as roma
from onerec.train.roma import Bank

TUNING = roma.Tuning(steps=3, rate=0.05, bank=40)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run, its setting and weights after thirty steps."""
    home = tmp_path_factory.mktemp("roma")
    run, setting = toy_routers.prepare(home, {"train.steps": "30"})
    training = routers.new_training(run, routers.arm_setting(setting, "loss_free", 0))
    for _ in routers.train(training):
        pass
    return run, setting, training.model.state_dict()


def trained(made):
    run, setting, weights = made
    training = routers.new_training(run, routers.arm_setting(setting, "roma", 0))
    training.model.load_state_dict(weights)
    return training


def test_a_history_is_the_mean_of_its_events():
    batch = toy.make_batch(lengths=(2, 0), n_items=4)
    batch.short.item[0] = torch.tensor([1, 2, 0, 0])
    batch.positive.item[0] = torch.tensor([2, 4, 0, 0, 0, 0])
    vectors = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 8.0], [9.0, 9.0], [0.0, 4.0]])
    found = roma.history_vectors(batch, vectors)
    assert found.tolist() == [[1.0, 5.0], [0.0, 0.0]]


def test_a_success_is_a_target_in_the_first_ten(made):
    training = trained(made)
    examples = training_examples(training.setting.split, 2)
    few = roma._some(examples, np.arange(25))
    right = roma.successes(training.recommender(), few)
    assert 0 < right.sum() < right.size
    lists = training.recommender().lists(_as_cases(few), 10).items
    for row, targets in enumerate(few.target):
        for place, target in enumerate(targets):
            assert right[row, place] == (target > 0 and target - 1 in lists[row])
    one = recall_at_k(lists, np.arange(26), few.target[:, 0] - 1, 10)
    assert one.mean() == pytest.approx(right[:, 0].mean())


def test_what_is_missing_on_either_side_is_no_success():
    lists = np.array([[3, -1, -1], [7, 8, 9]])
    recommender = SimpleNamespace(lists=lambda cases, k, workers: SimpleNamespace(items=lists))
    examples = Examples(np.zeros(2, int), np.ones(2, int), np.array([[4, 0], [0, 9]]))
    assert roma.successes(recommender, examples).tolist() == [[True, False], [False, True]]


def _as_cases(examples):
    none = np.zeros(len(examples) + 1, dtype=np.int64)
    return Cases(examples.user, examples.end, none, none[:0])


def test_the_bank_is_of_contexts_that_were_answered_and_of_training_alone(made):
    training = trained(made)
    samples = roma.Samples(training)
    answered = samples.answered(limit=40, neighbours=3)
    assert all(one.success.any(1).all() for one in answered)
    ends = training.setting.split.train_end
    assert (samples.examples.end < ends[samples.examples.user]).all()
    users = torch.cat([one.sample for one in answered])
    assert set(users.tolist()) <= set(samples.examples.user.tolist())
    others = len(users) - int(users.bincount().max())  # of whoever has answered most
    samples.answered(limit=40, neighbours=others)
    with pytest.raises(RunError, match=f"needs {others + 1} of other users"):
        samples.answered(limit=40, neighbours=others + 1)
    with pytest.raises(RunError, match=r"of 40 training contexts .* needs 999 .* raise --bank"):
        samples.answered(limit=40, neighbours=999)


def test_batches_are_those_of_pretraining_without_event_dropout(made):
    training = trained(made)
    samples = roma.Samples(training)
    batch = samples.batches(training.config.steps)(2)
    with training.batches() as plain:
        assert batch.batch.target.equal(plain(2).target)
        assert batch.batch.short.item.equal(plain(2).short.item)
    expected = roma.history_vectors(batch.batch, samples.vectors)
    assert batch.embedding.equal(expected)
    log = training.setting.split.log
    for user, item in zip(
        batch.sample.tolist(), batch.batch.short.item[:, 0].tolist(), strict=True
    ):
        assert (
            item - 1 in log.item[log.offsets[user] : log.offsets[user + 1]]
        )  # whose context it is


@pytest.mark.parametrize("kind", roma.KINDS)
def test_routers_alone_move_and_their_biases_stay(made, kind):
    training = trained(made)
    before = {name: value.clone() for name, value in training.model.state_dict().items()}
    results = list(roma.post_train(training, kind, TUNING))
    assert [result.step for result in results] == [1, 2, 3]
    moved = {n for n, v in training.model.state_dict().items() if not v.equal(before[n])}
    assert moved == {f"decoder.{layer}.ffn.router.weight" for layer in (0, 1)}
    assert all(parameter.requires_grad for parameter in training.model.parameters())
    for result in results:
        manifold = result.loss - result.values["next_token"]
        expected = 0.0 if kind == "router_only" else result.values["manifold"]
        assert manifold == pytest.approx(expected, abs=1e-5)
    assert results[0].values["manifold"] > 0


def test_the_three_begin_alike_and_end_apart(made):
    losses = {}
    for kind in roma.KINDS:
        training = trained(made)
        results = list(roma.post_train(training, kind, TUNING))
        losses[kind] = [result.values["next_token"] for result in results]
    assert len({values[0] for values in losses.values()}) == 1
    assert len({values[-1] for values in losses.values()}) == 3


def test_disagreement_is_the_manifold_loss_of_the_bank_by_hand():
    # three people in a row; each one's only neighbour is the nearest of the others
    routing = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    bank = Bank(torch.tensor([[0.0], [1.0], [3.0]]), routing, torch.tensor([0, 1, 2]), 1.0)
    # |r0 - r1|^2 = |r1 - r0|^2 = |r2 - r1|^2 = .5
    assert roma.disagreement(bank, 1) == pytest.approx(0.5)
    # of two neighbours the nearer weighs exp(-1/2) against exp(-9/2), exp(-1/2) against exp(-4/2),
    # exp(-4/2) against exp(-9/2)
    far = [1 / (1 + np.exp(4)), 1 / (1 + np.exp(1.5)), 1 / (1 + np.exp(2.5))]
    expected = [(1 - far[0]) * 0.5 + far[0] * 2, 0.5, (1 - far[2]) * 0.5 + far[2] * 2]
    assert roma.disagreement(bank, 2) == pytest.approx(np.mean(expected))


def test_the_manifold_term_makes_neighbours_route_alike(made):
    changes = {}
    for kind in ("roma", "router_only"):
        training = trained(made)
        tuning = roma.RouterTuning(training, kind, replace(TUNING, steps=20, weight=20.0))
        before = roma.disagreement(tuning.bank(), 3)
        for _ in tuning.steps():
            pass
        changes[kind] = roma.disagreement(tuning.bank(), 3) / before - 1
        assert tuning.moving == sum(one.router.weight.numel() for one in training.model.mixtures())
    assert changes["roma"] < min(-0.1, changes["router_only"])
