"""How many steps of CompeteSMoE take as long as a training with another router.

Both trainings take turns in one process, so that whatever else the machine does falls on both.
Medians would hide competition, which is in few steps, so it is timed apart: a step without it, a
step in which one layer competes, and by the schedule how many layers compete in a step. The three
of a turn have the same batch, and turns are spread over the training: contexts grow with time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from onerec.common import generator
from onerec.loop import Trainee, loop
from onerec.model.batch import Batch
from onerec.model.routers import competition_schedule
from onerec.pipeline.pretrain import Pretraining

TURNS, WARM_UP = 40, 5


@dataclass(frozen=True)
class EqualTime:
    """What a step takes, in seconds: `base` of the other router, `alone` of CompeteSMoE without
    competition, `competing` with one layer; `layers` compete in a step in the mean."""

    base: float
    alone: float
    competing: float
    layers: float

    @property
    def step(self) -> float:
        """Mean seconds of a step of CompeteSMoE; each competing layer adds the same."""
        return self.alone + self.layers * (self.competing - self.alone)

    def steps(self, of_base: int) -> int:
        """Steps of CompeteSMoE, at least one, that take as long as so many of the other router."""
        return max(1, round(of_base * self.base / self.step))


def measure(
    base: Pretraining,
    competition: Pretraining,
    turns: int = TURNS,
    clock: Callable[[], float] = time.perf_counter,
) -> EqualTime:
    """Over so many turns after `WARM_UP` that do not count; both trainings move.

    `base` is a median, and the others that times the median of their ratio to it within a turn.
    """
    with base.batches() as batches, competition.batches() as others:
        trainees = base.trainee(batches), competition.trainee(others)
        seconds = _turns(base, competition, trainees, turns, clock)
    each = float(np.median(seconds[:, 0]))
    alone, competing = np.median(seconds[:, 1:] / seconds[:, :1], axis=0).tolist()
    return EqualTime(each, each * alone, each * competing, competing_layers(competition))


def _turns(
    base: Pretraining,
    competition: Pretraining,
    trainees: tuple[Trainee[Batch], Trainee[Batch]],
    turns: int,
    clock: Callable[[], float],
) -> NDArray[np.float64]:
    """Seconds (turns, 3) of a step of the base, of a competition's alone, and of one competing."""
    device, total, steps = base.session.device, WARM_UP + turns, base.config.steps
    model, (plain, trainee) = competition.model, trainees
    one = torch.arange(len(model.mixtures())) == 0
    plain = replace(plain, batch=_spread(plain.batch, 1, total, steps))
    trainee = replace(
        trainee,
        batch=_spread(trainee.batch, 2, total, steps),
        before_step=lambda step: model.compete(one & bool(step % 2)),
    )
    first = loop(plain, steps=total, device=device)
    second = loop(trainee, steps=2 * total, device=device)

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return clock()

    taken = []
    for _ in range(total):
        for results in (first, second, second):  # base, alone, competing
            begun = now()
            next(results)
            taken.append(now() - begun)
    return np.reshape(np.array(taken), (total, 3))[WARM_UP:]


def _spread(
    batches: Callable[[int], Batch], each: int, turns: int, steps: int
) -> Callable[[int], Batch]:
    """The same batch `each` times, those of the turns evenly out of so many steps."""
    return lambda step: batches(step // each * steps // turns)


def competing_layers(competition: Pretraining) -> float:
    """How many layers compete in a step of this training, in the mean over its steps."""
    model, recipe = competition.model, competition.setting.recipe
    plan = competition_schedule(
        model.config.router, recipe.train.steps, len(model.mixtures()), generator(recipe.seed)
    )
    return float(plan.sum(1).double().mean())
