"""Lists, targets, histories and metrics of a run."""

import json
import shutil
from pathlib import Path

import duckdb
import fake_run
import numpy as np
import pandas as pd
import pytest

from onerec.data.dataset import open_dataset
from onerec.data.split import make_split
from onerec.explain import dataset, serving
from onerec.runs import Run


def test_models_and_users(run: Run) -> None:
    assert serving.models(run) == ["onerec", "item_knn"]
    frame = serving.users(run)
    assert len(frame) == fake_run.USERS
    assert frame["hits_onerec"].is_monotonic_decreasing
    assert frame["hits_onerec"].sum() == fake_run.USERS / 2  # even users have their target
    assert (frame["targets"] == 1).all()
    assert len(serving.users(run, limit=3)) == 3


def test_leave_one_out_history_ends_before_the_target(run: Run, folder: Path) -> None:
    for user in range(fake_run.USERS):
        whole = dataset.user_history(folder, user)
        target = serving.targets(run, user)["item"].iloc[0]
        past = serving.history(run, user)
        row = int(np.flatnonzero(whole["item"] == target)[0])
        assert past["item"].tolist() == whole["item"][:row].tolist()
        assert not whole["positive"][row + 1 :].any(), "the target is the last positive"
    assert serving.history(run, 23, limit=3)["position"].iloc[-1] == len(
        serving.history(run, 23, 99)
    )


def with_rule(run: Run, home: Path, rule: str, part: str) -> Run:
    shutil.copytree(run.home, home)
    copy = Run(home / "runs" / run.name)
    evaluated = copy.evaluate() or {}
    (copy.path / "evaluate.json").write_text(json.dumps(evaluated | {"split": rule, "part": part}))
    return copy


def test_temporal_history_ends_at_one_cut_for_all(run: Run, tmp_path: Path) -> None:
    copy = with_rule(run, tmp_path / "h", "temporal", "test")
    log = pd.read_parquet(run.home / "datasets" / "toy" / "interactions.parquet")
    cut = np.sort(log["timestamp"])[int(len(log) * 0.9)]
    for user in (0, 11, 23):
        expected = log[(log["user"] == user) & (log["timestamp"] < cut)]
        assert serving.history(copy, user, 99)["item"].tolist() == expected["item"].tolist()


def test_leave_one_out_history_agrees_with_the_split_that_trained(run: Run, tmp_path: Path) -> None:
    """The shown history must be the one that the model was given: one rule, read twice."""
    opened = open_dataset(run.home / "datasets" / "toy")
    for rule in ("leave_one_out", "temporal"):
        cut = make_split(opened, rule)
        for part in ("valid", "test"):
            copy = with_rule(run, tmp_path / f"{rule}-{part}", rule, part)
            cases = getattr(cut, part)
            for user, end in list(zip(cases.user, cases.end, strict=True))[::5]:
                given = cut.log.item[cut.log.offsets[user] : end]
                assert serving.history(copy, int(user), 999)["item"].tolist() == given.tolist()


def test_given_history_is_by_the_split_column(run: Run, tmp_path: Path) -> None:
    copy = with_rule(run, tmp_path / "h", "given", "valid")
    path = copy.home / "datasets" / "toy" / "interactions.parquet"
    log = pd.read_parquet(path)
    place = log.groupby("user").cumcount()
    log["split"] = np.select([place < 3, place < 4], ["train", "valid"], "test")
    connection = duckdb.connect()
    connection.register("log", log)
    connection.execute(f"COPY (SELECT * FROM log) TO '{path}' (FORMAT parquet)")
    assert serving.history(copy, 5)["position"].tolist() == [1, 2, 3]
    assert dataset.summary(copy.home / "datasets" / "toy")["splits"]["valid"] == fake_run.USERS


def test_a_list_with_codes_scores_and_marks(run: Run) -> None:
    frame, ids = serving.recommendations(run, 2), run.semantic_ids()
    assert frame["rank"].tolist() == list(range(1, 11))
    assert frame.loc[frame["hit"], "rank"].tolist() == [3]  # user 2: rank 1 + 2 % 5
    first = frame.iloc[0]
    assert (
        first[["code_1", "code_2", "code_3"]].tolist()
        == ids.iloc[first["item"]].filter(like="code_").tolist()
    )
    past = set(serving.history(run, 2, 99)["item"])
    assert (frame["seen"] == frame["item"].isin(past)).all()
    assert frame[["lp_1", "lp_2", "lp_3"]].sum(axis=1).to_numpy() == pytest.approx(frame["score"])
    rival = serving.recommendations(run, 2, "item_knn", k=4)
    assert len(rival) == 4
    assert not [name for name in rival.columns if name.startswith("lp_")]
    assert serving.recommendations(run, 999).empty


