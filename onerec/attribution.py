"""Why an item was generated: what each event of the history did to the log-probability of its code.

    effect = leave_one_out(model, batch, places, codes)       # (E, L), the truth
    looked = attention(model, batch, places, codes)           # where the decoder looked
    slope = gradient(model, batch, places, codes)             # input times gradient
    curves = deletion_curves(model, batch, places, codes, {"leave_one_out": effect.sum(1), ...})
    steps(model, batch, trie, codes)                          # code by code, with its rivals

Leave-one-out is what the others are judged by: the event is masked in every pathway in which it
stands and the model is run again, all events of a history as one batch. A masked event leaves its
place: older ones count as one newer, as they would had it never been there, but nothing older moves
into the window. Deletion curves tell how well a method finds the events that matter: the sooner the
log-probability falls when its first events are deleted, the better.

Works for the encoder-decoder and for the lazy decoder, which read events through the same pathways.
The positions of a QFormer (the lifelong pathway) are no events: attention to them is told apart,
and a cluster of that pathway is a unit of its own. The papers have none of this; it is ours.

Shapes: E events (units) of one history, T places of a pathway, L levels, N codes per level, S
encoder states, H heads, Y decoder layers, Q query positions, F alternatives, R runs of the model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onerec.common import evaluating, generator
from onerec.model.attention import Memory, split_heads
from onerec.model.batch import Batch, Events
from onerec.model.onerec import OneRec
from onerec.tokenizer.trie import Trie

CHUNK = 256  # runs of the model at once; results do not depend on it
RANDOM_ORDERS = 8  # whose mean is the random deletion curve


@dataclass(frozen=True)
class Places:
    """Which event of a history of `events` stands at each place of one user's context.

    `short` (T_s,), `positive` (T_p,) and `lifelong` (T_l,) int64 are numbers of events from 0,
    oldest first, or -1 for padding. An event may stand in several pathways, or in none.
    """

    events: int
    short: Tensor
    positive: Tensor
    lifelong: Tensor | None = None

    def of(self, name: str) -> Tensor:
        """The places of a pathway (T,)."""
        places = getattr(self, name)
        assert isinstance(places, Tensor), f"no places of pathway {name}"
        return places

    def seen(self, model: OneRec) -> Tensor:
        """(E,) bool: the events that the model can see at all."""
        found = torch.zeros(self.events + 1, dtype=torch.bool)
        for name in model.pathways.dense:
            places = getattr(self, name)
            if places is not None:
                found[places.cpu()] = True  # -1 is the last one, which is nobody
        return found[:-1]


class Attention(NamedTuple):
    """Weights of the cross-attention, mean over heads and decoder layers; together 1 per level.

    `events` (E, L), an event's share in all its pathways together; `static` (L,); `lifelong` (L,),
    of the positions of the QFormer.
    """

    events: Tensor
    static: Tensor
    lifelong: Tensor


class Steps(NamedTuple):
    """How each code of an item was written, by teacher forcing.

    `probability` (L,) of its code, over all N codes; `rank` (L,) of it among them, from 1;
    `legal_probability` (L,) of all codes that lead to an item. `code`, `alternative` (L, F): the
    most probable codes and their probabilities; `legal` (L, F) whether an item goes on that way.
    """

    probability: Tensor
    rank: Tensor
    legal_probability: Tensor
    code: Tensor
    alternative: Tensor
    legal: Tensor


def code_log_probs(model: OneRec, memory: Memory, codes: Tensor) -> Tensor:
    """log p of each code of sequences (B, M, L) by teacher forcing, over all N codes: (B, M, L)."""
    hidden = model.decode(codes[..., :-1], memory)  # (B, M, L, D)
    parts = []
    for level in range(model.levels):
        logits = _wide(model.logits(level, hidden[:, :, level]))
        parts.append(logits.log_softmax(-1).gather(-1, codes[..., level : level + 1])[..., 0])
    return torch.stack(parts, dim=-1)


def log_probs_without(
    model: OneRec,
    batch: Batch,
    places: Places,
    codes: Tensor,
    hidden: Tensor,
    *,
    chunk: int = CHUNK,
) -> Tensor:
    """log p of the codes (L,) when sets of events are masked: hidden (R, E) bool -> (R, L).

    Raises:
        ValueError: a batch of several users, or of another history than `places`.
    """
    _check(model, batch, places, codes)
    device = batch.target.device
    parts = []
    with evaluating(model):
        for part in torch.split(hidden.to(device), chunk):
            masked = _repeated(batch, len(part))
            for name in _sides(model, batch):
                where = places.of(name).to(device)
                setattr(masked, name, _masked(getattr(masked, name), where, part))
            sequences = codes.to(device).expand(len(part), 1, -1)
            parts.append(code_log_probs(model, model.encode(masked), sequences)[:, 0])
    return torch.cat(parts) if parts else torch.zeros(0, model.levels, device=device)


def leave_one_out(
    model: OneRec, batch: Batch, places: Places, codes: Tensor, *, chunk: int = CHUNK
) -> Tensor:
    """log p with all events minus log p without one, of each code: (E, L).

    Above 0 the event speaks for the code. An event that the model cannot see has exactly 0.

    Raises:
        ValueError: a batch of several users, or of another history than `places`.
    """
    seen = places.seen(model).nonzero()[:, 0]
    hidden = torch.zeros(len(seen) + 1, places.events, dtype=torch.bool)
    hidden[torch.arange(len(seen)), seen] = True  # the last row hides nothing
    found = log_probs_without(model, batch, places, codes, hidden, chunk=chunk)
    effect = found.new_zeros(places.events, model.levels)
    effect[seen] = found[-1] - found[:-1]
    return effect


def attention(model: OneRec, batch: Batch, places: Places, codes: Tensor) -> Attention:
    """How much the decoder looks at each event while it writes the codes (L,).

    The row of a level is that of the position that writes its code. In the encoder-decoder a state
    has read all others by then, so attention says where the decoder looked and not what it used; in
    the lazy decoder a state is one event. Queries are read off the layers by hooks that exist only
    inside this call.

    Raises:
        ValueError: a batch of several users, or of another history than `places`.
    """
    _check(model, batch, places, codes)
    with evaluating(model), _queries(model) as queries:
        memory = model.encode(batch)
        model.decode(codes.to(batch.target.device)[None, None, :-1], memory)
    layers = [
        attention_weights(query, key, memory.mask[:, None, None], model.config.heads)
        for query, (key, _) in zip(queries, memory.keys_values, strict=True)
    ]
    weights = torch.stack(layers).mean((0, 2))[0]  # (Y, 1, H, L, S) -> (L, S)
    weights = weights[:, memory.mask[0]]  # those that exist, in the order of the pathways
    owner = [torch.full((1,), places.events)]  # of each state; E is the user's own
    for name in _sides(model, batch):
        if name != "lifelong":
            exists = getattr(batch, name).item[0] > 0
            owner.append(places.of(name)[exists.cpu()].cpu())
    rest = weights.shape[1] - sum(map(len, owner))
    owner.append(torch.full((rest,), places.events + 1))  # the states of the QFormer
    total = weights.new_zeros(places.events + 2, model.levels)
    total.index_add_(0, torch.cat(owner).to(weights.device), weights.T)
    return Attention(total[:-2], total[-2], total[-1])


def attention_weights(query: Tensor, key: Tensor, mask: Tensor, heads: int) -> Tensor:
    """softmax(q k / sqrt(Dh)): queries (B, Q, D), keys (B, G, S, Dh) -> (B, H, Q, S).

    Each of G groups of keys serves H / G heads in a row.
    """
    q = split_heads(query, heads)  # (B, H, Q, Dh)
    k = key.repeat_interleave(heads // key.shape[1], dim=1)
    scores = _wide(q) @ _wide(k).transpose(-1, -2) * q.shape[-1] ** -0.5
    weights: Tensor = scores.masked_fill(~mask, -torch.inf).softmax(-1)
    return weights


def gradient(model: OneRec, batch: Batch, places: Places, codes: Tensor) -> Tensor:
    """Input times gradient at the events' embeddings, of the log p of each code: (E, L).

    With an event's embedding e (its features side by side), sum_d e_d dlog p / de_d: how fast log p
    grows when the embedding does. It is taken as the derivative by a factor in front of e, which is
    the same number.

    Raises:
        ValueError: a batch of several users, or of another history than `places`.
    """
    _check(model, batch, places, codes)
    names = _sides(model, batch)
    kind = model.begin
    factors = {
        name: kind.new_ones(getattr(batch, name).item.shape[1], requires_grad=True)
        for name in names
    }
    effect = kind.detach().new_zeros(places.events + 1, model.levels)
    with evaluating(model), torch.enable_grad(), _scaled(model, batch, factors):
        sequence = codes.to(batch.target.device)[None, None]
        found = code_log_probs(model, model.encode(batch), sequence)[0, 0]
        for level, log_prob in enumerate(found.unbind()):
            slopes = torch.autograd.grad(
                log_prob, list(factors.values()), retain_graph=True, allow_unused=True
            )
            for name, slope in zip(names, slopes, strict=True):
                if slope is not None:
                    where = places.of(name).to(slope.device)
                    where = where.where(where >= 0, places.events)
                    effect[:, level].index_add_(0, where, slope)
    return effect[:-1]  # padding fell into the row behind


def deletion_curves(
    model: OneRec,
    batch: Batch,
    places: Places,
    codes: Tensor,
    scores: Mapping[str, Tensor],
    *,
    most: int = 20,
    seed: int = 0,
) -> dict[str, Tensor]:
    """log p of the codes (L,) after the first 0, 1, .., m events of each order are deleted.

    Args:
        scores: by method (E,); the highest are deleted first, of equal ones the older.
        most: at most so many events are deleted.
        seed: of the random orders.

    Returns:
        By method (m + 1,), m the smaller of `most` and what the model sees; and beside the methods
        `random`, the mean over `RANDOM_ORDERS` orders, and `recent`, the newest first and clusters
        after all events.

    Raises:
        ValueError: a batch of several users, or of another history than `places`.
    """
    seen = places.seen(model).nonzero()[:, 0]
    m, stream = min(most, len(seen)), generator(seed)
    orders = {
        name: [seen[score.detach().cpu()[seen].argsort(descending=True, stable=True)]]
        for name, score in scores.items()
    }
    orders["random"] = [
        seen[torch.randperm(len(seen), generator=stream)] for _ in range(RANDOM_ORDERS)
    ]
    events = replace(places, lifelong=None).seen(model)[seen]  # the rest are clusters
    orders["recent"] = [torch.cat((seen[events].flip(0), seen[~events].flip(0)))]
    stairs = torch.ones(m + 1, m, dtype=torch.bool).tril(-1)  # row i deletes the first i
    hidden = []
    for order in (one for several in orders.values() for one in several):
        rows = torch.zeros(m + 1, places.events, dtype=torch.bool)
        rows[:, order[:m]] = stairs
        hidden.append(rows)
    found = log_probs_without(model, batch, places, codes, torch.cat(hidden)).sum(1)
    curves = iter(found.view(-1, m + 1))
    return {
        name: torch.stack([next(curves) for _ in several]).mean(0)
        for name, several in orders.items()
    }


def steps(model: OneRec, batch: Batch, trie: Trie, codes: Tensor, *, few: int = 5) -> Steps:
    """The probability of each code (L,) of an item, beside the `few` most probable of its level.

    Raises:
        ValueError: a batch of several users, or codes that are not (L,).
    """
    _check(model, batch, None, codes)
    device = batch.target.device
    codes, rows = codes.to(device), []
    node = torch.zeros(1, dtype=torch.int64, device=device)
    with evaluating(model):
        hidden = model.decode(codes[None, None, :-1], model.encode(batch))[0, 0]  # (L, D)
        for level in range(model.levels):
            chance = _wide(model.logits(level, hidden[level])).softmax(-1)  # (N,)
            legal = trie.legal(level, node)[0]
            own = chance[codes[level]]
            value, code = chance.topk(min(few, len(chance)))
            rank = 1 + (chance > own).sum()
            rows.append((own, rank, chance[legal].sum(), code, value, legal[code]))
            node = trie.step(level, node, codes[level : level + 1])
    return Steps(*(_stacked(column) for column in zip(*rows, strict=True)))


def _stacked(column: tuple[Tensor, ...]) -> Tensor:
    """(L,) or, of levels with fewer codes filled up with zeros, (L, F)."""
    return (
        torch.stack(column)
        if not column[0].ndim
        else nn.utils.rnn.pad_sequence(list(column), batch_first=True)
    )


def _check(model: OneRec, batch: Batch, places: Places | None, codes: Tensor) -> None:
    if batch.size != 1:
        raise ValueError(f"attribution explains one user at a time, not {batch.size}")
    if codes.shape != (model.levels,):
        raise ValueError(f"codes {tuple(codes.shape)} must be those of one item, ({model.levels},)")
    if places is None:
        return
    for name in _sides(model, batch):
        there, here = getattr(batch, name).item.shape[1], len(places.of(name))
        if there != here:
            raise ValueError(f"pathway {name} has {there} places, `places` has {here}")


def _sides(model: OneRec, batch: Batch) -> list[str]:
    """The pathways of events that the model reads of this batch, in its order."""
    given = {name: getattr(batch, name) for name in model.pathways.dense}
    return [name for name, events in given.items() if events is not None and events.item.shape[1]]


def _repeated(batch: Batch, runs: int) -> Batch:
    return batch.mapped(lambda tensor: tensor.expand(runs, *tensor.shape[1:]))


def _masked(events: Events, places: Tensor, hidden: Tensor) -> Events:
    """events (R, T) at places (T,), hidden (R, E) bool -> the events that are not hidden."""
    gone = F.pad(hidden, (0, 1))[:, places]  # (R, T); -1 is the column behind
    return events.kept(~gone)


def _wide(x: Tensor) -> Tensor:
    """In float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


