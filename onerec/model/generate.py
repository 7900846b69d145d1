"""Beam search over the trie of semantic IDs: histories in, ranked items out.

The encoder runs once per user and its keys and values are shared by all beams, which are folded
into the query length of the cross-attention. The self-attention cache holds at most L positions and
follows the beams by a gather. The trie is tensors: the children of all beams are one gather.

Scores are the model's own log-probabilities in float32, normalised over all N codes of a level;
the trie only removes continuations. Equal scores are ranked by the parent beam's rank, then by
code, so a result depends neither on the kernel that picks the best nor on the rest of the batch.

Left out: sampling, length penalties (all sequences have L codes).
Shapes: B users, K beams, L levels, N codes per level, C children of a node at most, k items, X
excluded items, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from onerec.common import evaluating, spread
from onerec.model.attention import Cache, Memory
from onerec.model.batch import Batch, power_of_two
from onerec.model.onerec import OneRec
from onerec.model.pieces import Call, compiled_call, directly, settled
from onerec.tokenizer.trie import Trie

SMALLEST_PART, LARGEST_PART = 16, 64  # users that a thread searches at once on a CPU


class TraceLevel(NamedTuple):
    """What one level of the search kept, best first; a row that does not exist scores -inf.

    `codes` (B, K, level + 1), `scores` (B, K), `parents` (B, K) rank of the parent in the level
    before, `legal` (B, K) bool: the prefix is in the trie, `legal_probability` (B, K_parents): what
    the model gave to all legal continuations of each parent together.
    """

    codes: Tensor
    scores: Tensor
    parents: Tensor
    legal: Tensor
    legal_probability: Tensor


@dataclass
class Generated:
    """Ranked results; a row with no result has item -1, codes -1 and score -inf.

    `items` (B, k) item index, `scores` (B, k) log p of the code sequence, `codes` (B, k, L),
    `code_log_probs` (B, k, L) whose sum is the score, `legal` (B, k) bool: the codes are an item's.
    """

    items: Tensor
    scores: Tensor
    codes: Tensor
    code_log_probs: Tensor
    legal: Tensor
    trace: list[TraceLevel] = field(default_factory=list)

    def first(self, users: int) -> Generated:
        """Of so many users, the first ones."""
        found = Generated(
            self.items[:users],
            self.scores[:users],
            self.codes[:users],
            self.code_log_probs[:users],
            self.legal[:users],
        )
        found.trace = [TraceLevel(*(table[:users] for table in level)) for level in self.trace]
        return found


class _Beams(NamedTuple):
    """codes, log_probs (B, K, l); score (B, K); node (B, K) of the trie, -1 outside it."""

    codes: Tensor
    log_probs: Tensor
    score: Tensor
    node: Tensor


class _Next(NamedTuple):
    """Continuations of all beams: code, node, log_prob (-inf where there is none), (B, K, C)."""

    code: Tensor
    node: Tensor
    log_prob: Tensor


def beam_search(
    model: OneRec,
    batch: Batch,
    trie: Trie,
    *,
    k: int,
    beam: int,
    constrained: bool = True,
    trace: bool = False,
    exclude: Tensor | None = None,
    cache: bool = True,
    compiled: bool = False,
) -> Generated:
    """The k items whose codes are most probable, as far as `beam` prefixes per level can see.

    The last level needs no further decoding, so it keeps as many leaves as k items may need. With
    the trie, a leaf's items follow one another in order of popularity and take one rank each.
    Without it each rank is one code sequence, whether an item's (the most popular of its leaf) or
    nobody's (item -1, `legal` False): `legal.float().mean()` is the legality of the model.

    Args:
        model: in any mode; it is evaluated and then put back.
        batch: contexts; the targets are not read.
        trie: which codes exist, on the model's device.
        k: items per user.
        beam: prefixes kept at all levels but the last.
        constrained: follow the trie.
        trace: record what every level kept.
        exclude: (B, X) item index + 1, 0 for none: items that may not be returned. The search goes
            on to the next item instead.
        cache: keep keys and values of earlier positions; False computes all anew (for tests).
        compiled: with pieces that torch.compile makes for a beam, k and sizes of users, histories
            and `exclude`, each up to a power of two; after a wait at the first call: one piece for
            all blocks of a kind, so depth costs no waiting.

    Raises:
        ValueError: k or beam is below 1.
    """
    if k < 1 or beam < 1:
        raise ValueError(f"k={k} and beam={beam} must be at least 1")
    parts = [slice(None)]
    if not trace and not compiled:
        parts = _parts(len(batch.target), batch.target.device)

    call, users = compiled_call if compiled else directly, batch.size
    if compiled:
        batch, exclude = _of_few_users(model.of_few_shapes(batch), exclude)

    def search(rows: slice) -> Generated:
        with torch.no_grad():
            part = batch if rows == slice(None) else batch.rows(rows)
            left_out = None if exclude is None else exclude[rows]
            return _search(model, part, trie, k, beam, left_out, constrained, trace, cache, call)

    with evaluating(model), settled(model, compiled):
        done = spread(search, parts, torch.get_num_threads())
    found = done[0] if len(done) == 1 else _joined(done)
    return found.first(users) if compiled else found


def _of_few_users(batch: Batch, exclude: Tensor | None) -> tuple[Batch, Tensor | None]:
    """Users up to a power of two, and as many items that are left out."""
    batch, exclude = repeated(batch, exclude, power_of_two(batch.size))
    if exclude is not None:
        width = exclude.shape[1]
        exclude = F.pad(exclude, (0, power_of_two(width) - width))
    return batch, exclude


def repeated(batch: Batch, exclude: Tensor | None, users: int) -> tuple[Batch, Tensor | None]:
    """So many users at least, the first ones again, and what is left out for each."""
    if batch.size < users:
        index = torch.arange(users, device=batch.target.device) % batch.size
        batch = batch.mapped(lambda column: column[index])
        exclude = None if exclude is None else exclude[index]
    return batch, exclude


def _joined(parts: list[Generated]) -> Generated:
    """The users of all parts, one after the other; without traces."""

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts])

    return Generated(
        joined("items"),
        joined("scores"),
        joined("codes"),
        joined("code_log_probs"),
        joined("legal"),
    )


def _parts(users: int, device: torch.device) -> list[slice]:
    """The whole batch, or on a CPU with enough users parts for each thread to search alone.

    Threads that share each operation wait for one another thousands of times; those that share the
    users never do. Parts are small enough for the processor's cache.
    """
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    if threads == 1 or users < threads * SMALLEST_PART:
        return [slice(None)]
    rounds = math.ceil(users / (threads * LARGEST_PART))
    size = math.ceil(users / (threads * rounds))
    return [slice(start, start + size) for start in range(0, users, size)]


def _search(
    model: OneRec,
    batch: Batch,
    trie: Trie,
    k: int,
    beam: int,
    exclude: Tensor | None,
    constrained: bool,
    trace: bool,
    cache: bool,
    call: Call,
) -> Generated:
    """`beam_search` of one part, with the model in evaluation mode."""
    enough = k if exclude is None else k + exclude.shape[1]
    levels: list[TraceLevel] = []
    tokens, where = call(model.embed, batch)
    memory = model.read(tokens, where, call)
    beams = _start(memory)
    past: Cache | None = [] if cache else None
    for level in range(model.levels):
        last, before = level == model.levels - 1, beams
        written = beams.codes.clamp(min=0)
        hidden, present = model.step_states(level, written, memory, past, call)
        logits = model.step_logits(level, hidden)
        wide, kept = (enough, []) if last else (beam, present)
        beams, parent, follow = call(_choose, logits, trie, level, before, kept, wide, constrained)
        past = follow if cache else None
        if trace:
            mass = _children(logits, trie, level, before.node).log_prob.logsumexp(-1).exp()
            legal = (beams.node >= 0) & beams.score.isfinite()
            levels.append(TraceLevel(beams.codes, beams.score, parent, legal, mass))
    result = _rank(beams, trie, k, exclude, expand=constrained)
    result.trace = levels
    return result


def _choose(
    logits: Tensor,
    trie: Trie,
    level: int,
    beams: _Beams,
    present: Cache,
    keep: int,
    constrained: bool,
) -> tuple[_Beams, Tensor, Cache]:
    """The beams after this level, the rank of each one's parent, and their keys and values."""
    follow = _children if constrained else _all_codes
    beams, parent = _advance(beams, follow(logits, trie, level, beams.node), keep)
    return beams, parent, _follow(present, parent)


