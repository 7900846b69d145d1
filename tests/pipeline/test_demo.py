"""The shipped demo: whole, small, and able to answer after what only training needs is gone."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import toy_home
from safetensors.torch import load_file

from onerec.recommend import Recommender
from onerec.runs import open_run
from onerec.world import WorldConfig

demo = importlib.import_module("onerec.pipeline.demo")


def test_a_stripped_run_holds_its_weights_alone_and_answers_as_before(finished: Path) -> None:
    run = open_run("first", finished)
    before = Recommender.load(run).recommend(["u01", "u02"], k=5)
    demo._strip(run)
    assert run.checkpoints()["step"].tolist() == [toy_home.STEPS]
    saved = load_file(run.checkpoints()["path"][0])
    assert all(name.startswith("model.") for name in saved)
    after = Recommender.load(run).recommend(["u01", "u02"], k=5)
    assert np.array_equal(before["score"], after["score"])
    assert before["item_id"].tolist() == after["item_id"].tolist()


def fail(*_: object, **__: object) -> None:
    raise OSError("full")


def test_a_demo_is_made_beside_the_old_one_and_replaces_it_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "old").write_text("kept until the new one is whole")
    world = WorldConfig(n_items=500, n_users=60)
    small = toy_home.make_recipe({"baselines.names": "popularity"})
    monkeypatch.setattr(demo, "WorldConfig", lambda **_: world)
    monkeypatch.setattr(demo, "recipe", lambda *_: small)
    with monkeypatch.context() as patch:
        patch.setattr(demo, "make_world_dataset", fail)
        with pytest.raises(OSError, match="full"):
            demo.make_demo(folder)
    assert [p.name for p in tmp_path.rglob("*")] == ["demo", "old"]
    run = demo.make_demo(folder)
    assert run.status().state == "done"
    assert sorted(p.name for p in folder.iterdir()) == ["datasets", "runs"]
    assert {"random", "oracle"} < set((run.evaluate() or {})["models"])
    assert (folder / "datasets" / demo.DATASET / "images").is_dir()
