"""The paper's tables about alignment (V1, Tables 6 to 9), and ours beside.

Table 6: with a reward or without, by the number of items of a list. Table 7: the size of a group.
Table 8: sampling or beam search. Table 9: whether the policy itself draws, or the pre-trained one.
The paper trains these on vtr alone, and its numbers are the vtr that its own ranker predicts. Ours
are what the truth of a known world says; what our reward model says of the same lists stands
beside, for that is what the paper can know.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

CUTS = (32, 128, 512)
SERVED = (32, 128)  # items of a list where groups and searches are compared
TIMES = 4  # the list: V1's advice for a group
TARGETS = ("pscore", "long_view")
GROUP = 128  # of an arm of `bench.worth` that names none
NO_REWARD = "no reward"

# vtr; Tables 8 and 9 have one list length
PAPER_REWARD = {32: (0.1978, 0.2138), 128: (0.2239, 0.2387), 512: (0.2444, 0.2494)}
PAPER_GROUP = {0: 0.2198, 128: 0.2303, 512: 0.2350, 2_048: 0.2352}  # at 128 items
PAPER_SEARCH = (0.2131, 0.2162)  # top-k and top-p sampling, beam
PAPER_POLICY = (0.2262, 0.2389)  # pre-trained reference, current policy

COLUMNS = (
    *("table", "setting", "against", "group", "reward", "target", "arm", "k"),
    *("gain", "gain_low", "gain_high", "promised", "recall", "recall_low", "recall_high"),
    "recall_against",
    *("more", "more_low", "more_high", "promised_more", "past", "past_low", "past_high", "paper"),
)

Interval = dict[str, float]  # mean, low, high
_NOTHING: Interval = {"mean": 0.0, "low": 0.0, "high": 0.0}
_UNKNOWN: Interval = dict.fromkeys(_NOTHING, math.nan)


def tables(found: dict[str, Any]) -> pd.DataFrame:
    """A row for each comparison, number of items and target, of a result of `bench.worth`.

    table, setting, against, group, reward (what the arm was trained on), target, arm, k; then

    - gain, gain_low, gain_high: the truth's mean of the target over the first k items, minus that
      of the same training without a reward; promised: this gain as the reward model says it;
      recall, recall_low, recall_high: the change of recall@10 on test, as a share of that without
      a reward; recall_against: the same of `against`.
    - more, more_low, more_high: beyond `against`, as a share of what `against` has;
      promised_more: the same by the reward model, as a share of the same truth.
    - past, past_low, past_high: of Table 7 alone, the gain minus that of a group of `TIMES` k.
    - paper: the paper's `more`, of its vtr; NaN where it measured nothing.

    The difference of two arms is paired by seed where both took the same step in every seed and
    `found` tells what each measured. Else its interval is as wide as the intervals of the two gains
    allow: it lies on one side of 0 only where they do not overlap. The level without a reward is
    what the oracle's lists have less gain / share of headroom closed, for all arms by the one that
    closes most. What was not measured has no row, nor has what would be compared with it.
    """
    known = _Known(found, [arm for name in found["summary"] if (arm := parsed(name))])
    rows = [row for case in _cases(known.arms) for row in _rows(known, case)]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    order = ["table", "reward", "target", "k", "group"]
    return frame.sort_values(order, kind="stable", ignore_index=True)


def pairs(frame: pd.DataFrame) -> pd.DataFrame:
    """Of `tables` what is not about groups, by the truth of what each arm was trained on."""
    kept = frame[(frame["table"] != 7) & (frame["target"] == frame["reward"])]
    columns = ["table", "setting", "against", "reward", "k", "more", "more_low", "more_high"]
    columns += ["promised_more", "paper", "recall", "recall_against"]
    return kept[columns].reset_index(drop=True)


@dataclass(frozen=True)
class Arm:
    """An arm of `bench.worth` by its parts."""

    name: str
    reward: str
    numbers: str  # weight and learning rate, as they are written
    kind: str  # "", beam or off_policy
    group: int


@dataclass(frozen=True)
class _Case:
    """An arm and what it is compared with; None: no reward."""

    table: int
    setting: str
    against: str
    arm: Arm
    other: Arm | None
    cuts: tuple[int, ...] = SERVED


def parsed(name: str) -> Arm | None:
    """`pscore+beam+g512@0.3` by its parts; None for an arm that is in no table of the paper."""
    words, _, numbers = name.partition("@")
    reward, *rest = words.split("+")
    sizes = [word for word in rest if word[:1] == "g" and word[1:].isdigit()]
    kinds = [word for word in rest if word not in sizes]
    if reward not in TARGETS or kinds not in ([], ["beam"], ["off_policy"]) or len(sizes) > 1:
        return None
    return Arm(name, reward, numbers, "".join(kinds), int(sizes[0][1:]) if sizes else GROUP)


def _cases(arms: list[Arm]) -> Iterator[_Case]:
    by_parts = {replace(arm, name=""): arm for arm in arms}
    for arm in arms:
        plain = by_parts.get(replace(arm, name="", kind=""))
        if arm.kind == "":
            yield _Case(7, f"groups of {arm.group:,}", NO_REWARD, arm, None)
            if arm.group == GROUP:
                yield _Case(6, "a reward", NO_REWARD, arm, None, CUTS)
        elif plain and arm.kind == "beam":
            yield _Case(8, "beam search", "sampling", arm, plain)
        elif plain:
            yield _Case(9, "on-policy", "off-policy", plain, arm)


def _rows(known: _Known, case: _Case) -> Iterator[dict[str, Any]]:
    arm = case.arm
    same = {"table": case.table, "setting": case.setting, "against": case.against}
    same |= {"group": arm.group, "reward": arm.reward, "arm": arm.name}
    same |= _named("recall", known.recall(arm)) | {
        "recall_against": known.recall(case.other)["mean"]
    }
    for target in TARGETS:
        for k in case.cuts:
            key = f"{target}@{k}"
            level = known.level(key) + known.gain(case.other, key)["mean"]
            more = known.apart(arm, case.other, key)
            best = known.like(arm, TIMES * k) if case.table == 7 else None
            past = known.apart(arm, best, key) if best else _UNKNOWN
            claimed = known.promised(arm, key)
            yield {
                **same,
                "target": target,
                "k": k,
                **_named("gain", known.gain(arm, key)),
                "promised": claimed,
                **_named("more", {end: value / level for end, value in more.items()}),
                "promised_more": (claimed - known.promised(case.other, key)) / level,
                **_named("past", past),
                "paper": _paper(case, k),
            }


def _paper(case: _Case, k: int) -> float:
    if case.table == 6:
        before, after = PAPER_REWARD[k]
    elif case.table == 7:
        before, after = PAPER_GROUP[0], PAPER_GROUP.get(case.arm.group, math.nan)
        after = after if k == 128 else math.nan
    else:
        before, after = PAPER_SEARCH if case.table == 8 else PAPER_POLICY
    return after / before - 1


def _named(name: str, interval: Interval) -> Interval:
    ends = {f"{name}_{end}": interval[end] for end in ("low", "high")}
    return {name: interval["mean"], **ends}


@dataclass(frozen=True)
class _Known:
    """What was measured: gains and differences of one target@k, an arm None being no reward."""

    found: dict[str, Any]
    arms: list[Arm]

    @property
    def summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = self.found["summary"]
        return summary

    def like(self, arm: Arm, group: int) -> Arm | None:
        """The arm that differs in the size of its group alone."""
        wanted = replace(arm, name="", group=group)
        return next((each for each in self.arms if replace(each, name="") == wanted), None)

    def gain(self, arm: Arm | None, key: str) -> Interval:
        """The true gain over no reward."""
        return dict(self.summary[arm.name][key]["gain"]) if arm else _NOTHING

    def recall(self, arm: Arm | None) -> Interval:
        """The relative change of recall@10 by what it is without a reward."""
        return dict(self.summary[arm.name]["recall_change"]) if arm else _NOTHING

    def promised(self, arm: Arm | None, key: str) -> float:
        """The gain over no reward as the reward model says it."""
        if arm is None:
            return 0.0
        line = self.summary[arm.name][key]
        return float(line["gain"]["mean"] + line["predicted_minus_true"]["mean"])

    def level(self, key: str) -> float:
        """What the lists have without a reward, or NaN."""
        lines = [self.summary[arm.name][key] for arm in self.arms]
        most = max(lines, key=lambda line: abs(line["headroom_closed"]["mean"]))
        closed = most["headroom_closed"]["mean"]
        best = self.found["ends"]["oracle"]["mean"][key]
        return float(best - most["gain"]["mean"] / closed) if closed else math.nan

    def apart(self, arm: Arm, other: Arm | None, key: str) -> Interval:
        """The gain of one arm minus that of another."""
        if arm == other:
            return _NOTHING
        if other and (paired := self._paired(arm, other, key)):
            return paired
        mine, its = self.gain(arm, key), self.gain(other, key)
        return {
            "mean": mine["mean"] - its["mean"],
            "low": mine["low"] - its["high"],
            "high": mine["high"] - its["low"],
        }

    def _paired(self, arm: Arm, other: Arm, key: str) -> Interval | None:
        """By seed, where the training without a reward is the same for both and falls out."""
        mine, its = self._measured(arm), self._measured(other)
        both = [(mine[seed], its[seed]) for seed in mine if seed in its]
        if len(both) < 2 or any(a["step"] != b["step"] for a, b in both):
            return None
        from scipy.special import stdtrit  # not before it is needed: pages import this module

        apart = np.array([a["mean"][key] - b["mean"][key] for a, b in both])
        mean = float(apart.mean())
        half = float(stdtrit(len(apart) - 1, 0.975) * apart.std(ddof=1) / len(apart) ** 0.5)
        return {"mean": mean, "low": mean - half, "high": mean + half}

    def _measured(self, arm: Arm) -> dict[tuple[int, int], dict[str, Any]]:
        """What an arm's trainings measured, by preparation and seed; none in a short file."""
        parts = [part for part in self.found.get("arms", ()) if part["arm"] == arm.name]
        return {(part.get("prepared", 0), part["seed"]): part for part in parts if "mean" in part}
