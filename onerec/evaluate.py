"""One path for every recommender: ranked lists and cases in, comparable numbers out.

Whatever made the lists (OneRec, a baseline, a list at random, an oracle), they are measured by the
same code on the same cases, over the full catalogue. Settings are chosen by `tune`, which gives
every model the same number of trials. How lists are made is left to the models.

Legend: M cases, k ranks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from onerec import metrics
from onerec.baselines.ranking import Baseline
from onerec.data.split import Cases, Split
from onerec.metrics import FloatArray, IntArray

CUTOFFS = (5, 10)
RANKS = max(CUTOFFS)
METRICS = {
    "recall": metrics.recall_at_k,
    "ndcg": metrics.ndcg_at_k,
    "hit": metrics.hit_at_k,
}
COMPARED = ("recall@10", "ndcg@10")  # metrics that get an interval of the difference

Config = TypeVar("Config")


def evaluate(
    ranked: Mapping[str, IntArray],
    cases: Cases,
    n_items: int,
    *,
    seed: int = 0,
    reference: str = "onerec",
    extra: Mapping[str, Callable[[NDArray[Any], int], IntArray]] | None = None,
) -> dict[str, Any]:
    """Measure all models on the same cases.

    Args:
        ranked: model name -> items `(M, at least 10)`, best first, -1 for nothing.
        cases: the questions, with their targets.
        n_items: size of the catalogue.
        seed: of the bootstrap; each interval has its own stream, so adding a model moves no number.
        reference: the model from which the others are subtracted.
        extra: further lists, such as one at random and an oracle's: a function of the users `(M,)`
            and the number of ranks.

    Returns:
        `models`: name -> `evaluate_model`; `differences`: other name -> metric -> `mean` and `ci`
        of reference minus other, over the same resampled cases.

    Raises:
        ValueError: lists that cannot be measured; the message names the model.
    """
    lists = dict(ranked)
    for name, make in (extra or {}).items():
        lists[name] = make(cases.user, RANKS)
    models = {
        name: evaluate_model(name, items, cases, n_items, np.random.default_rng(seed))
        for name, items in lists.items()
    }
    differences: dict[str, Any] = {}
    if reference in lists:
        ours = case_values(reference, lists[reference], cases)
        for name in lists:
            if name != reference:
                differences[name] = compare(ours, case_values(name, lists[name], cases), seed)
    return {"models": models, "differences": differences}


def evaluate_model(
    name: str,
    ranked: IntArray,
    cases: Cases,
    n_items: int,
    generator: np.random.Generator,
) -> dict[str, Any]:
    """`recall@5 .. hit@10` as means over cases, `coverage@10`, and `recall@10_ci` [low, high]."""
    values = case_values(name, ranked, cases)
    result: dict[str, Any] = {metric: float(each.mean()) for metric, each in values.items()}
    result[f"coverage@{RANKS}"] = metrics.coverage_at_k(ranked, n_items, RANKS)
    result["recall@10_ci"] = list(metrics.bootstrap_interval(values["recall@10"], generator))
    return result


def case_values(name: str, ranked: IntArray, cases: Cases) -> dict[str, FloatArray]:
    """Every metric at every cutoff, `(M,)` each."""
    try:
        return {
            f"{metric}@{k}": measure(ranked, cases.target_offsets, cases.target_items, k)
            for metric, measure in METRICS.items()
            for k in CUTOFFS
        }
    except ValueError as error:
        raise ValueError(f"lists of {name}: {error}") from error


def compare(
    ours: Mapping[str, FloatArray], theirs: Mapping[str, FloatArray], seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Metric -> mean of ours minus theirs and its paired bootstrap interval."""
    result: dict[str, dict[str, Any]] = {}
    for metric in COMPARED:
        a, b = ours[metric], theirs[metric]
        interval = metrics.paired_difference_interval(a, b, np.random.default_rng(seed))
        result[metric] = {"mean": float(a.mean() - b.mean()), "ci": list(interval)}
    return result


@dataclass(frozen=True)
class Tuned(Generic[Config]):
    """The best of some settings, and what each of them reached."""

    config: Config
    model: Baseline
    trials: list[dict[str, Any]]  # config, recall@10 and ndcg@10 if measured, seconds; as tried


def tune(
    grid: Sequence[Config],
    fit: Callable[[Config], Baseline],
    split: Split,
    part: str = "valid",
    *,
    trials: int | None = None,
    exclude_seen: bool = False,
) -> Tuned[Config]:
    """Try the first `trials` settings of a grid and keep the one with the best recall@10.

    Grids are ordered so that each beginning of them is a sensible spread; giving every model the
    same number makes the effort equal. Of equal settings the earlier one stays.

    Args:
        grid: frozen dataclasses, the default first.
        fit: trains one setting; what it reads of the split must be training rows (and, to stop
            early, valid cases).
        part: the cases to tune on, `valid` unless there is a reason that is written down. Without
            a case nothing can be chosen: the default stands, unmeasured.
        trials: how many settings; all of the grid by default.

    Raises:
        ValueError: the grid has fewer settings than trials, or the part is not there.
    """
    trials = len(grid) if trials is None else trials
    if not 1 <= trials <= len(grid):
        raise ValueError(f"{trials} trials of a grid of {len(grid)} settings")
    if part not in ("valid", "test"):
        raise ValueError(f"part {part!r}: choose valid or test")
    cases: Cases = getattr(split, part)
    best: tuple[float, Config, Baseline] | None = None
    record: list[dict[str, Any]] = []
    if not len(cases.user):
        began, model = time.perf_counter(), fit(grid[0])
        seconds = round(time.perf_counter() - began, 3)
        return Tuned(grid[0], model, [{"config": _plain(grid[0]), "seconds": seconds}])
    for config in grid[:trials]:
        began = time.perf_counter()
        model = fit(config)
        ranked = model.recommend(split, cases, RANKS, exclude_seen)
        values = case_values(model.name, ranked, cases)
        reached = {metric: float(values[metric].mean()) for metric in COMPARED}
        seconds = time.perf_counter() - began
        record.append({"config": _plain(config), **reached, "seconds": round(seconds, 3)})
        if best is None or reached["recall@10"] > best[0]:
            best = (reached["recall@10"], config, model)
    assert best is not None
    return Tuned(best[1], best[2], record)


def _plain(config: Any) -> dict[str, Any]:
    """A configuration as JSON takes it."""
    return dict(asdict(config))
