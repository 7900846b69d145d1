"""Stage 2: next-token training of OneRec on the semantic IDs.

Between two steps of the loop this stage logs, evaluates on valid users, saves and obeys
control.json; that is all it does. Where torchrun started several processes, each goes through the
same steps: the first one does all of that, and the others take part where tensors are shared.
"""

import contextlib
import time
from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from onerec.assembly import Setting, load_semantic_ids
from onerec.checkpoint import (
    Checkpoint,
    OtherModelError,
    load_model,
    put_training,
    save_checkpoint,
)
from onerec.common import generator
from onerec.cost import peak_rate
from onerec.count import Cardinalities, Counter
from onerec.data.batches import Examples, training_examples
from onerec.data.split import Cases
from onerec.errors import RunError
from onerec.lifelong import with_lifelong
from onerec.loop import StepResult, Trainee, loop
from onerec.metrics import recall_at_k
from onerec.model.onerec import Batch, OneRec
from onerec.model.routers import competition_schedule
from onerec.pipeline.feeding import prepare_stream, training_batches
from onerec.pipeline.routing import (
    CONTEXTS,
    RoutingRecord,
    can_be_spared,
    each_without,
    next_token_losses,
)
from onerec.pipeline.session import Session, Stopped
from onerec.recommend import Recommender
from onerec.shards import consolidate, prune_saved, read_checkpoint, save_shards, saved
from onerec.throughput import Throughput
from onerec.train.compiled import told_of_compiler
from onerec.train.data_parallel import DataParallel
from onerec.train.optim import OptimConfig, cosine_schedule, make_adamw

STAGE = "pretrain"
RANKS = 10  # of the lists that valid users get
_LOGGED = 500  # lines of metrics that a training leaves


