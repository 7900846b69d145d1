"""P-Score beside LightGBM on KuaiRand's logs: each behaviour, the same features, equal tuning.

    python -m onerec.bench.pscore --json [--kuairand FOLDER] [--seed 0] [--out FILE]
    python -m onerec.bench.pscore --join FILE FILE .. [--out FILE]

Train is 25 to 28 April, valid 29 and 30 April, test 1 to 8 May 2022; no item's rate and no weight
knows a test row, and a user's own rate knows his rows before, as it would on that day. Both models
read the same: statistics of user and item, cross features, static columns, author, tag and
duration. P-Score reads the history besides, which is what its attention is for; the trees read what
the cross features say of it. Each gets `TRIALS` settings, chosen on valid, is then fitted again on
train and valid together, and is reported once on test; the trees are tuned for each behaviour by
itself.

The fused score stands beside trees fitted on the same weighted label and beside a product of the
towers whose exponents are tuned on valid. Behaviours with fewer than `ENOUGH` test positives are
reported and not judged.

`gauc` ranks the rows of a user as they were logged, each with what was known at its time. There a
user's own rate says no before his first like and yes after it, when it is over: within users it is
wrong more often than right, and GAUC falls below .5 for whoever reads it. `gauc_at_once` ranks the
same rows as a request does, as candidates of one moment, that of the user's first test row: towers,
trees and the three fused scores; `gauc_at_once_difference` is the tower's less the trees', with its
95% interval over users. A behaviour is `met` that is within `MARGIN` in AUC and in that.

Shapes: N rows, F features, K behaviours.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import torch
from numpy.typing import NDArray

from onerec.assembly import Setting
from onerec.bench.at_once import AtOnce
from onerec.bench.generate import as_json, commit, cpu_name, write
from onerec.bench.mistakes import refuse_below_one, told_in_a_line
from onerec.bench.pscore_seeds import joined
from onerec.bench.trees import TREES, Table, Trees
from onerec.bench.world import _found as found_kuairand
from onerec.common import set_threads
from onerec.data.dataset import Dataset
from onerec.data.exposures import Exposures, learnable
from onerec.data.ingest import import_files
from onerec.data.schema import SPLITS
from onerec.data.sql import sql_path
from onerec.metrics import auc, grouped_auc
from onerec.pipeline import run as run_stages
from onerec.pipeline.pscore import train_pscore
from onerec.recipes import Recipe, recipe
from onerec.rewards import FUSED, UNWANTED, RewardModel, calibration
from onerec.runs import open_run

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

VALID_FROM, TEST_FROM = "2022-04-29", "2022-05-01"
ENOUGH = 500  # test positives, from which a behaviour is judged
HEARD = 100  # valid positives, from which a behaviour has a voice in tuning
MARGIN = 0.005
PSCORES = (  # steps, width, dropout, learning rate
    (100, 48, 0.2, 3e-3),
    (150, 48, 0.2, 3e-3),
    (250, 48, 0.2, 3e-3),
    (150, 64, 0.4, 3e-3),
    (250, 64, 0.4, 2e-3),
    (400, 32, 0.4, 2e-3),
)
SETTINGS = {
    "tokenizer.codebook_size": "64",
    "evaluate.split": "given",
    "content.text": "none",
    "baselines.names": "popularity",
}


def run(
    *,
    out: Path | None = None,
    kuairand: Path | None = None,
    trials: int = len(TREES),
    seed: int = 0,
) -> dict[str, Any]:
    """Tune both on valid and measure both on test; writes the result to `out` as well."""
    threads = set_threads()
    folder = kuairand or found_kuairand()
    if folder is None:
        raise FileNotFoundError("KuaiRand's logs are not here; name the folder with --kuairand")
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        dataset = import_kuairand(folder, home)
        chosen = recipe("small", {**SETTINGS, "seed": str(seed)})
        run_stages("p", chosen, dataset.name, home=home, stages=("tokenize",))
        set_threads(threads)
        result = compare(home, Setting.of(chosen, dataset), trials)
    result |= {
        "benchmark": "pscore",
        "command": "python -m onerec.bench.pscore",
        "seed": seed,
        "commit": commit(),
        "device": f"{cpu_name()}, {threads} threads",
        "seconds": round(time.perf_counter() - begun, 1),
    }
    if out is not None:
        write(result, out)
    return result


def import_kuairand(folder: Path, home: Path) -> Dataset:
    """KuaiRand's complete rows with a split by date."""
    home.mkdir(parents=True, exist_ok=True)
    table = home / "interactions.parquet"
    source = sql_path(folder / "interactions.parquet")
    day = "to_timestamp(timestamp / 1000) AT TIME ZONE 'Asia/Shanghai'"
    with duckdb.connect() as connection:
        connection.execute(
            f"COPY (SELECT *, CASE WHEN {day} < '{VALID_FROM}' THEN 'train' WHEN {day} < "
            f"'{TEST_FROM}' THEN 'valid' ELSE 'test' END AS split FROM read_parquet({source})) "
            f"TO {sql_path(table)} (FORMAT parquet)"
        )
    return import_files(
        table, folder / "items.parquet", folder / "users.parquet", name="kuairand", home=home
    )


