"""The beam as a tree: what a search kept at each level, what fell out of it, and what was illegal.

    found, levels = beam_tree(model, batch, trie, k=10, beam=50)

The search is `beam_search` itself with its trace, so lists are those of any other call. The rest is
worked out beside it, without the cache: one more decoding of the prefixes that were kept. That
costs about as much as the search again, and nothing where nobody asks.

Shapes: B users, K prefixes kept at a level, P those kept at the level before, N codes of a level,
F branches shown, L levels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from onerec.common import evaluating
from onerec.model.generate import Generated, TraceLevel, beam_search, best
from onerec.model.onerec import Batch, OneRec
from onerec.tokenizer.trie import Trie

STATES = ("kept", "pruned", "illegal")


class Branches(NamedTuple):
    """Prefixes, best first: `codes` (B, F, level + 1); `scores` (B, F) log p of the whole prefix,
    -inf where there is none; `parents` (B, F) rank of the parent among those kept before."""

    codes: Tensor
    scores: Tensor
    parents: Tensor


class TreeLevel(NamedTuple):
    """One level of a search.

    `kept` are all prefixes that it kept. `pruned` are the most probable legal ones that it did not,
    and `illegal` the most probable continuations of its parents that lead to no item.
    `pruned_probability` and `illegal_probability` (B,) are those of all such prefixes together,
    those not shown included. Everything that no level pruned or found illegal was kept to the end:
    over all levels both add up, with the kept leaves, to 1.
    """

    kept: Branches
    pruned: Branches
    illegal: Branches
    pruned_probability: Tensor
    illegal_probability: Tensor


def beam_tree(
    model: OneRec,
    batch: Batch,
    trie: Trie,
    *,
    k: int,
    beam: int,
    few: int = 3,
    exclude: Tensor | None = None,
) -> tuple[Generated, list[TreeLevel]]:
    """A constrained beam search and its levels; the arguments are those of `beam_search`.

    `few` is F, how many pruned and how many illegal branches of a level are given.

    Raises:
        ValueError: k, beam or few is below 1.
    """
    if few < 1:
        raise ValueError(f"few={few} must be at least 1")
    found = beam_search(model, batch, trie, k=k, beam=beam, trace=True, exclude=exclude)
    levels: list[TreeLevel] = []
    users, device = batch.size, batch.target.device
    codes = torch.zeros(users, 1, 0, dtype=torch.int64, device=device)
    score = torch.zeros(users, 1, device=device)
    node = torch.zeros(users, 1, dtype=torch.int64, device=device)
    with evaluating(model):
        memory = model.encode(batch)
        for level, kept in enumerate(found.trace):
            logits, _ = model.decode_step(level, codes.clamp(min=0), memory)
            levels.append(_level(kept, codes, score, logits, trie.legal(level, node), few))
            node = trie.step(level, node.gather(1, kept.parents), kept.codes[..., -1])
            codes, score = kept.codes, kept.scores
    return found, levels


def _level(
    kept: TraceLevel, codes: Tensor, score: Tensor, logits: Tensor, legal: Tensor, few: int
) -> TreeLevel:
    """From parents: codes (B, P, level), score (B, P), logits (B, P, N), legal (B, P, N) bool."""
    width = logits.shape[-1]
    options = (score[..., None] + logits.log_softmax(-1)).flatten(1)  # (B, P N)
    alive, legal = options.isfinite(), legal.flatten(1)
    place = kept.parents * width + kept.codes[..., -1]
    place = place.where(kept.scores.isfinite(), options.shape[1])  # one spare column
    taken = torch.zeros(len(options), options.shape[1] + 1, dtype=torch.bool, device=logits.device)
    taken = taken.scatter_(1, place, True)[:, :-1]
    pruned = options.masked_fill(~(alive & legal & ~taken), -torch.inf)
    illegal = options.masked_fill(~(alive & ~legal), -torch.inf)
    return TreeLevel(
        Branches(kept.codes, kept.scores, kept.parents),
        _best(pruned, codes, width, few),
        _best(illegal, codes, width, few),
        pruned.logsumexp(1).exp(),
        illegal.logsumexp(1).exp(),
    )


def _best(options: Tensor, codes: Tensor, width: int, few: int) -> Branches:
    """The best few of options (B, P N), with the codes of their parents (B, P, level)."""
    score, pick = best(options, few)
    parent = pick // width
    before = codes.gather(1, parent[..., None].expand(-1, -1, codes.shape[-1]))
    prefix = torch.cat((before, (pick % width)[..., None]), dim=-1)
    return Branches(prefix.masked_fill(score.isneginf()[..., None], -1), score, parent)


def places_in_beam(levels: list[TreeLevel], codes: Tensor) -> Tensor:
    """The rank (from 1) of each prefix of codes (B, L) among those kept, 0 where it fell out."""
    places = []
    for depth, level in enumerate(levels, start=1):
        same = (level.kept.codes == codes[:, None, :depth]).all(-1)  # (B, K)
        rank = same.int().argmax(1) + 1
        places.append(rank.where(same.any(1), 0))
    return torch.stack(places, dim=1)


def columns(levels: list[TreeLevel], user: int = 0) -> dict[str, list[object]]:
    """The tree of one user as a table, level by level: what was kept, pruned, illegal.

    level from 1; state of `STATES`; rank from 1 within level and state; codes, the prefix; log_prob
    of the prefix; parent, the rank of its parent among the kept of the level before, from 1 (1 at
    the first level).
    """
    names = ("level", "state", "rank", "codes", "log_prob", "parent")
    table: dict[str, list[object]] = {name: [] for name in names}
    for depth, level in enumerate(levels, start=1):
        for state in STATES:
            branches: Branches = getattr(level, state)
            rows = zip(*(one[user].tolist() for one in branches), strict=True)
            for rank, (prefix, score, parent) in enumerate(rows, start=1):
                if score == float("-inf"):
                    break  # best first: nothing follows
                row = (depth, state, rank, tuple(prefix), score, parent + 1)
                for name, value in zip(names, row, strict=True):
                    table[name].append(value)
    return table
