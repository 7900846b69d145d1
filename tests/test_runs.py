"""Reading, listing, comparing and moving run folders."""

import json
import os
import shutil
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import psutil
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import fake_run

from onerec.errors import RunError
from onerec.runs import (
    Run,
    compare,
    delete_run,
    export_run,
    list_runs,
    open_run,
    rename_run,
    runs_home,
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return fake_run.build(tmp_path).home


@pytest.fixture
def run(home: Path) -> Run:
    return open_run("toy_run", home)


def set_status(run: Run, **values: object) -> None:
    old = json.loads((run.path / "status.json").read_text())
    (run.path / "status.json").write_text(json.dumps(old | values))


def alive() -> dict[str, object]:
    born = psutil.Process().create_time()
    return {"pid": os.getpid(), "process_started": born, "heartbeat": time.time()}


def test_home_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEREC_HOME", "/somewhere")
    assert runs_home() == Path("/somewhere/runs")
    monkeypatch.delenv("ONEREC_HOME")
    assert runs_home() == Path("data/runs")
    assert runs_home(Path("mine")) == Path("mine/runs")


def test_a_finished_run_is_read(run: Run, home: Path) -> None:
    assert run.status().state == "done"
    assert not run.status().active
    assert run.recipe()["name"] == "tiny"
    assert run.dataset_folder == home / "datasets" / "toy"
    assert run.is_done("tokenize")
    assert not run.is_done("distil")
    assert list(run.semantic_ids()["item"]) == list(range(fake_run.ITEMS))
    books, vectors = run.codebooks(), run.vectors()
    assert books is not None
    assert vectors is not None
    assert books.shape == (fake_run.LEVELS, fake_run.CODES, fake_run.DIM)
    assert vectors.shape == (fake_run.ITEMS, fake_run.DIM)
    assert vectors.dtype == np.float32


def test_lists_are_filtered_by_user_and_model(run: Run) -> None:
    assert len(run.recommendations()) == 2 * fake_run.USERS * fake_run.K
    one = run.recommendations(3, "item_knn")
    assert list(one["rank"]) == list(range(1, fake_run.K + 1))
    assert set(one["model"]) == {"item_knn"}
    assert one["lp_1"].isna().all()
    assert len(run.targets(3)) == 1
    assert len(run.targets()) == fake_run.USERS


def test_an_empty_folder_gives_empty_answers(tmp_path: Path) -> None:
    run = Run(tmp_path / "runs" / "new")
    run.path.mkdir(parents=True)
    assert run.status().state == "new"
    assert run.recipe() == {}
    assert run.dataset_folder is None
    assert run.evaluate() is None
    assert run.vectors() is None
    assert run.metrics().empty
    assert run.semantic_ids().empty
    assert run.recommendations(1).empty
    assert run.checkpoints().empty
    assert run.log_tail() == ""


def test_running_is_derived_from_the_process_not_from_the_file(run: Run) -> None:
    set_status(run, state="running", pid=999_999_999)
    assert run.status().state == "interrupted"
    set_status(run, state="running", **alive())
    assert run.status().state == "running"
    set_status(run, process_started=1.0)
    assert run.status().state == "interrupted", "another process has the same number now"
    set_status(run, state="paused", **alive())
    assert run.status().state == "paused"
    set_status(run, state="running", **alive(), step=3, of=4)
    later = run.status(now=time.time() + 61)
    assert later.state == "stalled"
    assert later.active
    assert later.share == 0.75


def test_a_line_cut_off_at_the_end_is_left_out_but_one_in_the_middle_is_named(run: Run) -> None:
    path = run.path / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"stage": "pretrain", "st')
    assert len(run.metrics("pretrain")) == fake_run.STEPS
    lines = whole.splitlines()
    path.write_text("\n".join([*lines[:4], "{broken", *lines[4:]]) + "\n")
    with pytest.raises(RunError, match="line 5"):
        run.metrics()


def test_a_checkpoint_counts_only_with_its_json(run: Run) -> None:
    (run.path / "pretrain" / "checkpoint-000061.safetensors").write_bytes(b"half")
    assert list(run.checkpoints()["step"]) == [60]


def test_a_damaged_table_or_tensor_is_named(run: Run) -> None:
    (run.path / "recommendations.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(RunError, match=r"recommendations\.parquet"):
        run.recommendations(0)
    (run.path / "tokenizer" / "vectors.safetensors").write_bytes(b"cut")
    with pytest.raises(RunError, match="tokenize again"):
        run.vectors()


def test_two_presses_of_step_are_two_steps(run: Run) -> None:
    assert run.control(pause=True) == {"pause": True, "steps": 0, "stop": False}
    run.control(steps=1)
    assert run.control(steps=1) == {"pause": True, "steps": 2, "stop": False}
    assert run.control(pause=False)["pause"] is False


def test_the_stamp_changes_when_a_stage_finishes(run: Run) -> None:
    before = run.stamp()
    assert run.stamp() == before
    os.utime(run.path / "pretrain" / "done.json", ns=(1, 1))
    assert run.stamp() != before


def test_an_unknown_run_offers_the_nearest_name(home: Path) -> None:
    with pytest.raises(RunError, match="did you mean 'toy_run'"):
        open_run("toy_rum", home)
    with pytest.raises(RunError, match="onerec runs list"):
        open_run("quite-other", home)
    with pytest.raises(RunError, match="run name"):
        open_run("..", home)
    assert open_run(home / "runs" / "toy_run").name == "toy_run"


def test_the_list_is_newest_first_and_a_damaged_run_does_not_hide_the_others(home: Path) -> None:
    assert list_runs(home / "nowhere") == []
    shutil.copytree(home / "runs" / "toy_run", home / "runs" / "later")
    set_status(Run(home / "runs" / "later"), started=2e9)
    (home / "runs" / "bad").mkdir()
    (home / "runs" / "bad" / "status.json").write_text("{")
    infos = list_runs(home)
    assert [info.name for info in infos] == ["later", "toy_run", "bad"]
    assert infos[-1].state == "damaged"
    assert (infos[1].recipe, infos[1].dataset) == ("tiny", "toy")
    assert infos[1].metrics is not None
    assert infos[1].metrics["recall@10"] == 0.5


def test_compare_shows_only_what_differs(home: Path, run: Run) -> None:
    shutil.copytree(run.path, home / "runs" / "other")
    other = Run(home / "runs" / "other")
    assert compare([run, other]).empty
    recipe = run.recipe()
    recipe["recipe"]["train"]["steps"] = 99
    recipe["recipe"]["model"].pop("experts")
    recipe["seed"] = 7
    (other.path / "recipe.json").write_text(json.dumps(recipe))
    table = compare([run, other])
    assert list(table.columns) == ["setting", "toy_run", "other"]
    assert table.set_index("setting").T.to_dict("list") == {
        "model.experts": ["4", ""],
        "train.steps": ["60", "99"],
        "seed": ["0", "7"],
    }


def test_rename_and_delete_refuse_a_running_run(run: Run) -> None:
    set_status(run, state="running", **alive())
    with pytest.raises(RunError, match="stop it first, then rename"):
        rename_run(run, "new")
    with pytest.raises(RunError, match="stop it first, then delete"):
        delete_run(run)
    assert run.path.is_dir()


def test_a_run_whose_stream_is_running_stays(run: Run) -> None:
    stream = Run(run.path / "stream" / "rsft")
    stream.path.mkdir(parents=True)
    shutil.copy(run.path / "status.json", stream.path)
    set_status(stream, state="running", **alive())
    with pytest.raises(RunError, match=r"its stream 'rsft' is running .* then delete"):
        delete_run(run)
    assert run.path.is_dir()


def test_a_run_whose_map_is_being_made_stays(run: Run) -> None:
    """It was deleted under the worker, which then wrote into a folder that was gone."""
    task = Run(run.path / "cache" / "umap")
    task.path.mkdir(parents=True)
    shutil.copy(run.path / "status.json", task.path)
    set_status(task, state="running", **alive())
    with pytest.raises(RunError, match=r"its task 'umap' is running .* then delete"):
        delete_run(run)
    assert run.path.is_dir()


def test_rename_and_delete(run: Run, home: Path) -> None:
    renamed = rename_run(run, "better")
    assert renamed.status().state == "done"
    assert not run.path.exists()
    shutil.copytree(renamed.path, home / "runs" / "taken")
    with pytest.raises(RunError, match="already there"):
        rename_run(renamed, "taken")
    with pytest.raises(RunError, match="run name"):
        rename_run(renamed, "../out")
    delete_run(renamed)
    assert [path.name for path in (home / "runs").iterdir()] == ["taken"]


def test_export_leaves_out_weights_and_passing_files(run: Run, tmp_path: Path) -> None:
    run.control(pause=True)
    (run.path / "writer.json").write_text("{}")
    with zipfile.ZipFile(export_run(run, tmp_path / "a.zip")) as archive:
        names = archive.namelist()
    assert "toy_run/evaluate.json" in names
    assert "toy_run/tokenizer/codebooks.safetensors" in names
    assert not [name for name in names if "checkpoint-000060.safetensors" in name]
    assert not {"toy_run/control.json", "toy_run/writer.json"} & set(names)
    with zipfile.ZipFile(export_run(run, tmp_path / "a.zip", checkpoints=True)) as archive:
        assert "toy_run/pretrain/checkpoint-000060.safetensors" in archive.namelist()
    assert [path.name for path in tmp_path.glob(".*")] == []
