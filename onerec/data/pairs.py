"""Pairs of items for the tokenizer, from the positive rows of the training part alone.

No row of a valid or test target enters: neither a similarity, nor a history, nor a pair.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from onerec.data.split import Split
from onerec.tokenizer.pairs import (
    NEIGHBOURS,
    RECENT,
    Pairs,
    item_to_item_pairs,
    user_to_item_pairs,
)
from onerec.tokenizer.swing import SwingConfig, swing


@dataclass(frozen=True)
class ItemPairs:
    """Pairs (P, 2) int64 of both kinds; `counts` says what they were made from."""

    item_to_item: Pairs
    user_to_item: Pairs
    counts: dict[str, int]


def training_pairs(
    split: Split,
    generator: torch.Generator,
    config: SwingConfig | None = None,
    *,
    neighbours: int = NEIGHBOURS,
    recent: int = RECENT,
) -> ItemPairs:
    """Swing over the training positives, and the pairs that follow; see `tokenizer.pairs`."""
    log = split.train_log()
    user, item = log.user[log.positive], log.item[log.positive]
    similarity = swing(user, item, log.n_items, generator, config)
    by_item = item_to_item_pairs(similarity, neighbours)
    by_user = user_to_item_pairs(user, item, similarity, recent)
    counts = {
        "positive_train_rows": len(user),
        **similarity.counts,
        "similar_pairs": len(similarity),
        "item_to_item": len(by_item),
        "user_to_item": len(by_user),
    }
    return ItemPairs(by_item, by_user, counts)
