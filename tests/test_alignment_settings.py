"""Rewards with their weights, and what cannot be drawn or judged: one line each."""

import pytest

from onerec.alignment_settings import reward_weights, unread
from onerec.errors import RecipeError
from onerec.recipes import recipe


def test_a_name_or_names_with_weights():
    assert reward_weights("pscore") == {"pscore": 1.0}
    assert reward_weights("pscore=0.7, like=.3") == {"pscore": 0.7, "like": 0.3}
    assert reward_weights("long_view,like=0") == {"long_view": 1.0, "like": 0.0}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pscore=-1", "'pscore' needs a weight from 0 up"),
        ("pscore=nan", "'pscore' needs a weight from 0 up"),
        ("pscore=much", "'pscore' needs a weight from 0 up"),
        ("pscore=0,like=0", "give at least one a weight above 0"),
        ("pscore,pscore=2", "needs a name, or several"),
        ("", "needs a name, or several"),
        ("pscore,", "needs a name, or several"),
        ("pscore=.7,likes=.3", r"no reward is called 'likes' \(did you mean 'like'\?\)"),
    ],
)
def test_weights_that_make_no_reward(text, words):
    with pytest.raises(RecipeError, match=words):
        recipe("tiny", {"align.reward": text})


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("sampling.top_p", "0", "needs a number above 0, up to 1"),
        ("sampling.top_p", "1.5", "needs a number above 0, up to 1"),
        ("sampling.temperature", "0", "needs more than 0"),
        ("sampling.icepop", "0.5", r"needs 0 \(off\) or more than 1"),
        ("align.search", "log", "align.search=log with align.reward=feedback alone"),
        ("align.reward", "feedback", "align.search=log with align.reward=feedback alone"),
    ],
)
def test_what_cannot_be_drawn_or_judged(name, value, words):
    with pytest.raises(RecipeError, match=words):
        recipe("tiny", {name: value})


def test_the_log_as_the_group():
    found = recipe("tiny", {"align.search": "log", "align.reward": "feedback"})
    assert found.align.search == "log"
    with pytest.raises(RecipeError, match="alone"):
        recipe("tiny", {"align.search": "log", "align.reward": "feedback,like"})


def said(**changes):
    found = recipe("tiny", {"align.format_items": "0", **changes})
    return unread(found.align, found.sampling, found.industrial)


def test_what_is_set_and_not_read_is_said_with_the_reason():
    """What each has a say in is measured beside `Alignment`."""
    assert said() == []
    beam = {"align.search": "beam", "align.format_items": "2", "sampling.temperature": "0.7"}
    assert said(**beam, **{"sampling.top_p": "0.9", "sampling.icepop": "5"}) == [
        "align.format_items=2 is not read: groups by beam hold legal codes alone",
        "sampling.temperature=0.7 is not read: a beam takes what is most probable and draws "
        "nothing",
        "sampling.top_p=0.9 is not read: a beam takes what is most probable and draws nothing",
    ]
    logged = {"align.search": "log", "align.reward": "feedback"}
    own = {"align.tilt": "2", "align.lag": "5", "industrial.column": "author_id"}
    assert [line.partition(" ")[0] for line in said(**logged, **own)] == [
        "align.tilt=2.0",
        "align.lag=5",
        "industrial.column=author_id",
    ]
    assert said(**{"industrial.value": "a3"}) == [
        "industrial.value=a3 is not read: industrial.column is empty"
    ]
    assert said(**{"align.weight": "0", "align.search": "beam", "sampling.top_p": "0.9"}) == [
        "align.weight=0: no groups are drawn; what is said of them is not read"
    ]
