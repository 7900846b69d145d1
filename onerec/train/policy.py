"""Policy objectives for alignment: pure functions of log-probabilities and advantages.

Each takes a group of G generated items for each of B users, and returns an `Objective` whose `loss`
is to be minimised. An item is its whole code sequence, so there is one log-probability and one
ratio per item, not per code. `old` is the log-probability with which the sampler really drew the
item (renormalised by the trie, by top-p, by temperature); it is data. A beam is no sample: its
items are distinct and its ratios have no importance meaning, whatever they are used for.

    ecpo        OneRec (V1 eq. 32): GRPO whose ratio an early clip keeps below 1 + eps + delta
    grpo        Shao et al. 2024: clipped ratio, and a KL term where a reference is given
    ppo_clip    Schulman et al. 2017: the clipped ratio alone, for any advantage
    gbpo        OneRec-V2: no clip; the denominator bounds the ratio
    dpo         OneRec's first paper (IPA): the best of the group against the worst
    reinforce   advantage times log-probability; the baseline is in the advantage

Which numbers the papers print stands in each docstring; all other defaults are ours.
Shapes: B users, G items of a group.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 0.2  # half-width of the clip; OneRec prints none (PPO's value)
DELTA = 0.1  # V1 eq. 32
SAME_REWARD = 1e-6  # a group whose rewards spread less teaches nothing
MOST_APART = 30.0  # of the logarithms of a ratio: a norm squares it and stays in float32; ours


@dataclass(frozen=True)
class Objective:
    """What a policy step minimises, and what to look at.

    `loss` scalar; `ratio` (B, G) as it enters the objective, detached; `push` (B, G): the gradient
    of each item's own objective with respect to its log-probability, before the mean over the
    group. A positive push raises the probability of the item.
    """

    loss: Tensor
    ratio: Tensor
    push: Tensor


def group_advantage(reward: Tensor, counted: Tensor | None = None, *, limit: float = 5.0) -> Tensor:
    """(r - mean) / std within each group: rewards (B, G) -> advantages (B, G).

    A group whose rewards do not differ, or of which fewer than two items count, gets zeros. The
    standard deviation is the population's, and the result is cut to +-`limit`; both ours.

    Args:
        reward: (B, G).
        counted: (B, G) bool, items that take part; the others get 0 and enter no mean.
    """
    counted = torch.ones_like(reward, dtype=torch.bool) if counted is None else counted
    centred, spread = _spread(reward, counted)
    teaches = spread > SAME_REWARD
    advantage = torch.where(teaches, centred / spread.clamp(min=SAME_REWARD), 0.0)
    return advantage.clamp(-limit, limit)


def without_spread(reward: Tensor, counted: Tensor) -> Tensor:
    """(B,) bool: groups of which fewer than two items count, or whose rewards do not differ.

    Rewards (B, G) differ where their standard deviation is above 1e-6.
    """
    return _spread(reward, counted)[1][:, 0] <= SAME_REWARD


def _spread(reward: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """Rewards less their group's mean, 0 where not counted (B, G), and their deviation (B, 1)."""
    number = counted.sum(1, keepdim=True).clamp(min=1)
    reward = reward.masked_fill(~counted, 0.0)
    centred = (reward - reward.sum(1, keepdim=True) / number).masked_fill(~counted, 0.0)
    return centred, (centred.square().sum(1, keepdim=True) / number).sqrt()


def tilted_advantage(
    reward: Tensor,
    log_prob: Tensor,
    reference: Tensor,
    counted: Tensor,
    share: Tensor,
    *,
    tilt: float,
    limit: float = 5.0,
) -> Tensor:
    """Advantages whose fixed point is the reference tilted by the reward: pi_ref r^tilt / Z.

        A = tilt log r - log(pi / pi_ref), less its mean within the group

    That is the gradient of tilt E[log r] - KL(pi || pi_ref) (e.g. Korbak et al., arXiv 2205.11275),
    where the papers' (r - mean) / std has no fixed point of its own and goes as far as it is let.
    Not in OneRec's papers: ours. Rewards below 1e-6 count as that; the result is cut to +-`limit`.

    Args:
        reward: (B, G), from 0 up.
        log_prob: (B, G), of the policy when the step began.
        reference: (B, G), of the fixed reference.
        counted: (B, G) bool, items that take part; the others get 0.
        share: (B, G) weights of the mean, see `group_share`.
        tilt: the exponent.
    """
    gain = tilt * reward.clamp(min=SAME_REWARD).log() - (log_prob - reference)
    gain = gain.detach().masked_fill(~counted, 0.0)
    centred = gain - (share * gain).sum(1, keepdim=True)
    return centred.clamp(-limit, limit).masked_fill(~counted, 0.0)


