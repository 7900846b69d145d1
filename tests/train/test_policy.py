"""Every branch of every objective: by hand, then against autograd in float64."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from onerec.train import policy
from onerec.train.policy import Objective

EPS, DELTA = 0.2, 0.1
CAP = 1 + EPS + DELTA
# below 1 - eps, inside, above 1 + eps, above 1 + eps + delta, far above
RATIOS = (0.5, 0.9, 1.0, 1.1, 1.25, 1.6, 50.0)


def at(ratio: float, advantage: float, objective: str, **more: float) -> tuple[float, float, float]:
    """Value, push by formula and push by autograd of one item with pi / pi_old = `ratio`."""
    old = torch.tensor([[math.log(1e-4)]], dtype=torch.float64)
    log_prob = (old + math.log(ratio)).requires_grad_()
    made = getattr(policy, objective)(
        log_prob, old, torch.tensor([[advantage]], dtype=torch.float64), **more
    )
    (gradient,) = torch.autograd.grad(-made.loss, log_prob)
    return -made.loss.item(), made.push.item(), float(gradient)


@pytest.mark.parametrize("ratio", RATIOS)
def test_ecpo_of_a_good_item_is_the_clipped_ratio(ratio: float) -> None:
    value, push, gradient = at(ratio, 2.0, "ecpo")
    assert value == pytest.approx(2.0 * min(ratio, 1 + EPS))
    assert push == pytest.approx(gradient)
    assert gradient == pytest.approx(2.0 * ratio if ratio < 1 + EPS else 0.0)


@pytest.mark.parametrize("ratio", RATIOS)
def test_ecpo_of_a_bad_item_is_bounded_and_never_lets_go(ratio: float) -> None:
    """0 below 1 - eps, then A min(ratio, 1 + eps + delta): flat value, the push stays."""
    value, push, gradient = at(ratio, -2.0, "ecpo")
    assert value == pytest.approx(-2.0 * max(min(ratio, CAP), 1 - EPS))
    assert push == pytest.approx(gradient)
    assert gradient == pytest.approx(0.0 if ratio < 1 - EPS else -2.0 * min(ratio, CAP))


@pytest.mark.parametrize("objective", ["grpo", "ppo_clip"])
@pytest.mark.parametrize("ratio", RATIOS)
def test_without_the_early_clip_a_bad_item_pushes_without_bound(
    objective: str, ratio: float
) -> None:
    value, push, gradient = at(ratio, -2.0, objective)
    assert value == pytest.approx(-2.0 * max(ratio, 1 - EPS))
    assert gradient == pytest.approx(push)
    assert gradient == pytest.approx(0.0 if ratio < 1 - EPS else -2.0 * ratio)
    value, push, gradient = at(ratio, 2.0, objective)
    assert value == pytest.approx(2.0 * min(ratio, 1 + EPS))
    assert gradient == pytest.approx(push)


@pytest.mark.parametrize("ratio", RATIOS)
def test_gbpo_of_a_good_item_weighs_at_most_one(ratio: float) -> None:
    value, push, gradient = at(ratio, 2.0, "gbpo")
    assert value == push == pytest.approx(2.0 * min(ratio, 1.0))
    assert gradient == pytest.approx(push)


def test_gbpo_of_a_bad_item_pushes_like_a_binary_cross_entropy() -> None:
    """pi / (1 - pi) where the sampler's probability is below 1 - pi: almost nothing for an item."""
    for probability in (1e-6, 1e-3, 0.3, 0.9):
        log_prob = torch.tensor([[math.log(probability)]], dtype=torch.float64, requires_grad=True)
        old = torch.full_like(log_prob, math.log(1e-9)).detach()
        made = policy.gbpo(log_prob, old, torch.tensor([[-1.0]], dtype=torch.float64))
        (gradient,) = torch.autograd.grad(-made.loss, log_prob)
        odds = probability / (1 - probability)
        assert float(gradient) == pytest.approx(-odds)
        assert made.push.item() == pytest.approx(-odds)
        cross_entropy = -torch.log1p(-log_prob.exp())  # of the label 0
        assert float(torch.autograd.grad(cross_entropy, log_prob)[0]) == pytest.approx(odds)


def test_gbpo_of_a_bad_item_divides_by_the_sampler_where_that_is_larger() -> None:
    """pi .3, pi_old .8: max(.8, .7) = .8."""
    log_prob = torch.tensor([[math.log(0.3)]], dtype=torch.float64)
    old = torch.tensor([[math.log(0.8)]], dtype=torch.float64)
    made = policy.gbpo(log_prob, old, torch.tensor([[-1.0]], dtype=torch.float64))
    assert made.ratio.item() == pytest.approx(0.3 / 0.8)


