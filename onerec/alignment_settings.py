"""What alignment's settings mean together: rewards with their weights, and how groups are drawn."""

from __future__ import annotations

import math

from onerec.data.schema import BEHAVIOURS, POSITIVE
from onerec.errors import RecipeError
from onerec.sections import AlignConfig, IndustrialConfig, SamplingConfig
from onerec.settings import listed, nearest

FEEDBACK = "feedback"  # the reward of what people were shown
LOG = "log"  # the search that takes it as the group
PSCORE = "pscore"  # the fused score
REWARDS = (PSCORE, FEEDBACK, *BEHAVIOURS, POSITIVE)


def reward_weights(text: str) -> dict[str, float]:
    """`"pscore=0.7,like=0.3"` -> `{"pscore": 0.7, "like": 0.3}`; a name alone weighs 1.

    Raises:
        RecipeError: nothing named, a name twice or that no data has, a weight that is no number
            from 0 up, or all 0.
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        name, equals, number = (piece.strip() for piece in part.partition("="))
        try:
            weight = float(number) if equals else 1.0
        except ValueError:
            weight = math.nan
        if not (math.isfinite(weight) and weight >= 0):
            raise RecipeError(f"align.reward={text!r}: {name!r} needs a weight from 0 up")
        if not name or name in found:
            raise RecipeError(
                f"align.reward={text!r}: needs a name, or several as in pscore=0.7,like=0.3"
            )
        if name not in REWARDS:
            raise RecipeError(
                f"align.reward={text!r}: no reward is called {name!r}{nearest(name, REWARDS)}; "
                f"there are {listed(REWARDS)}"
            )
        found[name] = weight
    if not any(found.values()):
        raise RecipeError(f"align.reward={text!r}: give at least one a weight above 0")
    return found


def judged_by(align: AlignConfig) -> dict[str, float]:
    """The rewards, with their weights, that say how good a list is: where groups come from the log,
    whose reward is of what people did and of nothing else, P-Score."""
    return {PSCORE: 1.0} if align.search == LOG else reward_weights(align.reward)


def check_groups(align: AlignConfig, sampling: SamplingConfig) -> None:
    """Refuse settings that no group can be drawn or judged by.

    Raises:
        RecipeError: which and why.
    """
    if not 0 < sampling.top_p <= 1:
        raise RecipeError(f"sampling.top_p={sampling.top_p}: needs a number above 0, up to 1")
    if not sampling.temperature > 0:
        raise RecipeError(f"sampling.temperature={sampling.temperature}: needs more than 0")
    if sampling.icepop and not sampling.icepop > 1:
        raise RecipeError(f"sampling.icepop={sampling.icepop}: needs 0 (off) or more than 1")
    weights = reward_weights(align.reward)
    if (align.search == LOG) != (FEEDBACK in weights) or (FEEDBACK in weights and len(weights) > 1):
        raise RecipeError(
            f"align.search={align.search} and align.reward={align.reward}: what people did with "
            "logged items is align.search=log with align.reward=feedback alone"
        )


def unread(align: AlignConfig, sampling: SamplingConfig, industrial: IndustrialConfig) -> list[str]:
    """What is set and has no say in how groups come about or are judged, each with the reason."""
    if not align.weight:
        return ["align.weight=0: no groups are drawn; what is said of them is not read"]
    given = {
        "align.format_items": align.format_items,
        "align.tilt": align.tilt,
        "align.lag": align.lag,
        "sampling.temperature": sampling.temperature != 1 and sampling.temperature,
        "sampling.top_p": sampling.top_p != 1 and sampling.top_p,
        "sampling.icepop": sampling.icepop,
        "industrial.column": industrial.column,
        "industrial.value": industrial.value,
    }
    reasons = _unread_by_search(align.search)
    if align.objective == "dpo":
        one = "dpo sets the best against the worst, and legal items have one format reward"
        reasons = {"align.format_items": one} | reasons
    if not industrial.column:
        reasons["industrial.value"] = "industrial.column is empty"
    return [
        f"{name}={value} is not read: {reasons[name]}"
        for name, value in given.items()
        if value and name in reasons
    ]


def _unread_by_search(search: str) -> dict[str, str]:
    """Setting -> why a search does not read it."""
    found = {}
    if search != "sample":
        found["align.format_items"] = f"groups by {search} hold legal codes alone"
    if search == "beam":
        most = "a beam takes what is most probable and draws nothing"
        found |= dict.fromkeys(("sampling.temperature", "sampling.top_p"), most)
    if search == LOG:
        shown = "the group is what people were shown, not what a policy draws"
        sampler = ("align.lag", "sampling.temperature", "sampling.top_p", "sampling.icepop")
        found |= dict.fromkeys(sampler, shown)
        did = "what people did is the advantage"
        found |= dict.fromkeys(("align.tilt", "industrial.column", "industrial.value"), did)
    return found
