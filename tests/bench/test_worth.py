"""The experiment on a known world: arms by name, targets by hand, and one small round of it all."""

import json

import numpy as np
import pytest
import small_world

from onerec.bench import worth
from onerec.errors import DataError, RecipeError, RunError
from onerec.world import WorldConfig


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    found = tmp_path_factory.mktemp("worth")
    changes = small_world.SETTINGS | {"align.steps": "6"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worth, "SETTINGS", changes)
        worth.prepare(found, WorldConfig(n_items=600, n_users=150), steps=5)
    return found


@pytest.mark.slow
def test_arms_are_measured_against_the_truth(home, monkeypatch):
    monkeypatch.setattr(worth, "TEST_USERS", 30)
    one = worth.train(home, "pscore", 0, steps=6)
    base = worth.train(home, "none", 0, steps=6)
    assert one["arm"] == "pscore"
    assert set(one["valid"]) == set(range(7))
    assert one["step"] in range(1, 7)
    assert base["step"] == 6
    assert set(base["at"]) == set(range(1, 6))  # an arm that stops at one stands beside this
    assert base["at"][3]["mean"] != base["mean"]
    for cut in worth.CUTS:
        assert one["best"][f"long_view@{cut}"] >= one["mean"][f"long_view@{cut}"] > 0
    assert len(one["users"]["long_view@32"]) == 30
    assert "policy" not in base["curve"][0]
    found = worth.ends(home)
    for name in ("long_view", "pscore", "play_ms"):
        low, high = (found[end]["mean"][f"{name}@32"] for end in ("random", "oracle"))
        assert low < high
        assert one["mean"][f"{name}@32"] < high  # five steps need not beat chance


@pytest.mark.slow
def test_an_arm_is_not_chosen_without_the_one_that_has_no_reward(home, tmp_path, monkeypatch):
    monkeypatch.setattr(worth, "WAIT_S", 0.0)
    with pytest.raises(RunError, match=r"none-1.valid: the arm 'none' of seed 1, .*; run it first"):
        worth.train(home, "pscore", 1, steps=1, parts=tmp_path)
    with pytest.raises(RecipeError, match="--arms pscore: add 'none', which"):
        worth.main.__wrapped__(["--home", str(home), "--arms", "pscore", "--out", "o.json"])


def test_an_arm_waits_for_what_the_one_without_a_reward_saw_and_not_for_its_measures(
    home, tmp_path, monkeypatch
):
    monkeypatch.setattr(worth, "WAIT_S", 0.0)
    monkeypatch.setattr(worth, "measure", lambda *told: {})
    worth.train(home, "none", 2, steps=2, parts=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["none-2.valid"]
    base = worth._without(tmp_path, 2)
    assert list(base) == [0, 1, 2]
    (tmp_path / "none-2.json").write_text(json.dumps({"valid": {"0": [0.5, 0.1]}}))
    assert worth._without(tmp_path, 2) == {0: 0.5}, "and a part of before is enough"


def test_the_arm_without_a_reward_goes_first(home, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(worth, "in_parts", lambda *told: asked.extend(told[2]) or [])
    monkeypatch.setattr(worth, "ends", lambda home: {})
    words = ["--home", str(home), "--arms", "pscore,none", "--seeds", "2"]
    worth.main([*words, "--out", str(tmp_path / "o.json")])
    assert asked == ["none:0", "none:1", "pscore:0", "pscore:1"]


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
    apart, own, true = (
        found["pscore@32"][name] for name in ("predicted_minus_true", "own_gain", "gain")
    )
    assert apart["mean"] == pytest.approx(0.1)
    assert own["mean"] == pytest.approx(true["mean"] + 0.1)
    expected = np.mean([0.1 / (1.0 - 0.1 * seed) for seed in range(3)])
    assert found["long_view@32"]["headroom_closed"]["mean"] == pytest.approx(expected, abs=1e-4)


def test_an_arm_stands_beside_none_of_the_same_step():
    without = {"step": 6, "recall@10": 0.2, "at": {"3": {"recall@10": 0.1}}}
    assert worth.at_step(without, 3)["recall@10"] == 0.1
    assert worth.at_step(without, 6)["recall@10"] == 0.2


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


@pytest.mark.slow
def test_all_arms_in_processes_of_their_own(home):
    out = home / "all.json"
    command = ["--home", str(home), "--arms", "none", "--seeds", "1", "--steps", "4"]
    command += ["--looks", "2", "--out", str(out)]
    worth.main(command)
    said = json.loads(out.read_text())
    wanted = "--home H --arms none --seeds 1 --steps 4 --looks 2 --out FILE"
    assert said["command"] == f"python -m onerec.bench.worth {wanted}", "no path of this machine"
    assert said["device"]
    assert [arm["arm"] for arm in said["arms"]] == ["none"]
    assert list(said["arms"][0]["valid"]) == ["0", "2", "4"]
    assert {"random", "oracle"} == set(said["ends"])
    assert said["summary"] == {}  # nothing to compare with itself


def result(folder, name, arm, ends=1.0):
    part = {"command": f"python {name}", "commit": "c", "device": "d", "ends": {"oracle": ends}}
    part |= {"summary": {arm: {"seeds": 1}}, "arms": [{"arm": each} for each in ("none", arm)]}
    path = folder / f"{name}.json"
    path.write_text(json.dumps(part))
    return path


def test_results_of_one_preparation_are_joined(tmp_path):
    paths = [result(tmp_path, "a", "pscore@1"), result(tmp_path, "b", "pscore@2")]
    out = tmp_path / "all.json"
    worth.main(["--join", *map(str, paths), "--note", "said", "--out", str(out)])
    made = json.loads(out.read_text())
    assert list(made["summary"]) == ["pscore@1", "pscore@2"]
    assert [arm["prepared"] for arm in made["arms"]] == [0, 0, 1, 1], "each beside its own none"
    assert (made["command"], made["commit"]) == ("python a; python b", "c")
    assert (made["ends"], made["note"]) == ({"oracle": 1}, "said")


def test_what_does_not_belong_together_is_not_joined(tmp_path):
    first, same = result(tmp_path, "a", "pscore@1"), result(tmp_path, "b", "pscore@1")
    with pytest.raises(DataError, match=r"b.json: arm 'pscore@1' is in another file too"):
        worth.joined([first, same])
    other = result(tmp_path, "c", "pscore@2", ends=2.0)
    with pytest.raises(DataError, match=r"c.json: another preparation than .*a.json"):
        worth.joined([first, other])
