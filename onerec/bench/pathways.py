"""What the encoder reads, part by part: is the lifelong pathway worth it, and each of the others?

    python -m onerec.bench.pathways --experiment lifelong --home H --seeds 5 --out FILE \
        --set history.lifelong_length=256 history.lifelong_limit=8 history.lifelong_queries=64 \
        --world mean_history=3000 days=180
    python -m onerec.bench.pathways --experiment ablation --home H --dataset world --out FILE

lifelong: worlds that differ in the weight of old interests alone (`--weights`), with these arms:

    clusters     the recipe: the whole history in at most L clusters, read by Q queries
    none         short and positive pathway alone
    more_recent  no lifelong pathway; the short one is longer by Q events, the encoder's input as
                 long as with the queries
    random       L random events in place of the clusters
    recent       the L most recent ones

L, Q and M are history.lifelong_length, _queries and _limit. `clusters`, `random` and `recent` have
the same parameters; `none` lacks the QFormer, and `more_recent` has Q positions in its place.
`positions` says how many the pathway has for the users of valid: single events fill L where a
history has them, clusters as many as M leaves, so lengths are equal where M leaves L or more. Gain
is the rival's loss less that of clusters, and the recall of clusters less the rival's: above 0
clusters are better. A line over the weights is fitted for each seed; its slope says whether the
gain rises with the weight. Tastes for categories and authors last in the world whatever the weight,
so a long history may help at weight 0 too. Worlds have the settings `LONG` but for `--world`; what
random numbers they draw does not depend on the weight.

ablation: one thing of the recipe changed at a time, on any dataset, each arm less `full`:

    no_static no_short no_positive no_lifelong    without the pathway
    no_tag no_author no_duration no_play no_label no_time    events without that feature
    no_side      events without any of these
    no_content   events without the content vectors
    codes item both    what stands for an item in an event
    codes_x4     4 N codes per level by a tokenizer of its own; losses of a code do not compare

What the tokenizer reads stays. An arm that would change nothing is left out, or refused by name.
One part is one arm and seed, in a process of its own; parts that are there are not repeated. A
part's seed is that of weights and batches; tokenizers have the recipe's seed, and a world its own:
intervals hold for this dataset, not for another one.
How arms are trained and their loss: see `bench.trained`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from onerec.assembly import Setting, load_semantic_ids, setting_of
from onerec.bench.arms import in_parts, write_part
from onerec.bench.generate import commit, write
from onerec.bench.mistakes import refuse_below_one, told_in_a_line
from onerec.bench.paired import interval
from onerec.bench.pathway_arms import (
    ABLATION,
    ARMS,
    BASE,
    CLUSTERS,
    LIFELONG,
    MORE_CODES,
    TIMES,
    arm_setting,
    part,
    refusal,
)
from onerec.bench.trained import (
    COMPARED,
    apart,
    by_seed,
    differences,
    digest,
    tokenized,
)
from onerec.common import pick_device, set_threads
from onerec.data.dataset import dataset_path, open_dataset
from onerec.data.sources.world import make_world_dataset, world_of
from onerec.errors import DataError, RecipeError
from onerec.lifelong import with_lifelong
from onerec.recipes import Recipe, parse_overrides, recipe, to_dict
from onerec.runs import Run, open_run
from onerec.settings import listed, nearest, with_settings
from onerec.world import WorldConfig

WEIGHTS = (0.0, 0.25, 0.5, 1.0)
LONG = WorldConfig(n_users=2_000, days=90, interest_days=6.0, mean_history=500.0)
MEASURED = (*COMPARED, "positions", "step_ms", "seconds")


def summary(parts: Sequence[Mapping[str, Any]], experiment: str) -> dict[str, Any]:
    """By arm: means over seeds with intervals, and by seed the differences to the base arm."""
    found, base, result = by_seed(parts), BASE[experiment], {}
    for arm in sorted(found, key=ARMS[experiment].index):
        mine = [found[arm][seed] for seed in sorted(found[arm])]
        line: dict[str, Any] = {"seed": [one["seed"] for one in mine], "steps": mine[0]["steps"]}
        line |= {name: mine[0][name] for name in ("parameters", "active_parameters")}
        line |= {name: interval([one[name] for one in mine]) for name in MEASURED}
        if arm != base and set(found[arm]) & set(found.get(base, {})):
            names = COMPARED[1:] if arm == MORE_CODES else COMPARED
            line["less_base"] = differences(found[arm], found[base], names)
        result[arm] = line
    return result


def gains(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """By rival: what clusters gain at each weight, and by least squares over the weights.

    Positive where clusters are better. The line is fitted for each seed that has every weight:
    `at_0` is where it begins, `slope` the gain per unit of weight; only from two weights on.
    """
    weights = sorted({one["weight"] for one in parts})
    at = {w: by_seed(one for one in parts if one["weight"] == w) for w in weights}
    result: dict[str, Any] = {}
    for rival in ARMS[LIFELONG]:
        for name, sign in zip(COMPARED, (-1, 1), strict=True):
            found = {w: _gain(at[w], rival, name, sign) for w in weights}
            found = {w: by for w, by in found.items() if by}
            if rival == CLUSTERS or not found:
                continue
            line: dict[str, Any] = {
                f"{w:g}": interval(list(by.values())) for w, by in found.items()
            }
            seeds = sorted(set.intersection(*(set(by) for by in found.values())))
            if len(found) > 1 and seeds:
                fits = [np.polyfit(list(found), [by[s] for by in found.values()], 1) for s in seeds]
                line["slope"] = interval([float(fit[0]) for fit in fits])
                line["at_0"] = interval([float(fit[1]) for fit in fits])
            result.setdefault(rival, {})[name] = line
    return result


def _gain(found: Mapping[str, Any], rival: str, name: str, sign: int) -> dict[int, float]:
    """By seed: how much better clusters are than the rival."""
    mine, others = found.get(CLUSTERS, {}), found.get(rival, {})
    return {s: sign * (mine[s][name] - others[s][name]) for s in sorted(set(mine) & set(others))}


def table(found: Mapping[str, Any], experiment: str) -> str:
    """The summary for people, a line per arm, means over the seeds."""
    lines = [
        f"{'arm':<14}{'parameters':>12}{'positions':>11}{'loss':>9}{'recall':>9}{'ms':>9}"
        f"  loss and recall less {BASE[experiment]}'s"
    ]
    for arm, line in found.items():
        less = line.get("less_base", {})
        lines.append(
            f"{arm:<14}{line['parameters']:>12,}{line['positions']['mean']:>11.1f}"
            f"{line['loss']['mean']:>9.4f}{line['recall@10']['mean']:>9.4f}"
            f"{line['step_ms']['mean']:>9.1f}  {'recall ' * (len(less) == 1)}{apart(less)}"
        )
    return "\n".join(lines)


def gain_table(found: Mapping[str, Any]) -> str:
    """What clusters gain, a line per rival and measure."""
    return "\n".join(
        f"{name} gained on {rival}: "
        + ", ".join(f"{place} {apart({name: value})}" for place, value in line.items())
        for rival, both in found.items()
        for name, line in both.items()
    )


# ------------------------------------------------------------------ before and after


def world_config(words: Sequence[str]) -> WorldConfig:
    """`LONG` with the settings of `--world`.

    Raises:
        RecipeError: a setting that a world has not, that is an experiment's own, or a wrong value.
    """
    if "old_interest_weight" in parse_overrides(words):
        raise RecipeError("--world old_interest_weight: --weights says which weights are compared")
    config: WorldConfig = with_settings(LONG, words, "--world")
    return config


def make_world(name: str, config: WorldConfig, home: Path | None) -> None:
    """The world as a dataset of that name, unless it is there.

    Raises:
        DataError: a dataset of that name is there that is another world or none.
    """
    if not dataset_path(name, home).exists():
        make_world_dataset(name, config, home)
    known = world_of(open_dataset(name, home))
    if known is None or known.world.config != config:
        raise DataError(
            f"dataset {name!r} is there and is not the world asked for; `onerec data delete {name}`"
            " or choose other names with --dataset"
        )


def named(chosen: argparse.Namespace) -> str:
    """The name of the runs, but for what tells them apart."""
    return chosen.run or f"pathways_{chosen.dataset}_{chosen.recipe}"


def check(chosen: argparse.Namespace) -> Recipe:
    """The recipe, after what can be refused without looking at data.

    Raises:
        RecipeError: an arm is unknown or the base arm is not asked for, a number or weight is out
            of range, or the recipe does not read long histories where it must.
    """
    refuse_below_one(chosen, ("seeds", "jobs"))
    if chosen.experiment == ABLATION and (chosen.world or chosen.weights):
        raise RecipeError("--world and --weights are of --experiment lifelong; name a --dataset")
    if chosen.users < 0:
        raise RecipeError(f"--users {chosen.users}: at least 1, or 0 for all")
    known, base = ARMS[chosen.experiment], BASE[chosen.experiment]
    for arm in chosen.arms or ():
        if arm not in known:
            raise RecipeError(f"no arm {arm!r}{nearest(arm, known)}; there are {listed(known)}")
    if chosen.arms and base not in chosen.arms:
        raise RecipeError(f"--arms needs {base}, which the others are compared with")
    config = recipe(chosen.recipe, parse_overrides(chosen.set))
    if chosen.experiment == LIFELONG and not config.history.lifelong_length:
        raise RecipeError(
            "history.lifelong_length=0: the recipe reads no long history; --set "
            "history.lifelong_length=256 history.lifelong_limit=8 history.lifelong_queries=64"
        )
    return config


def prepare_lifelong(chosen: argparse.Namespace, config: Recipe) -> tuple[list[str], str]:
    """The worlds, a tokenizer and all compressed histories of each: cases, and a hash of it all."""
    world, arms = world_config(chosen.world), list(dict.fromkeys(chosen.arms or ARMS[LIFELONG]))
    weights = sorted(set(chosen.weights or WEIGHTS))
    worlds = {w: replace(world, old_interest_weight=w) for w in weights}
    for weight, config_of in worlds.items():
        name = f"{chosen.dataset}_{weight:g}"
        make_world(name, config_of, chosen.home)
        run = tokenized(f"{named(chosen)}_{weight:g}", config, name, chosen.home)
        _compress(run, setting_of(run, chosen.home), LIFELONG, arms)
        made = digest(run.recipe()["recipe"], world.as_dict() | {"old_interest_weight": None})
    work = [f"{w:g}:{arm}:{s}" for s in range(chosen.seeds) for w in worlds for arm in arms]
    return work, made


def prepare_ablation(chosen: argparse.Namespace, config: Recipe) -> tuple[list[str], str]:
    """The tokenizers and the compressed histories: cases, and a hash of it all.

    Raises:
        RecipeError: an arm that was asked for would say nothing.
    """
    run = tokenized(named(chosen), config, chosen.dataset, chosen.home)
    base, codes = setting_of(run, chosen.home), load_semantic_ids(run)[0].sizes[0]
    refused = {arm: refusal(base, arm, codes) for arm in chosen.arms or ARMS[ABLATION]}
    for arm, why in refused.items():
        if why and chosen.arms:
            raise RecipeError(f"--arms {arm}: {why}; leave it out")
    arms = [arm for arm, why in refused.items() if not why]
    _compress(run, base, ABLATION, arms)
    if MORE_CODES in arms:
        tokenizer = replace(config.tokenizer, codebook_size=TIMES * codes, exact_size=True)
        wider = replace(config, tokenizer=tokenizer)
        other = tokenized(f"{named(chosen)}_x{TIMES}", wider, chosen.dataset, chosen.home)
        _compress(other, setting_of(other, chosen.home), ABLATION, [MORE_CODES])
    known = run.recipe()
    work = [f"{arm}:{seed}" for seed in range(chosen.seeds) for arm in arms]
    return work, digest(known["recipe"], known["dataset"])


def _compress(run: Run, base: Setting, experiment: str, arms: Sequence[str]) -> None:
    """Cluster the histories that the arms read, so that parts beside each other only read them."""
    device = pick_device(base.recipe.device)
    for arm in arms:
        with_lifelong(arm_setting(base, experiment, arm, base.recipe.seed), run, device)


def compare(chosen: argparse.Namespace) -> dict[str, Any]:
    """Every part that is missing, then the benchmark's JSON."""
    experiment, config = chosen.experiment, check(chosen)
    prepare = prepare_lifelong if experiment == LIFELONG else prepare_ablation
    work, made = prepare(chosen, config)
    settings = {"experiment": experiment, "made": made, "users": chosen.users}
    words = ["--experiment", experiment, "--run", named(chosen), "--users", str(chosen.users)]
    words += ["--home", str(chosen.home)] if chosen.home else []
    folder = chosen.out.with_suffix(".parts")
    parts = in_parts("pathways", words, work, folder, chosen.jobs, settings)
    if experiment == LIFELONG:
        weights = sorted({one["weight"] for one in parts})
        at = {w: [one for one in parts if one["weight"] == w] for w in weights}
        told = {
            "weights": {f"{w:g}": summary(those, experiment) for w, those in at.items()},
            "gains": gains(parts),
            "world": world_config(chosen.world).as_dict() | {"old_interest_weight": weights},
        }
    else:
        told = {"arms": summary(parts, experiment), "dataset": chosen.dataset}
    return {
        "benchmark": "pathways",
        "commit": commit(),
        "device": listed(sorted({one["device"] for one in parts})),
        "recipe": to_dict(config),
        "settings": {**settings, "seeds": chosen.seeds, "jobs": chosen.jobs},
        **told,
        "parts": parts,
    }


