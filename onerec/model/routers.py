"""Routers: which k of E experts a token goes to, and how much each of them says.

    loss_free     sigmoid affinities, chosen with a bias that only the load moves; no loss is added
                  (DeepSeek-V3; V1 section 2.3 names the method but neither gate nor step)
    softmax       the k largest of a softmax; an auxiliary loss evens out the load (GShard, Switch)
    competition   as softmax, but on some training steps all experts run, those with the strongest
                  answer win, and the router learns who won (CompeteSMoE, arXiv 2505.13380)

A router knows tokens and scores; `moe.MixtureOfExperts` runs the experts and counts their load.
What a loss or a load counts, `counted` says: padding is 0, and a position that M sequences share
is M. Auxiliary losses come without their weights, which `RouterConfig.weights` has.

Left out: noise in the scores, capacity limits, DeepSeek-V3's sequence-wise balance loss.
Shapes: T tokens, D width, E experts, k experts per token, P steps, Y layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BIAS_STEP = 1e-3  # gamma of DeepSeek-V3; OneRec prints none
Losses = dict[str, Tensor]


class Routing(NamedTuple):
    """Which experts see a token: `expert` (T, k) int64 and `weight` (T, k) float.

    `logits` (T, E): what auxiliary losses read; None where the router has none.
    """

    expert: Tensor
    weight: Tensor
    logits: Tensor | None = None


class Router(Protocol):
    """What a router offers: a choice per token, its losses, and a reaction to the load it caused.

    `competing` is set for a training step in which the experts are to compete. `off` (E,) bool are
    experts that may not be chosen.
    """

    competing: bool
    off: Tensor | None

    def __call__(self, x: Tensor) -> Routing: ...

    def losses(self, routing: Routing, counted: Tensor | None) -> Losses: ...

    def update(self, load: Tensor, step: float) -> None: ...


@dataclass(frozen=True)
class RouterConfig:
    """Which router, and the weights of its auxiliary losses; a weight of 0 leaves a loss out.

    Defaults are CompeteSMoE's: weights of its vision-language runs, `hybrid` and how often and in
    how many layers experts compete of its language models. A balance loss of .01 is Switch's too.
    """

    kind: str = "loss_free"
    balance_weight: float = 0.01
    z_weight: float = 0.001
    distillation_weight: float = 0.01
    hybrid: float = 0.2
    diversity_weight: float = 0.01
    competition_rate: float = 0.07
    competition_layers: int = 2
    competition_warmup: float = 0.05

    @property
    def weights(self) -> dict[str, float]:
        """Name of an auxiliary loss -> its weight, without those that are 0."""
        weights = {
            "balance": self.balance_weight,
            "z": self.z_weight,
            "distillation": self.distillation_weight,
            "diversity": self.diversity_weight,
        }
        return {name: weight for name, weight in weights.items() if weight}


class _LinearRouter(nn.Module):
    """One linear score per expert, and what routers have in common.

    Weights are normalised over the chosen (GShard, k = 2; DeepSeek-V3). One active expert is
    weighed by its affinity or probability (Switch): else the router would get no gradient.
    """

    def __init__(self, width: int, experts: int, active: int) -> None:
        super().__init__()
        self.active = active
        self.competing = False
        self.off: Tensor | None = None
        self.weight = nn.Parameter(torch.empty(experts, width))

    @property
    def normalised(self) -> bool:
        """Whether the weights of a token's experts have sum 1."""
        return self.active > 1

    def scores(self, x: Tensor) -> Tensor:
        """(T, D) -> W x (T, E), in at least float32, under autocast too."""
        kind = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.to(kind), self.weight.to(kind))

    def losses(self, routing: Routing, counted: Tensor | None) -> Losses:
        """No auxiliary loss."""
        return {}

    def update(self, load: Tensor, step: float) -> None:
        """Nothing that the load moves."""


