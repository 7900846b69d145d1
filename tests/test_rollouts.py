"""A recorded step gives the same rewards, advantages, ratios and loss, and damage is one line."""

import math
from dataclasses import replace

import pytest
import torch

from onerec.common import generator
from onerec.data.tables import read_parquet, write_parquet
from onerec.errors import DataError, RunError
from onerec.rollouts import OBJECTIVES, REFERENCED, Rollout, read_rollout, write_rollout


def make(objective="ecpo", tilt=0.0, beam=False, **settings):
    g = generator(0)
    uniform = lambda: torch.rand(3, 5, generator=g)  # noqa: E731
    drawn = -5 * uniform()
    return Rollout(
        user=torch.tensor([7, 2, 9]),
        end=torch.tensor([70, 20, 90]),
        item=torch.randint(-1, 30, (3, 5), generator=g),
        codes=torch.randint(0, 8, (3, 5, 3), generator=g),
        drawn=drawn,
        levels=(drawn + uniform() - 0.3)[..., None] / torch.tensor([2.0, 3.0, 6.0]),
        sampled=drawn + 1e-4,
        parts={"p_score": uniform(), "like": uniform().round()},
        weights={"p_score": 0.7, "like": 0.1},
        factor=torch.where(uniform() < 0.3, 0.5, 1.0),
        counted=uniform() > 0.2,
        format=(uniform() < 0.3).float(),
        objective=objective,
        settings=settings,
        reference=drawn - uniform() if tilt or objective in REFERENCED else None,
        tilt=tilt,
        beam=beam,
    )


@pytest.mark.parametrize("tilt", [0.0, 2.0])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_recorded_step_replays_exactly(tmp_path, objective, tilt):
    before = make(objective, tilt, beam=tilt > 0)
    write_rollout(tmp_path / "step.parquet", before)
    after = read_rollout(tmp_path / "step.parquet")
    assert after.user.equal(before.user)
    assert after.item.equal(before.item)
    assert after.codes.equal(before.codes)
    assert after.reward().equal(before.reward())
    assert after.advantage().equal(before.advantage())
    one, two = before.step(), after.step()
    assert two.ratio.equal(one.ratio)
    assert two.push.equal(one.push)
    assert two.loss.equal(one.loss)


def test_settings_reach_the_objective(tmp_path):
    write_rollout(tmp_path / "step.parquet", make("ecpo", delta=5.0))
    loose = read_rollout(tmp_path / "step.parquet")
    assert loose.settings == {"delta": 5.0}
    far = loose.drawn + 1.5
    assert loose.step(far).ratio.max() > make().step(far).ratio.max()


def test_a_tilt_takes_other_advantages_and_counts_a_beam_by_probability():
    plain, sampled, beam = make(), make(tilt=2.0), make(tilt=2.0, beam=True)
    assert not torch.equal(plain.advantage(), sampled.advantage())
    expectation = (beam.share() * beam.advantage()).sum(1)
    torch.testing.assert_close(expectation, torch.zeros(3), atol=1e-6, rtol=0)
    one = replace(beam, format=torch.zeros(3, 5)).step()
    at_one = replace(beam, format=torch.zeros(3, 5), drawn=beam.log_prob).step()
    torch.testing.assert_close(at_one.push, at_one.push.nan_to_num())
    assert (one.push[~beam.counted] == 0).all()
    with pytest.raises(RunError, match="a tilt of 2 needs the reference's log-probabilities"):
        replace(beam, reference=None)


def test_items_of_one_leaf_share_its_probability():
    beam = make(tilt=2.0, beam=True)
    beam.counted = torch.ones(3, 5, dtype=torch.bool)
    beam.codes = torch.arange(45).view(3, 5, 3)
    apart = beam.share()
    beam.drawn[0, 1] = beam.drawn[0, 0]
    beam.codes[0, 1] = beam.codes[0, 0]
    together = beam.share()
    leaf = beam.drawn[0, [0, 2, 3, 4]].softmax(0)
    torch.testing.assert_close(together[0, :2], leaf[:1].expand(2) / 2)
    torch.testing.assert_close(together[1:], apart[1:])


def test_reward_by_hand():
    rollout = make()
    expected = 0.7 * rollout.parts["p_score"] + 0.1 * rollout.parts["like"]
    torch.testing.assert_close(rollout.reward(), expected * rollout.factor)


