"""One model instead of a cascade: how much of the gain is generation, and how much is selection?

    python -m onerec.bench.cascade --runs R0 R1 ... [--users 2000] --out FILE
    python -m onerec.bench.cascade --join FILE FILE .. [--note TEXT] --out FILE

Each run is one seed on a world, with reward model, pre-training and alignment done. On its test
users, and judged by the truth:

    two_tower            the ten best of a two-tower retrieval
    two_tower_ranked     512 of it, of which P-Score picks ten: the cascade
    onerec               OneRec's own ten before alignment
    onerec_ranked        512 generated, of which the same P-Score picks ten
    aligned              the aligned policy's own ten
    aligned_ranked       512 of the aligned policy, of which the same P-Score picks ten

The towers get the floating-point operations that OneRec's pre-training took (counted by torch on
one step of each; the reward model is everybody's), or with `--tower-steps` fewer; of `CHECKS`
checkpoints on the way the one with the best recall@10 on valid is kept, as OneRec's is. The rows of
`tower_valid` say what each of them recalls. Equal work in serving is not possible: one matrix
product over the catalogue is far cheaper than a beam, and that is a cascade's merit.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from onerec.assembly import (
    Setting,
    load_semantic_ids,
    setting_of,
    trained_model,
    training_popularity,
)
from onerec.baselines.two_tower import TwoTower, TwoTowerConfig, fit
from onerec.bench.generate import commit, machine_name, write
from onerec.bench.mistakes import read_results, refuse_below_one, told_in_a_line
from onerec.bench.paired import interval
from onerec.bench.worth import known_world
from onerec.common import pick_device, set_threads
from onerec.data.batches import TrainingBatches, case_batches, training_examples
from onerec.data.split import Cases
from onerec.lifelong import with_lifelong
from onerec.metrics import recall_at_k
from onerec.model.onerec import OneRec
from onerec.pipeline.pretrain import next_token_order, sample_cases
from onerec.recommend import Recommender
from onerec.rewards import FUSED, RewardModel
from onerec.runs import Run, open_run

CANDIDATES, RANKS = 512, 10
TOWER_BATCH, AT_ONCE = 512, 128
RATES, TEMPERATURES = (1e-3, 3e-3), (0.05, 0.1)
CHECKS = 8  # of the towers on valid, over their whole training
TRIAL_SHARE = 4  # a trial takes this part of the steps; four trials tune on valid
PAIRS = (
    ("onerec", "two_tower"),
    ("onerec_ranked", "two_tower_ranked"),
    ("onerec_ranked", "onerec"),
    ("two_tower_ranked", "two_tower"),
    ("aligned", "onerec"),
    ("aligned_ranked", "onerec_ranked"),
    ("aligned", "two_tower_ranked"),
)

Ints = NDArray[np.int64]


def operations(step: Callable[[], torch.Tensor]) -> int:
    """Floating-point operations of one training step, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        step().backward()  # type: ignore[no-untyped-call]
    return int(counter.get_total_flops())


