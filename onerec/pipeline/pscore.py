"""Training a P-Score: towers and fusion together, then the fusion's weights by rounds.

The towers stand still in the rounds; where `reward.stop_gradient` is off, all goes on learning. The
fusion's GAUC (AUC within users, as in Pantheon, since a policy chooses among items for one user) is
measured on valid rows beside the product of the towers, and the behaviour that lost most gets a
larger weight, until none loses. Where rounds run out before, the best one is kept
(`rewards.best_round`), and the report names who still loses. Behaviours with few positives on valid
have no voice: their GAUC is noise. Test rows are never read.

It needs no session, so that a companion can train it beside the policy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onerec.assembly import Setting
from onerec.checkpoint import save_checkpoint
from onerec.common import generator
from onerec.data.exposures import ExposureBatches, Exposures, Learnable
from onerec.loop import Trainee, loop
from onerec.metrics import grouped_auc
from onerec.reward.pscore import Pairs
from onerec.rewards import (
    FUSED,
    UNWANTED,
    RewardModel,
    best_round,
    calibration,
    losses,
    measure,
    new_pscore,
    own_content,
    raised,
)
from onerec.run_files import write_json
from onerec.runs import Run
from onerec.train.optim import OptimConfig, cosine_schedule, make_adamw

FOLDER = "reward"
REPORT, CURVE = "report.json", "curve.json"
RIVAL = "rival.json"  # of `pipeline.reward_rival`, measured beside one report
WEIGHT_DECAY = 0.05
WARMUP = 0.1  # of the steps
ROUND_SHARE = 0.15  # of the steps, for the fusion in each round
VOICE = 50  # positives on valid, from which a behaviour's GAUC counts; ours
RAISE = 1.5  # the factor of a weight that is raised
STANDARD_ROWS = 8_192  # on which features are standardised
_LOGGED = 100

Tell = Callable[[int, Mapping[str, float], bool], None]
"""step, its values, and whether the line belongs into the curve."""


def train_pscore(
    run: Run,
    setting: Setting,
    found: Learnable,
    device: torch.device,
    tell: Tell,
    hand_over: Callable[[RewardModel], None] | None = None,
    weights: Mapping[str, float] | None = None,
) -> None:
    """Write reward/: a checkpoint and, last, report.json.

    Args:
        hand_over: gets the trained model.
        weights: of the behaviours in the fused score, to begin with; default all equal.
    """
    config = setting.recipe.reward
    begun = time.perf_counter()
    model = new_pscore(setting, found.names, own_content(run)).to(device)
    if weights is not None:
        model.weights.copy_(torch.tensor([weights[name] for name in found.names]))
    exposures = Exposures(setting.contexts(device), setting.split, found.names)
    training = _Training(setting, RewardModel(model, exposures), device, tell)
    optimizer = training.towers()
    rounds = training.rounds()
    checkpoint = save_checkpoint(
        run.path / FOLDER, config.steps, model, optimizer, {"rounds": len(rounds)}
    )
    report = _report(training.reward, found.left_out, rounds, config.valid_rows)
    report["checkpoint"] = checkpoint.path.name
    report["seconds"] = round(time.perf_counter() - begun, 2)
    (run.path / FOLDER / RIVAL).unlink(missing_ok=True)
    write_json(run.path / FOLDER / REPORT, report)
    if hand_over is not None:
        hand_over(training.reward)


def total_steps(setting: Setting) -> int:
    """Steps of the towers and of all rounds, if every round is needed."""
    config = setting.recipe.reward
    return config.steps + config.rounds * _round_steps(config.steps)


def _round_steps(steps: int) -> int:
    return max(1, round(ROUND_SHARE * steps))


class _Training:
    def __init__(
        self, setting: Setting, reward: RewardModel, device: torch.device, tell: Tell
    ) -> None:
        self.recipe, self.reward, self.device, self.tell = setting.recipe, reward, device, tell

    def trainee(self, steps: int, *, again: bool) -> Trainee[Pairs]:
        """What learns for `steps`; `again`: in a round, with towers that stand if they may."""
        config, model = self.recipe.reward, self.reward.model
        optim = OptimConfig(
            learning_rate=config.learning_rate,
            warmup_steps=max(1, round(WARMUP * steps)),
            weight_decay=WEIGHT_DECAY,
        )
        return Trainee(
            model=model,
            optimizer=make_adamw(model, optim),
            loss=model.fused_loss if again and model.config.stop_gradient else model.loss,
            batch=ExposureBatches(self.reward.exposures, config.batch_size, self.recipe.seed),
            learning_rate=cosine_schedule(optim, steps),
        )

    def towers(self) -> torch.optim.Optimizer:
        """Towers and fusion together, with equal weights."""
        steps, model = self.recipe.reward.steps, self.reward.model
        rows = self.reward.exposures.training_rows()
        stream = generator(self.recipe.seed)
        chosen = torch.randperm(len(rows), generator=stream)[:STANDARD_ROWS].numpy()
        model.standardise(self.reward.exposures.rows(np.sort(rows[chosen])))
        trainee = self.trainee(steps, again=False)
        every = max(1, steps // _LOGGED)
        for result in loop(trainee, steps=steps, seed=self.recipe.seed, device=self.device):
            values = {"loss": result.loss, **result.values, "grad_norm": result.grad_norm}
            logged = result.step % every == 0 or result.step == steps
            self.tell(result.step, {**values, "lr": result.lr}, logged)
        return trainee.optimizer

    def rounds(self) -> list[dict[str, Any]]:
        """Each round with its weights and GAUCs; the model is left as it was in the best one."""
        config, model = self.recipe.reward, self.reward.model
        rows = self.reward.exposures.valid_rows(config.valid_rows)
        base = product_gauc(self.reward, rows)
        weights = dict(zip(self.reward.behaviours, model.weights.tolist(), strict=True))
        done: list[dict[str, Any]] = []
        kept: dict[str, Tensor] = {}
        each = _round_steps(config.steps)
        for number in range(config.rounds + 1):
            reached = fused_gauc(self.reward, rows, list(base))
            done.append({"weights": weights, "gauc": reached, "product_gauc": base})
            if best_round(done) == number:
                kept = {name: value.clone() for name, value in model.state_dict().items()}
            following = raised(weights, base, reached, RAISE)
            if following is None or number == config.rounds:
                break
            weights = following
            with torch.no_grad():
                model.weights.copy_(torch.tensor([weights[n] for n in self.reward.behaviours]))
            trainee = self.trainee(each, again=True)
            for result in loop(trainee, steps=each, seed=self.recipe.seed, device=self.device):
                at = config.steps + number * each + result.step
                self.tell(at, {"fused": result.values["fused"]}, False)
            if not config.stop_gradient:  # then the towers have moved, and so has what they give
                base = product_gauc(self.reward, rows)
        model.load_state_dict(kept)
        return done


def product_gauc(trained: RewardModel, rows: NDArray[np.int64]) -> dict[str, float]:
    """GAUC on each wanted behaviour of the product of the towers, with equal exponents."""
    scores = trained.logged(rows) if len(rows) else {}
    wanted = [name for name in trained.behaviours if name not in UNWANTED]
    product = sum((np.log(scores[name]) for name in wanted if scores), start=np.zeros(len(rows)))
    return _gauc_of(trained, rows, product, wanted)


def fused_gauc(trained: RewardModel, rows: NDArray[np.int64], names: list[str]) -> dict[str, float]:
    """GAUC on each behaviour of the fused score."""
    return _gauc_of(trained, rows, trained.logged(rows)[FUSED], names) if names else {}


def _gauc_of(
    trained: RewardModel, rows: NDArray[np.int64], score: NDArray[np.float64], names: list[str]
) -> dict[str, float]:
    yes, known = trained.exposures.outcomes(rows)
    user = trained.exposures.split.log.user[rows]
    result = {}
    for k, name in enumerate(trained.behaviours):
        label, there = yes[known[:, k], k], known[:, k]
        if name not in names or label.sum() < VOICE:
            continue
        gauc = grouped_auc(label, score[there], user[there])
        if gauc is not None:
            result[name] = gauc
    return result


def _report(
    trained: RewardModel, left_out: dict[str, str], rounds: list[dict[str, Any]], limit: int
) -> dict[str, Any]:
    rows = trained.exposures.valid_rows(limit)
    scores = trained.logged(rows) if len(rows) else {}
    yes, known = trained.exposures.outcomes(rows)
    curves = {
        name: calibration(scores[name][known[:, k]], yes[known[:, k], k])
        for k, name in enumerate(trained.behaviours)
        if scores and known[:, k].any()
    }
    best = best_round(rounds)
    kept = rounds[best]
    losing = losses(kept["weights"], kept["product_gauc"], kept["gauc"])
    return {
        "part": "valid",
        "rows": len(rows),
        "behaviours": measure(trained, rows),
        "weights": kept["weights"],
        "rounds": rounds,
        "best": best,
        "converged": bool(kept["gauc"]) and not losing,  # where nobody has a voice nothing is known
        "losing": sorted(losing, key=lambda name: -losing[name]),
        "left_out": left_out,
        "calibration": curves,
    }
