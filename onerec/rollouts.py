"""What a policy step saw and did: one Parquet file per step, from which it can be replayed.

A row is one generated item of one user's group, in the order of the step. Rewards, advantages,
ratios and the loss are functions of what stands in the file; float32 is kept exactly.

Shapes: B users, G items of a group, L levels.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from onerec.data.tables import read_parquet, write_parquet
from onerec.errors import DataError, RunError
from onerec.train import policy

OBJECTIVES: dict[str, Callable[..., policy.Objective]] = {
    "ecpo": policy.ecpo,
    "grpo": policy.grpo,
    "ppo_clip": policy.ppo_clip,
    "gbpo": policy.gbpo,
    "reinforce": policy.reinforce,
    "dpo": policy.dpo,
}


@dataclass
class Rollout:
    """The groups of one step.

    `user` (B,) user index; `item` (B, G) item index, -1 for illegal codes; `codes` (B, G, L);
    `drawn`, `log_prob` (B, G): log-probability of the sampler, and of the policy when the step
    began; `parts` name -> (B, G): each reward by itself; `weights` name -> its weight in the sum;
    `counted` (B, G) bool, items that take part; `objective` a name of `OBJECTIVES`, `settings` what
    it is called with.

    Raises:
        RunError: an unknown objective, or a reward part without a weight.
    """

    user: Tensor
    item: Tensor
    codes: Tensor
    drawn: Tensor
    log_prob: Tensor
    parts: dict[str, Tensor]
    weights: dict[str, float]
    counted: Tensor
    objective: str = "ecpo"
    settings: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            known = ", ".join(OBJECTIVES)
            raise RunError(f"objective {self.objective!r}: unknown; use one of {known}")
        if missing := sorted(self.parts.keys() - self.weights.keys()):
            raise RunError(f"reward {missing[0]!r}: it has no weight")

    def reward(self) -> Tensor:
        """The weighted sum of the parts (B, G), added in the order of their names."""
        total = torch.zeros_like(self.drawn)
        for name in sorted(self.parts):
            total = total + self.weights[name] * self.parts[name]
        return total

    def advantage(self) -> Tensor:
        """(B, G); 0 for items that do not count and for groups whose rewards do not differ."""
        return policy.group_advantage(self.reward(), self.counted)

    def step(self, log_prob: Tensor | None = None) -> policy.Objective:
        """The objective, at `log_prob` (B, G) with its gradients or at what was recorded."""
        log_prob = self.log_prob if log_prob is None else log_prob
        weight = self.counted.to(log_prob.dtype)
        function = OBJECTIVES[self.objective]
        return function(log_prob, self.drawn, self.advantage(), weight, **self.settings)


def write_rollout(path: Path, rollout: Rollout) -> None:
    """One row per item.

    Raises:
        DataError: the disk is full or the folder cannot be written; nothing half-written is left.
    """
    users, group = rollout.item.shape
    meta = {
        "objective": rollout.objective,
        "settings": rollout.settings,
        "weights": rollout.weights,
    }
    columns: dict[str, object] = {
        "user": np.repeat(rollout.user.numpy(), group),
        "place": np.tile(np.arange(group), users),
        "item": rollout.item.flatten().numpy(),
        "drawn": rollout.drawn.flatten().numpy(),
        "log_prob": rollout.log_prob.flatten().numpy(),
        "counted": rollout.counted.flatten().numpy(),
    }
    for level, code in enumerate(rollout.codes.flatten(0, 1).T, start=1):
        columns[f"code_{level}"] = code.numpy()
    for name, part in rollout.parts.items():
        columns[f"reward_{name}"] = part.flatten().numpy()
    columns["step"] = [json.dumps(meta)] * (users * group)  # zstd keeps it once
    write_parquet(path, columns)


def read_rollout(path: Path) -> Rollout:
    """What `write_rollout` wrote.

    Raises:
        DataError: the file is missing, cut or no rollout.
    """
    frame = read_parquet(path)
    try:
        group = int(frame["place"].max()) + 1
        meta = json.loads(frame["step"].iloc[0])
        names = [str(name) for name in frame.columns]
        rewards = [name for name in names if name.startswith("reward_")]
        levels = [name for name in names if name.startswith("code_")]

        def table(name: str) -> Tensor:
            return _tensor(frame[name]).view(-1, group)

        return Rollout(
            user=table("user")[:, 0],
            item=table("item"),
            codes=torch.stack([table(name) for name in levels], dim=-1),
            drawn=table("drawn"),
            log_prob=table("log_prob"),
            parts={name.removeprefix("reward_"): table(name) for name in rewards},
            weights=meta["weights"],
            counted=table("counted"),
            objective=meta["objective"],
            settings=meta["settings"],
        )
    except (KeyError, ValueError, IndexError, RuntimeError, TypeError) as error:
        raise DataError(f"{path}: not a whole rollout ({error}); delete it and go on") from error


def _tensor(column: pd.Series) -> Tensor:
    return torch.from_numpy(column.to_numpy().copy())
