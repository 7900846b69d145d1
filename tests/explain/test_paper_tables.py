"""The paper's tables and ours: gains by hand, shares of the right level, differences by seed."""

from __future__ import annotations

import math
from typing import Any

import pytest

from onerec.bench import worth
from onerec.explain import paper_tables
from onerec.explain.paper_tables import parsed, tables

NONE = 0.2  # mean of any target without a reward
ORACLE = 0.7
BASE = "pscore+g128@0.3"


def line(gain: float, half: float, beyond: float = 0.01) -> dict[str, Any]:
    apart = {"mean": beyond, "low": beyond - 0.001, "high": beyond + 0.001}
    return {
        "gain": {"mean": gain, "low": gain - half, "high": gain + half},
        "headroom_closed": {"mean": gain / (ORACLE - NONE)},
        "predicted_minus_true": apart,
    }


def result(gains: dict[str, float], half: float = 0.001, **more: Any) -> dict[str, Any]:
    """A result of `bench.worth` in which an arm gains the same at every k and target."""
    keys = [f"{target}@{k}" for target in paper_tables.TARGETS for k in paper_tables.CUTS]
    summary = {
        arm: {"recall_change": {"mean": -0.01 - gain, "low": -0.03, "high": 0.01}}
        | {key: line(gain, half) for key in keys}
        for arm, gain in gains.items()
    }
    ends = {"oracle": {"mean": dict.fromkeys(keys, ORACLE)}}
    return {"summary": summary, "ends": ends, **more}


def parts(gains: dict[str, list[float]], step: int = 9) -> list[dict[str, Any]]:
    keys = [f"{target}@{k}" for target in paper_tables.TARGETS for k in paper_tables.CUTS]
    return [
        {"arm": arm, "seed": seed, "step": step, "mean": dict.fromkeys(keys, NONE + gain)}
        for arm, each in gains.items()
        for seed, gain in enumerate(each)
    ]


def test_an_arm_that_names_no_group_has_that_of_the_benchmark() -> None:
    assert str(paper_tables.GROUP) == worth.SETTINGS["align.group"]


def test_an_arm_is_taken_apart_or_is_in_no_table() -> None:
    arm = parsed("pscore+off_policy+g512@0.3@0.0003")
    assert arm is not None
    assert (arm.reward, arm.numbers, arm.kind, arm.group) == (
        *("pscore", "0.3@0.0003", "off_policy", 512),
    )
    assert (plain := parsed("long_view@0.1")) is not None
    assert (plain.kind, plain.group) == ("", paper_tables.GROUP)
    for other in ("none", "pscore+beam+tilt4@1", "pscore+g512+u16@0.3", "grpo"):
        assert parsed(other) is None


def test_each_table_compares_what_the_paper_compares() -> None:
    gains = {BASE: 0.02, "pscore+beam+g128@0.3": 0.05, "pscore+off_policy+g128@0.3": 0.01}
    frame = tables(result(gains | {"pscore+g512@0.3": 0.03, "pscore+beam+tilt4@1": 0.9}))
    assert set(zip(frame["table"], frame["setting"], frame["against"], strict=True)) == {
        (6, "a reward", "no reward"),
        (7, "groups of 128", "no reward"),
        (7, "groups of 512", "no reward"),
        (8, "beam search", "sampling"),
        (9, "on-policy", "off-policy"),
    }
    assert list(frame.columns) == list(paper_tables.COLUMNS)
    assert set(frame.loc[frame["table"] == 6, "k"]) == {32, 128, 512}
    assert set(frame.loc[frame["table"] == 7, "k"]) == {32, 128}
    first = frame[(frame["target"] == "pscore") & (frame["k"] == 128)].set_index("setting")
    assert first["more"].to_dict() == pytest.approx(
        {
            "a reward": 0.02 / NONE,
            "groups of 128": 0.02 / NONE,
            "groups of 512": 0.03 / NONE,
            "beam search": 0.03 / (NONE + 0.02),
            "on-policy": 0.01 / (NONE + 0.01),
        }
    )
    assert first.loc["beam search", "gain"] == pytest.approx(0.05)
    assert first.loc["a reward", "promised"] == pytest.approx(0.03)
    assert first.loc["a reward", "promised_more"] == pytest.approx(0.03 / NONE)
    assert first.loc["beam search", "recall"] == pytest.approx(-0.06)
    assert first.loc["beam search", "recall_against"] == pytest.approx(-0.03)
    assert first.loc["a reward", "recall_against"] == 0
    assert first.loc["groups of 512", "past"] == 0, "itself"
    assert first.loc["groups of 128", "past"] == pytest.approx(-0.01)
    assert math.isnan(first.loc["beam search", "past"])


