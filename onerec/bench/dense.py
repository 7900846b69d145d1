"""The dense model that a mixture of experts stands beside: of equal active width.

Where a mixture sends a token through k experts of hidden width F, it has one SwiGLU of hidden width
k F: the same products a token, without router and without idle experts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from onerec.assembly import Setting
from onerec.common import generator
from onerec.model.layers import SwiGLU
from onerec.model.moe import MixtureOfExperts
from onerec.model.onerec import OneRec
from onerec.tokenizer.semantic_ids import SemanticIds


@dataclass(frozen=True)
class DenseSetting(Setting):
    """A setting whose models have a SwiGLU as wide as k experts in place of each mixture."""

    def new_model(
        self,
        ids: SemanticIds,
        codebooks: NDArray[np.float32] | None = None,
        vectors: NDArray[np.float32] | None = None,
    ) -> OneRec:
        """As `Setting.new_model`; all weights are drawn anew, as those of a model made so."""
        model = super().new_model(ids, codebooks, vectors)
        for block in list(model.modules()):
            mixture = getattr(block, "ffn", None)
            if isinstance(mixture, MixtureOfExperts):
                hidden = mixture.active * mixture.down.shape[1]
                block.ffn = SwiGLU(model.config.width, hidden)
        stream = generator(self.recipe.seed)
        model.init_weights(stream)
        if codebooks is not None:
            model.start_from_codebooks(torch.from_numpy(codebooks), stream)
        return model


def sizes(model: OneRec) -> dict[str, int]:
    """Parameters, and those that a token goes through."""
    total = sum(parameter.numel() for parameter in model.parameters())
    idle = sum(
        (mixture.experts - mixture.active) * (mixture.gate_up[0].numel() + mixture.down[0].numel())
        for mixture in model.mixtures()
    )
    return {"parameters": total, "active_parameters": total - idle}
