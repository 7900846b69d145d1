"""Content: tokens stacked, shortened and joined, pooling and joining by hand, clear errors."""

import itertools

import numpy as np
import pytest

from onerec.errors import DataError
from onerec.tokenizer.content import (
    Joining,
    Precomputed,
    join_tokens,
    join_vectors,
    mean_pool,
    shorten,
    stack_states,
)


def test_mean_pool_by_hand() -> None:
    tokens = np.array([[[1.0, 2.0], [3.0, 6.0]], [[5.0, 5.0], [np.nan, 9.0]], [[1.0, 1.0]] * 2])
    mask = np.array([[1, 1], [1, 0], [0, 0]], dtype=np.uint8)
    pooled = mean_pool(tokens, mask)
    assert pooled.tolist() == [[2.0, 4.0], [5.0, 5.0], [0.0, 0.0]]
    assert pooled.dtype == np.float32
    assert mean_pool(tokens.astype(np.float16), mask).tolist() == pooled.tolist()


def test_join_by_hand() -> None:
    """Rows 0 and 4 lie 2 from their mean, 0 and 20 lie 10 from theirs: both become -1 and 1."""
    joined = join_vectors([(np.array([[0.0], [4.0]]), 1.0), (np.array([[0.0], [20.0]]), 3.0)])
    assert joined.tolist() == [[-1.0, -3.0], [1.0, 3.0]]


def test_join_takes_mean_and_length_from_the_fitted_rows() -> None:
    part = np.array([[0.0], [4.0], [1000.0]])
    joined = join_vectors([(part, 1.0)], fit=np.array([True, True, False]))
    assert joined.tolist() == [[-1.0], [1.0], [499.0]]


def test_other_rows_are_joined_as_those_that_were_fitted() -> None:
    parts = [(np.array([[1.0, 0.0], [3.0, 0.0]]), 2.0), (np.array([[5.0], [9.0]]), 1.0)]
    joining = Joining.fitted(parts)
    assert joining.scales == (2.0, 0.5)
    assert joining.join([vectors for vectors, _ in parts]).tolist() == join_vectors(parts).tolist()
    made = joining.join([np.array([[2.0, 1.0]]), np.array([[7.0]])])
    assert made.tolist() == [[0.0, 2.0, 0.0]]


def test_join_of_a_constant_part_is_zeros() -> None:
    assert join_vectors([(np.full((3, 2), 7.0), 1.0)]).tolist() == [[0.0, 0.0]] * 3


def test_precomputed_checks_what_it_is_given() -> None:
    tokens, mask = np.ones((2, 3, 4), np.float16), np.ones((2, 3), bool)
    given = Precomputed(tokens, mask)
    assert (given.dim, given.vectors().tolist()) == (4, [[1.0] * 4] * 2)
    with pytest.raises(DataError, match=r"\(2, 3, 4\) and mask \(3, 2\) do not agree"):
        Precomputed(tokens, mask.T)
    tokens[1, 2, 0] = np.inf
    with pytest.raises(DataError, match="content tokens of item 1 are not all finite"):
        Precomputed(tokens, mask)
    mask[1, 2] = False
    assert Precomputed(tokens, mask).vectors()[1].tolist() == [1.0] * 4


def test_what_is_long_becomes_means_of_stretches_that_leave_nothing_out() -> None:
    states = np.arange(10.0).reshape(5, 2)
    assert shorten(states, 5) is states
    assert shorten(states, 2).tolist() == [[1.0, 2.0], [6.0, 7.0]]  # the first two, the other three
    assert shorten(states, 1).tolist() == [[4.0, 5.0]]
    random = np.random.default_rng(0).normal(size=(37, 3))
    cuts = [i * 37 // 8 for i in range(9)]
    slow = [random[low:high].mean(0) for low, high in itertools.pairwise(cuts)]
    np.testing.assert_allclose(shorten(random, 8), slow)


def test_states_of_an_item_stand_behind_one_another() -> None:
    one, two = np.full((2, 3), 1.0), np.full((1, 3), 2.0)
    made = stack_states([[one, two], [], [two]], 3, "x")
    assert made.tokens[:, :, 0].tolist() == [[1.0, 1.0, 2.0], [0.0] * 3, [2.0, 0.0, 0.0]]
    assert made.mask.tolist() == [[True] * 3, [False] * 3, [True, False, False]]
    assert (made.name, made.dim, made.tokens.dtype) == ("x", 3, np.float16)
    nothing = stack_states([[], []], 3, "x")
    assert (nothing.tokens.shape, nothing.mask.shape) == ((2, 0, 3), (2, 0))


def test_tokens_of_several_encoders_keep_dimensions_of_their_own() -> None:
    """Item 0 lacks the second text token, item 1 the picture, item 2 everything."""
    text = Precomputed(
        np.array([[[1.0], [9.0]], [[2.0], [3.0]], [[9.0], [9.0]]]),
        np.array([[True, False], [True, True], [False, False]]),
        "text",
    )
    image = Precomputed(
        np.array([[[4.0, 5.0]], [[9.0, 9.0]], [[9.0, 9.0]]]), np.array([[True], [False], [False]]),
        "image",
    )  # fmt: skip
    joined = join_tokens([text, image])
    assert joined.name == "text + image"
    assert joined.mask.tolist() == [[True, True], [True, True], [False, False]]
    assert joined.tokens.tolist() == [
        [[1.0, 0.0, 0.0], [0.0, 4.0, 5.0]],
        [[2.0, 0.0, 0.0], [3.0, 0.0, 0.0]],
        [[0.0] * 3] * 2,
    ]
    assert join_tokens([text]) is text


def test_items_are_taken_in_the_order_asked_for() -> None:
    given = Precomputed(np.arange(6.0).reshape(3, 2, 1), np.array([[1, 1], [1, 0], [0, 0]], bool))
    some = given.take(np.array([2, 0]))
    assert some.tokens[:, :, 0].tolist() == [[4.0, 5.0], [0.0, 1.0]]
    assert some.mask.tolist() == [[False, False], [True, True]]


def test_tokens_behind_a_masked_place_move_up_when_joined() -> None:
    """A token that stays behind a hole is masked out, and its place is read as a zero token."""
    first = Precomputed(
        np.array([[[9.0], [2.0]], [[1.0], [3.0]]]), np.array([[0, 1], [1, 1]], bool)
    )
    second = Precomputed(np.array([[[4.0]], [[5.0]]]), np.array([[True], [False]]))
    joined = join_tokens([first, second])
    assert joined.tokens.tolist() == [[[2.0, 0.0], [0.0, 4.0]], [[1.0, 0.0], [3.0, 0.0]]]
    assert joined.mask.all()


def test_the_length_of_a_part_is_the_mean_of_its_rows_lengths() -> None:
    """Lengths 2, 1 and 3 about the mean of 2: their mean is 2, their root mean square 2.16."""
    joined = join_vectors([(np.array([[0.0], [1.0], [5.0]]), 1.0)])
    assert joined.tolist() == [[-1.0], [-0.5], [1.5]]