def compare(home: Path, setting: Setting, trials: int) -> dict[str, Any]:
    """Both models on one split; see the module's docstring."""
    found = learnable(setting.split.log, setting.split.train)
    exposures = Exposures(setting.contexts("cpu"), setting.split, found.names)
    tuning = {"train": exposures.training_rows(), "valid": exposures.valid_rows()}
    tuned, chosen, tried = _tune_pscore(home, setting, found, tuning["valid"], trials)
    exponents = _exponents(tuned, tuning["valid"])
    whole = with_valid(setting)
    more = len(Exposures(whole.contexts("cpu"), whole.split, found.names).training_rows())
    ours = _final(home, whole, found, chosen, more / len(tuning["train"]), tuned)
    rows = {"train": ours.exposures.training_rows(), "test": ours.exposures.test_rows()}
    trees = Trees(
        {part: Table(tuned, each) for part, each in tuning.items()},
        {part: Table(ours, each) for part, each in rows.items()},
        trials,
    )
    scores, at_once = ours.logged(rows["test"]), AtOnce(ours, rows["test"])
    lines = {}
    for k, name in enumerate(exposures.behaviours):
        model = trees.of(k)
        lines[name] = _line(ours.exposures, rows["test"], k, scores[name], trees.scores(model))
        ranked = {"pscore": at_once.scores[name], "lightgbm": at_once.of(model)}
        for rival, score in ranked.items():
            lines[name][rival]["gauc_at_once"] = at_once.gauc(k, score)
        lines[name]["gauc_at_once_difference"] = at_once.difference(
            k, ranked["pscore"], ranked["lightgbm"]
        )
        lines[name]["met"] = met(lines[name])
    return {
        "rows": {**{part: len(each) for part, each in tuning.items()}, "test": len(rows["test"])},
        "behaviours": lines,
        "left_out": found.left_out,
        "fused": _fused(ours, rows["test"], trees, scores, at_once, exponents),
        "pscore_trials": tried,
        "tree_trials": trees.tried,
    }


def with_valid(setting: Setting) -> Setting:
    """The setting whose training rows are train and valid together; test stays as it is."""
    split = setting.split
    part = split.log.columns["split"] if split.rule == "given" else None
    end = split.train_end.copy()
    if part is not None:
        earlier = (part >= 0) & (part < SPLITS.index("test"))
        end = split.log.offsets[:-1] + np.bincount(
            split.log.user[earlier], minlength=split.log.n_users
        )
    else:
        end[split.test.user] = split.test.end
    return replace(setting, split=replace(split, train_end=end.astype(np.int64)))