def group_share(drawn: Tensor, counted: Tensor, beam: bool) -> Tensor:
    """How much each item counts for the expectation over its group: (B, G), sums to 1.

    Samples count alike. The items of a beam are distinct, so each counts by its probability
    `drawn` (B, G) among those of the group: the expectation over the policy, cut to the beam. Of
    items that share their codes each has its part of it (see `alike`).
    """
    weight = drawn if beam else torch.zeros_like(drawn)
    share = weight.masked_fill(~counted, -torch.inf).softmax(1)
    return torch.nan_to_num(share)  # a group of which nothing counts


def alike(codes: Tensor, counted: Tensor) -> Tensor:
    """How many counted items of its group have an item's codes, itself among them: (B, G).

    A beam holds every item of a leaf, each with the probability of the leaf: each is 1 / alike of
    it (ours). 1 for items that do not count.
    """
    rows = torch.arange(len(codes), device=codes.device)[:, None].expand(counted.shape)
    place, size = rows[counted], int(codes.max()) + 1
    for level in codes[counted].unbind(-1):  # numbered anew each time, or the number grows too big
        _, place, number = torch.unique(
            place * size + level, return_inverse=True, return_counts=True
        )
    found = torch.ones_like(rows)
    found[counted] = number[place]
    return found


def ecpo(
    log_prob: Tensor,
    old: Tensor,
    advantage: Tensor,
    weight: Tensor | None = None,
    *,
    epsilon: float = EPSILON,
    delta: float = DELTA,
) -> Objective:
    """Early-clipped GRPO (V1 eq. 32): min(rho A, clip(rho, 1-eps, 1+eps) A) with

        pi'_old = max(sg[pi] / (1 + eps + delta), pi_old),  rho = pi / pi'_old

    So rho never exceeds 1 + eps + delta. For A > 0 nothing changes. For A < 0 the value is flat
    from there on, but the push stays A (1 + eps + delta): bounded, not zero.

    Args:
        log_prob: (B, G), of the policy that is trained; carries the gradient.
        old: (B, G), of the sampler.
        advantage: (B, G).
        weight: (B, G) per item, 0 leaves it out; from `icepop`, or a mask. None: all count.
        epsilon: NOT FOUND in the papers.
        delta: .1 in the paper.
    """
    capped = torch.maximum(log_prob.detach() - math.log(1 + epsilon + delta), old)
    return _clipped(log_prob, capped, advantage, weight, epsilon)


def grpo(
    log_prob: Tensor,
    old: Tensor,
    advantage: Tensor,
    weight: Tensor | None = None,
    *,
    epsilon: float = EPSILON,
    reference: Tensor | None = None,
    kl: float = 0.0,
) -> Objective:
    """The clipped ratio with group advantages, minus `kl` times the divergence from a reference.

    The divergence is estimated per item as exp(d) - d - 1 with d = log pi_ref - log pi (Schulman's
    k3, as in GRPO's paper eq. 4). For A < 0 the ratio is not bounded from above.

    Raises:
        ValueError: `kl` without a `reference`.
    """
    if kl and reference is None:
        raise ValueError(f"kl={kl} needs the reference's log-probabilities")
    plain = _clipped(log_prob, old, advantage, weight, epsilon)
    if reference is None or not kl:
        return plain
    apart = torch.minimum(reference, log_prob.detach() + MOST_APART) - log_prob
    divergence = apart.exp() - apart - 1
    drift = -kl * (1 - apart.detach().exp())  # of -kl * divergence, by log pi
    drift = drift if weight is None else drift * weight
    return Objective(plain.loss + kl * _mean(divergence, weight), plain.ratio, plain.push + drift)


def ppo_clip(
    log_prob: Tensor,
    old: Tensor,
    advantage: Tensor,
    weight: Tensor | None = None,
    *,
    epsilon: float = EPSILON,
) -> Objective:
    """min(rho A, clip(rho, 1-eps, 1+eps) A) with rho = pi / pi_old; arguments as `ecpo`."""
    return _clipped(log_prob, old, advantage, weight, epsilon)


