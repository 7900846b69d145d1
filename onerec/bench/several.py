"""Do several processes give the loss curve of one, how much faster are they, and what of a kill.

    python -m onerec.bench.several --json [--processes 2] [--recipe small] [--steps 400]
                                   [--set KEY=VALUE ...] [--home DIR] [--out FILE]

A world is made and tokenised once; every arm pre-trains on a copy of that run by the pipeline's own
stage, with the same recipe, seed, batches and steps, in processes of its own:

    one         one process
    ddp, fsdp   `--processes` of them, started by torchrun: one per GPU, or gloo on a CPU
    killed      as fsdp; all get SIGKILL when half of the steps are done, and one process goes on
    one_again   one process with the next seed: other weights at the start, other batches
    regrouped   one process with parts of half the rows: the same but for the order of sums

A process takes as many rows at once in every arm but `regrouped`: one process alone works through
its batch in `--processes` times the `--micro-batches` of each of several.

`from_one` is how far an arm's loss of a step is from that of `one`, in nats, over all logged steps
and over the last quarter, where `drift` keeps its sign. What the next seed changes is the noise:
`share_of_noise` is a mean difference over that of `one_again`, and `within_noise` says that neither
is above a tenth (`curves.FAR`). In bfloat16 steps that fall steeply go elsewhere by rounding alone:
`share_of_rounding` is over that of `regrouped`, and `within_rounding` that neither is above twice
it (`curves.ALIKE`). Processes draw dropout of their own: compare with model.dropout=0.

`samples_per_second` is the median of what the last half of the steps logged (means of 20 steps, so
ask for more than 60: the first ones compile and warm up), `peak_memory_bytes` that of each process,
whose first one evaluates too and under fsdp holds the model whole beside its shards. On a CPU each
process has OMP_NUM_THREADS threads, by default its part of the cores, in every arm alike.

With --home the runs stay, and an arm that is finished is not repeated when the same words are given
again. One that failed is told in a line while the others go on; the exit code is 1 then. When to
kill, `OURS`, `FAR` and `ALIKE` are our choices.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from onerec.assembly import setting_of
from onerec.bench import launched
from onerec.bench.curves import AGAIN, ONE, REGROUPED, curve_of, rates_of, summary, table
from onerec.bench.generate import as_json, commit, cpu_name, write
from onerec.bench.mistakes import refuse_below_one, told_in_a_line
from onerec.bench.train import WORLD, peak_memory
from onerec.common import pick_device
from onerec.data.dataset import dataset_path
from onerec.data.sources.world import make_world_dataset
from onerec.errors import OneRecError, RecipeError, RunError
from onerec.lifelong import with_lifelong
from onerec.pipeline import follow, run_stage
from onerec.pipeline import run as run_stages
from onerec.pipeline.feeding import prepare_stream
from onerec.pipeline.pretrain import STAGE, device_name, next_token_order
from onerec.recipes import Recipe, parse_overrides, recipe, to_dict
from onerec.run_files import flatten, read_json, write_json
from onerec.run_writer import CLAIM
from onerec.runs import Run, delete_run, runs_home
from onerec.settings import listed
from onerec.shards import saved
from onerec.train.distributed import Processes, joined
from onerec.world import WorldConfig

TOKENS, DATASET = "tokens", "several"
DDP, FSDP, KILLED = COMPARED = ("ddp", "fsdp", "killed")  # whose curve should be that of `one`
ARMS = (ONE, *COMPARED, AGAIN, REGROUPED)
WAYS = {DDP: "ddp", FSDP: "fsdp", KILLED: "fsdp"}  # of those that torchrun starts
LEAST_STEPS = 10
OURS = {  # beside what the recipe says, unless --set says otherwise; nothing of it trains
    "train.keep": "last",
    "evaluate.valid_users": "200",
    "align.users": "1",
}


@dataclass(frozen=True)
class Asked:
    """What the arms share; `words` tell it to their processes.

    `kept` is whether the runs stay; `limit` the seconds that an arm may take.
    """

    home: Path
    kept: bool
    recipe: Recipe
    world: WorldConfig
    processes: int
    micro_batches: int
    limit: float
    words: tuple[str, ...]

    @property
    def steps(self) -> int:
        return self.recipe.train.steps

    @property
    def folder(self) -> Path:
        """Where parts, logs and what processes told lie."""
        return self.home / "several"

    def recipe_of(self, arm: str) -> Recipe:
        """The recipe of an arm."""
        return replace(self.recipe, seed=self.recipe.seed + (arm == AGAIN))

    def run(self, arm: str) -> Run:
        """The run of an arm."""
        return Run(runs_home(self.home) / f"several_{arm}")


def asked_of(chosen: argparse.Namespace, home: Path) -> Asked:
    """What a command line asks for.

    Raises:
        RecipeError: a number, a recipe or a setting that cannot be, or a batch that so many
            processes cannot share.
    """
    refuse_below_one(chosen, ("processes", "micro_batches", "limit"))
    changes, steps = parse_overrides(chosen.set), chosen.steps
    if "train.steps" in changes:
        raise RecipeError("--set train.steps: give the number with --steps")
    if steps < LEAST_STEPS:
        raise RecipeError(f"--steps {steps}: at least {LEAST_STEPS}, half of which come to a kill")
    often = {"train.evaluate_every": steps, "train.checkpoint_every": steps // 5}
    ours = OURS | {name: str(number) for name, number in often.items()}
    found = recipe(chosen.recipe, {**ours, **changes, "train.steps": str(steps)})
    size = found.train.batch_size
    Processes(world=chosen.processes, micro_batches=chosen.micro_batches).refuse(size, size)
    world = WorldConfig(n_items=chosen.items, n_users=chosen.users, mean_history=chosen.history)
    words = [word for setting in chosen.set for word in ("--set", setting)]
    for name in ("recipe", "steps", "processes", "micro_batches", "items", "users", "history"):
        words += [f"--{name.replace('_', '-')}", str(getattr(chosen, name))]
    home = home.resolve()  # the processes of an arm may stand elsewhere
    return Asked(
        home,
        chosen.home is not None,
        found,
        world,
        chosen.processes,
        chosen.micro_batches,
        chosen.limit,
        (*words, "--home", str(home)),
    )


def refuse_others(asked: Asked) -> None:
    """Keep beside the parts what they are made with.

    Raises:
        RunError: the home holds parts of other settings.
    """
    path = asked.folder / "settings.json"
    numbers = {"processes": asked.processes, "micro_batches": asked.micro_batches}
    settings = {"recipe": to_dict(asked.recipe), "world": asked.world.as_dict(), **numbers}
    if not path.exists():
        write_json(path, settings)
        return
    held, wanted = flatten(read_json(path)), flatten(settings)
    for name in dict.fromkeys([*held, *wanted]):
        if held.get(name) != wanted.get(name):
            raise RunError(
                f"{asked.home} has arms with {name.removeprefix('recipe.')} = "
                f"{held.get(name, 'nothing')}, now asked for {wanted.get(name, 'nothing')}: "
                "use another --home"
            )


# ------------------------------------------------------------------ in a process of an arm


def work(asked: Asked, stage: str, parallel: str | None) -> None:
    """What one process does: prepare the tokens, or take part in an arm and tell what it took."""
    if stage == TOKENS:
        prepare(asked)
        return
    name, told = asked.run(stage).name, {"recipe": asked.recipe_of(stage), "dataset": DATASET}
    parts = asked.micro_batches * (1 if parallel else asked.processes) * (1 + (stage == REGROUPED))
    with joined(parallel, parts) as processes:
        if processes.leads:
            run_stage(STAGE, name, home=asked.home, processes=processes, **told)
        else:
            follow(name, processes, asked.home)
    device = pick_device(asked.recipe.device)
    threads = torch.get_num_threads()
    cpu = f"{cpu_name()}, {threads} thread{'s' if threads > 1 else ''} a process"
    took = {
        "device": device_name(device) if device.type == "cuda" else cpu,
        "peak_memory_bytes": peak_memory(device),
    }
    write_json(asked.folder / f"{stage}-{processes.rank}.json", took)


def prepare(asked: Asked) -> None:
    """The world, and the run that all arms are copies of, with what pre-training makes first."""
    if not dataset_path(DATASET, asked.home).exists():
        make_world_dataset(DATASET, asked.world, asked.home)
    name, device = asked.run(TOKENS).name, pick_device(asked.recipe.device)
    run = run_stages(name, asked.recipe, DATASET, home=asked.home, stages=("tokenize",))
    setting = with_lifelong(setting_of(run, asked.home), run, device)
    if not setting.fits(device):
        prepare_stream(setting, run, next_token_order(setting))


# ------------------------------------------------------------------ one arm


def command(asked: Asked, stage: str, parallel: str | None = None) -> list[str]:
    """The command of a stage; with a way of sharing it, torchrun's."""
    words = [*asked.words, "--stage", stage]
    if parallel is None:
        return launched.command("onerec.bench.several", words)
    words += ["--parallel", parallel]
    return launched.command("onerec.bench.several", words, asked.processes)


