"""The comparison kept for a page: measured as it says, resumed, stopped, refused."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from onerec.errors import DataError, RecipeError, RunError
from onerec.pipeline import quantisers
from onerec.pipeline.quantisers import Items, Shape, compare_quantisers, measure, purity
from onerec.run_writer import RunWriter
from onerec.runs import Run


def made_up(n: int = 160, topics: int = 4) -> Items:
    generator = torch.Generator().manual_seed(0)
    centres = 5 * torch.randn(topics, 6, generator=generator)
    x = centres.repeat(n // topics, 1) + torch.randn(n, 6, generator=generator)
    return Items(x, np.arange(n) % topics)


def test_purity_by_hand() -> None:
    codes, category = np.array([0, 0, 0, 2, 2]), np.array([1, 1, 0, 3, 0])
    assert purity(codes, category) == 3 / 5  # two of code 0, one of code 2


def test_a_category_is_the_first_place_at_which_items_differ() -> None:
    paths = [["Beauty", "Skin", "Face"], ["Beauty", "Hair"], ["Beauty"], None, ["Beauty", "Skin"]]
    assert quantisers.categories(paths[:3] + paths[4:]).tolist() == [2, 1, 0, 2]
    assert quantisers.categories(paths).tolist() == [1, 1, 1, 0, 1]
    assert quantisers.categories([["Beauty"], ["Beauty"]]) is None
    assert quantisers.categories([[], None]) is None


def test_topics_far_apart_are_found_and_each_level_says_more() -> None:
    one = measure(made_up(), "rq_kmeans", Shape(4, 2), seed=0)
    assert one["purity"] == 1
    assert one["chance"] < 0.6
    assert 0 < one["loss"] < one["held_out_loss"] < 0.5
    explained = [level["variance_explained"] for level in one["levels"]]
    assert explained[0] < explained[1] == pytest.approx(1 - one["loss"])
    assert one["share_sharing"] == 1  # 160 items on 16 ids


def test_codes_by_lot_are_rows_of_what_was_left_and_say_less() -> None:
    items, shape = made_up(), Shape(8, 2)
    made = quantisers.by_lot(items.vectors, shape, seed=3)
    rows = {tuple(row) for row in items.vectors.tolist()}
    assert all(tuple(code) in rows for code in made.codebooks[0].tolist())
    fit = measure(items, "rq_kmeans", shape, seed=3)
    lot = measure(items, "random", shape, seed=3)
    assert fit["loss"] < lot["loss"] < 1
    assert set(lot) == set(fit)


def test_the_second_codes_by_lot_are_rows_of_what_the_first_left() -> None:
    x = made_up().vectors
    first, second = quantisers.by_lot(x, Shape(8, 2), seed=0).codebooks
    left = x - first[torch.cdist(x, first).argmin(1)]
    assert all(torch.isclose(x, row).all(1).any() for row in first)
    assert all(torch.isclose(left, row, atol=1e-6).all(1).any() for row in second)


def test_the_seed_draws_the_fifth_that_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, fit, x = [], quantisers.fitted, made_up().vectors

    def watched(rows: torch.Tensor, *given: Any) -> Any:
        seen.append({tuple(row) for row in rows.tolist()})
        return fit(rows, *given)

    monkeypatch.setattr(quantisers, "fitted", watched)
    for seed in (0, 1):
        quantisers.held_out_loss(x, "random", Shape(8, 1), seed)
    assert [len(rows) for rows in seen] == [128, 128]
    assert seen[0] != seen[1]


def test_a_fit_that_leaves_items_out_has_no_more_codes_than_items() -> None:
    """Sixteen of twenty are seen."""
    assert quantisers.held_out_loss(made_up(20).vectors, "rq_kmeans", Shape(20, 1), 0) > 0


def test_a_balanced_fit_has_all_the_entropy_there_is() -> None:
    one = measure(made_up(), "balanced", Shape(8, 2), seed=0)
    assert [level["entropy_nats"] for level in one["levels"]] == pytest.approx([math.log(8)] * 2)
    assert [level["dead_codes"] for level in one["levels"]] == [0, 0]


def test_a_result_is_kept_and_more_seeds_are_added(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds, told = ("rq_kmeans", "random"), []

    def report(stage: str, step: int, of: int, values: object) -> None:
        told.append((stage, step, of))

    first = compare_quantisers("first", finished, seeds=1, kinds=kinds, report=report)
    assert told == [("quantisers", 0, 2), ("quantisers", 1, 2), ("quantisers", 2, 2)]
    run = Run(finished / "runs" / "first")
    assert json.loads((run.path / "cache" / "quantisers.json").read_text()) == first
    assert Run(run.path / "cache" / "quantisers").status().state == "done"
    measured = []
    real = quantisers.measure
    monkeypatch.setattr(
        quantisers, "measure", lambda *a, **k: measured.append(a[1:4:2]) or real(*a, **k)
    )
    more = compare_quantisers("first", finished, seeds=2, kinds=kinds)
    assert measured == [("rq_kmeans", 1), ("random", 1)], "seed 0 is not measured again"
    assert more["rows"][:2] == first["rows"]
    other = compare_quantisers("first", finished, seeds=1, kinds=kinds, steps=7)
    assert len(measured) == 4, "another setting begins anew"
    assert other["setting"]["steps"] == 7


def test_it_stops_between_two_fits_and_goes_on_there(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = finished / "runs" / "first" / "cache" / "quantisers"
    real = quantisers.measure

    def measure_and_ask(*a: object, **k: object) -> object:
        Run(folder).control(stop=True)
        return real(*a, **k)  # type: ignore[arg-type]

    monkeypatch.setattr(quantisers, "measure", measure_and_ask)
    found = compare_quantisers("first", finished, seeds=2, kinds=("random",))
    assert len(found["rows"]) == 1
    assert Run(folder).status().state == "stopped"
    monkeypatch.setattr(quantisers, "measure", real)
    assert len(compare_quantisers("first", finished, seeds=2, kinds=("random",))["rows"]) == 2


@pytest.mark.parametrize("kind", quantisers.KINDS)
def test_few_items_are_measured_or_refused_in_one_line(kind: str) -> None:
    """A fifth of four items is none: that was a division by zero; of nine it was one item."""
    with pytest.raises(DataError, match=r"at least 10 items, .*; here are 9"):
        made_up(9, 3)
    assert math.isfinite(measure(made_up(10, 2), kind, Shape(2, 2, 3), seed=0)["held_out_loss"])
    alike = Items(torch.ones(10, 6), None)
    told = measure(alike, kind, Shape(2, 2, 3), seed=0)
    assert (told["loss"], told["held_out_loss"]) == (None, None)


def test_what_cannot_be_measured_is_refused_in_one_line(finished: Path) -> None:
    with pytest.raises(RecipeError, match="quantiser 'x' is unknown; choose of rq_kmeans"):
        compare_quantisers("first", finished, kinds=("x",))
    with pytest.raises(RecipeError, match="seeds=0"):
        compare_quantisers("first", finished, seeds=0)
    with pytest.raises(RunError, match="no run 'gone'"):
        compare_quantisers("gone", finished)
    (finished / "runs" / "first" / "tokenizer" / "vectors.safetensors").unlink()
    with pytest.raises(RunError, match="no content vectors"):
        compare_quantisers("first", finished)


def test_two_at_once_are_refused(finished: Path) -> None:
    folder = finished / "runs" / "first" / "cache" / "quantisers"
    with (
        RunWriter.claim(folder, {"name": "quantisers"}),
        pytest.raises(RunError, match="is held by process"),
    ):
        compare_quantisers("first", finished, kinds=("random",))
