"""Sampling groups of items from the model: what a policy step learns from.

The context is encoded once; the group is folded into the decoder as beams are. Two
log-probabilities stay apart. `drawn` is that with which the sampler really chose the item, after
temperature, top-k, top-p and, where it follows the trie, renormalisation over legal codes: the old
probability of a ratio. `model` is the model's own, over all N codes at temperature 1. With
temperature 1, no cut and no trie they are equal.

A beam is no sample: its items are distinct and carry no probability of having been drawn.

Left out: several draws per prefix, sampling without replacement.
Shapes: B users, G samples of a group, L levels, N codes per level.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from onerec.common import evaluating
from onerec.model.attention import Cache, Memory
from onerec.model.onerec import Batch, OneRec
from onerec.model.pieces import compiled_call, directly, settled
from onerec.tokenizer.trie import Trie


class Samples(NamedTuple):
    """`items` (B, G), -1 for codes that are nobody's; `codes` (B, G, L); `drawn`, `model` (B, G).

    Where several items share their codes, `items` has the most popular of them. `levels` (B, G, L)
    is `drawn` code by code, where the sampler goes by levels.
    """

    items: Tensor
    codes: Tensor
    drawn: Tensor
    model: Tensor
    levels: Tensor | None = None

    @property
    def legal(self) -> Tensor:
        """(B, G) bool: the codes are an item's."""
        return self.items >= 0


def sample(
    model: OneRec,
    batch: Batch,
    trie: Trie,
    *,
    group: int,
    generator: torch.Generator,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    constrained: bool = True,
    compiled: bool = False,
) -> Samples:
    """Draw `group` items per user, independently and with replacement.

    Args:
        model: in any mode; it is evaluated and then put back.
        batch: contexts; the targets are not read.
        trie: which codes exist, on the model's device.
        group: G.
        generator: on the model's device; the same seed draws the same items.
        temperature: divides the logits.
        top_k: keep so many of the most probable codes of a level; 0 keeps all.
        top_p: of those, keep the most probable that together reach this; at least one.
        constrained: draw legal codes alone.
        compiled: with pieces that torch.compile makes for few sizes of histories.

    Raises:
        ValueError: group below 1, temperature not above 0, top_k below 0, or top_p outside (0, 1].
    """
    _refuse(group, temperature, top_k, top_p)
    call = compiled_call if compiled else directly
    how = temperature, top_k, top_p, constrained
    with evaluating(model), settled(model, compiled):
        batch = model.of_few_shapes(batch) if compiled else batch
        tokens, where = call(model.embed, batch)
        memory = model.read(tokens, where, call)
        users, device = len(memory.mask), memory.mask.device
        codes = torch.zeros(users, 1, 0, dtype=torch.int64, device=device)
        node = torch.zeros(users, 1, dtype=torch.int64, device=device)
        drawn = own = torch.zeros(users, group, device=device)
        levels = []
        past: Cache = []
        for level in range(model.levels):
            hidden, past = model.step_states(level, codes, memory, past, call)
            logits = model.step_logits(level, hidden)
            noise = logits.new_empty(users, group, logits.shape[-1])
            noise.exponential_(generator=generator)
            code, chance, model_chance, node = call(_drawn, logits, noise, trie, level, node, how)
            levels.append(chance)
            drawn, own = drawn + chance, own + model_chance
            codes = torch.cat((codes.expand(-1, group, -1), code[..., None]), dim=-1)
    first = trie.leaf_items[trie.leaf_start[node.clamp(min=0)]]
    items = first.masked_fill(node < 0, -1)
    return Samples(items, codes, drawn, own, torch.stack(levels, dim=-1))


