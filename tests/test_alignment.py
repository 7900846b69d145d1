"""A policy step: exact ratios, who counts, and that objectives agree where they must."""

import math
from dataclasses import replace
from types import SimpleNamespace

import fake_rollouts
import numpy as np
import pytest
import torch
import toy_model as toy

import onerec.alignment as alignment_module
from onerec.alignment import (
    KL,
    AlignBatch,
    Alignment,
    LoggedItems,
    PolicyConfig,
    _values,
    score_lists,
)
from onerec.alignment_settings import unread
from onerec.errors import RunError
from onerec.model import packing, pieces
from onerec.model.routers import RouterConfig
from onerec.model.sample import sequence_log_probs
from onerec.rollouts import OBJECTIVES, read_rollout, write_rollout
from onerec.sections import AlignConfig, IndustrialConfig, SamplingConfig
from onerec.tokenizer.trie import Trie
from onerec.train import compiled
from onerec.train.policy import EPSILON

GROUP = 12


class ByItem:
    """The reward is the item's number; `extra` is recorded and weighs nothing."""

    def score(self, user, end, items):
        value = (items.float() + 1) / toy.N_ITEMS
        return {"pscore": value, "extra": torch.ones_like(value)}


def make_batch(seed=5):
    context = toy.make_batch((4, 2, 3, 1))
    number = np.arange(4)
    return AlignBatch(toy.make_batch((4, 0, 2), seed=9), number, number + 3, context, seed)


def make(lag=0, scorer=None, router=None, fast=False, **config):
    model = toy.make_model(experts=2, active_experts=1, router=router or RouterConfig())
    trie = Trie(toy.item_codes(), toy.SIZES)
    settings = PolicyConfig(group=GROUP, **{"weights": {"pscore": 1.0}, **config})
    return Alignment(model.train(), trie, scorer or ByItem(), settings, lag, fast)


def gradients(alignment, batch):
    alignment.model.zero_grad()
    loss, _ = alignment.policy_loss(batch)
    loss.backward()
    named = alignment.model.named_parameters()
    return {name: p.grad.clone() for name, p in named if p.grad is not None}


def test_the_seed_of_a_step_may_be_beyond_64_bits():
    """A recipe's seed is at most 10^18 and is multiplied before it gets here."""
    policy = make()
    drawn = policy.rollout(make_batch(10**22)).item
    assert drawn.equal(policy.rollout(make_batch(10**22)).item)
    assert not drawn.equal(policy.rollout(make_batch(10**22 + 2)).item)


@pytest.mark.parametrize("search", ["sample", "constrained", "beam"])
def test_the_current_policy_has_a_ratio_of_exactly_one(search):
    alignment = make(search=search)
    _, values = alignment.policy_loss(make_batch())
    assert alignment.last is not None
    assert bool((alignment.last.step().ratio == 1).all())
    assert values["ratio_max"] == 1
    assert values["outside"] == values["beyond"] == 0
    found = alignment.last.item >= 0  # what the sampler's kernel computed is the same but for float
    assert torch.allclose(alignment.last.sampled[found], alignment.last.drawn[found], atol=1e-4)


def test_at_lag_0_ecpo_grpo_ppo_and_reinforce_have_one_gradient():
    found = {
        name: gradients(make(objective=name), make_batch())
        for name in ("ecpo", "grpo", "ppo_clip", "reinforce")
    }
    assert any(bool(g.abs().sum() > 0) for g in found["ecpo"].values())
    for name, other in found.items():
        for key, gradient in found["ecpo"].items():
            torch.testing.assert_close(other[key], gradient, msg=f"{name} {key}")


def test_a_lagging_copy_serves_until_new_weights_are_sent():
    alignment, batch = make(lag=3), make_batch()
    alignment.policy_loss(batch)
    with torch.no_grad():
        for parameter in alignment.model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=toy.stream()))
    first = alignment.rollout(batch)
    _, values = alignment.policy_loss(batch)
    assert alignment.last is not None
    assert first.codes.equal(alignment.last.codes)  # the copy has not moved
    assert values["ratio_max"] > 1.01
    alignment.send()
    alignment.policy_loss(batch)
    ratio = alignment.last.step().ratio
    torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=1e-4, rtol=0)
    assert not any(p.requires_grad for p in alignment.served.parameters())


