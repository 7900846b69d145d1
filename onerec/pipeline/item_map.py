"""A map of a run's items by UMAP (McInnes et al. 2018), kept in the run's cache.

    onerec map --run RUN [--neighbours 15 --min-dist 0.1 --seed 0]

UMAP compiles itself for a minute in each process: it is made once, by a process of its own, and
kept as Parquet by the hash of vectors, parameters and seed (`onerec.explain.item_map` reads it).
The vectors are those that were quantised, not their codes.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from onerec.data.tables import write_parquet
from onerec.errors import RunError
from onerec.explain.item_map import MapConfig, drawn, map_file, neighbours_kept
from onerec.explain.tokens import principal_components
from onerec.pipeline.session import Report, quiet
from onerec.run_files import read_json, write_json
from onerec.run_writer import RunWriter
from onerec.runs import open_run

STAGE = "umap"
STEPS = 3


def make_map(
    name: str,
    home: Path | None = None,
    config: MapConfig | None = None,
    report: Report = quiet,
) -> dict[str, Any]:
    """Make the map unless it is there, and return its facts (see `explain.item_map.umap`).

    Raises:
        RunError: no such run, it has no vectors or fewer than 4 items, or another process is at it.
    """
    config = config or MapConfig()
    run = open_run(name, home)
    vectors = run.vectors()
    if vectors is None:
        raise RunError(f"run {run.name!r} has no vectors; `onerec tokenize --run {run.name}`")
    if len(vectors) < 4:
        raise RunError(f"run {run.name!r} has {len(vectors)} items; a map needs at least 4")
    path = map_file(run, vectors, config)
    facts = path.with_suffix(".json")
    with RunWriter.claim(run.path / "cache" / STAGE, {"name": STAGE}) as writer:

        def tell(step: int, message: str) -> None:
            writer.set_status(STAGE, step, STEPS, message=message)
            report(STAGE, step, STEPS, {"message": message})

        if not (path.is_file() and facts.is_file()):
            begun = time.perf_counter()
            items = drawn(len(vectors), config.seed)
            tell(0, "UMAP compiles itself, which takes a minute")
            xy = _places(vectors[items], config)
            tell(1, "comparing neighbours")
            pca, _ = principal_components(vectors[items])
            told = {
                **vars(config),
                "items": len(items),
                "kept": neighbours_kept(vectors[items], xy),
                "kept_pca": neighbours_kept(vectors[items], pca),
                "seconds": round(time.perf_counter() - begun, 1),
            }
            tell(2, "writing")
            write_parquet(path, {"item": items.astype(np.int32), "x": xy[:, 0], "y": xy[:, 1]})
            write_json(facts, told)
        tell(STEPS, "")
        writer.finish()
    return read_json(facts)


def _places(x: np.ndarray, config: MapConfig) -> np.ndarray:
    """(n, d) -> (n, 2) float32, the same for the same seed; on one thread, as a seed needs it."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what UMAP says about threads and small inputs
        from umap import UMAP

        made = UMAP(
            n_neighbors=min(config.neighbours, len(x) - 1),
            min_dist=config.min_dist,
            random_state=config.seed,
            n_jobs=1,
            init="spectral"
            if len(x) > 50
            else "random",  # a few points have no spectrum to speak of
        ).fit_transform(x)
    return np.asarray(made, dtype=np.float32)
