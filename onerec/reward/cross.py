"""Cross features of a ranker: what a candidate has in common with what the user did before.

Shapes: B contexts, M candidates per context, T history events, n items.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from onerec.model.pathways import Events, ItemTable

CROSS = (
    "nearest past item",
    "mean likeness to the past",
    "mean likeness to past successes",
    "nearest past success",
    "same author before",
    "same author among successes",
    "same tag before",
    "same tag among successes",
    "the item before",
)


def cross_features(
    items: Tensor, short: Events, positive: Events, table: ItemTable
) -> list[Tensor]:
    """The features named in `CROSS` of candidates (B, M), item index + 1: (B, M) each.

    Likeness is the cosine of content vectors, 0 without content; counts are log(1 + n). Empty
    histories give zeros. A success is an event of the positive pathway.
    """
    features: list[Tensor] = []
    likeness = [_likeness(items, events, table) for events in (short, positive)]  # (B, M, T)
    features += [_largest(likeness[0], short), _average(likeness[0], short)]
    features += [_average(likeness[1], positive), _largest(likeness[1], positive)]
    for column in (table.author, table.tag):
        mine = column[items][..., None]  # (B, M, 1), 0 unknown
        for events in (short, positive):
            same = (column[events.item][:, None] == mine) & (mine > 0)
            features.append(torch.log1p(same.sum(-1).float()))
    again = (short.item[:, None] == items[..., None]) & (items[..., None] > 0)
    features.append(torch.log1p(again.sum(-1).float()))
    return features


def _likeness(items: Tensor, events: Events, table: ItemTable) -> Tensor:
    content = F.normalize(table.content, dim=-1)  # (n + 1, d); padding is all zeros
    return content[items] @ content[events.item].transpose(1, 2)


def _average(value: Tensor, events: Events) -> Tensor:
    there = (events.item > 0)[:, None]
    return (value * there).sum(-1) / there.sum(-1).clamp(min=1)


def _largest(value: Tensor, events: Events) -> Tensor:
    if not value.shape[-1]:
        return value.sum(-1)
    there = (events.item > 0)[:, None]
    best = value.masked_fill(~there, -1.0).amax(-1)
    return best.masked_fill(~there.any(-1), 0.0)
