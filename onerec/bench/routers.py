"""Routers side by side: the same data, semantic IDs, batches, steps and seeds.

    python -m onerec.bench.routers --home H --dataset world --recipe small \
        --set train.steps=1000 model.experts=8 --seeds 3 --jobs 4 --out FILE

    dense             no experts: a SwiGLU as wide as the k experts that a token goes through
    softmax           top-k of a softmax with balance and z-loss
    loss_free         sigmoid top-k with a bias that the load moves
    competition       CompeteSMoE, in as many steps
    competition_time  CompeteSMoE in the steps that take as long as those of loss_free
    ...+shared        with one shared expert beside the k, which adds to what is active
    roma, roma_random, router_only    from loss_free's weights: see `onerec.pipeline.router_tuning`

One part is one arm and seed, in a process of its own; parts that are there are not repeated. The
tokenizer is fitted once, with the recipe's seed; a part's seed is that of weights and batches. How
arms are trained and their loss: see `bench.trained`. Router and shared experts are the arms',
whatever the recipe says of them.

MaxVio (`bench.balance`) is measured after training on shuffled batches of training contexts, the
same for all arms and seeds: as a user meets it, with the dropout of training, and of loss-free
routers after twenty passes in which the biases alone move. A step's time is the median; processes
beside each other slow one another, so compare it with --jobs 1. Equal time is measured by turns
(`bench.equal_time`), whatever runs beside.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from onerec.assembly import Setting, setting_of
from onerec.bench import equal_time, trained
from onerec.bench.arms import in_parts, write_part
from onerec.bench.balance import balance_of, settled
from onerec.bench.dense import DenseSetting
from onerec.bench.generate import commit, write
from onerec.bench.mistakes import refuse_below_one, refuse_no_amount, told_in_a_line
from onerec.bench.paired import interval
from onerec.bench.trained import (
    apart,
    by_seed,
    differences,
    digest,
    measured_on,
    new_training,
    timed,
    tokenized,
    train,
    watch,
)
from onerec.checkpoint import load_tensors, save_tensors
from onerec.common import set_threads
from onerec.errors import RecipeError
from onerec.model.routers import LossFreeRouter
from onerec.pipeline.pretrain import Pretraining
from onerec.pipeline.router_tuning import KINDS as ROMA
from onerec.pipeline.router_tuning import Tuning, post_train
from onerec.recipes import parse_overrides, recipe
from onerec.runs import Run, open_run
from onerec.settings import listed, nearest

DENSE, BASE, EQUAL_TIME, SHARED = "dense", "loss_free", "competition_time", "+shared"
ROUTERS = {  # arm -> the recipe's router
    "softmax": "softmax",
    BASE: "loss_free",
    "competition": "competition",
    EQUAL_TIME: "competition",
}
ALL = (DENSE, *(name + end for name in ROUTERS for end in ("", SHARED)), *ROMA)
ARMS = tuple(a for a in ALL if a not in ("competition" + SHARED, EQUAL_TIME + SHARED))
CONTROL = "router_only"  # RoMA's
TRAINING, SETTLED = "in_training", "settled"  # MaxVio beside `balance`; see `bench.balance`
MEASURED = ("loss", "recall@10", "step_ms", "seconds")


@dataclass(frozen=True)
class Asked:
    """What every part is told: valid users (0: all), batches of MaxVio, RoMA's tuning."""

    users: int = 0
    batches: int = 100
    tuning: Tuning = field(default_factory=Tuning)


# ------------------------------------------------------------------ one arm


def arm_setting(base: Setting, arm: str, seed: int, users: int = 0) -> Setting:
    """The setting of an arm; valid has at most `users` cases, 0 for all."""
    name = arm.removesuffix(SHARED)
    router, shared = ROUTERS.get(name, "loss_free"), int(arm.endswith(SHARED))
    same = measured_on(base, users)
    routing = replace(base.recipe.routing, router=router, shared_experts=shared)
    changed = replace(same.recipe, seed=seed, routing=routing)
    kind = DenseSetting if name == DENSE else Setting
    return kind(changed, base.dataset, same.split, base.features, base.snapshots)


def part(run: Run, base: Setting, arm: str, seed: int, asked: Asked, folder: Path) -> Any:
    """Train one arm with one seed and measure it; loss_free leaves its weights in `folder`."""
    setting = arm_setting(base, arm, seed, asked.users)
    told: dict[str, Any] = {"arm": arm, "seed": seed}
    if arm.startswith(EQUAL_TIME):
        setting, told["equal_time"] = in_equal_time(run, setting, arm)
    training = new_training(run, setting)
    weights = folder / f"{BASE}-{seed}.safetensors"
    if arm in ROMA:
        training.model.load_state_dict(load_tensors(weights))
        steps, results = asked.tuning.steps, post_train(training, arm, asked.tuning)
    else:
        steps, results = training.config.steps, train(training)
    taken = watch(results, steps, f"{arm}:{seed}")
    if arm == BASE:
        save_tensors(weights, training.model.state_dict())
    told |= {"steps": steps, **timed(training, taken), **measure(training, asked.batches)}
    print(f"{arm}:{seed} loss {told['loss']} recall@10 {told['recall@10']}", flush=True)
    return told


