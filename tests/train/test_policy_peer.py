"""Our objectives beside trl's GRPO loss, as an independent reference.

trl divides a sequence's log-ratio by its length, so the two coincide where a completion has one
token; there trl's own function is called, not a copy of it. With its `delta` (INTELLECT-2's
two-sided clip) trl bounds the same ratios as ECPO does, but lets the gradient vanish there.
"""

import math
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from onerec.train import policy

pytestmark = pytest.mark.filterwarnings("ignore")
EPS, DELTA = 0.2, 0.1
RATIOS = (0.3, 0.79, 0.9, 1.0, 1.19, 1.21, 1.29, 1.31, 2.0, 40.0)


def trl_loss(
    log_prob: Tensor,
    old: Tensor,
    advantage: Tensor,
    *,
    level: str,
    delta: float | None = None,
    reference: Tensor | None = None,
    kl: float = 0.0,
) -> Tensor:
    """trl's loss of one-token completions with these log-probabilities (N,)."""
    trainer = pytest.importorskip("trl.trainer.grpo_trainer").GRPOTrainer
    one = torch.ones(len(log_prob), 1, dtype=torch.long)
    whole = SimpleNamespace(gather=lambda x: x, reduce=lambda x, reduction: x, num_processes=1)
    stub = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (
            log_prob[:, None],
            torch.zeros(len(log_prob), 1),
            None,
        ),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level=level,
        beta=kl,
        loss_type="grpo",
        epsilon_low=EPS,
        epsilon_high=EPS,
        use_vllm=False,
        model=SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1,
        _entropy_bonus_enabled=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
        accelerator=whole,
        args=SimpleNamespace(delta=delta, use_bias_correction_kl=False),
    )
    inputs = {
        "prompt_ids": one,
        "prompt_mask": one,
        "completion_ids": one,
        "completion_mask": one,
        "advantages": advantage,
        "old_per_token_logps": old[:, None],
        "ref_per_token_logps": None if reference is None else reference[:, None],
    }
    loss: Tensor = trainer._compute_loss(stub, None, inputs)
    return loss


def groups() -> tuple[Tensor, Tensor, Tensor]:
    """log pi, log pi_old and advantages (2, 10): each ratio with a good and with a bad item."""
    old = torch.linspace(-9.0, -2.0, len(RATIOS), dtype=torch.float64).repeat(2, 1)
    log_prob = old + torch.tensor(RATIOS, dtype=torch.float64).log()
    advantage = torch.tensor([[1.7], [-0.6]], dtype=torch.float64).expand_as(old)
    return log_prob.requires_grad_(), old, advantage.contiguous()


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("kl", [0.0, 0.04])
def test_grpo_is_trls_in_value_and_gradient(level: str, kl: float) -> None:
    log_prob, old, advantage = groups()
    reference = old + torch.linspace(-0.5, 0.5, old.numel()).view_as(old) if kl else None
    ours = policy.grpo(log_prob, old, advantage, epsilon=EPS, reference=reference, kl=kl).loss
    (pull,) = torch.autograd.grad(ours, log_prob)
    theirs = trl_loss(
        log_prob.flatten(),
        old.flatten(),
        advantage.flatten(),
        level=level,
        reference=None if reference is None else reference.flatten(),
        kl=kl,
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    torch.testing.assert_close(pull, torch.autograd.grad(theirs, log_prob)[0], rtol=1e-9, atol=0)


def test_ecpo_has_the_value_of_trls_two_sided_clip_but_keeps_its_gradient() -> None:
    log_prob, old, advantage = groups()
    ours = policy.ecpo(log_prob, old, advantage, epsilon=EPS, delta=DELTA)
    theirs = trl_loss(
        log_prob.flatten(),
        old.flatten(),
        advantage.flatten(),
        level="token",
        delta=1 + EPS + DELTA,
    )
    torch.testing.assert_close(ours.loss, theirs, rtol=1e-12, atol=0)
    (here,) = torch.autograd.grad(ours.loss, log_prob)
    (there,) = torch.autograd.grad(theirs, log_prob)
    ratio = (log_prob - old).exp().detach()
    beyond = (ratio > 1 + EPS + DELTA) & (advantage < 0)
    assert int(beyond.sum()) == 3
    torch.testing.assert_close(here[~beyond], there[~beyond], rtol=1e-9, atol=1e-15)
    assert torch.equal(there[beyond], torch.zeros(3, dtype=torch.float64))
    cap = 0.6 * (1 + EPS + DELTA) / log_prob.numel()
    assert all(math.isclose(value, cap, rel_tol=1e-9) for value in here[beyond].tolist())
