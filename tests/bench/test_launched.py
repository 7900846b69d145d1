"""Processes that are started, watched and killed, with commands that take no time to load."""

import os
import sys
import time
from pathlib import Path

import psutil
import pytest

from onerec.bench import launched
from onerec.errors import RunError

PARENT = """
import subprocess, sys
child = subprocess.Popen(
    [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True
)
print(child.pid, file=sys.stderr, flush=True)
child.wait()
"""
TORCHRUN = """\
W1128 09:23:25.409000 24276 torch/distributed/elastic/multiprocessing/api.py:1028] Sending process \
24531 closing signal SIGTERM
E1128 09:23:25.411000 24276 torch/distributed/elastic/multiprocessing/api.py:1002] failed \
(exitcode: -9) local_rank: 1 (pid: 24532) of binary: python
Traceback (most recent call last):
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
"""
TRACEBACK = "  File \"a.py\", line 4, in f\n    g()\nKeyError: 'ours'\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a warning\nonerec: no run 'x'\n" + TORCHRUN, "no run 'x'"),
        (TRACEBACK + TORCHRUN, "KeyError: 'ours'"),
        (TRACEBACK + "[W1128 ProcessGroupNCCL.cpp:1] not destroyed\n", "KeyError: 'ours'"),
        ("[rank1]: torch.OutOfMemoryError: CUDA\n", "torch.OutOfMemoryError: CUDA"),
        ("python: no module named x\n", "python: no module named x"),
        (TORCHRUN, "failed (exitcode: -9)"),
        ("", "ended with status -9"),
    ],
)
def test_why_a_command_failed(text: str, said: str) -> None:
    assert launched.why(text, -9) == said


def test_a_command_is_pythons_or_torchruns() -> None:
    alone = launched.command("m", ["--run", "x"])
    assert alone == [sys.executable, "-m", "m", "--run", "x"]
    several = launched.command("m", ["--run", "x"], 2)
    assert several[:4] == [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    assert several[4:] == ["--nproc-per-node", "2", "-m", "--", "m", "--run", "x"]


def test_the_environment_goes_through_without_torchruns_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = {"PYTHONPATH": "/elsewhere", "RANK": "3", "MASTER_ADDR": "far", "NCCL_DEBUG": "WARN"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(launched, "cores", lambda: 5)
    found = launched.environment(2)
    here, elsewhere = found["PYTHONPATH"].split(os.pathsep)
    assert (Path(here) / "onerec" / "bench" / "launched.py").is_file()
    assert elsewhere == "/elsewhere"
    assert (found["OMP_NUM_THREADS"], found["NCCL_DEBUG"]) == ("2", "WARN")
    assert not {"RANK", "MASTER_ADDR"} & set(found)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert launched.environment(2)["OMP_NUM_THREADS"] == "7"


def test_nothing_that_was_started_is_left(tmp_path: Path) -> None:
    """Also a child with a session of its own, as torchrun's have."""
    log = tmp_path / "log"
    with launched.started([sys.executable, "-c", PARENT], log) as process:
        assert launched.until(process, lambda: log.read_text().endswith("\n"), 60, log)
        child = psutil.Process(int(log.read_text()))
        assert child.is_running()
    assert not process.is_running()
    gone = time.monotonic() + 10  # an orphan's end is read by init
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < gone
        time.sleep(0.01)


def test_an_end_is_told_from_a_failure(tmp_path: Path) -> None:
    log, python = tmp_path / "log", [sys.executable, "-c"]
    launched.to_the_end([*python, "pass"], log, limit=60)
    with pytest.raises(RunError, match=r"^no luck$"):
        launched.to_the_end([*python, "raise SystemExit('onerec: no luck')"], log, limit=60)
    with pytest.raises(RunError, match=r"^no end after 0 s$"):
        launched.to_the_end([*python, "import time; time.sleep(600)"], log, limit=0.1)
    with launched.started([*python, "pass"], log) as process:
        assert not launched.until(process, lambda: False, 60, log)
