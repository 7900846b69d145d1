"""Content tokens: what encoders of text, sound and pictures would make of each video.

Each modality sees the item's content through a linear map that is partly its own, as encoders that
were aligned do, with its own noise and offset: tags know the topic well and the item badly, frames
the other way round. Some videos have no text
on the screen, some no speech; their tokens are masked. Hidden style and quality are in none.
Legend: n items, N_M tokens per item, d token width, C content width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onerec.world.catalogue import CONTENT_WIDTH, Catalogue
from onerec.world.config import WorldConfig

TOKEN_WIDTH = 32
OWN_LENS = 0.5  # weight of a modality's own map beside the one that all share
OFFSET = 0.1


@dataclass(frozen=True)
class Modality:
    """How clearly a modality shows the item (`own`), how noisy it is, how often it is missing."""

    name: str
    tokens: int
    own: float
    noise: float
    missing: float


MODALITIES = (
    Modality("caption", 1, own=0.9, noise=0.5, missing=0.0),
    Modality("tag", 1, own=0.3, noise=0.4, missing=0.0),
    Modality("ocr", 1, own=0.8, noise=0.8, missing=0.4),
    Modality("asr", 1, own=1.0, noise=0.6, missing=0.3),
    Modality("cover", 1, own=1.0, noise=0.6, missing=0.0),
    Modality("frame", 5, own=1.1, noise=0.9, missing=0.0),
)


def content_tokens(
    config: WorldConfig, catalogue: Catalogue
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.int64], tuple[str, ...]]:
    """Tokens (n, N_M, d), mask (n, N_M), modality (N_M,) and the modalities' names."""
    rng = config.stream("tokens")
    n = catalogue.n_items
    kind = catalogue.content - catalogue.own_content
    shared = rng.standard_normal((CONTENT_WIDTH, TOKEN_WIDTH), dtype=np.float32)
    tokens, mask = [], []
    for modality in MODALITIES:
        lens = shared + OWN_LENS * rng.standard_normal(shared.shape, dtype=np.float32)
        offset = OFFSET * rng.standard_normal(TOKEN_WIDTH, dtype=np.float32)
        there = rng.random(n) >= modality.missing
        for _ in range(modality.tokens):
            seen = kind + modality.own * catalogue.own_content  # (n, C)
            noise = modality.noise * rng.standard_normal((n, CONTENT_WIDTH), dtype=np.float32)
            seen = seen + noise / np.sqrt(CONTENT_WIDTH, dtype=np.float32)
            # Not `seen @ lens`: how a library orders its sums depends on the processor.
            token = offset + sum(seen[:, c, None] * lens[c] for c in range(CONTENT_WIDTH))
            tokens.append(np.where(there[:, None], token, np.float32(0)))
            mask.append(there)
    modality_of = np.repeat(np.arange(len(MODALITIES)), [m.tokens for m in MODALITIES])
    names = tuple(modality.name for modality in MODALITIES)
    return np.stack(tokens, axis=1), np.stack(mask, axis=1), modality_of.astype(np.int64), names
