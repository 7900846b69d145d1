"""The command line as a person meets it: arguments in; exit code, stdout and stderr out."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from onerec.cli import main


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    def json(self) -> dict[str, Any]:
        """The one JSON object on stdout; anything else there is a failure."""
        value = json.loads(self.out)
        assert isinstance(value, dict)
        assert self.out.count("\n") == 1
        return value


Cli = Callable[..., Answer]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("ONEREC_HOME", str(folder))
    return folder


@pytest.fixture
def finished(home: Path, trained: Path) -> Path:
    """A home with the dataset `toy` and the finished run `first`, to do with as one likes."""
    shutil.copytree(trained, home, dirs_exist_ok=True)
    return home


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Call `onerec` with arguments, in this process."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["onerec", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        return Answer(int(caught.value.code or 0), captured.out, captured.err)

    return call


def refused(answer: Answer, *parts: str) -> None:
    """The user's mistake: exit code 2, one line on stderr with all `parts`, no traceback."""
    assert answer.code == 2, answer
    assert answer.out == ""
    lines = answer.err.strip().splitlines()
    assert len(lines) == 1, answer.err
    for part in parts:
        assert part in lines[0]


@pytest.fixture
def check_refused() -> Callable[..., None]:
    return refused
