"""What the report says as tables: numbers as they are, notes where they are not sure."""

import json
import shutil
from pathlib import Path

import fake_rewards
import numpy as np
import pytest

from onerec.errors import RunError
from onerec.explain import rewards
from onerec.runs import Run


@pytest.fixture
def scored(run: Run, tmp_path: Path) -> Run:
    return Run(fake_rewards.build(shutil.copytree(run.path, tmp_path / "scored")))


def test_a_single_positive_is_counted_as_one() -> None:
    assert rewards._note(1, 1.0) == "only 1 positive: these numbers are noise"
    assert rewards._note(rewards.FEW, 1.0) == ""


def change_report(run: Run, **changes: object) -> None:
    path = run.path / "reward" / "report.json"
    fake_rewards.write(path, json.loads(path.read_text()) | changes)


def test_towers_say_which_numbers_are_not_sure(scored: Run) -> None:
    frame = rewards.towers(scored).set_index("behaviour")
    assert frame.index.tolist() == ["click", "long_view", "like"], "most positives first"
    assert frame.loc["click", ["positives", "auc", "gauc"]].tolist() == [400, 0.75, 0.7]
    assert frame.loc["long_view", ["product_gauc", "weight"]].tolist() == [0.72, 1.5]
    assert frame["note"].tolist() == ["", "", "only 12 positives: these numbers are noise"]
    assert np.isnan(frame.loc["like", "product_gauc"])
    assert frame["rival_gauc"].isna().all()


def test_few_is_what_the_stage_calls_few() -> None:
    from onerec.pipeline.pscore import VOICE

    assert rewards.FEW == VOICE


def test_a_behaviour_that_is_not_wished_for_is_said_to_be(scored: Run) -> None:
    change_report(scored, weights={"click": 1.0, "long_view": 1.0, "like": 0.0})
    note = rewards.towers(scored)["note"].iloc[-1]
    assert note.startswith("only 12 positives")
    assert note.endswith("not wished for: it has no weight in the fused score")


def test_trees_stand_beside_the_towers_where_they_were_trained(scored: Run) -> None:
    assert not rewards.has_rival(scored)
    fake_rewards.build(scored.path, steps=(), rival=True)
    assert rewards.has_rival(scored)
    frame = rewards.towers(scored).set_index("behaviour")
    assert frame.loc["click", ["rival_auc", "rival_gauc"]].tolist() == [0.7, 0.68]
    assert np.isnan(frame.loc["long_view", "rival_auc"])
    assert rewards.towers(scored, rival=False)["rival_gauc"].isna().all()


def test_an_auc_that_could_not_be_measured_is_nan(scored: Run) -> None:
    measured = fake_rewards.report()["behaviours"]
    unknown = dict.fromkeys(("auc", "gauc", "fused_auc", "fused_gauc"))
    change_report(scored, behaviours=measured | {"like": {"rows": 9, "positives": 0} | unknown})
    assert rewards.towers(scored)["auc"].isna().tolist() == [False, False, True]


def test_rounds_hold_the_gap_to_the_product(scored: Run) -> None:
    frame = rewards.rounds(scored).set_index(["round", "behaviour"])
    assert len(frame) == 6
    assert frame.loc[(0, "long_view"), "weight"] == 1.0
    assert frame.loc[(1, "long_view"), "weight"] == 1.5
    assert frame.loc[(1, "long_view"), "gap"] == pytest.approx(-0.01)
    assert np.isnan(frame.loc[(0, "like"), "gap"]), "without a voice"
    assert frame["kept"].tolist() == [False] * 3 + [True] * 3