class LossFreeRouter(_LinearRouter):
    """Sigmoid affinities, chosen with a bias that only the load moves (DeepSeek-V3)."""

    bias: Tensor

    def __init__(self, width: int, experts: int, active: int) -> None:
        super().__init__(width, experts, active)
        self.register_buffer("bias", torch.zeros(experts))

    def forward(self, x: Tensor) -> Routing:
        """(T, D) -> routing: the k largest s + b, weighed by their s."""
        affinity = torch.sigmoid(self.scores(x))  # (T, E)
        order = affinity + self.bias
        if self.off is not None:
            order = order.masked_fill(self.off, -torch.inf)
        expert = order.topk(self.active, dim=-1).indices  # (T, k)
        weight = affinity.gather(-1, expert)
        if self.normalised:
            weight = weight / (
                weight.sum(-1, keepdim=True) + torch.finfo(weight.dtype).tiny
            )  # no 0/0
        return Routing(expert, weight)

    @torch.no_grad()
    def update(self, load: Tensor, step: float) -> None:
        """b += step for experts below the mean load (E,), b -= step for those above."""
        self.bias += step * torch.sign(load.mean() - load)


class SoftmaxRouter(_LinearRouter):
    """The k most probable experts of a softmax, with an auxiliary balance loss."""

    def __init__(
        self, width: int, experts: int, active: int, config: RouterConfig | None = None
    ) -> None:
        super().__init__(width, experts, active)
        self.config = config or RouterConfig("softmax")

    def forward(self, x: Tensor) -> Routing:
        """(T, D) -> routing, its logits W x."""
        logits = self.scores(x)
        open_ = logits if self.off is None else logits.masked_fill(self.off, -torch.inf)
        weight, expert = open_.softmax(-1).topk(self.active, dim=-1)  # (T, k)
        if self.normalised:
            weight = weight / weight.sum(-1, keepdim=True)
        return Routing(expert, weight, logits)

    def losses(self, routing: Routing, counted: Tensor | None) -> Losses:
        """`balance` and `z` of a training step; see the functions of these names."""
        assert routing.logits is not None
        logits, found = routing.logits, {}
        if self.config.balance_weight:
            found["balance"] = balance_loss(logits.softmax(-1), routing.expert, counted)
        if self.config.z_weight:
            found["z"] = z_loss(logits, counted)
        return found


