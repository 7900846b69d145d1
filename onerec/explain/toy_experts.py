"""A few linear experts and a router that learn one function of the plane, step by step.

    state = begin(ExpertsSetting(experts=4, balance=False))
    state = step(state)  # or `after(setting, steps)`

Each point goes to one expert, e = argmax of s + b, and is answered with s_e E_e(x): s = sigmoid of
linear scores, as in `onerec.model.routers.LossFreeRouter`, E_e linear. Where `balance` is on, b
moves as there: b += rate * sign(mean load - load); no loss is added. The tasks, full batches and a
head start of expert 0's score are the toy's own.
Gradients are written out by hand. A state is never changed: a step returns a new one.

Shapes: n points, E experts; a parameter row holds (w_1, w_2, intercept). numpy alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TASKS = ("quarters", "fold", "twist")
MOST_EXPERTS, MOST_POINTS, MOST_STEPS = 4, 400, 3_000
ROUTER_SPREAD, EXPERT_SPREAD = 0.1, 0.3  # standard deviations of the parameters at the start


@dataclass(frozen=True)
class ExpertsSetting:
    """What is learned and how.

    Raises:
        ValueError: a task that is not there, or a number outside what a page can show.
    """

    task: str = "quarters"
    points: int = 300
    experts: int = 4
    learning_rate: float = 1.0
    balance: bool = False
    bias_rate: float = 0.01
    head_start: float = 1.0
    seed: int = 1

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"task={self.task!r}: there are {', '.join(TASKS)}")
        fits = 10 <= self.points <= MOST_POINTS and 2 <= self.experts <= MOST_EXPERTS
        rates = 0 < self.learning_rate <= 3 and 0 <= self.bias_rate <= 1
        if not (fits and rates and 0 <= self.head_start <= 5 and self.seed >= 0):
            raise ValueError(
                f"points={self.points}, experts={self.experts}, learning_rate="
                f"{self.learning_rate}, bias_rate={self.bias_rate}, head_start={self.head_start}, "
                f"seed={self.seed}: 10 to {MOST_POINTS} points, 2 to {MOST_EXPERTS} experts, a "
                "learning rate up to 3, a bias rate up to 1, a head start up to 5, a seed from 0"
            )


@dataclass(frozen=True)
class Experts:
    """A moment of the training: x (n, 2), y (n,), router (E, 3), expert (E, 3), bias (E,)."""

    setting: ExpertsSetting
    x: Floats
    y: Floats
    router: Floats
    expert: Floats
    bias: Floats
    step: int = 0
    history: tuple[dict[str, Any], ...] = ()


def target(task: str, x: Floats) -> Floats:
    """(n, 2) -> (n,): what is to be learned, linear in parts."""
    return _TASKS[task](x)


_TASKS: dict[str, Callable[[Floats], Floats]] = {
    "quarters": lambda x: np.abs(x[:, 0]) - np.abs(x[:, 1]),
    "fold": lambda x: 2 * np.abs(x[:, 0]) - 1,
    "twist": lambda x: np.where(x[:, 0] < 0, x[:, 1], -x[:, 1]),
}
FORMULAS = {"quarters": "|x₁| - |x₂|", "fold": "2 |x₁| - 1", "twist": "x₂ left, -x₂ right"}


def begin(setting: ExpertsSetting) -> Experts:
    """Step 0: nothing has been learned."""
    random = np.random.default_rng(setting.seed)
    x = random.uniform(-1, 1, (setting.points, 2))
    router = random.normal(0, ROUTER_SPREAD, (MOST_EXPERTS, 3))[: setting.experts]
    expert = random.normal(0, EXPERT_SPREAD, (MOST_EXPERTS, 3))[: setting.experts]
    router[0, 2] += setting.head_start
    bias = np.zeros(setting.experts)
    return _told(Experts(setting, x, target(setting.task, x), router, expert, bias))


def routed(x: Floats, router: Floats, bias: Floats) -> tuple[Ints, Floats]:
    """(n, 2) -> the expert of each point (n,) and its affinity s (n,)."""
    affinity = 1 / (1 + np.exp(-(_ones(x) @ router.T)))  # (n, E)
    chosen = np.asarray((affinity + bias).argmax(1))
    return chosen, affinity[np.arange(len(x)), chosen]


def loss_and_gradients(
    x: Floats, y: Floats, router: Floats, expert: Floats, chosen: Ints
) -> tuple[float, Floats, Floats]:
    """L = mean of (s_e E_e(x) - y)^2 / 2, dL/d router (E, 3) and dL/d expert (E, 3).

    With d = s_e E_e - y: dL/dE_e = d s_e / n, dL/d score_e = d E_e s_e (1 - s_e) / n. The choice of
    the expert has no gradient.
    """
    input_, rows = _ones(x), np.arange(len(x))
    affinity = 1 / (1 + np.exp(-(input_ @ router.T)))[rows, chosen]  # (n,)
    answer = (input_ * expert[chosen]).sum(1)  # (n,)
    miss = affinity * answer - y
    of_router, of_expert = np.zeros_like(router), np.zeros_like(expert)
    np.add.at(of_expert, chosen, (miss * affinity / len(x))[:, None] * input_)
    slope = miss * answer * affinity * (1 - affinity) / len(x)
    np.add.at(of_router, chosen, slope[:, None] * input_)
    return float((miss**2).mean() / 2), of_router, of_expert


def step(state: Experts) -> Experts:
    """One step of gradient descent on all points, then one of the bias where it is on."""
    setting = state.setting
    chosen, _ = routed(state.x, state.router, state.bias)
    _, of_router, of_expert = loss_and_gradients(
        state.x, state.y, state.router, state.expert, chosen
    )
    load = np.bincount(chosen, minlength=setting.experts)
    bias = state.bias
    if setting.balance:
        bias = bias + setting.bias_rate * np.sign(load.mean() - load)
    return _told(
        replace(
            state,
            router=state.router - setting.learning_rate * of_router,
            expert=state.expert - setting.learning_rate * of_expert,
            bias=bias,
            step=state.step + 1,
        )
    )


def after(setting: ExpertsSetting, steps: int) -> Experts:
    """The state after so many steps."""
    state = begin(setting)
    for _ in range(min(steps, MOST_STEPS)):
        state = step(state)
    return state


def changed(state: Experts, setting: ExpertsSetting) -> Experts:
    """The training goes on under other rates, or with the bias switched; else it begins anew.

    A bias that is switched off is taken away: what the router has learned must stand alone.
    """
    old = state.setting
    same = replace(
        old,
        learning_rate=setting.learning_rate,
        balance=setting.balance,
        bias_rate=setting.bias_rate,
    )
    if same != setting:
        return begin(setting)
    bias = state.bias if setting.balance else np.zeros_like(state.bias)
    return _told(replace(state, setting=setting, bias=bias))


def loads(state: Experts) -> pd.DataFrame:
    """A row an expert: expert, points, share, bias, loss (of its points; NaN where it has none)."""
    chosen, affinity = routed(state.x, state.router, state.bias)
    answer = affinity * (_ones(state.x) * state.expert[chosen]).sum(1)
    half = (answer - state.y) ** 2 / 2
    points = np.bincount(chosen, minlength=state.setting.experts)
    sums = np.bincount(chosen, half, minlength=state.setting.experts)
    return pd.DataFrame(
        {
            "expert": np.arange(len(points)),
            "points": points,
            "share": points / points.sum(),
            "bias": state.bias,
            "loss": np.where(points > 0, sums / np.maximum(points, 1), np.nan),
        }
    )


def history(state: Experts) -> pd.DataFrame:
    """A row a step: step, loss, max_violation (busiest load / mean load - 1), share_0 .., bias."""
    return pd.DataFrame(list(state.history))


def table(state: Experts) -> pd.DataFrame:
    """A row a point: point, x, y, target, expert, affinity, answer."""
    chosen, affinity = routed(state.x, state.router, state.bias)
    answer = affinity * (_ones(state.x) * state.expert[chosen]).sum(1)
    return pd.DataFrame(
        {
            "point": np.arange(len(chosen)),
            "x": state.x[:, 0],
            "y": state.x[:, 1],
            "target": state.y,
            "expert": chosen,
            "affinity": affinity,
            "answer": answer,
        }
    )


def _told(state: Experts) -> Experts:
    """With this moment in its history; a later one of the same step takes its place."""
    frame = loads(state)
    loss = float((frame["loss"].fillna(0) * frame["share"]).sum())
    row: dict[str, Any] = {"step": state.step, "loss": loss, "balance": state.setting.balance}
    row["max_violation"] = float(frame["share"].max() * len(frame) - 1)
    row |= {f"share_{number}": float(share) for number, share in enumerate(frame["share"])}
    past = state.history[:-1] if _same_step(state) else state.history
    return replace(state, history=(*past, row))


def _same_step(state: Experts) -> bool:
    return bool(state.history) and state.history[-1]["step"] == state.step


def _ones(x: Floats) -> Floats:
    """(n, 2) -> (n, 3), a one at the end."""
    return np.column_stack([x, np.ones(len(x))])
