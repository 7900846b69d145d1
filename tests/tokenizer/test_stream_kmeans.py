"""k-means over pieces: the in-memory one from the same start, whatever the pieces."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from onerec.errors import DataError, RecipeError
from onerec.tokenizer import kmeans as in_memory
from onerec.tokenizer import stream_kmeans as module
from onerec.tokenizer.kmeans import kmeans
from onerec.tokenizer.rq_kmeans import RQKmeans, RQKmeansConfig
from onerec.tokenizer.stream_kmeans import Pieces, kmeans_stream


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=generator(seed))


def cut(x: Tensor, size: int) -> Pieces:
    return lambda: iter(x.split(size))


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
@pytest.mark.parametrize("init", in_memory.INITS)
def test_equals_kmeans_in_memory(size: int, init: str) -> None:
    x = randn(300, 5)
    streamed = kmeans_stream(cut(x, size), 9, generator=generator(), init=init)
    whole = kmeans(x, 9, generator=generator(), init=init)
    torch.testing.assert_close(streamed.centroids, whole.centroids, rtol=0, atol=1e-6)
    assert streamed.inertia == pytest.approx(whole.inertia, rel=1e-6)
    assert len(streamed.labels) == 0


def test_the_start_reads_a_sample_where_there_are_more_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(in_memory, "SEED_ROWS_PER_CLUSTER", 4)
    x = randn(500, 3, 1)
    streamed = kmeans_stream(cut(x, 60), 6, generator=generator(4))
    whole = kmeans(x, 6, generator=generator(4))
    torch.testing.assert_close(streamed.centroids, whole.centroids, rtol=0, atol=1e-6)


@pytest.mark.parametrize("init", ["k-means++", "random"])
def test_the_cut_into_pieces_does_not_matter(init: str) -> None:
    x = randn(240, 4, 3)
    results = [
        kmeans_stream(cut(x, size), 12, generator=generator(5), init=init) for size in (1, 33, 240)
    ]
    for other in results[1:]:
        torch.testing.assert_close(other.centroids, results[0].centroids, rtol=0, atol=1e-6)
        assert other.iterations == results[0].iterations


def test_an_empty_cluster_is_repaired_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four starts on one point: three are empty after the first pass."""
    x = 10 * randn(4, 2).repeat(20, 1) + 0.1 * randn(80, 2, 1)
    monkeypatch.setattr(module, "start_from", lambda rows, k, *more: x[:1].repeat(k, 1))
    found = [kmeans_stream(cut(x, size), 4, generator=generator()) for size in (7, 80)]
    assert found[0].repaired >= 3
    assert len(in_memory.assign(x, found[0].centroids).unique()) == 4
    torch.testing.assert_close(found[0].centroids, found[1].centroids, rtol=0, atol=1e-6)


def test_the_seed_draws_the_rows_that_empty_clusters_move_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = randn(80, 2)
    monkeypatch.setattr(module, "start_from", lambda rows, k, *more: x[:1].repeat(k, 1))
    one, other, again = (
        kmeans_stream(cut(x, 7), 4, iterations=1, generator=generator(seed)).centroids
        for seed in (0, 1, 0)
    )
    assert one.equal(again)
    assert not one.equal(other)


def test_an_iteration_that_repaired_is_never_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """The inertia stands still, as each repair puts the empty cluster far away again."""

    class Far:
        def __init__(self, *given: object) -> None:
            self.rows = torch.full((1, 2), 1e3)

        def add(self, *given: Tensor) -> None:
            pass

    monkeypatch.setattr(module, "_Sample", Far)
    begun = torch.tensor([[0.0, 0.0], [1e3, 1e3]])
    monkeypatch.setattr(module, "start_from", lambda *given: begun)
    result = kmeans_stream(cut(randn(80, 2), 7), 2, iterations=6, generator=generator())
    assert (result.iterations, result.repaired) == (6, 6)


def test_constant_rows_are_one_cluster_and_nothing_is_repaired() -> None:
    result = kmeans_stream(cut(torch.full((50, 3), 0.1), 8), 4, generator=generator())
    assert (result.inertia, result.repaired) == (0, 0)


def test_as_many_clusters_as_rows_leave_nothing() -> None:
    x = randn(30, 3)
    result = kmeans_stream(cut(x, 7), 30, generator=generator())
    assert result.inertia == 0
    torch.testing.assert_close(result.centroids.sort(0).values, x.sort(0).values)