def test_illegal_items_leave_the_group_and_legal_ones_alone_are_formatted():
    alignment = make(format_items=5)
    _, values = alignment.policy_loss(make_batch())
    rollout = alignment.last
    assert rollout is not None
    illegal = rollout.item < 0
    assert illegal.any()
    assert (~illegal).any()
    assert rollout.counted.equal(~illegal)
    assert bool((rollout.advantage()[illegal] == 0).all())
    assert set(rollout.format.unique().tolist()) <= {0.0, 1.0}
    assert bool((rollout.format[illegal] == 0).all())
    assert 0 < rollout.format.sum() <= 5 * len(rollout.format)
    assert bool((rollout.step().push[illegal] == 0).all())
    assert values["legality"] == (~illegal).float().mean()


def test_an_illegal_item_may_be_punished_instead():
    alignment = make(format_items=GROUP, format_illegal=-1.0)
    alignment.policy_loss(make_batch())
    rollout = alignment.last
    assert rollout is not None
    assert bool((rollout.step().push[rollout.item < 0] < 0).all())


def test_with_the_trie_or_a_beam_there_is_nothing_to_format():
    for search in ("constrained", "beam"):
        alignment = make(search=search, format_items=5)
        alignment.policy_loss(make_batch())
        assert alignment.last is not None
        assert not alignment.last.format.any()


def test_parts_without_a_weight_are_recorded_and_not_added():
    alignment = make()
    alignment.policy_loss(make_batch())
    rollout = alignment.last
    assert rollout is not None
    assert set(rollout.parts) == {"pscore", "extra"}
    assert rollout.reward().equal(rollout.parts["pscore"])


def test_the_industrial_reward_damps_what_is_listed():
    listed = torch.arange(toy.N_ITEMS) < toy.N_ITEMS // 2
    alignment = make(listed=listed, alpha=0.25, limit=0.0)
    alignment.policy_loss(make_batch())
    rollout = alignment.last
    assert rollout is not None
    mine = (rollout.item >= 0) & listed[rollout.item.clamp(min=0)]
    assert mine.any()
    assert rollout.factor[mine].unique().tolist() == [0.25]
    assert rollout.factor[~mine].unique().tolist() == [1.0]
    tolerant = make(listed=listed, alpha=0.25, limit=1.0)
    tolerant.policy_loss(make_batch())
    assert tolerant.last is not None
    assert tolerant.last.factor.unique().tolist() == [1.0]


def test_a_recorded_step_replays_to_the_same_numbers(tmp_path):
    alignment = make(lag=2, format_items=4, objective="ecpo")
    with torch.no_grad():
        for parameter in alignment.model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=toy.stream()))
    loss, values = alignment.policy_loss(make_batch())
    rollout = alignment.last
    assert rollout is not None
    write_rollout(tmp_path / "step.parquet", rollout)
    again = read_rollout(tmp_path / "step.parquet")
    assert again.step().loss.equal(loss.detach())
    assert again.step().ratio.equal(rollout.step().ratio)
    assert again.reward().equal(rollout.reward())
    assert again.advantage().equal(rollout.advantage())
    ratio = (again.log_prob - again.drawn).exp()[again.counted]
    assert values["ratio_max"] == ratio.max()


def test_ratios_are_told_as_they_are_before_the_early_clip():
    """ECPO lets in at most 1.3; told as the greatest ratio, it hid how far the model had moved."""
    rollout = fake_rollouts.rollout(objective="ecpo")
    values = _values(rollout, torch.zeros(()))
    assert rollout.step().ratio.max() < 1.301
    assert values["ratio_max"].item() == pytest.approx(3.0, rel=1e-5)  # the greatest of its RATIOS
    blamed = rollout.counted & (rollout.advantage() < 0)
    far = (rollout.log_prob - rollout.drawn > math.log(1.3)) & blamed
    assert values["beyond"] == far.sum() / blamed.sum() > 0


def test_a_ratio_without_end_is_told_as_a_number():
    """metrics.jsonl holds none that is infinite."""
    rollout = fake_rollouts.rollout(objective="ecpo")
    rollout.counted[0, 0] = True
    rollout.drawn[0, 0] = rollout.log_prob[0, 0] - 100
    values = _values(rollout, torch.zeros(()))
    assert all(value.isfinite() for value in values.values())
    assert values["ratio_max"].item() == pytest.approx(math.exp(30), rel=1e-4)


