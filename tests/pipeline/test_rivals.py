"""Baselines are trained once; lists that were made beforehand are those that are made here."""

import importlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from onerec.assembly import Setting, setting_of
from onerec.pipeline import rivals, run
from onerec.pipeline.rivals import BEFORE, finished_rival, keep_made, list_before, made_before
from onerec.runs import open_run

CPU = torch.device("cpu")


def test_a_finished_baseline_is_not_trained_again(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = open_run("first", finished)
    before = done.evaluate()
    (done.path / "evaluate.json").unlink()
    (done.path / "evaluate" / "done.json").unlink()
    module = importlib.import_module("onerec.pipeline.evaluate")  # the package has a function of it
    monkeypatch.setattr(module, "train_rival", lambda *_: pytest.fail("again"))
    after = run("first", home=finished).evaluate()
    assert before is not None
    assert after is not None
    assert after["models"]["sasrec"] == before["models"]["sasrec"]


def test_lists_without_their_description_are_not_finished(finished: Path) -> None:
    folder = open_run("first", finished).path / "baselines"
    assert finished_rival(folder, "sasrec") is not None
    (folder / "sasrec.json").unlink()
    assert finished_rival(folder, "sasrec") is None


def test_the_cases_are_those_of_the_part(trained: Path) -> None:
    setting: Setting = setting_of(open_run("first", trained))
    assert rivals.cases_of(setting) is setting.split.test


def test_lists_that_were_made_come_back(aligned: Path) -> None:
    done = open_run("first", aligned)
    assert made_before(done, BEFORE) is None
    made = list_before(done, setting_of(done), CPU)
    keep_made(done, BEFORE, made)
    found = made_before(done, BEFORE)
    assert found is not None
    assert np.array_equal(found[BEFORE], made[BEFORE])
    shutil.rmtree(done.path / rivals.MADE)


def test_a_log_has_no_ends(trained: Path) -> None:
    assert rivals.list_ends(setting_of(open_run("first", trained))) == {}
