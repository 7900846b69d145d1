"""Edits of a history as text: read in order, refused where they point nowhere."""

import edits


def test_edits_by_hand() -> None:
    found = edits.apply("-2,+7,1>3", events=3, items=10)
    # 0 1 2 -> 0 2 -> 0 2 [3: item 7] -> 2 3 0
    assert found.order == (2, 3, 0)
    assert found.added == (7,)
    assert found.changed
    assert not found.notices


def test_nothing_is_no_change() -> None:
    assert edits.apply("", 4, 10).order == (0, 1, 2, 3)
    assert not edits.apply("1>3,3>1", 4, 10).changed


def test_an_added_event_can_be_moved_and_removed() -> None:
    assert edits.apply("+5,5>1", 4, 10).order == (4, 0, 1, 2, 3)
    assert edits.apply("+5,+6,-5", 4, 10).order == (0, 1, 2, 3, 5)


def test_what_points_nowhere_is_said_and_left_out() -> None:
    found = edits.apply("-9,+10,0>1,nonsense,-1", 3, 10)
    assert found.order == (1, 2)
    assert len(found.notices) == 4
    assert "places are 1 to 3" in found.notices[0]
    assert "items are 0 to 9" in found.notices[1]


def test_a_link_may_hold_only_so_many() -> None:
    found = edits.apply(",".join(["+1"] * 500), 0, 10)
    assert len(found.order) == edits.MOST
    assert "500 edits" in found.notices[0]


def test_lines_grow_and_shrink() -> None:
    assert edits.more("", "-1", "+2") == "-1,+2"
    assert edits.more("-1", "+2") == "-1,+2"
    assert edits.less("-1,+2") == "-1"
    assert edits.less("") == ""
    assert edits.removal([2, 5, 1]) == ["-5", "-2", "-1"]
