"""The experiment on a known world: arms by name, targets by hand, and one small round of it all."""

import json

import numpy as np
import pytest
import small_world

from onerec.bench import worth
from onerec.pipeline.align import Valid
from onerec.recipes import recipe


def test_an_arm_is_a_set_of_changes():
    base = recipe("small", worth.SETTINGS)
    found = worth.arm_recipe(base, "long_view+beam+g32@0.7@0.01", 4).align
    assert (found.reward, found.search, found.group, found.weight) == ("long_view", "beam", 32, 0.7)
    assert worth.arm_recipe(base, "beam@0.7@0.01", 4).align.learning_rate == 0.01
    assert worth.arm_recipe(base, "none", 4).align.weight == 0
    assert worth.arm_recipe(base, "pscore", 4).seed == 4
    with pytest.raises(KeyError):
        worth.arm_recipe(base, "nonsense", 0)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    found = tmp_path_factory.mktemp("worth")
    changes = small_world.SETTINGS | {"align.steps": "6"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worth, "SETTINGS", changes)
        worth.prepare(found, 600, 150, steps=5)
    return found


def test_arms_are_measured_against_the_truth(home, monkeypatch):
    monkeypatch.setattr(worth, "TEST_USERS", 30)
    one = worth.train(home, "pscore", 0, steps=6)
    base = worth.train(home, "none", 0, steps=6)
    assert one["arm"] == "pscore"
    assert set(one["valid"]) == {0, 3, 6}
    assert one["step"] in (3, 6)
    assert base["step"] == 6
    for cut in worth.CUTS:
        assert one["best"][f"long_view@{cut}"] >= one["mean"][f"long_view@{cut}"] > 0
    assert len(one["users"]["long_view@32"]) == 30
    assert "policy" not in base["curve"][0]
    found = worth.ends(home)
    for name in ("long_view", "pscore", "play_ms"):
        low, high = (found[end]["mean"][f"{name}@32"] for end in ("random", "oracle"))
        assert low < one["mean"][f"{name}@32"] < high


def test_the_step_is_chosen_by_reward_among_those_that_keep_their_recall():
    valid = {0: Valid(0.5, 0.9), 10: Valid(0.2, 0.3), 20: Valid(0.19, 0.5), 30: Valid(0.1, 0.6)}
    base = dict.fromkeys(valid, 0.2)
    assert worth.choose(valid, base) == 10  # 20 lost more than 2%, and 0 is no training
    assert worth.choose(valid, {**base, 20: 0.19}) == 20
    assert worth.choose(valid, dict.fromkeys(valid, 9.0)) == 10  # none keeps it: the nearest


def test_gains_are_paired_by_seed():
    def part(arm, seed, shift):
        keys = [f"{t}@{c}" for t in ("long_view", "pscore", "play_ms") for c in worth.CUTS]
        mean = dict.fromkeys(keys, 0.1 * seed + 0.2 + shift)
        own = {key: 0.1 * seed + 0.2 + 2 * shift for key in keys if not key.startswith("play")}
        return {"arm": arm, "seed": seed, "step": 3, "recall@10": 0.1 * (1 + shift)} | {
            "mean": mean,
            "best": mean,
            "own": own,
        }

    parts = [part("none", s, 0.0) for s in range(3)] + [part("x", s, 0.1) for s in range(3)]
    top = {"oracle": {"mean": dict.fromkeys(parts[0]["mean"], 0.2 + 1.0)}}
    found = worth.summary(parts, top)["x"]
    gain = found["long_view@32"]["gain"]
    assert (gain["mean"], gain["low"], gain["high"]) == pytest.approx((0.1, 0.1, 0.1))
    assert found["recall_change"]["mean"] == pytest.approx(0.1)
    assert found["pscore@32"]["predicted_minus_true"]["mean"] == pytest.approx(0.1)
    expected = np.mean([0.1 / (1.0 - 0.1 * seed) for seed in range(3)])
    assert found["long_view@32"]["headroom_closed"]["mean"] == pytest.approx(expected, abs=1e-4)


def test_the_targets_are_those_of_the_fused_score(home):
    from onerec.assembly import setting_of
    from onerec.common import pick_device
    from onerec.rewards import RewardModel
    from onerec.runs import open_run

    run = open_run(worth.RUN, home)
    reward = RewardModel.load(run, setting_of(run, home), pick_device("cpu"))
    found = {name: np.full((1, 2), k + 1.0) for k, name in enumerate(reward.behaviours)}
    found["play_ms"] = found["long_view"]
    weights = reward.model.weights.tolist()
    expected = sum(w * (k + 1.0) for k, w in enumerate(weights)) / sum(weights)
    assert worth._targets(found, reward)["pscore"][0, 0] == pytest.approx(expected)


def test_a_log_without_truth_is_refused(aligned):
    from onerec.assembly import setting_of
    from onerec.errors import DataError
    from onerec.runs import open_run

    setting = setting_of(open_run("first", aligned))
    with pytest.raises(DataError, match="'toy': a log has no truth to compare with"):
        worth.known_world(setting)


def test_all_arms_in_processes_of_their_own(home):
    out = home / "all.json"
    command = ["--home", str(home), "--arms", "none", "--seeds", "1", "--steps", "2"]
    worth.main([*command, "--out", str(out)])
    said = json.loads(out.read_text())
    assert [arm["arm"] for arm in said["arms"]] == ["none"]
    assert {"random", "oracle"} == set(said["ends"])
    assert said["summary"] == {}  # nothing to compare with itself
