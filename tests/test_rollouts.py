"""A recorded step gives the same rewards, advantages, ratios and loss, and damage is one line."""

import pytest
import torch

from onerec.common import generator
from onerec.data.tables import write_parquet
from onerec.errors import DataError, RunError
from onerec.rollouts import OBJECTIVES, Rollout, read_rollout, write_rollout


def make(objective="ecpo", **settings):
    g = generator(0)
    uniform = lambda: torch.rand(3, 5, generator=g)  # noqa: E731
    drawn = -5 * uniform()
    return Rollout(
        user=torch.tensor([7, 2, 9]),
        item=torch.randint(-1, 30, (3, 5), generator=g),
        codes=torch.randint(0, 8, (3, 5, 3), generator=g),
        drawn=drawn,
        log_prob=drawn + uniform() - 0.3,
        parts={"p_score": uniform(), "format": uniform().round()},
        weights={"p_score": 0.7, "format": 0.1},
        counted=uniform() > 0.2,
        objective=objective,
        settings=settings,
    )


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_recorded_step_replays_exactly(tmp_path, objective):
    before = make(objective)
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


def test_reward_by_hand():
    rollout = make()
    expected = 0.7 * rollout.parts["p_score"] + 0.1 * rollout.parts["format"]
    torch.testing.assert_close(rollout.reward(), expected)


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
        Rollout(**{**vars(make()), "weights": {"format": 1.0}})
