"""Gradient-boosted trees beside a run's P-Score: what its towers have to beat.

    onerec rival --run RUN

One model of scikit-learn for each behaviour learns from the rows that P-Score's batches were drawn
from, or `ROWS` of them, and is measured on the very rows that the stage's report measured. It reads
P-Score's numbers, static columns, author, tag and duration; history and content are P-Score's
alone. A tenth of its rows says when to stop; nothing else is tuned, so that it takes seconds.
`onerec.bench.pscore` compares with equal tuning.

It is no part of the stage: a training should not take longer for a comparison that not everybody
asks for.

Shapes: N rows, F features.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from onerec.assembly import Setting, setting_of
from onerec.common import generator, pick_device, set_threads
from onerec.data.exposures import ENOUGH
from onerec.errors import RunError
from onerec.pipeline.pscore import FOLDER, RIVAL
from onerec.pipeline.session import Report, quiet
from onerec.rewards import CATEGORIES, Floats, Ints, RewardModel, aucs, features
from onerec.run_files import write_json
from onerec.run_writer import RunWriter
from onerec.runs import open_run

STAGE = "rival"
MODEL = "scikit-learn's HistGradientBoostingClassifier"
ROWS = 100_000  # of training, at most
MOST_TREES, PATIENCE, HELD_OUT = 150, 20, 0.1  # trees, without a gain, and the rows that say so
MOST_CATEGORIES = 255  # more than a tree of scikit-learn tells apart; such a column is a number


def make_rival(name: str, home: Path | None = None, report: Report = quiet) -> dict[str, Any]:
    """Train and measure the trees, write reward/rival.json in one step, and return what it holds.

    A behaviour with fewer than `data.exposures.ENOUGH` rows of either kind among those learned
    from, or with one outcome among those measured, has no AUC: None.

    Raises:
        RunError: no such run, it has no reward model, valid holds no row of it, or another process
            is at this comparison.
    """
    run = open_run(name, home)
    setting = setting_of(run, home)
    reward = RewardModel.load(run, setting, pick_device(setting.recipe.device))
    measured = reward.exposures.valid_rows(setting.recipe.reward.valid_rows)
    if not len(measured):
        raise RunError(
            f"run {run.name!r}: its valid part holds no row, so there is nothing to measure trees "
            "on; another evaluate.split of a new run may"
        )
    set_threads(None)
    with RunWriter.claim(run.path / "cache" / STAGE, {"name": STAGE}) as writer:
        begun, of = time.perf_counter(), 1 + len(reward.behaviours)

        def tell(step: int, message: str) -> None:
            writer.set_status(STAGE, step, of, message=message)
            report(STAGE, step, of, {"message": message})

        tell(0, "reading features")
        learned = rows_to_learn(setting, reward)
        trees = _Trees(reward, learned, measured, setting.recipe.seed)
        behaviours = {}
        for k, behaviour in enumerate(reward.behaviours):
            tell(1 + k, behaviour.replace("_", " "))
            behaviours[behaviour] = trees.of(k)
        made = {
            "model": MODEL,
            "part": "valid",
            "rows": {"train": len(learned), "valid": len(measured)},
            "behaviours": behaviours,
            "seconds": round(time.perf_counter() - begun, 2),
        }
        write_json(run.path / FOLDER / RIVAL, made)
        tell(of, "")
        writer.finish()
    return made


def rows_to_learn(setting: Setting, reward: RewardModel) -> Ints:
    """P-Score's training rows, or `ROWS` of them by lot, in the order of the log."""
    rows = reward.exposures.training_rows()
    if len(rows) <= ROWS:
        return rows
    chosen = torch.randperm(len(rows), generator=generator(setting.recipe.seed))[:ROWS]
    return np.sort(rows[chosen.numpy()])


class _Trees:
    """One model per behaviour: learns from rows, is measured on others."""

    def __init__(self, reward: RewardModel, learned: Ints, measured: Ints, seed: int) -> None:
        exposures = reward.exposures
        self.x, self.held = features(reward, learned), features(reward, measured)
        self.yes, self.known = exposures.outcomes(learned)
        self.held_yes, self.held_known = exposures.outcomes(measured)
        self.user, self.seed = exposures.split.log.user[measured], seed

    def of(self, k: int) -> dict[str, Any]:
        """Trees, auc and gauc of behaviour k."""
        there, held = self.known[:, k], self.held_known[:, k]
        label = self.yes[there, k]
        if min(label.sum(), (~label).sum()) < ENOUGH:
            return {"trees": 0, "auc": None, "gauc": None}
        trees, score = self._scores(self.x[there], label, self.held[held])
        return {"trees": trees, **aucs(self.held_yes[held, k], score, self.user[held])}

    def _scores(self, x: Floats, label: NDArray[np.bool_], held: Floats) -> tuple[int, Floats]:
        """Number of trees fitted to x (N, F), and what they say of other rows: (N',)."""
        from sklearn.ensemble import HistGradientBoostingClassifier
        from threadpoolctl import threadpool_limits

        width = x.shape[1]
        model = HistGradientBoostingClassifier(
            learning_rate=0.1,
            max_iter=MOST_TREES,
            max_leaf_nodes=15,
            min_samples_leaf=50,
            categorical_features=[
                column
                for column in range(width - CATEGORIES, width)
                if len(np.unique(x[:, column])) <= MOST_CATEGORIES
            ],
            early_stopping=True,
            validation_fraction=HELD_OUT,
            n_iter_no_change=PATIENCE,
            random_state=self.seed,
        )
        with threadpool_limits(1, "openmp"):  # on a busy machine two took several times as long
            model.fit(x, label)
            score = model.predict_proba(held)[:, 1]
        return int(model.n_iter_), np.asarray(score, dtype=np.float64)
