"""Widths as the papers print them, and the places of experts."""

from onerec.model import sizes


def test_hidden_widths_are_those_of_the_papers():
    assert sizes.ffn_hidden(128) == 256  # V1 Table 1, 0.015B
    assert sizes.ffn_hidden(1024) == 2048
    assert sizes.expert_hidden(1024) == 2688  # 2/3 * 4 * 1024 = 2730.7, to a multiple of 128
    assert sizes.expert_hidden(32) == 128
    assert sizes.lazy_ffn_hidden(1408) == 5632
    assert sizes.lazy_expert_hidden(1408) == 1408  # V2's MoE


def test_feature_widths_are_the_papers_at_its_width():
    assert sizes.feature_widths(1024) == (512, 128, 64)
    assert sizes.feature_widths(32) == (16, 16, 16)


def test_experts_stand_where_the_setting_says():
    assert sizes.expert_blocks("decoder", 2, 3) == ([False] * 2, [True] * 3)
    alternate = [False, True, False, True]
    assert sizes.expert_blocks("alternate", 4, 4) == (alternate, alternate)
    assert sizes.expert_blocks("late", 2, 4) == ([False] * 2, [False, False, True, True])
    assert sizes.expert_blocks("late", 0, 1) == ([], [False])


def test_blocks_share_sets_of_keys_and_values_in_order():
    assert [sizes.kv_set(block, 1, 4) for block in range(4)] == [0, 0, 0, 0]
    assert [sizes.kv_set(block, 3, 6) for block in range(6)] == [0, 0, 1, 1, 2, 2]
    assert [sizes.kv_set(block, 3, 4) for block in range(4)] == [0, 0, 1, 2]  # floor(l 3 / 4)
    assert [sizes.kv_set(block, 4, 4) for block in range(4)] == [0, 1, 2, 3]
