"""A run that reads whole histories: the cache is never trusted unread, and every stage works."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_home
from safetensors.torch import load_file, save_file

from onerec import lifelong
from onerec.assembly import Setting, load_semantic_ids, setting_of, trained_model
from onerec.data.batches import TrainingBatches, training_examples
from onerec.data.snapshots import snapshot_events
from onerec.errors import RunError
from onerec.lifelong import with_lifelong
from onerec.model.generate import beam_search
from onerec.model.onerec import Batch, Events
from onerec.pipeline import run, run_stage
from onerec.recommend import Recommender
from onerec.runs import Run, open_run

CPU = torch.device("cpu")
CHANGES = {**toy_home.ALIGNED, **toy_home.LIFELONG}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the finished run `long`; do not change."""
    found = tmp_path_factory.mktemp("lifelong")
    toy_home.make_dataset(found, shortest=22)
    run("long", toy_home.make_recipe(CHANGES), "toy", home=found)
    return found


@pytest.fixture
def own(home: Path, tmp_path: Path) -> Run:
    """A copy of the run whose cache a test may damage."""
    shutil.copytree(home, tmp_path / "home")
    return open_run("long", tmp_path / "home")


def same(a: Setting, b: Setting) -> bool:
    assert a.snapshots is not None
    assert b.snapshots is not None
    pairs = zip(vars(a.snapshots).values(), vars(b.snapshots).values(), strict=True)
    return all(x.equal(y) for x, y in pairs)


def parts_of(run: Run) -> list[Path]:
    return sorted((run.path / "cache").glob("lifelong-*/*"))


# ----------------------------------------------------------------------------- the cache


def test_without_a_length_nothing_is_made(trained: Path) -> None:
    finished = open_run("first", trained)
    setting = setting_of(finished)
    assert with_lifelong(setting, finished, CPU) is setting
    assert not (finished.path / "cache").exists()
    assert setting.contexts("cpu").batch(torch.tensor([0]), torch.tensor([3])).lifelong is None


def test_what_is_kept_is_read_and_not_made_again(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = open_run("long", home)
    first = with_lifelong(setting_of(finished), finished, CPU)
    monkeypatch.delattr(lifelong, "make_snapshots")
    again = with_lifelong(setting_of(finished), finished, CPU)
    assert same(first, again)
    assert with_lifelong(again, finished, CPU) is again
    assert len(parts_of(finished)) == 1  # training, alignment and evaluation shared it


@pytest.mark.parametrize(
    "damage", ["gone", "cut", "a bit", "another part", "a column", "no digest"]
)
def test_what_is_damaged_is_made_again(
    own: Run, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifelong, "PART", 900)
    setting = setting_of(own)
    shutil.rmtree(own.path / "cache")
    whole = with_lifelong(setting, own, CPU)
    paths, made = parts_of(own), []
    before = {path: path.read_bytes() for path in paths}
    assert len(paths) > 2
    path = paths[1]
    tensors = load_file(path)
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(before[path][:-9])
    elif damage == "a bit":
        path.write_bytes(before[path][:-1] + bytes([before[path][-1] ^ 1]))
    elif damage == "another part":
        shutil.copy(paths[0], path)
    else:
        name = {"a column": "play", "no digest": "digest"}[damage]
        save_file({n: t for n, t in tensors.items() if n != name}, path)
    again = with_lifelong(setting, own, CPU, lambda done, of: made.append((done, of)))
    assert same(whole, again)
    assert made == [(2, len(paths))]
    assert {path: path.read_bytes() for path in paths} == before


def test_a_stop_loses_one_part_at_most(own: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = with_lifelong(setting_of(own), own, CPU)
    monkeypatch.setattr(lifelong, "PART", 900)  # its one file is not taken for the first of these
    made: list[int] = []

    def stop(done: int, of: int) -> None:
        made.append(done)
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        with_lifelong(setting_of(own), own, CPU, stop)
    again = with_lifelong(setting_of(own), own, CPU, lambda done, of: made.append(done))
    assert made[:3] == [1, 2, 3]
    assert same(whole, again)
    assert not list((own.path / "cache").rglob("*.tmp"))


def test_parts_hold_every_user_once_and_no_more_events_than_they_may(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lifelong, "PART", 100)
    offsets = np.cumsum([0, 20, 20, 20, 0, 90, 20, 3])
    parts = lifelong._parts(offsets)
    assert [number for part in parts for number in range(part.start, part.stop)] == list(range(7))
    events = snapshot_events(offsets)
    assert all(events[part].sum() <= 100 or part.stop - part.start == 1 for part in parts)
    assert len(parts) < 7
    assert lifelong._parts(np.array([0])) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("lifelong_length", "3"), ("lifelong_limit", "11"), ("lifelong_by", "recent")],
)
def test_other_settings_are_other_files(own: Run, name: str, value: str) -> None:
    changed = {**CHANGES, f"history.{name}": value}
    setting = Setting.of(toy_home.make_recipe(changed), setting_of(own).dataset)
    other = with_lifelong(setting, own, CPU)
    assert not same(other, with_lifelong(setting_of(own), own, CPU))
    assert len(parts_of(own)) == 2


