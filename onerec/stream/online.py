"""The online loop: serve, collect feedback, RSFT and RL, new weights to the server, again.

In a round (a day) the served policy makes a list for everyone who comes; what they do joins the
log; the policy makes `steps` updates on the feedback of the last `window` rounds; every `lag`
updates, before the next one, the server gets new weights (V1 sends them every 1,000): with lag =
steps what a round taught serves the round after the next. An arm says what is learned from:

    frozen       nothing
    all          every session of its own feedback
    half         a random half of the sessions
    rsft         the half with the most play time (V1 section 3)
    rsft_grpo    that, and groups with GRPO
    rsft_ecpo    that, and groups with ECPO

Where the recipe takes groups from the log (`align.search=log`), they are what visitors were shown,
with OneRec-V2's reward for what they did. `frozen` makes no updates, all others equally many. A
stream is a folder of the run that it began from, `stream/<name>/`: events and values by round,
rollouts by update, checkpoints, metrics.jsonl. Randomness is a function of seed, round and step, so
a stream that was stopped goes on as if it had not been.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from onerec import __version__
from onerec.alignment import AlignBatch, Alignment
from onerec.alignment_settings import LOG, judged_by, unread
from onerec.assembly import Setting, load_semantic_ids, setting_of, trained_model
from onerec.checkpoint import (
    checkpoints,
    load_tensors,
    prune,
    put_training,
    read_training,
    save_checkpoint,
    save_tensors,
)
from onerec.common import keep_memory, pick_device, set_threads
from onerec.data.batches import EpochSampler, Examples, TrainingBatches, training_examples
from onerec.data.exposures import Exposures
from onerec.data.features import item_seconds
from onerec.data.sessions import kept_by_rsft, session_of
from onerec.data.sources.world import world_of
from onerec.data.tables import read_parquet, write_parquet
from onerec.errors import RunError
from onerec.lifelong import with_lifelong
from onerec.loop import Trainee, loop
from onerec.pipeline.align import is_recorded, policy_config
from onerec.pipeline.align_batches import logged_items
from onerec.pipeline.feedback import LoggedFeedback
from onerec.pipeline.rivals import threads_for
from onerec.recommend import Recommender
from onerec.rewards import RewardModel
from onerec.rollouts import rollout_path, write_rollout
from onerec.run_writer import RunWriter
from onerec.runs import Run, open_run, valid_name
from onerec.sections import AlignConfig
from onerec.stream.config import ARMS, StreamConfig, check_log, rounds_of
from onerec.stream.growing import cases_at_the_end, grown, setting_with
from onerec.stream.platform import ReplayPlatform, WorldPlatform
from onerec.train.optim import OptimConfig, make_adamw

STAGE = "stream"
ROUND = "round"  # the column of a stream's log: 0 for what was there before it
_SEED = 104_729

Report = Callable[[str, int, int, Mapping[str, Any]], None]
Tell = Callable[[int, dict[str, float]], None]


def stream(
    run_name: str,
    config: StreamConfig,
    *,
    name: str | None = None,
    home: Path | None = None,
    report: Report = lambda stage, step, of, values: None,
) -> Run:
    """Do the rounds that are left; the folder of the stream, which reads like a run's.

    Raises:
        RunError: the run has no reward model or no policy, another process holds the stream, or it
            was begun with another configuration.
        DataError: the dataset is no world and its log cannot be played back, or lacks what the arm
            learns from.
        RecipeError: the log has fewer days to play back than rounds were asked for, or the reward
            model does not give the recipe's reward.
    """
    run = open_run(run_name, home)
    setting = setting_of(run, home)
    folder = run.path / STAGE / valid_name(name or config.arm)
    device = pick_device(setting.recipe.device)
    online = Online(run, setting, config, device, folder)
    rounds, note = rounds_of(config.rounds, online.platform.rounds)
    config = replace(config, rounds=rounds)
    with RunWriter.claim(folder, _description(run, config, setting.split.rule)) as writer:
        keep_memory()
        set_threads(threads_for(setting.recipe, device))
        online.resume()
        writer.rewind_metrics(STAGE, online.round)
        writer.set_status(STAGE, online.round, rounds, message=note)
        for line in online.unread():
            writer.log(f"{STAGE}: {line}")
        while online.round < rounds:
            values = online.step(
                lambda round_, line: writer.log_metrics(STAGE, round_, rounds, **line)
            )
            writer.beat(step=online.round)
            report(STAGE, online.round, rounds, values)
            if writer.obey() == "stop":
                writer.stop("stopped as asked; the same command goes on")
                break
        else:
            writer.mark_done(STAGE, rounds=online.round)
            writer.finish(note)
    return Run(folder)


def _description(run: Run, config: StreamConfig, split: str) -> dict[str, Any]:
    described = run.recipe()
    return {
        "name": STAGE,
        "recipe": asdict(config),
        "seed": config.seed,
        "code_version": __version__,
        "dataset": described["dataset"],
        "run": run.name,
        "split": split,  # the rule that was followed, where the recipe may say auto
    }


class Online:
    """One arm: its own log, its policy in training, the copy that serves.

    Args:
        run: where policy and reward model come from.
        folder: where rounds are written.
    """

    def __init__(
        self, run: Run, setting: Setting, config: StreamConfig, device: torch.device, folder: Path
    ) -> None:
        self.run, self.config, self.device = run, config, device
        self.base = with_lifelong(setting, run, device)
        self.folder, self.round = folder, 0
        self.trained_on, objective = ARMS[config.arm]
        self.ids, self.popularity = load_semantic_ids(run)
        reward = RewardModel.load(run, setting, device)
        for name in judged_by(setting.recipe.align) if objective else ():
            reward.check(name)
        self.pscore = reward.model
        whole = setting.split.log
        known = world_of(setting.dataset)
        if known is None:
            self.platform: WorldPlatform | ReplayPlatform = ReplayPlatform(
                whole, setting.split.train
            )
            whole = whole.take(setting.split.train)
        else:
            self.platform = WorldPlatform(known, config.seed, config.share)
        check_log(config.arm, whole)
        before = {ROUND: np.zeros(len(whole), dtype=np.int32)}
        self.log = replace(whole, columns=whole.columns | before)
        recipe = setting.recipe
        align = replace(recipe.align, objective=objective or recipe.align.objective)
        if align.tilt:  # its reference stays where it is, and a loop learns beyond it
            align = replace(align, tilt=0.0, weight=AlignConfig.weight)
        align = replace(align, weight=align.weight if objective else 0.0)
        self.recipe = replace(recipe, align=align, seed=config.seed)
        model = trained_model(run, setting, self.ids).to(device)
        self._look_again()
        self.alignment = Alignment(
            model,
            self.recommender(model).trie,
            self.reward,
            policy_config(self.recipe, setting.dataset),
            config.lag,
        )
        self.optim = OptimConfig(
            learning_rate=align.learning_rate, weight_decay=recipe.train.weight_decay
        )
        self.optimizer = make_adamw(model, self.optim)

    def unread(self) -> list[str]:
        """What the run's recipe sets for groups and this arm's do not read, each with the reason.

        `align.lag` is never read here: a stream has a lag of its own.
        """
        recipe, base = self.recipe, self.base.recipe.align
        if not recipe.align.weight:
            return []
        moved = f"align.tilt={base.tilt} is not read: a loop learns beyond the policy it began from"
        if base.weight != recipe.align.weight:
            moved += f"; nor align.weight={base.weight}, which suits it: here {recipe.align.weight}"
        own = replace(recipe.align, lag=0)
        return [moved] * (base.tilt > 0) + unread(own, recipe.sampling, recipe.industrial)

    def recommender(self, model: Any) -> Recommender:
        """Lists of a model for the log as it is now."""
        return Recommender(self.setting, self.ids, self.popularity, model, self.device)

    def _look_again(self) -> None:
        """Contexts, features and rewards of the log as it is now."""
        self.setting = setting_with(self.base, self.log)
        self.contexts = self.setting.contexts(self.device)
        exposures = Exposures(self.contexts, self.setting.split, self.pscore.vocabulary.behaviours)
        self.reward = RewardModel(self.pscore, exposures)

    # ------------------------------------------------------------------ a round

    def step(self, tell: Tell = lambda round_, values: None) -> dict[str, float]:
        """Serve, collect, learn, save; what the round was like.

        `tell` gets it before the weights are written, which make the round count: a stream that is
        killed between the two does the round again, and no line is lost.
        """
        begun = time.perf_counter()
        users = self.platform.visitors(self.log, self.round)
        served = self.recommender(self.alignment.served)
        lists = served.lists(cases_at_the_end(self.log, users), self.config.shown)
        answers = self.platform.answer(self.log, users, lists.items, self.round)
        self._take_in(answers.events, self.round + 1)
        self._look_again()
        self.alignment.scorer = self.reward
        values = {name: float(each.mean()) for name, each in answers.values.items() if len(users)}
        learned = self._learn() if self.trained_on else {}
        self.round += 1
        write_parquet(self._path("events", self.round), answers.events)
        write_parquet(self._path("values", self.round), {"user": users, **answers.values})
        line = {
            "users": float(len(users)),
            **values,
            **learned,
            "round_seconds": round(time.perf_counter() - begun, 2),
        }
        tell(self.round, line)
        self._save()
        return line

    def _take_in(self, events: dict[str, NDArray[Any]], number: int) -> None:
        self.log = grown(self.log, {**events, ROUND: np.full(len(events["user"]), number)})

    def _learn(self) -> dict[str, float]:
        examples = self._examples()
        if not len(examples):
            return {"examples": 0.0}
        first = self.round * self.config.steps
        trainee = Trainee(
            model=self.alignment.model,
            optimizer=self.optimizer,
            loss=self.alignment.policy,
            beside=self.alignment.next_token,
            batch=_RoundBatches(self, examples, first),
            learning_rate=lambda step: self.recipe.align.learning_rate,
            after_step=lambda: self.alignment.model.update_router_bias(
                self.recipe.model.balance_rate
            ),
        )
        last: dict[str, float] = {}
        for result in loop(
            trainee,
            steps=first + self.config.steps,
            start=first,
            clip=self.optim.clip,
            seed=self.config.seed,
            device=self.device,
        ):
            last = {"loss": result.loss, **result.values, "grad_norm": result.grad_norm}
            self._record(result.step)
        return {"examples": float(len(examples)), **last}

    def _record(self, step: int) -> None:
        """Write the step's rollout where it is one that is kept (`pipeline.align.is_recorded`)."""
        rollout = self.alignment.last
        rounds, _ = rounds_of(self.config.rounds, self.platform.rounds)
        if rollout and is_recorded(step, rounds * self.config.steps, self.recipe.align):
            write_rollout(rollout_path(self.folder, step), rollout)

    def _examples(self) -> Examples:
        """Training examples of the feedback of the last rounds that the arm keeps."""
        log = self.log
        round_ = log.columns[ROUND]
        rows = round_ > max(0, self.round + 1 - self.config.window)
        if self.trained_on == "rsft":
            rows = kept_by_rsft(log, rows)
        elif self.trained_on == "half":
            rows = rows & self._random_half()
        return training_examples(self.setting.split, self.base.recipe.train.targets, rows)

    def _random_half(self) -> NDArray[np.bool_]:
        session = session_of(self.log)
        random = np.random.default_rng([self.config.seed, self.round, 3])
        chosen: NDArray[np.bool_] = random.random(session[-1] + 1) < 0.5
        return np.asarray(chosen[session])

    # ------------------------------------------------------------------ disk

    def _save(self) -> None:
        """The weights, whose JSON makes the round count."""
        if self.config.lag:
            served = self.alignment.served.state_dict()
            save_tensors(self.folder / f"served-{self.round:06d}.safetensors", served)
        save_checkpoint(self.folder, self.round, self.alignment.model, self.optimizer, {})
        prune(self.folder, keep=2)
        for old in sorted(self.folder.glob("served-*.safetensors"))[:-2]:
            old.unlink()

    def resume(self) -> None:
        """Go on after the last round that was saved whole.

        Raises:
            RunError: what the rounds left is damaged.
        """
        saved = checkpoints(self.folder)
        if not saved:
            return
        last = saved[-1]
        state = read_training(last.path, self.alignment.model)
        put_training(state, self.alignment.model, self.optimizer)
        if self.config.lag:
            path = self.folder / f"served-{last.step:06d}.safetensors"
            self._refuse_gone(path, "the served weights")
            self.alignment.served.load_state_dict(load_tensors(path))
        for number in range(1, last.step + 1):
            path = self._path("events", number)
            self._refuse_gone(path, f"the events of round {number}")
            frame = read_parquet(path)
            events = {str(name): frame[name].to_numpy() for name in frame.columns}
            self._take_in(events, number)
        self.round = last.step
        self._look_again()
        self.alignment.scorer = self.reward

    def _refuse_gone(self, path: Path, what: str) -> None:
        if not path.is_file():
            again = f"delete {self.folder} to begin this stream anew"
            raise RunError(f"{path}: {what} are gone; {again}")

    def _path(self, kind: str, number: int) -> Path:
        return self.folder / "rounds" / f"{kind}-{number:06d}.parquet"