def _start(memory: Memory) -> _Beams:
    """One empty beam per user at the root."""
    users, device = len(memory.mask), memory.mask.device
    codes = torch.zeros(users, 1, 0, dtype=torch.int64, device=device)
    score = torch.zeros(users, 1, device=device)
    return _Beams(codes, codes.float(), score, torch.zeros_like(score, dtype=torch.int64))


def _children(logits: Tensor, trie: Trie, level: int, node: Tensor) -> _Next:
    """The legal continuations of each beam, from logits (B, K, N) and nodes (B, K)."""
    code, child = trie.continuations(level, node)  # (B, K, C), -1 for none
    log_prob = logits.gather(-1, code.clamp(min=0)) - logits.logsumexp(-1, keepdim=True)
    return _Next(code, child, log_prob.masked_fill(child < 0, -torch.inf))


def _all_codes(logits: Tensor, trie: Trie, level: int, node: Tensor) -> _Next:
    """Every code after each beam; the node is -1 where the trie has no such child."""
    code = torch.arange(logits.shape[-1], device=node.device).expand(logits.shape)
    child = trie.step(level, node[..., None].expand(logits.shape), code)
    return _Next(code, child.long(), logits.log_softmax(-1))


def _advance(beams: _Beams, options: _Next, keep: int) -> tuple[_Beams, Tensor]:
    """The best `keep` continuations and the rank of each one's parent (B, keep)."""
    width = options.code.shape[-1]  # C
    score, pick = best((beams.score[..., None] + options.log_prob).flatten(1), keep)
    parent = pick // width
    dead = score.isneginf()

    def taken(table: Tensor) -> Tensor:
        return table.flatten(1).gather(1, pick)

    def inherited(history: Tensor) -> Tensor:
        index = parent[..., None].expand(-1, -1, history.shape[-1])
        return history.gather(1, index)

    code = taken(options.code).masked_fill(dead, -1)
    log_prob = taken(options.log_prob)
    return _Beams(
        torch.cat((inherited(beams.codes), code[..., None]), dim=-1),
        torch.cat((inherited(beams.log_probs), log_prob[..., None]), dim=-1),
        score,
        taken(options.node).masked_fill(dead, -1),
    ), parent


