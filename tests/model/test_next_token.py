"""The next-token loss, by hand."""

import math

import pytest
import torch

from onerec.model.next_token import level_losses
from onerec.model.pathways import ItemTable

ITEMS = ItemTable(codes=torch.tensor([[0, 0], [1, 0], [0, 2]]))  # the padding and two items
FIRST = torch.tensor([[[0.0, math.log(3.0)]], [[0.0, math.log(3.0)]], [[9.0, -9.0]]])  # (3, 1, 2)
SECOND = torch.zeros(3, 1, 3)
TARGET = torch.tensor([[1], [2], [0]])  # the third has none


def test_it_is_the_mean_over_the_targets_that_exist_of_each_level():
    found = level_losses([FIRST, SECOND], ITEMS, TARGET)
    # probabilities 1/4 and 3/4: item 1 has code 1, item 2 code 0
    assert found.tolist() == pytest.approx([(math.log(4 / 3) + math.log(4)) / 2, math.log(3)])


def test_smoothing_mixes_in_the_mean_over_the_codes():
    plain = level_losses([FIRST, SECOND], ITEMS, TARGET)
    found = level_losses([FIRST, SECOND], ITEMS, TARGET, smoothing=0.2)
    mean = (math.log(4 / 3) + math.log(4)) / 2
    assert found.tolist() == pytest.approx([0.8 * plain[0].item() + 0.2 * mean, math.log(3)])
