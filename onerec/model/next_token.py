"""The next-token loss of semantic IDs (V1 section 2.3).

Shapes: B contexts, M targets, L levels, N_l codes of a level.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from onerec.model.pathways import ItemTable


def level_losses(
    logits: Sequence[Tensor], items: ItemTable, target: Tensor, smoothing: float = 0.0
) -> Tensor:
    """Mean cross-entropy of each level over the targets that exist: (L,), in nats.

    Args:
        logits: (B, M, N_l) of each level, after the codes before it.
        items: whose codes are the truth.
        target: (B, M) item + 1, 0 for none.
        smoothing: of labels, 0 to 1.
    """
    codes = items.codes[target].masked_fill(target[..., None] == 0, -100)  # (B, M, L)
    parts = [
        F.cross_entropy(
            logit.flatten(0, 1),  # float32 under autocast
            codes[..., level].flatten(),
            label_smoothing=smoothing,
        )
        for level, logit in enumerate(logits)
    ]
    return torch.stack(parts)
