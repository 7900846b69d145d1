"""The policy objectives as a reader needs them: their curves, and what one item does in them.

Values, pushes and regions are worked out in numpy, so that looking at a run needs no torch (two
seconds of a first visit); tests hold them equal to `onerec.train.policy` and to its gradients.
Shapes: B users, G items of a group. There is one ratio per item, of its whole code sequence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from onerec.explain.tokens import code_columns

EPSILON, DELTA, BETA = 0.2, 0.1, 0.1  # what `onerec.train.policy` takes where a step names nothing
SAME_REWARD, ADVANTAGE_LIMIT, MOST_APART = 1e-6, 5.0, 30.0  # its own, too
COMPARED = ("ecpo", "grpo", "gbpo")  # objectives that have a curve against the ratio
CLIPPED = ("ecpo", "grpo", "grpo_kl", "ppo_clip")
REGIONS = ("below 1-ε", "inside 1±ε", "above 1+ε", "above 1+ε+δ")
EFFECTS = ("pushes", "bounded push", "clipped: no push", "no advantage", "not chosen", "left out")
PUSHES, BOUNDED, SILENT, NO_ADVANTAGE, NOT_CHOSEN, LEFT_OUT = EFFECTS


def curves(
    objectives: Sequence[str] = COMPARED,
    *,
    epsilon: float = EPSILON,
    delta: float = DELTA,
    signs: Sequence[float] = (1.0, -1.0),
    probability: float = 1e-3,
    kl: float = 0.0,
) -> pd.DataFrame:
    """objective, advantage, ratio, value, push: what one item adds, against pi / pi_old.

    `push` is d value / d log pi. The grid has a point on both sides of each bound, so that a jump
    is drawn as one. GBPO depends on pi itself: its item was drawn with `probability`, and its curve
    ends where pi would pass 1.

    Args:
        signs: the advantages to draw, +1 and -1.
        probability: of the whole item when it was drawn.
        kl: weight of GRPO's divergence from the sampler.
    """
    _check_curves(objectives, epsilon, delta, probability)
    grid = _grid((1 - epsilon, 1 + epsilon, 1 + epsilon + delta))
    frames = []
    for name in objectives:
        ratio = grid[grid * probability < 1] if name == "gbpo" else grid
        old = np.full((len(ratio), 1), math.log(probability))  # a group of one at each point
        log_prob = old + np.log(ratio)[:, None]
        drift = kl if name == "grpo" else 0.0
        for sign in signs:
            advantage = np.full_like(old, float(sign))
            entered = entering(name, log_prob, old, advantage, epsilon, delta)
            gain = value(name, entered, float(sign), epsilon)[:, 0]
            pushed = push(
                name,
                log_prob,
                old,
                advantage,
                np.ones_like(old, dtype=bool),
                epsilon=epsilon,
                delta=delta,
            )[:, 0]
            gain = gain - drift * (1 / ratio - 1 + np.log(ratio))
            pushed = pushed - drift * (1 - 1 / ratio)
            known = {"objective": name, "advantage": float(sign), "ratio": ratio}
            frames.append(pd.DataFrame(known | {"value": gain, "push": pushed}))
    return pd.concat(frames, ignore_index=True)


def _check_curves(
    objectives: Sequence[str], epsilon: float, delta: float, probability: float
) -> None:
    if unknown := [name for name in objectives if name not in COMPARED]:
        raise ValueError(f"objective {unknown[0]!r}: choose among {', '.join(COMPARED)}")
    if not objectives:
        raise ValueError(f"no objective: choose among {', '.join(COMPARED)}")
    if not 0 < epsilon < 1 or delta < 0:
        raise ValueError(f"epsilon={epsilon}, delta={delta}: 0 < epsilon < 1 and 0 <= delta")
    if not 0 < probability < 1:
        raise ValueError(f"probability={probability}: it lies between 0 and 1")


def _grid(bounds: Sequence[float], least: float = 0.05, greatest: float = 20.0) -> np.ndarray:
    """(points,): ratios, evenly spread in their logarithm, and each bound from both sides."""
    beside = [bound * side for bound in bounds for side in (1 - 1e-9, 1.0, 1 + 1e-9)]
    return np.unique([*np.geomspace(least, greatest, 161), *beside])


def value(
    objective: str, ratio: np.ndarray, advantage: np.ndarray | float, epsilon: float
) -> np.ndarray:
    """What an item adds to the objective, given the ratio as it enters (see `entering`)."""
    free = ratio * advantage
    if objective not in CLIPPED:
        return np.asarray(free)
    return np.asarray(np.minimum(free, np.clip(ratio, 1 - epsilon, 1 + epsilon) * advantage))


def entering(
    objective: str,
    log_prob: np.ndarray,
    old: np.ndarray,
    advantage: np.ndarray,
    epsilon: float,
    delta: float,
) -> np.ndarray:
    """The ratio as it enters the objective: ECPO and GBPO change its denominator."""
    if objective == "ecpo":
        old = np.maximum(log_prob - math.log(1 + epsilon + delta), old)
    elif objective == "gbpo":
        now = np.minimum(np.exp(log_prob), 1 - np.finfo(np.float32).eps)
        old = np.maximum(old, np.where(advantage >= 0, log_prob, np.log1p(-now)))
    return quotient(log_prob, old)


def quotient(log_prob: np.ndarray, old: np.ndarray) -> np.ndarray:
    """exp(log_prob - old), kept below exp(30) as training keeps it."""
    return np.asarray(np.exp(np.clip(log_prob - old, -700, MOST_APART)))


def group_advantage(reward: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """(r - mean) / std within each group, as `onerec.train.policy.group_advantage`: (B, G)."""
    centred, spread = _spread(reward, counted)
    advantage = np.where(spread > SAME_REWARD, centred / np.maximum(spread, SAME_REWARD), 0.0)
    return np.clip(advantage, -ADVANTAGE_LIMIT, ADVANTAGE_LIMIT)


def _spread(reward: np.ndarray, counted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rewards less their group's mean, 0 where not counted (B, G), and their deviation (B, 1)."""
    number = np.maximum(counted.sum(1, keepdims=True), 1)
    reward = np.where(counted, reward, 0.0)
    centred = np.where(counted, reward - reward.sum(1, keepdims=True) / number, 0.0)
    return centred, np.sqrt((centred**2).sum(1, keepdims=True) / number)


