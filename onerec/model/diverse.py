"""Diverse beams: groups of beams that are kept from beginning with the same code.

    found = diverse_beam_search(model, batch, trie, k=10, beam=40, groups=4, penalty=1.0)

Source: diverse beam search, arXiv 1610.02424, with its Hamming diversity at the first level alone
(ours): the first code is an item's coarse kind, and items of another kind is what is asked for. The
beam is split into groups. At the first level they choose one after the other, and a code costs
`penalty` nats for each beam of an earlier group that holds it. From there on each group is a beam
search of its own, in which its beams keep what they have paid. The groups then take turns in naming
their next best item; one that was named before, or is left out, is passed over and the turn with
it. The k items so found are ranked by the model's own log-probability, without any penalty.

One group is `beam_search`. With a large penalty no two groups begin with the same code while there
are codes enough. It decodes without the cache, as `onerec.model.trace` does: three short passes.
Shapes: B users, G groups, K beams of a group, C children of a node at most, R ranks of a group,
M = R G candidates, X excluded items, L levels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from onerec.common import evaluating
from onerec.model.generate import Generated, best, contains
from onerec.model.onerec import Batch, OneRec
from onerec.tokenizer.trie import Trie


def diverse_beam_search(
    model: OneRec,
    batch: Batch,
    trie: Trie,
    *,
    k: int,
    beam: int,
    groups: int,
    penalty: float,
    exclude: Tensor | None = None,
) -> Generated:
    """The k items of `groups` groups of beams; always along the trie.

    Args:
        model: in any mode; it is evaluated and then put back.
        batch: contexts; the targets are not read.
        trie: which codes exist, on the model's device.
        k: items per user.
        beam: prefixes kept at each level but the last, all groups together; shared out evenly,
            at least one each.
        groups: G.
        penalty: nats; 0 lets all groups choose alike, and they then name one item after the other.
        exclude: (B, X) item index + 1, 0 for none: items that may not be returned.

    Raises:
        ValueError: k, beam or groups is below 1, or the penalty below 0 or infinite.
    """
    if min(k, beam, groups) < 1 or not 0 <= penalty < math.inf:
        raise ValueError(
            f"k={k}, beam={beam} and groups={groups} must be at least 1, {penalty=} 0 and finite"
        )
    own = max(1, beam // groups)  # K
    ranks = k + (0 if exclude is None else exclude.shape[1])
    with evaluating(model):
        memory = model.encode(batch)
        users, device = len(memory.mask), memory.mask.device
        codes = torch.zeros(users, 1, 0, dtype=torch.int64, device=device)
        parts = torch.zeros(users, 1, 0, device=device)  # log p of each code
        node = torch.zeros(users, 1, dtype=torch.int64, device=device)
        paid = parts.new_zeros(users, 1)  # the penalty of each beam
        for level in range(model.levels):
            logits, _ = model.decode_step(level, codes.clamp(min=0), memory)
            code, child = trie.continuations(level, node)  # (B, G K, C)
            log_prob = logits.gather(-1, code.clamp(min=0)) - logits.logsumexp(-1, keepdim=True)
            log_prob = log_prob.masked_fill(child < 0, -torch.inf)
            keep = own if level < model.levels - 1 else ranks
            if level:
                options = (parts.sum(-1) - paid)[..., None] + log_prob
                pick = _apart(options, groups, keep)  # (B, G keep) into (G K) C
            else:
                pick, costs = _in_turn(log_prob[:, 0], groups, keep, penalty)
            parent = pick // code.shape[-1]
            paid = paid.gather(1, parent) if level else costs
            step = log_prob.flatten(1).gather(1, pick)
            node = child.flatten(1).gather(1, pick)  # -1 where there is no such child
            dead = node < 0
            code = code.flatten(1).gather(1, pick).masked_fill(dead, -1)
            codes = torch.cat((_rows(codes, parent), code[..., None]), dim=-1)
            parts = torch.cat((_rows(parts, parent), step[..., None]), dim=-1)
    return _ranked(trie, codes, parts, node, k, groups, ranks, exclude)


def _in_turn(options: Tensor, groups: int, keep: int, penalty: float) -> tuple[Tensor, Tensor]:
    """The first codes of each group, one group after the other, and what each of them costs.

    (B, C) -> places in C and nats, (B, G keep) both.
    """
    held = torch.zeros_like(options)  # how many beams of earlier groups hold each code
    picks, costs = [], []
    for _ in range(groups):
        value, pick = best(options - penalty * held, keep)
        costs.append(penalty * held.gather(1, pick))
        held = held.scatter_add(1, pick, value.isfinite().to(held.dtype))
        picks.append(pick)
    return torch.cat(picks, dim=1), torch.cat(costs, dim=1)


def _apart(options: Tensor, groups: int, keep: int) -> Tensor:
    """The best of each group by itself: (B, G K, C) -> (B, G keep) places in (G K) C."""
    users, beams, width = options.shape
    size = beams // groups * width
    _, pick = best(options.reshape(users * groups, size), keep)
    offset = torch.arange(groups, device=pick.device).repeat(users)[:, None] * size
    return (pick + offset).view(users, -1)


def _rows(table: Tensor, parent: Tensor) -> Tensor:
    return table.gather(1, parent[..., None].expand(-1, -1, table.shape[-1]))


def _named_before(item: Tensor) -> Tensor:
    """Which of (B, M) stand in their row before: (B, M) bool. By sorting, as M may be large."""
    ordered, place = item.sort(dim=1, stable=True)
    again = torch.zeros_like(item, dtype=torch.bool)
    again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    return torch.zeros_like(again).scatter_(1, place, again)


def _ranked(
    trie: Trie,
    codes: Tensor,
    parts: Tensor,
    node: Tensor,
    k: int,
    groups: int,
    ranks: int,
    exclude: Tensor | None,
) -> Generated:
    """Leaves (B, G K) -> the first k different items as groups take turns, ranked by score."""
    users, beams = node.shape
    item, of = trie.expand(node.view(users, groups, -1), ranks)  # (B, G, R)
    start = torch.arange(groups, device=node.device)[:, None] * (beams // groups)
    of = torch.where(of >= 0, of + start, 0).transpose(1, 2).flatten(1)  # (B, M), in turn
    item = item.transpose(1, 2).flatten(1)
    usable = (item >= 0) & ~_named_before(item)
    if exclude is not None:
        usable &= ~contains(exclude, item + 1)
    turn = (~usable).byte().argsort(dim=1, stable=True)[:, :k]
    item, of, usable = (table.gather(1, turn) for table in (item, of, usable))
    own = parts.sum(-1).gather(1, of).masked_fill(~usable, -torch.inf)
    own, order = own.sort(dim=1, descending=True, stable=True)
    item, of, usable = (table.gather(1, order) for table in (item, of, usable))
    absent = ~usable[..., None]
    return Generated(
        items=item.masked_fill(~usable, -1),
        scores=own,
        codes=_rows(codes, of).masked_fill(absent, -1),
        code_log_probs=_rows(parts, of).masked_fill(absent, -torch.inf),
        legal=usable,
    )
