"""Trees beside the towers: same rows, same measure, and a file that is whole or not there."""

import json
import shutil
from pathlib import Path

import fake_rewards
import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from onerec.assembly import setting_of
from onerec.errors import RunError
from onerec.explain import rewards as explain
from onerec.metrics import grouped_auc
from onerec.pipeline import reward_rival, run_stage
from onerec.pipeline.reward_rival import make_rival, rows_to_learn
from onerec.rewards import RewardModel
from onerec.run_writer import RunWriter
from onerec.runs import Run, open_run

RIVAL = Path("reward") / "rival.json"


@pytest.fixture
def run(aligned: Path, tmp_path: Path) -> Run:
    return open_run("first", shutil.copytree(aligned, tmp_path / "home"))


def model_of(run: Run) -> RewardModel:
    return RewardModel.load(run, setting_of(run, run.home), torch.device("cpu"))


def test_trees_are_measured_on_the_rows_of_the_report(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, scored = [], []
    real = reward_rival._Trees._scores

    def scores(self: object, *parts: np.ndarray) -> tuple[int, np.ndarray]:
        scored.append((*parts, real(self, *parts)[1]))  # type: ignore[arg-type]
        return real(self, *parts)  # type: ignore[arg-type]

    monkeypatch.setattr(reward_rival._Trees, "_scores", scores)
    made = make_rival("first", run.home, report=lambda *said: told.append(said[:3]))
    assert told == [("rival", step, 3) for step in range(4)]
    assert json.loads((run.path / RIVAL).read_text()) == made
    fake = json.loads((fake_rewards.build(tmp_path, rival=True) / RIVAL).read_text())
    assert fake.keys() == made.keys(), "other tests look at what is really written"
    assert fake["rows"].keys() == made["rows"].keys()
    assert fake["behaviours"]["click"].keys() == made["behaviours"]["click"].keys()
    assert Run(run.path / "cache" / "rival").status().state == "done"
    report, reward = explain.report(run), model_of(run)
    assert list(made["behaviours"]) == list(report["behaviours"]) == ["click", "like"]
    assert made["rows"]["valid"] == report["rows"]
    rows = reward.exposures.valid_rows(setting_of(run, run.home).recipe.reward.valid_rows)
    learned = reward.exposures.training_rows()
    assert made["rows"]["train"] == len(learned)
    assert not set(rows) & set(learned)
    yes, known = reward.exposures.outcomes(rows)
    for k, name in enumerate(made["behaviours"]):
        x, label, held, score = scored[k]
        assert len(x) == len(label) == reward.exposures.outcomes(learned)[1][:, k].sum()
        assert len(held) == len(score) == report["behaviours"][name]["rows"]
        there, found = known[:, k], made["behaviours"][name]
        assert found["auc"] == pytest.approx(roc_auc_score(yes[there, k], score))
        user = reward.exposures.split.log.user[rows][there]
        assert found["gauc"] == grouped_auc(yes[there, k], score, user)


def test_the_file_is_what_the_page_reads_and_a_second_time_gives_the_same(run: Run) -> None:
    assert not explain.has_rival(run)
    made = make_rival("first", run.home)
    frame = explain.towers(run).set_index("behaviour")
    for name, row in made["behaviours"].items():
        assert row["trees"] >= 1
        for measure in ("auc", "gauc"):
            value = frame.loc[name, f"rival_{measure}"]
            assert value == row[measure] or (np.isnan(value) and row[measure] is None)
    assert make_rival("first", run.home)["behaviours"] == made["behaviours"]


def test_trees_learn_what_the_features_tell(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    reward = model_of(run)
    rows = reward.exposures.training_rows()
    trees = reward_rival._Trees(reward, rows, rows, seed=0)
    item_tag = trees.x[:, -2]  # of the last three columns: author, tag, duration
    trees.yes[:, 0] = trees.held_yes[:, 0] = item_tag == np.unique(item_tag)[0]
    trees.known[:] = trees.held_known[:] = True
    assert trees.of(0)["auc"] > 0.95
    monkeypatch.setattr(reward_rival, "MOST_CATEGORIES", 1)  # then it is a number, and still read
    assert trees.of(0)["auc"] > 0.95


def test_a_behaviour_that_hardly_happens_has_no_trees(run: Run) -> None:
    reward = model_of(run)
    rows = reward.exposures.training_rows()
    trees = reward_rival._Trees(reward, rows, rows, seed=0)
    trees.yes[:, 0] = np.arange(len(rows)) < reward_rival.ENOUGH - 1
    trees.held_yes[:, 1] = trees.held_known[:, 1]  # always, where it is measured
    assert trees.of(0) == {"trees": 0, "auc": None, "gauc": None}
    assert (trees.of(1)["auc"], trees.of(1)["gauc"]) == (None, None)


def test_of_many_rows_some_are_drawn_in_order(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    reward, setting = model_of(run), setting_of(run, run.home)
    every = rows_to_learn(setting, reward)
    assert np.array_equal(every, reward.exposures.training_rows())
    monkeypatch.setattr(reward_rival, "ROWS", 50)
    some = rows_to_learn(setting, reward)
    assert len(set(some)) == 50
    assert set(some) < set(every)
    assert (np.diff(some) > 0).all()
    assert some.max() > every[60], "by lot, not the first"


def test_another_reward_model_leaves_no_old_trees_beside_it(run: Run) -> None:
    make_rival("first", run.home)
    (run.path / "reward" / "done.json").unlink()
    run_stage("reward", "first", home=run.home)
    assert not explain.has_rival(run)


def test_what_cannot_be_compared_is_refused_and_nothing_is_left(
    run: Run, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RunError, match="no run 'gone'"):
        make_rival("gone", run.home)
    with pytest.raises(RunError, match=r"no reward model: reward\.steps=0"):
        make_rival("first", trained)
    assert not (trained / "runs" / "first" / "cache" / "rival").exists()
    with (
        RunWriter.claim(run.path / "cache" / "rival", {"name": "rival"}),
        pytest.raises(RunError, match="is held by process"),
    ):
        make_rival("first", run.home)
    with monkeypatch.context() as patch:
        nothing = np.zeros(0, dtype=np.int64)
        patch.setattr("onerec.data.exposures.Exposures.valid_rows", lambda *_: nothing)
        with pytest.raises(RunError, match="its valid part holds no row"):
            make_rival("first", run.home)
    monkeypatch.setattr(reward_rival._Trees, "of", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make_rival("first", run.home)
    assert not explain.has_rival(run)
    assert Run(run.path / "cache" / "rival").status().state == "failed"
