"""From a recipe and a dataset to a finished run: claim the folder, then stage after stage."""

import contextlib
import importlib.metadata
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from onerec import __version__
from onerec.assembly import Setting, setting_of
from onerec.common import keep_memory, pick_device, set_threads
from onerec.cost import memory_of, refuse_hopeless
from onerec.data.batches import training_examples
from onerec.data.dataset import Dataset, dataset_path, open_dataset
from onerec.data.sources.world import WORLD, make_world_dataset
from onerec.errors import DataError, RunError
from onerec.pipeline.align import align, refuse_unalignable
from onerec.pipeline.companion import Companion, worth_a_companion
from onerec.pipeline.evaluate import evaluate
from onerec.pipeline.memory import told_of_memory
from onerec.pipeline.pretrain import pretrain
from onerec.pipeline.recommend import recommend
from onerec.pipeline.reward import refuse_unlearnable, reward
from onerec.pipeline.rivals import cases_of, threads_for
from onerec.pipeline.roma import refuse_unfinished
from onerec.pipeline.session import Report, Session, Stopped, quiet
from onerec.pipeline.tokenize import codebook_size, tokenize
from onerec.recipes import Recipe, to_dict
from onerec.run_writer import RunWriter
from onerec.runs import Run, runs_home, valid_name
from onerec.train.compiled import refuse_without_compiler
from onerec.train.distributed import Processes

STAGES: dict[str, Callable[[Session], None]] = {
    "tokenize": tokenize,
    "pretrain": pretrain,
    "reward": reward,
    "align": align,
    "evaluate": evaluate,
    "recommend": recommend,
}
_VERSIONS = ("torch", "numpy", "duckdb", "pandas", "safetensors")


def run(
    name: str,
    recipe: Recipe | None = None,
    dataset: str | Dataset | None = None,
    *,
    home: Path | None = None,
    stages: Sequence[str] = tuple(STAGES),
    report: Report = quiet,
    processes: Processes | None = None,
) -> Run:
    """Do `stages` of the run called `name`, each unless it is done.

    A new run needs a recipe and a dataset; one that exists goes on with its own, and refuses
    others. The dataset `world` is made when it is missing. A stop that the user asks for ends the
    run in state `stopped`; what was done is kept. Of several `processes` the first one calls this
    and the others `follow`: pre-training is shared, and the others leave after it, or at once where
    it is done already.

    Raises:
        RunError: the run is new and recipe or dataset are missing, it was made with others, or
            another process holds it; or none of `stages` is for several processes.
        OneRecError: whatever a stage cannot do with what it was given.
    """
    path = runs_home(home) / valid_name(name)
    refuse_unfinished(Run(path))
    setting = _setting(path, recipe, dataset, home, report)
    processes = processes or Processes()
    device = processes.device(_refuse_early(setting, stages, processes))
    if "pretrain" in stages and not Run(path).is_done("pretrain"):
        _refuse_untrainable(setting, processes)
    else:
        processes.leave()
    with RunWriter.claim(path, _description(name, setting, home)) as writer:
        keep_memory()
        set_threads(threads_for(setting.recipe, device))
        companion = _companion(writer.run, setting.recipe, device, stages)
        session = Session(writer, setting, device, report, companion, processes=processes)
        try:
            for stage in stages:
                if not writer.run.is_done(stage):
                    with told_of_memory(stage, setting.recipe):
                        STAGES[stage](session)
        except Stopped:
            writer.stop("stopped as asked; run the same command to go on")
        else:
            writer.finish()
        finally:
            if companion is not None:
                companion.stop()
    return writer.run


def follow(name: str, processes: Processes, home: Path | None = None) -> None:
    """What the processes do that do not lead: pre-train with the first one, if it asks for it.

    Raises:
        SystemExit: the first one failed; the code is 2.
    """
    if processes.hear() == "end":
        return
    setting = setting_of(Run(runs_home(home) / name), home)
    device = processes.device(pick_device(setting.recipe.device))
    keep_memory()
    set_threads(threads_for(setting.recipe, device))
    writer = RunWriter(runs_home(home) / name)
    with contextlib.suppress(Stopped), told_of_memory("pretrain", setting.recipe):
        pretrain(Session(writer, setting, device, processes=processes))