def test_the_papers_numbers_are_shares_of_what_it_compares_with() -> None:
    gains = {BASE: 0.02, "pscore+g32@0.3": 0.02, "pscore+g512@0.3": 0.02, "pscore+g2048@0.3": 0.02}
    gains |= {"pscore+beam+g128@0.3": 0.05, "pscore+off_policy+g128@0.3": 0.01}
    frame = tables(result(gains))
    mine = frame[frame["target"] == "pscore"].set_index(["table", "setting", "k"])["paper"]
    wanted = {
        (6, "a reward", 32): 0.0809,
        (7, "groups of 128", 128): 0.0478,
        (7, "groups of 2,048", 128): 0.0701,
        (8, "beam search", 32): 0.0145,
        (9, "on-policy", 128): 0.0561,
    }
    assert {key: mine[key] for key in wanted} == pytest.approx(wanted, abs=1e-4)
    assert math.isnan(mine[7, "groups of 512", 32]), "Table 7 is of 128 items"
    assert math.isnan(mine[7, "groups of 32", 128]), "which the paper did not measure"


def past(frame: Any, group: int) -> tuple[float, float, float]:
    row = frame[(frame["table"] == 7) & (frame["k"] == 32) & (frame["group"] == group)].iloc[0]
    return row["past"], row["past_low"], row["past_high"]


def test_a_difference_without_seeds_is_as_wide_as_both_intervals_allow() -> None:
    frame = tables(result({BASE: 0.02, "pscore+g512@0.3": 0.023}, half=0.002))
    assert past(frame, 512) == pytest.approx((0.003, -0.001, 0.007))


def test_a_difference_is_paired_by_seed_where_both_took_the_same_step() -> None:
    """Seeds that differ by 0.01 hide a step of 0.003, if they are not paired."""
    by_seed = {BASE: [0.01, 0.02, 0.03], "pscore+g512@0.3": [0.0131, 0.0229, 0.033]}
    means = {BASE: 0.02, "pscore+g512@0.3": 0.023}
    arms = parts(by_seed)
    mean, low, high = past(tables(result(means, half=0.02, arms=arms)), 512)
    half = 4.302653 * 0.0001 / math.sqrt(3)  # Student's t with two degrees of freedom
    assert (mean, low, high) == pytest.approx((0.003, 0.003 - half, 0.003 + half), abs=1e-7)
    arms[0]["step"] = 5  # then the training without a reward is not the same for both
    assert past(tables(result(means, half=0.02, arms=arms)), 512)[1] < 0
    bare = [{key: part[key] for key in ("arm", "seed", "step")} for part in parts(by_seed)]
    assert past(tables(result(means, half=0.02, arms=bare)), 512)[1] < 0


def test_what_was_not_measured_has_no_row() -> None:
    assert tables(result({})).empty
    assert list(tables(result({})).columns) == list(paper_tables.COLUMNS)
    alone = tables(result({"pscore+beam+g128@0.3": 0.05, "pscore+off_policy@0.3": 0.01}))
    assert alone.empty, "their partner is missing"
    other = tables(result({BASE: 0.02, "pscore+beam+g128@0.1": 0.05}))
    assert set(other["table"]) == {6, 7}, "of another weight it is no partner"
    no_four = tables(result({BASE: 0.02, "pscore+g32@0.3": 0.02}))
    at_128 = no_four[(no_four["table"] == 7) & (no_four["k"] == 128)]
    assert at_128["past"].isna().all(), "no group of 512"


def test_no_gain_at_all_is_no_division_by_zero() -> None:
    frame = tables(result({BASE: 0.0}))
    assert frame["gain"].eq(0).all()
    assert frame["more"].isna().all(), "the level is not known"


def test_pairs_are_the_rest_by_the_truth_of_what_was_trained_on() -> None:
    frame = tables(result({BASE: 0.02, "pscore+beam+g128@0.3": 0.05}))
    found = paper_tables.pairs(frame)
    assert list(zip(found["table"], found["k"], strict=True)) == [
        *((6, 32), (6, 128), (6, 512), (8, 32), (8, 128)),
    ]
    assert not found.isna().any().any()
