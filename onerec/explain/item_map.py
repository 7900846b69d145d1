"""Where the items of a run lie on a map made by UMAP, once its worker has kept one.

`onerec.pipeline.item_map` makes it, in a process of its own: it costs a minute and more. The file
is RUN/cache/umap-KEY.parquet, its facts beside it as JSON; KEY stands for the vectors, the
parameters and the seed, so a map of other vectors is never taken for this run's.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from onerec.explain.dataset import titles
from onerec.explain.query import empty, fetch
from onerec.explain.tokens import code_columns
from onerec.run_files import read_json
from onerec.runs import Run

LIMIT = 20_000  # items on a map, drawn by the seed
NEAREST = 10  # neighbours that a good map keeps


@dataclass(frozen=True)
class MapConfig:
    """UMAP's (McInnes et al. 2018) neighbours, least distance of points on the map, and seed.

    Raises:
        ValueError: fewer than 2 neighbours, or a distance outside 0 to 1.
    """

    neighbours: int = 15
    min_dist: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.neighbours >= 2 and 0 <= self.min_dist <= 1):
            raise ValueError(
                f"neighbours={self.neighbours}, min_dist={self.min_dist}: at least 2 neighbours "
                "and a distance from 0 to 1"
            )


def map_key(vectors: np.ndarray, config: MapConfig) -> str:
    """Twelve letters that stand for these vectors (n, d), these parameters and this seed."""
    text = f"{vectors.shape} {config.neighbours} {config.min_dist:g} {config.seed} {LIMIT}"
    content = hashlib.sha256(text.encode())
    content.update(np.ascontiguousarray(vectors, dtype=np.float32).tobytes())
    return content.hexdigest()[:12]


def map_file(run: Run, vectors: np.ndarray, config: MapConfig) -> Path:
    """Where the map of these vectors is kept; its facts are the same name with `.json`."""
    return run.path / "cache" / f"umap-{map_key(vectors, config)}.parquet"


def drawn(n: int, seed: int) -> np.ndarray:
    """The items of a map, ascending: all, or `LIMIT` of them drawn by the seed."""
    if n <= LIMIT:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, LIMIT, replace=False))


def umap(
    run: Run, neighbours: int = 15, min_dist: float = 0.1, seed: int = 0
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The kept map of a run's items; an empty frame and no facts while there is none.

    Returns:
        points: item, item_id, title, x, y, code_1 .. code_L, leaf_size, popularity; and the facts:
            neighbours, min_dist, seed, seconds, and the shares `kept` and `kept_pca` of the items'
            ten nearest that are among their ten nearest on this map and on that of principal
            components.
    """
    ids, vectors = run.semantic_ids(), run.vectors()
    columns = ["item", "item_id", "title", "x", "y", *code_columns(ids), "leaf_size", "popularity"]
    if ids.empty or vectors is None:
        return empty(columns), {}
    path = map_file(run, vectors, MapConfig(neighbours, min_dist, seed))
    if not (path.is_file() and path.with_suffix(".json").is_file()):  # written last
        return empty(columns), {}
    places = fetch("SELECT item, x, y FROM read_parquet(?) ORDER BY item", path)
    points = ids.merge(places, on="item")
    points = points.assign(title=titles(run.dataset_folder, points["item"].tolist()))
    return points[columns], read_json(path.with_suffix(".json"))


def neighbours_kept(vectors: np.ndarray, xy: np.ndarray, sample: int = 2_000) -> float:
    """The share of the items' ten nearest by vectors (n, d) that are so by places (n, 2) too.

    Of more than `sample` items every so-manyth is asked, among all.
    """
    n = len(vectors)
    if n < 3:
        return 1.0
    k, asked = min(NEAREST, n - 1), np.arange(0, n, max(1, n // sample))
    true, near = _nearest(vectors, asked, k), _nearest(xy, asked, k)
    both = [len(np.intersect1d(one, other)) for one, other in zip(true, near, strict=True)]
    return float(np.mean(both) / k)


def _nearest(x: np.ndarray, asked: np.ndarray, k: int) -> np.ndarray:
    """(m, k): the k nearest rows of x to each asked one, itself left out."""
    x = x.astype(np.float64)
    lengths = (x**2).sum(1)
    found = []
    for part in np.array_split(asked, max(1, len(asked) // 256)):
        distance = lengths - 2 * x[part] @ x.T  # + |x_i|^2, the same for a row
        distance[np.arange(len(part)), part] = np.inf
        found.append(np.argpartition(distance, k - 1, axis=1)[:, :k])
    return np.concatenate(found)
