"""The comparison gives all the same start, and says so where a peer is not there."""

import json
from pathlib import Path

import pytest
import torch

from onerec.bench import kmeans

SHAPES = ((600, 5), (500, 3))


@pytest.mark.parametrize("name", ["onerec", "scikit_learn", "faiss", "faiss_with_labels"])
def test_each_makes_the_iterations_asked_for_from_the_start_given(name: str) -> None:
    if name.startswith("faiss"):
        pytest.importorskip("faiss")
    fit = kmeans.peers()[name]
    x, start = torch.tensor([[0.0], [1.0], [2.0], [10.0]]), torch.tensor([[0.0], [3.0]])
    assert sorted(fit(x, start, 1).flatten().tolist()) == [0.5, 6.0]  # 2 goes with 3
    assert sorted(fit(x, start, 9).flatten().tolist()) == [1.0, 10.0]


def test_topics_have_clusters_and_noise_has_none() -> None:
    topics, noise = (kmeans.points(kind, 2_000, 8, seed=0) for kind in kmeans.DATA)
    assert topics.shape == noise.shape == (2_000, 8)
    start = torch.randperm(2_000, generator=torch.Generator().manual_seed(1))[:40]
    left = []
    for x in (topics, noise):
        centroids = kmeans.ours(x, x[start], 10)
        spread = float((x - x.mean(0)).square().sum())
        left.append(kmeans.inertia_of(x, centroids, kmeans.assign(x, centroids)) / spread)
    assert left[0] < 0.6 * left[1]


def test_ratios_are_ours_over_theirs() -> None:
    row = kmeans.compare("topics", (600, 5), clusters=8, iterations=4, turns=3)
    assert set(row["time_ratio"]) >= {"scikit_learn"}
    for name, ratio in row["time_ratio"].items():
        assert sorted(row["ratios_of_turns"][name])[1] == ratio
        assert row["inertia_ratio"][name] == pytest.approx(1, abs=0.02)
    assert kmeans.points("topics", 600, 5, 0).equal(kmeans.points("topics", 600, 5, 0))


def test_ratios_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours takes 3 s to an inertia of 4 + 0 + 4, the other 6 s to 0 + 4 + 16."""
    clock = [0.0]

    def fit(seconds: float, place: float) -> kmeans.Fit:
        def made(x: torch.Tensor, start: torch.Tensor, iterations: int) -> torch.Tensor:
            clock[0] += seconds
            return torch.tensor([[place]])

        return made

    monkeypatch.setattr(kmeans.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(kmeans, "points", lambda *of: torch.tensor([[0.0], [2.0], [4.0]]))
    monkeypatch.setattr(kmeans, "peers", lambda: {"onerec": fit(3, 2.0), "other": fit(6, 0.0)})
    row = kmeans.compare("topics", (3, 1), clusters=1, iterations=1, turns=2)
    assert row["seconds"] == {"onerec": 3, "other": 6}
    assert row["time_ratio"] == {"other": 0.5}
    assert row["inertia"] == {"onerec": 8, "other": 20}
    assert row["inertia_ratio"] == {"other": 0.4}


def test_ours_does_not_stop_early_where_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tolerance above 0 would end before the iterations that the others make."""
    asked = {}

    def watched(*of: torch.Tensor, **how: object) -> object:
        asked.update(how)
        return fit(*of, **how)

    fit = kmeans.lloyd
    monkeypatch.setattr(kmeans, "lloyd", watched)
    x = torch.arange(4.0)[:, None]
    kmeans.ours(x, x[:2], 7)
    assert (asked["tolerance"], asked["iterations"]) == (0.0, 7)


def test_without_faiss_the_key_is_absent_and_the_output_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kmeans, "has_faiss", lambda: False)
    result = kmeans.run(shapes=SHAPES, clusters=8, iterations=2, turns=1, threads=1)
    assert "pip install" in result["faiss"]
    assert [row["points"] for row in result["results"]] == [600, 600, 500, 500]
    assert all("faiss" not in row["time_ratio"] for row in result["results"])
    assert "pip install" in kmeans.table(result)


def test_the_command_writes_what_it_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        kmeans.run, "__kwdefaults__", {**kmeans.run.__kwdefaults__, "shapes": SHAPES}
    )
    out = tmp_path / "kmeans.json"
    words = ["--clusters", "8", "--iterations", "2", "--turns", "1", "--threads", "1"]
    kmeans.main([*words, "--json", "--out", str(out)])
    assert json.loads(capsys.readouterr().out) == json.loads(out.read_text())
    assert kmeans.main(["--clusters", "501"]) == 2
    assert "clusters at most the 500 points" in capsys.readouterr().err
