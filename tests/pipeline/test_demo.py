"""The shipped demo: whole, small, and able to answer after what only training needs is gone."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import toy_home
from safetensors.torch import load_file

from onerec.explain import item_map, quantisers
from onerec.recommend import Recommender
from onerec.runs import Run, open_run
from onerec.world import WorldConfig

ROOT = Path(__file__).resolve().parents[2]
demo = importlib.import_module("onerec.pipeline.demo")


def test_a_stripped_run_holds_its_weights_alone_and_answers_as_before(finished: Path) -> None:
    run = open_run("first", finished)
    (run.path / "cache" / "umap").mkdir(parents=True)
    (run.path / "cache" / "quantisers.json").write_text("{}")
    before = Recommender.load(run).recommend(["u01", "u02"], k=5)
    demo._strip(run)
    assert [path.name for path in run.path.glob("cache/*")] == ["quantisers.json"]
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
    kept: list[str] = []  # the two take minutes; what they write is tested beside them
    monkeypatch.setattr(demo, "make_map", lambda *_, **__: kept.append("map"))
    monkeypatch.setattr(demo, "compare_quantisers", lambda *_, **__: kept.append("quantisers"))
    run = demo.make_demo(folder)
    assert kept == ["map", "quantisers"]
    assert run.status().state == "done"
    assert sorted(p.name for p in folder.iterdir()) == ["datasets", "runs"]
    assert {"random", "oracle"} < set((run.evaluate() or {})["models"])
    assert (folder / "datasets" / demo.DATASET / "images").is_dir()


def test_the_shipped_run_has_its_map_and_its_comparison() -> None:
    """A map of other vectors would not be found: rebuild the demo as a whole."""
    run = Run(ROOT / "data" / "demo" / "runs" / demo.RUN)
    points, facts = item_map.umap(run)
    assert len(points) == facts["items"] == len(run.semantic_ids())
    told = quantisers.facts(run)
    report = run.report() or {}
    assert (told["items"], told["size"]) == (len(points), report["codebook_size"])
    assert set(quantisers.compared(run)["kind"]) == set(quantisers.KINDS)
