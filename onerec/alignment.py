"""Aligning a policy with a reward: groups, rewards, one objective, and next-token training beside.

`Alignment.loss` is what the training loop calls: it draws a group of items per context from the
policy, or from the copy of it that was served `lag` updates ago, has them scored, and adds the
objective to the next-token loss (V1 section 2.4: no KL term; the two are trained together). Where
a choice is not in the papers it is ours and said.

Ratios are exact at lag 0: the old log-probability is then that of the training forward itself. The
policy acts in evaluation mode, as a twin with the same weights, so dropout does not make ratios
noisy. A beam is not a sample: its items are distinct and its ratios have no importance meaning.

The reference of a tilt, of GRPO with KL and of DPO is the policy that alignment began from, and
stays so (ours). IPA's paper renews it with every iteration (M_t) and does not say how long one
lasts; were it one update, every margin would be 0 and a pair pushed apart however far apart it is
already. With a fixed one the push ends where the margin is wide.

Shapes: B users, G items of a group, L levels.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from onerec.alignment_settings import FEEDBACK, LOG
from onerec.common import generator
from onerec.errors import RunError
from onerec.model.generate import beam_search
from onerec.model.onerec import Batch, OneRec
from onerec.model.sample import Samples, sample, sequence_log_probs
from onerec.reward.rules import format_reward, industrial_reward
from onerec.rollouts import REFERENCED, Rollout
from onerec.tokenizer.trie import Trie
from onerec.train.compiled import compile_training, compiled_log_probs
from onerec.train.policy import DELTA, EPSILON, quotient

Ints = NDArray[np.int64]

AT_ONCE = 1 << 22  # items times width that one pass holds; beyond, parts are recomputed
BYTES = 1024  # of a GPU's memory for each and each block; a pass keeps about a quarter of it
COMPILED_BYTES = 256  # as the last; a compiled pass keeps some 205 of them (0.935B, H200)
SEQUENCES = 1 << 15  # and items: cuDNN's attention has no gradient for 65,536 at once
KL = 0.04  # weight of the divergence from the reference in GRPO with KL (DeepSeekMath)


class Scorer(Protocol):
    """What gives rewards: name -> (B, G) for contexts (B,), (B,) and items (B, G), -1 nobody's."""

    def score(self, user: Ints, end: Ints, items: Tensor) -> dict[str, Tensor]: ...


@dataclass
class AlignBatch:
    """One step's work: `next_token` to train on, and contexts for the policy.

    `user`, `end` (B,) say whose contexts `context` holds; `seed` is the step's own. `logged` is
    what a search of the log takes as the group.
    """

    next_token: Batch
    user: Ints
    end: Ints
    context: Batch
    seed: int
    logged: LoggedItems | None = None


class LoggedItems(NamedTuple):
    """What people were shown next: `items` (B, G), -1 for none, their `codes` (B, G, L), 0 for
    none, and `advantage` (B, G) of what they did (`pipeline.feedback.LoggedFeedback`)."""

    items: Tensor
    codes: Tensor
    advantage: Tensor


@dataclass(frozen=True)
class PolicyConfig:
    """How a group is drawn and judged; `recipes.AlignConfig` says what each is.

    `weights` name -> weight of each reward part; parts without one are recorded, not added.
    `listed` (n,) bool, items of the industrial reward, with `alpha` and `limit`. `measure_norm`
    adds `policy_norm`, the gradient norm of the objective alone, at the price of a backward pass.
    """

    group: int
    search: str = "sample"
    objective: str = "ecpo"
    weight: float = 0.1
    weights: dict[str, float] = field(default_factory=lambda: {"pscore": 1.0})
    format_items: int = 0
    format_by: str = "random"
    format_illegal: float | None = None
    listed: Tensor | None = None
    alpha: float = 1.0
    limit: float = 1.0
    settings: dict[str, float] = field(default_factory=dict)
    measure_norm: bool = False
    tilt: float = 0.0
    temperature: float = 1.0
    top_p: float = 1.0
    icepop: float = 0.0