class Pretraining:
    """One training: model, optimiser, batches, and what has been seen of valid so far.

    `trained` is what this process trains: `model` itself, or its shards; then the first process
    keeps `model` whole, and `gather` brings it up to date.
    """

    def __init__(self, session: Session) -> None:
        self.session, self.processes = session, session.processes
        self.setting = with_lifelong(session.setting, session.run, session.device, self._compressed)
        self.order = next_token_order(self.setting)
        streams = not self.setting.fits(session.device)
        if streams and self.processes.leads:
            prepare_stream(self.setting, session.run, self.order, self._sharded)
        self.processes.say("join")  # clusters and shards are there for the others to read
        self.streams = bool(self.processes.agreed(streams))
        self.config = self.setting.recipe.train
        self.folder = session.run.path / STAGE
        self.ids, self.popularity = load_semantic_ids(session.run)
        self.contexts = self.setting.contexts(session.device)
        self.model = self.setting.new_model(
            self.ids, session.run.codebooks(), session.run.vectors()
        ).to(session.device)
        self.trained = self.processes.spread(self.model, self.config.compile)
        self.optim = OptimConfig(
            learning_rate=self.config.learning_rate,
            warmup_steps=min(self.config.warmup_steps, self.config.steps),
            weight_decay=self.config.weight_decay,
        )
        self.optimizer = make_adamw(self.trained, self.optim)
        self.throughput = Throughput(
            Counter(self.setting.recipe, Cardinalities.of(self.model.vocabulary)),
            peak_rate(device_name(session.device)),
            self.processes.world,
        )
        self.valid: dict[int, float] = {}
        self.routing = RoutingRecord(
            session.run.path / "routing",
            self.model,
            self.contexts,
            sample_cases(self.setting.split.valid, CONTEXTS),
        )
        self.start = 0
        self.begun, self.before = time.perf_counter(), 0.0  # seconds of earlier processes

    def _compressed(self, done: int, of: int) -> None:
        """Long histories are being clustered; what is there is kept when the user asks to stop."""
        if not self.processes.leads:
            return
        steps = self.session.setting.recipe.train.steps
        self.session.advance(STAGE, 0, steps, message=f"clustering histories: {done} of {of}")

    def _sharded(self, done: int, of: int) -> None:
        """The log is being written in shards; a stop loses them."""
        steps = self.session.setting.recipe.train.steps
        self.session.advance(STAGE, 0, steps, message=f"writing the log in shards: {done} of {of}")

    @cached_property
    def examples(self) -> Examples:
        """All training contexts, for what looks at the model beside its training."""
        return training_examples(self.setting.split, self.config.targets)

    def batches(self) -> contextlib.AbstractContextManager[Callable[[int], Batch]]:
        """This process's share of the batches, while the context is open."""
        return training_batches(
            self.setting,
            self.session.run,
            self.contexts,
            order=self.order,
            steps=self.config.steps,
            share=(self.processes.rank, self.processes.world),
            stream=self.streams,
        )

    def trainee(self, batches: Callable[[int], Batch]) -> Trainee[Batch]:
        """What the loop needs."""
        processes = self.processes
        shared: DataParallel[Batch] = DataParallel(
            processes, self.trained, lambda batch: (batch.target > 0).sum(), Batch.split
        )
        return Trainee(
            model=self.trained,
            optimizer=self.optimizer,
            loss=self.trained.loss,
            batch=self.throughput.batch(batches),
            learning_rate=cosine_schedule(self.optim, self.config.steps),
            before_step=self.competition(),
            after_step=self.balance,
            parallel=None if processes.alone else shared,
            each=None if processes.sharded else self.each,
        )

    def each(self, batch: Batch) -> Tensor:
        """The loss of each context of a batch (B,), to name those that are no numbers."""
        return torch.from_numpy(next_token_losses(self.trained, batch))

    def balance(self) -> None:
        """Move the routers by the load that the experts had in all processes."""
        self.processes.sum_loads(self.trained)
        self.trained.update_router_bias(self.setting.recipe.model.balance_rate)

    def competition(self) -> Callable[[int], None] | None:
        """What says before each step whose experts compete in it; None where they never do."""
        recipe, model = self.setting.recipe, self.trained
        if recipe.routing.router != "competition":
            return None
        layers = len(model.mixtures())
        schedule = competition_schedule(
            model.config.router, self.config.steps, layers, generator(recipe.seed)
        )
        return lambda step: model.compete(schedule[step])

    def resume(self) -> None:
        """Go on from the newest checkpoint that can be read; OtherModelError if none fits."""
        writer, processes = self.session.writer, self.processes
        other: RunError | None = None
        for checkpoint in processes.agreed(saved(self.folder))[::-1]:
            failed = ""
            try:
                state = read_checkpoint(checkpoint.path, self.trained, processes.control)
            except RunError as error:
                failed = str(error)
                other = error if isinstance(error, OtherModelError) else other
            if not processes.everywhere(not failed):
                if processes.leads:
                    writer.log(f"passed over: {failed or f'{checkpoint.path}: not everywhere'}")
                continue
            put_training(state, self.trained, self.optimizer)
            self.start = checkpoint.step
            self.valid = {int(s): v for s, v in checkpoint.info.get("valid", {}).items()}
            self.before = float(checkpoint.info.get("seconds", 0.0))
            if processes.leads:
                writer.log(f"{STAGE}: goes on from step {self.start}")
            break
        else:
            if other is not None:
                raise other
        if processes.leads:
            writer.rewind_metrics(STAGE, self.start)
            self.routing.rewind(self.start)

    def measures(self, step: int) -> bool:
        """Whether the model is evaluated on valid after that step."""
        return step % self.config.evaluate_every == 0 or step == self.config.steps

    def saves(self, step: int) -> bool:
        """Whether a checkpoint is due then: of every measured step, if the best is to be kept."""
        due = step % self.config.checkpoint_every == 0 or step == self.config.steps
        return due or (self.config.keep == "best" and self.measures(step))

    def save(self, step: int) -> None:
        """Write a checkpoint; only the last two and the best on valid are kept."""
        info = {"valid": self.valid, "codes": list(self.ids.sizes), "seconds": self.seconds()}
        state = (self.folder, step, self.trained, self.optimizer, info)
        if self.processes.sharded:
            save_shards(*state, self.processes.control)
        elif self.processes.leads:
            save_checkpoint(*state)
        if self.processes.leads:
            prune_saved(self.folder, keep=2, also={self.best(), step})  # newer ones may be damaged
            self.routing.write_load()

    def seconds(self) -> float:
        """What the training has taken so far, over all processes that worked at it."""
        return round(self.before + time.perf_counter() - self.begun, 2)

    def best(self) -> int:
        """The step with the highest valid recall@10, the earliest among equals; 0 without any."""
        return max(self.valid, key=lambda step: (self.valid[step], -step), default=0)

    def recommender(self) -> Recommender:
        """Lists from the model as it is now."""
        made = self.setting, self.ids, self.popularity, self.model, self.session.device
        return Recommender(*made, contexts=self.contexts)

    def evaluate(self, step: int) -> dict[str, float]:
        """recall@10 on a fixed sample of valid users."""
        cases = sample_cases(self.setting.split.valid, self.setting.recipe.evaluate.valid_users)
        if not len(cases.user):
            return {}
        ranked = self.recommender().lists(cases, RANKS, workers=self.session.workers).items
        self.session.kept[f"valid lists of step {step}"] = ranked
        recall = recall_at_k(ranked, cases.target_offsets, cases.target_items, RANKS).mean()
        self.valid[step] = float(recall)
        return {"valid_recall@10": float(recall)}

    def look(self, result: StepResult) -> dict[str, float]:
        """Evaluate and log after a step; returns what is known of it, {} where another leads."""
        session, config, step = self.session, self.config, result.step
        evaluated = self.measures(step)
        if evaluated:
            self.processes.gather(self.trained, self.model)
        if not self.processes.leads:
            return {}
        self.throughput.stepped()
        values = _values(self.trained, result) | self.throughput.rates()
        if evaluated:
            values |= self.evaluate(step)
            self.routing.write_tokens(step)
        if evaluated or step % max(1, config.steps // _LOGGED) == 0:
            session.writer.log_metrics(STAGE, step, config.steps, **values)
            self.routing.record_load(step)
        return values

    def stops(self, step: int, values: dict[str, float]) -> bool:
        """Obey after a step: whether the user asks for a stop, of which the others hear here."""
        if not self.processes.leads:
            return self.processes.hear() == "stop"
        try:
            self.session.advance(STAGE, step, self.config.steps, **values)
        except Stopped:
            self.processes.say("stop")
            return True
        self.processes.say("go")
        return False


def pretrain(session: Session) -> None:
    """Write pretrain/: checkpoints, and done.json that names the chosen one."""
    training = Pretraining(session)
    config, device, processes = training.config, session.device, session.processes
    several = f" and {processes.world - 1} more" if processes.world > 1 else ""
    streams = ", the log as a stream" if training.streams else ""
    session.begin(
        STAGE, config.steps, f"{_count(training.model):,} parameters on {device}{several}{streams}"
    )
    training.resume()
    session.goes_on(STAGE, training.start, config.steps)
    saved_at = training.start
    training.begun = time.perf_counter()
    with training.batches() as batches, told_of_compiler():
        for result in loop(
            training.trainee(batches),
            steps=config.steps,
            start=training.start,
            clip=training.optim.clip,
            seed=processes.seed(session.setting.recipe.seed),
            device=device,
        ):
            values = training.look(result)
            if training.saves(result.step):
                training.save(result.step)
                saved_at = result.step
            if training.stops(result.step, values):
                if saved_at != result.step:
                    training.save(result.step)
                raise Stopped
    processes.leave()
    if processes.leads:
        _finish(session, training)


def _finish(session: Session, training: Pretraining) -> None:
    found = _whole(session, training)
    step = training.config.steps
    if training.config.keep == "best" and training.best() in found:
        step = training.best()
    _write_without(session, training, found[step])
    session.writer.mark_done(
        STAGE,
        checkpoint=found[step].path.name,
        step=step,
        parameters=_count(training.model),
        valid=training.valid,
        seconds=training.seconds(),
    )


def _whole(session: Session, training: Pretraining) -> dict[int, Checkpoint]:
    """Checkpoints by step, shards put together; damaged ones are passed over.

    Raises:
        RunError: the last step's cannot be read.
    """
    found = {}
    for each in saved(training.folder):
        try:
            found[each.step] = consolidate(each)
        except RunError as error:
            if each.step == training.config.steps:
                raise
            session.writer.log(f"passed over: {error}")
    return found


def _write_without(session: Session, training: Pretraining, chosen: Checkpoint) -> None:
    """routing/without.json of the chosen weights, where an expert can be spared."""
    cases = training.routing.valid
    if not len(cases) or not can_be_spared(training.model.mixtures()):
        return
    steps = training.config.steps
    if chosen.step != steps or training.trained is not training.model:
        load_model(chosen.path, training.model)

    def advance(done: int, of: int) -> None:
        message = f"switching off experts: {done} of {of}"
        session.advance(STAGE, steps, steps, message=message)

    found = each_without(
        training.recommender(),
        cases,
        seed=session.setting.recipe.seed,
        workers=session.workers,
        advance=advance,
    )
    session.writer.write_json("routing/without.json", {"step": chosen.step, **found})


def next_token_order(setting: Setting) -> str:
    """In which order examples come: the recipe's, or what suits the split."""
    if setting.recipe.train.order != "auto":
        return setting.recipe.train.order
    return "time" if setting.split.rule == "temporal" else "shuffled"


def sample_cases(cases: Cases, limit: int) -> Cases:
    """Every so-manieth case, so that at most `limit` remain; the same ones each time."""
    n = len(cases.user)
    if n <= limit:
        return cases
    return cases.take((np.arange(limit) * n) // limit)


def _values(model: OneRec, result: StepResult) -> dict[str, float]:
    """What metrics.jsonl says of a step; `loss` is next-token alone, whatever routers add to it."""
    levels = [value for name, value in result.values.items() if name.startswith("loss_")]
    added = len(levels) < len(result.values)
    return {
        "loss": float(model.over_levels(torch.tensor(levels))) if added else result.loss,
        **result.values,
        "grad_norm": result.grad_norm,
        "lr": result.lr,
    }


def device_name(device: torch.device) -> str:
    """What a GPU's driver calls it; "cpu" for a CPU, whose peak rate is not known."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
