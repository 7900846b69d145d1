"""Stage 4: the policy is aligned with the reward while next-token training goes on.

Next-token batches are those that RSFT keeps (sessions with the longer half of play time), where the
log knows play times. The policy gets groups on the contexts of a share of them (V1: of 1%). Which
checkpoint is kept is decided on valid: the highest reward of the lists among those whose recall@10
has not fallen by more than `RECALL_SHARE` of what pre-training had; the paper names no rule.
Where valid has no users, the last one is kept.

Recorded in rollouts/: every step while all of them hold at most `RECORDED` items, else every n-th.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection

import numpy as np
import torch
from numpy.typing import NDArray

from onerec.alignment import AlignBatch, Alignment, PolicyConfig, score_lists
from onerec.alignment_settings import LOG, judged_by, reward_weights, unread
from onerec.assembly import Setting, load_semantic_ids, trained_model
from onerec.checkpoint import (
    checkpoints,
    load_tensors,
    prune,
    put_training,
    read_training,
    save_checkpoint,
    save_tensors,
)
from onerec.data.batches import Examples, training_examples
from onerec.data.dataset import Dataset
from onerec.data.sessions import kept_by_rsft
from onerec.errors import RecipeError, RunError
from onerec.lifelong import with_lifelong
from onerec.loop import Trainee, loop
from onerec.metrics import recall_at_k
from onerec.pipeline.align_batches import AlignBatches
from onerec.pipeline.feedback import LoggedFeedback
from onerec.pipeline.pretrain import sample_cases
from onerec.pipeline.session import Session, Stopped
from onerec.recipes import Recipe
from onerec.recommend import Recommender
from onerec.rewards import RewardModel
from onerec.rollouts import rollout_path, write_rollout
from onerec.run_writer import RunWriter
from onerec.runs import Run
from onerec.sections import AlignConfig
from onerec.train.compiled import as_a_whole, told_of_compiler
from onerec.train.optim import OptimConfig, cosine_schedule, make_adamw

STAGE = "align"
RECALL_SHARE = 0.01
RANKS = 10
PASS_AT, PASS_USERS = (10, 32, 128), 400  # pass@K on so many users of valid
WARMUP = 10
_LOGGED = 500
RECORDED = 2_000_000  # items of a training's rollouts: some 120 MB (ours)
_LOOKS = (0.25, 0.5)  # of the steps: recall may fall early while the reward still rises


class Aligning:
    """One alignment: policy, reward, batches, and what has been seen of valid so far.

    It reads what the stages before left in `run` and writes below `run`/align; `writer` is told
    what happens, where there is one (a benchmark has none, and then nothing is written).
    """

    def __init__(
        self,
        run: Run,
        setting: Setting,
        device: torch.device,
        writer: RunWriter | None = None,
        policy: PolicyConfig | None = None,
    ) -> None:
        self.run, self.setting, self.writer = run, setting, writer
        recipe = setting.recipe
        self.config, self.device = recipe.align, device
        self.folder = run.path / STAGE
        self.ids, self.popularity = load_semantic_ids(run)
        self.reward = RewardModel.load(run, setting, device)
        self.weights = judged_by(self.config)
        for name in self.weights:
            self.reward.check(name)
        self.setting = setting = with_lifelong(setting, run, device)
        self.contexts = setting.contexts(device)
        model = trained_model(run, setting, self.ids, stage="pretrain")
        self.recommender = Recommender(setting, self.ids, self.popularity, model, device)
        self.alignment = Alignment(
            self.recommender.model,
            self.recommender.trie,
            self.reward,
            policy or policy_config(recipe, setting.dataset),
            self.config.lag,
            recipe.train.compile and as_a_whole(device),
        )
        self.optim = OptimConfig(
            learning_rate=self.config.learning_rate,
            warmup_steps=min(WARMUP, self.config.steps),
            weight_decay=recipe.train.weight_decay,
        )
        self.optimizer = make_adamw(self.alignment.model, self.optim)
        self.valid: dict[int, Valid] = {}
        self.start = 0

    def examples(self) -> Examples:
        """Training examples that RSFT keeps; all of them where the log has no play times."""
        split, log = self.setting.split, self.setting.split.log
        ranked = "play_ms" in log.columns and "timestamp" in log.columns
        allowed = kept_by_rsft(log, split.train) if ranked else None
        found = training_examples(split, self.setting.recipe.train.targets, allowed)
        return found if len(found) else training_examples(split, self.setting.recipe.train.targets)

    def trainee(self) -> Trainee[AlignBatch]:
        """What the loop needs."""
        recipe = self.setting.recipe
        return Trainee(
            model=self.alignment.model,
            optimizer=self.optimizer,
            loss=self.alignment.policy,
            beside=self.alignment.next_token,
            batch=AlignBatches(
                self.setting, self.contexts, self.examples(), self.ids.codes, self.send
            ),
            learning_rate=cosine_schedule(self.optim, self.config.steps),
            after_step=lambda: self.alignment.model.update_router_bias(recipe.model.balance_rate),
        )

    def resume(self) -> None:
        """Go on from the newest checkpoint, or begin with what pre-training chose."""
        for checkpoint in reversed(checkpoints(self.folder)):
            try:
                state = read_training(checkpoint.path, self.alignment.model)
            except RunError as error:
                self._say(f"passed over: {error}")
                continue
            put_training(state, self.alignment.model, self.optimizer)
            self.start = checkpoint.step
            self.valid = {
                int(step): Valid(*values) for step, values in checkpoint.info["valid"].items()
            }
            self._say(f"{STAGE}: goes on from step {self.start}")
            break
        if self.writer is not None:
            self.writer.rewind_metrics(STAGE, self.start or -1)  # step 0 is measured again
        self._resume_served()

    def _say(self, message: str) -> None:
        if self.writer is not None:
            self.writer.log(message)

    def _resume_served(self) -> None:
        """The serving copy as it was sent last before the step that training goes on from."""
        if not self.config.lag or not self.start:
            return
        weights = load_tensors(self.folder / _served(self._sent(self.start)))
        self.alignment.served.load_state_dict(weights)

    def _sent(self, step: int) -> int:
        """Before which step the serving copy was sent that goes with the checkpoint of `step`."""
        return (step - 1) // self.config.lag * self.config.lag

    def send(self, step: int) -> None:
        """Renew the serving copy before the step `step` where it is due, and keep it on disk.

        The copies that go with a checkpoint stay beside it, however many were sent since.
        """
        lag = self.config.lag
        if not lag or step % lag:
            return
        self.alignment.send()
        if self.writer is None:
            return
        save_tensors(self.folder / _served(step), self.alignment.served.state_dict())
        needed = {step, *(self._sent(each.step) for each in checkpoints(self.folder) if each.step)}
        kept = {_served(each) for each in needed}
        for old in self.folder.glob("served-*.safetensors"):
            if old.name not in kept:
                old.unlink()

    def save(self, step: int) -> None:
        """Write a checkpoint; only the last two and the chosen one are kept."""
        info = {"valid": {at: list(values) for at, values in self.valid.items()}}
        save_checkpoint(self.folder, step, self.alignment.model, self.optimizer, info)
        prune(self.folder, keep=2, also={self.chosen(), step})  # newer ones may be damaged

    def chosen(self) -> int:
        """The step that `best` takes of those on disk; without valid users the last of them."""
        there = [checkpoint.step for checkpoint in checkpoints(self.folder)]
        return best(self.valid, there) if self.valid else there[-1]

    def evaluate(
        self, step: int, workers: int = 1, ranked: NDArray[np.int64] | None = None
    ) -> dict[str, float]:
        """recall@10 and mean reward of lists for a fixed sample of valid users, if not `ranked`."""
        cases = sample_cases(self.setting.split.valid, self.setting.recipe.evaluate.valid_users)
        if not len(cases):
            return {}
        if ranked is None:
            ranked = self.recommender.lists(cases, RANKS, workers=workers).items
        recall = recall_at_k(ranked, cases.target_offsets, cases.target_items, RANKS).mean()
        parts = score_lists(self.reward, cases.user, cases.end, ranked, tuple(self.weights))
        reward = sum(self.weights[name] * float(part.mean()) for name, part in parts.items())
        self.valid[step] = Valid(float(recall), reward)
        return {"valid_recall@10": float(recall), "valid_reward": reward}

    def passes(self, workers: int = 1) -> dict[str, float]:
        """`valid_pass@K`: of some valid users, the share of whom the first K of a list hold at
        least one item that they went on to like (`PASS_AT`, `PASS_USERS`; one beam for all K)."""
        cases = sample_cases(self.setting.split.valid, PASS_USERS)
        if not len(cases):
            return {}
        ranked = self.recommender.lists(cases, max(PASS_AT), workers=workers).items
        rate = {
            k: recall_at_k(ranked, cases.target_offsets, cases.target_items, k) for k in PASS_AT
        }
        return {f"valid_pass@{k}": float((found > 0).mean()) for k, found in rate.items()}

    def record(self, step: int) -> None:
        """Write the step's rollout where it is one that is kept."""
        rollout = self.alignment.last
        if rollout is not None and is_recorded(step, self.config.steps, self.config):
            write_rollout(rollout_path(self.run.path, step), rollout)


