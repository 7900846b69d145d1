"""A run's reward model put together: what it scores with, and how good it is.

Training, alignment, evaluation and the app get it here, so that they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onerec.alignment_settings import PSCORE
from onerec.assembly import Setting
from onerec.checkpoint import load_model
from onerec.common import autocast, evaluating, generator
from onerec.data.exposures import Exposures
from onerec.errors import RecipeError, RunError
from onerec.metrics import auc, grouped_auc
from onerec.reward.pscore import Pairs, PScore, PScoreConfig, PScoreVocabulary, Scores
from onerec.runs import Run
from onerec.tokenizer.content import CO_CONSUMPTION

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FUSED = PSCORE
UNWANTED = ("dislike",)  # predicted, never wished for
CATEGORIES = 3  # the last columns of `features`
_CONTEXTS = 256
BATCH = 2_048  # pairs measured at once; numbers do not depend on it


def new_pscore(
    setting: Setting, behaviours: tuple[str, ...], vectors: NDArray[np.float32] | None
) -> PScore:
    """A P-Score with fresh weights for these behaviours; the same for the same seed."""
    recipe, features = setting.recipe.reward, setting.features
    vocabulary = features.vocabulary((1,), setting.dataset.n_items)
    items = features.item_table(np.zeros((setting.dataset.n_items, 1), dtype=np.int64), vectors)
    model = PScore(
        PScoreConfig(
            width=recipe.width,
            tower=recipe.width // 2,
            dropout=recipe.dropout,
            stop_gradient=recipe.stop_gradient,
        ),
        PScoreVocabulary(
            behaviours=behaviours,
            statistics=1 + len(behaviours),
            history_labels=vocabulary.behaviours,
            user_features=vocabulary.user_features,
            n_authors=vocabulary.n_authors,
            n_tags=vocabulary.n_tags,
            n_duration=vocabulary.n_duration,
            n_time=vocabulary.n_time,
            n_play=vocabulary.n_play,
            content_dim=0 if vectors is None else vectors.shape[1],
        ),
        items,
    )
    model.init_weights(generator(setting.recipe.seed))
    model.weights.copy_(torch.tensor([float(name not in UNWANTED) for name in behaviours]))
    return model


def own_content(run: Run) -> NDArray[np.float32] | None:
    """What items say of themselves: the tokenizer's vectors without co-consumption; None without.

    Co-consumption is fitted on the very rows that a reward model learns from: there the likeness of
    an item to the user's other items knows the answer, and later it does not. With it the towers
    believe the likeness and nothing else (KuaiRand, valid: AUC of a long view .63, and .71
    without).
    """
    vectors, report = run.vectors(), run.report()
    if vectors is None or report is None:
        return None
    dims = [part["dim"] for part in report["content"]]
    ends = np.cumsum(dims)
    kept = [
        vectors[:, end - dim : end]
        for part, dim, end in zip(report["content"], dims, ends, strict=True)
        if part["part"] != CO_CONSUMPTION
    ]
    return np.ascontiguousarray(np.concatenate(kept, axis=1)) if kept else None


@dataclass
class RewardModel:
    """A trained P-Score and the features that it reads, for contexts of one log."""

    model: PScore
    exposures: Exposures

    @classmethod
    def load(cls, run: Run, setting: Setting, device: torch.device) -> RewardModel:
        """The reward model of a run, for the log of `setting`.

        Raises:
            RunError: the reward stage has not finished, was skipped, or read another dataset.
        """
        done = run.done("reward")
        if done is None:
            raise RunError(
                f"run {run.name!r} has no reward model yet; `onerec reward --run {run.name}` "
                "trains it"
            )
        if not done.get("checkpoint"):
            raise RunError(f"run {run.name!r} has no reward model: {done.get('skipped')}")
        fingerprint = setting.dataset.fingerprint
        if done["dataset"] != fingerprint:
            raise RunError(
                f"the reward model of run {run.name!r} learned from another dataset (fingerprint "
                f"{done['dataset'][:12]}, here {fingerprint[:12]}); score its own dataset, or "
                "start a new run on this one"
            )
        behaviours = tuple(done["behaviours"])
        model = new_pscore(setting, behaviours, own_content(run))
        load_model(run.path / "reward" / done["checkpoint"], model, before=model.nothing_wide())
        exposures = Exposures(setting.contexts(device), setting.split, behaviours)
        return cls(model.to(device), exposures)

    @property
    def behaviours(self) -> tuple[str, ...]:
        """The towers' names."""
        return self.model.vocabulary.behaviours

    def score(self, user: Ints, end: Ints, items: Tensor) -> dict[str, Tensor]:
        """Probabilities of every behaviour and the fused score of candidates (B, M): (B, M) each.

        `items` holds indices, -1 for nobody's codes: those score 0.

        Raises:
            RunError: a score is no number.
        """
        device = self.exposures.contexts.device
        with evaluating(self.model), autocast(device):
            scores = self.model(self.exposures.candidates(user, end, items))
        named = self._named(scores)
        there = items.to(device) >= 0
        found = {name: value.float().sigmoid() * there for name, value in named.items()}
        if not torch.stack(list(found.values())).isfinite().all():  # one wait for a GPU
            bad = [name for name, value in found.items() if not value.isfinite().all()]
            raise RunError(
                f"the reward model's {', '.join(bad)} of some items is no number: train it again "
                "in a new run, with a lower reward.learning_rate"
            )
        return found

    def logged(self, rows: Ints) -> dict[str, NDArray[np.float64]]:
        """The same of logged rows (N,): (N,) each."""
        parts: list[dict[str, Tensor]] = []
        with evaluating(self.model), autocast(self.exposures.contexts.device):
            for begin in range(0, len(rows), BATCH):
                scores = self.model(self.exposures.rows(rows[begin : begin + BATCH]))
                parts.append(self._named(scores))
        return {
            name: torch.cat([part[name] for part in parts])[:, 0].double().sigmoid().cpu().numpy()
            for name in parts[0]
        }

    def _named(self, scores: Scores) -> dict[str, Tensor]:
        towers = dict(zip(self.behaviours, scores.towers.unbind(-1), strict=True))
        return {**towers, FUSED: scores.fused}

    def check(self, reward: str) -> str:
        """The name of a reward that this model gives.

        Raises:
            RecipeError: it gives no such reward.
        """
        known = (FUSED, *self.behaviours)
        if reward not in known:
            raise RecipeError(
                f"align.reward={reward!r}: this run's reward model gives {', '.join(known)}"
            )
        return reward