def in_equal_time(run: Run, setting: Setting, arm: str) -> tuple[Setting, dict[str, Any]]:
    """The setting of an equal-time arm with its steps cut, and the times that decided, in ms."""
    steps, rival = setting.recipe.train.steps, arm.replace(EQUAL_TIME, BASE)
    other = new_training(run, arm_setting(setting, rival, setting.recipe.seed))
    found = equal_time.measure(other, new_training(run, setting))
    train = replace(setting.recipe.train, steps=found.steps(steps))
    times = {name: round(1e3 * getattr(found, name), 4) for name in ("base", "alone", "competing")}
    told = {"of": rival, "of_steps": steps, "ms": times | {"step": round(1e3 * found.step, 4)}}
    cut = replace(setting, recipe=replace(setting.recipe, train=train))
    return cut, told | {"competing_layers": round(found.layers, 4)}


def measure(training: Pretraining, batches: int) -> dict[str, Any]:
    """A trained model on valid, its size and its balance; last what settles loss-free biases."""
    told = {**trained.measure(training), "balance": balance_of(training, batches)}
    told[TRAINING] = balance_of(training, batches, dropping=True)
    routers = {type(mixture.router) for mixture in training.model.mixtures()}
    told[SETTLED] = settled(training, batches) if routers == {LossFreeRouter} else None
    return told


# ------------------------------------------------------------------ all arms


