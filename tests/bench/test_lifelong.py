"""The benchmark makes up histories that have interests, and counts right."""

import json
import mmap
import time

import pytest
import torch

from onerec.bench import lifelong


def test_histories_follow_interests_and_repeat():
    vectors, item, offsets = lifelong.histories(3, 500, items=400, dim=6, seed=1)
    assert vectors.shape == (400, 6)
    assert offsets.tolist() == [0, 500, 1_000, 1_500]
    users = item.view(3, 500)
    assert int(item.min()) >= 0
    assert int(item.max()) < 400
    for user in users:
        assert len(user.unique()) < 150  # of 400, had he no interests 285
    assert not users[0].equal(users[1])
    again = lifelong.histories(3, 500, items=400, dim=6, seed=1)
    assert again[1].equal(item)


def test_a_user_without_an_interest_in_any_item_draws_from_all():
    _, item, _ = lifelong.histories(40, 20, items=2, dim=3, seed=0)
    assert item.shape == (800,)


def test_the_rate_is_events_over_the_median_round(monkeypatch):
    ticks = iter([0.0, 9.0, 10.0, 12.0, 20.0, 21.0, 30.0, 34.0])  # 9 (not counted), 2, 1, 4
    monkeypatch.setattr(lifelong.time, "perf_counter", lambda: next(ticks))
    found = lifelong.measure(2, 300, items=100, dim=4, rounds=3, device="cpu")
    assert found["seconds"] == [2.0, 1.0, 4.0]
    assert found["events_per_minute"] == 60 * 600 / 2
    assert 1 <= found["positions"]["least"] <= found["positions"]["most"] <= 300


def test_peak_memory_of_the_process_is_what_the_block_takes():
    with lifelong.PeakMemory(torch.device("cpu")) as memory:
        held = mmap.mmap(-1, 2**26)  # 64 MiB that are new, whatever the heap has kept
        torch.frombuffer(held, dtype=torch.uint8).fill_(1)
        time.sleep(0.1)
    assert 50 < memory.bytes / 2**20 < 200


def test_the_command_prints_one_object_or_a_line(capsys, tmp_path):
    threads = torch.get_num_threads()
    out = tmp_path / "found.json"
    words = ["--events", "200", "--users", "2", "--items", "80", "--rounds", "1"]
    words += ["--threads", "1", "--device", "cpu"]
    lifelong.main([*words, "--json", "--out", str(out)])
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads(out.read_text())
    assert found["setting"]["events"] == 200
    assert "--users 2" in found["command"]
    lifelong.main(words)
    assert "events a minute" in capsys.readouterr().out
    torch.set_num_threads(threads)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_memory_on_a_gpu_is_bounded_by_the_chunk():
    small = lifelong.measure(64, 2_000, items=5_000, chunk=8_000, rounds=1, device="cuda")
    large = lifelong.measure(64, 2_000, items=5_000, chunk=128_000, rounds=1, device="cuda")
    assert small["peak_memory_mb"] < large["peak_memory_mb"]