def gbpo(
    log_prob: Tensor, old: Tensor, advantage: Tensor, weight: Tensor | None = None
) -> Objective:
    """Gradient-bounded policy optimisation (V2 section 3.3): rho A without a clip, where

        pi'_old = max(pi_old, sg[pi])      for A >= 0:  rho = min(pi / pi_old, 1)
        pi'_old = max(pi_old, 1 - sg[pi])  for A < 0:   rho <= pi / (1 - pi)

    The push on a negative is bounded like that of a binary cross-entropy. A whole item rarely has a
    probability above 1e-3, so 1 - pi is about 1 and its negatives hardly push at all: a small
    gradient alone is no merit.
    """
    now = log_prob.detach()
    rest = torch.log1p(-now.exp().clamp(max=1 - torch.finfo(now.dtype).eps))  # log(1 - pi)
    denominator = torch.where(advantage >= 0, torch.maximum(old, now), torch.maximum(old, rest))
    ratio = (log_prob - denominator).exp()
    gain = ratio * advantage
    return _objective(gain, ratio, gain, weight)


def reinforce(
    log_prob: Tensor, old: Tensor, advantage: Tensor, weight: Tensor | None = None
) -> Objective:
    """A log pi: the group baseline stands in the advantage, `old` is only reported as a ratio."""
    ratio = quotient(log_prob.detach(), old)
    return _objective(log_prob * advantage, ratio, advantage, weight)


def dpo(
    log_prob: Tensor,
    reference: Tensor,
    advantage: Tensor,
    weight: Tensor | None = None,
    *,
    beta: float = 0.1,
) -> Objective:
    """-log sigma(beta [(log pi(w) - log ref(w)) - (log pi(l) - log ref(l))]) per group (V0, IPA).

    w is the item with the highest advantage, l the one with the lowest, the earlier of equals; a
    group without a difference is left out. `beta` is NOT FOUND in the paper. `weight` of 0 takes an
    item out of the choice.

    The paper's reference is M_t, the policy of the iteration before; how long one lasts is NOT
    FOUND. `Alignment` passes the policy that it began from, and says why.
    """
    counted = torch.ones_like(advantage, dtype=torch.bool) if weight is None else weight != 0
    best = advantage.masked_fill(~counted, -torch.inf).argmax(1, keepdim=True)  # (B, 1)
    worst = advantage.masked_fill(~counted, torch.inf).argmin(1, keepdim=True)
    gap = advantage.gather(1, best) - advantage.gather(1, worst)
    differs = (gap > 0) & (counted.sum(1, keepdim=True) > 1)
    margin = log_prob - reference  # (B, G)
    margin_gap = beta * (margin.gather(1, best) - margin.gather(1, worst))  # (B, 1)
    loss = _mean(F.softplus(-margin_gap), differs.to(log_prob.dtype))
    strength = beta * torch.sigmoid(-margin_gap.detach()) * differs
    push = torch.zeros_like(margin).scatter_add(1, best, strength)
    push = push.scatter_add(1, worst, -strength).detach()
    return Objective(loss, quotient(log_prob.detach(), reference), push)


def icepop(trained: Tensor, sampled: Tensor, *, low: float = 0.5, high: float = 5.0) -> Tensor:
    """k = pi_train / pi_infer of the old policy where it lies in [low, high], else 0: (B, G).

    A weight for the objectives: items on which training and generation disagree (another precision,
    another kernel) give no gradient. Ring-1T (arXiv 2510.18855); the bounds are those of NeMo-RL.
    """
    disagreement = (trained - sampled).exp()
    kept = (disagreement >= low) & (disagreement <= high)
    return torch.where(kept, disagreement, 0.0)


def quotient(log_prob: Tensor, old: Tensor) -> Tensor:
    """pi / pi_old, whose denominator keeps it below exp(30), as ECPO's does below 1 + eps + delta.

    Beyond, the loss and its push stay as large as there. Without it an infinite ratio times a
    weight, an advantage or a gradient of 0 were no number.
    """
    return (log_prob - torch.maximum(old, log_prob.detach() - MOST_APART)).exp()


def _clipped(
    log_prob: Tensor, old: Tensor, advantage: Tensor, weight: Tensor | None, epsilon: float
) -> Objective:
    ratio = quotient(log_prob, old)
    free, held = ratio * advantage, ratio.clamp(1 - epsilon, 1 + epsilon) * advantage
    # at equality, inside the clip, both carry the gradient
    push = torch.where(free <= held, free, 0.0)
    return _objective(torch.minimum(free, held), ratio, push, weight)


def _objective(gain: Tensor, ratio: Tensor, push: Tensor, weight: Tensor | None) -> Objective:
    """Mean gain over groups and users as a loss; see `Objective`."""
    push = push.detach() if weight is None else push.detach() * weight
    return Objective(-_mean(gain, weight), ratio.detach(), push)


def _mean(values: Tensor, weight: Tensor | None) -> Tensor:
    """Over everything, also what a weight of 0 leaves out: leaving items out scales no other up."""
    if weight is None:
        return values.mean()
    return torch.where(weight == 0, 0.0, values * weight).mean()
