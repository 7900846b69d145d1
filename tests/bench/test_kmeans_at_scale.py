"""The large fit, in small: what it holds, and that its reference is Lloyd's."""

import json
from pathlib import Path

import pytest
import torch

from onerec.bench import kmeans_at_scale
from onerec.bench.kmeans_at_scale import plain, topics
from onerec.tokenizer.distances import inertia_of
from onerec.tokenizer.kmeans import assign, lloyd

CPU = torch.device("cpu")


def test_rows_have_topics_and_depend_on_the_seed_alone() -> None:
    x = topics(500, 4, CPU, 3)
    assert x.shape == (500, 4)
    assert torch.equal(x, topics(500, 4, CPU, 3))
    assert not torch.equal(x, topics(500, 4, CPU, 4))
    fit = lloyd(x, x[:10], iterations=20, generator=torch.Generator())
    assert fit.inertia < 0.5 * float((x - x.mean(0)).square().sum())


def test_the_plain_loop_ends_where_lloyd_does() -> None:
    x = topics(600, 4, CPU, 0)
    fit = lloyd(x, x[:8], iterations=7, generator=torch.Generator(), tolerance=0.0)
    centroids = plain(x, x[:8], fit.iterations)
    torch.testing.assert_close(centroids, fit.centroids)
    assert inertia_of(x, centroids, assign(x, centroids)) == pytest.approx(fit.inertia)


def test_the_command_writes_what_it_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scale.json"
    words = [
        "--rows",
        "400",
        "--dim",
        "4",
        "--levels",
        "2",
        "--clusters",
        "16",
        "--iterations",
        "3",
        "--device",
        "cpu",
    ]
    kmeans_at_scale.main([*words, "--json", "--out", str(out)])
    said = json.loads(capsys.readouterr().out)
    assert said == json.loads(out.read_text())
    assert said["setting"]["init"] == "k-means||"
    assert said["iteration"]["inertia_over_float32"] == pytest.approx(1)
    assert said["fit_seconds"] > 0
    assert said["memory_above_data"] is None
    kmeans_at_scale.main(words)
    assert "400 x 4, 2 x 16" in capsys.readouterr().out
