"""Lists ordered anew by hand, and one small round."""

import json

import numpy as np
import pytest
import small_world

from onerec.bench import frontier, worth
from onerec.lists import Lists
from onerec.world import WorldConfig


def lists(items, scores):
    items = np.array(items)
    shape = (*items.shape, 1)
    return Lists(items, np.array(scores, np.float32), np.zeros(shape), np.ones(items.shape, bool))


def test_the_order_by_hand():
    """log p -1, -2, -3 with rewards e^-4, e^-2, 1: at gamma 1 it is turned round."""
    found = lists([[7, 8, 9, -1]], [[-1.0, -2.0, -3.0, 0.0]])
    reward = np.exp([[-4.0, -2.0, 0.0, 0.0]])
    assert frontier.first(found, reward, 0.0, 4).tolist() == [[0, 1, 2, 3]]
    assert frontier.first(found, reward, 1.0, 4).tolist() == [[2, 1, 0, 3]]
    assert frontier.first(found, reward, 0.4, 2).tolist() == [[0, 1]]  # -2.6, -2.8, -3
    truth = np.array([[0.1, 0.2, 0.3, 0.9]])
    assert frontier.heads(found, truth, reward, 0.0).tolist() == pytest.approx([0.15])


def test_rank_correlation_by_hand():
    a = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    b = np.array([[0.1, 0.5, 0.9], [0.9, 0.5, 0.1]])
    assert frontier.rank_correlation(a[:1], b[:1]) == pytest.approx(1.0)
    assert frontier.rank_correlation(a, b) == pytest.approx(0.0)


@pytest.mark.slow
def test_a_round_on_a_small_world(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(worth, "SETTINGS", small_world.SETTINGS)
    monkeypatch.setattr(worth, "TEST_USERS", 20)
    monkeypatch.setattr(worth, "RECALL_USERS", 30)
    monkeypatch.setattr(frontier, "GAMMAS", (0.0, 4.0))
    worth.prepare(tmp_path, WorldConfig(n_items=600, n_users=150), steps=3)
    frontier.main(["--home", str(tmp_path), "--out", str(tmp_path / "f.json")])
    told = json.loads((tmp_path / "f.json").read_text())
    rows = {(row["reward"], row["gamma"]): row for row in told["rows"]}
    assert len(rows) == 6
    assert rows["long_view", 0.0]["gain"]["mean"] == 0
    assert rows["truth", 4.0]["gain"]["mean"] > 0  # the truth orders by itself
    assert rows["truth", 4.0]["long_view"] < told["oracle"]
    assert rows["long_view", 0.0]["test_recall@10"] == rows["pscore", 0.0]["test_recall@10"]
    assert "valid_recall@10" not in rows["truth", 0.0]
    assert "headroom" in capsys.readouterr().out
