"""The GPU's rows: recipes that exist, refusals in a line, and the peer's dict of prefixes."""

import argparse
import json

import pytest
import torch

from onerec.bench import generate_gpu
from onerec.bench.generate import prefix_function
from onerec.bench.generate_gpu import ROWS, options, run, told
from onerec.errors import RecipeError
from onerec.recipes import recipe


def test_rows_are_of_the_positions_that_they_name():
    for row in ROWS.values():
        history = recipe(row.recipe, row.changes).history
        events = history.short_length + history.positive_length
        queries = history.lifelong_queries if history.lifelong_length else 0
        assert events + queries == row.positions - (row.positions > 60)  # and the static state


def test_what_cannot_be_measured_is_refused(monkeypatch):
    with pytest.raises(RecipeError, match=r"no row 'tigre' \(did you mean 'tiger'\?\)"):
        run(["tigre"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RecipeError, match="on a GPU, and none is visible here"):
        run(["tiger"])


def test_a_prefix_leads_to_its_items_codes_alone():
    after = prefix_function(torch.tensor([[1, 5], [1, 4], [2, 4]]))
    start = 0
    assert after(0, torch.tensor([start])) == [1, 2]
    assert after(0, torch.tensor([start, 1])) == [4, 5]
    assert after(0, torch.tensor([start, 2])) == [4]


def test_a_line_for_each_batch_and_the_file(monkeypatch, tmp_path, capsys):
    row = {"results": [{"users": 8, "users_per_second": 1234.5, "mfu": 0.4}]}
    row |= {"t5": {"constrained_users_per_second": 2.5}}
    monkeypatch.setattr(generate_gpu, "run", lambda *_: {"results": {"tiger": row}})
    parser = argparse.ArgumentParser()
    options(parser)
    chosen = parser.parse_args(["--only", "tiger"])
    chosen.json, chosen.rounds = False, 3
    out = tmp_path / "out.json"
    assert told(chosen, out, []) == 0
    said = capsys.readouterr().out
    assert "1,234.5 users a second at 8, MFU 0.4; T5 with a constraint 2.5" in said
    assert json.loads(out.read_text())["results"]["tiger"] == row
