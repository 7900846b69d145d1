"""How evenly a trained model spreads its tokens over experts, over many batches and in each.

MaxVio of a load is its largest over its mean, less 1 (`model.moe.load_balance`). Pooled over
batches it is small where experts share the work in the long run; per batch it is what a machine
waits for, and the smaller the batch the larger by chance alone. Dropout moves it: a bias that
evens out the load of training batches meets other scores where nothing is dropped. So it is told as
in training too, and of a loss-free router also after `SETTLE` passes in which the biases alone
move, by the load in evaluation mode (ours).

Shapes: P batches, Y mixtures, E experts, k of them per token.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onerec.bench.lazy import valid_loss
from onerec.common import autocast, evaluating
from onerec.data.batches import TrainingBatches
from onerec.model.batch import Batch
from onerec.model.moe import load_balance
from onerec.model.onerec import OneRec
from onerec.pipeline.pretrain import Pretraining

SETTLE, OTHERS = 20, 1  # passes, and the seed of their batches: not those that are measured


def loads(model: OneRec, batches: Iterable[Batch], dropping: bool = False) -> Tensor:
    """Tokens per expert (P, Y, E) float64 of each batch and mixture, in evaluation mode.

    Tokens count as they do in training: padding not, the targets' shared position once for each.
    With `dropping` dropout is on, as in training, and no experts compete.
    """
    mixtures, found = model.mixtures(), []
    inside = _dropping if dropping else evaluating
    with contextlib.ExitStack() as stack:
        records = [stack.enter_context(mixture.record()) for mixture in mixtures]
        for batch in batches:
            with inside(model), autocast(batch.target.device):
                model(batch)
            rows = [
                mixture.tokens_per_expert(passed.expert.flatten(0, -2), passed.counted)
                for passed, mixture in zip((r.pop() for r in records), mixtures, strict=True)
            ]
            found.append(torch.stack(rows).cpu().double())
    return torch.stack(found)


@contextlib.contextmanager
def _dropping(model: OneRec) -> Iterator[None]:
    """Switch a model to training without gradients, and back; passes leave no load."""
    before, mixtures = model.training, model.mixtures()
    kept = [mixture.load.clone() for mixture in mixtures]
    model.compete(torch.zeros(len(mixtures), dtype=torch.bool))
    try:
        with torch.no_grad():
            model.train()
            yield
    finally:
        model.train(before)
        for mixture, load in zip(mixtures, kept, strict=True):
            mixture.load.copy_(load)
            mixture.take_losses()


def balance(found: Tensor) -> dict[str, Any]:
    """Of loads (P, Y, E): MaxVio pooled and per batch, and what the idlest experts do.

    `pooled` is of the load summed over the batches, `per_batch` the mean of each batch's own; both
    of the worst mixture, as the mean over mixtures, and `by_layer`. `dead` experts had no token in
    any batch; `least_share` is the smallest pooled load over the mean of its mixture.
    """
    pooled = found.sum(0)  # (Y, E)
    whole = [load_balance(load)["max_violation"] for load in pooled]
    each = [[load_balance(load)["max_violation"] for load in batch] for batch in found]
    share = pooled / pooled.mean(1, keepdim=True).clamp(min=1e-12)
    return {
        "batches": len(found),
        "pooled": _over_layers(whole),
        "per_batch": _over_layers(np.mean(each, axis=0).tolist()),
        "dead": int((pooled == 0).sum()),
        "least_share": round(float(share.min()), 5),
    }


def _over_layers(values: list[float]) -> dict[str, Any]:
    return {
        "worst": round(max(values), 5),
        "mean": round(float(np.mean(values)), 5),
        "by_layer": [round(value, 5) for value in values],
    }


def balance_of(
    training: Pretraining, batches: int, dropping: bool = False
) -> dict[str, Any] | None:
    """`balance` of a model as it is, over shuffled training contexts; None of a dense one.

    The contexts are those of the recipe's batch size and of seed 0, the same for every model.
    `dropping`: as in training, with dropout and without the events that training drops.
    """
    if not training.model.mixtures():
        return None
    events = training.setting.recipe.history.event_dropout if dropping else 0.0
    drawn = _drawn(training, event_dropout=events)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = balance(loads(training.model, map(drawn, range(batches)), dropping))
    return {"batch_size": drawn.sampler.batch_size} | found


def settled(training: Pretraining, batches: int) -> dict[str, Any]:
    """What is left of the imbalance once the biases have met the load in evaluation mode.

    `SETTLE` batches of training contexts, one step of the recipe's `model.balance_rate` after each;
    weights stay, and biases are put back.
    """
    model, rate = training.model, training.setting.recipe.model.balance_rate
    before = {name: buffer.clone() for name, buffer in model.named_buffers() if "router" in name}
    for batch in map(_drawn(training, seed=OTHERS), range(SETTLE)):
        (found,) = loads(model, [batch])
        for mixture, load in zip(model.mixtures(), found, strict=True):
            mixture.router.update(load.to(mixture.load), rate)
    loss = round(valid_loss(model, training.setting), 5)
    even = balance_of(training, batches) or {}
    for name, buffer in before.items():
        model.get_buffer(name).copy_(buffer)
    return {"passes": SETTLE, "loss": loss} | even


def _drawn(training: Pretraining, seed: int = 0, event_dropout: float = 0.0) -> TrainingBatches:
    size = training.config.batch_size
    return TrainingBatches(
        training.contexts, training.examples, size, seed=seed, event_dropout=event_dropout
    )
