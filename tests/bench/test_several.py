"""Several processes beside one: arms on a tiny world, for real, and what is refused."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from onerec.bench import launched, several
from onerec.errors import RunError
from onerec.recipes import recipe
from onerec.runs import open_run

STEPS = 40
SETTINGS = {
    "model.width": "16",
    "model.experts": "0",  # no choice that rounding could turn
    "tokenizer.codebook_size": "16",
    "train.batch_size": "32",
    "evaluate.valid_users": "20",
    "evaluate.beam": "10",
}
WORDS = ["--recipe", "tiny", "--items", "500", "--users", "60", "--history", "20"]
WORDS += ["--steps", str(STEPS), "--set", *(f"{name}={value}" for name, value in SETTINGS.items())]


def asked(home: Path, *more: str) -> several.Asked:
    """What the benchmark asks its processes for, through its own command line."""
    found: list[several.Asked] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(several, "work", lambda asked, *_: found.append(asked))
        assert several.main([*WORDS, "--home", str(home), "--stage", "one", *more]) == 0
    return found[0]


@pytest.fixture
def carried_out(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stages that need no torchrun are carried out in this process; which ones were carried out."""
    stages: list[str] = []
    real = launched.to_the_end

    def to_the_end(command: Sequence[str], log: Path, limit: float, share: int = 1) -> None:
        stages.append(command[command.index("--stage") + 1])
        if "torch.distributed.run" in command:
            real(command, log, limit, share)
        else:
            assert command[:3] == [sys.executable, "-m", "onerec.bench.several"]
            assert several.main(command[3:]) == 0

    monkeypatch.setattr(launched, "to_the_end", to_the_end)
    return stages