def log_of(asked: Asked, stage: str) -> Path:
    """Where the stderr of a stage's processes is kept."""
    return asked.folder / f"{stage}.log"


def carry_out(asked: Asked, stage: str, parallel: str | None = None) -> None:
    """Start a stage and wait for its end.

    Raises:
        RunError: it failed, or took too long.
    """
    made = command(asked, stage, parallel)
    launched.to_the_end(made, log_of(asked, stage), asked.limit, asked.processes)


def half_and_saved(asked: Asked, run: Run) -> bool:
    """Whether half of the steps are logged and there is a checkpoint to go on from."""
    return 2 * last_step(run) >= asked.steps and bool(saved(run.path / STAGE))


def last_step(run: Run) -> int:
    """The step that was logged last; 0 before any."""
    steps = run.metrics(STAGE)["step"]
    return int(steps.max()) if len(steps) else 0


def killed_and_gone_on(asked: Asked) -> dict[str, int]:
    """Kill the processes of fsdp at half of the steps and let one go on: where, and from where.

    Raises:
        RunError: they ended before, or one of the two parts failed.
    """
    run, log = asked.run(KILLED), log_of(asked, KILLED)
    made = command(asked, KILLED, WAYS[KILLED])
    with launched.started(made, log, asked.processes) as process:
        caught = launched.until(process, lambda: half_and_saved(asked, run), asked.limit, log)
    if not caught or run.is_done(STAGE):
        raise RunError("it ended before it was killed; more --steps, or checkpoints more often")
    at = last_step(run)
    carry_out(asked, KILLED)
    found = re.findall(r"goes on from step (\d+)", run.log_tail(1_000))
    return {"killed_at": at, "goes_on_from": int(found[-1]) if found else 0}