def run_stage(stage: str, name: str, **options: Any) -> Run:
    """One stage of a run and, before it, those that it stands on and that are not done."""
    order = list(STAGES)
    if stage not in order:
        raise RunError(f"no stage {stage!r}; there are {', '.join(order)}")
    return run(name, stages=order[: order.index(stage) + 1], **options)


def _companion(
    run: Run, recipe: Recipe, device: torch.device, stages: Sequence[str]
) -> Companion | None:
    """Somebody who trains the baselines while OneRec trains, if both are still to be done."""
    wanted = all(stage in stages and not run.is_done(stage) for stage in ("pretrain", "evaluate"))
    return Companion(run) if wanted and worth_a_companion(recipe, device) else None


def _setting(
    path: Path,
    recipe: Recipe | None,
    dataset: str | Dataset | None,
    home: Path | None,
    report: Report,
) -> Setting:
    known = Run(path)
    if recipe is None and dataset is None and known.recipe():
        return setting_of(known, home)
    if recipe is None or dataset is None:
        missing = "--recipe" if recipe is None else "--dataset"
        raise RunError(f"run {path.name!r} is new or asked to change: {missing} is needed as well")
    if isinstance(dataset, str):
        if dataset == WORLD and not dataset_path(dataset, home).exists():
            report("ingest", 0, 1, {"message": "making the world"})
            make_world_dataset(home=home)
            report("ingest", 1, 1, {"message": "done"})
        dataset = open_dataset(dataset, home)
    return Setting.of(recipe, dataset)


def _refuse_early(setting: Setting, stages: Sequence[str], processes: Processes) -> torch.device:
    """What cannot work is refused before a folder is made; returns the device to work on."""
    if processes.world > 1 and "pretrain" not in stages:
        raise RunError(
            f"{stages[-1]} is no stage for {processes.world} processes, pretrain is; "
            "start it without torchrun"
        )
    codebook_size(setting)
    cases_of(setting)
    if "align" in stages and setting.recipe.align.steps and setting.recipe.reward.steps:
        refuse_unlearnable(setting)
        refuse_unalignable(setting)
    device = pick_device(setting.recipe.device)
    if "pretrain" in stages and device.type == "cpu":
        shares = processes.micro_batches * (processes.world // processes.local_world)
        refuse_hopeless(setting.recipe, setting.dataset.n_items, shares, memory_of("cpu"))
    if setting.recipe.train.compile and not {"pretrain", "align"}.isdisjoint(stages):
        refuse_without_compiler(device)
    return device


def _refuse_untrainable(setting: Setting, processes: Processes) -> None:
    examples = len(training_examples(setting.split))
    if not examples:
        raise DataError(
            f"{setting.dataset.name!r}: no training target has a history; "
            "give users at least 3 events each, or set evaluate.split=leave_one_out"
        )
    processes.refuse(setting.recipe.train.batch_size, examples)


def _description(name: str, setting: Setting, home: Path | None) -> dict[str, Any]:
    """What recipe.json holds: everything that decides the numbers of a run.

    And where the dataset lies, if a run could not find it by its name.
    """
    recipe, dataset = setting.recipe, setting.dataset
    place = dataset.path.resolve()
    at_home = place == dataset_path(dataset.name, home).resolve()
    return ({} if at_home else {"dataset_path": str(place)}) | {
        "name": recipe.name,
        "recipe": to_dict(recipe),
        "seed": recipe.seed,
        "code_version": __version__,
        "dataset": {"name": dataset.name, "fingerprint": dataset.fingerprint},
        "versions": {
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in _VERSIONS},
        },
    }
