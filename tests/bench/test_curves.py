"""Curves beside one another, by hand."""

import json
from pathlib import Path

import pytest

from onerec.bench import curves
from onerec.runs import Run


def curve(*losses: float, every: int = 1, **more: object) -> dict[str, object]:
    """Logged after `every` steps, 2 `every`, ..."""
    steps = [every * (place + 1) for place in range(len(losses))]
    return {"step": steps, "loss": list(losses), **more}


def test_differences_are_over_all_steps_and_over_the_last_quarter() -> None:
    one = curve(8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0)
    other = curve(8.0, 7.5, 6.0, 5.0, 4.0, 3.0, 2.2, 0.9)
    found = curves.from_one(one, other)
    assert found["all"] == {"largest": 0.5, "mean": pytest.approx(0.1)}  # (.5 + .2 + .1) / 8
    assert found["last_quarter"] == {"largest": 0.2, "mean": 0.15, "drift": 0.05}
    same = {"largest": 0.0, "mean": 0.0}
    assert curves.from_one(one, one) == {"all": same, "last_quarter": {**same, "drift": 0.0}}


def test_steps_that_only_one_has_are_left_out() -> None:
    one, other = curve(8.0, 7.0, 6.0, 5.0, every=2), curve(9.0, 8.5, 9.0, 7.5)
    found = curves.from_one(one, other)  # at 2 and 4
    assert found["all"] == {"largest": 0.5, "mean": 0.5}
    assert found["last_quarter"]["mean"] != found["last_quarter"]["mean"]  # nothing there: NaN


def test_rates_are_medians_of_the_last_half(tmp_path: Path) -> None:
    rates = [1.0, 2.0, 3.0, 50.0, 40.0, 9_000.0]  # the first ones compile, one is an accident
    lines = [
        {"stage": "pretrain", "step": place, "of": 6, "samples_per_second": rate, "loss": 1.0}
        for place, rate in enumerate(rates, start=1)
    ]
    lines.insert(0, {"stage": "tokenize", "step": 9, "of": 9, "samples_per_second": 1e9})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert curves.rates_of(Run(tmp_path), steps=6) == {"samples_per_second": 50.0}
    found = curves.curve_of(Run(tmp_path))
    assert found == {"step": [1, 2, 3, 4, 5, 6], "loss": [1.0] * 6}


PARTS = {
    "one": curve(8.0, 6.0, samples_per_second=100.0, peak_memory_bytes=[10]),
    "ddp": curve(8.0, 6.01, samples_per_second=180.0, mfu=0.3, peak_memory_bytes=[10, 9]),
    "killed": curve(8.0, 6.3, killed_at=1, goes_on_from=1),
    "one_again": curve(8.4, 6.6, samples_per_second=99.0, peak_memory_bytes=[10]),
}


def test_an_arm_is_within_the_noise_if_it_is_a_tenth_of_it_away() -> None:
    found = curves.summary(PARTS, ("ddp", "fsdp", "killed"))
    assert found["noise"]["all"] == {"largest": 0.6, "mean": 0.5}
    assert found["within_noise"] == {"ddp": True, "fsdp": None, "killed": False}
    ddp = found["arms"]["ddp"]
    assert (ddp["samples_per_second"], ddp["times_one"], ddp["mfu"]) == (180.0, 1.8, 0.3)
    assert ddp["loss"] == {"first": 8.0, "last": 6.01}
    share = {"all": 0.005 / 0.5, "last_quarter": 0.01 / 0.6}
    assert ddp["share_of_noise"] == pytest.approx(share, abs=1e-4)
    killed = found["arms"]["killed"]
    assert (killed["killed_at"], killed["goes_on_from"]) == (1, 1)
    assert "samples_per_second" not in killed
    assert "from_one" not in found["arms"]["one"]
    lines = curves.table(found["arms"]).splitlines()
    assert lines[2].split() == ["ddp", "180.0", "1.8", "6.0100", "0.005000", "0.010000"]
    assert lines[3].split()[:3] == ["killed", "-", "-"]


def test_an_arm_is_within_rounding_up_to_twice_what_other_sums_do() -> None:
    other = curve(8.0, 6.006, samples_per_second=100.0, peak_memory_bytes=[9])
    found = curves.summary({**PARTS, "regrouped": other}, ("ddp", "killed"))
    assert found["rounding"]["all"] == {"largest": 0.006, "mean": 0.003}
    assert found["within_rounding"] == {"ddp": True, "killed": False}
    share = {"all": 0.005 / 0.003, "last_quarter": 0.01 / 0.006}
    assert found["arms"]["ddp"]["share_of_rounding"] == pytest.approx(share, abs=1e-4)
    assert curves.summary(PARTS, ("ddp",))["within_rounding"] == {"ddp": None}


def test_without_one_nothing_is_compared() -> None:
    found = curves.summary({"ddp": PARTS["ddp"], "one_again": PARTS["one_again"]}, ("ddp",))
    assert found["noise"] is None
    assert found["within_noise"] == {"ddp": None}
    assert found["arms"]["ddp"]["times_one"] is None
    assert "180.0" in curves.table(found["arms"])
