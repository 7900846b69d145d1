"""Tables of sizes and losses say what a benchmark's file says, and what V2 prints."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onerec.explain import scale

RUNS = [
    {"parameters": 1_000_000, "loss": 4.0},
    {"parameters": 1_000_000, "loss": 3.0},
    {"parameters": 3_000_000, "loss": 2.5},
]
SUMMARY: dict[str, Any] = {
    "law": {
        "E": {"value": 2.0, "low": 1.9, "high": 2.1},
        "A": {"value": 1.5, "low": 1.0, "high": 2.0},
        "a": {"value": 0.5, "low": 0.4, "high": 0.6},
    },
    "largest": {
        "parameters": 3_000_000,
        "measured": 2.5,
        "predicted": {"value": 2.6, "low": 2.4, "high": 2.7},
    },
}


def test_points_are_means_over_seeds_between_the_least_and_the_greatest() -> None:
    frame = scale.points(RUNS, "ours")
    assert frame.columns.tolist() == list(scale.POINTS)
    assert frame.iloc[0].tolist() == ["ours", 1.0, 3.5, 3.0, 4.0, 2]
    assert frame.iloc[1].tolist() == ["ours", 3.0, 2.5, 2.5, 2.5, 1]


def test_a_law_is_one_row() -> None:
    row = scale.law(SUMMARY, "ours").iloc[0]
    assert row.tolist() == ["ours", 2.0, 1.5, 0.5, 0.4, 0.6, 3.0, 2.5, 2.6, 2.4, 2.7]


def test_v2s_law_gives_the_losses_that_v2_prints() -> None:
    points, law = scale.v2_points(), scale.v2_law().iloc[0]
    fitted = law["E"] + law["A"] / points["millions"] ** law["a"]
    assert np.abs(fitted - points["loss"]).max() < 0.025
    assert pytest.approx(law["E"] + law["A"] / 1e3 ** law["a"]) == 3.13 + 3660 / 1e9**0.489


def test_a_shipped_result_is_its_points_and_its_law(tmp_path: Path) -> None:
    (tmp_path / "scaling.json").write_text(json.dumps({**SUMMARY, "samples": 500, "runs": RUNS}))
    points, law = scale.shipped(tmp_path)
    assert set(points["name"]) == set(law["name"]) == {"measured, 500 samples"}
    assert points["loss"].tolist() == [3.5, 2.5]


def test_what_ships_has_six_sizes_and_the_largest_foretold() -> None:
    points, law = scale.shipped()
    assert len(points) == 6
    assert (points["seeds"] >= 3).all()
    assert law["largest"][0] == points["millions"].max()
