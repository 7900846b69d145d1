"""The table: its measurements by hand, and the whole on a small world."""

import numpy as np
import pytest

from onerec.bench import world
from onerec.world import WorldConfig
from onerec.world.response import BEHAVIOURS


def test_gini_by_hand():
    assert world.gini(np.array([3, 3, 3])) == 0.0
    assert world.gini(np.array([0, 0, 0, 12])) == 0.75
    assert abs(world.gini(np.array([1, 3])) - 0.25) < 1e-12


def test_marginals_by_hand():
    columns = {name: np.zeros(4, dtype=np.int8) for name in BEHAVIOURS}
    columns["click"] = np.array([1, 1, 1, 0])
    columns["long_view"] = np.array([1, 0, 0, 0])
    columns["like"] = np.array([0, 1, 0, -1])
    columns |= {"play_ms": np.array([1, 2, 3, 9]), "duration_ms": np.array([2, 2, 2, 0])}
    found = world.marginals(columns, np.array([0, 0, 0, 1]), 2)
    assert found["rate click"] == 0.75
    assert found["rate positive"] == 0.5
    assert found["played 0.5"] == 1.0
    assert found["share of top 10%"] == 0.75


def test_limits():
    ours = {"recall@10 popularity": 0.06, "recall@10 item_knn": 0.03}
    theirs = {"recall@10 popularity": 0.05, "recall@10 item_knn": 0.09}
    for name in ("click", "long_view", "like"):
        ours[f"auc {name}"], theirs[f"auc {name}"] = 0.75, 0.73
    fits = world.verdicts({"world": ours, "kuairand": theirs})
    assert fits.pop("recall@10 item_knn") is False
    assert all(fits.values())


def test_without_kuairand_the_column_is_left_out_and_said_so(monkeypatch, tmp_path):
    pytest.importorskip("lightgbm")
    monkeypatch.setenv("ONEREC_TEST_DATA", str(tmp_path))
    out = tmp_path / "world.json"
    config = WorldConfig(n_items=500, n_users=300)
    result = world.run(out=out, config=config, threads=1, large=False)
    table = world.markdown(result)
    assert out.is_file()
    assert result["kuairand"] is None
    assert "KuaiRand is left out" in table
    ours = result["world"]
    assert ours["recall@10 random"] < ours["recall@10 popularity"] < ours["recall@10 oracle"]
    assert 0.5 < ours["auc click"] < 1.0