def part(asked: Asked, arm: str) -> dict[str, Any]:
    """An arm's curve, speed and memory; kept in a file when it is finished.

    Raises:
        RunError: it failed, or a process holds its run.
    """
    path, run = asked.folder / f"{arm}.json", asked.run(arm)
    if path.exists():
        return read_json(path)
    if run.path.exists():  # half of an earlier call
        delete_run(run)
    shutil.copytree(asked.run(TOKENS).path, run.path, ignore=shutil.ignore_patterns(CLAIM))
    described, seed = run.recipe(), asked.recipe_of(arm).seed
    described |= {"seed": seed, "recipe": {**described["recipe"], "seed": seed}}
    write_json(run.path / "recipe.json", described)
    told: dict[str, Any] = {}
    if arm == KILLED:
        told |= killed_and_gone_on(asked)
    else:
        carry_out(asked, arm, WAYS.get(arm))
    ranks = range(asked.processes if arm in (DDP, FSDP) else 1)
    took = [read_json(asked.folder / f"{arm}-{rank}.json") for rank in ranks]
    told |= {"device": took[0]["device"], **curve_of(run)}
    if arm != KILLED:
        told |= rates_of(run, asked.steps)
        told["peak_memory_bytes"] = [each["peak_memory_bytes"] for each in took]
    write_json(path, told)
    if not asked.kept:
        delete_run(run)
    return told


