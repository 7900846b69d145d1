"""Trees as judges: whom they know, what they say beside the truth, and one small round."""

import json

import numpy as np
import pytest
import small_world

from onerec.bench import arms, judged
from onerec.runs import open_run

pytestmark = pytest.mark.slow

pytest.importorskip("lightgbm")


@pytest.fixture(scope="module")
def round_of_a_world(tmp_path_factory):
    home = tmp_path_factory.mktemp("judged")
    changes = small_world.SETTINGS | {"train.steps": "6", "reward.steps": "5", "align.steps": "4"}
    out = home / "judged.json"

    def here(module, words, work, folder, jobs):  # in this process
        folder.mkdir(exist_ok=True)
        for case in work:
            part = folder / f"{case.replace(':', '-')}.json"
            arm, _, seed = case.partition(":")
            arms.write_part(judged.one("world", home, arm, int(seed), judged._found(part)), part)
        return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judged, "SETTINGS", judged.SETTINGS | changes)
        patch.setattr(judged, "in_parts", here)
        patch.setattr(judged, "TREES", judged.TREES[:1])
        words = ["--log", "world", "--items", "600", "--users", "150", "--home", str(home)]
        judged.main([*words, "--seeds", "2", "--arms", "long_view", "--out", str(out)])
    return home, json.loads(out.read_text())


def test_judges_and_judged_share_no_user():
    learns, judged_users = judged.halves(101)
    assert not set(learns) & set(judged_users)
    assert len(learns) + len(judged_users) == 101


def test_only_later_rows_of_the_other_half_are_learned(round_of_a_world, monkeypatch):
    home, _ = round_of_a_world
    setting = judged.setting_of(open_run("judged_world", home), home)
    seen = []

    class Spy(judged.Table):
        def __init__(self, reward, rows):
            seen.append(rows)
            super().__init__(reward, rows)

    monkeypatch.setattr(judged, "Table", Spy)
    reward = judged.RewardModel.load(
        open_run("judged_world", home), setting, judged.pick_device("cpu")
    )
    judge = judged.make_judge(reward, trials=1)
    log, split = setting.split.log, setting.split
    learns, other = judged.halves(log.n_users)
    train, valid, whole, test = seen
    assert not split.train[np.concatenate(seen)].any()
    assert np.isin(log.user[whole], learns).all()
    assert np.isin(log.user[test], other).all()
    assert not set(log.user[train]) & set(log.user[valid])
    assert judge.rows == len(whole)
    cases = judged.judged_cases(setting)
    assert np.isin(cases.user, other).all()
    lists = np.zeros((len(cases), 3), dtype=np.int64)
    said = judge(cases, lists)
    assert said["long_view"].shape == lists.shape
    assert np.array_equal(said["long_view"][:, 0], said["long_view"][:, 2])


def test_the_judges_gain_stands_beside_the_true_one(round_of_a_world):
    _, found = round_of_a_world
    line = found["summary"]["long_view"]
    assert line["seeds"] == 2
    base = {part["seed"]: part for part in found["arms"] if part["arm"] == "none"}
    errors = []
    for part in found["arms"]:
        if part["arm"] != "none":
            other = judged.at_step(base[part["seed"]], part["step"])
            judged_gain = part["judged_long_view@10"] - other["judged_long_view@10"]
            errors.append(judged_gain - part["true_long_view@10"] + other["true_long_view@10"])
    assert line["error"]["long_view@10"]["mean"] == pytest.approx(np.mean(errors), abs=1e-5)
    assert 0 < base[0]["true_long_view@10"] < 1
    assert base[0]["log_exposure@10"] > 0
    json.dumps(found["summary"]["none"])


def test_without_the_logs_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(judged, "found_kuairand", lambda: None)
    with pytest.raises(FileNotFoundError, match="--kuairand"):
        judged.prepare("kuairand", tmp_path, None, 0, 0, {})
