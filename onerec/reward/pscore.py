"""P-Score: one number that says how much a user would like an item (V1 section 2.4).

User, item and cross features go into one tower per behaviour (click, long view, like, ...), each
with its own loss. The towers' hidden states, gradients stopped, join representations of user and
item that the fusion owns, and give one fused score, trained on the weighted labels as in Pantheon
(arXiv 2505.13894). Attention of the candidate over the history is that of a SIM-style ranker. The
papers print neither sizes nor features; all of them are ours.

A tower begins where log-odds add up: what is usual, plus half of what is special about the user
and half of what is special about the item, and learns what to add to that. The fused score begins
as the weighted mean of the towers' probabilities, which is what its loss asks for where they are
right. Both are ours: rare behaviours are learned in as few steps as frequent ones.

Beside its network a tower adds up what author, tag and duration are worth to it, the wide part of
Wide & Deep (arXiv 1606.07792), from zero: an author who was never seen adds nothing, where his
random embedding would add noise, and of a rare behaviour most of what can be known of an item is
such sums. The towers' losses are weighted by how rare their behaviours are, by `LOUDNESS`, or the
shared layers would hear of clicks alone. That both are here, and how loud, is ours.

    model = PScore(PScoreConfig(), vocabulary, items)
    model.init_weights(generator(seed))
    model.standardise(pairs)                  # once, on training pairs
    loss, parts = model.loss(pairs)
    scores = model(pairs)                     # .towers (B, M, K) and .fused (B, M), as logits

Shapes: B contexts, M candidates per context, T history events, K behaviours (towers), S columns of
statistics, C cross features, F static features, D width, n items.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onerec.model.pathways import Batch, Events, ItemTable
from onerec.model.products import Linear
from onerec.reward.cross import CROSS, cross_features

STANDARD_LIMIT = 5.0  # standard deviations at which a feature is cut
LEAKY = 0.01
OWN_SHARE = 0.5  # of a user's and an item's own log-odds, where a tower begins
QUIET = 0.1  # scale of what is learned on top, at the start
LOUDNESS = 0.5  # power of (largest entropy / own entropy) by which a tower's loss is weighted


@dataclass(frozen=True)
class PScoreConfig:
    """Sizes. `stop_gradient`: the fusion reads the towers and does not train them (Pantheon)."""

    width: int = 64
    tower: int = 32
    dropout: float = 0.1
    stop_gradient: bool = True


@dataclass(frozen=True)
class PScoreVocabulary:
    """Cardinalities of what is read, index 0 (unknown) not counted, and what is predicted.

    `behaviours` are the towers' names, `history_labels` the number of labels a past event carries,
    `statistics` the number of columns S of users' and items' statistics each: of exposures, then of
    each behaviour.
    """

    behaviours: tuple[str, ...]
    statistics: int
    history_labels: int
    user_features: tuple[int, ...] = ()
    n_authors: int = 0
    n_tags: int = 0
    n_duration: int = 0
    n_time: int = 0
    n_play: int = 0
    content_dim: int = 0


@dataclass
class Pairs:
    """Candidates of users, and what came of them where that is known.

    `batch` B contexts (its targets are not read); `items` (B, M) int64 item index + 1, 0 for
    none; `user_statistics` (B, S) and `item_statistics` (B, M, S) as of the moment of the context;
    `label` (B, M, K) in {0, 1}, `known` (B, M, K) bool; both empty (K = 0) for scoring alone.
    """

    batch: Batch
    items: Tensor
    user_statistics: Tensor
    item_statistics: Tensor
    label: Tensor
    known: Tensor


class Scores(NamedTuple):
    """Logits of each behaviour (B, M, K) and of the fused score (B, M)."""

    towers: Tensor
    fused: Tensor


class PScore(nn.Module):
    """The multi-tower ranker; see the module's docstring.

    Args:
        config: sizes.
        vocabulary: what is read and predicted.
        items: features and content of every item; its codes are not read.

    Raises:
        ValueError: no behaviour to predict, or not one statistic for each.
    """

    mean: Tensor
    deviation: Tensor
    weights: Tensor
    """(K,) of each behaviour in the fused loss; 0 leaves it out."""
    loudness: Tensor
    """(K,) of each tower's loss; 1 until `standardise`, and not saved: only training reads it."""

    def __init__(
        self, config: PScoreConfig, vocabulary: PScoreVocabulary, items: ItemTable
    ) -> None:
        super().__init__()
        if not vocabulary.behaviours:
            raise ValueError("a P-Score needs at least one behaviour to predict")
        if vocabulary.statistics != 1 + len(vocabulary.behaviours):
            raise ValueError(f"statistics={vocabulary.statistics}: one more than behaviours")
        self.config, self.vocabulary, self.items = config, vocabulary, items
        width, numbers = config.width, 2 * vocabulary.statistics + len(CROSS)
        self.user = nn.ModuleList(nn.Embedding(n + 1, width) for n in vocabulary.user_features)
        self.item = _ItemEmbedding(vocabulary, width)
        self.event = _EventEmbedding(vocabulary, width)
        self.query, self.key = Linear(width, width, bias=False), Linear(width, width, bias=False)
        self.shared = _dense(4 * width + numbers, 2 * width, config.dropout)
        towers = len(vocabulary.behaviours)
        self.tower = _Towers(towers, 2 * width, config.tower, config.dropout)
        self.direct = nn.Parameter(torch.empty(towers, numbers))
        self.wide = _tables(vocabulary, towers)
        self.own_user = nn.ModuleList(nn.Embedding(n + 1, width) for n in vocabulary.user_features)
        self.own_item = _ItemEmbedding(vocabulary, width)
        self.fusion = nn.Sequential(
            _dense(towers * config.tower + towers + 2 * width + numbers, width, config.dropout),
            Linear(width, 1),
        )
        self.register_buffer("mean", torch.zeros(numbers))
        self.register_buffer("deviation", torch.ones(numbers))
        self.register_buffer("weights", torch.ones(towers))
        self.register_buffer("loudness", torch.ones(towers), persistent=False)
        self.init_weights(torch.Generator().manual_seed(0))

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Tables normal with deviation 1/sqrt(D), matrices 1/sqrt(inputs), biases 0; ours.

        What ends in a score is `QUIET`er, the wide part 0; the direct part is set by `standardise`.
        """
        for name, parameter in self.named_parameters():
            if name.endswith("bias") or name == "direct" or name.startswith("wide."):
                parameter.zero_()
            elif name.endswith("nothing") or "table" in name or "user." in name:
                parameter.normal_(0.0, self.config.width**-0.5, generator=generator)
            else:  # linear weights are (out, in), towers' (K, in, out)
                parameter.normal_(0.0, parameter.shape[1] ** -0.5, generator=generator)
        for last in (self.tower.last, self.fusion.get_parameter("1.weight")):
            last.mul_(QUIET)

    @torch.no_grad()
    def standardise(self, pairs: Pairs) -> None:
        """Take mean and deviation of the numeric features from these pairs, and begin there.

        Their labels say what is usual, and how rare each behaviour is.
        """
        numbers = self._raw_numbers(pairs)[pairs.items > 0]
        self.mean.copy_(numbers.mean(0))
        self.deviation.copy_(numbers.std(0, correction=0).clamp(min=1e-4))
        known = pairs.known.flatten(0, 1).sum(0)
        yes = (pairs.label * pairs.known).flatten(0, 1).sum(0)
        usual = (yes + 0.5) / (known + 1)
        self.tower.last_bias.copy_(usual.logit())
        entropy = F.binary_cross_entropy(usual, usual, reduction="none")
        self.loudness.copy_((entropy.max() / entropy) ** LOUDNESS)
        self.direct.zero_()
        for k in range(len(known)):
            for column in (1 + k, self.vocabulary.statistics + 1 + k):  # the user's, the item's
                self.direct[k, column] = OWN_SHARE * self.deviation[column]

    def nothing_wide(self) -> dict[str, Tensor]:
        """A wide part that adds nothing, by its names in a checkpoint: older ones have none."""
        named = self.state_dict()
        return {name: torch.zeros_like(t) for name, t in named.items() if name.startswith("wide.")}

    # ------------------------------------------------------------------ scores

    def forward(self, pairs: Pairs) -> Scores:
        """Logits of every candidate; those of padding mean nothing."""
        numbers = self.numbers(pairs)  # (B, M, 2 S + C)
        hidden, towers = self._towers(pairs, numbers)
        return Scores(towers, self._fused(pairs, numbers, hidden, towers))

    def numbers(self, pairs: Pairs) -> Tensor:
        """The numeric features: statistics of user and item, cross features; standardised.

        (B, M, 2 S + C). A tree-based ranker reads the same, so that models can be compared.
        """
        scaled = (self._raw_numbers(pairs) - self.mean) / self.deviation
        return scaled.clamp(-STANDARD_LIMIT, STANDARD_LIMIT)

    def loss(self, pairs: Pairs) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum of the towers' cross-entropies and of the fused one, each a mean over known labels.

        A tower's is weighted by its `loudness` in the sum and told without it. The fused loss is
        sum_k w_k BCE(y_k, p) / sum_k w_k (V1 section 2.4). Parts are named by behaviour, and
        `fused`.
        """
        scores = self(pairs)
        each = F.binary_cross_entropy_with_logits(
            scores.towers.float(), pairs.label, reduction="none"
        )
        towers = _known_mean(each, pairs.known)  # (K,)
        fused = self._fused_loss(scores, pairs)
        parts = dict(zip(self.vocabulary.behaviours, towers.detach().unbind(), strict=True))
        return (self.loudness * towers).sum() + fused, {**parts, "fused": fused.detach()}

    def fused_loss(self, pairs: Pairs) -> tuple[Tensor, dict[str, Tensor]]:
        """The fused loss alone; with `stop_gradient` the towers stand still."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.stop_gradient):
            numbers = self.numbers(pairs)
            hidden, towers = self._towers(pairs, numbers)
        scores = Scores(towers, self._fused(pairs, numbers, hidden, towers))
        fused = self._fused_loss(scores, pairs)
        return fused, {"fused": fused.detach()}

    def _fused_loss(self, scores: Scores, pairs: Pairs) -> Tensor:
        fused = scores.fused.float()[..., None].expand_as(pairs.label)
        each = F.binary_cross_entropy_with_logits(fused, pairs.label, reduction="none")
        return (self.weights * _known_mean(each, pairs.known)).sum() / self.weights.sum()

    # ------------------------------------------------------------------ parts

    def _towers(self, pairs: Pairs, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states (B, M, K, h) and logits (B, M, K)."""
        hidden = self.tower.hidden(self._shared(pairs, numbers))
        with _whole(numbers):
            logits = self.tower.logits(hidden.float()) + F.linear(numbers, self.direct)
        for name, table in self.wide.items():
            logits = logits + table(getattr(self.items, name)[pairs.items])
        return hidden, logits

    def _shared(self, pairs: Pairs, numbers: Tensor) -> Tensor:
        candidate = self.item(pairs.items, self.items)  # (B, M, D)
        user = _total(self.user, pairs.batch.static, candidate)
        parts = [
            user.expand_as(candidate),
            candidate,
            self._attention(candidate, pairs.batch.short),
            self._attention(candidate, pairs.batch.positive),
            numbers,
        ]
        hidden: Tensor = self.shared(torch.cat(parts, dim=-1))
        return hidden

    def _attention(self, candidate: Tensor, events: Events) -> Tensor:
        """What of the history speaks to each candidate (B, M, D); a learned nothing if empty."""
        past = self.event(events, self.item(events.item, self.items))  # (B, T + 1, D)
        mask = F.pad(events.item > 0, (1, 0), value=True)  # the nothing in front
        fit = self.query(candidate) @ self.key(past).transpose(1, 2)  # (B, M, T + 1)
        fit = (fit / math.sqrt(self.config.width)).masked_fill(~mask[:, None], -torch.inf)
        found: Tensor = fit.softmax(-1) @ past
        return found

    def _fused(self, pairs: Pairs, numbers: Tensor, hidden: Tensor, towers: Tensor) -> Tensor:
        if self.config.stop_gradient:
            hidden, towers = hidden.detach(), towers.detach()
        item = self.own_item(pairs.items, self.items)  # (B, M, D)
        user = _total(self.own_user, pairs.batch.static, item).expand_as(item)
        parts = torch.cat((hidden.flatten(2), towers, user, item, numbers), dim=-1)
        state = self.fusion[0](parts)
        share = self.weights / self.weights.sum()
        with _whole(numbers):
            more: Tensor = self.fusion[1](state.float())[..., 0]
            return F.linear(towers.sigmoid(), share).logit(eps=1e-6) + more

    def _raw_numbers(self, pairs: Pairs) -> Tensor:
        items, batch = pairs.items, pairs.batch
        cross = torch.stack(cross_features(items, batch.short, batch.positive, self.items), dim=-1)
        user = pairs.user_statistics[:, None].expand(-1, items.shape[1], -1)
        return torch.cat((user, pairs.item_statistics, cross), dim=-1)


