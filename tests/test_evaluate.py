"""The one path: numbers by hand, and the promises that make models comparable."""

import json
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from onerec import evaluate as ev

CASES = SimpleNamespace(
    user=np.array([3, 8]), target_offsets=np.array([0, 1, 3]), target_items=np.array([7, 1, 2])
)


def first(*items):
    """Lists of ten that begin with the given items and go on with nothing."""
    return np.array([[item] + [-1] * 9 for item in items])


def test_by_hand():
    result = ev.evaluate({"onerec": first(7, 1), "popularity": first(7, 7)}, CASES, 10)
    ours = result["models"]["onerec"]
    assert ours["recall@5"] == ours["recall@10"] == 0.75
    assert ours["hit@10"] == 1.0
    assert ours["ndcg@10"] == pytest.approx((1 + 1 / (1 + 1 / np.log2(3))) / 2)
    assert ours["coverage@10"] == 0.2
    low, high = ours["recall@10_ci"]
    assert (low, high) == (0.5, 1.0)
    difference = result["differences"]["popularity"]["recall@10"]
    assert difference["mean"] == 0.25
    assert difference["ci"] == [0.0, 0.5]


def test_names_of_the_file_format():
    result = ev.evaluate({"onerec": first(7, 1)}, CASES, 10)
    assert set(result["models"]["onerec"]) == {
        "recall@5", "recall@10", "ndcg@5", "ndcg@10", "hit@5", "hit@10",
        "coverage@10", "recall@10_ci",
    }  # fmt: skip
    assert json.loads(json.dumps(result)) == result


def test_a_cutoff_of_five_stops_at_five():
    ranked = np.arange(20).reshape(2, 10)
    cases = SimpleNamespace(
        user=np.arange(2), target_offsets=np.arange(3), target_items=np.array([4, 15])
    )
    measured = ev.evaluate({"onerec": ranked}, cases, 20)["models"]["onerec"]
    assert (measured["recall@5"], measured["recall@10"]) == (0.5, 1.0)


def test_extra_lists_take_the_same_path():
    def oracle(users, k):
        assert users.tolist() == [3, 8]
        assert k == 10
        return first(7, 2)

    result = ev.evaluate({"onerec": first(7, 1)}, CASES, 10, extra={"oracle": oracle})
    assert result["models"]["oracle"]["recall@10"] == 0.75
    assert "oracle" in result["differences"]


def test_another_model_moves_no_number():
    rng = np.random.default_rng(0)
    cases = SimpleNamespace(
        user=np.arange(50), target_offsets=np.arange(51), target_items=rng.integers(0, 30, 50)
    )
    lists = {name: np.argsort(rng.random((50, 30)))[:, :10] for name in ("onerec", "a", "b")}
    alone = ev.evaluate({name: lists[name] for name in ("onerec", "b")}, cases, 30)
    together = ev.evaluate(lists, cases, 30)
    assert together["models"]["b"] == alone["models"]["b"]
    assert together["differences"]["b"] == alone["differences"]["b"]


def test_the_model_with_bad_lists_is_named():
    with pytest.raises(ValueError, match="lists of sasrec: k = 5, but the lists have 3 ranks"):
        ev.evaluate({"sasrec": np.array([[1, 2, 3]] * 2)}, CASES, 10)
    with pytest.raises(ValueError, match="item 12 in a catalogue of 10"):
        ev.evaluate({"sasrec": first(12, 1)}, CASES, 10)


@dataclass(frozen=True)
class Setting:
    item: int


class Always:
    name = "always"

    def __init__(self, item):
        self.item = item

    def recommend(self, split, cases, k, exclude_seen=False):
        return first(*[self.item] * len(cases.user))


def tuned(items, **more):
    split = SimpleNamespace(valid=CASES)
    return ev.tune([Setting(i) for i in items], lambda c: Always(c.item), split, **more)


def test_tune_keeps_the_best_and_records_all():
    chosen = tuned([0, 1, 7, 2])
    assert (chosen.config, chosen.model.item) == (Setting(7), 7)
    assert [trial["recall@10"] for trial in chosen.trials] == [0.0, 0.25, 0.5, 0.25]
    assert [trial["config"] for trial in chosen.trials] == [{"item": i} for i in (0, 1, 7, 2)]
    assert all(trial["seconds"] >= 0 for trial in chosen.trials)


def test_tune_tries_as_many_as_asked_and_prefers_the_earlier():
    chosen = tuned([1, 2, 7], trials=2)
    assert chosen.config == Setting(1)
    assert len(chosen.trials) == 2


@pytest.mark.parametrize("trials", [0, 3])
def test_tune_refuses_uneven_effort(trials):
    with pytest.raises(ValueError, match=f"{trials} trials of a grid of 2"):
        tuned([1, 2], trials=trials)


def test_tune_refuses_unknown_parts():
    with pytest.raises(ValueError, match="choose valid or test"):
        tuned([1], part="train")


def test_without_a_case_the_default_stands_and_nothing_is_measured():
    """Recall over no case was NaN, which a run's JSON refuses: evaluation ended in a traceback."""
    nobody = SimpleNamespace(
        user=np.empty(0, int), target_offsets=np.array([0]), target_items=np.empty(0, int)
    )
    fitted = []
    chosen = ev.tune(
        [Setting(1), Setting(7)],
        lambda c: (fitted.append(c.item), Always(c.item))[1],
        SimpleNamespace(valid=nobody),
    )
    assert (chosen.config, chosen.model.item, fitted) == (Setting(1), 1, [1])
    assert [set(trial) for trial in chosen.trials] == [{"config", "seconds"}]