def is_recorded(step: int, steps: int, config: AlignConfig) -> bool:
    """Whether this step of `steps` is kept: the first and every n-th, n as small as `RECORDED`."""
    every = max(1, math.ceil(steps * config.users * config.group / RECORDED))
    return step % every == 0 or step == 1


class Valid(tuple[float, float]):
    """recall@10 and mean reward on valid."""

    def __new__(cls, recall: float, reward: float) -> Valid:
        return super().__new__(cls, (recall, reward))

    @property
    def recall(self) -> float:
        return self[0]

    @property
    def reward(self) -> float:
        return self[1]


def best(valid: dict[int, Valid], there: Collection[int] | None = None) -> int:
    """The step with the highest reward whose recall is near that of step 0; else step 0.

    `valid` holds a step at least. Only steps of `there` are taken, None: all; where none of them is
    fit, and without step 0 in `valid`, it is the last.
    """
    seen = valid.keys() if there is None else valid.keys() & set(there)
    left = sorted(seen or there or ())
    if 0 not in valid:
        return left[-1]
    least = (1 - RECALL_SHARE) * valid[0].recall
    fit = [step for step in left if step in valid and valid[step].recall >= least]
    return max(fit, key=lambda step: (valid[step].reward, -step)) if fit else left[-1]


def policy_config(recipe: Recipe, dataset: Dataset) -> PolicyConfig:
    """What the recipe says of the policy, its named items found in the dataset."""
    align, industrial = recipe.align, recipe.industrial
    return PolicyConfig(
        group=align.group,
        search=align.search,
        objective=align.objective,
        weight=align.weight,
        tilt=align.tilt,
        weights=reward_weights(align.reward),
        format_items=align.format_items,
        listed=listed_items(dataset, industrial.column, industrial.value),
        alpha=industrial.alpha,
        limit=industrial.limit,
        temperature=recipe.sampling.temperature,
        top_p=recipe.sampling.top_p,
        icepop=recipe.sampling.icepop,
    )


