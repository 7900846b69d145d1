"""Checkpoints: what comes back is what was saved; what is damaged is said."""

from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from onerec.checkpoint import (
    checkpoints,
    load_model,
    load_tensors,
    prune,
    put_training,
    read_training,
    save_checkpoint,
    save_tensors,
    training_state,
    write_checkpoint,
)
from onerec.errors import RunError


def _trained(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.randn(4, 3)).square().mean().backward()
    optimizer.step()
    return model, optimizer


def test_model_and_optimizer_come_back_and_go_on_alike(tmp_path: Path) -> None:
    model, optimizer = _trained(0)
    saved = save_checkpoint(tmp_path, 5, model, optimizer, {"note": "x"})
    assert (saved.step, saved.info["note"]) == (5, "x")
    other, other_optimizer = _trained(1)
    put_training(read_training(saved.path, other), other, other_optimizer)
    x = torch.ones(1, 3)
    for net, opt in ((model, optimizer), (other, other_optimizer)):
        opt.zero_grad()
        net(x).sum().backward()
        opt.step()
    assert torch.equal(model.weight, other.weight)


def test_a_checkpoint_cut_in_half_is_not_offered_and_not_loaded(tmp_path: Path) -> None:
    model, optimizer = _trained(0)
    save_checkpoint(tmp_path, 1, model, optimizer, {})
    cut = save_checkpoint(tmp_path, 2, model, optimizer, {}).path
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    assert [c.step for c in checkpoints(tmp_path)] == [1]
    with pytest.raises(RunError, match="damaged"):
        load_model(cut, model)


def test_weights_of_another_shape_are_refused_by_name(tmp_path: Path) -> None:
    model, optimizer = _trained(0)
    path = save_checkpoint(tmp_path, 1, model, optimizer, {}).path
    with pytest.raises(RunError, match=r"'bias' is \(2,\) in the file, \(5,\) in the model"):
        load_model(path, nn.Linear(3, 5))


@pytest.mark.parametrize(
    ("moment", "says"),
    [
        ("bias.exp_avg", r"'bias\.exp_avg' is \(5,\) in the file, and its parameter \(2,\) in the"),
        ("other.exp_avg", r"'other\.exp_avg' is \(5,\) in the file, and its parameter absent in"),
    ],
)
def test_moments_of_another_shape_are_refused_before_any_weight_is_put(
    tmp_path: Path, moment: str, says: str
) -> None:
    state = training_state(*_trained(0)) | {f"optim.{moment}": torch.zeros(5)}
    path = write_checkpoint(tmp_path, 1, state, {}).path
    model, optimizer = _trained(1)
    before = {name: tensor.clone() for name, tensor in training_state(model, optimizer).items()}
    with pytest.raises(RunError, match=says):
        put_training(read_training(path, model), model, optimizer)
    after = training_state(model, optimizer)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_pruning_keeps_the_newest_and_the_named(tmp_path: Path) -> None:
    model, optimizer = _trained(0)
    for step in range(1, 6):
        save_checkpoint(tmp_path, step, model, optimizer, {})
    prune(tmp_path, keep=2, also={1})
    assert [c.step for c in checkpoints(tmp_path)] == [1, 4, 5]
    assert len(list(tmp_path.iterdir())) == 6


def test_checkpoints_are_in_the_order_of_their_steps_however_long(tmp_path: Path) -> None:
    for step in (999_998, 999_999, 1_000_000):
        write_checkpoint(tmp_path, step, {"model.w": torch.zeros(1)}, {})
    assert [c.step for c in checkpoints(tmp_path)] == [999_998, 999_999, 1_000_000]
    prune(tmp_path, keep=2)
    assert [c.step for c in checkpoints(tmp_path)] == [999_999, 1_000_000]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError])
def test_a_full_disk_is_told_and_leaves_no_half_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception] | Exception
) -> None:
    """safetensors has an error of its own for it, which is no OSError."""

    def full(tensors: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise error if isinstance(error, OSError) else error("I/O error: No space left on device")

    monkeypatch.setattr("onerec.checkpoint.save_file", full)
    with pytest.raises(RunError, match=r"cannot write \(.*No space left.*free some disk space"):
        save_tensors(tmp_path / "weights.safetensors", {"w": torch.zeros(3)})
    assert not list(tmp_path.iterdir())


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such file; run the stage"):
        load_tensors(tmp_path / "none.safetensors")