def test_targets_say_who_found_them(run: Run) -> None:
    frame, lists = serving.targets(run, 4), run.recommendations(4)
    assert frame["found_by"][0].split(", ")[-1] == "onerec #5"  # 1 + 4 % 5
    assert frame["item_id"][0] == f"v{1000 + frame['item'][0]}"
    assert lists[lists["item"] == frame["item"][0]]["model"].isin(["onerec", "item_knn"]).all()
    assert serving.targets(run, 999).empty


def test_side_by_side_marks_hits(run: Run) -> None:
    table = serving.side_by_side(run, 2, k=5)
    assert list(table.columns) == ["rank", "onerec", "item_knn"]
    assert [text.startswith("✓ ") for text in table["onerec"]] == [False, False, True, False, False]
    assert list(serving.side_by_side(run, 2, ["item_knn"]).columns) == ["rank", "item_knn"]
    assert serving.side_by_side(run, 999).empty


def test_codes_add_up_to_the_score(run: Run) -> None:
    frame = serving.code_log_probs(run, 0, top=3)
    assert len(frame) == 3 * fake_run.LEVELS
    scores = serving.recommendations(run, 0, k=3)["score"]
    assert frame.groupby("rank")["log_prob"].sum().to_numpy() == pytest.approx(scores.to_numpy())
    assert frame["probability"].to_numpy() == pytest.approx(np.exp(frame["log_prob"]))
    assert serving.code_log_probs(run, 0, "item_knn").empty


def test_why_ranks_the_past_by_shared_codes_then_cosine(run: Run) -> None:
    frame = serving.why(run, 0, 23)
    assert set(frame["item"]) <= set(serving.history(run, 0)["item"])
    keys = list(zip(-frame["shared_prefix"], -frame["cosine"], strict=True))
    assert keys == sorted(keys)
    vectors = run.vectors()
    assert vectors is not None
    a, b = vectors[23], vectors[frame["item"][0]]
    assert frame["cosine"][0] == pytest.approx(
        a @ b / np.linalg.norm(a) / np.linalg.norm(b), rel=1e-5
    )


def test_metrics_are_those_of_evaluate_json(run: Run, tmp_path: Path) -> None:
    frame = serving.metrics(run).set_index(["model", "metric"])
    results = (run.evaluate() or {})["models"]
    assert frame.loc[("onerec", "recall@10"), "value"] == results["onerec"]["recall@10"]
    assert (
        frame.loc[("onerec", "recall@10"), ["low", "high"]].tolist()
        == results["onerec"]["recall@10_ci"]
    )
    assert np.isnan(frame.loc[("onerec", "ndcg@5"), "low"])
    assert serving.evaluation(run)["split"] == "leave_one_out"
    assert "models" not in serving.evaluation(run)
    both = serving.metrics_of([run, Run(tmp_path), run])
    assert len(both) == 2 * len(frame)


def test_without_the_dataset_items_keep_plain_names(run: Run, tmp_path: Path) -> None:
    alone = Run(shutil.copytree(run.path, tmp_path / "runs" / "alone"))
    assert alone.dataset_folder is None
    frame = serving.recommendations(alone, 2, k=2)
    assert frame["title"].tolist() == [f"item {item}" for item in frame["item"]]
    assert serving.history(alone, 2).empty


def test_before_anything_is_recommended_everything_is_empty(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert serving.models(run) == []
    for frame in (serving.users(run), serving.history(run, 0), serving.recommendations(run, 0)):
        assert frame.empty
    assert serving.why(run, 0, 0).empty
    assert serving.metrics(run).empty
    assert serving.evaluation(run) == {}


def test_what_lists_are_worth_to_the_reward_model_and_in_truth(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert serving.worth(run).empty
    truth = {"onerec": {"long_view": 0.5, "play_ms": 4_000.0}, "random": {"long_view": 0.1}}
    (tmp_path / "evaluate.json").write_text(
        json.dumps({"models": {}, "truth": truth, "reward": {"onerec": {"pscore": 0.2}}})
    )
    frame = serving.worth(run).set_index("model")
    assert list(frame.index) == ["onerec", "random"]
    assert frame.loc["onerec"].tolist() == [0.5, 4.0, 0.2]
    (tmp_path / "evaluate.json").write_text(
        json.dumps({"models": {}, "reward": {"a": {"pscore": 0.1}, "b": {"pscore": 0.2}}})
    )
    assert serving.worth(run).to_dict("list") == {"model": ["b", "a"], "p_score": [0.2, 0.1]}
