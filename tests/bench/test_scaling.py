"""The law of sizes: recovered exactly, bootstrapped, and one small comparison from end to end."""

import json
from pathlib import Path

import numpy as np
import pytest

from onerec.assembly import setting_of
from onerec.bench import scaling
from onerec.bench.lazy import cardinalities
from onerec.errors import RunError
from onerec.runs import open_run

LAW = scaling.Law(3.0, 0.8, 0.4)


def lines(seeds: int = 3, noise: float = 0.0) -> list[dict[str, float]]:
    rng = np.random.default_rng(1)
    return [
        {
            "parameters": int(size * 1e6),
            "loss": float(LAW(size)) + noise * float(rng.normal()),
            "seed": seed,
        }
        for size in scaling.SIZES
        for seed in range(seeds)
    ]


def test_a_law_without_noise_is_found_again() -> None:
    sizes = np.array(scaling.SIZES)
    found = scaling.fit_law(sizes, LAW(sizes))
    assert (found.floor, found.scale, found.exponent) == pytest.approx((3.0, 0.8, 0.4), abs=2e-2)
    assert found(300.0) == pytest.approx(LAW(300.0), abs=1e-3)


def test_a_floor_is_never_negative_and_a_rising_loss_is_flat() -> None:
    sizes = np.array([1.0, 10.0, 100.0])
    assert scaling.fit_law(sizes, 5 / sizes**0.9).floor >= 0
    rising = scaling.fit_law(sizes, np.array([1.0, 2.0, 3.0]))
    assert (rising.scale, rising.floor) == pytest.approx((0.0, 2.0))
    with pytest.raises(ValueError, match="three different sizes"):
        scaling.fit_law(np.array([1.0, 1.0, 2.0]), np.ones(3))


def test_the_summary_predicts_the_size_that_is_left_out() -> None:
    found = scaling.summary(lines(noise=0.002), draws=100)
    largest = found["largest"]
    assert largest["parameters"] == 300_000_000
    assert largest["predicted"]["value"] == pytest.approx(largest["measured"], abs=0.02)
    assert largest["predicted"]["low"] <= largest["predicted"]["value"]
    assert largest["predicted"]["value"] <= largest["predicted"]["high"]
    assert found["law"]["a"]["low"] < 0.4 < found["law"]["a"]["high"]


def test_a_largest_size_off_the_law_moves_no_prediction() -> None:
    runs = lines()
    for run in runs[-3:]:
        run["loss"] += 0.5
    largest = scaling.summary(runs, draws=20)["largest"]
    assert largest["measured"] == pytest.approx(LAW(300.0) + 0.5, abs=1e-4)
    assert largest["predicted"]["value"] == pytest.approx(LAW(300.0), abs=1e-2)


def test_the_rate_is_the_geometric_mean_of_the_best_ones() -> None:
    tuned = [
        {"millions": 1.0, "rate": 1e-3, "loss": 3.0},
        {"millions": 1.0, "rate": 2e-3, "loss": 2.0},
        {"millions": 10.0, "rate": 1e-3, "loss": 1.0},
        {"millions": 10.0, "rate": 8e-3, "loss": 0.5},
    ]
    assert scaling.rate_of(tuned) == pytest.approx(4e-3)


def test_every_size_is_within_eight_percent_and_shaped_as_v2(trained: Path) -> None:
    run = open_run("first", trained)
    base = setting_of(run, trained)
    known = cardinalities(base, run)
    for millions in scaling.SIZES:
        recipe = scaling.shape(millions, base.recipe, known)
        assert scaling.size_of(recipe, known) == pytest.approx(millions * 1e6, rel=0.084)
        assert recipe.model.width % recipe.model.heads == 0
        assert 0.4 < recipe.model.width / recipe.model.decoder_layers / scaling.ASPECT < 2.5
        assert recipe.model.kind == "lazy"


def test_more_samples_than_contexts_are_refused(trained: Path) -> None:
    run = open_run("first", trained)
    with pytest.raises(RunError, match="lower --samples or make a larger world"):
        scaling.train(run, setting_of(run, trained), scaling.Case(0.1, 1e-3, 0), 10**9, 16)


@pytest.mark.slow
def test_a_small_comparison_from_end_to_end(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = []

    def here(module, words, work, folder, jobs, only):  # type: ignore[no-untyped-def]
        folder.mkdir(parents=True)
        asked.append(list(work))
        for case in work:
            scaling.main([*words, "--one", case, "--out", str(folder / f"{len(case)}{case}.json")])
        return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]

    monkeypatch.setattr(scaling, "in_parts", here)
    out = tmp_path / "scaling.json"
    words = ["--run", "first", "--home", str(trained), "--sizes", "0.1", "0.2", "0.3", "0.4"]
    words += ["--tune-at", "0.1", "0.2", "--rates", "0.001", "--samples", "64"]
    scaling.main([*words, "--batch", "16", "--seeds", "1", "--out", str(out)])
    told = json.loads(out.read_text())
    assert [len(work) for work in asked] == [2, 4]
    sizes = [run["parameters"] for run in told["runs"]]
    assert sizes == sorted(sizes)
    first = told["runs"][0]
    c = told["rate_at_one_million"]
    assert first["learning_rate"] == pytest.approx(c / (first["parameters"] / 1e6) ** 0.5)
    assert json.loads(capsys.readouterr().out)["law"] == told["law"]
