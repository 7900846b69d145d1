"""The numpy side of the objectives equals `onerec.train.policy`; curves by hand and by gradient."""

import inspect
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch

from onerec.explain import objectives
from onerec.train import policy


def curve(name: str, sign: float, **settings: float) -> pd.DataFrame:
    return objectives.curves((name,), signs=(sign,), **settings)


def at(frame: pd.DataFrame, ratio: float) -> pd.Series:
    return frame.iloc[int((frame["ratio"] - ratio).abs().argmin())]


def test_the_constants_are_those_of_the_training() -> None:
    assert (objectives.EPSILON, objectives.DELTA) == (policy.EPSILON, policy.DELTA)
    assert objectives.SAME_REWARD == policy.SAME_REWARD
    assert objectives.MOST_APART == policy.MOST_APART

    def default(function: Callable[..., object], name: str) -> object:
        return inspect.signature(function).parameters[name].default

    assert default(policy.dpo, "beta") == objectives.BETA
    for function in (policy.group_advantage, policy.tilted_advantage):
        assert default(function, "limit") == objectives.ADVANTAGE_LIMIT


def test_ecpo_by_hand() -> None:
    """A worse item far above the bound: the value is flat, the push stays -1.3, not zero."""
    worse, better = curve("ecpo", -1.0), curve("ecpo", 1.0)
    for ratio in (1.5, 5.0, 20.0):
        assert at(worse, ratio)["value"] == pytest.approx(-1.3)
        assert at(worse, ratio)["push"] == pytest.approx(-1.3)
        assert (at(better, ratio)["value"], at(better, ratio)["push"]) == (pytest.approx(1.2), 0)
    assert (at(worse, 0.1)["value"], at(worse, 0.1)["push"]) == (pytest.approx(-0.8), 0)
    assert at(better, 0.05)["push"] == pytest.approx(0.05)


def test_grpo_is_not_bounded_for_a_worse_item() -> None:
    last = curve("grpo", -1.0).iloc[-1]
    assert (last["ratio"], last["value"], last["push"]) == pytest.approx((20, -20, -20))


def test_gbpo_depends_on_the_probability_and_ends_where_it_would_pass_one() -> None:
    assert curve("gbpo", -1.0, probability=1e-6)["push"].iloc[-1] == pytest.approx(-2e-5, rel=1e-3)
    rare, common = (curve("gbpo", -1.0, probability=p) for p in (1e-3, 0.5))
    assert rare["ratio"].max() == 20
    assert common["ratio"].max() < 2
    assert at(common, 1.0)["push"] == pytest.approx(-1.0)  # .5 / max(.5, 1 - .5)
    assert curve("gbpo", 1.0)["push"].iloc[-1] == 1


@pytest.mark.parametrize("name", objectives.COMPARED)
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("probability", [1e-6, 0.1])
def test_value_and_push_are_loss_and_gradient(name: str, sign: float, probability: float) -> None:
    """Point for point: the loss of a group of one, and what autograd makes of it."""
    settings = {"epsilon": 0.3, "delta": 0.4}
    frame = curve(name, sign, probability=probability, **settings)
    given = {"gbpo": {}, "grpo": {"epsilon": 0.3}, "ecpo": settings}[name]
    for row in frame.iloc[::20].to_dict("records"):
        old = torch.tensor([[np.log(probability)]])
        now = (old + np.log(row["ratio"])).requires_grad_()
        step = getattr(policy, name)(now, old, torch.full_like(old, sign), **given)
        step.loss.backward()
        assert row["value"] == pytest.approx(-step.loss.item(), abs=1e-9)
        assert row["push"] == pytest.approx(-now.grad.item(), abs=1e-9)  # type: ignore[union-attr]


def test_the_divergence_of_grpo_pulls_back_to_the_sampler() -> None:
    plain, held = curve("grpo", 1.0), curve("grpo", 1.0, kl=0.5)
    for ratio in (0.2, 1.0, 10.0):
        r = at(held, ratio)["ratio"]
        assert at(plain, ratio)["value"] - at(held, ratio)["value"] == pytest.approx(
            0.5 * (1 / r - 1 + np.log(r)), abs=1e-9
        )
        assert at(held, ratio)["push"] - at(plain, ratio)["push"] == pytest.approx(
            0.5 * (1 / r - 1), abs=1e-9
        )


@pytest.mark.parametrize("name", ["ecpo", "grpo", "ppo_clip", "gbpo", "reinforce", "dpo"])
def test_advantage_and_push_equal_the_training(name: str) -> None:
    random = np.random.default_rng(3)
    shape = (7, 9)
    old = -4 * random.random(shape)
    now = np.minimum(old + random.normal(0, 0.8, shape), -1e-3)
    reward, counted = random.random(shape), random.random(shape) > 0.3
    reward[0], counted[1] = 0.7, False
    old[2, :2] = now[2, :2] - 200  # ratios that float32 cannot hold
    old[3, :2] = now[3, :2] + 200
    advantage = objectives.group_advantage(reward, counted)
    wanted = policy.group_advantage(torch.from_numpy(reward), torch.from_numpy(counted))
    np.testing.assert_allclose(advantage, wanted, atol=1e-12)
    settings = {"epsilon": 0.1, "delta": 0.3} if name == "ecpo" else {}
    step = getattr(policy, name)(
        torch.from_numpy(now), torch.from_numpy(old), wanted, torch.from_numpy(counted).double(),
        **settings,
    )  # fmt: skip
    pushed = objectives.push(name, now, old, advantage, counted, **settings)
    np.testing.assert_allclose(pushed, step.push, atol=1e-6)
    if name not in ("dpo", "reinforce"):
        bounds = (settings.get("epsilon", 0.2), settings.get("delta", 0.1))
        ratio = objectives.entering(name, now, old, advantage, *bounds)
        np.testing.assert_allclose(ratio, step.ratio, rtol=1e-5)
        gain = np.where(counted, objectives.value(name, ratio, advantage, bounds[0]), 0)
        assert -gain.mean() == pytest.approx(step.loss.item(), abs=1e-6)


def test_regions_and_effects_by_hand() -> None:
    ratio = np.array([0.5, 0.8, 1.0, 1.25, 1.6, 1.6, 1.6, 1.0])
    advantage = np.array([1.0, -1, 1, 1, -1, 1, 0, 1])
    counted = np.array([True] * 7 + [False])
    below, inside, high, far = objectives.REGIONS
    assert objectives.region(ratio, 0.2, 0.1).tolist() == [
        below, inside, inside, high, far, far, far, inside
    ]  # fmt: skip
    pushed = objectives.push("ecpo", np.log(ratio), np.zeros(8), advantage, counted)
    assert objectives.effect("ecpo", pushed, ratio, advantage, counted).tolist() == [
        "pushes", "pushes", "pushes", "clipped: no push", "bounded push", "clipped: no push",
        "no advantage", "left out",
    ]  # fmt: skip
    free = objectives.push("grpo", np.log(ratio), np.zeros(8), advantage, counted)
    assert objectives.effect("grpo", free, ratio, advantage, counted)[4] == "pushes"


@pytest.mark.parametrize(
    ("asked", "message"),
    [({"objectives": ("epco",)}, "objective 'epco': choose among ecpo, grpo, gbpo"),
     ({"objectives": ()}, "no objective"), ({"epsilon": 1.0}, "epsilon=1.0"),
     ({"delta": -0.1}, "delta=-0.1"), ({"probability": 0.0}, "probability=0.0")],
)  # fmt: skip
def test_refusals(asked: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        objectives.curves(**asked)  # type: ignore[arg-type]
