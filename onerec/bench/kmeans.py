"""Time of our k-means beside faiss-cpu's and scikit-learn's: the same points, start and iterations.

    python -m onerec.bench.kmeans [--clusters 1024 --iterations 25 --turns 5 --threads 2] --out FILE

Data are made up in two ways. `topics`: rows about one of n / 50 centres, as items of a catalogue
are, with noise of half the centres' spread. `noise`: rows of a normal distribution, which have no
clusters: the worst case for bounds. All three begin at the same rows and may make the same
iterations; early stops are off (scikit-learn and ours still end where no label changes; faiss
never does). Each turn times all three one after the other, the first to go changing, and gives one
ratio of seconds; medians over turns count. Our time holds the last assignment and its inertia, as
scikit-learn's; `faiss` is train() alone, `faiss_with_labels` adds its search of the labels.
Inertia is computed by us for all.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onerec.bench.generate import as_json, commit, cpu_name, write
from onerec.bench.mistakes import told_in_a_line
from onerec.common import generator, keep_memory, set_threads
from onerec.errors import OneRecError
from onerec.tokenizer.distances import inertia_of
from onerec.tokenizer.kmeans import assign, lloyd

SHAPES = ((100_000, 64), (20_000, 384))
DATA = ("topics", "noise")
ROWS_PER_TOPIC, NOISE = 50, 0.5

Fit = Callable[[Tensor, Tensor, int], Tensor]
"""Points (n, d), start (k, d), iterations -> centroids (k, d)."""


def points(kind: str, n: int, d: int, seed: int) -> Tensor:
    """(n, d) made-up rows of one of `DATA`."""
    random = generator(seed)
    rows = torch.randn(n, d, generator=random)
    if kind == "noise":
        return rows
    centres = torch.randn(max(1, n // ROWS_PER_TOPIC), d, generator=random)
    return centres[torch.randint(len(centres), (n,), generator=random)] + NOISE * rows


def ours(x: Tensor, start: Tensor, iterations: int) -> Tensor:
    fit = lloyd(x, start, iterations=iterations, generator=generator(0), tolerance=0.0)
    return fit.centroids


def scikit_learn(x: Tensor, start: Tensor, iterations: int) -> Tensor:
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        made = KMeans(len(start), init=start.numpy(), n_init=1, max_iter=iterations, tol=0.0)
        return torch.from_numpy(made.fit(x.numpy()).cluster_centers_).float()


def faiss(x: Tensor, start: Tensor, iterations: int) -> Tensor:
    import faiss as library

    library.omp_set_num_threads(torch.get_num_threads())
    made = library.Kmeans(
        x.shape[1],
        len(start),
        niter=iterations,
        min_points_per_centroid=1,
        max_points_per_centroid=len(x),  # all of them: no sample
    )
    made.train(x.numpy(), init_centroids=start.numpy())
    return torch.from_numpy(np.array(made.centroids).reshape(start.shape))


def faiss_with_labels(x: Tensor, start: Tensor, iterations: int) -> Tensor:
    import faiss as library

    centroids = faiss(x, start, iterations)
    index = library.IndexFlatL2(x.shape[1])
    index.add(centroids.numpy())
    index.search(x.numpy(), 1)
    return centroids


def has_faiss() -> bool:
    return importlib.util.find_spec("faiss") is not None


def peers() -> dict[str, Fit]:
    """Who is measured: faiss only where it is installed."""
    found: dict[str, Fit] = {"onerec": ours}
    if has_faiss():
        found |= {"faiss": faiss, "faiss_with_labels": faiss_with_labels}
    return found | {"scikit_learn": scikit_learn}


def compare(
    kind: str, shape: tuple[int, int], clusters: int, iterations: int, turns: int, seed: int = 0
) -> dict[str, Any]:
    """One data set: seconds, ratios of ours to each peer's by turn, inertia over ours."""
    x = points(kind, *shape, seed)
    start = x[torch.randperm(len(x), generator=generator(seed))[:clusters]].clone()
    fits = peers()
    seconds: dict[str, list[float]] = {name: [] for name in fits}
    inertia: dict[str, float] = {}
    for turn in range(turns):
        names = list(fits)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            begun = time.perf_counter()
            centroids = fits[name](x, start, iterations)
            seconds[name].append(time.perf_counter() - begun)
            if name not in inertia:
                inertia[name] = inertia_of(x, centroids, assign(x, centroids))
    ratios = {
        name: [mine / other for mine, other in zip(seconds["onerec"], taken, strict=True)]
        for name, taken in seconds.items()
        if name != "onerec"
    }
    return {
        "data": kind,
        "points": shape[0],
        "dim": shape[1],
        "seconds": {name: round(statistics.median(taken), 3) for name, taken in seconds.items()},
        "time_ratio": {name: round(statistics.median(all_), 3) for name, all_ in ratios.items()},
        "ratios_of_turns": {name: [round(r, 3) for r in all_] for name, all_ in ratios.items()},
        "inertia": {name: round(value, 3) for name, value in inertia.items()},
        "inertia_ratio": {name: round(inertia["onerec"] / inertia[name], 5) for name in ratios},
    }


