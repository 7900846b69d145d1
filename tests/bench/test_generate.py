"""The benchmark runs, both sides give legal items, and its sums are right."""

import json
from types import SimpleNamespace

import pytest
import torch

from onerec.bench import generate
from onerec.explain.measured import RESULTS


def test_rate_counts_users():
    calls = []
    users_per_second = generate.rate(lambda users, beams: calls.append((users, beams)), 4, 7, 0.0)
    assert calls == [(4, 7)]
    assert users_per_second > 0


def test_a_rate_is_users_by_seconds_until_the_last_batch_is_done(monkeypatch):
    """Two batches of 4 users, the second one done after 1.25 s: more than the second asked for."""
    clock = iter([10.0, 10.0, 10.75, 11.25])
    monkeypatch.setattr(generate, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert generate.rate(lambda users, beams: None, 4, 7, 1.0) == 8 / 1.25


def test_a_sweep_takes_the_best_of_three_turns_after_one_that_is_not_counted(monkeypatch):
    rates, order = iter([2.0, 5.0, 3.0, 7.0, 1.0, 4.0]), []

    def fake(search, users, beams, seconds):
        order.append((users, beams, seconds))
        return next(rates)

    monkeypatch.setattr(generate, "rate", fake)
    found = generate.sweep(lambda users, beams: order.append("warm"), [8, 16], 50, 1.5)
    assert found == {8: 5.0, 16: 7.0}
    assert order == ["warm", *[(8, 50, 0.5)] * 3, "warm", *[(16, 50, 0.5)] * 3]


def test_what_is_compared_is_the_median_over_the_turns(monkeypatch):
    """The ratio is that of the medians, 30 to 10; those of the rounds are beside it."""
    turns = {"onerec": iter([20.0, 30.0, 90.0]), "t5": iter([10.0, 5.0, 20.0])}
    monkeypatch.setattr(generate, "rate", lambda search, *_: next(turns[search]))
    monkeypatch.setattr(generate, "sweep", lambda *_: {1: 1.0})
    row = generate.compare({"onerec": "onerec", "t5": "t5"}, {"onerec": (), "t5": ()}, 50, 3, 0.1)
    assert (row["onerec_users_per_second"], row["t5_users_per_second"]) == (30.0, 10.0)
    assert row["ratio"] == 3.0
    assert row["ratio_of_rounds"] == [2.0, 4.5, 6.0]


def test_with_kept_memory_the_beam_asked_for_is_compared(monkeypatch):
    monkeypatch.setattr(generate, "keep_memory", lambda: None)
    monkeypatch.setattr(generate, "compare", lambda *asked: asked)
    assert generate._with_kept_memory({}, {}, 50, 3, 0.1) == [({}, {}, 50, 3, 0.1)]


def test_compare_runs_each_side_at_its_best_size_and_takes_turns(monkeypatch):
    speeds = {"onerec": {8: 10.0, 16: 30.0}, "t5": {2: 5.0, 4: 1.0}}
    order = []

    def fake(search, users, beams, seconds):
        order.append((search, users))
        return speeds[search][users]

    monkeypatch.setattr(generate, "rate", fake)
    monkeypatch.setattr(generate, "sweep", lambda search, sizes, beams, s: speeds[search])
    row = generate.compare({"onerec": "onerec", "t5": "t5"}, {"onerec": (), "t5": ()}, 50, 2, 0.1)
    assert order == [("onerec", 16), ("t5", 2)] * 2
    assert row["ratio"] == 6.0
    assert row["batch"] == {"onerec": 16, "t5": 2}


def test_a_small_run_is_complete_and_writes_its_file(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    threads = torch.get_num_threads()
    try:
        result = generate.run(
            beams=[10],
            rounds=1,
            seconds=0.0,
            threads=1,
            items=300,
            our_sizes=[2],
            peer_sizes=[1],
            asks=2,
        )
    finally:
        torch.set_num_threads(threads)
    ours, peer = result["parameters"].values()
    assert ours == pytest.approx(peer, rel=0.2)  # "the same size"
    assert result["results"][0]["ratio"] > 0
    assert (
        0 < result["one_user"]["milliseconds"]["p50"] <= result["one_user"]["milliseconds"]["p99"]
    )
    path = tmp_path / "result.json"
    generate.write(result, path)
    assert json.loads(path.read_text())["setting"]["items"] == 300
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


def test_results_are_strict_json(tmp_path):
    """The interval of one seed has no ends: null, which every reader of JSON knows."""
    path = tmp_path / "one.json"
    generate.write({"recall": {"mean": 0.1, "low": float("nan"), "by_seed": (float("inf"),)}}, path)
    found = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert found == {"recall": {"mean": 0.1, "low": None, "by_seed": [None]}}


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_what_is_shipped_is_strict_json(path):
    assert json.loads(path.read_text(), parse_constant=pytest.fail)
