"""Sampling from p^alpha: items drawn as if the model were sharper than it is.

    found = power_distribution(model, batch, trie, alpha=4.0)
    draw = found.sample(group, generator)

Source: power sampling, arXiv 2510.14901, whose target is p(x)^alpha of whole sequences (alpha 4).
That is not a lower temperature at each step: there a first code is weighed by its own probability,
here by what all items below it are worth. Over long texts the paper needs a Markov chain. An item
is a handful of codes and the legal ones are a list, so here the chain is not needed (ours): where
every legal code is scored the distribution is exact, and where a beam finds most of them it is that
of the beam, with a bound on what it misses.

The bound: every legal code that the beam does not have lies below a prefix that was pruned. Codes
below a prefix have together at most its probability, and each of them at most that of the best
prefix pruned at its level; so with alpha >= 1 the sum of p^alpha over them is at most the sum over
levels of best^(alpha - 1) times the probability pruned there. Compared with the sum over the beam
that bounds the share of p^alpha that is lost.

Items that share a code are one outcome, the most popular of them standing for it, as in
`onerec.model.sample`. Shapes: B users, C codes found, G draws, L levels.
"""

from __future__ import annotations

import math
from numbers import Real
from typing import NamedTuple

import torch
from torch import Tensor

from onerec.errors import DataError
from onerec.model.onerec import Batch, OneRec
from onerec.model.sample import Samples, draw, sample
from onerec.model.trace import TreeLevel, beam_tree
from onerec.tokenizer.trie import Trie


class PowerDistribution(NamedTuple):
    """The codes that were found, most probable first; a place without one has item -1.

    `items` (B, C); `codes` (B, C, L); `model` (B, C) log p, over all N codes of each level; `power`
    (B, C) log of p^alpha, normalised over what was found; `lost` (B,) at most this share of the
    whole p^alpha over legal codes was not found, 0 where all were scored.
    """

    items: Tensor
    codes: Tensor
    model: Tensor
    power: Tensor
    lost: Tensor

    def sample(self, group: int, generator: torch.Generator) -> Samples:
        """`group` draws per user, with replacement; `drawn` is log p^alpha as normalised here."""
        shape = (len(self.items), group, self.items.shape[1])
        place = draw(self.power[:, None].expand(shape), generator)  # (B, G)
        codes = self.codes.gather(1, place[..., None].expand(-1, -1, self.codes.shape[-1]))
        picked = (table.gather(1, place) for table in (self.power, self.model))
        return Samples(self.items.gather(1, place), codes, *picked)


def power_distribution(
    model: OneRec, batch: Batch, trie: Trie, *, alpha: float, beam: int | None = None
) -> PowerDistribution:
    """p^alpha over legal codes: of all of them, or of the `beam` best that a search finds.

    Args:
        model: in any mode; it is evaluated and then put back.
        batch: contexts; the targets are not read.
        trie: which codes exist, on the model's device.
        alpha: 1 is the model itself, renormalised over legal codes.
        beam: prefixes kept at each level. None keeps all, which is exact and costs a decoding of
            every prefix of the trie: for catalogues of some thousands.

    Raises:
        ValueError: alpha or beam is below 1, or alpha infinite.
    """
    if not 1 <= alpha < math.inf or (beam is not None and beam < 1):
        raise ValueError(f"alpha={alpha} and beam={beam} must be at least 1, alpha finite")
    widest = max(trie.nodes_per_level) if beam is None else beam
    _, levels = beam_tree(model, batch, trie, k=widest, beam=widest, few=1)
    last = levels[-1].kept
    leaf = trie.leaf_of(last.codes)
    items = trie.leaf_items[trie.leaf_start[leaf.clamp(min=0)]].masked_fill(leaf < 0, -1)
    weight = alpha * last.scores  # (B, C), -inf where there is none
    total = weight.logsumexp(1, keepdim=True)
    missed = torch.stack([_bound(level, alpha) for level in levels]).logsumexp(0)  # (B,)
    lost = torch.sigmoid(missed - total[:, 0])  # missed / (missed + found)
    return PowerDistribution(items, last.codes, last.scores, weight - total, lost)


def drawn(
    model: OneRec,
    batch: Batch,
    trie: Trie | None,
    *,
    group: int,
    generator: torch.Generator,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    power: float | None = None,
    beam: int | None = None,
) -> tuple[Samples, float]:
    """Legal draws of one user by either way, and the share that a beam may have missed.

    `power` None draws code by code, see `onerec.model.sample`; a number draws from p^power. No trie
    is one without an item: nothing can be drawn.

    Raises:
        DataError: both ways at once, or numbers that neither takes.
    """
    if power is not None and (temperature, top_k, top_p) != (1.0, 0, 1.0):
        raise DataError("power takes the place of temperature, top_k and top_p: give one of them")
    given: object = power
    if given is not None and not (isinstance(given, Real) and 1 <= float(given) < math.inf):
        raise DataError(f"power={power!r}: give a finite number of at least 1")
    if trie is None:
        none = torch.zeros(batch.size, 0, device=batch.target.device)
        codes = none.long()[..., None].expand(-1, -1, model.levels)
        return Samples(none.long(), codes, none, none), 0.0
    try:
        if power is None:
            found = sample(
                model,
                batch,
                trie,
                group=group,
                generator=generator,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
            )
            return found, 0.0
        chances = power_distribution(model, batch, trie, alpha=power, beam=beam)
    except ValueError as error:
        raise DataError(str(error)) from error
    return chances.sample(group, generator), float(chances.lost.max())


def _bound(level: TreeLevel, alpha: float) -> Tensor:
    """The log of the most that p^alpha of all codes below pruned prefixes can add up to: (B,)."""
    best, together = level.pruned.scores[:, 0], level.pruned_probability.log()
    return torch.where(together.isneginf(), together, (alpha - 1) * best + together)
