"""Checkpoints of two processes, read by one and by two; and one's, read by two."""

import json
from pathlib import Path

import pytest
import torch
import two_processes as two
from torch import Tensor

from onerec.checkpoint import checkpoints, load_tensors, put_training
from onerec.errors import RunError
from onerec.loop import loop
from onerec.shards import consolidate, prune_saved, read_checkpoint, read_shards, saved


@pytest.fixture
def folder(two_trained: Path, tmp_path: Path) -> Path:
    """A copy to do with as one likes."""
    import shutil

    return Path(shutil.copytree(two_trained, tmp_path / "copy"))


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], exact: bool = True) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        rtol, atol = (0.0, 0.0) if exact else (1e-6, 1e-9)
        torch.testing.assert_close(found[name], tensor, rtol=rtol, atol=atol)


def test_shards_hold_what_an_ordinary_checkpoint_holds(two_trained: Path, tmp_path: Path) -> None:
    """By the same names, and the numbers of one process."""
    state = read_shards(two_trained / "shards-000003")
    assert_same(state, load_tensors(two_trained / "state.safetensors"))
    assert_same(state, two.save_alone(tmp_path, two.STEPS), exact=False)
    assert len(list((two_trained / "shards-000003").glob("*.safetensors"))) == two.WORLD
    assert not list(two_trained.rglob("*.metadata"))  # no pickle


def test_two_processes_read_what_two_wrote_and_what_one_wrote(two_trained: Path) -> None:
    state = load_tensors(two_trained / "state.safetensors")
    assert_same(load_tensors(two_trained / "loaded shards.safetensors"), state)
    first = load_tensors(two_trained / "checkpoint-000002.safetensors")
    assert_same(load_tensors(two_trained / "loaded checkp.safetensors"), first)


def test_whoever_goes_on_ends_where_one_process_ends(two_trained: Path, tmp_path: Path) -> None:
    whole = two.save_alone(tmp_path, two.STEPS + 1)
    assert_same(load_tensors(two_trained / "final shards.safetensors"), whole, exact=False)
    assert_same(load_tensors(two_trained / "final checkp.safetensors"), whole, exact=False)
    model = two.new_model("experts")
    made, optimizer = two.trainee("experts", model)
    put_training(read_checkpoint(two_trained / "shards-000003", model), model, optimizer)
    assert_same(two.whole_state(model, optimizer), load_tensors(two_trained / "state.safetensors"))
    list(loop(made, start=two.STEPS, steps=two.STEPS + 1))
    assert_same(two.whole_state(model, optimizer), whole, exact=False)


def test_shards_become_one_file(folder: Path) -> None:
    state = load_tensors(folder / "state.safetensors")
    last = saved(folder)[-1]
    made = consolidate(last)
    assert made.path == folder / "checkpoint-000003.safetensors"
    assert_same(load_tensors(made.path), state)
    assert made.info["valid"] == {"3": 0.5}
    assert not list(folder.glob("shards-*"))
    assert [each.step for each in checkpoints(folder)] == [2, 3]
    assert consolidate(made) is made


def test_both_kinds_are_listed_and_pruned_in_the_order_of_their_steps(folder: Path) -> None:
    assert [each.path.name for each in saved(folder)] == [
        "checkpoint-000002.safetensors",
        "shards-000003",
    ]
    prune_saved(folder, keep=1, also={2})
    assert [each.step for each in saved(folder)] == [2, 3]
    prune_saved(folder, keep=1)
    assert [each.step for each in saved(folder)] == [3]
    assert not list(folder.glob("checkpoint-*"))


def test_shards_that_are_cut_short_are_left_out(folder: Path) -> None:
    part = next((folder / "shards-000003").glob("*.safetensors"))
    part.write_bytes(part.read_bytes()[:-8])
    assert [each.step for each in saved(folder)] == [2]
    part.unlink()
    (folder / "shards-000003.json").unlink()
    assert [each.step for each in saved(folder)] == [2]


def test_damaged_shards_are_named_in_one_line(folder: Path) -> None:
    part = next((folder / "shards-000003").glob("*.safetensors"))
    part.write_bytes(b"\xff" * part.stat().st_size)
    assert saved(folder)[-1].step == 3  # as long as it should be
    with pytest.raises(RunError, match=r"shards-000003: damaged \(.*\); delete it and") as caught:
        read_shards(folder / "shards-000003")
    assert "\n" not in str(caught.value)


def test_shards_of_another_model_are_refused(folder: Path) -> None:
    model = two.new_model("lazy")
    with pytest.raises(RunError, match=r"shards-000003: tensor '.*' is .* another recipe"):
        read_checkpoint(folder / "shards-000003", model)


def test_what_is_known_of_a_checkpoint_is_readable(two_trained: Path) -> None:
    info = json.loads((two_trained / "shards-000003.json").read_text())
    assert (info["step"], info["valid"]) == (3, {"3": 0.5})
