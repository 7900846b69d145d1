"""`onerec doctor`, `app` and `bench`: what is around a run."""

import functools
import importlib
import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from onerec.cli import tools


def test_doctor_says_what_is_here(cli: Any, finished: Path) -> None:
    facts = cli("doctor", "--json").json()
    assert facts["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert facts["home"] == str(finished.resolve())
    assert (facts["datasets"], facts["runs"], facts["home_writable"]) == (1, 1, True)
    assert "home_writable" in cli("doctor").out


def test_without_its_files_the_app_says_where_it_comes_from(
    cli: Any, check_refused: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tools, "__file__", str(tmp_path / "a" / "b" / "c.py"))
    check_refused(cli("app"), "main.py", "comes with the repository")
    assert not (tmp_path / "a").exists()


def test_the_app_is_streamlit_on_its_own_port(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[list[str]] = []

    def call(command: list[str], **_: object) -> int:
        called.append(command)
        return 3

    monkeypatch.setattr(tools.subprocess, "call", call)
    assert cli("app", "--port", "8601").code == 3
    assert called[0][1:4] == ["-m", "streamlit", "run"]
    assert called[0][-1] == "8601"


def test_a_benchmark_prints_what_it_measured(
    cli: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The real function, only smaller: a stand-in once hid that the command could not call it."""
    pytest.importorskip("transformers")
    module = importlib.import_module("onerec.bench.generate")
    small = {"items": 300, "our_sizes": [2], "peer_sizes": [1]}
    monkeypatch.setattr(module, "run", functools.partial(module.run, **small))
    target = tmp_path / "result.json"
    words = ("--beams", "10", "--rounds", "1", "--seconds", "0", "--threads", "1")
    answer = cli("bench", "generate", *words, "--out", target, "--json").json()
    assert answer["command"].startswith("python -m onerec.bench.generate --beams 10 --rounds 1")
    assert [row["beams"] for row in answer["results"]] == [10]
    assert answer["results"][0]["ratio"] > 0
    assert json.loads(target.read_text()) == answer


def test_the_tokenizers_benchmark_takes_a_file(
    cli: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = importlib.import_module("onerec.bench.tokenizer")
    monkeypatch.setattr(module, "Size", functools.partial(module.Size, levels=2, codes=4))
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(60, 3)))
    words = ["--vectors", tmp_path / "x.npy", "--world", 0, "--seeds", 2, "--json"]
    words += ["--kinds", "rq_kmeans", "random", "--threads", 1]
    answer = cli("bench", "tokenizer", *words).json()
    assert answer["vectors"]["rq_kmeans"]["utilisation"][0]["mean"] == 1
    assert answer["seeds"] == 2
    assert "world" not in answer


@pytest.mark.parametrize("name", ["generate", "world", "kmeans", "tokenizer"])
def test_every_benchmark_runs_without_arguments(name: str) -> None:
    run = importlib.import_module(f"onerec.bench.{name}").run
    required = [p for p in inspect.signature(run).parameters.values() if p.default is p.empty]
    assert required == []


@pytest.mark.parametrize(
    ("name", "words", "asked"),
    [
        ("rl", "--recipe tiny --group 9 --users 4", {"name": "tiny", "group": 9, "users": 4}),
        ("generate", "--beams 3 5 --seconds 0.5", {"beams": [3, 5], "seconds": 0.5}),
        ("world", "--kuairand here --threads 1", {"kuairand": Path("here"), "threads": 1}),
        ("kmeans", "--clusters 7 --turns 2", {"clusters": 7, "turns": 2}),
        ("tokenizer", "--world 9 --kinds random", {"world": 9, "kinds": ["random"]}),
        (
            "train",
            "--recipe tiny --set seed=1 --set train.steps=2 --compile --stream",
            {
                "name": "tiny",
                "changes": {"seed": "1", "train.steps": "2", "train.compile": "true"},
                "stream": True,
            },
        ),
    ],
)
def test_a_benchmark_takes_the_options_of_its_module(
    cli: Any, monkeypatch: pytest.MonkeyPatch, name: str, words: str, asked: dict[str, Any]
) -> None:
    """Once `onerec bench rl` had neither the recipe nor the group of its module."""
    module, given = importlib.import_module(f"onerec.bench.{name}"), {}

    def run(**settings: Any) -> dict[str, Any]:
        given.update(settings)
        return {"benchmark": name}

    monkeypatch.setattr(module, "run", run)
    assert cli("bench", name, *words.split(), "--json").json() == {"benchmark": name}
    assert given | asked == given
    for flag in [word for word in words.split() if word.startswith("--")]:
        assert flag in cli("bench", name, "--help").out


def test_a_mistake_in_a_benchmark_is_one_line(cli: Any, check_refused: Any) -> None:
    answers = cli("bench", "rl", "--recipe", "tinny"), cli("bench", "train", "--set", "seed")
    assert [answer.code for answer in answers] == [2, 2]
    for answer, said in zip(answers, ("did you mean 'tiny'", "'seed' has no '='"), strict=True):
        check_refused(answer, said)


def test_the_map_is_made_kept_and_told(
    cli: Any, check_refused: Any, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = shutil.copytree(trained, tmp_path / "home")
    monkeypatch.setenv("ONEREC_HOME", str(home))
    made = importlib.import_module("onerec.pipeline.item_map")
    monkeypatch.setattr(made, "_places", lambda x, config: x[:, :2])  # UMAP compiles for a minute
    facts = cli("map", "--run", "first", "--seed", "2", "--json").json()
    assert facts["seed"] == 2
    kept = json.loads(next((home / "runs" / "first" / "cache").glob("umap-*.json")).read_text())
    assert kept == facts
    assert "ten nearest" in cli("map", "--run", "first", "--seed", "2").out
    check_refused(cli("map", "--run", "first", "--neighbours", "1"), "neighbours=1")
    check_refused(cli("map", "--run", "gone"), "no run 'gone'")


def test_trees_are_put_beside_the_towers_and_told(
    cli: Any, check_refused: Any, aligned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = shutil.copytree(aligned, tmp_path / "home")
    monkeypatch.setenv("ONEREC_HOME", str(home))
    made = cli("rival", "--run", "first", "--json").json()
    assert json.loads((home / "runs" / "first" / "reward" / "rival.json").read_text()) == made
    told = cli("rival", "--run", "first").out
    assert "rival_auc" in told
    assert f"{made['behaviours']['click']['auc']:.4f}" in told
    (home / "runs" / "first" / "reward" / "done.json").unlink()
    check_refused(cli("rival", "--run", "first"), "onerec reward --run first")


def test_quantisers_are_compared_on_a_run_and_kept(
    cli: Any, check_refused: Any, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = shutil.copytree(trained, tmp_path / "home")
    monkeypatch.setenv("ONEREC_HOME", str(home))
    words = ("bench", "quantisers", "--run", "first", "--seeds", "1", "--steps", "3")
    result = cli(*words, "--out", tmp_path / "out.json", "--json").json()
    assert [row["kind"] for row in result["rows"]] == [
        "rq_kmeans",
        "refined",
        "balanced",
        "rq_vae",
        "random",
    ]
    assert json.loads((tmp_path / "out.json").read_text()) == result
    assert json.loads((home / "runs/first/cache/quantisers.json").read_text()) == result
    assert "rq_vae" in cli(*words).out
    check_refused(cli("bench", "quantisers", "--run", "first", "--seeds", "0"), "seeds=0")
