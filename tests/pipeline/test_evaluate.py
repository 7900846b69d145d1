"""evaluate.json: the promised shape, and numbers that can be made again from what was listed."""

import importlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import toy_home

from onerec.assembly import Setting
from onerec.checkpoint import load_tensors
from onerec.data.dataset import dataset_path, open_dataset, write_dataset
from onerec.data.split import Cases
from onerec.errors import DataError
from onerec.pipeline import run, run_stage
from onerec.pipeline.rivals import LISTED, cases_of
from onerec.run_files import read_json
from onerec.runs import open_run

PROMISED = {"split", "part", "positive", "seen_filtered", "users", "seconds", "legality", "models"}
METRICS = {"recall@5", "recall@10", "ndcg@5", "ndcg@10", "coverage@10", "recall@10_ci"}
MODELS = ("onerec", "popularity", "item_knn", "sasrec")


def make_setting(home: Path, changes: dict[str, str] | None = None) -> Setting:
    return Setting.of(toy_home.make_recipe(changes), open_dataset("toy", home))


def test_the_result_has_the_promised_keys(trained: Path) -> None:
    result = open_run("first", trained).evaluate()
    assert result is not None
    assert set(result) == PROMISED | {"targets", "differences"}
    assert set(result["models"]) == set(MODELS)
    for values in result["models"].values():
        assert set(values) == METRICS | {"hit@5", "hit@10", "seconds"}
        low, high = values["recall@10_ci"]
        assert 0 <= low <= values["recall@10"] <= high <= 1
        assert values["recall@5"] <= values["recall@10"]
        assert 0 < values["coverage@10"] <= 1
    said = {key: result[key] for key in ("split", "part", "positive", "seen_filtered", "users")}
    assert said == {
        "split": "leave_one_out",
        "part": "test",
        "positive": "like",
        "seen_filtered": False,
        "users": toy_home.USERS,
    }
    assert 0 <= result["legality"] <= 1
    assert set(result["differences"]) == set(MODELS) - {"onerec"}


@pytest.mark.parametrize("model", MODELS)
def test_recall_is_that_of_the_lists_on_disk(trained: Path, model: str) -> None:
    """By a loop over users, from the lists that the app shows."""
    finished = open_run("first", trained)
    path = finished.path / "baselines" / "lists.safetensors"
    lists = load_tensors(path)[model].numpy()
    cases = make_setting(trained).split.test
    assert lists.shape == (len(cases), LISTED)
    found = [
        len(set(lists[m, :10]) & set(cases.target_items[cases.target_offsets[m] : stop]))
        / (stop - cases.target_offsets[m])
        for m, stop in enumerate(cases.target_offsets[1:])
    ]
    result = finished.evaluate()
    assert result is not None
    assert result["models"][model]["recall@10"] == pytest.approx(np.mean(found), abs=1e-12)
    for row in lists:
        real = row[row >= 0]
        assert len(set(real)) == len(real)  # an item takes one rank


def test_what_can_be_learned_is_learned(trained: Path) -> None:
    result = open_run("first", trained).evaluate()
    assert result is not None
    recall = {name: values["recall@10"] for name, values in result["models"].items()}
    assert recall["onerec"] > 2 * recall["popularity"]


def test_each_baseline_says_what_was_tried(trained: Path) -> None:
    folder = open_run("first", trained).path / "baselines"
    for name in MODELS[1:]:
        said = read_json(folder / f"{name}.json")
        assert set(said) == {"name", "config", "trials", "seconds"}
        assert len(said["trials"]) == 1  # baselines.trials
        assert said["trials"][0]["config"] == said["config"]
    sasrec = read_json(folder / "sasrec.json")["config"]
    assert (sasrec["width"], sasrec["steps"]) == (16, 20)


def test_seen_items_are_filtered_for_all_models_or_for_none(finished: Path) -> None:
    shown = {}
    for flag in ("true", "false"):
        changes = {"evaluate.filter_seen": flag, "baselines.names": "popularity,item_knn"}
        changes |= {"train.steps": "5"}
        made = run_stage(
            "evaluate", flag, recipe=toy_home.make_recipe(changes), dataset="toy", home=finished
        )
        lists = load_tensors(made.path / "baselines" / "lists.safetensors")
        split = make_setting(finished).split
        for model, ranked in lists.items():
            repeats = 0
            for row, (user, end) in enumerate(zip(split.test.user, split.test.end, strict=True)):
                history = set(split.log.item[split.log.offsets[user] : end].tolist())
                repeats += len(history & set(ranked[row].tolist()))
            shown[flag, model] = repeats
        result = made.evaluate()
        assert result is not None
        assert result["seen_filtered"] is (flag == "true")
        assert set(result["models"]) == {"onerec", "popularity", "item_knn"}
    assert all((count == 0) == (flag == "true") for (flag, _), count in shown.items()), shown


