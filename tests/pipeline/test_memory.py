"""What a person reads when there is not enough memory."""

from pathlib import Path

import pytest
import torch
import toy_home

from onerec.errors import RunError
from onerec.model.onerec import OneRec
from onerec.pipeline import run_stage
from onerec.pipeline.memory import LOWER, told_of_memory
from onerec.pipeline.stages import STAGES
from onerec.recipes import recipe, setting_names
from onerec.runs import open_run

CUDA = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.10 GiB of "
    "which 312.75 MiB is free. Process 7 has 78.79 GiB memory in use. Of the allocated memory "
    "70.00 GiB is allocated by PyTorch."
)


def test_a_gpu_that_is_full_ends_the_training_in_one_line(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, calls = OneRec.loss, []

    def loss(model: OneRec, batch: object) -> object:
        calls.append(batch)
        if len(calls) == 3:
            raise torch.OutOfMemoryError(CUDA)
        return whole(model, batch)

    monkeypatch.setattr(OneRec, "loss", loss)
    with pytest.raises(RunError) as caught:
        run_stage("pretrain", "x", recipe=toy_home.make_recipe(), dataset="toy", home=home)
    assert str(caught.value) == (
        "pretrain: out of memory: 2.50 GiB more were asked for, 312.75 MiB of 79.10 GiB were free; "
        "go on in smaller parts (--micro-batches 4), or start a new run with a lower "
        "train.batch_size (now 32), or history.positive_length (now 8) or model.width (now 16)"
    )
    status = open_run("x", home).status()
    assert (status.state, status.message) == ("failed", str(caught.value))


def test_the_systems_own_refusal_is_told_as_well() -> None:
    said = r"out of memory: \d+ bytes more.*align\.users \(now 16\)"
    made = recipe("tiny", {"align.users": "16"})
    with pytest.raises(RunError, match=said), told_of_memory("align", made):
        torch.empty(2**60, dtype=torch.uint8)


def test_another_error_stays_what_it_is() -> None:
    plain, made = pytest.raises(RuntimeError, match="cannot be multiplied"), recipe("tiny")
    with plain, told_of_memory("pretrain", made):
        torch.ones(2, 3) @ torch.ones(2, 3)


def test_every_stage_names_settings_that_exist() -> None:
    assert set(LOWER) == set(STAGES)
    assert {path for paths in LOWER.values() for path in paths} <= set(setting_names())
