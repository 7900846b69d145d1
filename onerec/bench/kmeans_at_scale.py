"""Seconds and memory of residual k-means on one device, at the size that a platform has.

    python -m onerec.bench.kmeans_at_scale [--rows 1000000 --dim 512 --levels 3 --clusters 8192
        --iterations 20 --init "k-means||"] [--json] [--out FILE]

Rows are made up on the device: about one of n / 50 centres, with noise of half the centres' spread
(`bench.kmeans`). `fit_seconds` holds the check of the vectors, the start and the iterations of all
levels; `memory_above_data` is the most that was allocated beyond the rows themselves (GPU alone).
`iteration` is one level from the same start, both as the quantiser makes it and by a plain loop
whose products are float32's throughout: what TF32 saves, and what it costs in inertia.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from onerec.bench.generate import as_json, commit, write
from onerec.bench.kmeans import NOISE, ROWS_PER_TOPIC
from onerec.bench.mistakes import refuse_below_one, told_in_a_line
from onerec.common import generator, pick_device
from onerec.pipeline.pretrain import device_name
from onerec.tokenizer.distances import inertia_of
from onerec.tokenizer.kmeans import assign, cluster_sums, lloyd, start
from onerec.tokenizer.rq_kmeans import RQKmeans, RQKmeansConfig, quantisation_report


def topics(rows: int, dim: int, device: torch.device, seed: int) -> Tensor:
    """(rows, dim) float32, made on the device and in place."""
    random = torch.Generator(device).manual_seed(seed)
    centres = torch.randn(max(1, rows // ROWS_PER_TOPIC), dim, generator=random, device=device)
    x = torch.randn(rows, dim, generator=random, device=device).mul_(NOISE)
    for part in torch.split(x, 2**17):
        own = torch.randint(len(centres), (len(part),), generator=random, device=device)
        part += centres[own]
    return x


def elapsed(begun: float, device: torch.device) -> float:
    """Seconds since, when all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun


def plain(x: Tensor, centroids: Tensor, iterations: int) -> Tensor:
    """Lloyd's iterations in float32."""
    for _ in range(iterations):
        sums, counts = cluster_sums(x, assign(x, centroids), len(centroids))
        mean = sums / counts.clamp(min=1)[:, None]
        centroids = torch.where(counts[:, None] > 0, mean, centroids).float()
    return centroids


def one_level(x: Tensor, config: RQKmeansConfig, device: torch.device) -> dict[str, Any]:
    """The same start and iterations, ours and in plain float32."""
    first = start(x, config.codebook_size, generator(config.seed), config.init)
    begun = time.perf_counter()
    fit = lloyd(x, first, iterations=config.iterations, generator=generator(0), tolerance=0.0)
    ours = elapsed(begun, device)
    begun = time.perf_counter()
    centroids = plain(x, first, config.iterations)
    theirs = elapsed(begun, device)
    inertia = inertia_of(x, centroids, assign(x, centroids))
    return {
        "seconds": ours,
        "float32_seconds": theirs,
        "inertia_over_float32": fit.inertia / inertia,
        "iterations": fit.iterations,
    }


def run(config: RQKmeansConfig, rows: int, dim: int, device: torch.device) -> dict[str, Any]:
    """The benchmark's JSON."""
    warm = topics(2 * config.codebook_size, dim, device, config.seed + 1)
    RQKmeans(replace(config, levels=1, iterations=1)).fit(warm)  # libraries load, kernels too
    del warm
    x = topics(rows, dim, device, config.seed)
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
    begun = time.perf_counter()
    quantiser = RQKmeans(config).fit(x)
    seconds = elapsed(begun, device)
    memory = torch.cuda.max_memory_allocated(device) - held if cuda else None
    begun = time.perf_counter()
    codes = quantiser.transform(x)
    encoding = elapsed(begun, device)
    return {
        "benchmark": "kmeans_at_scale",
        "commit": commit(),
        "device": device_name(device),
        "torch": torch.__version__,
        "setting": {"rows": rows, "dim": dim, **asdict(config)},
        "fit_seconds": seconds,
        "memory_above_data": memory,
        "items_per_second": rows / encoding,
        "report": quantisation_report(x, codes, quantiser.codebooks),
        "iteration": one_level(x, config, device),
    }


@told_in_a_line
def main(words: Sequence[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="residual k-means at the size of a platform")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--levels", type=int, default=3)
    parser.add_argument("--clusters", type=int, default=8192)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--init", default="k-means||")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--out", type=Path, help="also write it to this file")
    asked = parser.parse_args(words)
    refuse_below_one(asked, ("rows", "dim", "levels", "clusters", "iterations"))
    config = RQKmeansConfig(asked.levels, asked.clusters, asked.iterations, asked.init, asked.seed)
    result = run(config, asked.rows, asked.dim, pick_device(asked.device))
    if asked.out is not None:
        write(result, asked.out)
    if asked.json:
        print(as_json(result))
    else:
        memory = result["memory_above_data"]
        print(
            f"{asked.rows:,} x {asked.dim}, {asked.levels} x {asked.clusters}: "
            f"{result['fit_seconds']:.2f} s"
            + (f", {memory / 2**30:.2f} GiB above the data" if memory is not None else "")
        )


if __name__ == "__main__":
    raise SystemExit(main())
