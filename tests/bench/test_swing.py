"""The benchmark makes up a log with heads and tails, and counts right."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from onerec.bench import swing


def test_a_log_has_users_together_and_a_few_items_everywhere() -> None:
    user, item = swing.log_of(20_000, 500, items=300, seed=2)
    assert (np.diff(user) >= 0).all()
    assert 0 <= item.min() <= item.max() < 300
    shares = np.sort(np.bincount(item, minlength=300))[::-1] / len(item)
    ranks = 1 / (np.arange(300) + swing.HEAD)
    assert np.abs(shares - ranks / ranks.sum()).max() < 0.005
    sizes = np.bincount(user, minlength=500)
    assert sizes.max() > 5 * np.median(sizes)
    assert np.array_equal(swing.log_of(20_000, 500, 300, 2), (user, item))


def test_seconds_are_medians_and_the_rate_counts_both_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ticks = iter([0.0, 5.0, 6.0, 10.0, 12.0, 16.0, 20.0, 23.0, 25.0])  # swing 5 2 3, pairs 1 4 2
    monkeypatch.setattr("onerec.bench.swing.time.perf_counter", lambda: next(ticks))
    found = swing.measure(3_000, 90, 70, rounds=3)
    assert found["seconds"] == {"swing": 3.0, "pairs": 2.0}
    assert found["rows_per_minute"] == 60 * 3_000 / 5
    assert found["counts"]["cells"] <= 3_000
    assert 0 < found["pairs"]["user_to_item"] <= 3_000


def test_the_command_prints_one_object_or_a_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    threads = torch.get_num_threads()
    out = tmp_path / "found.json"
    words = ["--rows", "600", "--users", "40", "--items", "30", "--rounds", "1", "--threads", "1"]
    swing.main([*words, "--json", "--out", str(out)])
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads(out.read_text())
    assert "--rows 600" in found["command"]
    swing.main(words)
    assert "rows a minute" in capsys.readouterr().out
    torch.set_num_threads(threads)
