"""Two towers: what retrieves candidates in most cascades.

One tower reads the user (static features, the latest events, the latest positives), the other an
item; the score is the product of what they give, so that the whole catalogue is ranked by one
matrix product. Trained by softmax over the batch's own items, each corrected by the log of how
often it is drawn (Yi et al., RecSys 2019): without that, popular items are punished for being met
often. The towers' form (pooled events, two dense layers) is ours.

Shapes: B contexts, T events, n items, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onerec.loop import Trainee, loop
from onerec.model.pathways import Batch, Events, ItemTable, Vocabulary
from onerec.model.products import Linear
from onerec.train.optim import OptimConfig, cosine_schedule, make_adamw


@dataclass(frozen=True)
class TwoTowerConfig:
    """`temperature` divides the cosine of user and item."""

    width: int = 64
    temperature: float = 0.05
    steps: int = 1_000
    learning_rate: float = 2e-3
    weight_decay: float = 0.01


class TwoTower(nn.Module):
    """Both towers, and the score of every item.

    Args:
        config: sizes.
        vocabulary: cardinalities of what is read; codes are not.
        items: features of every item; row 0 is padding.
    """

    def __init__(self, config: TwoTowerConfig, vocabulary: Vocabulary, items: ItemTable) -> None:
        super().__init__()
        self.config, self.items = config, items
        width, part = config.width, max(8, config.width // 4)
        sizes = {
            "item": (len(items), width),
            "author": (vocabulary.n_authors, part),
            "tag": (vocabulary.n_tags, part),
            "duration": (vocabulary.n_duration, part),
        }
        self.tables = nn.ModuleDict(
            {name: nn.Embedding(n + 1, dim) for name, (n, dim) in sizes.items() if n}
        )
        content = items.content.shape[1]
        self.content = Linear(content, width, bias=False) if content else None
        known = sum(dim for n, dim in sizes.values() if n) + (width if content else 0)
        self.item_tower = nn.Sequential(
            Linear(known, 2 * width), nn.GELU(), Linear(2 * width, width)
        )
        self.event = Linear(known + vocabulary.behaviours, width)
        self.static = nn.ModuleList(nn.Embedding(n + 1, part) for n in vocabulary.user_features)
        read = 2 * width + part * len(vocabulary.user_features)
        self.user_tower = nn.Sequential(
            Linear(read, 2 * width), nn.GELU(), Linear(2 * width, width)
        )
        for table in [*self.tables.values(), *self.static]:
            nn.init.normal_(table.get_parameter("weight"), std=0.05)

    def _known(self, item: Tensor) -> Tensor:
        index = {"item": item}
        index |= {name: getattr(self.items, name)[item] for name in ("author", "tag", "duration")}
        parts = [table(index[name]) for name, table in self.tables.items()]
        if self.content is not None:
            parts.append(self.content(self.items.content[item]))
        return torch.cat(parts, dim=-1)

    def item(self, item: Tensor) -> Tensor:
        """Item index + 1 (...) -> unit vectors (..., D)."""
        return F.normalize(self.item_tower(self._known(item)), dim=-1)

    def user(self, batch: Batch) -> Tensor:
        """Contexts -> unit vectors (B, D)."""
        parts = [self._pooled(batch.short), self._pooled(batch.positive)]
        parts += [t(column) for t, column in zip(self.static, batch.static.unbind(1), strict=True)]
        return F.normalize(self.user_tower(torch.cat(parts, dim=-1)), dim=-1)

    def _pooled(self, events: Events) -> Tensor:
        """The mean over events that exist (B, D), zero without any."""
        there = (events.item > 0)[..., None]
        read = F.gelu(self.event(torch.cat([self._known(events.item), events.label], dim=-1)))
        return (read * there).sum(1) / there.sum(1).clamp(min=1)

    def loss(self, batch: Batch, log_share: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Softmax over the batch's targets, in nats.

        Args:
            batch: contexts with one target each; a target that occurs twice is no negative of
                itself.
            log_share: (n + 1,) log of each item's share of the training targets.
        """
        target = batch.target[:, 0]
        scores = self.user(batch) @ self.item(target).T / self.config.temperature  # (B, B)
        scores = scores - log_share[target]
        same = target[:, None] == target[None]
        same.fill_diagonal_(False)
        scores = scores.masked_fill(same, -torch.inf)
        return F.cross_entropy(scores, torch.arange(len(target), device=target.device)), {}

    @torch.no_grad()
    def ranked(self, batch: Batch, k: int, exclude: Tensor | None = None) -> Tensor:
        """The k items (B, k) with the highest score, -1 where fewer are left.

        `exclude` (B, X) item + 1 never comes.
        """
        every = self.item(torch.arange(1, len(self.items) + 1, device=batch.static.device))
        scores = self.user(batch) @ every.T  # (B, n)
        if exclude is not None:
            hidden = torch.zeros(len(scores), len(self.items) + 1, dtype=torch.bool)
            hidden = hidden.to(scores.device).scatter(1, exclude, True)[:, 1:]
            scores = scores.masked_fill(hidden, -torch.inf)
        values, best = scores.topk(min(k, scores.shape[1]), dim=-1)
        best = best.masked_fill(values == -torch.inf, -1)
        return F.pad(best, (0, k - best.shape[1]), value=-1)


def fit(
    model: TwoTower,
    batches: Callable[[int], Batch],
    counts: Tensor,
    *,
    seed: int = 0,
    after_step: Callable[[int], None] | None = None,
) -> list[float]:
    """Train for `config.steps`; counts (n,) says how often each item is a target. The losses.

    `after_step` gets the number of the step, from 1; the model is in training mode then.
    """
    config = model.config
    log_share = F.pad(counts, (1, 0)).clamp(min=1).double()
    log_share = (log_share / counts.sum().clamp(min=1)).log().float().to(counts.device)
    optim = OptimConfig(
        learning_rate=config.learning_rate,
        warmup_steps=max(1, config.steps // 20),
        weight_decay=config.weight_decay,
    )
    trainee = Trainee(
        model,
        make_adamw(model, optim),
        lambda batch: model.loss(batch, log_share),
        batches,
        cosine_schedule(optim, config.steps),
    )
    losses = []
    for result in loop(trainee, steps=config.steps, seed=seed):
        losses.append(result.loss)
        if after_step is not None:
            after_step(result.step)
    model.eval()
    return losses