def best(scores: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """The `keep` largest of each row (B, n), descending, equal ones by index; values and index.

    `topk` may return any of the equal scores. A CPU looks whether that matters, and then sorts; a
    GPU, which would have to wait to know, counts them in any case.
    """
    keep = min(keep, scores.shape[1])
    value, index = scores.topk(keep)
    edge = value[:, -1:]
    if not scores.is_cpu or torch.compiler.is_compiling():
        index = _first(scores, edge, keep)
    elif (((scores >= edge).sum(1, keepdim=True) > keep) & edge.isfinite()).any():
        value, index = scores.sort(descending=True, stable=True)
        return value[:, :keep], index[:, :keep]
    else:
        index = index.sort().values
    value, order = scores.gather(1, index).sort(descending=True, stable=True)
    return value, index.gather(1, order)


@torch.library.custom_op("onerec::first_of_equals", mutates_args=())
def _first(scores: Tensor, edge: Tensor, keep: int) -> Tensor:
    """Where in each row (B, n) the `keep` largest stand, ascending, by the smallest (B, 1) of them.

    Of those that equal it the first are taken. One operation to a compiler, whose sums over rows as
    long as these fail in torch 2.11.
    """
    above, equal = scores > edge, scores == edge
    room = keep - above.sum(1, keepdim=True)
    taken = above | (equal & (equal.cumsum(1, dtype=torch.int32) <= room))
    place = torch.arange(1, keep + 1, device=scores.device, dtype=torch.int32)
    place = place.expand(len(scores), -1).contiguous()
    found = torch.searchsorted(taken.cumsum(1, dtype=torch.int32), place)
    return found.clamp(max=scores.shape[1] - 1)  # past the end where a score is no number


@_first.register_fake
def _(scores: Tensor, edge: Tensor, keep: int) -> Tensor:
    return scores.new_empty(len(scores), keep, dtype=torch.int64)


def _follow(cache: Cache, parent: Tensor) -> Cache:
    """Each new beam takes over its parent's positions (B, K, H, Dh); shared ones stay."""
    user = torch.arange(len(parent), device=parent.device)[:, None]

    def inherited(table: Tensor) -> Tensor:
        if table.shape[1] == 1:
            return table
        rows = F.embedding(parent + user * table.shape[1], table.flatten(2).flatten(0, 1))
        return rows.view(*parent.shape, *table.shape[2:])

    return [[(inherited(key), inherited(value)) for key, value in layer] for layer in cache]


def _rank(beams: _Beams, trie: Trie, k: int, exclude: Tensor | None, *, expand: bool) -> Generated:
    """Beams (B, K) of whole sequences -> the first k items that are not excluded."""
    ranks = k if exclude is None else k + exclude.shape[1]
    item, of = trie.expand(beams.node, ranks) if expand else _one_each(beams, trie, ranks)
    exists = of >= 0  # (B, ranks)
    if exclude is not None:
        exists = exists & ~contains(exclude, item + 1)
    order = (~exists).byte().argsort(dim=1, stable=True)[:, :k]
    item, of, exists = (table.gather(1, order) for table in (item, of, exists))  # (B, k)
    of = of.clamp(min=0)
    sequence = of[..., None].expand(-1, -1, beams.codes.shape[-1])  # (B, k, L)
    absent = ~exists[..., None]
    return Generated(
        items=item.masked_fill(~exists, -1),
        scores=beams.score.gather(1, of).masked_fill(~exists, -torch.inf),
        codes=beams.codes.gather(1, sequence).masked_fill(absent, -1),
        code_log_probs=beams.log_probs.gather(1, sequence).masked_fill(absent, -torch.inf),
        legal=(item >= 0) & exists,
    )


def _one_each(beams: _Beams, trie: Trie, ranks: int) -> tuple[Tensor, Tensor]:
    """One rank per sequence: the most popular item of its leaf (-1 if illegal) and its beam."""
    width = beams.score.shape[1]
    of = torch.arange(max(width, ranks), device=beams.node.device)
    of = of.expand(len(beams.node), -1).masked_fill(of >= width, -1)
    of = of.masked_fill(~beams.score.gather(1, of.clamp(min=0)).isfinite(), -1)
    leaf = beams.node.gather(1, of.clamp(min=0))
    item = trie.leaf_items[trie.leaf_start[leaf.clamp(min=0)]]
    return item.masked_fill((leaf < 0) | (of < 0), -1), of


def contains(exclude: Tensor, item: Tensor) -> Tensor:
    """Which of item (B, R), 0 for none, stand in exclude (B, X): (B, R) bool."""
    if not exclude.shape[1]:
        return torch.zeros_like(item, dtype=torch.bool)
    exclude = exclude.sort(dim=1).values
    place = torch.searchsorted(exclude, item).clamp(max=exclude.shape[1] - 1)
    return (exclude.gather(1, place) == item) & (item > 0)
