"""The benchmark runs, both sides give legal items, and its sums are right."""

import json

import pytest
import torch

from onerec.bench import generate
from onerec.explain.measured import RESULTS


def test_rate_counts_users():
    calls = []
    users_per_second = generate.rate(lambda users, beams: calls.append((users, beams)), 4, 7, 0.0)
    assert calls == [(4, 7)]
    assert users_per_second > 0


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