def test_auxiliary_losses_are_minimised_and_not_told_as_next_token_loss():
    alignment, batch = make(router=RouterConfig("softmax")), make_batch()
    alignment.model.eval()
    plain, _ = alignment.model.loss(batch.next_token)
    alignment.model.train()
    loss, values = alignment.next_token(batch)
    torch.testing.assert_close(values["next_token"], plain)
    layers = len(alignment.model.mixtures())
    extra = layers * (0.01 * values["aux_balance"] + 0.001 * values["aux_z"])
    torch.testing.assert_close(loss, plain + extra)


def test_a_lazy_models_next_token_loss_is_the_mean_over_levels():
    alignment, batch = make(), make_batch()
    alignment.model = toy.make_lazy().train()
    loss, values = alignment.next_token(batch)
    torch.testing.assert_close(values["next_token"], loss)


def test_a_weight_of_0_is_next_token_training_alone():
    alignment, batch = make(weight=0.0), make_batch()
    loss, values = alignment.loss(batch)
    torch.manual_seed(0)
    expected, _ = alignment.model.loss(batch.next_token)
    torch.testing.assert_close(loss, expected)
    assert alignment.last is None
    assert "policy" not in values


def test_the_loss_is_the_weighted_sum():
    alignment, batch = make(weight=0.3), make_batch()
    loss, values = alignment.loss(batch)
    torch.testing.assert_close(loss, values["next_token"] + 0.3 * values["policy"])
    assert alignment.model.training


def test_the_weight_reaches_the_gradients():
    """At lag 0 the objective's value is about 0, whatever its gradient."""

    def whole(weight):
        alignment = make(weight=weight)
        alignment.loss(make_batch())[0].backward()
        found = [p.grad for p in alignment.model.parameters() if p.grad is not None]
        return torch.cat([gradient.flatten() for gradient in found])

    none, some, twice = (whole(weight) for weight in (0.0, 0.3, 0.6))
    assert (some - none).norm() > 0.01 * none.norm()
    torch.testing.assert_close(twice - none, 2 * (some - none), atol=1e-5, rtol=1e-3)


def test_a_reward_that_is_no_number_stops_the_step():
    class Broken:
        def score(self, user, end, items):
            return {"pscore": torch.full(items.shape, torch.nan)}

    with pytest.raises(RunError, match="reward 'pscore' of user 0 is not a finite number"):
        make(scorer=Broken()).policy_loss(make_batch())


def test_groups_without_a_difference_are_counted_and_teach_nothing():
    class Same:
        def score(self, user, end, items):
            return {"pscore": torch.ones(items.shape)}

    alignment = make(scorer=Same())
    loss, values = alignment.policy_loss(make_batch())
    assert values["flat_groups"] == 1
    assert loss == 0


def test_lists_are_scored_in_parts():
    items = np.arange(12).reshape(6, 2) % toy.N_ITEMS
    user = np.arange(6)
    whole = score_lists(ByItem(), user, user, items, ("pscore",))["pscore"]
    parts = score_lists(ByItem(), user, user, items, ("pscore",), at_once=4)["pscore"]
    assert np.array_equal(whole, parts)
    assert whole[0] == pytest.approx((1 + 2) / 2 / toy.N_ITEMS)


def moved(alignment):
    with torch.no_grad():
        for parameter in alignment.model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=toy.stream()))
    return alignment


def test_a_tilt_draws_the_policy_to_the_reference_times_the_reward():
    """A beam over every item; the expected distance to pi_ref r^2 falls, and only from a tilt."""

    def apart(alignment, batch):
        alignment.policy_loss(batch)
        last = alignment.last
        there = (last.reference + 2 * last.reward().log()).masked_fill(~last.counted, -torch.inf)
        share = last.share()
        now = share.clamp(min=1e-30).log() - there.log_softmax(1)
        return float((share * now.masked_fill(~last.counted, 0.0)).sum(1).mean())

    alignment, batch = make(search="beam", tilt=2.0), make_batch()
    first = apart(alignment, batch)
    adam = torch.optim.Adam(alignment.model.parameters(), lr=0.01)
    for _ in range(40):
        adam.zero_grad()
        alignment.policy_loss(batch)[0].backward()
        adam.step()
    assert apart(alignment, batch) < 0.2 * first