def _final(
    home: Path, setting: Setting, found: Any, chosen: Any, more: float, tuned: RewardModel
) -> RewardModel:
    """The chosen setting on train and valid: as many epochs, and the weights that were found."""
    weights = dict(zip(tuned.behaviours, tuned.model.weights.tolist(), strict=True))
    config = replace(chosen, steps=round(chosen.steps * more), rounds=0)
    kept: list[RewardModel] = []
    train_pscore(
        open_run("p", home),
        replace(setting, recipe=replace(setting.recipe, reward=config)),
        found,
        torch.device("cpu"),
        lambda step, values, logged: None,
        kept.append,
        weights,
    )
    return kept[0]


def _tune_pscore(
    home: Path, setting: Setting, found: Any, valid: Ints, trials: int
) -> tuple[RewardModel, Any, list[dict[str, Any]]]:
    """The setting with the best mean AUC on valid over behaviours with enough positives there."""
    best: tuple[float, RewardModel, Any] | None = None
    tried = []
    run_folder = open_run("p", home)
    for steps, width, dropout, rate in PSCORES[:trials]:
        config = replace(
            setting.recipe.reward,
            steps=steps,
            width=width,
            dropout=dropout,
            learning_rate=rate,
            batch_size=1_024,
            rounds=4,
        )
        chosen: Recipe = replace(setting.recipe, reward=config)
        begun = time.perf_counter()
        kept: list[RewardModel] = []
        train_pscore(
            run_folder,
            replace(setting, recipe=chosen),
            found,
            torch.device("cpu"),
            lambda step, values, logged: None,
            kept.append,
        )
        reward = kept[0]
        scores = reward.logged(valid)
        yes, known = reward.exposures.outcomes(valid)
        each = [
            auc(yes[known[:, k], k], scores[name][known[:, k]])
            for k, name in enumerate(reward.behaviours)
            if HEARD <= yes[:, k].sum() < known[:, k].sum()
        ]
        score = float(np.mean(each))
        tried.append(
            {
                "steps": steps,
                "width": width,
                "dropout": dropout,
                "learning_rate": rate,
                "valid_auc": round(score, 5),
                "seconds": round(time.perf_counter() - begun, 1),
            }
        )
        if best is None or score > best[0]:
            best = (score, reward, config)
    assert best is not None
    return best[1], best[2], tried


def met(line: dict[str, Any]) -> bool:
    """Whether the tower is within `MARGIN` of the trees, in AUC and within users; rare ones are."""
    gaps = line["auc_difference"], line["gauc_at_once_difference"]["mean"]
    return not line["judged"] or min(gaps) >= -MARGIN


def _line(exposures: Exposures, rows: Ints, k: int, ours: Floats, trees: Floats) -> dict[str, Any]:
    yes, known = exposures.outcomes(rows)
    there, user = known[:, k], exposures.split.log.user[rows]
    label = yes[there, k]
    line: dict[str, Any] = {"positives": int(label.sum()), "rows": int(there.sum())}
    for name, score in (("pscore", ours), ("lightgbm", trees)):
        line[name] = {
            "auc": round(auc(label, score[there]), 5),
            "gauc": grouped_auc(label, score[there], user[there]),
        }
    line["auc_difference"] = round(line["pscore"]["auc"] - line["lightgbm"]["auc"], 5)
    line["auc_difference_ci"] = _difference_interval(label, ours[there], trees[there], user[there])
    line["judged"] = line["positives"] >= ENOUGH
    line["calibration"] = calibration(ours[there], label)
    return line


def _difference_interval(
    label: NDArray[np.bool_], a: Floats, b: Floats, user: Ints, draws: int = 100
) -> list[float]:
    """95% bootstrap interval of the AUC difference, whole users resampled."""
    random = np.random.default_rng(0)
    users, place = np.unique(user, return_inverse=True)
    found = []
    for _ in range(draws):
        count = np.bincount(random.integers(len(users), size=len(users)), minlength=len(users))
        rows = np.repeat(np.arange(len(label)), count[place.reshape(-1)])
        if 0 < label[rows].sum() < len(rows):
            found.append(auc(label[rows], a[rows]) - auc(label[rows], b[rows]))
    low, high = np.quantile(found, [0.025, 0.975])
    return [round(float(low), 5), round(float(high), 5)]