def one(chosen: argparse.Namespace) -> dict[str, Any]:
    """The part of a case: ARM:SEED, or WEIGHT:ARM:SEED of the lifelong experiment."""
    *weight, arm, seed = chosen.one.split(":")
    end = f"_{weight[0]}" if weight else f"_x{TIMES}" if arm == MORE_CODES else ""
    run = open_run(chosen.run + end, chosen.home)
    told = part(run, setting_of(run, chosen.home), chosen.experiment, arm, int(seed), chosen.users)
    return {"weight": float(weight[0]), **told} if weight else told


@told_in_a_line
def main(argv: Sequence[str] | None = None) -> int:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="what the encoder reads, part by part")
    parser.add_argument("--experiment", choices=(LIFELONG, ABLATION), required=True)
    parser.add_argument("--home", type=Path, help="the folder of datasets and runs")
    parser.add_argument("--dataset", help="of lifelong: what the names of its worlds begin with")
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--set", nargs="*", action="extend", default=[], help="KEY=VALUE")
    parser.add_argument("--world", nargs="*", action="extend", default=[], help="KEY=VALUE")
    parser.add_argument("--weights", nargs="+", type=float, help="by default 0 .25 .5 1")
    parser.add_argument("--run", help="what the names of the runs with tokenizers begin with")
    parser.add_argument("--arms", nargs="+", help="by default all that say something")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--users", type=int, default=0, help="of valid at most; 0: all")
    parser.add_argument("--one", help="[WEIGHT:]ARM:SEED, in this process")
    parser.add_argument("--out", type=Path, required=True)
    words = list(sys.argv[1:] if argv is None else argv)
    chosen = parser.parse_args(words)
    chosen.dataset = chosen.dataset or (
        "old_interests" if chosen.experiment == LIFELONG else "world"
    )
    set_threads(1 if chosen.one else None)
    if chosen.one:
        write_part(one(chosen), chosen.out)
        return 0
    result = compare(chosen)
    result = {"command": f"python -m onerec.bench.pathways {' '.join(words)}", **result}
    write(result, chosen.out)
    for weight, found in result.get("weights", {}).items():
        print(f"weight {weight}\n{table(found, LIFELONG)}")
    print(gain_table(result["gains"]) if "gains" in result else table(result["arms"], ABLATION))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
