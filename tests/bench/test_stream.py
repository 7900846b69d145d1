"""The experiment on the online loop: paired differences by hand, and two small streams for real."""

import json
from pathlib import Path

import fake_run
import fake_streams
import pytest

from onerec.bench import stream
from onerec.errors import RunError
from onerec.runs import Run, open_run


def test_differences_are_taken_seed_by_seed(tmp_path: Path) -> None:
    run = Run(fake_run.build(tmp_path / "home").run)
    for seed, lift in ((0, 10.0), (1, 14.0)):
        fake_streams.build(run.path, stream.stream_name("frozen", seed), seed=seed)
        name = stream.stream_name("rsft_ecpo", seed)
        fake_streams.build(run.path, name, arm="rsft_ecpo", lift=lift, seed=seed)
    found = stream.summary(run, ["frozen", "rsft_ecpo"], 2)
    assert found["rounds_compared"] == [3, 3]  # new weights after round 2
    gain = found["differences"]["rsft_ecpo - frozen"]
    gains = [lift * (0.5 * 3 + 1.0 * 3 + 1.5 * 2) / 8 for lift in (10.0, 14.0)]  # users 6 .. 13
    assert gain["mean"] == pytest.approx(sum(gains) / 2, abs=1e-3)
    assert gain["low"] < gain["mean"] < gain["high"]
    assert len(found["by_round"]["frozen"]) == 3
    assert list(found["differences"]) == ["rsft_ecpo - frozen"]


def test_what_two_seeds_share_is_not_in_the_interval_of_their_difference(tmp_path: Path) -> None:
    """Seeds lie 50 s apart, the lift is the same in both: paired, nothing is left to doubt."""
    run = Run(fake_run.build(tmp_path / "home").run)
    for seed in (0, 1):
        fake_streams.build(run.path, stream.stream_name("frozen", seed), seed=seed, level=50 * seed)
        name, more = stream.stream_name("rsft", seed), {"lift": 10.0, "level": 50.0 * seed}
        fake_streams.build(run.path, name, arm="rsft", seed=seed, **more)
    found = stream.summary(run, ["frozen", "rsft"], 2)
    apart = found["of_a_visit"]["frozen"]
    assert apart["high"] - apart["low"] > 100
    gain = found["differences"]["rsft - frozen"]
    assert gain["high"] - gain["low"] < 1e-3
    assert gain["mean"] > 5


@pytest.mark.slow
def test_streams_are_played_once_and_joined(aligned: Path, tmp_path: Path) -> None:
    out = tmp_path / "stream.json"
    words = ["--run", open_run("first", aligned).name, "--home", str(aligned), "--out", str(out)]
    words += ["--seeds", "1", "--arms", "frozen", "half", "--jobs", "2"]
    words += ["--rounds", "3", "--steps", "1", "--lag", "1", "--share", "0.2"]
    stream.main(words)
    found = json.loads(out.read_text())
    assert set(found["of_a_visit"]) == {"frozen", "half"}
    folder = open_run("first", aligned).path / "stream" / stream.stream_name("half", 0)
    before = (folder / "metrics.jsonl").stat().st_mtime_ns
    stream.main(words)
    assert (folder / "metrics.jsonl").stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_stream_that_fails_says_why(aligned: Path) -> None:
    run = open_run("first", aligned)
    with pytest.raises(RunError, match=r"(?s)bench-all-0.*share=2"):
        stream.play(run, ["all"], 1, ["--share", "2"], jobs=1)


def test_too_few_rounds_are_refused_before_anything_is_played(
    aligned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--run", "first", "--home", str(aligned), "--out", str(tmp_path / "out.json")]
    assert stream.main([*words, "--rounds", "2", "--lag", "20", "--arms", "all"]) == 2
    assert "2 rounds with lag=20" in capsys.readouterr().err
    assert not (open_run("first", aligned).path / "stream" / "bench-all-0").exists()


def test_rounds_that_learning_cannot_reach_are_refused(tmp_path: Path) -> None:
    run = Run(fake_run.build(tmp_path / "home").run)
    fake_streams.build(run.path, stream.stream_name("frozen", 0), lag=100)
    with pytest.raises(RunError, match="from round 52 on"):
        stream.summary(run, ["frozen"], 1)
