"""Stage 3: a ranker learns what people do, to be the policy's reward.

Towers and fusion are trained together on the logged exposures of the training part; then the towers
stand still and the fusion's weights are found by rounds: train the fusion, measure its GAUC (AUC
within users, as in Pantheon, since a policy chooses among items for one user) on valid rows beside
the product of the towers, and give the behaviour that lost most a larger weight, until none loses.
Behaviours with few positives on valid have no voice: their GAUC is noise. Test rows are never read.

A dataset whose every row is a success has nothing to learn from: the stage says so and is skipped.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from onerec.checkpoint import save_checkpoint
from onerec.common import generator
from onerec.data.exposures import ExposureBatches, Exposures, learnable, with_positive
from onerec.loop import Trainee, loop
from onerec.metrics import grouped_auc
from onerec.pipeline.session import Session
from onerec.reward.pscore import Pairs, PScore
from onerec.rewards import (
    FUSED,
    UNWANTED,
    RewardModel,
    calibration,
    measure,
    new_pscore,
    raised,
)
from onerec.train.optim import OptimConfig, cosine_schedule, make_adamw

STAGE = "reward"
WEIGHT_DECAY = 0.05
WARMUP = 0.1  # of the steps
ROUND_SHARE = 0.15  # of the steps, for the fusion in each round
VOICE = 50  # positives on valid, from which a behaviour's GAUC counts; ours
RAISE = 1.5  # the factor of a weight that is raised
STANDARD_ROWS = 8_192  # on which features are standardised
_LOGGED = 100


def reward(session: Session) -> None:
    """Write reward/: a checkpoint, report.json, and done.json; or done.json with why not."""
    setting, config = session.setting, session.setting.recipe.reward
    log = with_positive(setting.split.log)
    found = learnable(log, setting.split.train)
    if not config.steps or not found.names:
        why = "reward.steps=0" if not config.steps else _nothing(found.left_out)
        session.begin(STAGE, 1, f"skipped: {why}")
        session.writer.mark_done(STAGE, skipped=why)
        session.advance(STAGE, 1, 1, message=f"skipped: {why}")
        return
    begun = time.perf_counter()
    session.begin(STAGE, _steps(config.steps, config.rounds), ", ".join(found.names))
    model = new_pscore(setting, found.names, session.run.vectors()).to(session.device)
    contexts = setting.contexts(session.device)
    trained = RewardModel(model, Exposures(contexts, setting.split, found.names))
    optimizer = _train_towers(session, trained)
    rounds = _find_weights(session, trained)
    checkpoint = save_checkpoint(
        session.run.path / STAGE, config.steps, model, optimizer, {"rounds": len(rounds)}
    )
    session.writer.write_json(
        f"{STAGE}/report.json", _report(trained, found.left_out, rounds, config.valid_rows)
    )
    session.writer.mark_done(
        STAGE,
        checkpoint=checkpoint.path.name,
        behaviours=list(found.names),
        dataset=setting.dataset.fingerprint,
        seconds=round(time.perf_counter() - begun, 2),
    )
    session.advance(STAGE, config.steps, config.steps, message="done")


def _steps(steps: int, rounds: int) -> int:
    return steps + rounds * _round_steps(steps)


def _round_steps(steps: int) -> int:
    return max(1, round(ROUND_SHARE * steps))


def _nothing(left_out: dict[str, str]) -> str:
    if not left_out:
        return "every event of this dataset is a success, so there is nothing to tell apart"
    named = "; ".join(f"{name}: {why}" for name, why in left_out.items())
    return f"no behaviour has both outcomes ({named})"


def _trainee(
    session: Session, trained: RewardModel, parameters: PScore, steps: int, *, fusion: bool
) -> Trainee[Pairs]:
    recipe = session.setting.recipe
    optim = OptimConfig(
        learning_rate=recipe.reward.learning_rate,
        warmup_steps=max(1, round(WARMUP * steps)),
        weight_decay=WEIGHT_DECAY,
    )
    batches = ExposureBatches(trained.exposures, recipe.reward.batch_size, recipe.seed)
    return Trainee(
        model=parameters,
        optimizer=make_adamw(parameters, optim),
        loss=parameters.fused_loss if fusion else parameters.loss,
        batch=batches,
        learning_rate=cosine_schedule(optim, steps),
    )


def _train_towers(session: Session, trained: RewardModel) -> torch.optim.Optimizer:
    recipe, model = session.setting.recipe, trained.model
    rows = trained.exposures.training_rows()
    stream = generator(recipe.seed)
    chosen = torch.randperm(len(rows), generator=stream)[:STANDARD_ROWS].numpy()
    model.standardise(trained.exposures.rows(np.sort(rows[chosen])))
    trainee = _trainee(session, trained, model, recipe.reward.steps, fusion=False)
    total = _steps(recipe.reward.steps, recipe.reward.rounds)
    every = max(1, recipe.reward.steps // _LOGGED)
    for result in loop(trainee, steps=recipe.reward.steps, seed=recipe.seed, device=session.device):
        values = {"loss": result.loss, **result.values, "grad_norm": result.grad_norm}
        if result.step % every == 0 or result.step == recipe.reward.steps:
            session.writer.log_metrics(STAGE, result.step, total, lr=result.lr, **values)
        session.advance(STAGE, result.step, total, loss=result.loss)
    return trainee.optimizer


def _find_weights(session: Session, trained: RewardModel) -> list[dict[str, Any]]:
    """Rounds of the fusion alone; each with its weights, and GAUCs beside the towers' product."""
    config, model = session.setting.recipe.reward, trained.model
    rows = trained.exposures.valid_rows(config.valid_rows)
    base = product_gauc(trained, rows)
    weights = dict(zip(trained.behaviours, model.weights.tolist(), strict=True))
    rounds: list[dict[str, Any]] = []
    total, each = _steps(config.steps, config.rounds), _round_steps(config.steps)
    for number in range(config.rounds + 1):
        reached = fused_gauc(trained, rows, list(base))
        rounds.append({"weights": weights, "gauc": reached, "product_gauc": base})
        following = raised(weights, base, reached, RAISE)
        if following is None or number == config.rounds:
            break
        weights = following
        with torch.no_grad():
            model.weights.copy_(torch.tensor([weights[name] for name in trained.behaviours]))
        trainee = _trainee(session, trained, model, each, fusion=True)
        for result in loop(
            trainee, steps=each, seed=session.setting.recipe.seed, device=session.device
        ):
            at = config.steps + number * each + result.step
            session.advance(STAGE, at, total, message=f"weights, round {number + 1}")
    return rounds


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
    return {
        "part": "valid",
        "rows": len(rows),
        "behaviours": measure(trained, rows),
        "weights": rounds[-1]["weights"],
        "rounds": rounds,
        "left_out": left_out,
        "calibration": curves,
    }
