"""What the app looks at: lists of OneRec and of the best baseline, and what users really took."""

from pathlib import Path

import numpy as np
import toy_home

from onerec.assembly import Setting
from onerec.data.dataset import open_dataset
from onerec.pipeline import run
from onerec.pipeline.rivals import LISTED
from onerec.runs import open_run

COLUMNS = ["model", "user", "user_id", "rank", "item", "item_id", "score", "hit", "lp_1", "lp_2"]


def test_rows_are_ranked_named_and_scored(trained: Path) -> None:
    frame = open_run("first", trained).recommendations()
    dataset = open_dataset("toy", trained)
    assert list(frame.columns) == COLUMNS
    assert set(frame["model"]) == {"onerec", "item_knn"}  # the best of the baselines
    for (_, user), rows in frame.groupby(["model", "user"]):
        assert rows["rank"].tolist() == list(range(1, len(rows) + 1))
        assert len(rows) <= LISTED
        assert rows["item"].is_unique
        assert set(rows["user_id"]) == {dataset.users["user_id"][user]}
        assert rows["item_id"].tolist() == dataset.items["item_id"][rows["item"]].tolist()
    ours, theirs = (frame[frame["model"] == name] for name in ("onerec", "item_knn"))
    assert ours["score"].notna().all()
    assert np.allclose(ours["score"], ours["lp_1"] + ours["lp_2"], atol=1e-5)
    assert (ours.groupby("user")["score"].diff().dropna() <= 1e-6).all()
    assert theirs[["score", "lp_1", "lp_2"]].isna().all().all()  # NULL: it has no probabilities


def test_hits_are_the_targets_that_were_listed(trained: Path) -> None:
    finished = open_run("first", trained)
    frame, targets = finished.recommendations(), finished.targets()
    took = set(zip(targets["user"], targets["item"], strict=True))
    listed = list(zip(frame["user"], frame["item"], strict=True))
    assert frame["hit"].tolist() == [pair in took for pair in listed]
    assert frame["hit"].any()
    test = Setting.of(toy_home.make_recipe(), open_dataset("toy", trained)).split.test
    assert targets["user"].tolist() == test.user.tolist()  # leave-one-out: one target each
    assert targets["item"].tolist() == test.target_items.tolist()
    assert set(targets["part"]) == {"test"}


def test_recall_of_what_is_shown_is_what_evaluate_json_says(trained: Path) -> None:
    finished = open_run("first", trained)
    frame, result = finished.recommendations(), finished.evaluate()
    assert result is not None
    for model in ("onerec", "item_knn"):
        rows = frame[(frame["model"] == model) & (frame["rank"] <= 10)]
        recall = rows["hit"].sum() / result["targets"]
        assert recall == result["models"][model]["recall@10"]


def test_a_limit_keeps_every_so_manieth_user_with_his_own_lists(finished: Path) -> None:
    whole = open_run("first", finished).recommendations()
    few = run("few", toy_home.make_recipe({"evaluate.recommend_users": "7"}), "toy", home=finished)
    frame = few.recommendations()
    assert sorted(set(frame["user"])) == [0, 5, 11, 17, 22, 28, 34]
    assert set(few.targets()["user"]) == set(frame["user"])
    same = whole[whole["user"].isin(frame["user"])].reset_index(drop=True)
    keys = ["model", "user", "rank", "item", "hit"]
    assert frame[keys].equals(same[keys])
    assert (few.done("recommend") or {})["users"] == 7