def _fused(
    ours: RewardModel,
    test: Ints,
    trees: Trees,
    scores: dict[str, Floats],
    at_once: AtOnce,
    exponents: dict[str, float],
) -> dict[str, Any]:
    """The fused score, trees on the same weighted label, and a tuned product of towers.

    Each has its scores of the rows as logged, and as candidates of one moment.
    """
    weights = ours.model.weights.double().numpy()
    model = trees.fitted("weighted label", lambda table: table.weighted(weights))
    rivals = {
        "pscore": (scores[FUSED], at_once.scores[FUSED]),
        "lightgbm": (trees.scores(model), at_once.of(model)),
        "product": (_product(scores, exponents), _product(at_once.scores, exponents)),
    }
    yes, known = ours.exposures.outcomes(test)
    user = ours.exposures.split.log.user[test]
    result: dict[str, Any] = {
        "weights": dict(zip(ours.behaviours, weights.tolist(), strict=True)),
        "exponents": exponents,
    }
    for rival, (score, now) in rivals.items():
        result[rival] = {
            name: {
                "auc": round(auc(yes[known[:, k], k], score[known[:, k]]), 5),
                "gauc": grouped_auc(yes[known[:, k], k], score[known[:, k]], user[known[:, k]]),
                "gauc_at_once": at_once.gauc(k, now),
            }
            for k, name in enumerate(ours.behaviours)
        }
    return result


def _exponents(ours: RewardModel, valid: Ints) -> dict[str, float]:
    """Exponents of the product with the best mean GAUC on valid, from a small grid."""
    scores = ours.logged(valid)
    yes, known = ours.exposures.outcomes(valid)
    user = ours.exposures.split.log.user[valid]
    wanted = [
        name
        for k, name in enumerate(ours.behaviours)
        if name not in UNWANTED and yes[:, k].sum() >= HEARD
    ]
    best: tuple[float, dict[str, float]] = (-1.0, {})
    for powers in itertools.product((0.0, 0.3, 1.0), repeat=len(wanted)):
        if max(powers) < 1:
            continue
        exponents = dict(zip(wanted, powers, strict=True))
        score = _product(scores, exponents)
        each = []
        for k, name in enumerate(ours.behaviours):
            if name in wanted:
                label = yes[known[:, k], k]
                each.append(grouped_auc(label, score[known[:, k]], user[known[:, k]]) or 0.5)
        if np.mean(each) > best[0]:
            best = (float(np.mean(each)), exponents)
    return best[1]


def _product(scores: dict[str, Floats], exponents: dict[str, float]) -> Floats:
    parts = [power * np.log(scores[name]) for name, power in exponents.items()]
    return np.asarray(np.sum(parts, axis=0))


@told_in_a_line
def main(argv: Sequence[str] | None = None) -> int:
    """The command line; prints one JSON object with --json, else a table."""
    parser = argparse.ArgumentParser(description="P-Score beside LightGBM on KuaiRand")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--kuairand", type=Path)
    parser.add_argument("--trials", type=int, default=len(TREES))
    parser.add_argument("--seed", type=int, default=0, help="of P-Score; the trees have none")
    parser.add_argument("--join", nargs="*", type=Path, help="results of several seeds")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args(argv)
    refuse_below_one(chosen, ["trials"])
    given = {"kuairand": chosen.kuairand, "trials": chosen.trials, "seed": chosen.seed}
    result = joined(chosen.join, chosen.out) if chosen.join else run(out=chosen.out, **given)
    if chosen.json:
        print(as_json(result))
        return 0
    for name, line in result["behaviours"].items():
        ours, trees = line["pscore"], line["lightgbm"]
        at_once = line["gauc_at_once_difference"]
        print(
            f"{name:14} {line['positives']:7,} positives  P-Score {ours['auc']:.4f}  "
            f"LightGBM {trees['auc']:.4f}  {line['auc_difference']:+.4f} "
            f"{line['auc_difference_ci']}  GAUC at once {at_once['mean']:+.4f} "
            f"[{at_once['low']:+.4f}, {at_once['high']:+.4f}]"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