@pytest.mark.slow
def test_arms_are_one_curve_and_done_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    carried_out: list[str],
) -> None:
    """Started in another folder, with a home that is named from there.

    Without fsdp to its end, for the time: it is what `killed` is until it is killed.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(several, "commit", lambda: "made here")
    out = tmp_path / "several.json"
    arms = ["one", "ddp", "killed", "one_again", "regrouped"]
    words = ["--json", *WORDS, "--home", "home", "--out", str(out), "--arms", *arms]
    assert several.main(words) == 0, capsys.readouterr().err
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads(out.read_text())
    assert found["failed"] == {}
    assert found["command"] == "python -m onerec.bench.several " + " ".join(words)
    assert (found["processes"], found["steps"], found["batch_size"]) == (2, STEPS, 32)
    assert found["within_noise"] == {"ddp": True, "fsdp": None, "killed": True}
    assert found["noise"]["all"]["mean"] > 1e-3
    for arm in ("ddp", "killed", "regrouped"):
        assert found["arms"][arm]["from_one"]["all"]["largest"] < 1e-3
    assert found["rounding"]["all"]["mean"] > 0  # its sums are others
    killed = found["arms"]["killed"]
    assert killed["killed_at"] >= STEPS / 2
    assert STEPS // 5 <= killed["goes_on_from"] <= killed["killed_at"]
    assert found["arms"]["one"]["times_one"] == 1
    assert found["arms"]["ddp"]["samples_per_second"] > 0
    assert len(found["arms"]["ddp"]["peak_memory_bytes"]) == 2
    for arm in ("ddp", "killed"):
        assert "and 1 more" in open_run(f"several_{arm}", tmp_path / "home").log_tail()
    again = open_run("several_one_again", tmp_path / "home").recipe()
    assert again["seed"] == again["recipe"]["seed"] == found["seed"] + 1
    assert carried_out == ["tokens", *arms]
    assert several.main(words) == 0
    assert json.loads(capsys.readouterr().out) == found
    assert carried_out == ["tokens", *arms]
    assert several.main([*words, "--set", "train.learning_rate=0.1"]) == 2
    told = capsys.readouterr().err
    assert "home has arms with train.learning_rate = 0.004, now asked for 0.1: use anoth" in told
    assert told.count("\n") == 1


def test_an_arm_that_fails_is_a_line_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = []

    def part(asked: several.Asked, arm: str) -> dict[str, Any]:
        done.append(arm)
        if arm == "ddp":
            raise RunError("2 processes for 1 GPUs on this machine")
        return {"device": "a GPU", "step": [1, 2], "loss": [2.0, 1.0 + len(arm) / 100]}

    monkeypatch.setattr(several, "part", part)
    monkeypatch.setattr(several, "carry_out", lambda *_: None)
    out = tmp_path / "out.json"
    assert several.main([*WORDS, "--out", str(out)]) == 1
    assert done == list(several.ARMS)
    told = capsys.readouterr()
    assert told.err == "onerec: ddp: 2 processes for 1 GPUs on this machine\n"
    assert "one_again: loss 1.0900\n" in told.out
    found = json.loads(out.read_text())
    assert found["failed"] == {"ddp": "2 processes for 1 GPUs on this machine"}
    assert list(found["arms"]) == ["one", "fsdp", "killed", "one_again", "regrouped"]
    assert found["within_noise"]["ddp"] is None


def test_a_training_that_ends_before_it_is_killed_is_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = asked(tmp_path)
    found.folder.mkdir()
    monkeypatch.setattr(several, "command", lambda *_: [sys.executable, "-c", "pass"])
    with pytest.raises(RunError, match="it ended before it was killed; more --steps"):
        several.killed_and_gone_on(found)


def test_a_process_takes_as_many_rows_at_once_in_every_arm_but_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = asked(tmp_path, "--processes", "4", "--micro-batches", "2")
    parts: list[int] = []

    def joined(parallel: str | None, micro_batches: int) -> None:
        parts.append(micro_batches)
        raise RunError("it is enough to know")

    monkeypatch.setattr(several, "joined", joined)
    for stage, parallel in (("one", None), ("ddp", "ddp"), ("fsdp", "fsdp"), ("regrouped", None)):
        with pytest.raises(RunError, match="enough"):
            several.work(found, stage, parallel)
    assert parts == [8, 2, 2, 16]


def test_what_is_asked_for_reaches_the_processes_of_an_arm(tmp_path: Path) -> None:
    found = asked(tmp_path, "--processes", "4", "--micro-batches", "2", "--set", "seed=3")
    assert several.command(found, "ddp", "ddp")[4:6] == ["--nproc-per-node", "4"]
    words = several.command(found, "killed")
    assert words[-2:] == ["--stage", "killed"]
    with pytest.MonkeyPatch.context() as patch:
        made: list[several.Asked] = []
        patch.setattr(several, "work", lambda asked, *_: made.append(asked))
        several.main(words[3:])
    assert made == [found]
    assert found.recipe.train.checkpoint_every == STEPS // 5
    assert found.recipe.train.evaluate_every == STEPS
    assert found.recipe_of("fsdp").seed == 3
    assert found.recipe_of("one_again").seed == 4


def test_runs_stay_only_where_a_home_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: Path
) -> None:
    """Without one an arm's folder goes as soon as it is measured: five would fill a disk."""
    found = several.Asked(
        tmp_path, False, recipe("tiny", {"train.steps": "30"}), several.WORLD, 2, 1, 60.0, ()
    )
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "several_tokens").symlink_to(trained / "runs" / "first")
    took = {"device": "a CPU", "peak_memory_bytes": 7}
    found.folder.mkdir()
    (found.folder / "one-0.json").write_text(json.dumps(took))
    monkeypatch.setattr(several, "carry_out", lambda *_: None)
    made = several.part(found, "one")
    assert made["peak_memory_bytes"] == [7]
    assert made["step"] == list(range(1, 31))
    assert not found.run("one").path.exists()
    assert several.part(found, "one") == made


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--steps 9", "--steps 9: at least 10"),
        ("--processes 3", "3 processes do not divide train.batch_size=32; start 2"),
        ("--micro-batches 17", "--micro-batches 17: each of 2 processes has 16 rows"),
        ("--set train.steps=30", "--set train.steps: give the number with --steps"),
        ("--limit 0", "--limit 0.0: at least 1"),
        ("--items 5", "n_items=5: a world needs at least 500"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_made(
    words: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*WORDS, *words.split(), "--home", str(tmp_path / "home")]
    assert several.main(given) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"onerec: {said}")
    assert told.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_stage_needs_a_home(capsys: pytest.CaptureFixture[str]) -> None:
    assert several.main([*WORDS, "--stage", "one"]) == 2
    assert "give --home" in capsys.readouterr().err
