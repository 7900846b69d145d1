"""Intervals over seeds, by hand."""

import math

import pytest

from onerec.bench.paired import bounds, interval


def test_the_interval_is_students() -> None:
    found = interval([1.0, 2.0, 3.0])
    half = 4.30265 * 1.0 / 3**0.5  # t(.975, 2) s / sqrt(n)
    assert found["mean"] == 2.0
    assert found["low"] == pytest.approx(2 - half, abs=2e-5)
    assert found["high"] == pytest.approx(2 + half, abs=2e-5)
    narrower = interval([1.0, 2.0, 3.0], share=0.5)
    assert narrower["high"] < found["high"]


def test_one_seed_has_no_interval() -> None:
    assert interval([0.5])["mean"] == 0.5
    assert math.isnan(interval([0.5])["low"])


def test_a_bound_that_there_is_not_is_a_dash() -> None:
    assert bounds({"low": -0.25, "high": 1.5}) == "[-0.2500, +1.5000]"
    assert bounds({"low": 0.25, "high": 1.5}, ".2f") == "[0.25, 1.50]"
    assert bounds(interval([0.5])) == "[-, -]"