@pytest.mark.parametrize(
    "chosen", [{"objective": "grpo_kl"}, {"objective": "dpo"}, {"tilt": 2.0}], ids=str
)
def test_the_reference_stays_where_it_began(chosen):
    alignment, batch = make(**chosen), make_batch()
    alignment.policy_loss(batch)
    assert alignment.last is not None
    assert alignment.last.reference is not None
    torch.testing.assert_close(
        alignment.last.reference, alignment.last.log_prob, atol=1e-4, rtol=1e-4
    )
    moved(alignment).policy_loss(batch)
    assert not torch.allclose(alignment.last.reference, alignment.last.log_prob, atol=0.01)


def test_the_norm_is_that_of_the_objective_alone():
    alignment, batch = make(measure_norm=True), make_batch()
    loss, values = alignment.policy_loss(batch)
    loss.backward()
    found = [p.grad.norm() for p in alignment.model.parameters() if p.grad is not None]
    torch.testing.assert_close(values["policy_norm"], torch.stack(found).norm())


def test_grpo_with_kl_is_an_objective_of_its_own():
    """What comparisons call GRPO with KL: the divergence is in the loss, with its weight."""
    alignment, batch = moved(make(objective="grpo_kl")), make_batch()
    loss, _ = alignment.policy_loss(batch)
    last = alignment.last
    assert last.settings["kl"] == KL
    plain = replace(last, objective="grpo", settings={"epsilon": EPSILON})
    apart = (last.reference - last.log_prob).double()
    teaches = last.counted & ~last.flat()[:, None]
    divergence = ((apart.exp() - apart - 1) * teaches).mean()
    assert divergence > 0
    expected = plain.step().loss.double() + KL * divergence
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_industrial_reward_begins_just_above_the_limit():
    """The share is that of the listed among the legal items of the step."""
    listed = torch.arange(toy.N_ITEMS) < toy.N_ITEMS // 3

    def factors(limit):
        alignment = make(listed=listed, alpha=0.25, limit=limit)
        alignment.policy_loss(make_batch())
        item = alignment.last.item
        assert (item < 0).any()  # illegal ones are in neither number
        mine = (item >= 0) & listed[item.clamp(min=0)]
        return alignment.last.factor, mine, float(mine.sum() / (item >= 0).sum())

    share = factors(1.0)[2]
    assert 0.05 < share < 0.95
    factor, mine, _ = factors(share - 1e-3)
    assert factor[mine].unique().tolist() == [0.25]
    assert factors(share + 1e-3)[0].unique().tolist() == [1.0]


@pytest.mark.parametrize("search", ["sample", "constrained"])
@pytest.mark.parametrize("how", [{"temperature": 0.6}, {"top_p": 0.7}], ids=str)
def test_the_old_probability_is_that_with_which_the_sampler_drew(search, how):
    alignment = make(search=search, **how)
    _, values = alignment.policy_loss(make_batch())
    last = alignment.last
    assert values["ratio_max"] == 1
    found = last.counted
    torch.testing.assert_close(last.sampled[found], last.drawn[found], atol=1e-4, rtol=1e-4)
    own = sequence_log_probs(alignment.acting, make_batch().context, last.codes).sum(-1)
    torch.testing.assert_close(last.model[found], own[found], atol=1e-4, rtol=1e-4)
    assert (last.drawn[found] - last.model[found]).abs().max() > 0.1  # stored apart
    plain = make(search=search)
    plain.policy_loss(make_batch())
    assert not plain.last.codes.equal(last.codes)


def test_a_code_that_left_the_nucleus_still_has_a_probability():
    alignment, batch = make(lag=9, top_p=0.3), make_batch()
    moved(alignment).policy_loss(batch)
    assert bool(alignment.last.log_prob.isfinite().all())
    assert alignment.last.step().loss.isfinite()


def test_a_beam_knows_no_temperature():
    alignment = make(search="beam", temperature=0.5, top_p=0.5)
    alignment.policy_loss(make_batch())
    plain = make(search="beam")
    plain.policy_loss(make_batch())
    assert alignment.last.log_prob.equal(plain.last.log_prob)