class _ItemEmbedding(nn.Module):
    """Author, tag, duration and content of an item, added up: (..., D)."""

    def __init__(self, vocabulary: PScoreVocabulary, width: int) -> None:
        super().__init__()
        self.tables = _tables(vocabulary, width)
        dim = vocabulary.content_dim
        self.content = Linear(dim, width, bias=False) if dim else None
        self.nothing = nn.Parameter(torch.empty(width))

    def forward(self, index: Tensor, items: ItemTable) -> Tensor:
        few = len(items) < index.numel()  # then each item is embedded once
        rows = torch.arange(len(items) + 1, device=index.device) if few else index
        total = self.nothing.expand(*rows.shape, -1)
        for name, table in self.tables.items():
            total = total + table(getattr(items, name)[rows])
        if self.content is not None:
            total = total + self.content(items.content[rows])
        return F.embedding(index, total) if few else total


class _EventEmbedding(nn.Module):
    """What was done to a past item: item + labels + time + play time, a nothing in front."""

    def __init__(self, vocabulary: PScoreVocabulary, width: int) -> None:
        super().__init__()
        counts = {"time": vocabulary.n_time, "play": vocabulary.n_play}
        self.tables = nn.ModuleDict(
            {name: nn.Embedding(n + 1, width) for name, n in counts.items() if n}
        )
        labels = vocabulary.history_labels
        self.label = Linear(labels, width, bias=False) if labels else None
        self.nothing = nn.Parameter(torch.empty(width))

    def forward(self, events: Events, item: Tensor) -> Tensor:
        """events (B, T), their items' embeddings (B, T, D) -> (B, T + 1, D)."""
        total = item
        for name, table in self.tables.items():
            total = total + table(getattr(events, name))
        if self.label is not None:
            total = total + self.label(events.label)
        return torch.cat((self.nothing.expand(len(item), 1, -1), total), dim=1)


