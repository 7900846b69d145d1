"""Commands that two processes carry out together, one after the other: for tests of the pipeline.

Spawned processes import this file by its name. Each command joins anew, as torchrun's would; a pair
of real processes costs as much in imports as all of these.
"""

import contextlib
import io
import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.multiprocessing as mp
import toy_home
from plain_main import plain_main

from onerec.cli import main
from onerec.pipeline import everyone, follow, run_stage
from onerec.pipeline.everyone import recommend_all
from onerec.runs import Run
from onerec.train.distributed import joined

WORLD, STOP = 2, 13
DENSE = {"model.experts": "0"}  # no choice that rounding could turn


def new(name: str, settings: Mapping[str, str], *more: str) -> list[str]:
    """A new run's pre-training."""
    options = toy_home.set_options(settings)
    return ["pretrain", "--run", name, "--dataset", "toy", "--json", *options, *more]


COMMANDS: dict[str, list[str]] = {
    "ddp": new("ddp", {}, "--micro-batches", "2"),
    "again": ["pretrain", "--run", "ddp", "--json"],
    "stopped": [],  # see `stopped`
    "gone on": ["pretrain", "--run", "stopped", "--json", "--parallel", "ddp"],
    "shards": ["pretrain", "--run", "half", "--json", "--parallel", "fsdp"],
    "batch": new("bad", {"train.batch_size": "31"}),
    "recipe": ["pretrain", "--run", "bad", "--recipe", "tinny", "--dataset", "toy"],
    "stage": ["tokenize", "--run", "bad", "--recipe", "tiny", "--dataset", "toy"],
    "way": new("bad", {}, "--parallel", "tensor"),
    "streamed": new("streamed", DENSE, "--micro-batches", "2"),
    "everyone": ["recommend", "--run", "ddp", "--all", "--out", "HOME/all.parquet", "--json"],
    "nowhere": ["recommend", "--run", "ddp", "--all", "--out", "HOME/no/all.parquet"],
    "rate": new("rate", {"train.learning_rate": "1e30", "train.warmup_steps": "1"}),
}


def environment(rank: int, port: int) -> dict[str, str]:
    """What torchrun tells a process."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(WORLD),
        "LOCAL_WORLD_SIZE": str(WORLD),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def both(home: Path) -> None:
    """Carry out all commands; NAME-RANK.json in `home` is [exit code, stdout, stderr]."""
    with plain_main():
        mp.spawn(_begin, (home, free_ports(len(COMMANDS))), WORLD)


def _begin(rank: int, home: Path, ports: Sequence[int]) -> None:
    torch.set_num_threads(1)
    os.environ["ONEREC_HOME"] = str(home)
    for (name, arguments), port in zip(COMMANDS.items(), ports, strict=True):
        os.environ |= environment(rank, port)
        out, err = io.StringIO(), io.StringIO()
        code: Any = 0
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.redirect_stdout(out))
            stack.enter_context(contextlib.redirect_stderr(err))
            if name == "streamed" and rank == 0:  # whose device the log's tables would fill
                stack.enter_context(mock.patch("onerec.assembly.device_memory", return_value=1))
            if name == "everyone":  # fewer users than a part has otherwise
                stack.enter_context(mock.patch.dict(recommend_all.__kwdefaults__, part=7))
                made = mock.patch.object(everyone, "_lists", side_effect=everyone._lists)
                stack.callback(_note_starts, home, rank, stack.enter_context(made))
            try:
                if arguments:
                    here = [word.replace("HOME", str(home)) for word in arguments]
                    sys.argv = ["onerec", *here]
                    main()
                else:
                    stopped(home)
            except SystemExit as end:
                code = end.code or 0
        answer = [code, out.getvalue(), err.getvalue()]
        (home / f"{name}-{rank}.json").write_text(json.dumps(answer))


def _note_starts(home: Path, rank: int, made: mock.Mock) -> None:
    """The first user of each part that this process has made."""
    starts = [call.args[1] for call in made.call_args_list]
    (home / f"starts-{rank}.json").write_text(json.dumps(starts))


def stopped(home: Path) -> None:
    """Pre-train with shards until a stop is asked for at a step."""
    run = Run(home / "runs" / "stopped")

    def report(stage: str, step: int, of: int, values: Mapping[str, Any]) -> None:
        if stage == "pretrain" and step == STOP:
            run.control(stop=True)

    recipe = toy_home.make_recipe(DENSE)
    with joined("fsdp") as processes:
        if processes.leads:
            options = {"recipe": recipe, "dataset": "toy", "home": home, "report": report}
            run_stage("pretrain", "stopped", processes=processes, **options)
            (home / "stopped.json").write_text(
                json.dumps(sorted(path.name for path in (run.path / "pretrain").iterdir()))
            )
        else:
            follow("stopped", processes, home)


def half_alone(home: Path) -> None:
    """The first part of the run `half`, by one process."""

    def report(stage: str, step: int, of: int, values: Mapping[str, Any]) -> None:
        if stage == "pretrain" and step == STOP:
            Run(home / "runs" / "half").control(stop=True)

    recipe = toy_home.make_recipe(DENSE)
    run_stage("pretrain", "half", recipe=recipe, dataset="toy", home=home, report=report)
