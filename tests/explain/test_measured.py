"""The tables of shipped results say what their files say."""

import json

import pytest

from onerec.bench import arms
from onerec.explain import measured


def test_what_holds_recall_is_what_the_benchmark_asks_for():
    assert measured.HELD == arms.LEAST_RECALL


def test_stability_has_a_row_for_each_seed(tmp_path):
    line = {"lag": 20, "rate": 0.001, "objective": "grpo", "policy_norm_growth": [1.5, 60.0]}
    line |= {"next_token_minus_ecpo": [-0.1, 0.2], "beyond": 0.03, "void": False, "explodes": True}
    (tmp_path / "stability.json").write_text(json.dumps({"lines": [line]}))
    frame = measured.stability(tmp_path)
    assert frame["growth"].tolist() == [1.5, 60.0]
    assert frame["seed"].tolist() == [0, 1]
    assert set(frame["high"]) == {0.2}
    assert frame["explodes"].all()


def test_legality_begins_where_all_begin_and_ends_at_the_end(tmp_path):
    arms = {
        "random": {"legality": [0.9, 0.8, 1.0], "curve": [0.6, 0.7], "curve_steps": [10, 14]},
        "frozen": {"legality": [0.5, 0.4, 0.6]},
    }
    found = {"before": {"legality": 0.55}, "steps": 30, "arms": arms}
    (tmp_path / "legality.json").write_text(json.dumps(found))
    frame = measured.legality(tmp_path).set_index("arm")
    assert frame.loc["random", "step"].tolist() == [0, 10, 14, 30]
    assert frame.loc["random", "legality"].tolist() == [0.55, 0.6, 0.7, 0.9]
    assert frame.loc["frozen", "legality"].tolist() == [0.55, 0.5]


def test_worth_takes_each_arm_by_its_own_reward(tmp_path):
    def line(gain):
        found = {"gain": {"mean": gain, "low": gain - 0.01, "high": gain + 0.01}}
        own = {"mean": gain + 0.002, "low": gain - 0.009, "high": gain + 0.013}
        return found | {"own_gain": own, "headroom_closed": {"mean": 0.1}}

    targets = {"long_view": 0.05, "pscore": 0.02}
    summary = {
        arm: {"recall_change": {"mean": -0.01}}
        | {f"{name}@{k}": line(gain) for name, gain in targets.items() for k in measured.CUTS}
        for arm in ("long_view+beam@0.1", "pscore@0.1")
    }
    arms = [
        {"arm": arm, "seed": seed, "prepared": 0, "step": 30, "valid": {"30": [recall, 0.5]}}
        for arm, recalls in {
            "none": (0.1, 0.2),
            "long_view+beam@0.1": (0.099, 0.197),
            "pscore@0.1": (0.1, 0.19),  # the second seed lost 5%
        }.items()
        for seed, recall in enumerate(recalls)
    ]
    (tmp_path / "worth.json").write_text(json.dumps({"summary": summary, "arms": arms}))
    frame = measured.worth(tmp_path)
    assert len(frame) == 2 * len(measured.CUTS)
    means = frame[frame["k"] == 32].set_index("arm")
    assert means.loc["long_view+beam@0.1", "true"] == pytest.approx(0.05)
    claimed = means.loc["pscore@0.1", ["predicted_low", "predicted", "predicted_high"]]
    assert claimed.tolist() == pytest.approx([0.011, 0.022, 0.033]), "an interval of its own"
    assert means["held"].to_dict() == {"long_view+beam@0.1": True, "pscore@0.1": False}


@pytest.mark.parametrize("name", ["stability", "legality", "worth"])
def test_what_is_shipped_can_be_read(name):
    frame = getattr(measured, name)()
    assert len(frame) > 5
    assert not frame.isna().any().any()


def test_the_papers_tables_are_shipped_with_their_note_and_command():
    frame = measured.worth_tables()
    assert {7, 8, 9} <= set(frame["table"])
    assert not frame[["gain", "gain_low", "gain_high", "more", "promised"]].isna().any().any()
    assert "onerec.bench.worth" in frame.attrs["command"]
    assert set(measured.worth_pairs()["table"]) == set(frame["table"]) - {7}
