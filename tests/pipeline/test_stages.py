"""A whole run: what it leaves on disk, that it repeats to the last digit, and what it refuses."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import toy_home
from safetensors.torch import load_file

import onerec
from onerec.assembly import setting_of
from onerec.data.dataset import dataset_path, open_dataset, write_dataset
from onerec.errors import DataError, OneRecError, RecipeError, RunError
from onerec.pipeline import STAGES, run, run_stage
from onerec.recommend import Recommender
from onerec.runs import STAGE_FOLDERS, Run, open_run

WORLD_FREE = {"popularity", "item_knn", "sasrec", "onerec"}


def without_seconds(value: Any) -> Any:
    """A JSON value without what a clock measured."""
    if isinstance(value, Mapping):
        return {key: without_seconds(v) for key, v in value.items() if key != "seconds"}
    return value


def files_of(path: Path) -> dict[str, tuple[int, int]]:
    """Each file with its size and time of change; status and log are written at every start."""
    passing = ("status.json", "log.txt")
    files = [p for p in path.rglob("*") if p.is_file() and p.name not in passing]
    return {str(p.relative_to(path)): (p.stat().st_size, p.stat().st_mtime_ns) for p in files}


def test_a_finished_run_holds_the_files_that_readers_expect(trained: Path) -> None:
    finished = open_run("first", trained)
    found = {str(p.relative_to(finished.path)) for p in finished.path.rglob("*") if p.is_file()}
    valid = {int(step): v for step, v in (finished.done("pretrain") or {})["valid"].items()}
    best = max(valid, key=lambda step: (valid[step], -step))
    assert found == {
        *("recipe.json", "status.json", "metrics.jsonl", "log.txt", "evaluate.json"),
        *("recommendations.parquet", "targets.parquet", "routing/load.parquet"),
        *(f"routing/tokens-0000{step}.parquet" for step in (10, 20, 30)),
        "routing/without.json",
        *(f"tokenizer/{n}.safetensors" for n in ("codebooks", "content", "vectors")),
        *("tokenizer/semantic_ids.parquet", "tokenizer/report.json"),
        *("baselines/lists.safetensors", "baselines/generated.safetensors"),
        *(
            f"baselines/{name}.{e}"
            for name in ("popularity", "item_knn", "sasrec")
            for e in ("json", "safetensors")
        ),
        *(f"{folder}/done.json" for folder in STAGE_FOLDERS.values()),
        *(
            f"pretrain/checkpoint-{s}.{e}"
            for s in {"000020", "000030", f"{best:06d}"}
            for e in ("json", "safetensors")
        ),
    }
    assert finished.status().state == "done"
    assert all(finished.is_done(stage) for stage in STAGES)


def test_recipe_json_says_all_that_decides_the_numbers(trained: Path) -> None:
    said = open_run("first", trained).recipe()
    dataset = open_dataset("toy", trained)
    assert set(said) == {"name", "recipe", "seed", "code_version", "dataset", "versions"}
    assert said["dataset"] == {"name": "toy", "fingerprint": dataset.fingerprint}
    assert (said["name"], said["seed"]) == ("tiny", 0)
    assert said["code_version"] == onerec.__version__
    assert said["recipe"]["train"]["steps"] == toy_home.STEPS
    assert {"python", "torch", "numpy", "duckdb"} <= set(said["versions"])


def test_a_second_run_with_one_seed_gives_the_same_to_the_last_digit(
    trained: Path, home: Path
) -> None:
    first = open_run("first", trained)
    torch.manual_seed(99)  # what happened before in this process must not matter
    np.random.default_rng(99).random(3)
    second = run("again", toy_home.make_recipe(), "toy", home=home)
    assert without_seconds(second.evaluate()) == without_seconds(first.evaluate())
    name = "pretrain/checkpoint-000030.safetensors"
    ours, theirs = load_file(first.path / name), load_file(second.path / name)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert second.recommendations().equals(first.recommendations())
    assert second.semantic_ids().equals(first.semantic_ids())
    assert second.metrics()["loss"].equals(first.metrics()["loss"])


def test_a_lazy_decoder_goes_through_all_stages_and_learns(home: Path) -> None:
    changes = {
        **toy_home.ALIGNED,
        "model.kind": "lazy",
        "context.width": "24",
        "context.separate_values": "true",
        "context.groups": "1",
        "baselines.names": "popularity",
    }
    made = run("lazy", toy_home.make_recipe(changes), "toy", home=home)
    assert all(made.is_done(stage) for stage in STAGES)
    names = load_file(made.path / "align" / "checkpoint-000008.safetensors").keys()
    assert "model.context.project.weight" in names
    assert not any("encoder" in name for name in names)
    loss = made.metrics("pretrain")["loss"]
    assert loss.iloc[-1] < 0.9 * loss.iloc[0]
    lists = made.recommendations()
    assert set(lists["model"]) >= {"onerec"}
    served = Recommender.load("lazy", home=home).recommend(["u00"], k=5)
    assert len(served) == 5
    assert served["item_id"].nunique() == 5


def test_another_seed_is_another_run(trained: Path, home: Path) -> None:
    other = run_stage(
        "pretrain", "b", recipe=toy_home.make_recipe({"seed": "1"}), dataset="toy", home=home
    )
    first = open_run("first", trained)
    assert not other.metrics()["loss"].equals(first.metrics("pretrain")["loss"])


def test_a_finished_run_does_nothing_the_second_time(finished: Path) -> None:
    path = finished / "runs" / "first"
    before, reports = files_of(path), []
    run("first", home=finished, report=lambda *said: reports.append(said))
    run("first", toy_home.make_recipe(), "toy", home=finished)
    assert files_of(path) == before
    assert reports == []
    assert Run(path).status().state == "done"


def test_one_stage_brings_those_before_it_and_no_more(home: Path) -> None:
    made = run_stage("tokenize", "part", recipe=toy_home.make_recipe(), dataset="toy", home=home)
    assert [stage for stage in STAGES if made.is_done(stage)] == ["tokenize"]
    before = files_of(made.path)
    assert run_stage("pretrain", "part", home=home).is_done("pretrain")
    assert before.items() <= files_of(made.path).items()  # the tokenizer was not made again
    with pytest.raises(RunError, match="no stage 'train'; there are tokenize, pretrain"):
        run_stage("train", "part", home=home)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.learning_rate": "0.1"}, r"made with train\.learning_rate = 0\.003, now .* 0\.1"),
        ({"seed": "1"}, "made with seed = 0, now asked for 1"),
    ],
)
def test_another_recipe_under_the_same_name_is_refused(
    finished: Path, changes: dict[str, str], message: str
) -> None:
    path = finished / "runs" / "first"
    before = files_of(path)
    with pytest.raises(RunError, match=message):
        run("first", toy_home.make_recipe(changes), "toy", home=finished)
    assert files_of(path) == before


def test_another_dataset_under_the_same_name_is_refused(finished: Path) -> None:
    toy_home.make_dataset(finished, "other", seed=1)
    with pytest.raises(RunError, match=r"made with dataset\.name = toy, now asked for other"):
        run("first", toy_home.make_recipe(), "other", home=finished)


def test_a_dataset_that_changed_under_its_name_is_refused(finished: Path) -> None:
    import shutil

    shutil.rmtree(finished / "datasets" / "toy")
    toy_home.make_dataset(finished, "toy", seed=1)
    with pytest.raises(RunError, match=r"made on another 'toy' \(fingerprint .*start a new run"):
        run("first", home=finished)
    shutil.rmtree(finished / "datasets" / "toy")
    with pytest.raises(DataError, match="no dataset 'toy'"):
        run("first", home=finished)


def refuse(
    home: Path, kind: type[OneRecError], message: str, name: str = "x", **options: Any
) -> None:
    """The error is as said, in one line, and no run folder is left behind."""
    with pytest.raises(kind, match=message) as caught:
        run(name, home=home, **options)
    assert "\n" not in str(caught.value)
    left = home / "runs"
    assert not left.exists() or not [p for p in left.rglob("*") if p.is_file()]


def test_a_run_finds_a_dataset_that_lies_outside_its_home(home: Path, tmp_path: Path) -> None:
    elsewhere, other = dataset_path("toy", home), tmp_path / "another_home"
    recipe = toy_home.make_recipe({"train.steps": "2"})
    done = run("r", recipe, str(elsewhere), home=other, stages=("tokenize",))
    assert done.dataset_folder == elsewhere.resolve()
    assert setting_of(done, other).dataset.path == elsewhere.resolve()
    run_stage("pretrain", "r", home=other)  # goes on without --dataset
    assert open_run("r", other).is_done("pretrain")
    assert (
        "dataset_path" not in run("r", recipe, "toy", home=home, stages=("tokenize",)).recipe()
    ), "its own home needs no path"


def test_what_cannot_work_is_refused_before_anything_is_made(home: Path) -> None:
    tiny = toy_home.make_recipe
    refuse(home, RunError, "--recipe is needed", dataset="toy")
    refuse(home, RunError, "--dataset is needed", recipe=tiny())
    refuse(home, DataError, r"no dataset 'tyo' .*there are toy", recipe=tiny(), dataset="tyo")
    refuse(
        home,
        RecipeError,
        r"codebook_size=64 is above the 30 items of 'toy' that may be fitted on; set at most 30",
        recipe=tiny({"tokenizer.codebook_size": "64"}),
        dataset="toy",
    )
    much = tiny({"train.batch_size": "1000000000"})
    refuse(
        home, RecipeError, "lower train.batch_size from 1,000,000,000", recipe=much, dataset="toy"
    )
    refuse(home, RecipeError, "device 'gpu'", recipe=tiny({"device": "gpu"}), dataset="toy")
    nope = tiny({**toy_home.ALIGNED, "industrial.column": "nope"})
    refuse(home, RecipeError, "industrial.column='nope': items have", recipe=nope, dataset="toy")
    nope = tiny({**toy_home.ALIGNED, "industrial.column": "author_id", "industrial.value": "x"})
    refuse(home, RecipeError, "industrial.value='x': no item has", recipe=nope, dataset="toy")
    for name in ("../out", "a/b", "", ".hidden", "a b", "/etc/x"):
        refuse(home, RunError, "run name", name, recipe=tiny(), dataset="toy")
    assert {p.name for p in home.iterdir()} <= {"datasets", "runs"}


def test_a_log_without_anything_to_train_on_leaves_no_run_behind(home: Path) -> None:
    """Each user has one training row, and so nothing before it. It left a failed run once."""
    parts = ("train", "test", "test")
    rows = [
        {"user_id": user, "item_id": (user + place) % 9, "position": place, "split": parts[place]}
        for user in range(12)
        for place in range(3)
    ]
    folder = dataset_path("short", home)
    items = pd.DataFrame({"item_id": range(9), "title": [f"title {place}" for place in range(9)]})
    write_dataset(folder, "short", pd.DataFrame(rows), items, None, source="test")
    given = toy_home.make_recipe({"evaluate.split": "given"})
    refuse(home, DataError, "'short': no training target has", recipe=given, dataset="short")
    assert run_stage("tokenize", "x", recipe=given, dataset="short", home=home).is_done("tokenize")


def test_a_failure_is_kept_in_the_status_and_the_claim_is_given_back(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setitem(STAGES, "tokenize", fail)
    with pytest.raises(ZeroDivisionError):
        run("x", toy_home.make_recipe(), "toy", home=home)
    failed = open_run("x", home)
    assert failed.status().state == "failed"
    assert failed.status().message == "ZeroDivisionError: by zero"
    assert not (failed.path / "writer.json").exists()
    monkeypatch.undo()
    assert run_stage("tokenize", "x", home=home).status().state == "done"


def test_listeners_hear_every_stage_from_its_beginning_to_its_end(home: Path) -> None:
    heard: list[tuple[str, int, int]] = []
    run(
        "x",
        toy_home.make_recipe(),
        "toy",
        home=home,
        report=lambda stage, step, of, _: heard.append((stage, step, of)),
    )
    for stage in STAGES:
        steps = [(step, of) for name, step, of in heard if name == stage]
        assert steps[0][0] == 0
        assert steps[-1][0] == steps[-1][1]
        assert [step for step, _ in steps] == sorted(step for step, _ in steps)
    order = list(dict.fromkeys(stage for stage, _, _ in heard))
    assert order == list(STAGES)


def test_evaluate_json_survives_a_strict_reader(trained: Path) -> None:
    def refuse_constant(name: str) -> None:
        raise AssertionError(name)

    text = (open_run("first", trained).path / "evaluate.json").read_text()
    assert set(json.loads(text, parse_constant=refuse_constant)["models"]) == WORLD_FREE