def test_the_format_reward_is_a_second_term_of_the_loss():
    rollout = make()
    both = rollout.step()
    plain = replace(rollout, format=torch.zeros(3, 5)).step()
    alone = replace(rollout, counted=torch.zeros(3, 5, dtype=torch.bool)).step()
    torch.testing.assert_close(both.loss, plain.loss + alone.loss)
    torch.testing.assert_close(both.push, plain.push + alone.push)
    untouched = (rollout.format == 0) & ~rollout.counted
    assert untouched.any()
    assert (both.push[untouched] == 0).all()


def test_the_format_reward_pays_no_divergence():
    """GRPO's term of KL stands in the first term, where all counted items pay it once."""
    near, far = make("grpo_kl", kl=0.3), make("grpo_kl", kl=0.3)
    far.reference = near.reference - 5.0
    for rollout in (near, far):
        rollout.counted[:] = False  # what is left is the second term
    assert near.step().loss.equal(far.step().loss)
    assert near.step().push.equal(far.step().push)
    assert (near.step().push != 0).any()


def test_a_group_of_equal_rewards_is_flat():
    rollout = make()
    for part in rollout.parts.values():
        part[1] = 0.5
    rollout.factor[:] = 1.0
    assert rollout.flat().tolist() == [False, True, False]


def test_a_group_of_equal_rewards_is_flat_and_skipped_under_a_tilt_too():
    """Its pull to the reference would still move the policy: it is skipped, and counted."""
    rollout = make(tilt=2.0)
    for part in rollout.parts.values():
        part[1] = 0.5
    rollout.factor[:] = 1.0
    assert rollout.flat().tolist() == [False, True, False]
    assert (rollout.advantage()[1] == 0).all()
    assert (rollout.advantage()[[0, 2]] != 0).any(1).all()
    assert (replace(rollout, format=torch.zeros(3, 5)).step().push[1] == 0).all()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_flat_group_pushes_nothing_under_any_objective(objective):
    """GRPO's term of KL needs no advantage, and would go on pulling."""
    rollout = make(objective)
    for part in rollout.parts.values():
        part[1] = 0.5
    rollout.factor[:], rollout.format[:] = 1.0, 0.0
    log_prob = rollout.log_prob.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(rollout.step(log_prob).loss, log_prob)
    assert (gradient[1] == 0).all()
    assert (gradient[[0, 2]] != 0).any(1).all()
    assert (rollout.step().push[1] == 0).all()


def test_a_group_of_which_one_item_counts_is_flat():
    rollout = make()
    rollout.counted[:] = True
    rollout.counted[2, 1:] = False
    assert rollout.flat().tolist() == [False, False, True]


def test_icepop_weighs_what_agrees_and_drops_what_does_not():
    rollout = make("reinforce")
    rollout.format[:] = 0.0
    rollout.counted[:] = True
    whole = rollout.step().push
    apart = torch.tensor([0.0, math.log(2.0), math.log(6.0), math.log(0.4), math.log(0.6)])
    masked = replace(rollout, sampled=rollout.drawn - apart, icepop=5.0)
    torch.testing.assert_close(masked.trusted()[0], torch.tensor([1.0, 2.0, 0.0, 0.0, 0.6]))
    torch.testing.assert_close(masked.step().push, whole * masked.trusted())
    assert replace(masked, icepop=0.0).step().push.equal(whole)
    wider = replace(masked, icepop=7.0)
    assert wider.trusted()[0, 2] == pytest.approx(6.0, rel=1e-5)


def test_icepop_masks_the_format_reward_as_well():
    rollout = make()
    rollout.counted[:] = False
    rollout.format[:] = 1.0
    apart = {"sampled": rollout.drawn - math.log(9.0), "icepop": 5.0}
    assert rollout.step().push.abs().sum() > 0
    assert replace(rollout, **apart).step().push.abs().sum() == 0


