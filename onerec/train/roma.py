"""RoMA: post-training in which routers alone move, towards the routing of samples that went well.

For sample i: L = L_CE + lambda * sum over its neighbours j of W_ij ||r_i - r_j||^2. Neighbours are
the k nearest, by an embedding of the input, among samples that the model answers correctly; W_ij is
a Gaussian of the distance, normalised over them (RoMA, arXiv 2511.07419: k = 3, routers alone, the
last 5 layers, the last token of the question).

    bank = collect(model, train, config)            # again now and then: r_j of the routers so far
    with routers_only(model) as routers:
        loss, parts = roma_loss(model, batch, bank, config)

Ours, where the paper is silent or about language: what counts as correct and the embedding are the
caller's. A sample is a target in its context; r_i is its routing weights at `positions` in
`layers`, dense over the experts (0 for those not chosen) and laid end to end. By default that is
the begin token alone: all is read and nothing answered, as at the last token of a question; later
positions depend on the target, which the embedding of the input does not know. r_j are constants
between two calls of `collect`. sigma is the median distance to the k nearest. The model acts in
evaluation mode, so that dropout does not move r_i; biases of loss-free routers stay.
Two controls: `random` neighbours, and weight 0, which leaves the cross-entropy.
Shapes: n samples, m entries of the bank, k neighbours, d embedding, R = layers * positions * E.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from onerec.model.onerec import Batch, OneRec
from onerec.model.recording import TargetRouting, recording, target_routing

SIGMA_SAMPLE = 1_000  # entries of the bank from which sigma is estimated
SMALLEST_SIGMA = 1e-9  # where all neighbours are alike


@dataclass(frozen=True)
class RomaConfig:
    """`weight` is lambda (the paper prints none; ours, not tuned). `layers` are mixtures, counted
    from 0, None for all. `choose` is nearest or, as a control, random: any entries, weighed alike.
    """

    neighbours: int = 3
    weight: float = 1.0
    positions: tuple[int, ...] = (0,)
    layers: tuple[int, ...] | None = None
    choose: str = "nearest"


@dataclass(frozen=True)
class RomaBatch:
    """Contexts with targets (B, M), and what RoMA has to know of them.

    `embedding` (B, d) of each context, which must not know the target; `sample` (B,) int64 numbers
    contexts, so that none is its own neighbour; `success` (B, M) bool: answered correctly.
    """

    batch: Batch
    embedding: Tensor
    sample: Tensor
    success: Tensor


class Bank(NamedTuple):
    """Successful samples, one per context: `embedding` (m, d), `routing` (m, R), `sample` (m,)."""

    embedding: Tensor
    routing: Tensor
    sample: Tensor
    sigma: float


# ------------------------------------------------------------------ pure tensors


def find_neighbours(
    embedding: Tensor, sample: Tensor, bank: Tensor, owner: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """The k nearest entries of others: index and Euclidean distance (n, k), nearest first.

    Args:
        embedding: (n, d) of the samples.
        sample: (n,) int64, whose they are.
        bank: (m, d).
        owner: (m,) int64, whose entries those are.
        k: neighbours.

    Raises:
        ValueError: the bank has no k entries beside one's own.
    """
    with torch.autocast(embedding.device.type, enabled=False):  # bfloat16 would confuse neighbours
        squared = bank.square().sum(1) - 2 * embedding @ bank.T  # (n, m), up to what a row shares
    index = _smallest(squared, sample, owner, k)
    return index, (embedding[:, None] - bank[index]).norm(dim=-1)


def random_neighbours(sample: Tensor, owner: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """k entries of others, drawn without replacement: index (n, k). Arguments as above."""
    scores = torch.rand(len(sample), len(owner), generator=generator)
    return _smallest(scores.to(owner.device), sample, owner, k)


def _smallest(scores: Tensor, sample: Tensor, owner: Tensor, k: int) -> Tensor:
    if len(owner) <= k:
        raise ValueError(
            f"{len(owner)} successful samples are too few for {k} neighbours of each: "
            f"needs at least {k + 1}"
        )
    own = sample[:, None] == owner
    index: Tensor = scores.masked_fill(own, torch.inf).topk(k, largest=False).indices
    return index


def gaussian_weights(distance: Tensor, sigma: float) -> Tensor:
    """exp(-distance^2 / (2 sigma^2)), normalised over the neighbours: (n, k) -> (n, k)."""
    scaled = distance / max(sigma, SMALLEST_SIGMA)
    weight: Tensor = (-scaled.square() / 2).softmax(-1)
    return weight


def manifold_loss(routing: Tensor, neighbours: Tensor, weight: Tensor) -> Tensor:
    """sum_j W_ij ||r_i - r_j||^2: routing (n, R), neighbours (n, k, R), weight (n, k) -> (n,)."""
    return (weight * (routing[:, None] - neighbours).square().sum(-1)).sum(-1)


def median_distance(embedding: Tensor, sample: Tensor, k: int) -> float:
    """Median distance of entries (m, d) to their k nearest, over at most `SIGMA_SAMPLE` of them."""
    apart = max(1, math.ceil(len(sample) / SIGMA_SAMPLE))
    some = torch.arange(0, len(sample), apart, device=sample.device)
    _, distance = find_neighbours(embedding[some], sample[some], embedding, sample, k)
    return float(distance.median())


# ------------------------------------------------------------------- on a model


def routing_vectors(routing: TargetRouting, experts: int, config: RomaConfig) -> Tensor:
    """r of each target (B, M, R).

    Raises:
        ValueError: a layer or a position that the model does not have.
    """
    total, levels = routing.expert.shape[0], routing.expert.shape[3]
    layers = range(total) if config.layers is None else config.layers
    if not layers or not config.positions:
        raise ValueError(f"RoMA needs layers and positions: {config.layers}, {config.positions}")
    if not set(layers) <= set(range(total)) or not set(config.positions) <= set(range(levels)):
        raise ValueError(
            f"RoMA's layers {tuple(layers)} and positions {config.positions}: the model has "
            f"mixtures 0 to {total - 1} and positions 0 to {levels - 1}"
        )
    dense = routing.dense(experts)[list(layers)][:, :, :, list(config.positions)]  # (Y, B, M, P, E)
    return dense.permute(1, 2, 0, 3, 4).flatten(2)


def collect(model: OneRec, batches: Iterable[RomaBatch], config: RomaConfig) -> Bank:
    """The bank of the model as it routes now: the first success of each context of `batches`.

    Raises:
        ValueError: no more than k contexts have a success, or the model cannot be post-trained.
    """
    _check(model)
    embeddings, routings, samples = [], [], []
    for one in batches:
        right = one.success & (one.batch.target > 0)  # (B, M)
        r = routing_vectors(target_routing(model, one.batch), model.config.experts, config)
        rows = right.any(1).nonzero()[:, 0]
        first = right[rows].byte().argmax(1)
        embeddings.append(one.embedding[rows])
        routings.append(r[rows, first])
        samples.append(one.sample[rows])
    if not samples:
        raise ValueError("no batch to collect successful samples from")
    embedding, sample = torch.cat(embeddings), torch.cat(samples)
    sigma = median_distance(embedding, sample, config.neighbours)
    return Bank(embedding, torch.cat(routings), sample, sigma)


def roma_loss(
    model: OneRec,
    batch: RomaBatch,
    bank: Bank,
    config: RomaConfig,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """L_CE + weight * mean over targets of the manifold loss; both are among its parts.

    Args:
        model: acts in evaluation mode with gradients, and is put back.
        batch: every target that exists counts, successful or not.
        bank: of `collect` with the same config.
        config: see `RomaConfig`.
        generator: on the CPU; what random neighbours are drawn with.

    Raises:
        ValueError: random neighbours without a generator, or see `collect`.
    """
    _check(model)
    with _in_evaluation(model), recording(model) as layers:
        cross_entropy, parts = model.loss(batch.batch)
    passes = TargetRouting.of([passes[0] for passes in layers], batch.batch.target)
    rows, place = (batch.batch.target > 0).nonzero(as_tuple=True)  # (n,) each
    r = routing_vectors(passes, model.config.experts, config)[rows, place]  # (n, R)
    index, weight = _neighbours(batch, bank, config, generator)  # (B, k) each
    manifold = manifold_loss(r, bank.routing[index[rows]], weight[rows].to(r)).mean()
    loss = cross_entropy + config.weight * manifold if config.weight else cross_entropy
    return loss, {"next_token": cross_entropy.detach(), "manifold": manifold.detach(), **parts}


def _neighbours(
    batch: RomaBatch, bank: Bank, config: RomaConfig, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Index and weight (B, k) of the neighbours of each context."""
    embedding, sample, k = batch.embedding, batch.sample, config.neighbours
    if config.choose == "nearest":
        index, distance = find_neighbours(embedding, sample, bank.embedding, bank.sample, k)
        return index, gaussian_weights(distance, bank.sigma)
    if config.choose != "random":
        raise ValueError(f"choose={config.choose!r}: there are nearest and random")
    if generator is None:
        raise ValueError("random neighbours need a generator")
    index = random_neighbours(sample, bank.sample, k, generator)
    return index, torch.full_like(index, 1 / k, dtype=embedding.dtype)


@contextlib.contextmanager
def routers_only(model: OneRec) -> Iterator[list[nn.Parameter]]:
    """Inside, nothing but the routers' parameters, which are handed out, gets a gradient."""
    _check(model)
    routers = [parameter for name, parameter in model.named_parameters() if ".router." in name]
    own = {id(parameter) for parameter in routers}
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    for parameter, _ in before:
        parameter.requires_grad_(id(parameter) in own)
    try:
        yield routers
    finally:
        for parameter, wanted in before:
            parameter.requires_grad_(wanted)


@contextlib.contextmanager
def _in_evaluation(model: OneRec) -> Iterator[None]:
    before = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(before)


def _check(model: OneRec) -> None:
    config = model.config
    if not config.experts:
        raise ValueError("RoMA moves routers, and the model is dense: it needs model.experts")
    if config.active_experts < 2 and config.router.kind == "competition":
        raise ValueError(
            "RoMA moves a router through the weights of the chosen, and with routing.router="
            "competition one alone always has weight 1: it needs model.active_experts of at least 2"
        )
