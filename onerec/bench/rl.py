"""Users a second through rollout, reward and update, and which share of the time each part takes.

    python -m onerec.bench.rl --json [--recipe small --group 128] [--set KEY=VALUE ...]
                              [--items N --world-users N --history EVENTS] [--out FILE]
    python -m onerec.bench.rl --join FILE FILE .. [--out FILE]

Left to itself it takes the recipe `small` with groups of 128 on a CPU, `kuairand` with groups of
512 on a GPU. `--join` puts results of other groups below `group_G` of the first.

The run is made on the built-in world with a few steps of each stage: weights decide nothing about
speed. Neither that nor the first `WARM_UP` policy steps are in a time or in the peak of memory.
`next_token` is the next-token half of the same update; it is timed apart, since a share of users
alone gets groups. Times on a GPU are taken with the device synchronised between parts. `mfu` counts
the operations of `onerec.count` for what the contexts really hold (`contexts`: their mean events
and clusters), three forward passes each, over the device's dense bfloat16 peak; without a known
peak there is none.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from onerec.alignment import AlignBatch, Alignment, Scorer
from onerec.assembly import setting_of
from onerec.bench.generate import as_json, commit, cpu_name, write
from onerec.bench.mistakes import (
    read_results,
    refuse_below_one,
    refuse_unlike,
    told_in_a_line,
)
from onerec.common import autocast, pick_device, set_threads
from onerec.cost import mfu, peak_rate
from onerec.count import Cardinalities, Counter
from onerec.model.batch import Batch
from onerec.model.sample import Samples
from onerec.pipeline import run as run_stages
from onerec.pipeline.align import Aligning
from onerec.recipes import parse_overrides, recipe
from onerec.throughput import COUNTED, counts
from onerec.world import WorldConfig

WORLD = WorldConfig()
PARTS = ("rollout", "reward", "update", "next_token")
WARM_UP = 10  # histories have few sizes (`Batch.of_few_shapes`), each compiled when it comes
ALIKE = ("benchmark", "commit", "device", "recipe", "users", "steps", "items")
OF_A_GROUP = (
    *("command", "users_per_second", "items_per_second", "share", "milliseconds_a_step"),
    *("mfu", "peak_memory_gib"),
)
QUICK = {
    "train.steps": "3",
    "train.evaluate_every": "3",
    "evaluate.valid_users": "50",
    "reward.steps": "3",
    "reward.rounds": "0",
    "align.format_items": "5",
    "baselines.names": "popularity",
}


class Clock:
    """Seconds by part; on a GPU the queue is empty when a part begins and when it ends."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, dict.fromkeys(PARTS, 0.0)

    def restart(self) -> None:
        """Forget what was booked, and on a GPU the peak of its memory."""
        self.seconds = dict.fromkeys(PARTS, 0.0)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def now(self) -> float:
        """The time, once what was asked of the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def add(self, part: str, since: float) -> float:
        """Book the time since then under a part."""
        now = self.now()
        self.seconds[part] += now - since
        return now


class _TimedScorer:
    def __init__(self, scorer: Scorer, clock: Clock) -> None:
        self.scorer, self.clock = scorer, clock

    def score(self, user: Any, end: Any, items: torch.Tensor) -> dict[str, torch.Tensor]:
        begun = self.clock.now()
        scores = self.scorer.score(user, end, items)
        self.clock.add("reward", begun)
        return scores


class _Timed(Alignment):
    clock: Clock

    def _draw(self, batch: AlignBatch) -> Samples:
        begun = self.clock.now()
        drawn = super()._draw(batch)
        self.clock.add("rollout", begun)
        return drawn


def measure(aligning: Aligning, steps: int) -> dict[str, Any]:
    """Time `steps` policy steps of an alignment that has not begun."""
    clock = Clock(aligning.device)
    before = aligning.alignment
    scorer = _TimedScorer(before.scorer, clock)
    timed = _Timed(before.model, before.trie, scorer, before.config, before.lag, before.compiled)
    timed.clock = clock
    aligning.alignment = timed
    trainee = aligning.trainee()
    held: dict[str, list[Batch]] = {"update": [], "next_token": []}
    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            clock.restart()
        batch = trainee.batch(step)
        _step(batch, timed, trainee.optimizer, clock)
        if step >= WARM_UP:
            held["update"].append(batch.context)
            held["next_token"].append(batch.next_token)
    users = steps * aligning.config.users
    policy = sum(clock.seconds[part] for part in ("rollout", "reward", "update"))
    return {
        "users_per_second": round(users / policy, 2),
        "items_per_second": round(users * aligning.config.group / policy),
        "share": {
            part: round(clock.seconds[part] / policy, 3) for part in ("rollout", "reward", "update")
        },
        "milliseconds_a_step": {
            part: round(1000 * clock.seconds[part] / steps, 1) for part in PARTS
        },
        **_used(aligning, held, clock),
    }


def _used(aligning: Aligning, held: Mapping[str, Sequence[Batch]], clock: Clock) -> dict[str, Any]:
    """What the contexts held in the mean and, of a device with a known peak, `mfu` by part."""
    config, device = aligning.config, aligning.device
    vocabulary = aligning.alignment.model.vocabulary
    counter = Counter(aligning.setting.recipe, Cardinalities.of(vocabulary))
    peak = peak_rate(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    told, shares = dict[str, dict[str, float]](), dict[str, float]()
    for part, batches in held.items():
        found = [counts(batch) for batch in batches]
        contexts = sum(batch.size for batch in batches)
        total = {name: sum(int(each[name]) for each in found) for name in COUNTED}
        events, clusters, long, targets = (total[name] / contexts for name in COUNTED)
        targets = config.group if part == "update" else targets
        told[part] = {"events": round(events, 1), "clusters": round(clusters, 1)}
        flops = counter.training_flops(events, targets, clusters=clusters, long_share=long)
        share = mfu(flops, contexts / clock.seconds[part], peak)
        if share is not None:
            shares[part] = round(share, 4)
    return {"contexts": told, **({"mfu": shares} if shares else {})}


def _step(batch: AlignBatch, timed: _Timed, optimizer: torch.optim.Optimizer, clock: Clock) -> None:
    before = clock.seconds["rollout"] + clock.seconds["reward"]
    begun = clock.now()
    with autocast(clock.device):  # as the loop does
        loss, _ = timed.policy_loss(batch)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(timed.model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    ended = clock.add("update", begun)
    clock.seconds["update"] -= clock.seconds["rollout"] + clock.seconds["reward"] - before
    with autocast(clock.device):
        next_token, _ = timed.model.loss(batch.next_token)
    next_token.backward()  # type: ignore[no-untyped-call]
    optimizer.zero_grad(set_to_none=True)
    clock.add("next_token", ended)


def run(
    *,
    name: str | None = None,
    group: int | None = None,
    users: int = 32,
    steps: int = 10,
    out: Path | None = None,
    world: WorldConfig | None = None,
    changes: Mapping[str, str] | None = None,
    words: Sequence[str] = (),
) -> dict[str, Any]:
    """Make a run of the recipe and time its policy steps; writes the result to `out` as well.

    `changes` are settings of the recipe, `words` what the command line was.

    Raises:
        RecipeError: no such recipe or setting, a group below 2, or more users than a batch has
            contexts.
    """
    from onerec.data.sources.world import make_world_dataset

    threads, cuda = set_threads(), torch.cuda.is_available()
    name, group = name or ("kuairand" if cuda else "small"), group or (512 if cuda else 128)
    asked = {"align.group": str(group), "align.users": str(users)}
    chosen = recipe(name, {**QUICK, **(changes or {}), **asked})
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        make_world_dataset("world", world, home)
        stages = ("tokenize", "pretrain", "reward")
        made = run_stages("rl", chosen, "world", home=home, stages=stages)
        set_threads(threads)
        setting = setting_of(made, home)
        measured = measure(Aligning(made, setting, pick_device(chosen.device)), steps)
    result = {
        "benchmark": "rl",
        "command": " ".join(["python -m onerec.bench.rl", *words]),
        "commit": commit(),
        "device": torch.cuda.get_device_name() if cuda else f"{cpu_name()}, {threads} threads",
        "recipe": name,
        "group": group,
        "users": users,
        "steps": steps,
        "items": setting.dataset.n_items,
        **measured,
    }
    if cuda:
        result["peak_memory_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    if out is not None:
        write(result, out)
    return result


def joined(paths: Sequence[Path], out: Path | None = None) -> dict[str, Any]:
    """The first result with what others measured of other groups; writes it to `out` as well.

    Raises:
        RunError: a file is missing or is no JSON object.
        DataError: a file is no result of this benchmark, of anything else than the first but its
            group, or of a group that is there already.
    """
    parts = read_results(paths, "group", "users_per_second")
    refuse_unlike(paths, parts, ALIKE, other_than="group")
    result = dict(parts[0])
    for part in parts[1:]:
        result[f"group_{part['group']}"] = {key: part[key] for key in OF_A_GROUP if key in part}
    if out is not None:
        write(result, out)
    return result


@told_in_a_line
def main(argv: Sequence[str] | None = None) -> int:
    """The command line; prints one JSON object with --json, else a few lines."""
    parser = argparse.ArgumentParser(description="users a second through a policy step")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--recipe", help="tiny, small, ...; default by device")
    parser.add_argument("--group", type=int, help="items of a user; default by device")
    parser.add_argument("--users", type=int, default=32, help="with a group in a step")
    parser.add_argument("--steps", type=int, default=10, help="that are timed")
    parser.add_argument("--set", nargs="*", action="extend", default=[], help="KEY=VALUE")
    parser.add_argument("--items", type=int, default=WORLD.n_items, help="of the world")
    parser.add_argument("--world-users", type=int, default=WORLD.n_users, help="of the world")
    parser.add_argument("--history", type=float, default=WORLD.mean_history, help="events a user")
    parser.add_argument("--join", nargs="*", type=Path, help="results of several groups")
    parser.add_argument("--out", type=Path, help="also write it to this file")
    words = list(sys.argv[1:] if argv is None else argv)
    chosen = parser.parse_args(words)
    refuse_below_one(chosen, ("group", "users", "steps"))
    sizes = {"group": chosen.group, "users": chosen.users, "steps": chosen.steps}
    if chosen.join:
        result = joined(chosen.join, chosen.out)
    else:
        world = WorldConfig(
            n_items=chosen.items, n_users=chosen.world_users, mean_history=chosen.history
        )
        changes = parse_overrides(chosen.set)
        told: dict[str, Any] = {
            "out": chosen.out,
            "world": world,
            "changes": changes,
            "words": words,
        }
        result = run(name=chosen.recipe, **sizes, **told)
    if chosen.json:
        print(as_json(result))
    else:
        for key, value in result.items():
            print(f"{key:22} {value}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
