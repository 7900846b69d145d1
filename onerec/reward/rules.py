"""Rewards that need no model: is an item legal, and is there too much of a kind.

Shapes: B users, G items of a group.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor


class FormatReward(NamedTuple):
    """`advantage` (B, G), to be used as it is, without a mean; `counted` (B, G) bool: enters."""

    advantage: Tensor
    counted: Tensor


def format_reward(
    legal: Tensor,
    choose: int,
    generator: torch.Generator | None = None,
    *,
    by: Literal["random", "probability"] = "random",
    log_prob: Tensor | None = None,
    illegal: float | None = None,
) -> FormatReward:
    """OneRec's format reward (V1 section 2.4): K items of each group; a legal one is worth 1.

    An illegal one is dropped: pushing it down squeezes probability onto what is likely already and
    takes legal codes down with it, the paper argues. In the paper's experiment K is 5 of 128; the
    K of production is NOT FOUND.

    Args:
        legal: (B, G) bool, the codes are an item's.
        choose: K; more than G means all of them.
        generator: of the random choice.
        by: the paper chooses at random and shows that the K most probable teach nothing.
        log_prob: (B, G), needed to choose by probability.
        illegal: an advantage for illegal items in place of dropping them, such as -1, to compare.

    Raises:
        ValueError: K below 1, or a choice by probability without probabilities.
    """
    if choose < 1:
        raise ValueError(f"choose={choose}: at least one item of each group")
    if by == "random":
        order = torch.rand(legal.shape, generator=generator, device=legal.device)
    elif log_prob is None:
        raise ValueError("by='probability' needs log_prob")
    else:
        order = log_prob.detach()
    picked = order.topk(min(choose, legal.shape[1]), dim=1).indices
    chosen = torch.zeros_like(legal, dtype=torch.bool).scatter(1, picked, True)
    counted = chosen & (legal if illegal is None else torch.ones_like(legal))
    worth = torch.where(legal, 1.0, 0.0 if illegal is None else illegal)
    return FormatReward(worth * counted, counted)


def industrial_reward(
    reward: Tensor, listed: Tensor, *, alpha: float, limit: float, share: float | None = None
) -> Tensor:
    """r' = alpha r for listed items when their share passes a limit (V1 section 4.3.3).

    For content that there is too much of ("viral farms"). alpha and limit are NOT FOUND.

    Args:
        reward: (B, G), none below 0, where a factor would turn into praise.
        listed: (B, G) bool, the item is of the kind.
        alpha: from 0 to 1.
        limit: f, from 0 to 1.
        share: what was exposed lately; by default the share among these items.

    Raises:
        ValueError: a factor or limit out of range, or a negative reward.
    """
    if not 0 <= alpha <= 1 or not 0 <= limit <= 1:
        raise ValueError(f"alpha={alpha} and limit={limit} must be from 0 to 1")
    if (reward < 0).any():
        raise ValueError("a reward below 0 cannot be damped by a factor; add a constant first")
    share = float(listed.float().mean()) if share is None else share
    return torch.where(listed, alpha * reward, reward) if share > limit else reward
