"""Parameter groups and the learning-rate schedule."""

import pytest
import torch
from torch import nn

from onerec.model.moe import MixtureOfExperts
from onerec.train.optim import OptimConfig, cosine_schedule, make_adamw


def test_warm_up_is_linear_and_the_cosine_ends_at_its_share() -> None:
    rate = cosine_schedule(OptimConfig(learning_rate=1.0, warmup_steps=10, final_share=0.1), 110)
    assert rate(0) == pytest.approx(0.1)
    assert rate(4) == pytest.approx(0.5)
    assert rate(10) == pytest.approx(1.0)
    assert rate(60) == pytest.approx(0.1 + 0.9 * 0.5)  # half of the way down
    assert rate(110) == pytest.approx(0.1)
    assert rate(1_000) == pytest.approx(0.1)
    assert cosine_schedule(OptimConfig(learning_rate=1.0, warmup_steps=10), 10)(10) == 1.0


def test_copies_of_experts_are_made_again_after_a_step() -> None:
    """They are by version, which the fused kernel leaves as it was: a model served old experts.

    In a model that trains, the pass with gradients drops them; its twin that serves has no such
    pass where the policy has no weight.
    """
    mixture = MixtureOfExperts(4, 4, experts=2, active=1)
    for parameter in mixture.parameters():
        nn.init.normal_(parameter)
    optimizer = make_adamw(mixture, OptimConfig(learning_rate=0.1))
    mixture(torch.ones(3, 4)).sum().backward()
    with torch.no_grad():
        before = mixture._weights(torch.bfloat16)[1].clone()
        assert mixture.kept is not None
        assert mixture._weights(torch.bfloat16)[1] is mixture.kept[1]
        optimizer.step()
        after = mixture._weights(torch.bfloat16)[1]
    assert not torch.equal(after, before)
    assert torch.equal(after, mixture.down.to(torch.bfloat16))


def test_decay_acts_on_matrices_and_not_on_tables_norms_or_biases() -> None:
    """What is frozen is in no group."""
    model = nn.ModuleDict(
        {"table": nn.Embedding(5, 4), "linear": nn.Linear(4, 3), "norm": nn.RMSNorm(4)}
    )
    model["frozen"] = nn.Linear(4, 4).requires_grad_(False)
    config = OptimConfig(learning_rate=0.3, weight_decay=0.5, beta1=0.7, beta2=0.8)
    decayed, free = make_adamw(model, config).param_groups
    assert decayed["lr"] == free["lr"] == 0.3
    assert decayed["betas"] == free["betas"] == (0.7, 0.8)
    assert decayed["weight_decay"] == 0.5
    assert [p.shape for p in decayed["params"]] == [torch.Size([3, 4])]
    assert free["weight_decay"] == 0.0
    assert len(free["params"]) == 3
