"""The toy of routed experts: gradients against numeric ones, the bias, collapse and balance."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from onerec.explain import toy_experts
from onerec.explain.toy_experts import ExpertsSetting, after, begin, changed, step
from onerec.model.routers import LossFreeRouter


def test_the_hand_written_gradients_are_the_numeric_ones() -> None:
    state = after(ExpertsSetting(points=40, experts=3, head_start=0.2), 5)
    chosen, _ = toy_experts.routed(state.x, state.router, state.bias)
    assert len(set(chosen.tolist())) > 1, "a case in which several experts are asked"

    def loss(router: np.ndarray, expert: np.ndarray) -> float:
        return toy_experts.loss_and_gradients(state.x, state.y, router, expert, chosen)[0]

    _, of_router, of_expert = toy_experts.loss_and_gradients(
        state.x, state.y, state.router, state.expert, chosen
    )
    for gradient, place in ((of_router, 0), (of_expert, 1)):
        for index in np.ndindex(gradient.shape):
            ends = []
            for change in (1e-6, -1e-6):
                both = [state.router.copy(), state.expert.copy()]
                both[place][index] += change
                ends.append(loss(*both))
            assert gradient[index] == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-8)


def test_the_loss_by_hand() -> None:
    x, y = np.array([[1.0, 0.0]]), np.array([2.0])
    router, expert = np.zeros((2, 3)), np.array([[3.0, 0.0, 1.0], [9.0, 9.0, 9.0]])
    loss, of_router, of_expert = toy_experts.loss_and_gradients(x, y, router, expert, np.array([0]))
    # s = 1/2, E = 4, answer 2: no miss, so no gradient; with y = 1 the miss is 1
    assert (loss, of_router.any(), of_expert.any()) == (0.0, False, False)
    loss, of_router, of_expert = toy_experts.loss_and_gradients(
        x, y - 1, router, expert, np.array([0])
    )
    assert loss == 0.5
    assert of_expert.tolist() == [[0.5, 0.0, 0.5], [0, 0, 0]]
    assert of_router.tolist() == [[1.0, 0.0, 1.0], [0, 0, 0]]  # 1 * 4 * 1/2 * 1/2


def test_choice_and_bias_are_those_of_the_librarys_router() -> None:
    state = after(ExpertsSetting(balance=True, experts=4), 30)
    router = LossFreeRouter(3, 4, 1)
    router.weight.data = torch.from_numpy(state.router)
    router.bias = torch.from_numpy(state.bias.copy())
    ones = np.column_stack([state.x, np.ones(len(state.x))])
    chosen, _ = toy_experts.routed(state.x, state.router, state.bias)
    assert router(torch.from_numpy(ones)).expert[:, 0].tolist() == chosen.tolist()
    load = torch.bincount(torch.from_numpy(chosen), minlength=4).double()
    router.update(load, state.setting.bias_rate)
    assert np.allclose(router.bias.numpy(), step(state).bias)


def test_without_the_bias_a_head_start_becomes_collapse_and_with_it_the_load_is_even() -> None:
    alone = after(ExpertsSetting(), 300)
    helped = after(ExpertsSetting(balance=True), 600)
    assert toy_experts.loads(alone)["share"].max() > 0.9
    assert not alone.bias.any()
    assert toy_experts.loads(helped)["share"].max() < 0.4
    assert helped.history[-1]["loss"] < 0.05 * alone.history[-1]["loss"]
    assert helped.history[-1]["max_violation"] == pytest.approx(
        toy_experts.loads(helped)["share"].max() * 4 - 1
    )


def test_the_bias_saves_a_collapsed_router_in_mid_run() -> None:
    state = after(ExpertsSetting(), 200)
    saved = changed(state, replace(state.setting, balance=True))
    assert saved.step == 200
    for _ in range(400):
        saved = step(saved)
    assert saved.history[-1]["max_violation"] < 0.6
    assert saved.history[-1]["loss"] < 0.3 * state.history[-1]["loss"]
    off = changed(saved, replace(saved.setting, balance=False))
    assert not off.bias.any()
    assert np.array_equal(off.router, saved.router)


def test_rates_act_at_once_and_another_task_begins_anew() -> None:
    state = after(ExpertsSetting(), 10)
    faster = changed(state, replace(state.setting, learning_rate=2.0))
    assert (faster.step, len(faster.history)) == (10, 11)
    assert not np.allclose(step(faster).expert, step(state).expert)
    for other in ({"task": "fold"}, {"experts": 2}, {"seed": 2}, {"head_start": 0.0}):
        anew = changed(state, replace(state.setting, **other))  # type: ignore[arg-type]
        assert (anew.step, len(anew.history)) == (0, 1)


def test_more_experts_begin_like_fewer_and_some() -> None:
    two, four = begin(ExpertsSetting(experts=2)), begin(ExpertsSetting(experts=4))
    assert np.array_equal(two.expert, four.expert[:2])
    assert np.array_equal(two.x, four.x)


def test_tables_agree_with_one_another() -> None:
    state = after(ExpertsSetting(experts=3, head_start=0.0), 20)
    points, loads = toy_experts.table(state), toy_experts.loads(state)
    counted = points["expert"].value_counts()
    assert {e: n for e, n in zip(loads["expert"], loads["points"], strict=True) if n} == dict(
        counted
    )
    loss = ((points["answer"] - points["target"]) ** 2).mean() / 2
    assert state.history[-1]["loss"] == pytest.approx(loss)
    assert toy_experts.history(state)["step"].tolist() == list(range(21))
    assert loads["share"].sum() == pytest.approx(1)


@pytest.mark.parametrize(
    "wrong", [{"task": "x"}, {"experts": 1}, {"experts": 5}, {"learning_rate": 0.0}, {"seed": -1}]
)
def test_a_setting_that_cannot_be_shown_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"there are quarters|2 to 4 experts"):
        ExpertsSetting(**wrong)  # type: ignore[arg-type]