@contextlib.contextmanager
def _queries(model: OneRec) -> Iterator[list[Tensor]]:
    """Inside, the queries (B, Q, D) of each decoder layer's cross-attention, in order."""
    found: list[Tensor] = []
    hooks = []
    for block in model.decoder:
        query = cast(nn.Module, cast(nn.Module, block.cross).query)
        hooks.append(query.register_forward_hook(lambda module, x, y: found.append(y)))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def _scaled(model: OneRec, batch: Batch, factors: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, each event's embedding e is read as factor times e.

    The first product of a pathway is W e + b, whether over the grid or over what exists of it, so
    it becomes factor times (W e) + b.
    """
    hooks = []
    for name, factor in factors.items():
        layers = cast(nn.Sequential, model.pathways.dense[name])
        exists, bias = getattr(batch, name).item[0] > 0, cast(Tensor, layers[0].bias)

        def scale(
            module: nn.Module,
            inputs: tuple[Tensor],
            factor: Tensor = factor,
            exists: Tensor = exists,
            bias: Tensor = bias,
        ) -> Tensor:
            (x,) = inputs
            own = factor[exists][:, None] if x.ndim == 2 else factor[None, :, None]
            return (x - bias) * own + bias

        hooks.append(layers[1].register_forward_pre_hook(scale))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
