"""The cascade beside one model: what P-Score picks, operations by hand, and one small round."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import small_world
import torch

from onerec.baselines.two_tower import TwoTowerConfig
from onerec.bench import cascade, worth
from onerec.pipeline import run
from onerec.recipes import recipe
from onerec.rewards import FUSED
from onerec.world import WorldConfig


def test_operations_are_those_of_the_products():
    w, x = torch.randn(4, 3, requires_grad=True), torch.randn(5, 4)
    # 2 * 5 * 4 * 3 forward; backward the gradient of w alone
    assert cascade.operations(lambda: (x @ w).sum()) == 2 * (2 * 5 * 4 * 3)


def test_the_ranker_picks_the_best_and_never_nobody(monkeypatch):
    class Reward:
        def score(self, user, end, items):
            return {FUSED: torch.where(items >= 0, items.float(), 99.0)}

    lists = np.stack([np.arange(30), np.r_[np.arange(12), np.full(18, -1)]])
    monkeypatch.setattr(cascade, "AT_ONCE", 1)
    ten = cascade.picked(Reward(), _Cases(), lists)
    assert ten.tolist() == [list(range(29, 19, -1)), list(range(11, 1, -1))]


class _Cases:
    user = end = np.zeros(2, dtype=np.int64)


@pytest.mark.slow
def test_one_round_on_a_small_world(tmp_path, monkeypatch):
    changes = small_world.SETTINGS | {
        "train.steps": "6",
        "reward.steps": "5",
        "align.steps": "2",
        "evaluate.filter_seen": "true",
    }
    monkeypatch.setattr(worth, "SETTINGS", changes)
    worth.prepare(tmp_path, WorldConfig(n_items=600, n_users=150))
    stages = ("tokenize", "pretrain", "reward", "align")
    for seed in (0, 1):
        changed = recipe("small", {**changes, "seed": str(seed)})
        run(f"s{seed}", changed, worth.DATASET, home=tmp_path, stages=stages)
    monkeypatch.setattr(cascade, "CANDIDATES", 40)
    out = tmp_path / "cascade.json"
    words = ["--runs", "s0", "s1", "--home", str(tmp_path), "--users", "30", "--out", str(out)]
    words += ["--tower-batch", "32", "--tower-steps", "2"]
    cascade.main(words)
    found = json.loads(out.read_text())
    assert set(found["arms"]) == {
        f"{name}{ranked}"
        for name in ("two_tower", "onerec", "aligned")
        for ranked in ("", "_ranked")
    }
    assert len(found["differences"]) == len(cascade.PAIRS)
    for seed in found["seeds"]:
        assert seed["tower_steps"] == 2 < seed["tower_steps_of_equal_operations"]
        assert [step for step, _ in seed["tower_valid"]] == [1, 2]
        assert all(0 <= value <= 1 for _, value in seed["tower_valid"])
        assert len(seed["tower_trials"]) == 4
        assert seed["tower_batch"] == 32
        assert all(0 < arm["long_view"] < 1 for arm in seed["arms"].values())
    gap = found["differences"]["onerec_ranked - onerec"]["long_view"]
    by_hand = [
        seed["arms"]["onerec_ranked"]["long_view"] - seed["arms"]["onerec"]["long_view"]
        for seed in found["seeds"]
    ]
    assert gap["mean"] == pytest.approx(np.mean(by_hand), abs=1e-5)
    apart = []
    for name in ("s0", "s1"):
        apart.append(str(tmp_path / f"{name}.json"))
        part = {"commit": "c", "device": "cpu"}
        part |= {"seeds": [one for one in found["seeds"] if one["run"] == name]}
        Path(apart[-1]).write_text(json.dumps(part))
    again = tmp_path / "again.json"
    cascade.main(["--join", *apart, "--note", "said", "--out", str(again)])
    made = json.loads(again.read_text())
    assert made["differences"] == found["differences"]
    assert (made["note"], made["commit"]) == ("said", "c"), "of what was measured"


def test_the_towers_keep_their_best_checkpoint(monkeypatch):
    recalls = {2: 0.1, 4: 0.3, 6: 0.3, 8: 0.2}

    def fit(model, batches, counts, *, seed, after_step):
        for step in range(1, 9):
            torch.nn.init.constant_(model.weight, step)
            after_step(step)

    class Towers(cascade.Towers):
        def __init__(self):
            self.counts, self.setting = None, SimpleNamespace(recipe=SimpleNamespace(seed=0))

        def fresh(self, config):
            return torch.nn.Linear(1, 1, bias=False)

        def batches(self, steps):
            return None

        def recall(self, model, recommender):
            assert not model.training
            return recalls[int(model.weight)]

    monkeypatch.setattr(cascade, "fit", fit)
    model, found = Towers().trained(TwoTowerConfig(steps=8), None, checks=4)
    assert model.weight.item() == 4.0  # the first of two equal ones
    assert found == list(recalls.items())
