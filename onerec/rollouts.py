"""What a policy step saw and did: one Parquet file per step, from which it can be replayed.

A row is one generated item of one user's group, in the order of the step. Rewards, advantages,
ratios and the loss are functions of what stands in the file; float32 is kept exactly.

Two things push an item: its reward beside those of its group, and the format reward, which is an
advantage by itself (V1 section 2.4). Each goes through the same objective; the losses add up.

Shapes: B users, G items of a group, L levels.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from onerec.data.tables import check_rows, check_step, read_parquet, write_parquet
from onerec.errors import DataError, RunError
from onerec.train import policy

OBJECTIVES: dict[str, Callable[..., policy.Objective]] = {
    "ecpo": policy.ecpo,
    "grpo": policy.grpo,
    "grpo_kl": policy.grpo,
    "ppo_clip": policy.ppo_clip,
    "gbpo": policy.gbpo,
    "reinforce": policy.reinforce,
    "dpo": policy.dpo,
}

REFERENCED = ("grpo_kl", "dpo")  # objectives that compare the policy with a fixed reference
MAYBE = ("reference", "model")  # (B, G) fields that a step may lack


@dataclass
class Rollout:
    """The groups of one step.

    `user`, `end` (B,) the context: user index and the row of the log before which it ends; `item`
    (B, G) item index, -1 for illegal codes; `codes` (B, G, L); `drawn` (B, G) the old
    log-probability, that of the policy that drew the item; `levels` (B, G, L) the log-probability
    of each code by the policy when the step began; `sampled` (B, G) what the sampler's own kernel
    computed for the drawing policy; `parts` name -> (B, G): each reward by itself; `weights` name
    -> its weight in the sum; `factor` (B, G) of the industrial reward, else 1; `counted` (B, G)
    bool, items that take part; `format` (B, G) the format reward's advantage, 0 for items that it
    leaves alone; `objective` a name of `OBJECTIVES`, `settings` what it is called with; `reference`
    (B, G) the log-probability of the fixed reference, for objectives that have one; `tilt` above 0
    takes advantages from `policy.tilted_advantage` and, of a `beam`, counts items by probability.

    `model` (B, G) the drawing policy's own log-probability of the codes, over all of them and at
    temperature 1, whatever the sampler did; `drawn_levels` (B, G, L) `drawn` code by code;
    `icepop` above 0 leaves out items of which training and sampling disagree, see `trusted`;
    `logged`: the items are what people were shown, and the reward is the advantage itself.

    Raises:
        RunError: an unknown objective or one whose reference is missing, a reward part without a
            weight, a weight below 0, weights that are all 0, or a reward that is not a number.
    """

    user: Tensor
    end: Tensor
    item: Tensor
    codes: Tensor
    drawn: Tensor
    levels: Tensor
    sampled: Tensor
    parts: dict[str, Tensor]
    weights: dict[str, float]
    factor: Tensor
    counted: Tensor
    format: Tensor
    objective: str = "ecpo"
    settings: dict[str, float] = field(default_factory=dict)
    reference: Tensor | None = None
    tilt: float = 0.0
    beam: bool = False
    model: Tensor | None = None
    drawn_levels: Tensor | None = None
    icepop: float = 0.0
    logged: bool = False
    formatted: bool = field(init=False)  # any advantage of `format`: asked before work is queued

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            known = ", ".join(OBJECTIVES)
            raise RunError(f"objective {self.objective!r}: unknown; use one of {known}")
        if self.reference is None and (self.tilt or self.objective in REFERENCED):
            what = f"objective {self.objective!r}" if not self.tilt else f"a tilt of {self.tilt:g}"
            raise RunError(f"{what} needs the reference's log-probabilities")
        check_weights(self.weights, self.parts)
        finite = {name: part.isfinite().all() for name, part in self.parts.items()}
        if not bool(torch.stack(list(finite.values())).all()):  # one wait for a GPU
            name = next(name for name, well in finite.items() if not well)
            user = int(self.user[(~self.parts[name].isfinite()).any(1)][0])
            raise RunError(
                f"reward {name!r} of user {user} is not a finite number; train the reward "
                "model in a new run, or give the part no weight and leave it out"
            )
        self.formatted = bool(self.format.any())

    @property
    def log_prob(self) -> Tensor:
        """(B, G): log-probability of whole items by the policy when the step began."""
        return self.levels.sum(-1)

    def reward(self) -> Tensor:
        """The weighted sum of the parts times the factor (B, G), in the order of the names."""
        total = torch.zeros_like(self.drawn)
        for name in sorted(self.parts):
            total = total + self.weights[name] * self.parts[name]
        return total * self.factor

    def advantage(self) -> Tensor:
        """(B, G); 0 for items that do not count and for groups whose rewards do not differ.

        Also under a tilt, whose pull to the reference such a group would still give (ours).
        """
        if self.logged:
            return self.reward() * self.counted
        if not self.tilt:
            return policy.group_advantage(self.reward(), self.counted)
        assert self.reference is not None  # or it would not have been made
        told = self.reward(), self.log_prob, self.reference, self.counted, self.share()
        advantage = policy.tilted_advantage(*told, tilt=self.tilt)
        return advantage.masked_fill(self.flat()[:, None], 0.0)

    def share(self) -> Tensor:
        """(B, G): how much each item counts for the expectation over its group."""
        drawn = self.drawn
        if self.beam:
            drawn = drawn - policy.alike(self.codes, self.counted).log()
        return policy.group_share(drawn, self.counted, self.beam)

    def flat(self) -> Tensor:
        """(B,) bool: groups whose counted rewards do not differ; they teach nothing.

        Of logged items, groups in which nothing was liked or disliked.
        """
        if self.logged:
            return (self.advantage() == 0).all(1)
        return policy.without_spread(self.reward(), self.counted)

    def trusted(self) -> Tensor:
        """(B, G): IcePop's weight of each item, 1 where it is off.

        `drawn` is then the drawing policy's probability as training computes it, `sampled` as its
        sampler did.
        """
        if not self.icepop:
            return torch.ones_like(self.drawn)
        return policy.icepop(self.drawn, self.sampled, high=self.icepop)

    def step(self, log_prob: Tensor | None = None) -> policy.Objective:
        """The objective, at `log_prob` (B, G) with its gradients or at what was recorded."""
        log_prob = self.log_prob if log_prob is None else log_prob
        counted = self.counted.to(log_prob.dtype)
        if self.tilt and self.beam:
            counted = self.share() * self.item.shape[1]  # the mean over G is then the expectation
        trusted = self.trusted().to(log_prob.dtype)
        counted = counted * trusted
        if self.objective == "grpo_kl":  # its pull to the reference needs no advantage
            counted = counted * ~self.flat()[:, None]
        first = self._term(log_prob, self.advantage(), counted)
        if not self.formatted:
            return first
        formatted = (self.format != 0).to(log_prob.dtype)
        second = self._term(log_prob, self.format, formatted * trusted, pulled=False)
        return policy.Objective(first.loss + second.loss, first.ratio, first.push + second.push)

    def _term(
        self, log_prob: Tensor, advantage: Tensor, weight: Tensor, pulled: bool = True
    ) -> policy.Objective:
        """`pulled`: GRPO's term of KL is paid here; the format reward, a second term, has none."""
        function = OBJECTIVES[self.objective]
        if self.objective == "dpo":
            return function(log_prob, self.reference, advantage, weight, **self.settings)
        settings: dict[str, Any] = dict(self.settings)
        if self.objective == "grpo_kl":
            settings |= {"reference": self.reference} if pulled else {"kl": 0.0}
        return function(log_prob, self.drawn, advantage, weight, **settings)

    def to(self, device: torch.device | str) -> Rollout:
        """The same on another device."""

        def moved(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value.to(device)
            return {k: moved(v) for k, v in value.items()} if isinstance(value, dict) else value

        return replace(
            self, **{f.name: moved(getattr(self, f.name)) for f in fields(self) if f.init}
        )


def check_weights(weights: Mapping[str, float], parts: Iterable[str]) -> None:
    """Refuse weights that make no reward.

    Raises:
        RunError: a part without a weight, a weight below 0 or not finite, or all of them 0.
    """
    if missing := sorted(set(parts) - weights.keys()):
        raise RunError(f"reward {missing[0]!r}: it has no weight")
    for name, weight in weights.items():
        if not (math.isfinite(weight) and weight >= 0):
            raise RunError(f"weight of reward {name!r} is {weight}: needs a number from 0 up")
    if not any(weights[name] > 0 for name in parts):
        raise RunError("the weights of all rewards are 0: give at least one a weight above 0")


def check_settings(objective: str, settings: Mapping[str, float]) -> None:
    """Refuse settings that an objective does not know.

    Raises:
        ValueError: an unknown objective or setting.
    """
    if objective not in OBJECTIVES:
        raise ValueError(f"objective {objective!r} is unknown")
    given = inspect.signature(OBJECTIVES[objective]).parameters.values()
    known = {one.name for one in given if one.kind is one.KEYWORD_ONLY} - {"reference"}
    if strange := sorted(settings.keys() - known):
        raise ValueError(f"{objective} has no setting {strange[0]!r}")


def rollout_path(folder: Path, step: int) -> Path:
    """Where a run or a stream keeps the rollout of a step."""
    return folder / "rollouts" / f"step-{step:06d}.parquet"


def write_rollout(path: Path, rollout: Rollout) -> None:
    """One row per item.

    Raises:
        DataError: the disk is full or the folder cannot be written; nothing half-written is left.
    """
    users, group = rollout.item.shape
    meta = {
        "users": users,
        "group": group,
        "objective": rollout.objective,
        "settings": rollout.settings,
        "weights": rollout.weights,
        "tilt": rollout.tilt,
        "beam": rollout.beam,
        "icepop": rollout.icepop,
        "logged": rollout.logged,
    }
    rollout = rollout.to("cpu")
    columns: dict[str, object] = {
        "user": np.repeat(rollout.user.numpy(), group),
        "end": np.repeat(rollout.end.numpy(), group),
        "place": np.tile(np.arange(group), users),
        "item": rollout.item.flatten().numpy(),
        "drawn": rollout.drawn.flatten().numpy(),
        "log_prob": rollout.log_prob.flatten().numpy(),
        "sampled": rollout.sampled.flatten().numpy(),
        "factor": rollout.factor.flatten().numpy(),
        "counted": rollout.counted.flatten().numpy(),
        "format": rollout.format.flatten().numpy(),
    }
    for level, code in enumerate(rollout.codes.flatten(0, 1).T, start=1):
        columns[f"code_{level}"] = code.numpy()
    for level, log_prob in enumerate(rollout.levels.flatten(0, 1).T, start=1):
        columns[f"lp_{level}"] = log_prob.numpy()
    if rollout.drawn_levels is not None:
        for level, log_prob in enumerate(rollout.drawn_levels.flatten(0, 1).T, start=1):
            columns[f"drawn_{level}"] = log_prob.numpy()
    for name in MAYBE:
        if (values := getattr(rollout, name)) is not None:
            columns[name] = values.flatten().numpy()
    for name, part in rollout.parts.items():
        columns[f"reward_{name}"] = part.flatten().numpy()
    columns["step"] = [json.dumps(meta)] * (users * group)  # zstd keeps it once
    write_parquet(path, columns)


def read_rollout(path: Path) -> Rollout:
    """What `write_rollout` wrote.

    Raises:
        DataError: the file is missing, cut or no rollout, lacks a column or holds a number that is
            not finite.
    """
    frame = read_parquet(path)
    try:
        group = int(frame["place"].max()) + 1
        meta = json.loads(frame["step"].iloc[0])
        check_rows(meta, len(frame))
        check_step(frame, needed=["code_", "lp_"])
        check_settings(meta["objective"], meta["settings"])
        names = [str(name) for name in frame.columns]
        rewards = [name for name in names if name.startswith("reward_")]
        codes = [name for name in names if name.startswith("code_")]
        levels = [name for name in names if name.startswith("lp_")]
        drawn = [name for name in names if name.startswith("drawn_")]

        def table(name: str) -> Tensor:
            return _tensor(frame[name]).view(-1, group)

        return Rollout(
            user=table("user")[:, 0],
            end=table("end")[:, 0],
            item=table("item"),
            codes=torch.stack([table(name) for name in codes], dim=-1),
            drawn=table("drawn"),
            levels=torch.stack([table(name) for name in levels], dim=-1),
            sampled=table("sampled"),
            factor=table("factor"),
            format=table("format"),
            parts={name.removeprefix("reward_"): table(name) for name in rewards},
            weights=meta["weights"],
            counted=table("counted"),
            objective=meta["objective"],
            settings=meta["settings"],
            tilt=meta.get("tilt", 0.0),
            beam=meta.get("beam", False),
            drawn_levels=torch.stack([table(name) for name in drawn], dim=-1) if drawn else None,
            icepop=meta.get("icepop", 0.0),
            logged=meta.get("logged", False),
            **{name: table(name) for name in MAYBE if name in names},
        )
    except (KeyError, ValueError, IndexError, RuntimeError, TypeError) as error:
        raise DataError(f"{path}: not a whole rollout ({error}); delete it and go on") from error


def _tensor(column: pd.Series) -> Tensor:
    return torch.from_numpy(column.to_numpy().copy())
