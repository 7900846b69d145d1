"""LightGBM as the peer of a reward model: what it reads, and how it is tuned.

One model for each label, tuned on valid by early stopping over a few settings, then fitted on train
and valid together.

Shapes: N rows, F features, K behaviours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onerec.common import cores
from onerec.metrics import auc
from onerec.rewards import CATEGORIES, RewardModel, features
from onerec.train.policy import SAME_REWARD

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TREES: tuple[dict[str, Any], ...] = (  # of LightGBM
    {"num_leaves": 31, "learning_rate": 0.05, "min_child_samples": 20},
    {"num_leaves": 7, "learning_rate": 0.05, "min_child_samples": 50},
    {"num_leaves": 15, "learning_rate": 0.03, "min_child_samples": 100, "subsample": 0.7},
    {"num_leaves": 63, "learning_rate": 0.03, "min_child_samples": 200, "colsample_bytree": 0.5},
    {"num_leaves": 15, "learning_rate": 0.05, "min_child_samples": 50, "reg_lambda": 10.0},
    {"num_leaves": 7, "learning_rate": 0.1, "min_child_samples": 200, "colsample_bytree": 0.5},
)
MOST_TREES, PATIENCE = 600, 40


class Table:
    """Rows as LightGBM reads them: features (N, F), and what came of them."""

    def __init__(self, reward: RewardModel, rows: Ints) -> None:
        self.x = features(reward, rows)
        self.yes, self.known = reward.exposures.outcomes(rows)

    def label(self, k: int) -> tuple[Floats, NDArray[np.bool_]]:
        """Behaviour k, and where it is known: (N,) each."""
        return self.yes[:, k].astype(np.float64), self.known[:, k]

    def weighted(self, weights: Floats) -> tuple[Floats, NDArray[np.bool_]]:
        """The share of the weights that came true: (N,)."""
        there = self.known * weights
        share = (self.yes * there).sum(1) / np.maximum(there.sum(1), SAME_REWARD)
        return share, np.ones(len(share), dtype=bool)


Label = Callable[[Table], tuple[Floats, NDArray[np.bool_]]]


class Trees:
    """LightGBM, tuned on valid for each label by itself, then fitted on both parts together."""

    def __init__(self, tuning: dict[str, Table], final: dict[str, Table], trials: int) -> None:
        self.tuning, self.final, self.trials = tuning, final, trials
        self.tried: dict[str, Any] = {}

    def of(self, k: int) -> Any:
        """The model of behaviour k."""
        return self.fitted(str(k), lambda table: table.label(k))

    def scores(self, model: Any) -> Floats:
        """What a fitted model says of the test rows: (N,)."""
        return np.asarray(model.predict(self.final["test"].x), dtype=np.float64)

    def fitted(self, name: str, label: Label) -> Any:
        """The model of the setting that is best on valid; a label may be a share."""
        target, fit = label(self.tuning["train"])
        held, there = label(self.tuning["valid"])
        shares = not np.isin(target, (0.0, 1.0)).all()
        best: tuple[float, dict[str, Any]] | None = None
        for number, settings in enumerate(TREES[: self.trials]):
            model = self._model(settings, MOST_TREES, shares)
            model.fit(
                self.tuning["train"].x[fit],
                target[fit],
                eval_X=(self.tuning["valid"].x[there],),
                eval_y=(held[there],),
                eval_metric="cross_entropy" if shares else "auc",
                categorical_feature=self._categories(),
                callbacks=[_early_stopping()],
            )
            score = np.asarray(model.predict(self.tuning["valid"].x[there]))
            value = float(-number)
            if shares:
                value = -_cross_entropy(held[there], score)
            elif 0 < held[there].sum() < there.sum():
                value = auc(held[there], score)
            if best is None or value > best[0]:
                best = (value, {**settings, "trees": int(model.best_iteration_ or MOST_TREES)})
        assert best is not None
        self.tried[name] = best[1]
        settings = {key: value for key, value in best[1].items() if key != "trees"}
        model = self._model(settings, best[1]["trees"], shares)
        target, fit = label(self.final["train"])
        model.fit(self.final["train"].x[fit], target[fit], categorical_feature=self._categories())
        return model

    def _categories(self) -> list[int]:
        columns = self.final["train"].x.shape[1]
        return list(range(columns - CATEGORIES, columns))

    @staticmethod
    def _model(settings: dict[str, Any], trees: int, shares: bool) -> Any:
        import lightgbm

        return lightgbm.LGBMRegressor(
            objective="cross_entropy" if shares else "binary",
            n_estimators=trees,
            n_jobs=cores(),
            random_state=0,
            deterministic=True,
            subsample_freq=1,
            verbose=-1,
            **settings,
        )


def _early_stopping() -> Any:
    import lightgbm

    return lightgbm.early_stopping(PATIENCE, verbose=False)


def _cross_entropy(target: Floats, p: Floats) -> float:
    p = np.clip(p, 1e-9, 1 - 1e-9)
    return float(-(target * np.log(p) + (1 - target) * np.log(1 - p)).mean())
