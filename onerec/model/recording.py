"""Which experts saw which token of which target, when somebody asks.

    routing = target_routing(model, batch)
    routing.expert[layer, b, m, p]      # the k experts of the token that writes code p + 1
    columns = routing.columns()         # one row per choice: a table

Position 0 is the begin token: what has been read and nothing written yet. The targets of a context
share it, so it stands there once for each of them, which is how loads count it too. Teacher
forcing: position p > 0 has the target's own codes 1 .. p before it.

A mixture that nobody records pays one comparison per pass. What one of them records stands in
`onerec.model.moe`. Mixtures of an encoder see events and no targets: they are left out.
Shapes: Y mixtures of the decoder, B contexts, M targets per context, L levels, E experts, k experts
per token.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onerec.common import evaluating
from onerec.model.moe import MixtureOfExperts, Recorded
from onerec.model.onerec import Batch, OneRec


class TargetRouting(NamedTuple):
    """`expert` int64 and `weight` (Y, B, M, L, k); `target` (B, M) item index + 1, 0 for none."""

    expert: Tensor
    weight: Tensor
    target: Tensor

    @classmethod
    def of(cls, passes: Sequence[Recorded], target: Tensor) -> TargetRouting:
        """From one recorded teacher-forced pass of each mixture over targets (B, M)."""
        m = target.shape[1]

        def unfold(tokens: Tensor) -> Tensor:
            """(B, 1 + M (L - 1), k) -> (B, M, L, k)."""
            first, rest = tokens[:, :1], tokens[:, 1:]
            rest = rest.reshape(len(rest), m, rest.shape[1] // m, rest.shape[2])
            return torch.cat((first[:, None].expand(-1, m, -1, -1), rest), dim=2)

        expert = torch.stack([unfold(one.expert) for one in passes])
        weight = torch.stack([unfold(one.weight) for one in passes])
        return cls(expert, weight, target)

    def dense(self, experts: int) -> Tensor:
        """Weights over all experts, 0 for those not chosen: (Y, B, M, L, E)."""
        blank = self.weight.new_zeros(*self.weight.shape[:-1], experts)
        return blank.scatter(-1, self.expert, self.weight)

    def columns(self) -> dict[str, NDArray[np.int64] | NDArray[np.float32]]:
        """One row per choice of a target that exists, by layer, context, target and level.

        layer from 0; context and target: places in the batch; item: index; level: of the code that
        the token writes, from 1; rank of the choice from 0; expert; weight.
        """
        shape = self.expert.shape
        places = torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij")
        item = (self.target - 1).cpu()[None, :, :, None, None].expand(shape)
        exists = item >= 0
        names = ("layer", "context", "target", "level", "rank")
        table = {name: place[exists].numpy() for name, place in zip(names, places, strict=True)}
        table["level"] = table["level"] + 1
        weight = self.weight.detach().float().cpu()[exists].numpy()
        expert = self.expert.cpu()[exists].numpy()
        return {**table, "item": item[exists].numpy(), "expert": expert, "weight": weight}


def decoder_mixtures(model: OneRec) -> dict[int, MixtureOfExperts]:
    """The decoder's mixtures by their place in `model.mixtures()`, in order."""
    inside = {id(module) for module in model.decoder.modules()}
    return {y: one for y, one in enumerate(model.mixtures()) if id(one) in inside}


@contextlib.contextmanager
def recording(model: OneRec) -> Iterator[list[list[Recorded]]]:
    """Inside, the decoder's mixtures append their passes to a list each; in one thread alone."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(one.record()) for one in decoder_mixtures(model).values()]


def target_routing(model: OneRec, batch: Batch) -> TargetRouting:
    """How the model routes the targets of a batch, in evaluation and without gradients.

    Raises:
        ValueError: the decoder has no experts.
    """
    if not decoder_mixtures(model):
        raise ValueError("the decoder is dense: it has no experts that could be recorded")
    with evaluating(model), recording(model) as layers:
        model(batch)
    return TargetRouting.of([passes[0] for passes in layers], batch.target)
