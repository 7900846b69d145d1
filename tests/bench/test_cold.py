"""Cold items: measures by hand, ranks as scoring each item gives them, and the whole command."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_home

from onerec.bench import cold
from onerec.data.sources.world import make_world_dataset
from onerec.model.sample import sequence_log_probs
from onerec.pipeline import run as run_stages
from onerec.recommend import Recommender
from onerec.runs import open_run
from onerec.world import WorldConfig


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a run on a small world, split by time."""
    home = tmp_path_factory.mktemp("cold")
    make_world_dataset("w", WorldConfig(n_items=500, n_users=120, mean_history=20), home)
    changes = {"evaluate.split": "temporal", "history.item_input": "codes"}
    recipe = toy_home.make_recipe(changes)
    run_stages("r", recipe, "w", home=home, stages=("tokenize", "pretrain"))
    return home


def test_measures_by_hand():
    ranks = np.array([[2, 0, 1, 3], [0, 1, 2, 3]])
    free = np.array([[True, False, True, True], [True, True, True, True]])
    targets = [np.array([0, 3]), np.array([1])]
    found = cold.measured(ranks, free, targets)
    assert found["rank"].tolist() == [(1 + 2) / 2 / 2, 1 / 3]  # item 2 stands before item 0
    assert found["recall@10"].tolist() == [1.0, 1.0]
    met = cold.measured(ranks[:1], free[:1], [np.array([1])])  # the target was met before
    assert np.isnan(met["rank"][0])
    assert cold.expected(np.ones((1, 40), dtype=bool))["recall@10"].tolist() == [0.25]


def test_ranks_are_those_of_scoring_every_item(world):
    recommender = Recommender.load(open_run("r", world))
    asked = cold.asked_of(recommender, "valid")
    ranks = cold.by_model(recommender, asked, np.arange(len(asked.items)))
    user, end = (torch.from_numpy(each[:3]) for each in (asked.cases.user, asked.cases.end))
    batch = recommender.contexts.batch(user, end)
    codes = torch.from_numpy(recommender.ids.codes[asked.items])
    with torch.no_grad():
        model = recommender.model.eval()
        scores = sequence_log_probs(model, batch, codes.expand(len(user), -1, -1)).sum(-1).numpy()
    ordered = np.take_along_axis(scores, np.argsort(ranks[: len(user)], axis=1), axis=1)
    assert (np.diff(ordered, axis=1) <= 1e-4).all()
    assert sorted(ranks[0]) == list(range(len(asked.items)))


def test_the_command_ranks_by_all_scorers(world, tmp_path, capsys):
    out = tmp_path / "cold.json"
    words = ["--runs", "r", "r", "--home", str(world), "--out", str(out)]
    assert cold.main(words) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(cold.SCORERS)
    found = json.loads(out.read_text())["results"]
    assert found["cases"] > 0
    assert found["model"]["rank"]["mean"] == pytest.approx(0.5, abs=0.5)
    assert found["chance"]["rank"]["mean"] == 0.5
    assert found["shuffled"]["model_less_recall@10"]["runs"]["mean"] is not None


def test_a_case_has_the_mean_of_its_runs():
    def part(own, other):
        values = {name: {m: np.array(v) for m in cold.MEASURES} for name, v in own.items()}
        return {"items": 9, "open": other, "values": values}

    one = {"model": [1.0, 0.0], "shuffled": [0.0, 0.0], "content": [1.0, 1.0], "chance": [0.5, 0.5]}
    two = {**one, "model": [0.0, 0.0]}
    found = cold.summary([part(one, 0.0), part(two, 0.5)])
    assert (found["cases"], found["open_recall@10"]) == (2, [0.0, 0.5])
    assert found["model"]["rank"]["mean"] == 0.25
    less = found["shuffled"]["model_less_rank"]
    half = 12.7062 * np.std([0.5, 0.0], ddof=1) / 2**0.5  # Student's t of two cases
    assert less["low"] == pytest.approx(0.25 - half, abs=1e-3)
    assert less["runs"]["mean"] == 0.25


def test_a_log_without_cold_items_is_refused(trained, capsys):
    assert cold.main(["--runs", "first", "--home", str(trained)]) == 2
    said = capsys.readouterr().err
    assert "valid has no target without a training row" in said
    assert said.count("\n") == 1