def test_other_vectors_are_other_files(own: Run) -> None:
    path = own.path / "tokenizer" / "vectors.safetensors"
    before = with_lifelong(setting_of(own), own, CPU)
    save_file({"vectors": load_file(path)["vectors"].flip(0).contiguous()}, path)
    assert not same(before, with_lifelong(setting_of(own), own, CPU))
    path.unlink()
    with pytest.raises(RunError, match=r"history\.lifelong_length needs .*run `onerec tokenize`"):
        with_lifelong(setting_of(own), own, CPU)


# ------------------------------------------------------------------------------ the run


def test_every_stage_reads_whole_histories(home: Path) -> None:
    finished = open_run("long", home)
    assert finished.status().state == "done"
    for stage in ("tokenize", "pretrain", "reward", "align", "evaluate", "recommend"):
        assert finished.is_done(stage), stage
    ids, _ = load_semantic_ids(finished)
    setting = with_lifelong(setting_of(finished), finished, CPU)
    model = trained_model(finished, setting, ids)
    assert model.config.lifelong is not None
    assert model.config.lifelong.queries == 3
    examples = training_examples(setting.split)
    batches = TrainingBatches(setting.contexts("cpu"), examples, 64, 0, event_dropout=0.5)
    batch = batches(0)
    assert batch.lifelong is not None
    held = examples.end - setting.split.log.offsets[examples.user]
    numbers = batches.sampler(0)
    reads = (batch.lifelong.item > 0).any(1).numpy()
    assert not reads[held[numbers] < 16].any()
    assert reads[held[numbers] >= 16].mean() > 0.7  # a half of the clusters is hidden
    fresh = setting.new_model(ids).pathways.state_dict()
    learned = model.pathways.state_dict()
    assert any("qformer" in name for name in learned)
    assert all(not learned[name].equal(fresh[name]) for name in learned if "qformer" in name)


def test_the_pathway_changes_lists_and_its_absence_does_not_break_them(home: Path) -> None:
    """A user who is given as a list of items has no snapshot, and gets his list all the same."""
    finished = open_run("long", home)
    recommender = Recommender.load(finished)
    frame = recommender.recommend(["u08", "u03"], k=5)
    assert frame.groupby("user_id").size().tolist() == [5, 5]
    user = torch.tensor([0, 8])
    end = torch.from_numpy(recommender.setting.split.log.offsets[[1, 9]])
    read = recommender.contexts.batch(user, end)
    assert read.lifelong is not None
    items = torch.tensor([[3, 4, 5]])
    none = torch.zeros_like(items)
    by_hand = Events(items, none, none, torch.zeros(1, 3, 2))
    batch = Batch(torch.zeros(1, 1, dtype=torch.int64), by_hand, by_hand, items)
    found = beam_search(recommender.model, batch, recommender.trie, k=5, beam=10)
    assert found.scores.isfinite().all()
    assert found.items.unique().numel() == 5
    with torch.no_grad():
        with_it = recommender.model(read)[0]
        read.lifelong = None
        assert not torch.allclose(with_it, recommender.model(read)[0])


def test_a_recommender_that_lacks_the_histories_is_an_error_of_ours(home: Path) -> None:
    finished = open_run("long", home)
    setting = setting_of(finished)
    ids, popularity = load_semantic_ids(finished)
    model = trained_model(finished, setting, ids)
    with pytest.raises(AssertionError, match="with_lifelong"):
        Recommender(setting, ids, popularity, model, CPU)


def test_a_stop_while_histories_are_clustered_is_obeyed_and_the_run_goes_on(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(home / "datasets", tmp_path / "datasets")
    monkeypatch.setattr(lifelong, "PART", 900)

    def stop(stage: str, step: int, of: int, values: object) -> None:
        if "clustering" in json.dumps(values):
            Run(tmp_path / "runs" / "x").control(stop=True)

    recipe = toy_home.make_recipe(toy_home.LIFELONG)
    made = run_stage("pretrain", "x", recipe=recipe, dataset="toy", home=tmp_path, report=stop)
    assert made.status().state == "stopped"
    assert len(parts_of(made)) == 1
    assert run_stage("pretrain", "x", home=tmp_path).is_done("pretrain")
    assert len(parts_of(made)) > 1


def test_a_run_that_was_killed_ends_with_the_same_weights(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "datasets", tmp_path / "datasets")

    def stop(stage: str, step: int, of: int, values: object) -> None:
        if (stage, step) == ("pretrain", 15):
            Run(tmp_path / "runs" / "x").control(stop=True)

    recipe = toy_home.make_recipe(CHANGES)
    run_stage("pretrain", "x", recipe=recipe, dataset="toy", home=tmp_path, report=stop)
    again = run_stage("pretrain", "x", home=tmp_path)
    name = "pretrain/checkpoint-000030.safetensors"
    a, b = load_file(again.path / name), load_file(home / "runs" / "long" / name)
    assert a.keys() == b.keys()
    assert all(a[key].equal(b[key]) for key in a)