def features(reward: RewardModel, rows: Ints, at_once: int = 8_192) -> Floats:
    """What a tree can read of what the model reads of logged rows: (N, F) numbers.

    Standardised statistics and cross features, static columns and, in the last `CATEGORIES`, the
    item's author, tag and duration; neither the history nor what the item says of itself.
    """
    begins = range(0, len(rows), at_once)
    parts = [_numbers(reward, reward.exposures.rows(rows[b : b + at_once])) for b in begins]
    return torch.cat(parts)[:, 0].double().numpy()


def candidate_features(reward: RewardModel, user: Ints, end: Ints, items: Ints) -> Floats:
    """The same of candidates (M, K) of contexts (M,), (M,): (M, K, F)."""
    parts = []
    for begin in range(0, len(user), _CONTEXTS):
        rows = slice(begin, begin + _CONTEXTS)
        offered = torch.from_numpy(np.ascontiguousarray(items[rows]))
        parts.append(_numbers(reward, reward.exposures.candidates(user[rows], end[rows], offered)))
    return torch.cat(parts).double().numpy()


@torch.no_grad()
def _numbers(reward: RewardModel, pairs: Pairs) -> Tensor:
    """Pairs (B, M) -> (B, M, F) on the CPU."""
    items, item = reward.model.items, pairs.items
    static = pairs.batch.static[:, None].expand(*item.shape, -1)
    categories = torch.stack((items.author[item], items.tag[item], items.duration[item]), dim=-1)
    return torch.cat((reward.model.numbers(pairs), static, categories), dim=-1).cpu()


def measure(reward: RewardModel, rows: Ints) -> dict[str, dict[str, Any]]:
    """AUC and GAUC of each tower, and of the fused score on each behaviour, over logged rows.

    A behaviour of which the rows hold one outcome alone has no AUC: None. GAUC is the mean of the
    AUC within users, weighted by their rows.
    """
    if not len(rows):
        return {}
    scores = reward.logged(rows)
    yes, known = reward.exposures.outcomes(rows)
    user = reward.exposures.split.log.user[rows]
    result: dict[str, dict[str, Any]] = {}
    for k, name in enumerate(reward.behaviours):
        there = known[:, k]
        label, who = yes[there, k], user[there]
        entry: dict[str, Any] = {"rows": int(there.sum()), "positives": int(label.sum())}
        for prefix, score in (("", scores[name]), ("fused_", scores[FUSED])):
            found = aucs(label, score[there], who)
            entry |= {f"{prefix}{measured}": value for measured, value in found.items()}
        result[name] = entry
    return result


def aucs(label: NDArray[np.bool_], score: Floats, user: Ints) -> dict[str, float | None]:
    """auc and gauc of scores (N,); None where the labels (N,) are all alike."""
    if label.all() or not label.any():
        return {"auc": None, "gauc": None}
    return {"auc": auc(label, score), "gauc": grouped_auc(label, score, user)}


def calibration(
    predicted: NDArray[np.float64], label: NDArray[np.bool_], bins: int = 10
) -> list[dict[str, float]]:
    """Rows sorted by prediction in equal parts: mean prediction, share that happened, rows."""
    order = np.argsort(predicted, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    return [
        {
            "predicted": float(predicted[part].mean()),
            "observed": float(label[part].mean()),
            "rows": len(part),
        }
        for part in parts
    ]


def raised(
    weights: Mapping[str, float], base: Mapping[str, float], reached: Mapping[str, float], by: float
) -> dict[str, float] | None:
    """The next weights by Pantheon's rule, or None when no behaviour lost against `base`.

    The behaviour with the largest loss gets `by` times its weight (the paper adds .1 / N, which
    with a handful of rounds would move nothing; the factor is ours).
    """
    lost = losses(weights, base, reached)
    heard = sum(weights[name] > 0 for name in base)
    if heard < 2 or not lost:  # the weight of a single behaviour weighs nothing
        return None
    worst = max(lost, key=lambda name: (lost[name], name))
    return {**weights, worst: weights[worst] * by}


def losses(
    weights: Mapping[str, float], base: Mapping[str, float], reached: Mapping[str, float]
) -> dict[str, float]:
    """By how much each wished-for behaviour lies below `base`; those that do not are left out."""
    gaps = {name: base[name] - reached[name] for name in base if weights[name] > 0}
    return {name: gap for name, gap in gaps.items() if gap > 0}


def best_round(rounds: Sequence[Mapping[str, Any]]) -> int:
    """The round to keep: fewest behaviours that lose, then the least lost in sum, then the first.

    Pantheon goes on until none loses; which round to take where that does not come is ours.
    """

    def lost(number: int) -> tuple[int, float]:
        one = rounds[number]
        found = losses(one["weights"], one["product_gauc"], one["gauc"])
        return len(found), sum(found.values())

    return min(range(len(rounds)), key=lost)