class CompetitionRouter(SoftmaxRouter):
    """CompeteSMoE: the experts compete now and then, and the router learns to foresee who wins.

    When `competing`, `compete` chooses instead of `forward`. In evaluation and on all other steps
    the router is alone. Its weights are a softmax over the chosen for any k, as the source has it.
    """

    @property
    def normalised(self) -> bool:
        """Always: one active expert's router learns from competitions alone."""
        return True

    def compete(self, x: Tensor, outputs: Tensor, counted: Tensor | None) -> tuple[Routing, Losses]:
        """Choose by what the experts answer: tokens (T, D) and outputs (T, E, D).

        a = mean over D of softplus(E(x)); the k largest a win, weighed by a normalised over them.
        `distillation` = MSE(softmax(W x), sg softmax(a)) + hybrid * the same over the winners;
        `diversity` see its function; `balance` that of softmax(a) in place of the router's, with
        the same weight (the source has .01 for both).
        """
        kind = torch.promote_types(outputs.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            affinity = F.softplus(outputs.to(kind)).mean(-1)  # (T, E)
            strength, expert = affinity.topk(self.active, dim=-1)  # (T, k)
            routing = Routing(expert, strength / strength.sum(-1, keepdim=True))
            share, found = affinity.softmax(-1), {}
            if self.config.distillation_weight:
                missed = (self.scores(x).softmax(-1) - share.detach()).square()  # (T, E)
                of_winners = missed.gather(-1, expert).mean(-1)
                each = missed.mean(-1) + self.config.hybrid * of_winners
                found["distillation"] = mean_over(each, counted)
            if self.config.diversity_weight and self.active > 1:
                index = expert[..., None].expand(-1, -1, outputs.shape[-1])
                found["diversity"] = diversity_loss(outputs.gather(1, index).to(kind), counted)
            if self.config.balance_weight:
                found["balance"] = balance_loss(share, expert, counted)
        return routing, found


def make_router(config: RouterConfig, width: int, experts: int, active: int) -> Router:
    """The router that `config.kind` names.

    Raises:
        ValueError: no such router.
    """
    if config.kind == "loss_free":
        return LossFreeRouter(width, experts, active)
    if config.kind == "softmax":
        return SoftmaxRouter(width, experts, active, config)
    if config.kind == "competition":
        return CompetitionRouter(width, experts, active, config)
    raise ValueError(f"router {config.kind!r}: there are loss_free, softmax and competition")


# ---------------------------------------------------------------------- losses


def mean_over(value: Tensor, counted: Tensor | None) -> Tensor:
    """Mean of (T, ...) over tokens, each as often as `counted` (any shape of T) says; 0 of none."""
    if counted is None:
        return value.mean(0)
    weight = counted.flatten().to(value)
    spread = weight.view(-1, *[1] * (value.ndim - 1))  # no matrix product: autocast rounds those
    return (spread * value).sum(0) / weight.sum().clamp(min=1.0)


def balance_loss(share: Tensor, expert: Tensor, counted: Tensor | None = None) -> Tensor:
    """E * sum over experts of f_e P_e (Switch eq. 4, GShard): 1 when both are even.

    f_e: the share of the choices (T, k) that fell on e, without gradient; P_e: the mean of its
    probability, `share` (T, E). All k choices count, which is ours: Switch has one, and GShard and
    CompeteSMoE's code count the first.
    """
    experts = share.shape[-1]
    chosen = torch.zeros_like(share).scatter_(-1, expert, 1.0 / expert.shape[-1])
    return experts * (mean_over(chosen, counted) * mean_over(share, counted)).sum()


def z_loss(logits: Tensor, counted: Tensor | None = None) -> Tensor:
    """Mean of (log sum exp logits)^2 (ST-MoE eq. 5): keeps scores (T, E) small."""
    return mean_over(logits.logsumexp(-1).square(), counted)


def diversity_loss(outputs: Tensor, counted: Tensor | None = None) -> Tensor:
    """Mean cosine between the outputs of a token's experts (T, k, D), over all pairs of two.

    CompeteSMoE's code divides the same sum by k^2 in place of k (k - 1), so its weight of .01 is
    one of .005 here at k = 2.

    Raises:
        ValueError: k is 1, so there is no pair.
    """
    k = outputs.shape[1]
    if k < 2:
        raise ValueError("diversity is between experts: a token needs two")
    unit = F.normalize(outputs, dim=-1)
    cosine = unit @ unit.transpose(1, 2)  # (T, k, k)
    apart = ~torch.eye(k, dtype=torch.bool, device=outputs.device)
    return mean_over(cosine[:, apart].mean(-1), counted)


# -------------------------------------------------------------------- schedule


def competition_schedule(
    config: RouterConfig, steps: int, layers: int, generator: torch.Generator
) -> Tensor:
    """In which steps which layers compete: (P, Y) bool, the same for the same generator.

    After `competition_warmup` of the steps each layer tosses a coin of `competition_rate` in every
    step. Where more than `competition_layers` come up, as many of them, drawn by lot, move to the
    nearest step that has room and in which they do not compete yet, the later one of two; who finds
    none is left out. Lots and either side alike are ours: CompeteSMoE's code lets later layers give
    way, and goes forward only where there is no room before.

    Raises:
        ValueError: a rate or a share outside 0 to 1, or competition_layers below 1.
    """
    rate, warmup, most = (
        config.competition_rate,
        config.competition_warmup,
        config.competition_layers,
    )
    if not (0 <= rate <= 1 and 0 <= warmup <= 1 and most >= 1):
        raise ValueError(
            f"competition_rate={rate} and competition_warmup={warmup} must be from 0 to 1, "
            f"competition_layers={most} at least 1"
        )
    plan = torch.rand(steps, layers, generator=generator) < rate
    lots = torch.rand(steps, layers, generator=generator)
    first = round(warmup * steps)
    plan[:first] = False
    crowded = (plan.sum(1) > most).nonzero()[:, 0].tolist()
    surplus: list[tuple[int, int]] = []
    for step in crowded:
        up = plan[step].nonzero()[:, 0]
        for layer in up[lots[step, up].argsort()][most:].tolist():
            plan[step, layer] = False
            surplus.append((step, layer))
    room = most - plan.sum(1)
    room[:first] = 0
    for step, layer in surplus:
        free = ((room > 0) & ~plan[:, layer]).nonzero()[:, 0]
        if len(free):
            away = 2 * (free - step).abs() + (free < step).long()  # the later of two equally near
            target = int(free[away.argmin()])
            plan[target, layer] = True
            room[target] -= 1
    return plan