class _Towers(nn.Module):
    """K small networks side by side: (B, M, I) -> hidden (B, M, K, h) -> logits (B, M, K)."""

    def __init__(self, towers: int, inputs: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.empty(towers, inputs, hidden))
        self.first_bias = nn.Parameter(torch.empty(towers, hidden))
        self.last = nn.Parameter(torch.empty(towers, hidden, 1))
        self.last_bias = nn.Parameter(torch.empty(towers))
        self.dropout = nn.Dropout(dropout)

    def hidden(self, x: Tensor) -> Tensor:
        mixed = torch.einsum("bmi,kih->bmkh", x, self.first) + self.first_bias
        state: Tensor = self.dropout(F.leaky_relu(mixed, LEAKY))
        return state

    def logits(self, hidden: Tensor) -> Tensor:
        return torch.einsum("bmkh,kho->bmk", hidden, self.last) + self.last_bias


def _tables(vocabulary: PScoreVocabulary, width: int) -> nn.ModuleDict:
    """A table of an item's author, tag and duration each, where there are any."""
    counts = {
        "author": vocabulary.n_authors,
        "tag": vocabulary.n_tags,
        "duration": vocabulary.n_duration,
    }
    return nn.ModuleDict({name: nn.Embedding(n + 1, width) for name, n in counts.items() if n})


def _dense(inputs: int, outputs: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(Linear(inputs, outputs), nn.LeakyReLU(LEAKY), nn.Dropout(dropout))


def _whole(x: Tensor) -> torch.autocast:
    """For the sums that end in a score: in bfloat16 half of 512 candidates would share theirs."""
    return torch.autocast(x.device.type, enabled=False)


def _total(tables: nn.ModuleList, static: Tensor, like: Tensor) -> Tensor:
    """The sum of a user's feature embeddings (B, 1, D); zeros without features."""
    if not len(tables):
        return like.new_zeros(len(static), 1, like.shape[-1])
    parts = [table(column) for table, column in zip(tables, static.unbind(1), strict=True)]
    return torch.stack(parts).sum(0)[:, None]


def _known_mean(value: Tensor, known: Tensor) -> Tensor:
    """(B, M, K) -> (K,), the mean over what is known; 0 where nothing is."""
    there = known.to(value.dtype)
    return (value * there).sum((0, 1)) / there.sum((0, 1)).clamp(min=1)
