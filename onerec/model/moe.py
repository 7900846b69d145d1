"""Mixture of SwiGLU experts without dropped tokens, balanced without an auxiliary loss.

A router picks k experts per token and weighs them; `MixtureOfExperts` does the rest and does not
care which router it is. The paper names DeepSeek's loss-free balancing but neither gate function
nor step size (V1 section 2.3); both follow DeepSeek-V3: s = sigmoid(W x), choose the k largest
s + b, weigh by s normalised over the chosen, and after each step move b against the load.

Left out: expert parallelism, capacity limits, the sequence-wise auxiliary loss.
Shapes: T tokens, D width, F hidden width of an expert, E experts, k experts per token.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onerec.model.layers import gated

BIAS_STEP = 1e-3  # gamma of DeepSeek-V3; OneRec prints none


class Routing(NamedTuple):
    """Which experts see a token: `expert` (T, k) int64 and `weight` (T, k) float."""

    expert: Tensor
    weight: Tensor


class Router(Protocol):
    """What a router offers: a choice per token, and a reaction to the load it caused."""

    def __call__(self, x: Tensor) -> Routing: ...

    def update(self, load: Tensor, step: float) -> None: ...


class LossFreeRouter(nn.Module):
    """Sigmoid affinities, chosen with a bias that only the load moves (DeepSeek-V3)."""

    bias: Tensor

    def __init__(self, width: int, experts: int, active: int) -> None:
        super().__init__()
        self.active = active
        self.weight = nn.Parameter(torch.empty(experts, width))
        self.register_buffer("bias", torch.zeros(experts))

    def forward(self, x: Tensor) -> Routing:
        """(T, D) -> routing, computed in at least float32, under autocast too."""
        kind = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            affinity = torch.sigmoid(F.linear(x.to(kind), self.weight.to(kind)))  # (T, E)
        expert = (affinity + self.bias).topk(self.active, dim=-1).indices  # (T, k)
        weight = affinity.gather(-1, expert)
        return Routing(expert, weight / weight.sum(-1, keepdim=True))

    @torch.no_grad()
    def update(self, load: Tensor, step: float) -> None:
        """b += step for experts below the mean load (E,), b -= step for those above."""
        self.bias += step * torch.sign(load.mean() - load)


class MixtureOfExperts(nn.Module):
    """E SwiGLU experts, k of them per token; every token is served (dropless)."""

    load: Tensor
    last_load: Tensor

    def __init__(self, width: int, hidden: int, experts: int, active: int) -> None:
        super().__init__()
        if not 1 <= active <= experts:
            raise ValueError(f"active_experts={active} must be from 1 to experts={experts}")
        self.experts = experts
        self.router = LossFreeRouter(width, experts, active)
        self.gate_up = nn.Parameter(torch.empty(experts, width, 2 * hidden))
        self.down = nn.Parameter(torch.empty(experts, hidden, width))
        # tokens per expert: since the last update, and in the step before it
        self.register_buffer("load", torch.zeros(experts), persistent=False)
        self.register_buffer("last_load", torch.zeros(experts), persistent=False)

    def forward(self, x: Tensor, counted: Tensor | None = None) -> Tensor:
        """Send each token through its experts.

        Args:
            x: (..., D).
            counted: (...) how often each token enters the load; 0 or False for padding.
        """
        tokens = x.flatten(0, -2)  # (T, D)
        routing = self.router(tokens)
        if self.training:
            self.load += self._tokens_per_expert(routing.expert, counted)
        order = routing.expert.flatten().argsort(stable=True)  # (T k,) by expert
        token = order // routing.expert.shape[1]  # (T k,) source row
        ends = self._tokens_per_expert(routing.expert).long().cumsum(0)
        rows = tokens[token]  # (T k, D)
        if x.is_cuda and torch.is_autocast_enabled("cuda"):
            y = self.grouped(rows.to(torch.get_autocast_dtype("cuda")), ends)
        else:
            y = self.loop(rows, ends)
        y = y * routing.weight.flatten()[order, None]
        return torch.zeros_like(y[: len(tokens)]).index_add(0, token, y).view(x.shape)

    def grouped(self, x: Tensor, ends: Tensor) -> Tensor:
        """All experts in one kernel that never waits for `ends`; bfloat16.

        Rows x (T k, D) are sorted by expert; `ends` (E,) int64 says where each expert's rows end.
        """
        offsets = ends.int()
        gate_up, down = self.gate_up.to(x.dtype), self.down.to(x.dtype)
        gate, up = F.grouped_mm(x, gate_up, offs=offsets).chunk(2, dim=-1)
        return F.grouped_mm(F.silu(gate) * up, down, offs=offsets)

    def loop(self, x: Tensor, ends: Tensor) -> Tensor:
        """As `grouped`, expert after expert, in any dtype."""
        outputs = []
        pieces = x.tensor_split(ends[:-1].cpu())
        for piece, gate_up, down in zip(pieces, self.gate_up, self.down, strict=True):
            outputs.append(gated(piece @ gate_up) @ down)
        return torch.cat(outputs)

    @torch.no_grad()
    def _tokens_per_expert(self, expert: Tensor, counted: Tensor | None = None) -> Tensor:
        """expert (T, k), counted (...) of T tokens or None for all -> load (E,) float32."""
        one = torch.ones(len(expert), dtype=self.load.dtype, device=self.load.device)
        if counted is not None:
            one = counted.flatten().to(self.load)
        one = one[:, None].expand(expert.shape).flatten()
        return torch.zeros_like(self.load).index_add(0, expert.flatten(), one)

    @torch.no_grad()
    def update_bias(self, step: float = BIAS_STEP) -> None:
        """Once after each optimiser step: balance by the load seen since the last call."""
        self.router.update(self.load, step)
        self.last_load.copy_(self.load)
        self.load.zero_()

    def balance(self) -> dict[str, float]:
        """How even the last step's load was; see `load_balance`."""
        return load_balance(self.last_load)


def load_balance(load: Tensor) -> dict[str, float]:
    """Evenness of a load (E,): `max_violation` = max / mean - 1 (MaxVio of the loss-free paper),

    `cv` = standard deviation / mean, `entropy_nats` of the shares. All zero without any token.
    """
    mean = load.double().mean().clamp(min=1e-12)
    share = load.double() / load.double().sum().clamp(min=1e-12)
    return {
        "max_violation": float(load.max() / mean - 1) if load.any() else 0.0,
        "cv": float(load.double().std(correction=0) / mean),
        "entropy_nats": float(torch.special.entr(share).sum()),
    }