def test_the_valid_part_can_be_asked_for(finished: Path) -> None:
    changes = {"evaluate.part": "valid", "baselines.names": "popularity", "train.steps": "5"}
    made = run("v", toy_home.make_recipe(changes), "toy", home=finished)
    result = made.evaluate()
    assert result is not None
    assert result["part"] == "valid"
    assert set(made.targets()["part"]) == {"valid"}


def test_without_baselines_onerec_stands_alone(finished: Path) -> None:
    changes = {"baselines.names": "", "train.steps": "5"}
    made = run("alone", toy_home.make_recipe(changes), "toy", home=finished)
    result = made.evaluate()
    assert result is not None
    assert set(result["models"]) == {"onerec"}
    assert set(made.recommendations()["model"]) == {"onerec"}


def test_a_part_without_users_is_refused_with_the_way_out(home: Path) -> None:
    setting = make_setting(home)
    none = Cases(*(np.zeros(0, dtype=np.int64),) * 2, np.zeros(1, dtype=np.int64), np.zeros(0, int))
    empty = replace(setting, split=replace(setting.split, test=none))
    with pytest.raises(DataError, match=r"'toy': the split 'leave_one_out' leaves no user"):
        cases_of(empty)


def test_a_split_that_leaves_no_user_makes_no_run(home: Path) -> None:
    log = pd.DataFrame(
        {"user_id": [1, 1, 1, 2, 2], "item_id": list("abcab"), "position": [1, 2, 3, 1, 2]}
    )
    log["like"] = [True, True, False, True, False]
    write_dataset(dataset_path("thin", home), "thin", log, None, None, source="test")
    with pytest.raises(DataError, match="no user has 3 positives"):
        run("x", toy_home.make_recipe(), "thin", home=home)
    assert not (home / "runs" / "x").exists()


def test_a_given_split_that_leaves_nothing_to_train_on_is_refused(home: Path) -> None:
    """Each user has one training row, and so no example and nobody to tune on."""
    random = np.random.default_rng(0)
    rows = [
        {"user_id": user, "item_id": int(item), "position": place, "split": part}
        for user in range(12)
        for place, (item, part) in enumerate(
            zip(random.permutation(9)[:3], ("train", "test", "test"), strict=True)
        )
    ]
    write_dataset(
        dataset_path("given", home), "given", pd.DataFrame(rows), None, None, source="test"
    )
    changes = {"evaluate.split": "given", "train.steps": "5", "baselines.sasrec_steps": "2"}
    with pytest.raises(DataError, match="no training target has a history"):
        run("x", toy_home.make_recipe(changes), "given", home=home)


def test_random_and_oracle_stand_beside_the_models_on_the_world(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ends:
        def random(self, users: np.ndarray, k: int, generator: object) -> np.ndarray:
            return np.tile(np.arange(k), (len(users), 1))

        def oracle(self, users: np.ndarray, k: int, ends: np.ndarray) -> np.ndarray:
            return np.tile(np.arange(k) + 1, (len(users), 1))

        def truth(
            self, users: np.ndarray, ends: np.ndarray, items: np.ndarray
        ) -> dict[str, np.ndarray]:
            return {"long_view": np.full(items.shape, 0.25)}

    for name in ("evaluate", "rivals"):
        module = importlib.import_module(f"onerec.pipeline.{name}")
        monkeypatch.setattr(module, "world_of", lambda dataset: Ends())
    changes = {"baselines.names": "popularity", "train.steps": "5"}
    made = run("w", toy_home.make_recipe(changes), "toy", home=finished)
    result = made.evaluate()
    assert result is not None
    assert set(result["models"]) == {"onerec", "popularity", "random", "oracle"}
    assert result["truth"]["random"] == {"long_view": 0.25}
    assert "reward" not in result  # this run has no reward model
    # The list that knows the truth is an end, not a rival: it is not what the app shows beside.
    assert set(made.recommendations()["model"]) == {"onerec", "popularity"}