@pytest.mark.parametrize("search", ["sample", "constrained", "beam"])
@pytest.mark.parametrize("lag", [0, 5])
def test_what_was_drawn_is_told_code_by_code(search, lag):
    alignment = make(search=search, lag=lag)
    if lag:
        moved(alignment)
    alignment.policy_loss(make_batch())
    last = alignment.last
    found = last.counted
    torch.testing.assert_close(
        last.drawn_levels.sum(-1)[found], last.drawn[found], atol=1e-5, rtol=1e-5
    )
    apart = (last.drawn_levels - last.levels)[found].abs().max()
    assert apart > 0.01 if lag else apart == 0


@pytest.mark.parametrize("lag", [0, 5])
def test_icepop_compares_training_and_sampling_of_the_policy_that_drew(lag, monkeypatch):
    alignment, batch = make(lag=lag, icepop=5.0, objective="reinforce"), make_batch()
    if lag:
        moved(alignment)  # the ratio to the served copy is no disagreement
    _, values = alignment.policy_loss(batch)
    assert values["masked"] == 0
    torch.testing.assert_close(alignment.last.trusted(), torch.ones(4, GROUP), atol=1e-3, rtol=1e-3)
    honest = alignment_module.sample

    def wrong(*args, **kwargs):  # a kernel that is wrong about every other item
        found = honest(*args, **kwargs)
        off = 3.0 * (torch.arange(GROUP) % 2)
        return found._replace(drawn=found.drawn + off)

    monkeypatch.setattr(alignment_module, "sample", wrong)
    _, values = alignment.policy_loss(batch)
    push = alignment.last.step().push
    assert values["masked"] > 0.3
    assert (push[:, 1::2] == 0).all()
    assert (push[:, ::2] != 0).any()


def test_very_large_groups_are_done_in_parts_with_the_same_gradient(monkeypatch):
    whole = gradients(make(), make_batch())
    monkeypatch.setattr(alignment_module, "AT_ONCE", 2 * GROUP * toy.make_model().config.width)
    calls = []
    honest = alignment_module.sequence_log_probs
    counting = lambda *a, **k: calls.append(len(a[2])) or honest(*a, **k)  # noqa: E731
    monkeypatch.setattr(alignment_module, "sequence_log_probs", counting)
    parts = gradients(make(), make_batch())
    assert calls == [2, 2, 2, 2]  # forward, and again for the gradient
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("blocks", [4, 12])
def test_a_deep_decoder_holds_fewer_items_at_once(blocks, monkeypatch):
    """What a pass keeps grows with the blocks: of 12 all the memory would not have been enough."""
    card = SimpleNamespace(total_memory=2048 * toy.make_model().config.width * 4 * GROUP)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    held, many = alignment_module._held, []
    asked = lambda _, each: many.append(held(torch.device("cuda"), each)) or many[-1]  # noqa: E731
    monkeypatch.setattr(alignment_module, "_held", asked)
    monkeypatch.setattr(alignment_module, "AT_ONCE", 1)
    alignment = make()
    config = replace(alignment.model.config, decoder_layers=blocks)
    alignment.acting.config = config
    alignment.policy_loss(make_batch())
    assert many[-1] // config.width == 4 * GROUP * 2048 // (1024 * blocks)


def logged_batch():
    items = torch.tensor([[3, 1, 7], [2, 2, 5], [0, 9, -1], [4, -1, -1]])
    codes = toy.item_codes()
    codes = torch.as_tensor(codes)[items.clamp(min=0)].masked_fill(items[..., None] < 0, 0)
    advantage = torch.tensor([[1.0, 0, -1], [0, 1, 0], [0, 0, 0], [-1, 0, 0]])
    batch = make_batch()
    batch.logged = LoggedItems(items, codes, advantage)
    return batch


@pytest.mark.parametrize("lag", [0, 3])
def test_what_people_were_shown_is_a_group_whose_old_probability_is_the_present_one(lag):
    """V2 section 3.3: pi_old := sg[pi] for what the policy did not draw, so the ratio is 1."""
    alignment, batch = make(lag=lag, search="log", objective="ppo_clip"), logged_batch()
    if lag:
        moved(alignment)
    loss, values = alignment.policy_loss(batch)
    last = alignment.last
    assert last.logged
    assert last.item.equal(batch.logged.items)
    assert values["ratio_max"] == 1
    assert last.counted.equal(batch.logged.items >= 0)
    assert last.step().push.equal(batch.logged.advantage)
    assert float(values["flat_groups"]) == 0.25
    loss.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in alignment.model.parameters())