class Alignment:
    """A policy in training, the copy of it that serves, and the reward.

    Args:
        model: the policy.
        trie: legal codes, on the model's device.
        scorer: gives the rewards.
        config: see `PolicyConfig`.
        lag: updates after which the serving copy is renewed; 0: the policy itself serves.
        compiled: updates are compiled (`train.compiled`), and the pieces of a rollout.
    """

    def __init__(
        self,
        model: OneRec,
        trie: Trie,
        scorer: Scorer,
        config: PolicyConfig,
        lag: int = 0,
        compiled: bool = False,
    ) -> None:
        self.model, self.trie, self.scorer = model, trie, scorer
        self.config, self.lag, self.compiled = config, lag, compiled
        self.acting = in_evaluation(model)
        self.served = _frozen(model) if lag else self.acting
        compared = config.tilt > 0 or config.objective in REFERENCED
        self.reference = _frozen(model) if compared else None
        self.last: Rollout | None = None
        if compiled:  # the copies above stay as they are
            compile_training(model, whole=True)

    def send(self) -> None:
        """New weights for the serving copy."""
        if self.lag:
            self.served.load_state_dict(self.model.state_dict())

    def loss(self, batch: AlignBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Next-token loss plus the weighted objective; `last` then holds the step's rollout."""
        policy, values = self.policy(batch)
        next_token, parts = self.next_token(batch)
        return policy + next_token, {**values, **parts}

    def next_token(self, batch: AlignBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The next-token loss, whose load balances the experts, and its parts.

        The routers' auxiliary losses are in the first, and beside `next_token` in the second.
        """
        loss, parts = self.model.loss(batch.next_token)
        levels = [part for name, part in parts.items() if name.startswith("loss_")]
        return loss, {"next_token": self.model.over_levels(torch.stack(levels)), **parts}

    def policy(self, batch: AlignBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The objective times its weight; without a weight nothing is drawn."""
        if not self.config.weight:
            return torch.zeros((), device=batch.next_token.target.device), {}
        loss, values = self.policy_loss(batch)
        return self.config.weight * loss, values

    def policy_loss(self, batch: AlignBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The objective of one rollout, and what to look at."""
        rollout = self.rollout(batch)
        levels = self._levels(self.acting, batch.context, rollout.codes)
        log_prob = levels.sum(-1)
        rollout.levels = levels.detach()
        if not self.lag or rollout.logged:
            rollout.drawn, rollout.drawn_levels = rollout.log_prob, rollout.levels
        if rollout.logged:  # no policy of ours drew them: pi_old = sg[pi] (V2 section 3.3)
            rollout.sampled = rollout.drawn
        objective = rollout.step(log_prob)
        self.last = rollout
        values = _values(rollout, objective.loss)
        if self.config.measure_norm:
            values["policy_norm"] = _norm(objective.loss, self.model)
        return objective.loss, values

    @torch.no_grad()
    def rollout(self, batch: AlignBatch) -> Rollout:
        """Groups of the serving policy, scored. `levels` are still the sampler's own."""
        logged = self.config.search == LOG
        drawn = _shown(batch) if logged else self._draw(batch)
        parts = {FEEDBACK: drawn.drawn} if logged else self._scored(batch, drawn.items)
        device = drawn.items.device
        old, levels = drawn.drawn, drawn.levels
        if self.config.icepop and self.lag and not logged:
            levels = self._levels(self.served, batch.context, drawn.codes)
            old = levels.sum(-1)
        weights = {FEEDBACK: 1.0}
        if not logged:
            weights = {name: self.config.weights.get(name, 0.0) for name in parts}
        formatted = self._format(drawn, batch.seed)
        return Rollout(
            user=torch.from_numpy(np.asarray(batch.user)).to(device),
            end=torch.from_numpy(np.asarray(batch.end)).to(device),
            item=drawn.items,
            codes=drawn.codes,
            drawn=old,
            levels=torch.zeros(drawn.codes.shape, device=device),
            sampled=drawn.drawn,
            parts=parts,
            weights=weights,
            factor=torch.ones_like(old) if logged else self._factor(drawn.items),
            counted=drawn.legal,
            format=formatted,
            objective=self.config.objective,
            settings=self._settings(),
            reference=self._reference(batch.context, drawn.codes),
            tilt=self.config.tilt,
            beam=self.config.search == "beam",
            model=None if logged else drawn.model,
            drawn_levels=levels,
            icepop=self.config.icepop,
            logged=logged,
        )

    def _scored(self, batch: AlignBatch, items: Tensor) -> dict[str, Tensor]:
        found = self.scorer.score(batch.user, batch.end, items)
        return {name: part.float() for name, part in found.items()}

    def _reference(self, context: Batch, codes: Tensor) -> Tensor | None:
        if self.reference is None:
            return None
        return self._levels(self.reference, context, codes).sum(-1)

    def _draw(self, batch: AlignBatch) -> Samples:
        if self.config.search == "beam":
            asked, wide = (self.served, batch.context, self.trie), self.config.group
            found = beam_search(*asked, k=wide, beam=wide, compiled=self.compiled)
            none = found.items < 0  # fewer legal items than beams
            scores = found.scores.masked_fill(none, 0.0)
            levels = found.code_log_probs.masked_fill(none[..., None], 0.0)
            return Samples(found.items, found.codes.clamp(min=0), scores, scores, levels)
        stream = generator(batch.seed, batch.context.target.device)
        return sample(
            self.served,
            batch.context,
            self.trie,
            group=self.config.group,
            generator=stream,
            constrained=self.config.search == "constrained",
            temperature=self.config.temperature,
            top_p=self.config.top_p,
            compiled=self.compiled,
        )

    def _levels(self, model: OneRec, context: Batch, codes: Tensor) -> Tensor:
        """(B, G, L): the probability with which this model as a sampler would draw each code.

        Of very large groups a part of the users at a time, whose forward pass is done again for the
        gradient: 2,048 items for each of 64 users do not fit otherwise. What is compiled has an
        attention of its own within sequences so short.
        """
        how: dict[str, Any] = {}
        if self.config.search in ("sample", "constrained"):
            how = {"temperature": self.config.temperature, "top_p": self.config.top_p}
        if self.config.search == "constrained":
            how["trie"] = self.trie

        compiled = self.compiled and torch.is_grad_enabled()

        def of(context: Batch, codes: Tensor) -> Tensor:
            if compiled:
                return compiled_log_probs(model, context, codes, **how)
            return sequence_log_probs(model, context, codes, **how)

        users, group = codes.shape[:2]
        each = (COMPILED_BYTES if compiled else BYTES) * model.config.decoder_layers
        most = _held(codes.device, each) // model.config.width
        most = most if compiled else min(SEQUENCES, most)
        parts = min(users, math.ceil(users * group / most))
        if parts < 2:
            return of(context, codes)
        split = zip(context.split(parts), codes.tensor_split(_ends(users, parts)), strict=True)
        return torch.cat([checkpoint(of, *part, use_reentrant=False) for part in split])

    def _format(self, drawn: Samples, seed: int) -> Tensor:
        """The format reward's advantage (B, G), where it is on."""
        config = self.config
        if not config.format_items or config.search != "sample":
            return torch.zeros_like(drawn.drawn)
        return format_reward(
            drawn.legal,
            config.format_items,
            generator(seed + 1, drawn.legal.device),
            by="probability" if config.format_by == "probability" else "random",
            log_prob=drawn.model,
            illegal=config.format_illegal,
        ).advantage

    def _factor(self, items: Tensor) -> Tensor:
        one = torch.ones(items.shape, device=items.device)
        if self.config.listed is None:
            return one
        listed = self.config.listed.to(items.device)[items.clamp(min=0)] & (items >= 0)
        share = float(listed.sum() / (items >= 0).sum().clamp(min=1))
        return industrial_reward(
            one, listed, alpha=self.config.alpha, limit=self.config.limit, share=share
        )

    def _settings(self) -> dict[str, float]:
        defaults = {
            "ecpo": {"epsilon": EPSILON, "delta": DELTA},
            "grpo": {"epsilon": EPSILON},
            "grpo_kl": {"epsilon": EPSILON, "kl": KL},
        }
        return {**defaults.get(self.config.objective, {}), **self.config.settings}


def _shown(batch: AlignBatch) -> Samples:
    """The logged group in the place of a drawn one; its advantages where a sample has `drawn`."""
    if batch.logged is None:
        raise RunError("align.search=log needs the log's items; this batch has none")
    return Samples(batch.logged.items, batch.logged.codes, *[batch.logged.advantage.float()] * 2)


def _held(device: torch.device, each: int) -> int:
    """Items times width that one pass may hold on a device, with so many bytes for each."""
    if device.type != "cuda":
        return AT_ONCE
    return max(AT_ONCE, torch.cuda.get_device_properties(device).total_memory // each)


def _ends(users: int, parts: int) -> list[int]:
    """Where `Batch.split` cuts."""
    return [users * part // parts for part in range(1, parts)]


def in_evaluation(model: OneRec) -> OneRec:
    """The same weights, in evaluation mode whatever mode the model is in."""
    twin = copy.copy(model)
    twin._modules = {
        name: None if child is None else in_evaluation(cast(OneRec, child))
        for name, child in model._modules.items()
    }
    twin.training = False
    return twin


def _frozen(model: OneRec) -> OneRec:
    return copy.deepcopy(model).eval().requires_grad_(False)


def _norm(loss: Tensor, model: OneRec) -> Tensor:
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    total: Tensor = torch.stack([g.norm() for g in gradients if g is not None]).norm()
    return total


@torch.no_grad()
def _values(rollout: Rollout, loss: Tensor) -> dict[str, Tensor]:
    """What metrics.jsonl says of a policy step; ratios are pi / pi_old before any early clip."""
    counted = rollout.counted
    ratio = quotient(rollout.log_prob, rollout.drawn).masked_fill(~counted, 0.0)
    number = counted.sum().clamp(min=1)
    advantage, reward = rollout.advantage(), rollout.reward()
    epsilon = rollout.settings.get("epsilon", EPSILON)
    delta = rollout.settings.get("delta", DELTA)
    outside = (ratio < 1 - epsilon) | (ratio > 1 + epsilon)
    beyond = ratio > 1 + epsilon + delta
    negative = counted & (advantage < 0)
    values = {
        "policy": loss.detach(),
        "reward": (reward * counted).sum() / number,
        "legality": (rollout.logged | (rollout.item >= 0)).float().mean(),
        "outside": (outside & counted).sum() / number,
        "beyond": (beyond & negative).sum() / negative.sum().clamp(min=1),
        "flat_groups": rollout.flat().float().mean(),
        "ratio_max": ratio.amax(),
    }
    if rollout.icepop:
        values["masked"] = ((rollout.trusted() == 0) & counted).sum() / number
    for name, part in rollout.parts.items():
        values[f"reward_{name}"] = (part * counted).sum() / number
    return values


def score_lists(
    scorer: Scorer, user: Ints, end: Ints, items: Ints, names: tuple[str, ...], at_once: int = 256
) -> dict[str, NDArray[np.float32]]:
    """Mean reward of each list (M, k), -1 for nothing, which scores 0: name -> (M,)."""
    parts: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}
    for begin in range(0, len(items), at_once):
        rows = slice(begin, begin + at_once)
        scored = scorer.score(user[rows], end[rows], torch.from_numpy(items[rows]))
        for name in names:
            parts[name].append(scored[name].float().mean(1).cpu().numpy())
    return {name: np.concatenate(found) for name, found in parts.items()}