def refuse_unalignable(setting: Setting) -> None:
    """Refuse before anything is trained what alignment would only find when its turn comes.

    Raises:
        RecipeError: the industrial reward names a column or a value that no item has.
        DataError: the log is asked for its feedback and has none.
    """
    recipe = setting.recipe
    listed_items(setting.dataset, recipe.industrial.column, recipe.industrial.value)
    if recipe.align.search == LOG and recipe.align.weight:
        LoggedFeedback.of(setting.dataset, setting.split)


def listed_items(dataset: Dataset, column: str, value: str) -> torch.Tensor | None:
    """(n,) bool: items whose column is, or whose list holds, the value; None without a column.

    Raises:
        RecipeError: the items have no such column, or none of them has the value.
    """
    if not column:
        return None
    if column not in dataset.items.columns:
        known = ", ".join(map(str, dataset.items.columns))
        raise RecipeError(f"industrial.column={column!r}: items have {known}")
    held = dataset.items[column].map(
        lambda cell: (
            value in map(str, cell) if isinstance(cell, list | np.ndarray) else str(cell) == value
        )
    )
    if not held.any():
        raise RecipeError(f"industrial.value={value!r}: no item has it in column {column!r}")
    return torch.from_numpy(held.to_numpy(dtype=bool).copy())


