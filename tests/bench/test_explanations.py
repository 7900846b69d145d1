"""The benchmark of explanations: its numbers by hand, and one small round."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from onerec.bench import explanations
from onerec.bench.explanations import CURVES, RIVALS, correlations, lost, main, summary
from onerec.explanation import Explanation, explain
from onerec.pipeline.pretrain import sample_cases
from onerec.recommend import Recommender

NOTHING = pd.DataFrame()


def found(effect, looked, read=None, curves=None):
    n = len(effect)
    events = pd.DataFrame(
        {
            "event": np.arange(n),
            "read": [True] * n if read is None else read,
            "leave_one_out": effect,
            "attention": looked,
            "gradient": -np.array(effect),
        }
    )
    return Explanation(0, 0.0, events, {}, NOTHING if curves is None else curves, NOTHING, NOTHING)


def test_ranks_are_compared_among_the_events_that_the_model_reads():
    one = found([9.0, 1.0, 2.0, 3.0], [0.0, 0.1, 0.3, 0.2], read=[False, True, True, True])
    told = correlations(one)
    assert told["attention"] == pytest.approx(0.5)  # 1 2 3 against 1 3 2
    assert told["gradient"] == pytest.approx(-1.0)
    assert told["recent"] == pytest.approx(1.0)


def test_what_cannot_be_ranked_is_no_number():
    short = correlations(found([1.0, 2.0], [0.1, 0.2]))
    assert all(np.isnan(value) for value in short.values())
    even = correlations(found([1.0, 2.0, 3.0], [0.3, 0.3, 0.3]))
    assert np.isnan(even["attention"])
    assert even["gradient"] == pytest.approx(-1.0)


def test_a_curve_of_a_short_history_keeps_its_last_value():
    rows = [("random", 0, -1.0), ("random", 1, -1.5), ("recent", 0, -1.0), ("recent", 1, -3.0)]
    curves = pd.DataFrame(rows, columns=["method", "deleted", "log_prob"])
    nats = lost(found([1.0], [1.0], curves=curves), most=3)
    assert nats["random"].tolist() == [0.0, 0.5, 0.5, 0.5]
    assert nats["recent"].tolist() == [0.0, 2.0, 2.0, 2.0]


def test_means_and_differences_over_users():
    curves = [
        {
            name: np.array([0.0, a, b])
            for name, (a, b) in {
                "leave_one_out": (4.0, 6.0),
                "attention": (2.0, 4.0),
                "gradient": (1.0, 1.0),
                "recent": (1.0, 3.0),
                "random": (0.0, 2.0),
            }.items()
        }
    ] * 2
    ranks = [
        {"attention": 0.5, "gradient": float("nan"), "recent": 0.0},
        {"attention": 0.1, "gradient": 0.3, "recent": 0.2},
    ]
    told = summary(ranks, curves, most=2)
    assert told["rank_correlation"]["attention"]["mean"] == pytest.approx(0.3)
    assert told["rank_correlation"]["gradient"]["users"] == 1
    assert told["deleted"]["attention"]["area"]["mean"] == 3.0
    assert set(told["deleted"]["attention"]) == {"area", "1"}
    assert told["over"]["random"]["attention"]["mean"] == 2.0
    assert told["over"]["recent"]["gradient"]["mean"] == -1.0


def test_depths_are_told_up_to_the_last_one_deleted():
    curves = [{name: np.arange(6.0) for name in CURVES}] * 2
    told = summary([dict.fromkeys(RIVALS, 0.5)] * 2, curves, most=5)["deleted"]["recent"]
    assert {key: one["mean"] for key, one in told.items()} == {"area": 3.0, "1": 1.0, "5": 5.0}


def test_what_is_explained_is_each_users_first_item_for_what_came_before(
    trained: Path, monkeypatch: pytest.MonkeyPatch
):
    asked, read = [], []

    def noted(recommender, history, item, *, most):
        table = explain(recommender, history, item, most=most)
        asked.append((history.item.tolist(), item))
        read.append(int(table.events["read"].sum()))
        return table

    monkeypatch.setattr(explanations, "explain", noted)
    threads = torch.get_num_threads()
    try:
        told = explanations.run("first", home=trained, users=6, most=2)
    finally:
        torch.set_num_threads(threads)
    recommender = Recommender.load("first", trained, device="cpu")
    cases, log = sample_cases(recommender.setting.split.test, 6), recommender.setting.split.log
    first = recommender.lists(cases, 1).items[:, 0].tolist()
    before = [
        log.item[log.offsets[user] : end].tolist()
        for user, end in zip(cases.user, cases.end, strict=True)
    ]
    assert asked == list(zip(before, first, strict=True))
    assert sum(read) < sum(map(len, before))  # some of it is too old
    assert told["events_read"] == pytest.approx(np.mean(read), abs=0.05)


def test_one_round_on_a_trained_run(trained: Path, tmp_path: Path, capsys):
    out = tmp_path / "explanations.json"
    words = ["--run", "first", "--home", str(trained), "--users", "3", "--most", "4"]
    assert main([*words, "--out", str(out)]) == 0
    assert "attention: rank correlation with leave-one-out" in capsys.readouterr().out
    told = json.loads(out.read_text())
    assert told["users"] == 3
    # Of the curve's area nothing is certain (events act together, the model is hardly trained). The
    # first deletion is: leave-one-out takes the event that costs most.
    first = {name: curve["1"]["mean"] for name, curve in told["deleted"].items()}
    assert first["leave_one_out"] >= max(first.values()) - 1e-3
    assert told["events_read"] > 1