def test_a_sample_draws_by_weight_without_replacement() -> None:
    counts = np.zeros(3)
    rows, weights = torch.arange(3.0)[:, None], torch.tensor([0.0, 1.0, 3.0])
    random = generator()
    for _ in range(2000):
        sample = module._Sample(1, random)
        sample.add(rows, weights)
        counts[int(sample.rows[0, 0])] += 1
    assert counts[0] == 0
    assert counts[2] / 2000 == pytest.approx(0.75, abs=0.03)
    sample = module._Sample(5, random)
    sample.add(rows, weights)
    assert sorted(sample.rows[:, 0].tolist()) == [1, 2]


@pytest.mark.parametrize("init", in_memory.INITS)
def test_three_levels_streamed_are_those_in_memory(init: str) -> None:
    """Each level streams what the levels before left."""
    x, config = randn(800, 6), RQKmeansConfig(levels=3, codebook_size=16, init=init, seed=2)
    whole = RQKmeans(config).fit(x)

    def arrays(size: int) -> RQKmeans:
        return RQKmeans(config).fit_stream(lambda: (part.numpy() for part in x.split(size)))

    for size in (100, 333):
        streamed = arrays(size)
        torch.testing.assert_close(streamed.codebooks, whole.codebooks, rtol=0, atol=1e-5)


READS = """
import resource, sys
import numpy as np, torch
from onerec.tokenizer.stream_kmeans import kmeans_stream

path, rows, d = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

def pieces(limit=rows):
    with open(path, "rb") as file:
        for begin in range(0, limit, 4096):
            part = np.fromfile(file, np.float32, min(4096, limit - begin) * d)
            yield torch.from_numpy(part.reshape(-1, d))

def fit(limit):
    return kmeans_stream(lambda: pieces(limit), 64, iterations=6,
                         generator=torch.Generator().manual_seed(0))

fit(20_000)  # libraries have their own buffers by then
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = fit(rows)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, found.inertia)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted in KiB on Linux alone")
def test_data_are_five_times_larger_than_the_memory_that_is_taken(tmp_path: Path) -> None:
    """Peak memory of a process that streams a file, and the inertia of `kmeans` on all of it."""
    rows, d = 400_000, 64
    centres = 3 * randn(200, d, 1)
    x = centres[torch.arange(rows) % 200] + randn(rows, d)
    x.numpy().tofile(tmp_path / "x.f32")
    words = [sys.executable, "-c", READS, str(tmp_path / "x.f32"), str(rows), str(d)]
    told = subprocess.run(words, check=True, capture_output=True, text=True)
    kib, inertia = told.stdout.split()
    assert int(kib) * 1024 <= x.nbytes / 5
    whole = kmeans(x, 64, iterations=6, generator=generator())
    assert float(inertia) == pytest.approx(whole.inertia, rel=0.01)


def test_says_what_cannot_be_clustered() -> None:
    x = randn(30, 3)
    with pytest.raises(RecipeError, match="31 codes cannot be made from 30 vectors"):
        kmeans_stream(cut(x, 7), 31, generator=generator())
    with pytest.raises(RecipeError, match="init 'kmeans' is unknown"):
        kmeans_stream(cut(x, 7), 3, generator=generator(), init="kmeans")
    lengths = iter([30, 29, 30])

    def shorter() -> Iterator[Tensor]:
        return iter([x[: next(lengths)]])

    with pytest.raises(DataError, match="gave 29 rows and the first gave 30"):
        kmeans_stream(shorter, 3, generator=generator())
    x[17, 1] = torch.nan
    with pytest.raises(DataError, match="content vector 17 has a value that is not finite"):
        kmeans_stream(cut(x, 7), 3, generator=generator())


def test_a_sample_in_pieces_is_the_sample_of_the_whole() -> None:
    """A row that beats the least of the sample enters, not only one that beats the largest."""
    rows, weights = torch.arange(40.0)[:, None], torch.rand(40, generator=generator(1))
    samples = []
    for size in (1, 7, 40):
        sample = module._Sample(5, generator(2))
        for part, weight in zip(rows.split(size), weights.split(size), strict=True):
            sample.add(part, weight)
        samples.append(sample.rows[:, 0].tolist())
    assert len(samples[0]) == 5
    assert samples[0] == samples[1] == samples[2]


@pytest.mark.parametrize("init", in_memory.INITS)
def test_the_start_is_that_in_memory_far_from_the_origin_too(init: str) -> None:
    """About 0 a mean by a wrong count is still about 0."""
    x = randn(300, 5) + 100
    streamed, rows = module._start(cut(x, 7), 9, generator(), init)
    assert rows == 300
    whole = in_memory.start(x, 9, generator(), init)
    torch.testing.assert_close(streamed, whole, rtol=0, atol=1e-4)