def run(
    *,
    shapes: Sequence[tuple[int, int]] = SHAPES,
    clusters: int = 1024,
    iterations: int = 25,
    turns: int = 5,
    threads: int = 2,
    seed: int = 0,
) -> dict[str, Any]:
    """The benchmark's JSON.

    Raises:
        OneRecError: fewer points than clusters, or a number below 1.
    """
    if min(clusters, iterations, turns, threads) < 1 or clusters > min(n for n, _ in shapes):
        raise OneRecError(
            f"{clusters} clusters, {iterations} iterations, {turns} turns, {threads} threads: each "
            f"must be at least 1, and clusters at most the {min(n for n, _ in shapes)} points"
        )
    threads = set_threads(min(threads, set_threads()))
    keep_memory()  # for all of them, as every stage of the pipeline does
    packages = ["torch", "scikit-learn", *(["faiss-cpu"] if has_faiss() else [])]
    result: dict[str, Any] = {
        "benchmark": "kmeans",
        "commit": commit(),
        "device": f"{cpu_name()}, {threads} thread{'s' if threads > 1 else ''}",
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "setting": {
            "clusters": clusters,
            "iterations": iterations,
            "turns": turns,
            "threads": threads,
            "seed": seed,
        },
        "results": [
            compare(kind, shape, clusters, iterations, turns, seed)
            for shape in shapes
            for kind in DATA
        ],
    }
    if not has_faiss():
        result["faiss"] = "not installed; `pip install faiss-cpu`"
    return result


def table(result: dict[str, Any]) -> str:
    """A line per data set: our seconds, then the ratio of times and of inertia to each peer."""
    lines = []
    for row in result["results"]:
        beside = "  ".join(
            f"{name} {ratio:.2f} (inertia {row['inertia_ratio'][name]:.4f})"
            for name, ratio in row["time_ratio"].items()
        )
        lines.append(
            f"{row['points']:>7} x {row['dim']:<4}{row['data']:<8}"
            f"{row['seconds']['onerec']:>7.2f} s; over {beside}"
        )
    return "\n".join([*lines, *([result["faiss"]] if "faiss" in result else [])])


@told_in_a_line
def main(words: Sequence[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="our k-means beside faiss and scikit-learn")
    parser.add_argument("--clusters", type=int, default=1024)
    parser.add_argument("--iterations", type=int, default=25)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--out", type=Path, help="also write it to this file")
    asked = parser.parse_args(words)
    result = run(
        clusters=asked.clusters,
        iterations=asked.iterations,
        turns=asked.turns,
        threads=asked.threads,
    )
    if asked.out is not None:
        write(result, asked.out)
    print(as_json(result) if asked.json else table(result))


if __name__ == "__main__":
    raise SystemExit(main())