def test_the_reward_of_logged_items_is_their_advantage():
    rollout = make("gbpo")
    rollout.parts = {"feedback": torch.tensor([[1.0, -1.0, 0.0, 0.0, 1.0]] * 2 + [[0.0] * 5])}
    rollout.weights, rollout.logged = {"feedback": 1.0}, True
    rollout.factor[:] = 1.0
    rollout.counted[:] = True
    assert rollout.advantage().equal(rollout.parts["feedback"])
    assert rollout.flat().tolist() == [False, False, True]
    rollout.counted[0, 0] = False
    assert rollout.advantage()[0].tolist() == [0.0, -1.0, 0.0, 0.0, 1.0]


def test_what_a_step_may_lack_comes_back(tmp_path):
    before = make()
    before.model, before.icepop, before.logged = before.drawn - 0.5, 5.0, True
    before.drawn_levels = before.levels - 0.1
    write_rollout(tmp_path / "step.parquet", before)
    after = read_rollout(tmp_path / "step.parquet")
    assert after.model.equal(before.model)
    assert after.drawn_levels.equal(before.drawn_levels)
    assert (after.icepop, after.logged) == (5.0, True)
    write_rollout(tmp_path / "less.parquet", make())
    less = read_rollout(tmp_path / "less.parquet")
    assert less.model is None
    assert less.drawn_levels is None


def test_a_file_that_lost_whole_groups_is_one_line(tmp_path):
    path = tmp_path / "step.parquet"
    write_rollout(path, make())
    write_parquet(path, read_parquet(path).iloc[:10])
    with pytest.raises(DataError, match=r"not a whole rollout \(10 of 15 rows\)"):
        read_rollout(path)


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("lp_2", None, "column lp_2 is missing"),
        ("code_3", None, "column lp_3 is one too many"),
        ("drawn_1", None, "column drawn_1 is missing"),
        ("lp_2", math.nan, "column lp_2 holds nan in row 4"),
        ("drawn", -math.inf, "column drawn holds -inf in row 4"),
        ("factor", math.nan, "column factor holds nan in row 4"),
        ("format", math.inf, "column format holds inf in row 4"),
        ("reference", math.nan, "column reference holds nan in row 4"),
    ],
)
def test_a_file_that_lost_a_column_or_a_number_is_one_line(tmp_path, name, values, said):
    """Once an item was what two of its three codes made it, and a loss was no number."""
    path = tmp_path / "step.parquet"
    before = make(tilt=2.0)
    before.drawn_levels = before.levels - 0.1
    write_rollout(path, before)
    frame = read_parquet(path)
    if values is None:
        frame = frame.drop(columns=name)
    else:
        frame.loc[4, name] = values
    write_parquet(path, frame)
    with pytest.raises(DataError) as caught:
        read_rollout(path)
    assert str(caught.value) == f"{path}: not a whole rollout ({said}); delete it and go on"


def test_a_setting_that_the_objective_does_not_know_is_one_line(tmp_path):
    path = tmp_path / "step.parquet"
    rollout = make()
    rollout.settings = {"gamma": 1.0}
    write_rollout(path, rollout)
    with pytest.raises(DataError, match="ecpo has no setting 'gamma'"):
        read_rollout(path)


def test_a_file_cut_in_half_is_one_line(tmp_path):
    path = tmp_path / "step.parquet"
    write_rollout(path, make())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=r"step\.parquet: cannot be read"):
        read_rollout(path)


def test_another_table_is_no_rollout(tmp_path):
    path = tmp_path / "step.parquet"
    write_parquet(path, {"user": [1, 2]})
    with pytest.raises(DataError, match="not a whole rollout"):
        read_rollout(path)


def test_refusals():
    with pytest.raises(RunError, match="objective 'epco': unknown; use one of ecpo"):
        make("epco")
    with pytest.raises(RunError, match="reward 'p_score': it has no weight"):
        replace(make(), weights={"like": 1.0})
    with pytest.raises(RunError, match="weight of reward 'like' is -1: needs a number from 0 up"):
        replace(make(), weights={"like": -1, "p_score": 1.0})
    with pytest.raises(RunError, match="weights of all rewards are 0"):
        replace(make(), weights={"like": 0.0, "p_score": 0.0})
    with pytest.raises(RunError, match="'dpo' needs the reference's log-probabilities"):
        replace(make("dpo"), reference=None)
    broken = make()
    broken.parts["like"][2, 1] = torch.nan
    with pytest.raises(RunError, match="reward 'like' of user 9 is not a finite number"):
        replace(broken)
