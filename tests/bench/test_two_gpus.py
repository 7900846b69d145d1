"""The script for two GPUs says to each benchmark what that benchmark and its recipe know."""

import re
import subprocess
from importlib import import_module
from pathlib import Path

import pytest

from onerec.recipes import parse_overrides, recipe
from onerec.settings import with_settings
from onerec.world.config import WorldConfig

SCRIPT = Path(__file__).parents[2] / "onerec/bench/two_gpus.sh"
NAMES = ("several", "lifelong", "scaling", "ablation_world", "ablation_kuairand", "routers")


def calls(tmp_path: Path, *names: str, fail: str = "no such word") -> tuple[int, list[list[str]]]:
    """Its exit code, and the words of each call of python; a call that names `fail` fails."""
    python, log = tmp_path / "python", tmp_path / "log"
    python.write_text(
        f'#!/bin/sh\nprintf "%s\\t" "$@" >> {log}; echo >> {log}\n'
        f'case "$*" in *"{fail}"*) exit 1 ;; esac\n'
    )
    python.chmod(0o755)
    words = ["bash", str(SCRIPT), str(tmp_path / "home"), str(tmp_path / "out"), *names]
    done = subprocess.run(
        words,
        env={"PYTHON": str(python), "PATH": "/usr/bin:/bin"},
        check=False,
        capture_output=True,
    )
    lines = log.read_text().splitlines() if log.exists() else []
    return done.returncode, [line.split("\t")[:-1] for line in lines]


def after(words: list[str], flag: str) -> list[str]:
    """What stands behind a flag, up to the next one."""
    if flag not in words:
        return []
    rest = words[words.index(flag) + 1 :]
    ends = [at for at, word in enumerate(rest) if word.startswith("--")]
    return rest[: ends[0]] if ends else rest


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_knows_its_words_and_its_recipe_the_settings(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, made = calls(tmp_path, name)
    assert code == 0
    for words in made:
        assert words[0] == "-m"
        settings = after(words, "--set")
        if words[1:4] == ["onerec", "data", "get"]:
            assert with_settings(WorldConfig(), settings, "--set") != WorldConfig()
        else:
            recipe((after(words, "--recipe") or ["small"])[0], parse_overrides(settings))
        with_settings(WorldConfig(), after(words, "--world"), "--world")
        if words[1] == "onerec":
            continue
        with pytest.raises(SystemExit):
            import_module(words[1]).main(["--help"])
        known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
        assert {word for word in words if word.startswith("--")} <= known


def test_one_that_fails_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    code, made = calls(tmp_path, fail="bench.pathways")
    assert code == 1
    assert [words[1].rpartition(".")[2] for words in made] == [
        *("several", "pathways", "onerec", "onerec", "scaling"),
        *("pathways", "pathways", "routers"),
    ]


def test_a_name_that_is_none_starts_nothing(tmp_path: Path) -> None:
    assert calls(tmp_path, "several", "lifelongs") == (2, [])
