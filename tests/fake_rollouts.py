"""Policy steps for a run folder that `fake_run` wrote: drawn by lot, in the real format.

The first group of every step is flat (its rewards do not differ), the last item of every group is
illegal and left out, item 7 is one that the industrial reward halves, and every step has items in
each region of the ratio.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from onerec.data.tables import read_parquet, write_parquet
from onerec.rollouts import Rollout, write_rollout

USERS, GROUP, LEVELS, CODES, ITEMS = 6, 8, 3, 4, 48
STEPS = (1, 10, 20, 30)
SHARES = np.array((0.5, 0.3, 0.2))  # of an item's log-probability, by level
SETTINGS = {"ecpo": {"epsilon": 0.2, "delta": 0.1}, "grpo_kl": {"kl": 0.3}}
RATIOS = (0.5, 0.9, 1.0, 1.1, 1.25, 1.6, 3.0, 1.0)


def rollout(step: int = 0, *, objective: str = "ecpo", users: int = USERS) -> Rollout:
    """One step; users 3, 4, ... of the dataset, `GROUP` items each."""
    random = np.random.default_rng(step)
    shape = (users, GROUP)
    drawn = -2 - 4 * random.random(shape)
    now = drawn + np.log(np.stack([random.permutation(RATIOS) for _ in range(users)]))
    score, liked = random.random(shape) + step / 100, random.integers(0, 2, shape) * 1.0
    item = random.integers(0, ITEMS, shape)
    item[0], score[0], liked[0] = 8, 0.5, 1
    item[:, -1] = -1
    counted = item >= 0
    return Rollout(
        user=torch.arange(3, 3 + users),
        end=torch.arange(users),
        item=torch.from_numpy(item),
        codes=torch.from_numpy(random.integers(0, CODES, (*shape, LEVELS))),
        drawn=torch.from_numpy(drawn).float(),
        levels=torch.from_numpy(now[..., None] * SHARES).float(),
        sampled=torch.from_numpy(drawn).float(),
        parts={"p_score": torch.from_numpy(score).float(), "liked": torch.from_numpy(liked)},
        weights={"p_score": 1.0, "liked": 0.1},
        factor=torch.from_numpy(np.where(item == 7, 0.5, 1.0)).float(),
        counted=torch.from_numpy(counted),
        format=torch.from_numpy(counted * (random.random(shape) < 0.3)).float(),
        objective=objective,
        settings=SETTINGS.get(objective, {}),
        reference=torch.from_numpy(drawn - random.random(shape)).float(),
        model=torch.from_numpy(drawn).float(),
        drawn_levels=torch.from_numpy(drawn[..., None] * SHARES).float(),
    )


def build(run: Path, *, steps: tuple[int, ...] = STEPS) -> Path:
    """Write the steps and the lines of stage `align` into a run folder."""
    for step in steps:
        write_rollout(run / "rollouts" / f"step-{step:06d}.parquet", rollout(step))
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as log:
        log.writelines(json.dumps(_line(step)) + "\n" for step in range(1, max(steps) + 1))
    return run


def look(run: Path, passes: dict[int, dict[int, float]], kept: int | None = None) -> None:
    """Write pass@K on valid, step -> K -> value, and which step was kept, if one was."""
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as log:
        for step, values in passes.items():
            line = {"stage": "align", "step": step, "of": 30, "seconds": step * 0.5}
            line |= {f"valid_pass@{k}": value for k, value in values.items()}
            log.write(json.dumps(line) + "\n")
    stamp = run / "align" / "done.json"
    stamp.unlink(missing_ok=True)
    if kept is not None:
        stamp.write_text(json.dumps({"step": kept, "seconds": 1.0}))


def rewrite(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """Change the rows of a step: for columns that it may lack or have more of."""
    write_parquet(path, change(read_parquet(path)))


def _line(step: int) -> dict[str, object]:
    line: dict[str, object] = {"stage": "align", "step": step, "of": 30, "seconds": step * 0.5}
    line |= {"loss": 2.0 - step / 100, "next_token": 1.9 - step / 100, "policy": 0.1}
    line |= {"reward": 0.5 + step / 100, "reward_p_score": 0.4 + step / 100, "reward_liked": 0.5}
    line |= {"legality": 0.8 + step / 200, "outside": 0.1, "beyond": 0.02, "flat_groups": 1 / 6}
    line |= {"ratio_max": 1.5, "grad_norm": 0.4, "lr": 1e-4}
    return line | ({"valid_recall@10": 0.2, "valid_reward": 0.5} if step % 10 == 0 else {})
