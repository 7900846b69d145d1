"""The benchmark of decoding: first distinct draws, and one small round."""

import json
from pathlib import Path

import pytest
import torch

from onerec.bench import decoding
from onerec.bench.decoding import first_distinct, main


def test_draws_become_lists_of_different_items_that_nobody_has_seen():
    drawn = torch.tensor([[4, 4, -1, 2, 9, 2, 7], [1, 1, 1, 1, 1, 1, 1]])
    seen = torch.tensor([[10, 0], [0, 0]])  # item 9; 0 is nobody
    assert first_distinct(drawn, seen, k=3).tolist() == [[4, 2, 7], [1, -1, -1]]
    assert first_distinct(drawn, None, k=3).tolist() == [[4, 2, 9], [1, -1, -1]]


def test_one_round_on_a_trained_run(trained: Path, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr(decoding, "DRAWS", 16)
    threads, out = torch.get_num_threads(), tmp_path / "decoding.json"
    words = ["--run", "first", "--home", str(trained), "--users", "4", "--beams", "2", "12"]
    assert main([*words, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "beam 12: recall@10" in said
    assert "bfloat16: overlap" in said
    told = json.loads(out.read_text())
    assert told["beams"]["12"]["hit@K"]["mean"] >= told["beams"]["2"]["hit@K"]["mean"]
    assert list(told["methods"]) == ["beam", "diverse", "sample", "top_p", "power"]
    assert told["methods"]["beam"]["items"] == pytest.approx(10)
    assert 0.5 < told["precision"]["rank_biased_overlap"]["mean"] <= 1
    assert told["paper"]["512"]["lvtr"] == 0.5351
    assert torch.get_num_threads() == threads
