"""Cold items: measures by hand, ranks as scoring each item gives them, and the whole command."""

import json
from pathlib import Path
from types import SimpleNamespace

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


@pytest.mark.parametrize("dealt", [False, True])
def test_ranks_are_those_of_scoring_every_item(world, dealt):
    """Of codes that were dealt out too: an item is ranked by those it was given."""
    recommender = Recommender.load(open_run("r", world))
    asked = cold.asked_of(recommender, "valid")
    order = np.arange(len(asked.items))
    order = np.roll(order, 1) if dealt else order
    ranks = cold.by_model(recommender, asked, order)
    user, end = (torch.from_numpy(each[:3]) for each in (asked.cases.user, asked.cases.end))
    batch = recommender.contexts.batch(user, end)
    codes = torch.from_numpy(recommender.ids.codes[asked.items[order]])
    with torch.no_grad():
        model = recommender.model.eval()
        scores = sequence_log_probs(model, batch, codes.expand(len(user), -1, -1)).sum(-1).numpy()
    ordered = np.take_along_axis(scores, np.argsort(ranks[: len(user)], axis=1), axis=1)
    assert (np.diff(ordered, axis=1) <= 1e-4).all()
    assert sorted(ranks[0]) == list(range(len(asked.items)))


def test_cold_items_are_those_that_may_not_be_fitted_on(world):
    recommender = Recommender.load(open_run("r", world))
    split, asked = recommender.setting.split, cold.asked_of(recommender, "valid")
    assert not split.fit_items[asked.items].any()
    assert len(asked.items) == (~split.fit_items).sum() > 0
    assert (np.concatenate(asked.targets) < len(asked.items)).all()


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


def test_the_first_ten_of_what_is_free_are_hits():
    """Of 13 items the first was met: places 9 and 10 among the free ones are 10 and 11 of all."""
    free = np.arange(13)[None] > 0
    for target, recall in ((10, 1.0), (11, 0.0)):
        found = cold.measured(np.arange(13)[None], free, [np.array([0, target])])
        assert found["recall@10"].tolist() == [recall]
        assert found["rank"].tolist() == [pytest.approx((target - 1) / 11)]
    chance = cold.expected(np.arange(40)[None] < np.array([[40], [20], [5]]))
    assert chance["recall@10"].tolist() == [0.25, 0.5, 1.0]


@pytest.fixture
def asked_once():
    """A user took items 0 to 4, the third without success; the last is beyond the case's end."""
    log = SimpleNamespace(
        offsets=np.array([0, 5]),
        item=np.array([0, 1, 2, 3, 4]),
        positive=np.array([True, True, False, True, True]),
    )
    cases = SimpleNamespace(user=np.array([0]), end=np.array([4]))
    recommender = SimpleNamespace(setting=SimpleNamespace(split=SimpleNamespace(log=log)))
    return recommender, cases


def test_content_ranks_by_the_cosine_with_the_last_positives(asked_once, monkeypatch):
    """The last two are items 1 and 3, which both point up; 0 and 2 point to the right."""
    monkeypatch.setattr(cold, "LAST", 2)
    recommender, cases = asked_once
    places = [[5, 0], [0, 2], [1, 0], [0, 1], [9, 0], [1, 0], [0, 3], [1, 1]]
    asked = cold.Asked(cases, np.array([5, 6, 7]), [])
    ranks = cold.by_content(recommender, asked, np.array(places, dtype=float))
    assert ranks.tolist() == [[2, 0, 1]]


def test_what_was_met_before_the_case_is_not_free(asked_once):
    recommender, cases = asked_once
    asked = cold.Asked(cases, np.array([2, 3, 4, 5]), [])
    assert cold.unmet(recommender, asked).tolist() == [[False, False, True, True]]


def test_an_interval_over_runs_is_of_the_means_of_runs():
    zeros = {m: np.zeros(3) for m in cold.MEASURES}
    parts = []
    for first in (1.0, 0.0):
        model = {m: np.array([first, 0.0, 0.0]) for m in cold.MEASURES}
        values = dict.fromkeys(cold.SCORERS, zeros) | {"model": model}
        parts.append({"items": 9, "open": 0.0, "values": values})
    less = cold.summary(parts)["chance"]["model_less_rank"]
    half = 12.7062 * np.std([1 / 3, 0.0], ddof=1) / 2**0.5  # Student's t of two runs
    assert less["runs"]["mean"] == pytest.approx(1 / 6, abs=1e-4)
    assert less["runs"]["high"] == pytest.approx(1 / 6 + half, abs=1e-3)


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
