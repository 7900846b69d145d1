"""RoMA and its two controls on a trained model: routers alone move, the same steps for each.

`pipeline.roma` makes a run of it, `bench.routers` compares.

    roma          neighbours nearest in content
    roma_random   neighbours drawn at random
    router_only   no manifold term: next-token loss alone

All is taken from training contexts. A context succeeds where the model that is to be tuned has one
of its targets among the `RANKS` items that it generates; this is asked once. The bank, at most one
entry a context, is of `Tuning.bank` contexts spread evenly over training, and its routing is
collected again every `REFRESH` steps.

Ours, where RoMA (arXiv 2511.07419) speaks of language: the embedding of a context is the mean
content vector of the events that the model reads, so that it is not the tuned model's own; samples
are told apart by user, as two neighbouring contexts of one user are nearly one; the batches are
those of a pre-training of as many steps (on a stream the newest), without event dropout; the rate
falls as a cosine. Rate and lambda are not printed there and not tuned here.

Shapes: B contexts, M targets, n items, d content, X contexts asked for success.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from onerec.common import autocast, generator
from onerec.data.batches import Examples, TrainingBatches
from onerec.data.split import Cases
from onerec.errors import RunError
from onerec.loop import StepResult, Trainee, loop
from onerec.model.onerec import Batch
from onerec.pipeline.pretrain import Pretraining, next_token_order
from onerec.recommend import Recommender
from onerec.train.optim import OptimConfig, cosine_schedule, make_adamw
from onerec.train.roma import (
    Bank,
    RomaBatch,
    RomaConfig,
    collect,
    find_neighbours,
    gaussian_weights,
    manifold_loss,
    roma_loss,
    routers_only,
)

KINDS = ("roma", "roma_random", "router_only")
RANKS = 10
REFRESH = 20  # steps between two collections of the bank


@dataclass(frozen=True)
class Tuning:
    """`weight` is RoMA's lambda; `bank` how many training contexts are asked for success."""

    steps: int = 200
    rate: float = 1e-3
    weight: float = 1.0
    bank: int = 4_096

    def config(self, kind: str) -> RomaConfig:
        """What `onerec.train.roma` is told of one of `KINDS`."""
        config = RomaConfig(weight=self.weight)
        return {
            "roma": config,
            "roma_random": replace(config, choose="random"),
            "router_only": replace(config, weight=0.0),
        }[kind]


def history_vectors(batch: Batch, vectors: Tensor) -> Tensor:
    """Mean content of the short-term and positive events of each context: (B, d).

    Args:
        batch: contexts; one without events has a vector of zeros.
        vectors: (n + 1, d), row 0 zeros for the padding.
    """
    items = torch.cat((batch.short.item, batch.positive.item), dim=1)  # (B, T)
    return F.embedding_bag(items, vectors, mode="mean", padding_idx=0)


def successes(recommender: Recommender, examples: Examples, workers: int = 1) -> NDArray[np.bool_]:
    """Which targets (X, M) stand among the first `RANKS` items generated for their contexts."""
    none = np.zeros(len(examples) + 1, dtype=np.int64)
    cases = Cases(examples.user, examples.end, none, none[:0])
    lists = recommender.lists(cases, RANKS, workers=workers).items  # (X, RANKS), -1 for none
    found = examples.target[:, :, None] - 1 == lists[:, None, :]
    right: NDArray[np.bool_] = found.any(-1) & (examples.target > 0)
    return right


