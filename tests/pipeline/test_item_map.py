"""The worker's map: made once (here by a stand-in), kept by vectors, parameters and seed."""

import sys
import types
from pathlib import Path

import numpy as np
import pytest

from onerec.errors import RunError
from onerec.explain import item_map as explain
from onerec.explain.item_map import MapConfig
from onerec.explain.tokens import principal_components
from onerec.pipeline.item_map import make_map
from onerec.run_writer import RunWriter
from onerec.runs import Run

calls: list[dict[str, object]] = []


class FirstTwo:
    """Compiling the real one takes a minute: this one keeps the first two columns."""

    def __init__(self, **settings: object) -> None:
        calls.append(settings)

    def fit_transform(self, x: np.ndarray) -> np.ndarray:
        return x[:, :2]


@pytest.fixture(autouse=True)
def umap_stub(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("umap")
    module.UMAP = FirstTwo  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "umap", module)
    calls.clear()


def test_the_map_is_kept_and_read(finished: Path) -> None:
    told: list[tuple[str, int, int]] = []
    facts = make_map("first", finished, report=lambda *said: told.append(said[:3]))
    assert told == [("umap", step, 3) for step in range(4)]
    run = Run(finished / "runs" / "first")
    points, read = explain.umap(run)
    vectors = run.vectors()
    assert vectors is not None
    assert read == facts
    assert np.allclose(points[["x", "y"]], vectors[:, :2])
    assert (points["item"] == np.arange(len(vectors))).all()
    assert facts["kept"] == explain.neighbours_kept(vectors, vectors[:, :2])
    assert Run(run.path / "cache" / "umap").status().state == "done"
    assert calls[0]["random_state"] == 0
    assert calls[0]["n_jobs"] == 1


def test_what_is_there_is_not_made_again_and_another_seed_is(finished: Path) -> None:
    make_map("first", finished)
    make_map("first", finished)
    assert len(calls) == 1
    make_map("first", finished, MapConfig(neighbours=5, seed=3))
    assert [call["n_neighbors"] for call in calls] == [15, 5]
    run = Run(finished / "runs" / "first")
    assert explain.umap(run, neighbours=5, seed=3)[1]["seed"] == 3
    assert explain.umap(run, seed=9)[0].empty


def test_the_facts_tell_the_map_of_principal_components_beside_it(finished: Path) -> None:
    facts = make_map("first", finished, MapConfig(seed=3))
    vectors = Run(finished / "runs" / "first").vectors()
    assert vectors is not None
    pca, _ = principal_components(vectors)
    assert facts["kept_pca"] == explain.neighbours_kept(vectors, pca) != facts["kept"]
    assert calls[0]["random_state"] == facts["seed"] == 3


def test_a_map_needs_four_items(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    monkeypatch.setattr(Run, "vectors", lambda self: vectors[:3])
    with pytest.raises(RunError, match="'first' has 3 items; a map needs at least 4"):
        make_map("first", finished)
    monkeypatch.setattr(Run, "vectors", lambda self: vectors)
    assert make_map("first", finished)["items"] == 4


def test_what_has_no_map_is_refused(finished: Path) -> None:
    with pytest.raises(RunError, match="no run 'gone'"):
        make_map("gone", finished)
    run = Run(finished / "runs" / "first")
    with (
        RunWriter.claim(run.path / "cache" / "umap", {"name": "umap"}),
        pytest.raises(RunError, match="is held by process"),
    ):
        make_map("first", finished)
    (run.path / "tokenizer" / "vectors.safetensors").unlink()
    with pytest.raises(RunError, match="no vectors"):
        make_map("first", finished)
