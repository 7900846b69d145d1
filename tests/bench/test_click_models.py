"""The features of the click models know the training rows and nothing else."""

import numpy as np

from onerec.bench.click_models import PRIOR_ROWS, Rows, features


def rows(answer_of_the_test_row):
    return Rows(
        part=np.array([0, 0, 1, 2]),
        keys={"user": np.array([0, 1, 0, 0])},
        answers={
            "long_view": np.array([True, False, False, answer_of_the_test_row]),
            "like": np.array([False, False, True, answer_of_the_test_row]),
        },
        static=np.zeros((4, 0)),
    )


def test_rates_and_counts_by_hand():
    found = features(rows(True), np.array([True, True, False, False]))
    rate = (1 + PRIOR_ROWS * 0.5) / (1 + PRIOR_ROWS)
    np.testing.assert_allclose(found[2], [np.log(2), rate, 0.0])
    np.testing.assert_allclose(found[0], found[2])


def test_later_answers_move_nothing():
    train = np.array([True, True, False, False])
    assert np.array_equal(features(rows(True), train), features(rows(False), train))
