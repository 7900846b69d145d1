"""Mixture of SwiGLU experts: dropless, routed, with shared experts beside, and open to inspection.

A router (`onerec.model.routers`) picks k experts per token and weighs them; `MixtureOfExperts` does
the rest and does not care which router it is. Shared experts see every token and are added with
weight 1 (MoME arXiv 2510.04136; V2 has 1 beside 53 routed ones).

Left out: expert parallelism, capacity limits.
Shapes: T tokens, D width, F hidden width of an expert, E experts, k experts per token.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onerec.model.layers import SwiGLU, gated
from onerec.model.routers import (
    BIAS_STEP,
    CompetitionRouter,
    Losses,
    LossFreeRouter,
    Router,
    RouterConfig,
    Routing,
    make_router,
)

__all__ = [
    "BIAS_STEP",
    "LossFreeRouter",
    "MixtureOfExperts",
    "Recorded",
    "Router",
    "RouterConfig",
    "Routing",
    "load_balance",
]


class Recorded(NamedTuple):
    """One pass through a mixture: `expert` and `weight` (..., k) of the tokens (...) it was given.

    `counted` (...) is how often each token enters the load, as handed in; None for once each.
    Weights keep their gradient where gradients are on.
    """

    expert: Tensor
    weight: Tensor
    counted: Tensor | None


class MixtureOfExperts(nn.Module):
    """E SwiGLU experts, k of them per token; every token is served (dropless).

    Args:
        width: D.
        hidden: F.
        experts: E.
        active: k.
        shared: experts of hidden width F that see every token. They are one SwiGLU of `shared` F
            hidden units, which is the same sum; together they start as loud as one (ours).
        router: which router, and the weights of its losses.

    Raises:
        ValueError: k is not from 1 to E, `shared` is negative, or there is no such router.
    """

    load: Tensor
    last_load: Tensor

    def __init__(
        self,
        width: int,
        hidden: int,
        experts: int,
        active: int,
        shared: int = 0,
        router: RouterConfig | None = None,
    ) -> None:
        super().__init__()
        if not 1 <= active <= experts:
            raise ValueError(f"active_experts={active} must be from 1 to experts={experts}")
        if shared < 0:
            raise ValueError(f"shared_experts={shared} must be at least 0")
        self.experts, self.active = experts, active
        self.router = make_router(router or RouterConfig(), width, experts, active)
        self.gate_up = nn.Parameter(torch.empty(experts, width, 2 * hidden))
        self.down = nn.Parameter(torch.empty(experts, hidden, width))
        self.shared = SwiGLU(width, shared * hidden) if shared else None
        self.losses: Losses = {}  # auxiliary, of the last training pass
        self._recorded: list[Recorded] | None = None
        self._kept: tuple[object, ...] | None = None  # what the copies are of
        self._copies: tuple[Tensor, Tensor] | None = None
        # tokens per expert: since the last update, and in the step before it
        self.register_buffer("load", torch.zeros(experts), persistent=False)
        self.register_buffer("last_load", torch.zeros(experts), persistent=False)

    def forward(self, x: Tensor, counted: Tensor | None = None) -> Tensor:
        """Send each token through its experts.

        Args:
            x: (..., D).
            counted: (...) how often each token enters load and losses; 0 or False for padding.
        """
        tokens = x.flatten(0, -2)  # (T, D)
        if self.training and self.router.competing and self.router.off is None:
            routing, y = self._compete(tokens, counted)
        else:
            routing = self.router(tokens)
            if self.training:
                self.losses = self.router.losses(routing, counted)
            y = self._routed(tokens, routing)
        if self.training:
            self.load += self.tokens_per_expert(routing.expert, counted)
        if self._recorded is not None:
            shape = (*x.shape[:-1], -1)
            expert, weight = routing.expert.view(shape), routing.weight.view(shape)
            self._recorded.append(Recorded(expert, weight, counted))
        y = y.view(x.shape)
        return y if self.shared is None else y + self.shared(x)

    def _routed(self, tokens: Tensor, routing: Routing) -> Tensor:
        """Each token (T, D) through its k experts alone -> (T, D)."""
        expert = routing.expert.flatten()
        ends = self.tokens_per_expert(routing.expert).long().cumsum(0)
        if tokens.is_cuda:
            order = expert.short().argsort(stable=True)  # (T k,) by expert
            rows, place = dispatched(tokens, order, self.active)
            cast_to = torch.get_autocast_dtype("cuda")
            mixed = torch.is_autocast_enabled("cuda")
            y = self.grouped(rows.to(cast_to), ends) if mixed else self.loop(rows, ends)
            return combined(y, order, place, routing.weight)
        order = expert.argsort(stable=True)
        token = order // routing.expert.shape[1]  # (T k,) source row
        y = self.loop(tokens[token], ends) * routing.weight.flatten()[order, None]
        return torch.zeros_like(y[: len(tokens)]).index_add(0, token, y)

    def _compete(self, tokens: Tensor, counted: Tensor | None) -> tuple[Routing, Tensor]:
        """Each token (T, D) through all experts; the router keeps those that answer strongest."""
        outputs = (gated(tokens @ self.gate_up) @ self.down).transpose(0, 1)  # (T, E, D)
        router = cast(CompetitionRouter, self.router)
        routing, self.losses = router.compete(tokens, outputs, counted)
        index = routing.expert[..., None].expand(-1, -1, outputs.shape[-1])
        winners = outputs.gather(1, index)  # (T, k, D)
        return routing, (winners * routing.weight[..., None]).sum(1)

    def grouped(self, x: Tensor, ends: Tensor) -> Tensor:
        """All experts in one kernel that never waits for `ends`; bfloat16.

        Rows x (T k, D) are sorted by expert; `ends` (E,) int64 says where each expert's rows end.
        """
        offsets = ends.int()
        gate_up, down = self._weights(x.dtype)
        gate, up = F.grouped_mm(x, gate_up, offs=offsets).chunk(2, dim=-1)
        return F.grouped_mm(F.silu(gate) * up, down, offs=offsets)

    def _weights(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """gate_up and down in a dtype; without gradients the copies of `keep` are taken.

        Autocast keeps its casts of linear layers in the same way, but knows nothing of these.
        """
        if torch.is_grad_enabled():
            # Not read where it is compiled: code would be made anew for each state of the weights.
            if not torch.compiler.is_compiling() and self._kept is not None:
                self._kept = self._copies = None
            return self.gate_up.to(dtype), self.down.to(dtype)
        if not torch.compiler.is_compiling():  # who compiles calls `keep` before
            self.keep(dtype)
        return cast(tuple[Tensor, Tensor], self._copies)

    @torch.no_grad()
    def keep(self, dtype: torch.dtype) -> None:
        """Copies of the weights in a dtype, made again in place where the weights have changed."""
        weights = self.gate_up, self.down
        known = (dtype, *((weight.data_ptr(), weight._version) for weight in weights))
        if self._kept == known:
            return
        copies, self._kept = self._copies, known
        if copies is None or (copies[0].dtype, copies[0].device) != (dtype, weights[0].device):
            self._copies = weights[0].to(dtype), weights[1].to(dtype)
            return
        for copy, weight in zip(copies, weights, strict=True):
            copy.copy_(weight)

    @property
    def kept(self) -> tuple[Tensor, Tensor] | None:
        """The copies of `keep` as they stand; other ones once gradients have been asked for."""
        return self._copies

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def loop(self, x: Tensor, ends: Tensor) -> Tensor:
        """As `grouped`, expert after expert, in any dtype; never compiled: sizes are the data's."""
        outputs = []
        pieces = x.tensor_split(ends[:-1].cpu())
        for piece, gate_up, down in zip(pieces, self.gate_up, self.down, strict=True):
            outputs.append(gated(piece @ gate_up) @ down)
        return torch.cat(outputs)

    @torch.no_grad()
    def tokens_per_expert(self, expert: Tensor, counted: Tensor | None = None) -> Tensor:
        """expert (T, k), counted (...) of T tokens or None for all -> load (E,) float32."""
        one = torch.ones(len(expert), dtype=self.load.dtype, device=self.load.device)
        if counted is not None:
            one = counted.flatten().to(self.load)
        one = one[:, None].expand(expert.shape).flatten()
        return torch.zeros_like(self.load).index_add(0, expert.flatten(), one)

    def take_losses(self) -> Losses:
        """The auxiliary losses of the last training pass, without weights; each pass once."""
        losses, self.losses = self.losses, {}
        return losses

    @torch.no_grad()
    def update_bias(self, step: float = BIAS_STEP) -> None:
        """Once after each optimiser step: balance by the load seen since the last call."""
        self.router.update(self.load, step)
        self.last_load.copy_(self.load)
        self.load.zero_()

    def balance(self) -> dict[str, float]:
        """How even the last step's load was; see `load_balance`."""
        return load_balance(self.last_load)

    @contextlib.contextmanager
    def record(self) -> Iterator[list[Recorded]]:
        """Inside, every pass leaves a `Recorded` in the list that is handed out.

        In one thread alone: passes that others make at once come in any order.
        """
        before, self._recorded = self._recorded, []
        try:
            yield self._recorded
        finally:
            self._recorded = before

    @contextlib.contextmanager
    def without(self, experts: Iterable[int]) -> Iterator[None]:
        """Inside, these experts are never chosen; the weights are shared out over the others.

        Raises:
            ValueError: no such expert, or fewer than k are left.
        """
        asked, before = sorted(set(experts)), self.router.off
        if any(not 0 <= expert < self.experts for expert in asked):
            raise ValueError(f"experts {asked}: there are 0 to {self.experts - 1}")
        off = torch.zeros_like(self.load, dtype=torch.bool) if before is None else before.clone()
        off[asked] = True
        left = self.experts - int(off.sum())
        if left < self.active:
            raise ValueError(f"experts {asked} off leaves {left}; a token needs {self.active}")
        self.router.off = off
        try:
            yield
        finally:
            self.router.off = before


class _Take(torch.autograd.Function):
    """x[index] whose gradient is a gather as well, for `back` says who took each row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        ctx.shape = len(x), len(back) // max(1, len(x)), x.shape[1]
        return x[index]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (back,) = ctx.saved_tensors
        return grad[back].view(ctx.shape).sum(1), None, None


def dispatched(tokens: Tensor, order: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Each token's row once for each of its experts, and where the k rows of a token stand.

    (T, D) and the order (T k,) of its rows by expert -> (T k, D), (T k,). With `combined` it is all
    gathers, forwards and backwards: where `index_add` adds in whatever order a GPU's threads come,
    these have one.
    """
    place = torch.empty_like(order).scatter(0, order, torch.arange(len(order), device=order.device))
    rows: Tensor = _Take.apply(tokens, order // k, place)  # type: ignore[no-untyped-call]
    return rows, place


def combined(y: Tensor, order: Tensor, place: Tensor, weight: Tensor) -> Tensor:
    """The experts' answers (T k, D) to rows in that order, weighed by (T, k) and summed: (T, D)."""
    own: Tensor = _Take.apply(y, place, order)  # type: ignore[no-untyped-call]
    return (own.view(*weight.shape, y.shape[1]) * weight[..., None]).sum(1)


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
