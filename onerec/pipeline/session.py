"""What every stage is handed: the run it writes, what it learns from, and who wants to know."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from onerec.assembly import Setting
from onerec.common import cores
from onerec.pipeline.companion import Companion
from onerec.run_writer import RunWriter
from onerec.runs import Run
from onerec.train.distributed import Processes

Report = Callable[[str, int, int, Mapping[str, Any]], None]


class Stopped(Exception):
    """The user asked for a stop; the stage has saved what it had and can go on later."""


def quiet(stage: str, step: int, of: int, values: Mapping[str, Any]) -> None:
    """A listener that says nothing."""


@dataclass(frozen=True)
class Session:
    """`report(stage, step, of, values)` is called as a stage advances (a progress bar).

    `companion` works beside, where there is one. `kept` is what a stage leaves in memory for a
    later one of the same process, which can do without. `processes` share pre-training; those that
    do not lead have a writer too, and write nothing with it.
    """

    writer: RunWriter
    setting: Setting
    device: torch.device
    report: Report = quiet
    companion: Companion | None = None
    kept: dict[str, Any] = field(default_factory=dict)
    processes: Processes = field(default_factory=Processes)

    @property
    def run(self) -> Run:
        """The run folder, for reading."""
        return self.writer.run

    @property
    def workers(self) -> int:
        """Threads that may work side by side now: cores that neither torch nor a companion uses."""
        if self.device.type != "cpu" or torch.get_num_threads() > 1:
            return 1
        return max(1, cores() - (self.companion is not None and self.companion.works()))

    def begin(self, stage: str, of: int, message: str = "") -> None:
        """Say that a stage has begun."""
        if not self.processes.leads:
            return
        self.writer.set_status(stage, 0, of, "running", message)
        self.writer.log(f"{stage}: begins{': ' + message if message else ''}")
        self.report(stage, 0, of, {"message": message})

    def goes_on(self, stage: str, step: int, of: int) -> None:
        """Say from which step an interrupted stage goes on; at its beginning nothing is said."""
        if step and self.processes.leads:
            self.writer.set_status(stage, step, of, "running", f"goes on from step {step:,}")

    def advance(self, stage: str, step: int, of: int, **values: Any) -> None:
        """One step further; stops here if the user asked for it. The first process's alone.

        Raises:
            Stopped: control.json asks the run to stop.
        """
        self.writer.beat(step=step, message=str(values.get("message", "")))
        self.report(stage, step, of, values)
        if self.writer.obey() == "stop":
            raise Stopped
