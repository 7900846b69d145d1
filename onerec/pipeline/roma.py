"""RoMA on a finished run: its routers are tuned, and a run of its own comes of it.

    roma("mine", into="mine_roma", tuning=Tuning(steps=200))

The new run holds what the old one does, but the weights that it serves (align's where there was an
alignment, else pretrain's) are tuned ones: `evaluate`, `recommend`, the app and comparisons work on
it as on any other. Baselines that are trained already go along; evaluation and lists are left to
the stages that make them. Success and neighbours are taken from training contexts alone, and the
numbers before and after from valid (`onerec.pipeline.router_tuning`, `onerec.train.roma`).

    recipe.json   as the old run's, and in "roma" which run it comes from and how it was tuned
    roma.json     what moved: losses, recall on valid, how alike neighbours route, before and after
    routing/      of a run without alignment, tokens and absence measured anew at the new step

A tuning that is interrupted leaves a run that no stage goes on with; `roma` begins it anew. The
last weights count: RoMA has no rule on valid, and neither have we.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from onerec.assembly import Setting, setting_of
from onerec.checkpoint import load_model, training_state, write_checkpoint
from onerec.common import autocast, keep_memory, pick_device, set_threads
from onerec.errors import RecipeError, RunError
from onerec.loop import StepResult
from onerec.model.recording import TargetRouting, decoder_mixtures, target_routing
from onerec.pipeline.pretrain import Pretraining
from onerec.pipeline.rivals import threads_for
from onerec.pipeline.router_tuning import RouterTuning, Tuning, disagreement
from onerec.pipeline.routing import can_be_spared, each_without, next_token_losses, sample_batch
from onerec.pipeline.session import Report, Session, Stopped, quiet
from onerec.run_writer import RunWriter
from onerec.runs import Run, open_run, read_json, runs_home, valid_name

STAGE, REPORT, KIND = "roma", "roma.json", "roma"
NEEDED = ("tokenize", "pretrain", "reward", "align")
COPIED = ("tokenizer", "reward", "rollouts", "routing", "metrics.jsonl")
_LOGGED = 500


def roma(
    name: str,
    into: str,
    tuning: Tuning | None = None,
    *,
    home: Path | None = None,
    report: Report = quiet,
) -> Run:
    """Tune the routers of the run `name`; the tuned model is the new run `into`.

    Raises:
        RecipeError: a number of `tuning` is out of range.
        RunError: the run is missing, not finished or without experts that RoMA can move; `into` is
            there already; or the model answers too few training contexts.
    """
    tuning = tuning or Tuning()
    _refuse_tuning(tuning)
    source = open_run(name, home)
    setting = _refuse_source(source, home)
    path = runs_home(home) / valid_name(into)
    said = {"run": source.name, **asdict(tuning)}
    _refuse_target(path, source)
    device = pick_device(setting.recipe.device)
    with RunWriter.claim(path, {**source.recipe(), "roma": said}) as writer:
        keep_memory()
        set_threads(threads_for(setting.recipe, device))
        session = Session(writer, setting, device, report)
        writer.write_json("recipe.json", {**source.recipe(), "roma": said})
        try:
            _copy(source, path, setting)
            _tune(session, source, tuning)
        except Stopped:
            writer.stop("stopped as asked; run the same command to begin it anew")
        else:
            writer.finish()
    return writer.run


def refuse_unfinished(run: Run) -> None:
    """RunError where a run is a tuning that has not come to its end: no stage may go on with it."""
    told = run.recipe().get("roma")
    if told and not (run.path / REPORT).is_file():
        raise RunError(
            f"run {run.name!r} is a RoMA of {told['run']!r} that has not finished; "
            f"`onerec roma --run {told['run']} --into {run.name}` begins it anew"
        )


# ------------------------------------------------------------------ what is refused


def _refuse_tuning(tuning: Tuning) -> None:
    for option, value, least in (("steps", tuning.steps, 1), ("bank", tuning.bank, 1)):
        if value < least:
            raise RecipeError(f"--{option} {value}: needs at least {least}")
    for option, number in (("learning-rate", tuning.rate), ("weight", tuning.weight)):
        if not math.isfinite(number):
            raise RecipeError(f"--{option} {number:g}: needs a finite number")
    if not tuning.rate > 0:
        raise RecipeError(f"--learning-rate {tuning.rate:g}: needs more than 0")
    if not tuning.weight >= 0:
        raise RecipeError(f"--weight {tuning.weight:g}: needs at least 0")


def _refuse_source(run: Run, home: Path | None) -> Setting:
    """The setting of a run that can be tuned."""
    if run.status().active:
        raise RunError(f"run {run.name!r} is being written: wait for it, or stop it first")
    refuse_unfinished(run)
    for stage in NEEDED:
        if not run.is_done(stage):
            raise RunError(
                f"run {run.name!r} has not finished {stage}; `onerec {stage} --run {run.name}` "
                "goes on"
            )
    setting = setting_of(run, home)
    model, router = setting.recipe.model, setting.recipe.routing.router
    if not model.experts:
        raise RunError(
            f"run {run.name!r} is dense (model.experts=0): RoMA moves routers, and it has none; "
            "train one with --set model.experts=8 --set model.active_experts=2"
        )
    if model.active_experts < 2 and router == "competition":
        raise RunError(
            f"run {run.name!r} has model.active_experts=1 and routing.router={router}: one expert "
            "alone always has weight 1, so its router cannot learn; train one with 2"
        )
    return setting


def _refuse_target(path: Path, source: Run) -> None:
    """A run of that name is there, and is no interrupted tuning of the same run."""
    if not path.exists():
        return
    begun = Run(path).recipe().get("roma") or {}
    if (path / REPORT).is_file() or begun.get("run") != source.name:
        raise RunError(f"a run {path.name!r} is already there; choose another --into, or delete it")


# ------------------------------------------------------------------ files


def served_stage(run: Run) -> str:
    """The stage whose weights a run serves: align where it was done, else pretrain."""
    return "align" if (run.done("align") or {}).get("checkpoint") else "pretrain"


def _copy(source: Run, path: Path, setting: Setting) -> None:
    """What the new run needs of the old one, but the weights that are to be tuned."""
    for child in path.iterdir():
        if child.name in ("writer.json", "recipe.json", "status.json"):
            continue
        shutil.rmtree(child) if child.is_dir() else child.unlink()
    lifelong = [f.relative_to(source.path) for f in source.path.glob("cache/lifelong-*")]
    rivals = [
        Path("baselines") / f"{name}{suffix}"
        for name in setting.recipe.baselines.names
        for suffix in (".safetensors", ".json")
    ]
    kept: list[Path] = []
    for stage in ("pretrain", "align"):
        done = source.done(stage) or {}
        if stage == served_stage(source):
            continue
        kept.append(Path(stage) / "done.json")
        if done.get("checkpoint"):
            weights = Path(stage) / str(done["checkpoint"])
            kept += [weights, weights.with_suffix(".json")]
    for one in (*map(Path, COPIED), *lifelong, *rivals, *kept):
        _copy_one(source.path / one, path / one)


def _copy_one(old: Path, new: Path) -> None:
    """A file or a folder, where there is one."""
    new.parent.mkdir(parents=True, exist_ok=True)
    if old.is_dir():
        shutil.copytree(old, new)
    elif old.is_file():
        shutil.copy2(old, new)


# ------------------------------------------------------------------ the tuning


def _tune(session: Session, source: Run, tuning: Tuning) -> None:
    """Load, measure, tune, measure again; write the checkpoint, the stamp and, last, roma.json."""
    writer, begun = session.writer, time.perf_counter()
    stage = served_stage(source)
    done = source.done(stage) or {}
    session.begin(STAGE, tuning.steps, f"{source.name}: {stage}/{done['checkpoint']}")
    training = Pretraining(session)
    load_model(source.path / stage / done["checkpoint"], training.model)
    if not decoder_mixtures(training.model):
        raise RunError(
            f"run {source.name!r} has experts in its encoder alone, and RoMA reads those of the "
            "decoder: train one with --set model.expert_blocks=decoder"
        )
    tuned = RouterTuning(training, KIND, tuning, session.workers)
    before, old = _measure(tuned, 0), _routing(training)
    writer.log_metrics(STAGE, 0, tuning.steps, **before)
    for result in tuned.steps():
        values = _values(result)
        if result.step % max(1, tuning.steps // _LOGGED) == 0 and result.step < tuning.steps:
            writer.log_metrics(STAGE, result.step, tuning.steps, **values)
        session.advance(STAGE, result.step, tuning.steps, **values)
    after, new = _measure(tuned, tuning.steps), _routing(training)
    writer.log_metrics(STAGE, tuning.steps, tuning.steps, **values, **after)
    step = int(done["step"]) + tuning.steps
    if stage == "pretrain":
        _record(session, training, step)
    told = {
        "run": source.name,
        "stage": stage,
        "from": {"checkpoint": done["checkpoint"], "step": done["step"]},
        "step": step,
        "tuning": asdict(tuning),
        "parameters": {
            "moved": tuned.moving,
            "all": sum(parameter.numel() for parameter in training.model.parameters()),
        },
        "contexts": {"asked": tuned.asked, "answered": sum(len(b.sample) for b in tuned.answered)},
        "before": before,
        "after": after,
        "choices_kept": None if old is None or new is None else choices_kept(old, new),
        "seconds": round(time.perf_counter() - begun, 2),
    }
    _finish(session, training, stage, done, told)


def _measure(tuned: RouterTuning, step: int) -> dict[str, float]:
    """The model as it is: how unlike neighbours route, and recall and loss on valid if any."""
    training = tuned.training
    found = {"disagreement": disagreement(tuned.bank(), tuned.config.neighbours)}
    found |= training.evaluate(step)
    if len(training.routing.valid):
        batch = sample_batch(training.contexts, training.routing.valid)
        found["valid_loss"] = float(next_token_losses(training.model, batch).mean())
    return found


def _routing(training: Pretraining) -> TargetRouting | None:
    """Who goes where of some valid targets; None without any."""
    if not len(training.routing.valid):
        return None
    batch = sample_batch(training.contexts, training.routing.valid)
    with autocast(training.session.device):
        return target_routing(training.model, batch)


def choices_kept(before: TargetRouting, after: TargetRouting) -> float:
    """The share of the choices of tokens of targets that exist which fall on the same experts."""
    same = (before.expert[..., :, None] == after.expert[..., None, :]).any(-1)  # (Y, B, M, L, k)
    exists = (before.target > 0)[None, :, :, None, None].expand(same.shape)
    return float(same[exists].double().mean())


def _values(result: StepResult) -> dict[str, float]:
    values = {"loss": result.loss, **result.values}
    return values | {"grad_norm": result.grad_norm, "lr": result.lr}


def _record(session: Session, training: Pretraining, step: int) -> None:
    """routing/ of the tuned weights: who goes where now, and who is missed."""
    record = training.routing
    record.write_tokens(step)
    if not len(record.valid) or not can_be_spared(training.model.mixtures()):
        return

    def advance(done: int, of: int) -> None:
        session.advance(STAGE, done, of, message=f"switching off experts: {done} of {of}")

    found = each_without(
        training.recommender(),
        record.valid,
        seed=session.setting.recipe.seed,
        workers=session.workers,
        advance=advance,
    )
    session.writer.write_json("routing/without.json", {"step": step, **found})


def _finish(
    session: Session,
    training: Pretraining,
    stage: str,
    done: Mapping[str, Any],
    told: Mapping[str, Any],
) -> None:
    """The checkpoint, the stage's stamp with the new weights in it, and roma.json last."""
    folder, step = session.run.path / stage, int(told["step"])
    state = training_state(training.model, torch.optim.SGD(training.model.parameters()))
    info = {"roma": told["from"], "codes": list(training.ids.sizes)}
    written = write_checkpoint(folder, step, state, info)
    spent = float(done.get("seconds", 0.0)) + float(told["seconds"])
    stamp = {key: value for key, value in done.items() if key != "finished"}
    stamp |= {"checkpoint": written.path.name, "step": step, "seconds": round(spent, 2)}
    session.writer.mark_done(stage, **stamp)
    session.writer.write_json(REPORT, told)
    session.writer.log(f"{STAGE}: {told['before']} -> {told['after']}")


def read_report(run: Run) -> dict[str, Any]:
    """roma.json of a run, {} where it is none."""
    path = run.path / REPORT
    return read_json(path) if path.is_file() else {}
