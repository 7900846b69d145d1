"""Processes that a benchmark starts, alone or by torchrun, watches, kills and hears of.

Whatever is left of them gets SIGKILL at the end, also where the benchmark itself ends early. Their
stderr is kept in a file. The commands do not depend on the folder that they are started in.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from subprocess import DEVNULL

import psutil

import onerec
from onerec.bench.mistakes import last_line
from onerec.common import cores
from onerec.errors import RunError

POLL_SECONDS = 0.05
ALONE = (  # what torchrun tells a process, which one alone must not hear from around the benchmark
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    *("MASTER_ADDR", "MASTER_PORT"),
)
# what torchrun says once one of its processes has ended, and how Python ends a traceback
_REPORT = re.compile(r"^[EW]\d{4} .*torch/distributed/elastic/", re.MULTILINE)
_STATUS = re.compile(r"failed \(exitcode: .*?\)")
_RAISED = re.compile(r"^(?:\[rank\d+\]: ?)?((?:\w+\.)*\w+(?:Error|Exception)\b.*)", re.MULTILINE)


def command(module: str, words: Sequence[str], processes: int | None = None) -> list[str]:
    """`python -m MODULE WORDS`, by so many processes of torchrun where a number is given."""
    python = [sys.executable, "-m"]
    if processes is None:
        return [*python, module, *words]
    torchrun = [*python, "torch.distributed.run", "--standalone"]
    return [*torchrun, "--nproc-per-node", str(processes), "-m", "--", module, *words]


def environment(share: int) -> dict[str, str]:
    """Ours, in which onerec is found from any folder and a process has one of `share` of the cores.

    OMP_NUM_THREADS stays where it is set.
    """
    found = {name: value for name, value in os.environ.items() if name not in ALONE}
    found.setdefault("OMP_NUM_THREADS", str(max(1, cores() // share)))
    found.setdefault("OMP_WAIT_POLICY", "passive")  # as the command line of onerec has it
    here = str(Path(onerec.__file__).resolve().parents[1])
    found["PYTHONPATH"] = os.pathsep.join(filter(None, [here, found.get("PYTHONPATH")]))
    return found


@contextlib.contextmanager
def started(command: Sequence[str], log: Path, share: int = 1) -> Iterator[psutil.Popen]:
    """The process of a command, with its stderr in `log`."""
    with log.open("w") as stderr:
        process = psutil.Popen(list(command), env=environment(share), stdout=DEVNULL, stderr=stderr)
    try:
        yield process
    finally:
        kill(process)


def kill(process: psutil.Popen) -> None:
    """SIGKILL for a process and all that it has started, and wait until they are gone."""
    everyone: list[psutil.Process] = [process]
    with contextlib.suppress(psutil.NoSuchProcess):
        everyone = [*process.children(recursive=True), process]
    for each in everyone:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    psutil.wait_procs(everyone, timeout=60)


def until(process: psutil.Popen, reached: Callable[[], bool], limit: float, log: Path) -> bool:
    """Wait until something is reached; False where the process ended well before.

    Raises:
        RunError: the process failed, or neither happened within so many seconds.
    """
    end = time.monotonic() + limit
    while process.poll() is None:
        if reached():
            return True
        if time.monotonic() > end:
            raise RunError(f"no end after {limit:.0f} s")
        time.sleep(POLL_SECONDS)
    if process.returncode:
        raise RunError(why(log.read_text(errors="replace"), process.returncode))
    return False


def to_the_end(command: Sequence[str], log: Path, limit: float, share: int = 1) -> None:
    """Carry a command out.

    Raises:
        RunError: it failed, or took longer than `limit` seconds.
    """
    with started(command, log, share) as process:
        until(process, lambda: False, limit, log)


def why(text: str, status: int) -> str:
    """The line of stderr that tells why a command failed: what was raised last, else the last one.

    What torchrun says of it is left out, unless nobody else says anything.
    """
    own = [line for line in text.splitlines() if line.startswith("onerec: ")]
    if own:
        return last_line(own[-1])
    report = _REPORT.search(text)
    before = text[: report.start()] if report else text
    raised, ended = _RAISED.findall(before), _STATUS.search(text)
    line = raised[-1].strip() if raised else last_line(before)
    return line or (ended.group() if ended else f"ended with status {status}")