def test_training_on_what_people_did_raises_what_they_liked():
    alignment, batch = make(search="log", objective="gbpo"), logged_batch()
    adam = torch.optim.Adam(alignment.model.parameters(), lr=0.01)
    told = []
    for _ in range(20):
        adam.zero_grad()
        alignment.policy_loss(batch)[0].backward()
        adam.step()
        told.append(alignment.last.log_prob)
    liked, none = batch.logged.advantage > 0, batch.logged.items < 0
    assert (told[-1][liked] > told[0][liked] + 0.5).all()
    assert bool((alignment.last.step().push[none] == 0).all())


def test_a_search_of_the_log_without_a_log_is_one_line():
    with pytest.raises(RunError, match="needs the log's items"):
        make(search="log").policy_loss(make_batch())


CHANGES = {  # setting -> its value, and what it is for a policy
    "align.format_items": (5, {"format_items": 5}),
    "align.tilt": (0.05, {"tilt": 0.05}),
    "align.lag": (3, {"lag": 3}),
    "sampling.temperature": (3.0, {"temperature": 3.0}),
    "sampling.top_p": (0.4, {"top_p": 0.4}),
    "sampling.icepop": (5.0, {"icepop": 5.0}),
    "industrial.column": (
        "author_id",
        {"listed": torch.arange(toy.N_ITEMS) % 2 == 0, "limit": 0.0},
    ),
}


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("search", ["sample", "constrained", "beam", "log"])
@pytest.mark.parametrize("name", CHANGES)
def test_what_is_said_not_to_be_read_changes_nothing_and_all_else_does(search, objective, name):
    """Once a beam ignored temperature and top_p, and DPO the format reward, and nobody was told."""
    value, given = CHANGES[name]
    weights = {"feedback" if search == "log" else "pscore": 1.0}

    def step(**more):
        lag = more.pop("lag", 0)
        alignment = make(lag=lag, search=search, objective=objective, weights=weights, **more)
        return gradients(moved(alignment), replace(logged_batch(), seed=6))

    plain, changed = step(), step(alpha=0.01, **given)
    same = all(changed[key].equal(gradient) for key, gradient in plain.items())
    section, _, key = name.partition(".")
    sections = {
        "align": AlignConfig(search=search, objective=objective, format_items=0),
        "sampling": SamplingConfig(),
        "industrial": IndustrialConfig(),
    }
    sections[section] = replace(sections[section], **{key: value})
    said = unread(**sections)
    assert [line.partition(" is not read: ")[0] for line in said] in ([], [f"{name}={value}"])
    if name != "sampling.icepop" or said:  # where kernels agree, it is read and changes nothing
        assert same == bool(said)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.:DeprecationWarning")
@pytest.mark.slow
@pytest.mark.parametrize(("search", "lag"), [("constrained", 1), ("constrained", 0), ("beam", 1)])
def test_a_compiled_step_is_the_same_step(search, lag, monkeypatch):
    for module, made in ((compiled, compiled._compiled), (pieces, pieces.compiled_piece)):
        monkeypatch.setattr(module, "BACKEND", "aot_eager")
        made.cache_clear()
    monkeypatch.setattr(packing, "packs", lambda *_: False)  # as in a search on a GPU
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    plain, other = (make(lag=lag, search=search, fast=fast) for fast in (False, True))
    steps = [each.loss(make_batch())[0] for each in (plain, other)]
    assert steps[1].item() == pytest.approx(steps[0].item(), rel=1e-4)
    for loss in steps:
        loss.backward()
    assert other.last.codes.equal(plain.last.codes)
    for one, two in zip(plain.model.parameters(), other.model.parameters(), strict=True):
        assert (one.grad is None) == (two.grad is None)
        if one.grad is not None:
            torch.testing.assert_close(two.grad, one.grad, atol=1e-4, rtol=1e-3)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    compiled._compiled.cache_clear()
    pieces.compiled_piece.cache_clear()
    torch._dynamo.reset()
