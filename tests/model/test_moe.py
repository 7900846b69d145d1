"""The mixture of experts by hand and against a loop over tokens."""

import math

import pytest
import torch
import torch.nn.functional as F

from onerec.model.moe import LossFreeRouter, MixtureOfExperts, load_balance


def make(width=6, hidden=4, experts=5, active=2, seed=0):
    torch.manual_seed(seed)
    mixture = MixtureOfExperts(width, hidden, experts, active).double()
    with torch.no_grad():
        for parameter in mixture.parameters():
            parameter.normal_()
        mixture.router.bias.normal_()
    return mixture


def token_by_token(mixture, x):
    """The definition: sum over the k chosen experts of weight times SwiGLU."""
    rows = []
    for token in x:
        affinity = torch.sigmoid(mixture.router.weight @ token)
        order = sorted(range(mixture.experts), key=lambda e: -(affinity + mixture.router.bias)[e])
        chosen = order[: mixture.router.active]
        total = sum(affinity[e] for e in chosen)
        row = torch.zeros_like(token)
        for e in chosen:
            gate, up = (token @ mixture.gate_up[e]).chunk(2)
            row = row + affinity[e] / total * ((F.silu(gate) * up) @ mixture.down[e])
        rows.append(row)
    return torch.stack(rows)


def test_router_chooses_with_the_bias_and_weighs_without_it():
    router = LossFreeRouter(1, 3, 2)
    with torch.no_grad():
        router.weight.copy_(torch.tensor([[0.0], [math.log(3.0)], [-math.log(3.0)]]))
    x = torch.ones(1, 1)  # affinities .5, .75, .25
    assert sorted(router(x).expert[0].tolist()) == [0, 1]
    router.bias.copy_(torch.tensor([0.0, 0.0, 0.3]))  # now .5, .75, .55
    routing = router(x)
    assert routing.expert[0].tolist() == [1, 2]
    torch.testing.assert_close(routing.weight[0], torch.tensor([0.75, 0.25]))


def test_equals_the_loop_over_tokens_and_so_does_its_gradient():
    mixture = make()
    x = torch.randn(7, 6, dtype=torch.float64, requires_grad=True)
    direction = torch.randn(7, 6, dtype=torch.float64)
    got = mixture(x)
    inputs = [x, *mixture.parameters()]
    slow = token_by_token(mixture, x)
    torch.testing.assert_close(got, slow)
    for a, b in zip(
        torch.autograd.grad((got * direction).sum(), inputs),
        torch.autograd.grad((slow * direction).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_the_grouped_kernel_gives_what_the_loop_gives():
    """What a GPU runs under autocast, here in bfloat16 on the CPU."""
    mixture = make(width=16, hidden=8).bfloat16()
    x = torch.randn(10, 16, dtype=torch.bfloat16)
    ends = torch.tensor([2, 2, 5, 9, 10])  # expert 1 has no row
    loop, grouped = mixture.loop(x, ends), mixture.grouped(x, ends)
    torch.testing.assert_close(grouped, loop, rtol=0.05, atol=0.05)


def test_an_expert_without_tokens_is_no_error():
    mixture = make(active=1)
    mixture.router.bias.copy_(torch.tensor([0.0, 9.0, 0.0, 0.0, 0.0]))
    x = torch.randn(4, 6).double()
    torch.testing.assert_close(mixture(x), token_by_token(mixture, x))


def test_load_counts_only_what_counts_and_moves_the_bias():
    mixture = make(experts=3, active=1).train()
    mixture.router.bias.copy_(torch.tensor([9.0, 0.0, 0.0]))  # all tokens go to expert 0
    counted = torch.tensor([[True, True], [True, False]])
    mixture(torch.randn(2, 2, 6).double(), counted)
    assert mixture.load.tolist() == [3.0, 0.0, 0.0]
    mixture.update_bias(0.5)
    torch.testing.assert_close(mixture.router.bias.float(), torch.tensor([8.5, 0.5, 0.5]))
    assert mixture.load.tolist() == [0.0, 0.0, 0.0]
    assert mixture.last_load.tolist() == [3.0, 0.0, 0.0]
    assert mixture.balance()["max_violation"] == pytest.approx(2.0)


def test_evaluation_leaves_the_load_alone():
    mixture = make().eval()
    mixture(torch.randn(4, 6).double())
    assert mixture.load.sum() == 0


def test_balance_by_hand():
    even = load_balance(torch.tensor([2.0, 2.0]))
    assert even == pytest.approx({"max_violation": 0.0, "cv": 0.0, "entropy_nats": math.log(2)})
    skewed = load_balance(torch.tensor([3.0, 1.0]))
    entropy = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    assert skewed == pytest.approx({"max_violation": 0.5, "cv": 0.5, "entropy_nats": entropy})
    assert load_balance(torch.zeros(3)) == {"max_violation": 0.0, "cv": 0.0, "entropy_nats": 0.0}


def test_the_bias_evens_out_a_skewed_router():
    mixture = make(experts=4, active=1, seed=3).train()
    mixture.router.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
    x = torch.randn(256, 6).double()
    mixture(x)
    mixture.update_bias(0.0)
    before = mixture.balance()["max_violation"]
    for _ in range(200):
        mixture(x)
        mixture.update_bias(0.01)
    assert mixture.balance()["max_violation"] < min(0.2, before / 4)


def test_more_active_than_experts_is_refused():
    with pytest.raises(ValueError, match="active_experts=3"):
        MixtureOfExperts(4, 4, 2, 3)
