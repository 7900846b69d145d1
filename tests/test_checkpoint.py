"""Checkpoints: what comes back is what was saved; what is damaged is said."""

from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from onerec.checkpoint import (
    checkpoints,
    load_model,
    load_optimizer,
    load_tensors,
    prune,
    save_checkpoint,
    save_tensors,
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
    load_model(saved.path, other)
    load_optimizer(saved.path, other, other_optimizer)
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


def test_pruning_keeps_the_newest_and_the_named(tmp_path: Path) -> None:
    model, optimizer = _trained(0)
    for step in range(1, 6):
        save_checkpoint(tmp_path, step, model, optimizer, {})
    prune(tmp_path, keep=2, also={1})
    assert [c.step for c in checkpoints(tmp_path)] == [1, 4, 5]
    assert len(list(tmp_path.iterdir())) == 6


def test_steps_of_seven_digits_are_newer_than_those_of_six(tmp_path: Path) -> None:
    """In the order of names 1,000,000 came before 999,999, so the newest was pruned."""
    model, optimizer = _trained(0)
    for step in (999_998, 999_999, 1_000_000):
        save_checkpoint(tmp_path, step, model, optimizer, {})
    prune(tmp_path, keep=2)
    assert [c.step for c in checkpoints(tmp_path)] == [999_999, 1_000_000]


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such file; run the stage"):
        load_tensors(tmp_path / "none.safetensors")


def test_a_full_disk_is_told_in_one_line_and_the_old_file_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """safetensors has an error of its own, no OSError: a training ended in a traceback."""
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"x": torch.ones(2)})

    def full(*_: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("onerec.checkpoint.save_file", full)
    with pytest.raises(RunError, match=r"No space left .*free some disk space"):
        save_tensors(path, {"x": torch.zeros(2)})
    assert load_tensors(path)["x"].tolist() == [1.0, 1.0]
    assert list(tmp_path.iterdir()) == [path]