@dataclass
class _RoundBatches:
    """step -> AlignBatch over a round's examples; weights are sent where they are due."""

    online: Online
    examples: Examples
    first: int

    def __post_init__(self) -> None:
        recipe, seed = self.online.recipe, self.online.config.seed * _SEED + self.online.round
        self.next_token = TrainingBatches(
            self.online.contexts,
            self.examples,
            recipe.train.batch_size,
            seed,
            event_dropout=recipe.history.event_dropout,
        )
        self.chosen = EpochSampler(len(self.examples), recipe.align.users, seed + 1)
        self.feedback: LoggedFeedback | None = None
        if recipe.align.search == LOG and recipe.align.weight:
            log, base = self.online.log, self.online.base
            everything = np.ones(len(log), dtype=bool)
            self.feedback = LoggedFeedback(log, everything, item_seconds(base.dataset) * 1000.0)

    def __call__(self, step: int) -> AlignBatch:
        lag = self.online.config.lag
        if lag and step % lag == 0:
            self.online.alignment.send()
        number = step - self.first
        rows = self.chosen(number)
        user, end = self.examples.user[rows], self.examples.end[rows]
        context = self.online.contexts.batch(torch.from_numpy(user), torch.from_numpy(end))
        return AlignBatch(
            next_token=self.next_token(number),
            user=user,
            end=end,
            context=context,
            seed=self.online.config.seed * _SEED + 2 * step,
            logged=logged_items(
                self.feedback,
                self.online.ids.codes,
                user,
                end,
                self.online.recipe.align.group,
                self.online.device,
            ),
        )