class Towers:
    """Two-tower retrieval for the log of a run."""

    def __init__(self, run: Run, setting: Setting, device: torch.device, batch: int) -> None:
        self.setting, self.device, self.batch = setting, device, batch
        self.contexts = setting.contexts(device)
        self.examples = training_examples(setting.split)
        self.counts = torch.from_numpy(training_popularity(setting.split)).to(device)
        vectors = run.vectors()
        ids, _ = load_semantic_ids(run)
        self.table = setting.features.item_table(ids.codes, vectors)
        self.vocabulary = setting.features.vocabulary(ids.sizes, setting.dataset.n_items)

    def fresh(self, config: TwoTowerConfig) -> TwoTower:
        """A model that has learned nothing."""
        torch.manual_seed(self.setting.recipe.seed)
        return TwoTower(config, self.vocabulary, self.table).to(self.device)

    def batches(self, steps: int) -> TrainingBatches:
        """Training batches in the order that OneRec reads them in."""
        return TrainingBatches(
            self.contexts,
            self.examples,
            self.batch,
            self.setting.recipe.seed,
            order=next_token_order(self.setting),
            steps=steps,
        )

    def trained(
        self, config: TwoTowerConfig, recommender: Recommender, checks: int = 1
    ) -> tuple[TwoTower, list[tuple[int, float]]]:
        """The best checkpoint on valid of some, evenly spaced; and (step, recall@10) of each."""
        model, found = self.fresh(config), list[tuple[int, float]]()
        best = model.state_dict()
        at = {round(config.steps * (i + 1) / checks) for i in range(checks)}

        def check(step: int) -> None:
            nonlocal best
            if step not in at:
                return
            recall = self.recall(model.eval(), recommender)
            if recall > max((before for _, before in found), default=-1.0):
                best = {name: value.clone() for name, value in model.state_dict().items()}
            found.append((step, recall))
            model.train()

        batches, seed = self.batches(config.steps), self.setting.recipe.seed
        fit(model, batches, self.counts, seed=seed, after_step=check)
        model.load_state_dict(best)
        return model, found

    def lists(self, model: TwoTower, cases: Cases, k: int, recommender: Recommender) -> Ints:
        """The k best items of each case; what was seen is left out where the recipe says so."""
        parts = []
        for _, user, end in case_batches(self.contexts, cases, AT_ONCE):
            hidden = recommender.seen(user, end) if self._filters else None
            parts.append(model.ranked(self.contexts.batch(user, end), k, hidden).cpu().numpy())
        return np.concatenate(parts)

    @property
    def _filters(self) -> bool:
        return self.setting.recipe.evaluate.filter_seen

    def recall(self, model: TwoTower, recommender: Recommender) -> float:
        """recall@10 on valid."""
        valid = sample_cases(self.setting.split.valid, self.setting.recipe.evaluate.valid_users)
        lists = self.lists(model, valid, RANKS, recommender)
        return float(recall_at_k(lists, valid.target_offsets, valid.target_items, RANKS).mean())

    def tuned(self, steps: int, recommender: Recommender) -> tuple[TwoTowerConfig, list[Any]]:
        """Rate and temperature with the best recall@10 on valid, each for a part of the steps."""
        trials = []
        for rate, temperature in itertools.product(RATES, TEMPERATURES):
            config = TwoTowerConfig(
                steps=max(1, steps // TRIAL_SHARE), learning_rate=rate, temperature=temperature
            )
            _, found = self.trained(config, recommender)
            trials.append((found[-1][1], rate, temperature))
        _, rate, temperature = max(trials)
        chosen = TwoTowerConfig(steps=steps, learning_rate=rate, temperature=temperature)
        return chosen, trials


def measure(
    run_name: str,
    home: Path | None,
    users: int,
    tower_batch: int | None = None,
    most: int | None = None,
) -> dict[str, Any]:
    """All arms of one seed.

    With a larger `tower_batch` the towers take fewer steps: their operations are OneRec's anyhow.
    They take no more than `most`.
    """
    run = open_run(run_name, home)
    setting = setting_of(run, home)
    device = pick_device(setting.recipe.device)
    world, reward = known_world(setting), RewardModel.load(run, setting, device)
    cases = sample_cases(setting.split.test, users)
    towers = Towers(run, setting, device, tower_batch or TOWER_BATCH)
    before = recommender_of(run, setting, device, "pretrain")
    spent = operations(lambda: _onerec_step(before.model, setting, towers))
    per_step = operations(lambda: _tower_step(towers))
    equal = max(TRIAL_SHARE, round(spent * setting.recipe.train.steps / per_step))
    config, trials = towers.tuned(min(equal, most or equal), before)
    trained, valid = towers.trained(config, before, CHECKS)
    wide = {
        "two_tower": towers.lists(trained, cases, CANDIDATES, before),
        "onerec": before.lists(cases, CANDIDATES).items,
        "aligned": recommender_of(run, setting, device, None).lists(cases, CANDIDATES).items,
    }
    arms = {}
    for name, lists in wide.items():
        for arm, ten in (
            (name, lists[:, :RANKS]),
            (f"{name}_ranked", picked(reward, cases, lists)),
        ):
            ten = np.ascontiguousarray(ten)
            truth, there = world.truth(cases.user, cases.end, ten), ten >= 0
            arms[arm] = {
                "long_view": float((truth["long_view"] * there).mean()),
                "watch_s": float((truth["play_ms"] * there).sum(1).mean() / 1000),
                "recall@10": float(
                    recall_at_k(ten, cases.target_offsets, cases.target_items, RANKS).mean()
                ),
            }
    return {
        "run": run_name,
        "seed": setting.recipe.seed,
        "users": len(cases),
        "operations": spent * setting.recipe.train.steps,
        "tower_steps": config.steps,
        "tower_steps_of_equal_operations": equal,
        "tower_batch": towers.batch,
        "tower_valid": valid,
        "tower_trials": trials,
        "arms": arms,
    }


def recommender_of(
    run: Run, setting: Setting, device: torch.device, stage: str | None
) -> Recommender:
    """The policy after a stage (None: the run's own), with a beam as wide as the candidates."""
    ids, popularity = load_semantic_ids(run)
    model = trained_model(run, setting, ids, stage)
    wide = replace(setting.recipe, evaluate=replace(setting.recipe.evaluate, beam=CANDIDATES))
    reading = with_lifelong(replace(setting, recipe=wide), run, device)
    return Recommender(reading, ids, popularity, model, device)


def picked(reward: RewardModel, cases: Cases, lists: Ints) -> Ints:
    """The ten of each list (M, K) with the highest P-Score; -1 is nobody's and never picked."""
    scores = []
    for begin in range(0, len(lists), AT_ONCE):
        rows = slice(begin, begin + AT_ONCE)
        found = reward.score(cases.user[rows], cases.end[rows], torch.from_numpy(lists[rows]))
        scores.append(found[FUSED].double().cpu().numpy())
    order = np.argsort(-np.where(lists >= 0, np.concatenate(scores), -1.0), 1, kind="stable")
    return np.take_along_axis(lists, order[:, :RANKS], axis=1)


def _onerec_step(model: OneRec, setting: Setting, towers: Towers) -> torch.Tensor:
    examples = training_examples(setting.split, setting.recipe.train.targets)
    batches = TrainingBatches(
        towers.contexts, examples, setting.recipe.train.batch_size, setting.recipe.seed
    )
    return model.loss(batches(0))[0]


def _tower_step(towers: Towers) -> torch.Tensor:
    share = torch.zeros(len(towers.counts) + 1, device=towers.device)
    return towers.fresh(TwoTowerConfig()).loss(towers.batches(1)(0), share)[0]


def summary(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means by arm, and differences taken seed by seed."""
    names = ("long_view", "watch_s", "recall@10")
    return {
        "arms": {
            arm: {name: interval([seed["arms"][arm][name] for seed in seeds]) for name in names}
            for arm in seeds[0]["arms"]
        },
        "differences": {
            f"{a} - {b}": {
                name: interval([s["arms"][a][name] - s["arms"][b][name] for s in seeds])
                for name in names
            }
            for a, b in PAIRS
        },
    }


@told_in_a_line
def main(words: Sequence[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="one model beside a cascade, on a world")
    parser.add_argument("--runs", nargs="+", default=(), help="one for each seed")
    parser.add_argument("--join", nargs="*", type=Path, help="results of single runs, put together")
    parser.add_argument("--note", default="", help="said beside what is joined")
    parser.add_argument("--home", type=Path)
    parser.add_argument("--users", type=int, default=2_000)
    parser.add_argument("--tower-batch", type=int, default=TOWER_BATCH)
    parser.add_argument("--tower-steps", type=int, help="at most; default: equal operations")
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args(words)
    refuse_below_one(chosen, ("users", "tower_batch", "tower_steps"))
    seeds: list[dict[str, Any]] = []
    told = {"command": "python -m onerec.bench.cascade", "commit": commit()}
    if chosen.join:
        parts = read_results(chosen.join, "seeds", "commit", "device")
        seeds = [seed for part in parts for seed in part["seeds"]]
        told |= {name: parts[0][name] for name in ("commit", "device")}
        note = {"note": chosen.note} if chosen.note else {}
        write({**told, **summary(seeds), **note, "seeds": seeds}, chosen.out)
        return
    if not chosen.runs:
        parser.error("--runs is needed")
    set_threads(None)
    for name in chosen.runs:
        sizes = chosen.users, chosen.tower_batch, chosen.tower_steps
        seeds.append(measure(name, chosen.home, *sizes))
        device = machine_name()
        write({**told, "device": device, **summary(seeds), "seeds": seeds}, chosen.out)


if __name__ == "__main__":
    raise SystemExit(main())