def group_share(drawn: np.ndarray, counted: np.ndarray, beam: bool) -> np.ndarray:
    """As `onerec.train.policy.group_share`: (B, G), how much each item counts in its group."""
    weight = np.where(counted, drawn if beam else 0.0, -np.inf)
    top = weight.max(1, keepdims=True)
    weight = np.exp(weight - np.where(np.isfinite(top), top, 0.0))
    return np.asarray(weight / np.maximum(weight.sum(1, keepdims=True), np.finfo(float).tiny))


def alike(rows: pd.DataFrame, counted: np.ndarray) -> np.ndarray:
    """As `onerec.train.policy.alike`: (B, G), how many counted items share an item's codes."""
    users, group = counted.shape
    rows = rows[code_columns(rows)].reset_index(drop=True)
    rows["user"] = np.repeat(np.arange(users), group)
    there = rows[counted.ravel()]
    number = there.assign(n=1).groupby(list(rows.columns))["n"].transform("size")
    found = np.ones(users * group)
    found[there.index] = number
    return found.reshape(counted.shape)


def tilted_advantage(
    reward: np.ndarray, apart: np.ndarray, counted: np.ndarray, share: np.ndarray, tilt: float
) -> np.ndarray:
    """As `onerec.train.policy.tilted_advantage`; `apart` is log pi - log pi_ref: (B, G)."""
    gain = np.where(counted, tilt * np.log(np.maximum(reward, SAME_REWARD)) - apart, 0.0)
    centred = gain - (share * gain).sum(1, keepdims=True)
    return np.where(counted, np.clip(centred, -ADVANTAGE_LIMIT, ADVANTAGE_LIMIT), 0.0)