def summary(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """By arm: means over seeds with intervals, and by seed the differences to other arms.

    Every arm stands against loss_free; RoMA also against router_only, its control.
    """
    found, result = by_seed(parts), {}
    for arm in sorted(found, key=ALL.index):
        mine = [found[arm][seed] for seed in sorted(found[arm])]
        line: dict[str, Any] = {name: [one[name] for one in mine] for name in ("seed", "steps")}
        line |= {name: mine[0][name] for name in ("parameters", "active_parameters")}
        line |= {name: interval([one[name] for one in mine]) for name in MEASURED}
        for name in ("balance", TRAINING, SETTLED):
            if mine[0].get(name):
                line[name] = _balance([one[name] for one in mine])
        rivals = [BASE, CONTROL] if arm in ROMA and arm != CONTROL else [BASE]
        line["against"] = {
            rival: differences(found[arm], found[rival])
            for rival in rivals
            if rival != arm and set(found[arm]) & set(found.get(rival, {}))
        }
        result[arm] = line
    return result


def _balance(mine: list[dict[str, Any]]) -> dict[str, Any]:
    """Over seeds: means with intervals, and the worst of dead experts and of shares."""
    told: dict[str, Any] = {name: mine[0][name] for name in ("batch_size", "batches")}
    for name in ("pooled", "per_batch"):
        told[name] = {
            over: interval([one[name][over] for one in mine]) for over in ("worst", "mean")
        }
    if "loss" in mine[0]:
        told["loss"] = interval([one["loss"] for one in mine])
    told["dead"] = max(one["dead"] for one in mine)
    return told | {"least_share": min(one["least_share"] for one in mine)}


def table(found: Mapping[str, Any]) -> str:
    """The summary for people, a line per arm: means over the seeds, MaxVio of the worst layer."""
    lines = [
        f"{'arm':<24}{'active':>10}{'steps':>7}{'loss':>8}{'recall':>8}{'MaxVio':>8}{'a batch':>9}"
        f"{'dropping':>10}{'settled':>9}{'dead':>6}{'ms':>8}  loss and recall less {BASE}'s"
    ]
    for arm, line in found.items():
        even = line.get("balance", {})
        shown = [(even, "pooled"), (even, "per_batch")]
        shown += [(line.get(name, {}), "pooled") for name in (TRAINING, SETTLED)]
        whole, each, dropping, after = (
            f"{of[name]['worst']['mean']:.3f}" if of else "-" for of, name in shown
        )
        lines.append(
            f"{arm:<24}{line['active_parameters']:>10,}{statistics.mean(line['steps']):>7.0f}"
            f"{line['loss']['mean']:>8.4f}{line['recall@10']['mean']:>8.4f}{whole:>8}{each:>9}"
            f"{dropping:>10}{after:>9}{even.get('dead', '-'):>6}{line['step_ms']['mean']:>8.1f}"
            f"  {_apart(line, BASE)}"
        )
    controlled = [arm for arm, line in found.items() if CONTROL in line["against"]]
    return "\n".join(
        [*lines, *(f"{arm} less {CONTROL}'s: {_apart(found[arm], CONTROL)}" for arm in controlled)]
    )


def _apart(line: Mapping[str, Any], rival: str) -> str:
    return apart(line["against"].get(rival, {}))


def prepare(chosen: argparse.Namespace) -> Run:
    """The run whose tokenizer every part uses; what is there stays.

    Raises:
        OneRecError: an arm is unknown, the recipe has not the experts that the arms need, there is
            nobody in valid, a number is below 1, or see `onerec.pipeline.run`.
    """
    refuse_below_one(chosen, ("seeds", "jobs", "batches", "roma_steps", "bank"))
    refuse_no_amount(chosen, ("roma_rate", "roma_weight"))
    for arm in chosen.arms:
        if arm not in ALL:
            raise RecipeError(f"no arm {arm!r}{nearest(arm, ALL)}; there are {listed(ALL)}")
    if BASE not in chosen.arms:
        raise RecipeError(f"--arms needs {BASE}, which the others are compared with")
    config = recipe(chosen.recipe, parse_overrides(chosen.set))
    if not config.model.experts:
        raise RecipeError(
            "model.experts=0: these arms need experts; --set model.experts=8 model.active_experts=2"
        )
    name = chosen.run or f"routers_{chosen.dataset}_{chosen.recipe}"
    return tokenized(name, config, chosen.dataset, chosen.home)


def settings_of(run: Run, asked: Asked) -> dict[str, Any]:
    """What parts must share to be compared; `made` is a hash of the recipe and the dataset."""
    known = run.recipe()
    return {"made": digest(known["recipe"], known["dataset"]), **asdict(asked)}


def compare(chosen: argparse.Namespace, asked: Asked) -> dict[str, Any]:
    """Every part that is missing, then the benchmark's JSON."""
    run = prepare(chosen)
    settings, folder = settings_of(run, asked), chosen.out.with_suffix(".parts")
    tuning = asked.tuning
    words = ["--run", run.name, "--users", str(asked.users), "--batches", str(asked.batches)]
    words += ["--roma-steps", str(tuning.steps), "--roma-rate", str(tuning.rate)]
    words += ["--roma-weight", str(tuning.weight), "--bank", str(tuning.bank)]
    words += ["--home", str(chosen.home)] if chosen.home else []
    parts: list[dict[str, Any]] = []
    for later in (False, True):  # RoMA begins where loss_free ended
        arms = [arm for arm in chosen.arms if (arm in ROMA) == later]
        work = [f"{arm}:{seed}" for seed in range(chosen.seeds) for arm in arms]
        parts = in_parts("routers", words, work, folder, chosen.jobs, settings)
    known = run.recipe()
    return {
        "benchmark": "routers",
        "commit": commit(),
        "device": listed(sorted({one["device"] for one in parts})),
        "dataset": known["dataset"],
        "recipe": known["recipe"],
        "settings": {**settings, "seeds": chosen.seeds, "jobs": chosen.jobs},
        "arms": summary(parts),
        "parts": parts,
    }


@told_in_a_line
def main(argv: Sequence[str] | None = None) -> int:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="routers side by side")
    parser.add_argument("--home", type=Path, help="the folder of datasets and runs")
    parser.add_argument("--dataset", default="world")
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--set", nargs="*", action="extend", default=[], help="KEY=VALUE")
    parser.add_argument("--run", help="name of the run that holds the tokenizer")
    parser.add_argument("--arms", nargs="+", default=list(ARMS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--users", type=int, default=0, help="of valid at most; 0: all")
    parser.add_argument("--batches", type=int, default=100, help="over which MaxVio is pooled")
    parser.add_argument("--roma-steps", type=int, default=Tuning.steps)
    parser.add_argument("--roma-rate", type=float, default=Tuning.rate)
    parser.add_argument("--roma-weight", type=float, default=Tuning.weight, help="lambda")
    parser.add_argument("--bank", type=int, default=Tuning.bank, help="contexts asked for success")
    parser.add_argument("--one", help="ARM:SEED, in this process")
    parser.add_argument("--out", type=Path, required=True)
    words = list(sys.argv[1:] if argv is None else argv)
    chosen = parser.parse_args(words)
    tuning = Tuning(chosen.roma_steps, chosen.roma_rate, chosen.roma_weight, chosen.bank)
    asked = Asked(chosen.users, chosen.batches, tuning)
    set_threads(1 if chosen.one else None)
    if chosen.one:
        run, (arm, _, seed) = open_run(chosen.run, chosen.home), chosen.one.rpartition(":")
        base, folder = setting_of(run, chosen.home), chosen.out.parent
        write_part(part(run, base, arm, int(seed), asked, folder), chosen.out)
        return 0
    result = compare(chosen, asked)
    result = {"command": f"python -m onerec.bench.routers {' '.join(words)}", **result}
    write(result, chosen.out)
    print(table(result["arms"]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
