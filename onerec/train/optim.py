"""AdamW with the usual parameter groups, and learning-rate schedules.

The papers do not print optimiser, rate or batch of pre-training (V1: NOT FOUND); AdamW with decay
on matrices only, linear warm-up and a cosine is our choice.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.autograd.graph import increment_version


@dataclass(frozen=True)
class OptimConfig:
    """`final_share` is the rate at the end as a share of the peak; 1 keeps it constant."""

    learning_rate: float = 1e-3
    warmup_steps: int = 100
    final_share: float = 0.1
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.98
    clip: float = 1.0


def make_adamw(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Weight decay acts on matrices; norms, biases and embedding tables are left alone.

    A step counts up the versions of the parameters, by which copies of them are known to be old;
    torch's fused kernel alone does not.
    """
    tables = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for parameter in module.parameters(recurse=False)
    }
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            matrix = parameter.ndim >= 2 and id(parameter) not in tables
            (decayed if matrix else free).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True
    )
    trained = decayed + free
    optimizer.register_step_post_hook(lambda *_: increment_version(trained))
    return optimizer


def cosine_schedule(config: OptimConfig, steps: int) -> Callable[[int], float]:
    """Linear warm-up to the peak, then half a cosine down to `final_share` of it at `steps`."""

    def rate(step: int) -> float:
        if step < config.warmup_steps:
            return config.learning_rate * (step + 1) / config.warmup_steps
        done = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
        share = config.final_share + (1 - config.final_share) * 0.5 * (
            1 + math.cos(math.pi * min(1.0, done))
        )
        return config.learning_rate * share

    return rate
