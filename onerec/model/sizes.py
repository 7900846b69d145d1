"""Widths that follow from a width, and which blocks hold experts; no torch.

The modules are built with these and `onerec.cost` counts with them, so that they cannot disagree.
"""

from dataclasses import dataclass
from typing import Literal

ExpertBlocks = Literal["decoder", "alternate", "late"]

QFORMER_BLOCKS = 2  # N_l of the lifelong pathway (V1 section 2.2)
ITEM_QFORMER_HEADS = 8  # of the item QFormer; the paper does not say
LATE = 2  # dense blocks before the first experts of the lazy decoder (V2)


@dataclass(frozen=True)
class ContextConfig:
    """What the blocks of a lazy decoder read of a context (V2 section 3.2).

    `width` of a context token and of the code tables, 0 for D; `sets` of keys and values (L_kv);
    `separate_values` (S_kv = 2) or values that are the keys (S_kv = 1, V2's default); `groups` of
    keys and values (G_kv), 0 for one per query head.
    """

    width: int = 0
    sets: int = 1
    separate_values: bool = False
    groups: int = 0


def ffn_hidden(width: int) -> int:
    """Hidden width of a dense block: 2 D, as in Table 1 of the technical report."""
    return 2 * width


def expert_hidden(width: int) -> int:
    """Hidden width of an expert: 8/3 D to the nearest multiple of 128, as the report's text says.

    Its Table 1 prints 2 D instead; parameter counts speak for the text (2688 at D = 1024).
    """
    return max(128, round(8 * width / 3 / 128) * 128)


def lazy_ffn_hidden(width: int) -> int:
    """Hidden width of a dense block of the lazy decoder: 4 D.

    V2 prints no width. With SwiGLU and 4 D a block has 18 D^2 weights, which gives .50B, 1.04B,
    2.10B, 4.06B and 7.86B for the models named 0.5B to 8B; and 4 D is what its mixture activates.
    """
    return 4 * width


def lazy_expert_hidden(width: int) -> int:
    """Hidden width of an expert of the lazy decoder: D (V2: 1408 at D = 1408)."""
    return width


def feature_widths(width: int) -> tuple[int, int, int]:
    """Embedding widths of author, other event features and user features.

    The paper prints 512, 128 and 64 beside D = 1024. The same shares of D, at least 16, are ours.
    """
    return max(16, width // 2), max(16, width // 8), max(16, width // 16)


def qformer_heads(width: int, heads: int) -> int:
    """Heads of the lifelong pathway's QFormer: the most that divide its width, up to the model's.

    Context tokens of a lazy decoder may have a width that its heads do not divide (ours).
    """
    return max(count for count in range(1, heads + 1) if width % count == 0)


def expert_blocks(where: ExpertBlocks, encoder: int, decoder: int) -> tuple[list[bool], list[bool]]:
    """Which blocks of the encoder and of the decoder hold experts where a model has any.

    `decoder`: all of the decoder (V1's 0.935B). `alternate`: the second, fourth, ... of both, the
    reading of "designated blocks" that fits V1's 2.633B; V1 prints no places. `late`: all of the
    decoder but its first two (V2).
    """
    odd = where == "alternate"
    first = LATE if where == "late" else 0
    return (
        [odd and block % 2 == 1 for block in range(encoder)],
        [block % 2 == 1 if odd else block >= first for block in range(decoder)],
    )


def kv_set(block: int, sets: int, blocks: int) -> int:
    """Which set of shared keys and values a block of a lazy decoder reads: floor(l L_kv / N)."""
    return block * sets // blocks
