"""The mixture of experts by hand and against a loop over tokens."""

import math

import pytest
import torch
import torch.nn.functional as F

from onerec.model.moe import (
    LossFreeRouter,
    MixtureOfExperts,
    RouterConfig,
    combined,
    dispatched,
    load_balance,
)


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
        total = sum(affinity[e] for e in chosen) if len(chosen) > 1 else 1.0
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


@pytest.mark.parametrize("active", [1, 2])
def test_equals_the_loop_over_tokens_and_so_does_its_gradient(active):
    mixture = make(active=active)
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
    moved = torch.autograd.grad((mixture(x) * direction).sum(), mixture.router.weight)[0]
    assert (moved != 0).any()  # one expert's router learns, too


def test_the_grouped_kernel_gives_what_the_loop_gives():
    """What a GPU runs under autocast, here in bfloat16 on the CPU."""
    mixture = make(width=16, hidden=8).bfloat16()
    x = torch.randn(10, 16, dtype=torch.bfloat16)
    ends = torch.tensor([2, 2, 5, 9, 10])  # expert 1 has no row
    loop, grouped = mixture.loop(x, ends), mixture.grouped(x, ends)
    torch.testing.assert_close(grouped, loop, rtol=0.05, atol=0.05)


def test_rows_gathered_for_a_gpu_are_those_that_a_cpu_adds_up():
    g = torch.Generator().manual_seed(0)
    expert = torch.rand(7, 5, generator=g).argsort(1)[:, :2]  # (T, k)
    order = expert.flatten().argsort(stable=True)
    tokens = torch.randn(7, 3, generator=g, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(7, 2, generator=g, dtype=torch.float64, requires_grad=True)

    def gathered(tokens, weight):
        rows, place = dispatched(tokens, order, 2)
        return combined(rows.sin(), order, place, weight)

    token = order // 2
    weighed = tokens[token].sin() * weight.flatten()[order, None]
    added = torch.zeros(7, 3, dtype=torch.float64).index_add(0, token, weighed)
    torch.testing.assert_close(gathered(tokens, weight), added)
    assert torch.autograd.gradcheck(gathered, (tokens, weight))


def test_no_tokens_are_gathered_to_none():
    none, order = torch.zeros(0, 3, requires_grad=True), torch.zeros(0, dtype=torch.int64)
    rows, place = dispatched(none, order, 2)
    answered = combined(rows, order, place, torch.zeros(0, 2))
    answered.sum().backward()
    assert answered.shape == none.grad.shape == (0, 3)


def test_casts_are_kept_without_gradients_until_a_weight_changes():
    mixture = make(experts=3, active=1)
    with torch.no_grad():
        first = mixture._weights(torch.bfloat16)
        assert all(a is b for a, b in zip(mixture._weights(torch.bfloat16), first, strict=True))
        mixture.down.mul_(2)
        again = mixture._weights(torch.bfloat16)
    torch.testing.assert_close(again[1], mixture.down.bfloat16(), rtol=0, atol=0)
    optimizer = torch.optim.SGD([mixture.gate_up], lr=1.0, foreach=True)
    mixture._weights(torch.bfloat16)[0].float().sum().backward()  # with gradients none is kept
    assert mixture._kept is None
    with torch.no_grad():
        before = mixture._weights(torch.bfloat16)[0].clone()
    optimizer.step()
    with torch.no_grad():
        after = mixture._weights(torch.bfloat16)[0]
        held = mixture.kept
        mixture.gate_up.add_(1.0)
        mixture.keep(torch.bfloat16)
        assert mixture.kept is held  # made again in place: a CUDA graph reads them where they are
        mixture.gate_up.add_(-1.0)
        mixture.keep(torch.bfloat16)
    torch.testing.assert_close(after.float(), before.float() - 1, rtol=0.01, atol=0.02)
    mixture.keep(torch.float16)
    assert [copy.dtype for copy in mixture.kept] == [torch.float16] * 2


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
    mixture(torch.randn(2, 6).double(), torch.tensor([2, 0]))  # once more, with a shared position
    assert mixture.load.tolist() == [5.0, 0.0, 0.0]
    mixture.update_bias(0.5)
    torch.testing.assert_close(mixture.router.bias.float(), torch.tensor([8.5, 0.5, 0.5]))
    assert mixture.load.tolist() == [0.0, 0.0, 0.0]
    assert mixture.last_load.tolist() == [5.0, 0.0, 0.0]
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


# ------------------------------------------------------------ shared experts


@pytest.mark.parametrize("shared", [1, 2])
def test_shared_experts_are_added_to_every_token(shared):
    torch.manual_seed(0)
    mixture = MixtureOfExperts(6, 4, 5, 2, shared).double().eval()
    with torch.no_grad():
        for parameter in mixture.parameters():
            parameter.normal_()
    x = torch.randn(7, 6).double()
    expected = token_by_token(mixture, x)
    gate, up = mixture.shared.gate_up.weight.chunk(2)  # (shared F, D) each
    down = mixture.shared.down.weight  # (D, shared F)
    assert down.shape == (6, 4 * shared)
    for n in range(shared):
        rows = slice(4 * n, 4 * n + 4)
        expected = expected + (F.silu(x @ gate[rows].T) * (x @ up[rows].T)) @ down[:, rows].T
    torch.testing.assert_close(mixture(x), expected)
    assert mixture.train()(x).shape == x.shape
    assert mixture.load.sum() == 14  # shared experts are no load


def test_a_mixture_without_shared_experts_has_the_names_of_old_checkpoints():
    assert list(MixtureOfExperts(6, 4, 5, 2).state_dict()) == [
        "gate_up",
        "down",
        "router.weight",
        "router.bias",
    ]
    with pytest.raises(ValueError, match="shared_experts=-1"):
        MixtureOfExperts(6, 4, 5, 2, -1)


# ----------------------------------------------------------------- recording


def test_a_record_is_what_the_router_says_of_each_token():
    mixture = make()
    x, counted = torch.randn(2, 3, 6).double(), torch.tensor([[1, 1, 0], [1, 0, 0]])
    with mixture.record() as passes:
        mixture(x, counted)
        mixture(x[0])
    mixture(x)  # nobody looks
    assert [tuple(one.expert.shape) for one in passes] == [(2, 3, 2), (3, 2)]
    assert passes[0].counted is counted
    assert passes[1].counted is None
    for b in range(2):
        for t in range(3):
            routing = mixture.router(x[b, t][None])
            assert passes[0].expert[b, t].equal(routing.expert[0])
            torch.testing.assert_close(passes[0].weight[b, t], routing.weight[0])


def test_a_recorded_weight_keeps_its_gradient():
    mixture = make()
    with mixture.record() as passes:
        mixture(torch.randn(4, 6).double())
    passes[0].weight[:, 0].sum().backward()
    assert mixture.router.weight.grad.abs().max() > 0


def test_recording_ends_with_an_error_too_and_may_be_nested():
    mixture, x = make(), torch.randn(4, 6).double()
    with mixture.record() as outer:
        mixture(x)
        with mixture.record() as inner:
            mixture(x)
        with pytest.raises(ValueError, match="nobody"), mixture.record() as failed:
            raise ValueError("nobody has run it")
        mixture(x)
    mixture(x)
    assert [len(outer), len(inner), len(failed)] == [2, 1, 0]


# --------------------------------------------------------------- switched off


@pytest.mark.parametrize("kind", ["loss_free", "softmax", "competition"])
@pytest.mark.parametrize("active", [1, 2])
def test_an_expert_that_is_off_gets_no_token_and_the_others_share_its_weight(kind, active):
    torch.manual_seed(2)
    mixture = MixtureOfExperts(6, 4, 5, active, router=RouterConfig(kind)).double().eval()
    rest = MixtureOfExperts(6, 4, 4, active, router=RouterConfig(kind)).double().eval()
    kept = [0, 1, 2, 4]  # `rest` has never had expert 3
    with torch.no_grad():
        for parameter in mixture.parameters():
            parameter.normal_()
        rest.router.weight.copy_(mixture.router.weight[kept])
        rest.gate_up.copy_(mixture.gate_up[kept])
        rest.down.copy_(mixture.down[kept])
    x = torch.randn(64, 6).double()
    before = mixture(x)
    with mixture.record() as passes, mixture.without([3]):
        without = mixture(x)
    assert not (passes[0].expert == 3).any()
    torch.testing.assert_close(without, rest(x))
    assert not torch.allclose(without, before)
    assert mixture(x).equal(before)


def test_what_cannot_be_switched_off_is_refused():
    mixture = make(experts=3)
    mixture.router.bias.copy_(torch.tensor([-9.0, -7.0, -9.0]))  # all would go to expert 1
    with pytest.raises(ValueError, match=r"experts \[3\]: there are 0 to 2"), mixture.without([3]):
        pass
    with mixture.without([1]):
        with pytest.raises(ValueError, match="leaves 1; a token needs 2"), mixture.without([2]):
            pass
        with mixture.without([1]):
            pass
        with mixture.record() as passes:
            mixture(torch.randn(9, 6).double())
    assert passes[0].expert.sort().values.unique(dim=0).tolist() == [[0, 2]]
    assert mixture.router.off is None


def test_nobody_competes_while_an_expert_is_off():
    mixture = MixtureOfExperts(6, 4, 5, 2, router=RouterConfig("competition")).train()
    mixture.router.competing = True
    with torch.no_grad():
        for parameter in mixture.parameters():
            parameter.normal_()
    with mixture.record() as passes, mixture.without([3]):
        mixture(torch.randn(64, 6))
    assert not (passes[0].expert == 3).any()