class Samples:
    """Training contexts of a pre-training as RoMA wants them."""

    def __init__(self, training: Pretraining) -> None:
        self.training, self.device = training, training.session.device
        self.examples = training.examples
        vectors = training.session.run.vectors()
        assert vectors is not None  # the tokenizer stage writes them
        known = torch.from_numpy(vectors).to(self.device)
        self.vectors = torch.cat((torch.zeros_like(known[:1]), known))  # (n + 1, d)

    def answered(self, limit: int, neighbours: int, workers: int = 1) -> list[RomaBatch]:
        """Those of `limit` evenly spread contexts that the model answers, in batches.

        Raises:
            RunError: too few for `neighbours` of other users.
        """
        total = len(self.examples)
        asked = _some(self.examples, np.arange(min(limit, total)) * total // min(limit, total))
        right = successes(self.training.recommender(), asked, workers)
        rows = np.flatnonzero(right.any(1))
        others = len(rows) - np.bincount(asked.user[rows], minlength=1).max()
        if others < neighbours:
            raise RunError(
                f"{len(rows)} of {len(asked)} training contexts have a target in the model's first "
                f"{RANKS}; RoMA needs {neighbours} of other users: train longer or raise --bank"
            )
        return [
            self._answered(_some(asked, part), right[part])
            for part in np.array_split(rows, -(-len(rows) // self.training.config.batch_size))
        ]

    def _answered(self, some: Examples, right: NDArray[np.bool_]) -> RomaBatch:
        user, end, target = (torch.from_numpy(part) for part in vars(some).values())
        batch = self.training.contexts.batch(user, end, target)
        return self._of(batch, user, torch.from_numpy(right).to(self.device))

    def batches(self, steps: int) -> Callable[[int], RomaBatch]:
        """Those of a pre-training of so many steps, without event dropout."""
        training = self.training
        batches = TrainingBatches(
            training.contexts,
            self.examples,
            training.config.batch_size,
            training.setting.recipe.seed,
            order=next_token_order(training.setting),
            steps=steps,
        )

        def batch(step: int) -> RomaBatch:
            found, numbers = batches(step), batches.sampler(step)
            unasked = torch.zeros_like(found.target, dtype=torch.bool)
            return self._of(found, torch.from_numpy(self.examples.user[numbers]), unasked)

        return batch

    def _of(self, batch: Batch, user: Tensor, success: Tensor) -> RomaBatch:
        embedding = history_vectors(batch, self.vectors)
        return RomaBatch(batch, embedding, user.to(self.device), success)


def _some(examples: Examples, rows: NDArray[np.int64]) -> Examples:
    return Examples(examples.user[rows], examples.end[rows], examples.target[rows])


class RouterTuning:
    """One tuning of the routers of `training.model` as it is now, by one of `KINDS`.

    Raises:
        RunError: the model answers too few training contexts.
        ValueError: the model is one that RoMA cannot move, see `onerec.train.roma`.
    """

    def __init__(self, training: Pretraining, kind: str, tuning: Tuning, workers: int = 1) -> None:
        self.training, self.tuning = training, tuning
        self.model, self.device = training.model, training.session.device
        self.config, self.samples = tuning.config(kind), Samples(training)
        self.asked = min(tuning.bank, len(self.samples.examples))
        self.answered = self.samples.answered(tuning.bank, self.config.neighbours, workers)
        with routers_only(self.model) as routers:
            self.moving = sum(parameter.numel() for parameter in routers)

    def bank(self) -> Bank:
        """The answered contexts as the model routes them now."""
        with autocast(self.device):
            return collect(self.model, self.answered, self.config)

    def steps(self) -> Iterator[StepResult]:
        """Tune; yields after each step. Once: the next call would begin where this one ends."""
        seed, steps = self.training.setting.recipe.seed, self.tuning.steps
        optim = OptimConfig(self.tuning.rate, warmup_steps=max(1, steps // 10))
        stream = generator(seed)
        with routers_only(self.model):
            bank = self.bank()

            def loss(batch: RomaBatch) -> tuple[Tensor, dict[str, Tensor]]:
                return roma_loss(self.model, batch, bank, self.config, stream)

            trainee = Trainee(
                model=self.model,
                optimizer=make_adamw(self.model, optim),
                loss=loss,
                batch=self.samples.batches(steps),
                learning_rate=cosine_schedule(optim, steps),
            )
            for result in loop(
                trainee, steps=steps, clip=optim.clip, seed=seed, device=self.device
            ):
                yield result
                if result.step % REFRESH == 0 and result.step < steps:
                    bank = self.bank()


def post_train(training: Pretraining, kind: str, tuning: Tuning) -> Iterator[StepResult]:
    """Tune the routers of `training.model`, see `RouterTuning`; yields after each step."""
    yield from RouterTuning(training, kind, tuning).steps()


def disagreement(bank: Bank, neighbours: int) -> float:
    """How unlike neighbours route: the mean manifold loss of a bank's entries among themselves."""
    index, distance = find_neighbours(
        bank.embedding, bank.sample, bank.embedding, bank.sample, neighbours
    )
    weight = gaussian_weights(distance, bank.sigma).to(bank.routing)
    return float(manifold_loss(bank.routing, bank.routing[index], weight).mean())
