"""Cache: a finished thing is read once, a changed one again."""

import os
from pathlib import Path

import cache
import fake_run

from onerec.runs import Run

calls = []


def counted(source: Run, times: int = 1) -> int:
    calls.append(times)
    return len(calls)


def test_read_once_until_the_run_changes(tmp_path: Path) -> None:
    run = Run(fake_run.build(tmp_path).run)
    calls.clear()
    assert cache.read(counted, run) == cache.read(counted, run) == 1
    assert cache.read(counted, run, times=2) == 2
    assert cache.read(counted, Run(run.path)) == 1
    done = run.path / "evaluate" / "done.json"
    os.utime(done, ns=(1, 1))
    assert cache.read(counted, run) == 3


def test_a_dataset_is_read_again_after_an_import(tmp_path: Path) -> None:
    folder = fake_run.build(tmp_path).dataset
    before = cache.stamp(folder)
    os.utime(folder / "dataset.json", ns=(1, 1))
    assert cache.stamp(folder) != before
    assert cache.stamp(tmp_path / "nowhere") == ""
