"""Form, business and sums of rewards, by hand."""

import pytest
import torch

from onerec.reward.rules import format_reward, industrial_reward


def test_a_legal_choice_is_worth_one_and_an_illegal_one_is_dropped() -> None:
    legal = torch.tensor([[True, False, True, False]] * 500)
    made = format_reward(legal, 2, torch.Generator().manual_seed(0))
    assert not made.counted[~legal].any()
    assert torch.equal(made.advantage, made.counted.float())
    # each of the two legal ones is chosen in half of the groups
    assert made.counted.float().mean(0).tolist() == pytest.approx([0.5, 0, 0.5, 0], abs=0.06)
    again = format_reward(legal, 2, torch.Generator().manual_seed(0))
    assert torch.equal(made.counted, again.counted)
    assert format_reward(legal, 99).counted.sum() == legal.sum()


def test_the_most_probable_can_be_chosen_instead() -> None:
    legal = torch.tensor([[True, True, False, True]])
    log_prob = torch.tensor([[-3.0, -1.0, -0.5, -2.0]])
    made = format_reward(legal, 2, by="probability", log_prob=log_prob)
    assert made.counted.tolist() == [[False, True, False, False]]
    with pytest.raises(ValueError, match="log_prob"):
        format_reward(legal, 2, by="probability")
    with pytest.raises(ValueError, match="choose=0"):
        format_reward(legal, 0)


def test_illegal_items_can_be_punished_to_compare() -> None:
    legal = torch.tensor([[True, False, True]])
    made = format_reward(legal, 3, illegal=-1.0)
    assert made.advantage.tolist() == [[1.0, -1.0, 1.0]]
    assert made.counted.all()


def test_listed_items_are_damped_only_where_there_are_too_many() -> None:
    reward = torch.tensor([[0.5, 0.4, 0.8, 0.2]])
    listed = torch.tensor([[True, False, True, False]])
    made = industrial_reward(reward, listed, alpha=0.5, limit=0.4)
    assert made[0].tolist() == pytest.approx([0.25, 0.4, 0.4, 0.2])
    assert torch.equal(industrial_reward(reward, listed, alpha=0.5, limit=0.5), reward)
    seldom = industrial_reward(reward, listed, alpha=0.5, limit=0.4, share=0.1)
    assert torch.equal(seldom, reward)
    with pytest.raises(ValueError, match="below 0"):
        industrial_reward(-reward, listed, alpha=0.5, limit=0.4)
    with pytest.raises(ValueError, match="alpha=2"):
        industrial_reward(reward, listed, alpha=2, limit=0.4)