def sequence_log_probs(
    model: OneRec,
    batch: Batch | Memory,
    codes: Tensor,
    *,
    trie: Trie | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> Tensor:
    """The log-probability of each code of sequences (B, G, L) by teacher forcing: (B, G, L).

    Their sum over levels is that of the item. With gradients where they are on, and in the mode the
    model is in: a policy step calls it outside `sample`, and dropout makes it differ from
    `Samples.model`. `batch` may be encoded already. With a `trie` it is renormalised over legal
    codes, as a sampler that follows the trie draws; sequences must then be legal.

    `temperature` and `top_p` are a sampler's: what is returned is then the probability of being
    drawn by it. A code that the model has meanwhile moved out of its nucleus is kept in it, so that
    a ratio to an older policy stays a number (ours); at the moment of drawing nothing changes.
    """
    memory = batch if isinstance(batch, Memory) else model.encode(batch)
    hidden = model.decode(codes[..., :-1], memory)  # (B, G, L, D)
    node = torch.zeros_like(codes[..., 0])
    parts = []
    for level in range(model.levels):
        code = codes[..., level]
        logits = model.logits(level, hidden[:, :, level]).float()
        if trie is not None:
            logits = logits.masked_fill(~trie.legal(level, node), -torch.inf)
            node = trie.step(level, node, code).long()
        chances = (logits if temperature == 1 else logits / temperature).log_softmax(-1)
        parts.append(_of(nucleus(chances, top_p, code), code))
    return torch.stack(parts, dim=-1)


def most_probable(log_prob: Tensor, count: int) -> Tensor:
    """Keep the `count` most probable codes, of equal ones the lower, renormalised: (..., N).

    0 keeps all.
    """
    if not 0 < count < log_prob.shape[-1]:
        return log_prob
    index = log_prob.argsort(dim=-1, descending=True, stable=True)[..., :count]
    kept = torch.zeros_like(log_prob, dtype=torch.bool).scatter_(-1, index, True)
    return log_prob.masked_fill(~kept, -torch.inf).log_softmax(-1)


def nucleus(log_prob: Tensor, top_p: float, also: Tensor | None = None) -> Tensor:
    """Keep the smallest set of codes whose probability reaches `top_p`, renormalised: (..., N).

    `also` (...) is a code that stays whatever its probability.
    """
    if top_p >= 1:
        return log_prob
    value, index = log_prob.sort(dim=-1, descending=True, stable=True)
    before = value.exp().cumsum(-1) - value.exp()  # what stands in front of each code
    kept = torch.zeros_like(log_prob, dtype=torch.bool).scatter(-1, index, before < top_p)
    if also is not None:
        kept = kept.scatter(-1, also[..., None], True)
    return log_prob.masked_fill(~kept, -torch.inf).log_softmax(-1)


def draw(log_prob: Tensor, generator: torch.Generator) -> Tensor:
    """One index per row of (..., N), by the Gumbel-max trick: (...)."""
    noise = torch.empty_like(log_prob, memory_format=torch.contiguous_format)
    return _pick(log_prob, noise.exponential_(generator=generator))


def _pick(log_prob: Tensor, noise: Tensor) -> Tensor:
    """One index per row of (..., N) by exponential draws (..., N), which are not kept."""
    smallest = torch.finfo(noise.dtype).tiny  # a zero would make an impossible code NaN
    return (log_prob - noise.clamp_(min=smallest).log()).argmax(-1)


def _refuse(group: int, temperature: float, top_k: int, top_p: float) -> None:
    if group < 1:
        raise ValueError(f"group={group} must be at least 1")
    if not temperature > 0 or top_k < 0 or not 0 < top_p <= 1:
        raise ValueError(
            f"temperature={temperature} must be above 0, top_k={top_k} at least 0, "
            f"top_p={top_p} in (0, 1]"
        )


def _drawn(
    logits: Tensor,
    noise: Tensor,
    trie: Trie,
    level: int,
    node: Tensor,
    how: tuple[float, int, float, bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of a level: codes (B, G), the sampler's and the model's log-probability, and nodes."""
    temperature, top_k, top_p, constrained = how
    group = noise.shape[1]
    chances = logits / temperature
    if constrained:
        chances = chances.masked_fill(~trie.legal(level, node), -torch.inf)
    chances = nucleus(most_probable(chances.log_softmax(-1), top_k), top_p).expand(-1, group, -1)
    code = _pick(chances, noise)  # (B, G)
    own = _of(logits.log_softmax(-1).expand(-1, group, -1), code)
    return code, _of(chances, code), own, trie.step(level, node.expand(-1, group), code).long()


def _of(log_prob: Tensor, code: Tensor) -> Tensor:
    return log_prob.gather(-1, code[..., None])[..., 0]
