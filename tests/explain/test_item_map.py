"""A kept map is found by its vectors, parameters and seed alone; neighbours are counted."""

import json
from pathlib import Path

import fake_run
import numpy as np
import pytest

from onerec.data.tables import write_parquet
from onerec.explain import item_map
from onerec.explain.item_map import MapConfig, drawn, map_file, map_key, neighbours_kept
from onerec.runs import Run


def keep(run: Run, xy: np.ndarray, config: MapConfig | None = None) -> Path:
    """What the worker writes."""
    vectors = run.vectors()
    assert vectors is not None
    path = map_file(run, vectors, config or MapConfig())
    items = np.arange(len(xy), dtype=np.int32)
    write_parquet(path, {"item": items, "x": xy[:, 0], "y": xy[:, 1]})
    facts = {"neighbours": 15, "min_dist": 0.1, "seed": 0, "kept": 0.5, "kept_pca": 0.25}
    path.with_suffix(".json").write_text(json.dumps(facts))
    return path


def test_without_a_map_there_is_an_empty_frame(run: Run, tmp_path: Path) -> None:
    points, facts = item_map.umap(run)
    assert points.empty
    assert {"x", "y", "code_1", "popularity"} <= set(points.columns)
    assert facts == {}
    assert item_map.umap(Run(tmp_path))[0].empty


def test_a_kept_map_comes_with_codes_and_titles(tmp_path: Path) -> None:
    run = Run(fake_run.build(tmp_path / "home").run)
    xy = np.random.default_rng(0).standard_normal((fake_run.ITEMS, 2))
    keep(run, xy)
    points, facts = item_map.umap(run)
    assert np.allclose(points[["x", "y"]], xy)
    assert points["code_2"].tolist() == run.semantic_ids()["code_2"].tolist()
    assert points["title"][5].endswith("clip 5")
    assert facts["kept"] == 0.5
    assert item_map.umap(run, seed=1)[0].empty, "a map of another seed is another map"


def test_a_map_without_its_facts_is_not_there_yet(run: Run) -> None:
    """A worker that was ended between the two files left a page that could not be opened."""
    path = keep(run, np.zeros((len(run.semantic_ids()), 2)))
    path.with_suffix(".json").unlink()
    points, facts = item_map.umap(run)
    assert points.empty
    assert facts == {}


def test_a_key_stands_for_vectors_parameters_and_seed() -> None:
    x = np.ones((4, 2), dtype=np.float32)
    others = [
        map_key(x + 1, MapConfig()),
        map_key(x.reshape(2, 4), MapConfig()),
        map_key(x, MapConfig(neighbours=5)),
        map_key(x, MapConfig(min_dist=0.2)),
        map_key(x, MapConfig(seed=1)),
    ]
    assert len({map_key(x, MapConfig()), *others}) == 6
    assert map_key(x, MapConfig()) == map_key(x.astype(np.float64), MapConfig())
    with pytest.raises(ValueError, match="neighbours=1"):
        MapConfig(neighbours=1)


def test_neighbours_kept_against_slow_sorting() -> None:
    random = np.random.default_rng(0)
    x, place = random.standard_normal((30, 4)), random.standard_normal((30, 2))
    assert neighbours_kept(x, x) == neighbours_kept(x, 5 - 3 * x) == 1
    slow = []
    for item in range(30):
        near = []
        for v in (x, place):
            distance = np.linalg.norm(v - v[item], axis=1)
            near.append(set(np.argsort(distance)[1:11].tolist()))
        slow.append(len(near[0] & near[1]) / 10)
    assert neighbours_kept(x, place) == pytest.approx(np.mean(slow))
    tenth = neighbours_kept(x, place, sample=3)
    assert tenth == pytest.approx(np.mean(slow[::10]))


def test_a_few_items_have_as_many_neighbours_as_there_are_others() -> None:
    x = np.random.default_rng(0).standard_normal((5, 3))
    assert neighbours_kept(x, x) == neighbours_kept(x, -x[::-1]) == 1
    assert neighbours_kept(x[:2], x[:2]) == 1


def test_a_large_catalogue_is_drawn_by_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert drawn(5, 0).tolist() == [0, 1, 2, 3, 4]
    monkeypatch.setattr(item_map, "LIMIT", 3)
    one = drawn(10, 0)
    assert len(one) == 3
    assert (np.diff(one) > 0).all()
    assert one.tolist() == drawn(10, 0).tolist() != drawn(10, 1).tolist()