# ------------------------------------------------------------------ all arms


def compare(asked: Asked, arms: Sequence[str], tell: Callable[[str], None]) -> dict[str, Any]:
    """Carry out every arm that is not done, and put them side by side; `failed` says what did not.

    Raises:
        RunError: the home has arms of other settings, or the tokens could not be made.
    """
    asked.folder.mkdir(parents=True, exist_ok=True)
    refuse_others(asked)
    if not asked.run(TOKENS).is_done("tokenize") or not dataset_path(DATASET, asked.home).exists():
        carry_out(asked, TOKENS)
    parts, failed = dict[str, dict[str, Any]](), dict[str, str]()
    for arm in arms:
        try:
            parts[arm] = part(asked, arm)
        except OneRecError as error:
            failed[arm] = str(error)
            more = f"; all of it in {log_of(asked, arm)}" if asked.kept else ""
            print(f"onerec: {arm}: {error}{more}", file=sys.stderr, flush=True)
        else:
            tell(f"{arm}: loss {parts[arm]['loss'][-1]:.4f}")
    chosen = asked.recipe
    return {
        "device": listed(sorted({found["device"] for found in parts.values()})),
        "torch": torch.__version__,
        "processes": asked.processes,
        "micro_batches": asked.micro_batches,
        "recipe": chosen.name,
        "compile": chosen.train.compile,
        "dropout": chosen.model.dropout,
        "seed": chosen.seed,
        "steps": asked.steps,
        "batch_size": chosen.train.batch_size,
        "world": asked.world.as_dict(),
        **summary(parts, COMPARED),
        "failed": failed,
    }


@told_in_a_line
def main(argv: Sequence[str] | None = None) -> int:
    """The command line; prints one JSON object with --json, else a table."""
    parser = argparse.ArgumentParser(description="several processes beside one")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--recipe", default="small", help="tiny, small, beauty, ...")
    parser.add_argument("--set", nargs="*", action="extend", default=[], help="KEY=VALUE")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--processes", type=int, default=2, help="of ddp and fsdp")
    parser.add_argument("--micro-batches", type=int, default=1, help="parts of a process's rows")
    parser.add_argument("--items", type=int, default=WORLD.n_items, help="of the world")
    parser.add_argument("--users", type=int, default=WORLD.n_users, help="of the world")
    parser.add_argument("--history", type=float, default=WORLD.mean_history, help="events a user")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--limit", type=float, default=3_600.0, help="seconds that an arm may take")
    parser.add_argument("--home", type=Path, help="keep the runs there")
    parser.add_argument("--out", type=Path, help="also write it to this file")
    parser.add_argument("--stage", choices=(TOKENS, *ARMS), help="in this process; needs --home")
    parser.add_argument("--parallel", choices=sorted({*WAYS.values()}), help="with --stage")
    words = list(sys.argv[1:] if argv is None else argv)
    chosen = parser.parse_args(words)
    if chosen.stage:
        if chosen.home is None:
            raise RecipeError("--stage works in the home of a comparison: give --home")
        work(asked_of(chosen, chosen.home), chosen.stage, chosen.parallel)
        return 0
    with contextlib.ExitStack() as stack:
        home = chosen.home or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        asked = asked_of(chosen, home)
        made = compare(asked, chosen.arms, print if not chosen.json else lambda text: None)
    called = " ".join(["python -m onerec.bench.several", *words])
    result = {"benchmark": "several", "command": called, "commit": commit(), **made}
    if chosen.out is not None:
        write(result, chosen.out)
    print(as_json(result) if chosen.json else table(result["arms"]))
    return 1 if result["failed"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