def test_gbpo_of_a_certain_item_stays_finite() -> None:
    zero = torch.zeros(1, 1)
    assert policy.gbpo(zero, zero, torch.tensor([[-1.0]])).loss.isfinite()


def test_reinforce_pushes_by_the_advantage_alone() -> None:
    for ratio in RATIOS:
        _, push, gradient = at(ratio, -0.7, "reinforce")
        assert push == gradient == pytest.approx(-0.7)


def draw(seed: int = 0, users: int = 3, group: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    old = -8 + torch.randn(users, group, generator=g, dtype=torch.float64)
    log_prob = (old + torch.randn(users, group, generator=g, dtype=torch.float64)).requires_grad_()
    reward = torch.randn(users, group, generator=g, dtype=torch.float64)
    return log_prob, old, policy.group_advantage(reward)


@pytest.mark.parametrize("name", ["ecpo", "grpo", "ppo_clip", "gbpo", "reinforce"])
def test_the_push_is_the_gradient_for_whole_groups_and_weights(name: str) -> None:
    log_prob, old, advantage = draw()
    weight = torch.ones_like(old)
    weight[0, 1], weight[2, 3] = 0.0, 0.4
    for given_weight in (None, weight):
        made: Objective = getattr(policy, name)(log_prob, old, advantage, given_weight)
        (gradient,) = torch.autograd.grad(-made.loss * old.numel(), log_prob)
        assert torch.allclose(gradient, made.push, atol=1e-12)


def test_an_item_of_weight_zero_gives_nothing_even_where_it_is_not_finite() -> None:
    log_prob, old, advantage = draw()
    weight = torch.ones_like(old)
    weight[1, 2] = 0.0
    clean = policy.ecpo(log_prob, old, advantage, weight).loss
    spoiled = old.clone()
    spoiled[1, 2] = -torch.inf
    made = policy.ecpo(log_prob, spoiled, advantage, weight)
    assert made.loss == clean
    # leaving an item out scales no other up
    one = policy.ecpo(log_prob, old, advantage).loss
    missing = (policy.ecpo(log_prob, old, advantage).ratio * advantage)[1, 2]
    assert missing != 0
    assert one != clean


@pytest.mark.parametrize("apart", [-200.0, 200.0])
@pytest.mark.parametrize("advantage", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("weight", [0.0, 1.0])
@pytest.mark.parametrize(
    "name", ["ecpo", "grpo", "grpo_kl", "ppo_clip", "gbpo", "reinforce", "dpo"]
)
def test_a_ratio_that_float32_cannot_hold_leaves_loss_and_gradient_finite(
    name: str, weight: float, advantage: float, apart: float
) -> None:
    """Whatever its advantage; and of weight 0 the item changes nothing at all."""
    log_prob, old, advantages = (each.float().detach() for each in draw())
    weights = torch.ones_like(old)
    weights[1, 2], advantages[1, 2] = weight, advantage

    def made(old: Tensor) -> tuple[Objective, Tensor]:
        now = log_prob.clone().requires_grad_()
        more = {"reference": old, "kl": 0.5} if name == "grpo_kl" else {}
        function = getattr(policy, name.removesuffix("_kl"))
        step = function(now, old, advantages, weights, **more)
        return step, torch.autograd.grad(step.loss, now)[0]

    far = old.clone()
    far[1, 2] = log_prob[1, 2] - apart
    step, gradient = made(far)
    for found in (step.loss, step.ratio, step.push, gradient, (1e3 * gradient).norm()):
        assert found.isfinite().all(), "also the norm by which the step is clipped"
    of = len(old) if name == "dpo" else old.numel()  # its mean is over groups
    torch.testing.assert_close(-gradient * of, step.push)
    if not weight:
        plain, wanted = made(old)
        assert step.loss == plain.loss
        assert torch.equal(gradient, wanted)


def test_without_lag_the_ratio_is_one_and_all_objectives_push_alike() -> None:
    log_prob, _, advantage = draw()
    old = log_prob.detach().clone()
    gradients = []
    for name in ("ecpo", "grpo", "ppo_clip", "reinforce"):
        made: Objective = getattr(policy, name)(log_prob, old, advantage)
        assert torch.equal(made.ratio, torch.ones_like(old)), name
        gradients.append(torch.autograd.grad(made.loss, log_prob)[0])
    for gradient in gradients[1:]:
        assert torch.allclose(gradient, gradients[0], atol=1e-15)
    positive = advantage > 0
    bounded = policy.gbpo(log_prob, old, advantage)
    assert torch.allclose(bounded.push[positive], advantage[positive])


@given(st.floats(-3, 3), st.floats(-6, 6), st.floats(0.05, 0.5), st.floats(0.0, 0.5))
def test_ecpo_is_grpo_until_the_cap_and_never_beyond(
    advantage: float, lag: float, epsilon: float, delta: float
) -> None:
    old = torch.tensor([[-9.0]], dtype=torch.float64)
    log_prob = old + lag
    a = torch.tensor([[advantage]], dtype=torch.float64)
    early = policy.ecpo(log_prob, old, a, epsilon=epsilon, delta=delta)
    plain = policy.grpo(log_prob, old, a, epsilon=epsilon)
    cap = 1 + epsilon + delta
    assert early.ratio.item() <= cap * (1 + 1e-12)
    assert abs(early.push.item()) <= abs(advantage) * cap * (1 + 1e-12)
    if math.exp(lag) < cap * (1 - 1e-12):
        assert early.loss.item() == pytest.approx(plain.loss.item())
        assert early.push.item() == pytest.approx(plain.push.item())
    if advantage > 0:
        assert early.loss.item() == pytest.approx(plain.loss.item())


def test_grpo_with_kl_pulls_towards_the_reference() -> None:
    log_prob, old, advantage = draw()
    reference = old - 0.3
    made = policy.grpo(log_prob, old, advantage, reference=reference, kl=0.5)
    plain = policy.grpo(log_prob, old, advantage)
    d = (reference - log_prob).detach()
    assert made.loss.item() == pytest.approx((plain.loss + 0.5 * (d.exp() - d - 1).mean()).item())
    (gradient,) = torch.autograd.grad(-made.loss * old.numel(), log_prob)
    assert torch.allclose(gradient, made.push, atol=1e-12)
    same = policy.grpo(log_prob, old, advantage, reference=log_prob.detach(), kl=0.5)
    assert torch.allclose(same.push, plain.push)
    with pytest.raises(ValueError, match="reference"):
        policy.grpo(log_prob, old, advantage, kl=0.5)


def test_dpo_by_hand() -> None:
    """Margins: best +.5, worst -.25; beta 2: -log sigma(1.5)."""
    reference = torch.tensor([[-5.0, -6.0, -7.0], [-5.0, -5.0, -5.0]], dtype=torch.float64)
    log_prob = reference + torch.tensor([[0.9, 0.5, -0.25], [1.0, 2.0, 3.0]], dtype=torch.float64)
    log_prob.requires_grad_()
    advantage = torch.tensor([[0.0, 1.0, -1.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    made = policy.dpo(log_prob, reference, advantage, beta=2.0)
    assert made.loss.item() == pytest.approx(math.log1p(math.exp(-1.5)) / 2)  # mean over 2 users
    (gradient,) = torch.autograd.grad(-made.loss * 2, log_prob)
    assert torch.allclose(gradient, made.push)
    strength = 2 / (1 + math.exp(1.5))
    assert made.push[0].tolist() == pytest.approx([0.0, strength, -strength])
    assert not made.push[1].any()
    # without the worst, the middle one loses
    weight = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    assert policy.dpo(log_prob, reference, advantage, weight).push[0, 0] < 0


def test_group_advantage_by_hand() -> None:
    reward = torch.tensor([[1.0, 2.0, 3.0, 6.0], [4.0, 4.0, 4.0, 4.0]])
    made = policy.group_advantage(reward)
    assert made[0].tolist() == pytest.approx([-2 / 3.5**0.5, -1 / 3.5**0.5, 0.0, 3 / 3.5**0.5])
    assert not made[1].any()  # no spread, nothing to learn
    counted = torch.tensor([[True, True, True, False], [True, False, False, False]])
    some = policy.group_advantage(reward, counted)
    assert some[0].tolist() == pytest.approx([-(1.5**0.5), 0.0, 1.5**0.5, 0.0])
    assert not some[1].any()
    lone = torch.zeros(1, 100)
    lone[0, 0] = 1.0
    assert policy.group_advantage(lone)[0, 0] == 5.0  # 9.9, cut


def test_tilted_advantage_by_hand() -> None:
    """pi_ref (.5, .25, .25), rewards (e^-2, e^-1, 1), of which the last item does not count."""
    reward = torch.tensor([[-2.0, -1.0, 0.0]]).exp()
    reference = torch.tensor([[0.5, 0.25, 0.25]]).log()
    log_prob = reference + torch.tensor([[0.5, 0.0, 9.0]])
    counted = torch.tensor([[True, True, False]])
    even = policy.group_share(reference, counted, beam=False)
    assert even.tolist() == [[0.5, 0.5, 0.0]]
    made = policy.tilted_advantage(reward, log_prob, reference, counted, even, tilt=3.0)
    assert made[0].tolist() == pytest.approx([-1.75, 1.75, 0.0])  # -6.5 and -3, mean -4.75
    probable = policy.group_share(reference, counted, beam=True)
    assert probable[0].tolist() == pytest.approx([2 / 3, 1 / 3, 0.0])
    made = policy.tilted_advantage(reward, log_prob, reference, counted, probable, tilt=3.0)
    assert made[0].tolist() == pytest.approx([-6.5 + 16 / 3, -3 + 16 / 3, 0.0], abs=1e-6)
    nothing = torch.tensor([[1e-9, 1.0, 1.0]])  # counts as 1e-6, and is cut at -5
    made = policy.tilted_advantage(nothing, reference, reference, counted, even, tilt=4.0)
    assert made[0].tolist() == [-5.0, 5.0, 0.0]
    loose = policy.tilted_advantage(
        nothing, reference, reference, counted, even, tilt=4.0, limit=math.inf
    )
    assert loose[0].tolist() == pytest.approx([2 * math.log(1e-6), -2 * math.log(1e-6), 0.0])
    nobody = torch.zeros(1, 3, dtype=torch.bool)
    assert not policy.group_share(reference, nobody, beam=True).any()


def test_items_with_the_same_codes_are_counted_within_their_group() -> None:
    codes = torch.tensor(
        [[[1, 2], [1, 2], [2, 1], [1, 2]], [[1, 2], [0, 5], [0, 5], [0, 5]]]  # 0, 5: not 5, 0
    )
    counted = torch.tensor([[True, True, True, False], [True, True, True, True]])
    assert policy.alike(codes, counted).tolist() == [[2, 2, 1, 1], [1, 3, 3, 3]]
    assert policy.alike(codes, torch.zeros_like(counted)).tolist() == [[1] * 4] * 2
    deep = torch.randint(0, 8191, (1, 3, 5), generator=torch.Generator().manual_seed(0))
    deep[..., 0] = 8191  # five levels of 8,192 and a user are more than an integer holds
    everybodys = deep.expand(4, 3, 5)
    assert (policy.alike(everybodys, torch.ones(4, 3, dtype=torch.bool)) == 1).all()
    leaf = torch.tensor(
        [[0.6, 0.6, 0.3, 0.6]]
    ).log()  # a leaf of .6 that two items share, one of .3
    share = policy.group_share(
        leaf - policy.alike(codes[:1], counted[:1]).log(), counted[:1], beam=True
    )
    assert share[0].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0.0])


def test_the_tilted_advantage_is_the_gradient_of_reward_less_divergence() -> None:
    """On a beam that holds every item: against autograd of tilt E[log r] - KL(pi || pi_ref)."""
    g = torch.Generator().manual_seed(0)
    logits, before = (torch.randn(3, 7, generator=g, dtype=torch.float64) for _ in range(2))
    reward = torch.rand(3, 7, generator=g, dtype=torch.float64)
    reference, counted = before.log_softmax(1), torch.ones(3, 7, dtype=torch.bool)
    logits.requires_grad_()
    log_prob = logits.log_softmax(1)
    gain = log_prob.exp() * (2.5 * reward.log() - (log_prob - reference))
    (wanted,) = torch.autograd.grad(-gain.sum(1).mean(), logits, retain_graph=True)

    now = log_prob.detach()
    share = policy.group_share(now, counted, beam=True)
    told = reward, now, reference, counted, share
    advantage = policy.tilted_advantage(*told, tilt=2.5, limit=math.inf)
    (found,) = torch.autograd.grad(policy.ecpo(log_prob, now, advantage, 7 * share).loss, logits)
    torch.testing.assert_close(found, wanted)

    there = (reference + 2.5 * reward.log()).log_softmax(1)
    share = policy.group_share(there, counted, beam=True)
    rest = policy.tilted_advantage(reward, there, reference, counted, share, tilt=2.5)
    assert rest.abs().max() < 1e-12  # the fixed point


def test_icepop_keeps_what_both_agree_on() -> None:
    sampled = torch.zeros(1, 5)
    trained = torch.tensor([[0.4, 0.5, 1.0, 5.0, 5.1]]).log()
    assert policy.icepop(trained, sampled)[0].tolist() == pytest.approx([0, 0.5, 1.0, 5.0, 0])
    apart = torch.tensor([[-200.0, 200.0]])  # as a ratio 0 and, in float32, infinity
    assert policy.icepop(apart, torch.zeros(1, 2))[0].tolist() == [0, 0]
