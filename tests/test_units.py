"""Numbers as people read them."""

import pytest

from onerec.units import byte_text, count_text, flop_text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1_000, "1 K"),
        (517_000, "517 K"),
        (999_499, "999 K"),
        (999_500, "1 M"),
        (2_633_000_000, "2.63 B"),
        (5e15, "5,000 T"),
    ],
)
def test_counts(value: float, text: str) -> None:
    assert count_text(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(12, "12 FLOP"), (2.5e10, "25 GFLOP"), (989e12, "989 TFLOP")]
)
def test_operations(value: float, text: str) -> None:
    assert flop_text(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (900, "900 B"),
        (1_023, "0.999 KiB"),
        (1_536, "1.5 KiB"),
        (80 * 2**30, "80 GiB"),
        (1_000 * 2**20, "0.977 GiB"),
    ],
)
def test_bytes(value: float, text: str) -> None:
    assert byte_text(value) == text