def advantages(
    rows: pd.DataFrame, reward: np.ndarray, tilt: float, beam: bool, logged: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Of a recorded step: each item's advantage, and how often it counts in its group's mean.

    `rows` are those of the step's file, `reward` (B, G) the reward to work with; of `logged` items
    it is the advantage. A group whose rewards do not differ has none, tilted or not.
    """

    def table(name: str) -> np.ndarray:
        return np.asarray(rows[name].to_numpy(float).reshape(reward.shape))

    counted = table("counted").astype(bool)
    if logged or not tilt:
        found = reward * counted if logged else group_advantage(reward, counted)
        return found, np.ones_like(reward)
    drawn = table("drawn") - (np.log(alike(rows, counted)) if beam else 0.0)
    share = group_share(drawn, counted, beam)
    apart = table("log_prob") - table("reference")
    often = share * reward.shape[1] if beam else np.ones_like(reward)
    differs = _spread(reward, counted)[1] > SAME_REWARD
    return tilted_advantage(reward, apart, counted, share, tilt) * differs, often


def trusted(trained: np.ndarray, sampled: np.ndarray, high: float, low: float = 0.5) -> np.ndarray:
    """As `onerec.train.policy.icepop`: (B, G), 0 where training and sampling disagree."""
    apart = np.exp(np.clip(trained - sampled, -700, 700))
    return np.where((apart >= low) & (apart <= high), apart, 0.0)


def region(ratio: np.ndarray, epsilon: float, delta: float) -> np.ndarray:
    """The name of the part of the axis in which each ratio lies (see `REGIONS`)."""
    bounds = (1 - epsilon, 1 + epsilon, 1 + epsilon + delta)
    below, _, high, far = REGIONS
    cases = [ratio < bounds[0], ratio > bounds[2], ratio > bounds[1]]
    return np.select(cases, [below, far, high], REGIONS[1])


def push(
    objective: str,
    log_prob: np.ndarray,
    old: np.ndarray,
    advantage: np.ndarray,
    counted: np.ndarray,
    *,
    epsilon: float = EPSILON,
    delta: float = DELTA,
    beta: float = BETA,
) -> np.ndarray:
    """(B, G): the gradient of each item's own objective by its log-probability."""
    if objective == "dpo":
        return _push_of_dpo(log_prob - old, advantage, counted, beta)
    ratio = entering(objective, log_prob, old, advantage, epsilon, delta)
    gain = ratio * advantage
    if objective == "reinforce":
        gain = advantage
    elif objective in CLIPPED:
        held = np.clip(ratio, 1 - epsilon, 1 + epsilon) * advantage
        gain = np.where(gain <= held, gain, 0.0)
    return np.where(counted, gain, 0.0)


def _push_of_dpo(
    margin: np.ndarray, advantage: np.ndarray, counted: np.ndarray, beta: float
) -> np.ndarray:
    """The best item of a group is raised and the worst lowered by as much; the others rest."""
    groups = np.arange(len(margin))
    best = np.where(counted, advantage, -np.inf).argmax(1)  # (B,)
    worst = np.where(counted, advantage, np.inf).argmin(1)
    gap = beta * (margin[groups, best] - margin[groups, worst])
    differs = (advantage[groups, best] > advantage[groups, worst]) & (counted.sum(1) > 1)
    strength = beta / (1 + np.exp(gap)) * differs
    result = np.zeros_like(margin)
    result[groups, best] += strength
    result[groups, worst] -= strength
    return result


def effect(
    objective: str,
    pushed: np.ndarray,
    ratio: np.ndarray,
    advantage: np.ndarray,
    counted: np.ndarray,
) -> np.ndarray:
    """In words (see `EFFECTS`) what becomes of each item.

    A push is bounded where it is there but weaker than pi / pi_old times the advantage.
    """
    weaker = np.abs(pushed) < np.abs(ratio * advantage) * (1 - 1e-9)
    if objective in ("reinforce", "dpo"):  # no ratio stands in front of their push
        weaker = np.zeros_like(weaker)
    silent = NOT_CHOSEN if objective == "dpo" else SILENT  # DPO takes two items of a group
    cases = [~counted, advantage == 0, pushed == 0, weaker]
    return np.select(cases, [LEFT_OUT, NO_ADVANTAGE, silent, BOUNDED], PUSHES)
