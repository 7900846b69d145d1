"""How evenly a trained model spreads its tokens over experts, over many batches and in each.

MaxVio of a load is its largest over its mean, less 1 (`model.moe.load_balance`). Pooled over
batches it is small where experts share the work in the long run; per batch it is what a machine
waits for, and the smaller the batch the larger by chance alone.

Shapes: P batches, Y mixtures, E experts, k of them per token.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onerec.common import autocast, evaluating
from onerec.data.batches import TrainingBatches
from onerec.model.batch import Batch
from onerec.model.moe import load_balance
from onerec.model.onerec import OneRec
from onerec.pipeline.pretrain import Pretraining


def loads(model: OneRec, batches: Iterable[Batch]) -> Tensor:
    """Tokens per expert (P, Y, E) float64 of each batch and mixture, in evaluation mode.

    Tokens count as they do in training: padding not, the targets' shared position once for each.
    """
    mixtures, found = model.mixtures(), []
    with contextlib.ExitStack() as stack:
        records = [stack.enter_context(mixture.record()) for mixture in mixtures]
        for batch in batches:
            with evaluating(model), autocast(batch.target.device):
                model(batch)
            rows = [
                mixture.tokens_per_expert(passed.expert.flatten(0, -2), passed.counted)
                for passed, mixture in zip((r.pop() for r in records), mixtures, strict=True)
            ]
            found.append(torch.stack(rows).cpu().double())
    return torch.stack(found)


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


def balance_of(training: Pretraining, batches: int) -> dict[str, Any] | None:
    """`balance` of a model as it is, over shuffled training contexts; None of a dense one.

    The contexts are those of the recipe's batch size and of seed 0, the same for every model.
    """
    if not training.model.mixtures():
        return None
    size = training.config.batch_size
    drawn = TrainingBatches(training.contexts, training.examples, size, seed=0)
    found = balance(loads(training.model, map(drawn, range(batches))))
    return {"batch_size": drawn.sampler.batch_size} | found
