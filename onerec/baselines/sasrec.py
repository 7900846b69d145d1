"""SASRec, the strong version: a causal transformer over items that predicts the next one.

Kang and McAuley 2018 trained it with one sampled negative; here the loss is the cross-entropy over
the whole catalogue, which alone lifts it above many later models (Klenitskiy and Vasilev 2023). It
has learned positions, tied input and output embeddings, dropout and label smoothing, and every
position is a target in one pass. It reads item ids only: no content, no user features.

Numerics use torch and numpy alone. A budget in steps gives the same result every time; a limit in
seconds is a safety net and not a setting.
Legend: B sequences, T positions, D width, H heads, P targets of a batch, n items.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from onerec import metrics
from onerec.baselines.ranking import Histories, IntArray, rank_all, tie_order
from onerec.common import evaluating
from onerec.loop import Trainee, loop
from onerec.model.products import Linear
from onerec.train.optim import OptimConfig, cosine_schedule, make_adamw

if TYPE_CHECKING:
    from onerec.data.split import Cases, Split

HEAD_WIDTH = 64
PATIENCE = 4  # evaluations on valid without a new best before training stops
WARM_UP = 0.02  # share of the steps over which the learning rate rises
NO_TARGET = -1
RANKS = 10  # recall@10 on valid decides when to stop


@dataclass(frozen=True)
class SASRecConfig:
    """Size, regularisation and budget; `evaluations` is how often valid is looked at in `steps`.

    With `positives_only` the sequence holds positive events alone; else all events, each with a
    mark whether it was positive, and only positive ones are targets.
    """

    width: int = 128
    layers: int = 2
    length: int = 50
    dropout: float = 0.5
    label_smoothing: float = 0.1
    learning_rate: float = 1e-3
    batch_size: int = 256
    steps: int = 4000
    evaluations: int = 20
    positives_only: bool = True


# The first four differ in dropout too, so that none is a repeat where every event is positive.
GRID = (
    SASRecConfig(),
    SASRecConfig(dropout=0.2, positives_only=False),
    SASRecConfig(dropout=0.6),
    SASRecConfig(dropout=0.35, positives_only=False),
    SASRecConfig(dropout=0.35),
    SASRecConfig(dropout=0.6, positives_only=False),
    SASRecConfig(dropout=0.2),
    SASRecConfig(dropout=0.5, positives_only=False),
)


class Block(nn.Module):
    """Causal self-attention and a feed-forward, each normed before and dropped out after."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.heads = max(1, width // HEAD_WIDTH)
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = Linear(width, 3 * width)
        self.out = Linear(width, width)
        self.norm_feed = nn.LayerNorm(width)
        self.feed = nn.Sequential(Linear(width, 4 * width), nn.GELU(), Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, T, D)` to the same; position t reads positions up to t.

        Sequences are padded after their end, so the causal mask hides the padding as well.
        """
        x = x + self.dropout(self.out(self.attend(self.norm_attention(x))))
        y: Tensor = x + self.dropout(self.feed(self.norm_feed(x)))
        return y

    def attend(self, x: Tensor) -> Tensor:
        """Attention with dropout on its weights, `(B, T, D)`."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        weight = (q @ k.transpose(-1, -2)) / math.sqrt(q.shape[-1])  # (B, H, T, T)
        weight = weight.masked_fill(later, -torch.inf).softmax(dim=-1)
        attended: Tensor = (self.dropout(weight) @ v).transpose(1, 2).flatten(2)
        return attended  # (B, T, D)


class Network(nn.Module):
    """Item ids and positive marks in, states out; the item table also scores the states."""

    def __init__(self, config: SASRecConfig, n_items: int, generator: torch.Generator) -> None:
        super().__init__()
        self.item = nn.Embedding(n_items + 1, config.width, padding_idx=0)
        self.position = nn.Embedding(config.length, config.width)
        self.mark = nn.Embedding(2, config.width)
        self.norm_in = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            Block(config.width, config.dropout) for _ in range(config.layers)
        )
        self.norm_out = nn.LayerNorm(config.width)
        self.init_weights(generator)

    def init_weights(self, generator: torch.Generator) -> None:
        """Normal(0, .02) for matrices and tables, zero biases, the padding row zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02, generator=generator)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        with torch.no_grad():
            self.item.weight[0].zero_()

    def forward(self, item: Tensor, mark: Tensor) -> Tensor:
        """`item` (B, T) item + 1, 0 = padding; `mark` (B, T) 1 = positive. States `(B, T, D)`."""
        place = torch.arange(item.shape[1], device=item.device)
        x = self.item(item) + self.position(place) + self.mark(mark)  # (B, T, D)
        x = self.dropout(self.norm_in(x))
        for block in self.blocks:
            x = block(x)
        states: Tensor = self.norm_out(x)
        return states

    def scores(self, states: Tensor) -> Tensor:
        """`(P, D)` states to logits of all items `(P, n)`."""
        return states @ self.item.weight[1:].T


@dataclass(frozen=True)
class Sequences:
    """B sequences, padded after their end."""

    item: Tensor  # (B, T) item + 1, 0 = padding
    mark: Tensor  # (B, T) 1 = positive
    target: Tensor  # (B, T) the next item, NO_TARGET where there is none to learn


class Windows:
    """The training rows as windows of at most `length` inputs, cut from the end of each user.

    Every training positive but a user's first event is a target in exactly one window, so long
    histories are not thrown away. Batches are asked for by step: an epoch is one permutation,
    seeded by its number.
    """

    def __init__(self, split: Split, config: SASRecConfig, seed: int, device: torch.device) -> None:
        log = split.log
        kept = np.flatnonzero(split.train & log.positive if config.positives_only else split.train)
        user, item, positive = log.user[kept], log.item[kept].astype(np.int64), log.positive[kept]
        follows = np.append(user[1:] == user[:-1], False)[: len(user)]
        taught = follows & np.append(positive[1:], False)[: len(user)]
        target = np.where(taught, np.append(item[1:], NO_TARGET)[: len(user)], NO_TARGET)
        self.start, self.size = _cut(user, follows, taught, config.length)
        self.item = torch.from_numpy(item + 1).to(device)
        self.mark = torch.from_numpy(positive.astype(np.int64)).to(device)
        self.target = torch.from_numpy(target).to(device)
        self.batch_size = min(config.batch_size, max(1, len(self.start)))
        self.seed = seed
        self.order = (-1, torch.empty(0, dtype=torch.int64))

    def batch(self, step: int) -> Sequences:
        """The batch of a step; what is left over at the end of an epoch is left out."""
        epoch, place = divmod(step, len(self.start) // self.batch_size)
        if self.order[0] != epoch:
            shuffled = torch.Generator().manual_seed(self.seed + epoch)
            self.order = (epoch, torch.randperm(len(self.start), generator=shuffled))
        chosen = self.order[1][place * self.batch_size : (place + 1) * self.batch_size]
        device = self.item.device
        start, size = self.start[chosen].to(device), self.size[chosen]
        place_in = torch.arange(int(size.max()), device=device)  # (T,)
        inside = place_in < size.to(device)[:, None]  # (B, T)
        row = (start[:, None] + place_in).clamp(max=len(self.item) - 1)
        return Sequences(
            self.item[row] * inside,
            self.mark[row] * inside,
            self.target[row].masked_fill(~inside, NO_TARGET),
        )


def _cut(
    user: NDArray[np.int32], follows: NDArray[np.bool_], taught: NDArray[np.bool_], length: int
) -> tuple[Tensor, Tensor]:
    """First row and number of inputs of each window that teaches something, `(W,)` each."""
    first = np.flatnonzero(np.diff(user, prepend=-1))
    inputs = np.add.reduceat(follows.astype(np.int64), first) if len(first) else first
    windows = -(-inputs // length)
    end = np.repeat(first + inputs, windows)
    back = np.arange(len(end)) - np.repeat(np.cumsum(windows) - windows, windows)
    end = end - back * length  # (W,)
    start = np.maximum(np.repeat(first, windows), end - length)
    lessons = np.concatenate([[0], np.cumsum(taught)])
    useful = lessons[end] > lessons[start]
    return torch.from_numpy(start[useful]), torch.from_numpy((end - start)[useful])


@dataclass
class SASRec:
    """A trained network with what it needs to rank, and how its training went."""

    network: Network
    config: SASRecConfig
    popularity: Tensor  # (n,) for histories without an event that the network reads
    ties: Tensor  # (n,)
    device: torch.device
    stages: list[dict[str, float]] = field(default_factory=list)  # step, loss, recall@10, seconds
    name: str = "sasrec"

    def recommend(self, split: Split, cases: Cases, k: int, exclude_seen: bool = False) -> IntArray:
        """Ranked items `(M, k)`, scored in float32 on any device."""

        def score(histories: Histories) -> Tensor:
            if self.config.positives_only:
                histories = histories.where(split.log.positive[histories.rows])
            return self.score(histories, split.log.item, split.log.positive)

        with evaluating(self.network):
            return rank_all(score, split.log, cases, k, self.ties, exclude_seen=exclude_seen)

    def score(
        self, histories: Histories, log_item: NDArray[np.int32], log_positive: NDArray[np.bool_]
    ) -> Tensor:
        """Logits of all items after the last event of each history, `(B, n)`."""
        histories = histories.where(histories.age < self.config.length)
        size = np.bincount(histories.case, minlength=histories.size)  # (B,)
        place = size[histories.case] - 1 - histories.age
        item = torch.zeros(histories.size, max(1, int(size.max(initial=0))), dtype=torch.int64)
        mark = torch.zeros_like(item)
        item[histories.case, place] = torch.from_numpy(
            log_item[histories.rows].astype(np.int64) + 1
        )
        mark[histories.case, place] = torch.from_numpy(
            log_positive[histories.rows].astype(np.int64)
        )
        states = self.network(item.to(self.device), mark.to(self.device))  # (B, T, D)
        last = torch.from_numpy(np.maximum(size - 1, 0)).to(self.device)
        states = states[torch.arange(histories.size, device=self.device), last]  # (B, D)
        scores = self.network.scores(states)
        scores[torch.from_numpy(size == 0).to(self.device)] = self.popularity
        return scores


def fit(
    split: Split,
    config: SASRecConfig,
    generator: torch.Generator,
    *,
    device: torch.device | str = "cpu",
    seconds: float | None = None,
) -> SASRec:
    """Train on the training rows, look at valid, and keep the weights that did best there.

    Args:
        generator: on the CPU; decides initial weights, batches, dropout and ties.
        device: float32 on the CPU, bfloat16 products on a GPU.
        seconds: stops earlier than `config.steps`; such a result depends on the machine.

    Raises:
        ValueError: no training sequence has two events, or a setting that cannot work.
    """
    device = torch.device(device)
    log = split.log
    if config.steps < 1 or config.evaluations < 1 or config.length < 1:
        raise ValueError(f"{config}: steps, evaluations and length must be at least 1")
    seed = int(torch.randint(2**31, (1,), generator=generator))
    windows = Windows(split, config, seed, device)
    if not len(windows.start):
        raise ValueError("SASRec needs a user with an event and a later positive to train on")
    counts = np.bincount(log.item[split.train & log.positive], minlength=log.n_items)
    popularity = torch.from_numpy(counts.astype(np.float32)).to(device)
    ties = tie_order(log.n_items, generator)
    # Dropout draws from the global stream (as does what torch fills new layers with): give it back.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        network = Network(config, log.n_items, generator).to(device)
        model = SASRec(network, config, popularity, ties, device)
        _train(model, windows, split, seed, seconds)
    network.eval()
    return model


def _train(model: SASRec, windows: Windows, split: Split, seed: int, seconds: float | None) -> None:
    """The loop, and an evaluation on valid every so often; ends with the best weights loaded.

    Without a valid case there is no best and no early stop: the last weights stand.
    """
    config, network = model.config, model.network

    def loss(batch: Sequences) -> tuple[Tensor, dict[str, Tensor]]:
        return next_item_loss(network, batch, config.label_smoothing), {}

    optim = OptimConfig(
        learning_rate=config.learning_rate, warmup_steps=math.ceil(config.steps * WARM_UP)
    )
    trainee = Trainee(
        network,
        make_adamw(network, optim),
        loss,
        windows.batch,
        cosine_schedule(optim, config.steps),
    )
    every = max(1, config.steps // config.evaluations)
    best, without_gain = -1.0, 0
    best_weights: dict[str, Tensor] = {}
    for result in loop(trainee, steps=config.steps, seed=seed, device=model.device):
        out_of_time = seconds is not None and result.seconds > seconds
        if result.step % every and result.step != config.steps and not out_of_time:
            continue
        reached = _valid_recall(model, split)
        model.stages.append(
            {
                "step": result.step,
                "loss": result.loss,
                "recall@10": reached,
                "seconds": round(result.seconds, 3),
            }
        )
        without_gain += 1
        if reached > best or not len(split.valid.user):
            best, without_gain = reached, 0
            best_weights = {name: each.clone() for name, each in network.state_dict().items()}
        if out_of_time or without_gain >= PATIENCE:
            break
    network.load_state_dict(best_weights)


def next_item_loss(network: Network, batch: Sequences, label_smoothing: float) -> Tensor:
    """Cross-entropy over all items, mean over the positions that have a target.

    Padding is dropped before the scores are made: they are the expensive part.
    """
    target = batch.target.reshape(-1)
    taught = (target != NO_TARGET).nonzero().squeeze(1)  # (P,)
    states = network(batch.item, batch.mark).flatten(0, 1).index_select(0, taught)  # (P, D)
    scores = network.scores(states)  # (P, n)
    return functional.cross_entropy(scores.float(), target[taught], label_smoothing=label_smoothing)


def _valid_recall(model: SASRec, split: Split) -> float:
    """recall@10 over all valid cases; 0 where there is none."""
    cases = split.valid
    if not len(cases.user):
        return 0.0
    ranked = model.recommend(split, cases, RANKS)
    return float(metrics.recall_at_k(ranked, cases.target_offsets, cases.target_items).mean())