@told_of_compiler()
def align(session: Session) -> None:
    """Write align/: checkpoints, done.json that names the chosen one; and rollouts/."""
    recipe = session.setting.recipe
    config = recipe.align
    why = "align.steps=0" if not config.steps else (session.run.done("reward") or {}).get("skipped")
    if why:
        session.begin(STAGE, 1, f"skipped: {why}")
        session.writer.mark_done(STAGE, skipped=why)
        session.advance(STAGE, 1, 1, message=f"skipped: {why}")
        return
    begun = time.perf_counter()
    training = Aligning(session.run, session.setting, session.device, session.writer)
    session.begin(STAGE, config.steps, f"{config.objective}, {config.reward}")
    for line in unread(config, recipe.sampling, recipe.industrial):
        session.writer.log(f"{STAGE}: {line}")
    training.resume()
    session.goes_on(STAGE, training.start, config.steps)
    if not training.start:
        chosen = (session.run.done("pretrain") or {}).get("step")
        known = session.kept.get(f"valid lists of step {chosen}")
        first = training.evaluate(0, session.workers, known) | training.passes(session.workers)
        session.writer.log_metrics(STAGE, 0, config.steps, **first)
        training.save(0)
    saved = training.start
    every = recipe.train.evaluate_every
    looks = {config.steps, *(math.ceil(share * config.steps) for share in _LOOKS)}
    for result in loop(
        training.trainee(),
        steps=config.steps,
        start=training.start,
        clip=training.optim.clip,
        seed=recipe.seed,
        device=session.device,
        workers=lambda: session.workers,
    ):
        values = {"loss": result.loss, **result.values, "grad_norm": result.grad_norm}
        training.record(result.step)
        due = result.step in looks or result.step % every == 0
        measured = {}
        if due:
            measured = training.evaluate(result.step, session.workers)
            measured |= training.passes(session.workers)
        if measured or result.step % max(1, config.steps // _LOGGED) == 0:
            session.writer.log_metrics(
                STAGE, result.step, config.steps, lr=result.lr, **values, **measured
            )
        if due:
            training.save(result.step)
            saved = result.step
        try:
            session.advance(STAGE, result.step, config.steps, **values, **measured)
        except Stopped:
            if saved != result.step:
                training.save(result.step)
            raise
    _finish(session, training, time.perf_counter() - begun)


def _finish(session: Session, training: Aligning, seconds: float) -> None:
    step = training.chosen()
    if not training.valid:
        session.writer.log(
            f"{STAGE}: nothing to choose by, valid has no users; step {step} is kept"
        )
    found = {checkpoint.step: checkpoint for checkpoint in checkpoints(training.folder)}
    session.writer.mark_done(
        STAGE,
        checkpoint=found[step].path.name,
        step=step,
        valid={at: {"recall@10": v.recall, "reward": v.reward} for at, v in training.valid.items()},
        seconds=round(seconds, 2),
    )


def _served(step: int) -> str:
    return f"served-{step:06d}.safetensors"
