"""The routers by hand and against loops over tokens in float64."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from onerec.model.moe import MixtureOfExperts
from onerec.model.routers import (
    CompetitionRouter,
    LossFreeRouter,
    RouterConfig,
    SoftmaxRouter,
    balance_loss,
    competition_schedule,
    diversity_loss,
    make_router,
    z_loss,
)

KINDS = ("loss_free", "softmax", "competition")


def make(kind, width=6, hidden=4, experts=5, active=2, seed=0, **settings):
    torch.manual_seed(seed)
    config = RouterConfig(kind, **settings)
    mixture = MixtureOfExperts(width, hidden, experts, active, router=config).double()
    with torch.no_grad():
        for parameter in mixture.parameters():
            parameter.normal_()
    return mixture


def swiglu(mixture, e, token):
    gate, up = (token @ mixture.gate_up[e]).chunk(2)
    return (F.silu(gate) * up) @ mixture.down[e]


def largest(values, k):
    return sorted(range(len(values)), key=lambda e: -values[e].item())[:k]


def softmax_slowly(mixture, x, counted):
    """Outputs and weighted losses of a softmax router, token after token."""
    k, n = mixture.active, mixture.experts
    rows, chosen, shares, scores = [], [], [], []
    for token in x:
        logits = mixture.router.weight @ token
        share = logits.exp() / logits.exp().sum()
        best = largest(share, k)
        total = sum(share[e] for e in best) if k > 1 else 1.0
        rows.append(sum(share[e] / total * swiglu(mixture, e, token) for e in best))
        chosen.append(best)
        shares.append(share)
        scores.append(logits.exp().sum().log() ** 2)
    balance, number = slow_balance(chosen, shares, counted, n), sum(counted)
    z = sum(c * score for c, score in zip(counted, scores, strict=True)) / number
    return torch.stack(rows), {"balance": balance, "z": z}


def slow_balance(chosen, shares, counted, n):
    number, total = sum(counted), 0.0
    for e in range(n):
        fell = sum(c * best.count(e) / len(best) for c, best in zip(counted, chosen, strict=True))
        mass = sum(c * share[e] for c, share in zip(counted, shares, strict=True))
        total = total + n * (fell / number) * (mass / number)
    return total


def compete_slowly(mixture, x, counted, hybrid):
    """The definition of a competition step: every expert answers every token."""
    k, number = mixture.active, sum(counted)
    rows, chosen, shares = [], [], []
    distillation = diversity = 0.0
    for token, count in zip(x, counted, strict=True):
        answers = [swiglu(mixture, e, token) for e in range(mixture.experts)]
        affinity = torch.stack([torch.log1p(answer.exp()).mean() for answer in answers])
        best = largest(affinity, k)
        total = sum(affinity[e] for e in best)
        rows.append(sum(affinity[e] / total * answers[e] for e in best))
        share = affinity.softmax(0)
        missed = ((mixture.router.weight @ token).softmax(0) - share.detach()) ** 2
        each = missed.mean() + hybrid * sum(missed[e] for e in best) / k
        distillation = distillation + count * each / number
        pairs = [(a, b) for a in best for b in best if a != b]
        cosine = sum(F.cosine_similarity(answers[a], answers[b], dim=0) for a, b in pairs)
        diversity = diversity + count * cosine / len(pairs) / number
        chosen.append(best)
        shares.append(share)
    balance = slow_balance(chosen, shares, counted, mixture.experts)
    losses = {"distillation": distillation, "diversity": diversity, "balance": balance}
    return torch.stack(rows), losses


def same_gradients(mixture, x, got, slow):
    inputs = [x, *mixture.parameters()]
    for a, b in zip(
        torch.autograd.grad(got, inputs, allow_unused=True),
        torch.autograd.grad(slow, inputs, allow_unused=True),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def total_of(outputs, losses):
    """A scalar to which outputs and each loss contribute with a weight of its own."""
    direction = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(7)).double()
    return (outputs * direction).sum() + sum(
        (3.0 + place) * losses[name] for place, name in enumerate(sorted(losses))
    )


# ------------------------------------------------------------------- by hand


def test_softmax_by_hand():
    router = SoftmaxRouter(1, 3, 2)
    with torch.no_grad():
        router.weight.copy_(torch.tensor([[0.0], [math.log(3.0)], [-math.log(3.0)]]))
    routing = router(torch.ones(1, 1))  # probabilities 3/13, 9/13, 1/13
    assert routing.expert[0].tolist() == [1, 0]
    torch.testing.assert_close(routing.weight[0], torch.tensor([0.75, 0.25]))
    single = SoftmaxRouter(1, 3, 1)
    single.weight = router.weight
    torch.testing.assert_close(single(torch.ones(1, 1)).weight[0], torch.tensor([9 / 13]))
    router.off = torch.tensor([False, True, False])
    without = router(torch.ones(1, 1))
    assert without.expert[0].tolist() == [0, 2]
    assert without.logits.equal(routing.logits)


def test_balance_by_hand():
    share = torch.tensor([[0.5, 0.25, 0.25], [0.7, 0.2, 0.1]])
    expert = torch.tensor([[0, 1], [0, 2]])  # f = 1/2, 1/4, 1/4; P = .6, .225, .175
    expected = 3 * (0.5 * 0.6 + 0.25 * 0.225 + 0.25 * 0.175)
    assert balance_loss(share, expert).item() == pytest.approx(expected)
    first = 3 * (0.5 * 0.5 + 0.5 * 0.25)
    assert balance_loss(share, expert, torch.tensor([4, 0])).item() == pytest.approx(first)
    even = balance_loss(torch.full((3, 3), 1 / 3), torch.tensor([[0], [1], [2]]))
    assert even.item() == pytest.approx(1.0)


def test_z_and_diversity_by_hand():
    logits = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]])
    expected = (math.log(2) ** 2 + math.log(4) ** 2) / 2
    assert z_loss(logits).item() == pytest.approx(expected)
    assert z_loss(logits, torch.tensor([0, 5])).item() == pytest.approx(math.log(4) ** 2)
    outputs = torch.tensor([[[1.0, 0.0], [2.0, 0.0]], [[1.0, 0.0], [1.0, 1.0]]])
    assert diversity_loss(outputs).item() == pytest.approx((1 + math.sqrt(0.5)) / 2)
    with pytest.raises(ValueError, match="two"):
        diversity_loss(outputs[:, :1])


def test_without_any_counted_token_losses_are_zero():
    nothing = torch.zeros(2)
    assert balance_loss(torch.full((2, 2), 0.5), torch.zeros(2, 1).long(), nothing) == 0
    assert z_loss(torch.ones(2, 2), nothing) == 0


# ---------------------------------------------------- against the definitions


@pytest.mark.parametrize("active", [1, 2, 5])
def test_softmax_equals_the_loop_over_tokens_with_its_losses_and_gradients(active):
    mixture = make("softmax", active=active).train()
    x = torch.randn(7, 6, dtype=torch.float64, requires_grad=True)
    counted = [1, 0, 2, 1, 0, 3, 1]
    outputs = mixture(x, torch.tensor(counted))
    losses = mixture.take_losses()
    slow, slow_losses = softmax_slowly(mixture, x, counted)
    torch.testing.assert_close(outputs, slow)
    assert losses.keys() == slow_losses.keys()
    for name, value in losses.items():
        torch.testing.assert_close(value, slow_losses[name])
    same_gradients(mixture, x, total_of(outputs, losses), total_of(slow, slow_losses))


def test_competition_equals_the_dense_run_with_its_losses_and_gradients():
    mixture = make("competition", active=3, hybrid=0.7).train()
    mixture.router.competing = True
    x = torch.randn(7, 6, dtype=torch.float64, requires_grad=True)
    counted = [1, 0, 2, 1, 0, 3, 1]
    outputs = mixture(x, torch.tensor(counted))
    losses = mixture.take_losses()
    slow, slow_losses = compete_slowly(mixture, x, counted, 0.7)
    torch.testing.assert_close(outputs, slow)
    assert losses.keys() == slow_losses.keys()
    for name, value in losses.items():
        torch.testing.assert_close(value, slow_losses[name])
    same_gradients(mixture, x, total_of(outputs, losses), total_of(slow, slow_losses))


def test_distillation_teaches_the_router_alone():
    mixture = make("competition").train()
    mixture.router.competing = True
    mixture(torch.randn(7, 6).double())
    mixture.take_losses()["distillation"].backward()
    assert mixture.router.weight.grad.abs().max() > 0
    assert mixture.gate_up.grad is None
    assert mixture.down.grad is None


def test_the_router_is_alone_on_other_steps_and_in_evaluation():
    mixture, plain = make("competition"), make("softmax")
    plain.load_state_dict(mixture.state_dict())
    x = torch.randn(7, 6).double()
    expected = plain.eval()(x)
    mixture.train()
    assert mixture(x).equal(expected)
    assert mixture.take_losses().keys() == {"balance", "z"}
    mixture.router.competing = True
    assert not torch.allclose(mixture(x), expected)
    assert mixture.eval()(x).equal(expected)


def test_the_router_learns_who_wins():
    """Trained by distillation alone it foresees more winners than by lot, a third."""
    mixture = make("competition", width=8, experts=6).float().train()
    mixture.router.competing = True
    x = torch.randn(256, 8)
    optimizer = torch.optim.Adam([mixture.router.weight], lr=0.1)

    def agreement():
        with mixture.record() as winners:
            mixture(x)
        foreseen = mixture.router(x).expert
        same = (winners[0].expert[..., None] == foreseen[:, None]).any(-1)
        return same.float().mean().item()

    before = agreement()
    for _ in range(60):
        mixture(x)
        optimizer.zero_grad()
        mixture.take_losses()["distillation"].backward()
        optimizer.step()
    assert agreement() > max(0.55, before + 0.2)  # the affinities are not linear in the token


@pytest.mark.parametrize("kind", KINDS)
def test_padding_enters_neither_load_nor_losses(kind):
    mixture = make(kind).train()
    for competing in (False, True) if kind == "competition" else (False,):
        mixture.router.competing = competing
        x = torch.randn(2, 3, 6).double()
        counted = torch.tensor([[True, True, False], [True, False, False]])
        kept = x[counted]
        other = x.masked_scatter(~counted[..., None], 9 * torch.randn(18).double())
        outcomes = []
        for tokens, counts in ((x, counted), (other, counted), (kept, None)):
            mixture.load.zero_()
            mixture(tokens, counts)
            outcomes.append({"load": mixture.load.clone(), **mixture.take_losses()})
        for outcome in outcomes[1:]:
            torch.testing.assert_close(outcomes[0], outcome)
        assert outcomes[0]["load"].sum() == 6  # three tokens, two experts each


@pytest.mark.parametrize("kind", KINDS)
def test_every_token_is_served_however_skewed_the_router(kind):
    mixture = make(kind, experts=4).eval()
    with torch.no_grad():
        mixture.router.weight.zero_()
        mixture.router.weight[0] = 50.0
        mixture.router.weight[1] = 40.0
    x = torch.rand(64, 6).double()
    with mixture.record() as passes:
        y = mixture(x)
    assert passes[0].expert.sort().values.unique(dim=0).tolist() == [[0, 1]]
    torch.testing.assert_close(passes[0].weight.sum(-1), torch.ones(64).double())
    assert (y != 0).any(-1).all()


def test_auxiliary_losses_are_of_training_and_only_where_they_have_a_weight():
    x = torch.randn(7, 6).double()
    quiet = make("softmax", balance_weight=0.0, z_weight=0.0).train()
    quiet(x)
    assert quiet.take_losses() == {}
    mixture = make("softmax").eval()
    mixture(x)
    assert mixture.take_losses() == {}
    assert make("loss_free").train().take_losses() == {}
    settings = {"balance_weight": 0.0, "z_weight": 0.0, "distillation_weight": 0.0}
    some = make("competition", **settings).train()
    some.router.competing = True
    some(x)
    assert some.take_losses().keys() == {"diversity"}
    assert some.take_losses() == {}, "each pass once"


def test_one_active_expert_competes_too():
    mixture = make("competition", active=1).train()
    mixture.router.competing = True
    mixture(torch.randn(7, 6).double())
    assert mixture.take_losses().keys() == {"balance", "distillation"}


def last_violation(kind, weight=0.0, rate=0.0):
    """MaxVio at first and at the end of 200 steps in which tokens and router lean to one side."""
    mixture = make(kind, width=8, experts=4, active=1, z_weight=0.0).float().train()
    with torch.no_grad():
        for parameter in mixture.parameters():
            parameter.mul_(0.3)
        mixture.router.weight.mul_(0.3)
        mixture.router.weight[0, 0] = 1.0
    torch.manual_seed(1)
    x, target = torch.randn(64, 8), torch.randn(64, 8)
    x[:, 0] += 2.0
    optimizer = torch.optim.AdamW(mixture.parameters(), lr=0.01, fused=True)
    violations = []
    for _ in range(200):
        error = (mixture(x) - target).square().mean()
        loss = error + sum(weight * value for value in mixture.take_losses().values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mixture.update_bias(rate)
        violations.append(mixture.balance()["max_violation"])
    return violations[0], sum(violations[-10:]) / 10


@pytest.mark.parametrize(
    ("kind", "settings"), [("loss_free", {"rate": 0.01}), ("softmax", {"weight": 0.1})]
)
def test_balance_improves_in_200_steps_on_a_skewed_toy_problem(kind, settings):
    first, without = last_violation(kind)
    assert first > 2.5  # of at most 3
    assert without > 1.5
    assert last_violation(kind, **settings)[1] < 0.4


def test_a_bias_moves_against_the_load_and_only_where_there_is_one():
    router = LossFreeRouter(2, 4, 1)
    router.update(torch.tensor([6.0, 1.0, 3.0, 2.0]), 0.1)  # mean 3
    torch.testing.assert_close(router.bias, torch.tensor([-0.1, 0.1, 0.0, 0.1]))
    plain = SoftmaxRouter(2, 3, 1)
    plain.weight.data.fill_(1.0)  # a weight without a start may be NaN, which equals nothing
    before = plain.weight.clone()
    plain.update(torch.tensor([5.0, 1.0, 3.0]), 0.1)
    assert plain.weight.equal(before)


def test_a_token_that_no_expert_wants_is_no_division_by_zero():
    """Below -104 a sigmoid is 0 in float32, and 0 / 0 stopped the training."""
    router = LossFreeRouter(4, 3, 2)
    router.weight.data.fill_(-60.0)
    routing = router(torch.ones(1, 4))
    assert routing.weight.isfinite().all()
    routing.weight.sum().backward()
    assert router.weight.grad.isfinite().all()


def test_scores_are_at_least_float32():
    router = SoftmaxRouter(4, 3, 2).bfloat16()
    with torch.no_grad():
        router.weight.normal_()
    assert router(torch.randn(2, 4).bfloat16()).weight.dtype == torch.float32
    assert router.double()(torch.randn(2, 4).double()).weight.dtype == torch.float64


@pytest.mark.parametrize("kind", ["softmax", "competition"])
def test_losses_are_not_rounded_under_autocast(kind):
    mixture = make(kind).float().train()
    mixture.router.competing = kind == "competition"
    x, counted = torch.randn(64, 6), torch.arange(64) % 3
    outputs = torch.randn(64, 5, 6)
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            if kind == "softmax":
                losses = mixture.router.losses(mixture.router(x), counted)
            else:
                losses = mixture.router.compete(x, outputs, counted)[1]
        found.append(losses)
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-7)


def test_a_weight_of_zero_is_no_weight():
    weights = {"balance": 0.1, "z": 0.2, "distillation": 0.3, "diversity": 0.4}
    config = RouterConfig(**{f"{name}_weight": weight for name, weight in weights.items()})
    assert config.weights == weights
    del weights["z"]
    assert replace(config, z_weight=0.0).weights == weights


def test_make_router_knows_three():
    kinds = [type(make_router(RouterConfig(kind), 4, 3, 2)) for kind in KINDS]
    assert kinds == [LossFreeRouter, SoftmaxRouter, CompetitionRouter]
    with pytest.raises(ValueError, match="'sofmax': there are loss_free, softmax and competition"):
        make_router(RouterConfig("sofmax"), 4, 3, 2)


# ------------------------------------------------------------------ schedule


def plan(steps=2000, layers=6, seed=0, **settings):
    settings = {"competition_rate": 0.07, "competition_layers": 2, **settings}
    config = RouterConfig("competition", **settings)
    return competition_schedule(config, steps, layers, torch.Generator().manual_seed(seed))


def test_the_schedule_has_its_rate_after_the_warm_up_and_never_too_many_layers():
    schedule = plan(competition_warmup=0.1)
    assert schedule.shape == (2000, 6)
    assert not schedule[:200].any()
    assert schedule.sum(1).max() == 2
    # 1,800 coins of .07 per layer: deviation 11; the surplus has moved and is not lost
    assert schedule.sum(0).tolist() == pytest.approx([126] * 6, abs=4 * 11)


def test_the_schedule_is_the_generators():
    assert plan(seed=3).equal(plan(seed=3))
    assert not plan(seed=3).equal(plan(seed=4))


def test_surplus_moves_to_the_nearest_free_step():
    crowded = plan(steps=400, competition_layers=6, seed=5)  # nobody has to move
    schedule = plan(steps=400, competition_layers=1, seed=5)
    assert schedule.sum() == crowded.sum()
    assert schedule.sum(0).equal(crowded.sum(0))  # each layer keeps its number of steps
    moved = (schedule & ~crowded).nonzero().tolist()
    assert {layer for _, layer in moved} == set(range(6)), "who gives way is drawn by lot"
    for step, layer in moved:  # from somewhere near: it left a crowded step
        left = (crowded & ~schedule)[:, layer].nonzero()[:, 0]
        assert (left - step).abs().min() <= 12
    only = plan(steps=3, layers=3, competition_rate=1.0, competition_layers=1, competition_warmup=0)
    assert only.sum(1).tolist() == [1, 1, 1]  # there is no room for more
    late = plan(
        steps=4, layers=3, competition_rate=1.0, competition_layers=1, competition_warmup=0.5
    )
    assert late.sum(1).tolist() == [0, 0, 1, 1]  # nor is there any in the warm-up
    all_of_them = plan(steps=4, layers=2, competition_rate=1.0, competition_warmup=0.5)
    assert all_of_them.sum(1).tolist() == [0, 0, 2, 2]
    rounded = plan(steps=10, layers=1, competition_rate=1.0, competition_warmup=0.28)
    assert rounded.sum() == 7
    assert not plan(competition_warmup=1.0).any()
    roomy = {"steps": 400, "layers": 6, "competition_rate": 0.2, "seed": 5}
    tossed = plan(competition_layers=6, **roomy)
    pairs = plan(competition_layers=2, **roomy)
    assert pairs.sum(0).equal(tossed.sum(0))  # none meets itself
    assert pairs.sum(1).max() == 2
    # two layers toss heads at the middle step alone: one of them goes one step on
    assert moved_by_hand() == [[0, 0], [1, 0], [0, 1], [0, 0]]


def moved_by_hand():
    """Seeds are tried until both layers come up in step 1 of four and nowhere else."""
    for seed in range(20_000):
        settings = {"steps": 4, "layers": 2, "competition_rate": 0.2, "competition_warmup": 0}
        tossed = plan(seed=seed, competition_layers=2, **settings)
        if tossed.tolist() == [[False, False], [True, True], [False, False], [False, False]]:
            schedule = plan(seed=seed, competition_layers=1, **settings).long()
            return (schedule if schedule[1, 0] else schedule.flip(1)).tolist()
    raise AssertionError("no seed")


@pytest.mark.parametrize(
    "settings",
    [{"competition_rate": 1.5}, {"competition_warmup": -0.1}, {"competition_layers": 0}],
)
def test_an_impossible_schedule_is_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        plan(**settings)