def test_whether_the_rule_is_satisfied_is_one_sentence(scored: Run) -> None:
    assert rewards.verdict(scored) == (
        "Pantheon's rule is not satisfied: after round 1 the fused score still lost, and the "
        "weights of round 1 are kept, where the fewest behaviours lose, and least: long view."
    )
    change_report(scored, best=0, converged=True, losing=[])
    assert rewards.verdict(scored).startswith("With the weights of round 0 Pantheon's rule is sat")
    assert rewards.rounds(scored)["kept"].tolist() == [True] * 3 + [False] * 3
    mute = [one | {"gauc": {}, "product_gauc": {}} for one in fake_rewards.report()["rounds"]]
    change_report(scored, converged=False, rounds=mute)
    assert "is not known: each behaviour has too few positives" in rewards.verdict(scored)


def test_a_report_from_before_says_nothing_of_the_rule_and_kept_the_last(scored: Run) -> None:
    old = {k: v for k, v in fake_rewards.report().items() if k not in ("best", "converged")}
    fake_rewards.write(scored.path / "reward" / "report.json", old)
    assert rewards.verdict(scored) == ""
    assert rewards.rounds(scored)["kept"].tolist() == [False] * 3 + [True] * 3
    assert rewards.towers(scored).set_index("behaviour").loc["click", "product_gauc"] == 0.69


def test_the_interval_of_a_share_by_hand() -> None:
    # 10 of 100: middle (0.1 + 0.0192) / 1.0384 = 0.1148, half of the width 0.0596
    low, high = rewards.wilson(0.1, 100)
    assert (low, high) == (pytest.approx(0.0552, abs=1e-4), pytest.approx(0.1744, abs=1e-4))
    assert rewards.wilson(0.0, 50)[0] == 0.0
    assert rewards.wilson(0.0, 50)[1] == pytest.approx(0.0713, abs=1e-4)
    assert rewards.wilson(1.0, 50)[1] == pytest.approx(1)


def test_calibration_says_which_parts_lie_within_chance(scored: Run) -> None:
    frame = rewards.calibration(scored)
    click = frame[frame["behaviour"] == "click"]
    assert click["bin"].tolist() == list(range(1, 11))
    assert click["within"].tolist() == [True] * 9 + [False]
    assert (click["low"] <= click["observed"]).all()
    assert (click["observed"] <= click["high"]).all()


def test_left_out_and_learning(scored: Run) -> None:
    assert rewards.left_out(scored).to_dict("records") == [
        {"behaviour": "follow", "why": "no row of train says yes"}
    ]
    frame = rewards.learning(scored)
    assert set(frame["metric"]) == {"click", "long_view", "like", "fused"}
    assert frame[frame["metric"] == "fused"]["value"].iloc[-1] == pytest.approx(0.49)


def test_without_the_stage_everything_is_empty(run: Run) -> None:
    assert rewards.report(run) == {}
    assert rewards.verdict(run) == ""
    for read in ("towers", "rounds", "calibration", "left_out", "learning"):
        frame = getattr(rewards, read)(run)
        assert frame.empty
        assert len(frame.columns) >= 2


def test_a_report_from_a_valid_part_without_rows(scored: Run) -> None:
    change_report(scored, rows=0, behaviours={}, calibration={})
    assert rewards.towers(scored).empty
    assert rewards.calibration(scored).empty


def test_a_damaged_report_is_one_line(scored: Run) -> None:
    for damage in ({"weights": {}}, {"behaviours": {"click": {}}}, {"rounds": 3}):
        change_report(scored, **damage)
        with pytest.raises(RunError, match=r"reward: not a whole report .* again$") as error:
            rewards.towers(scored)
        assert "\n" not in str(error.value)
        change_report(scored, **fake_rewards.report())


def test_a_really_trained_run(aligned: Path) -> None:
    found = Run(aligned / "runs" / "first")
    frame = rewards.towers(found)
    assert len(frame)
    assert frame["rows"].min() > 0
    assert not rewards.rounds(found).empty
    assert set(rewards.calibration(found)["behaviour"]) == set(frame["behaviour"])
    assert "fused" in set(rewards.learning(found)["metric"])
