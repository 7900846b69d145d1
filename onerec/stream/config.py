"""What a stream is asked for: its arm, its numbers, and what they need of the log."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onerec.data.log import Interactions
from onerec.errors import DataError, RecipeError

ARMS: dict[str, tuple[str, str | None]] = {  # what it trains on, and its objective
    "frozen": ("", None),
    "all": ("all", None),
    "half": ("half", None),
    "rsft": ("rsft", None),
    "rsft_grpo": ("rsft", "grpo"),
    "rsft_ecpo": ("rsft", "ecpo"),
}
ROUNDS = 20


@dataclass(frozen=True)
class StreamConfig:
    """`share` of the users come in a round and see `shown` items each; `steps` updates a round on
    the feedback of the last `window` rounds; the server gets new weights every `lag` updates.

    `rounds` None are `ROUNDS`, or the days of the log where it is played back and has fewer.
    """

    arm: str = "rsft_ecpo"
    rounds: int | None = None
    steps: int = 20
    lag: int = 20
    share: float = 0.1
    shown: int = 10
    window: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.arm not in ARMS:
            raise RecipeError(f"arm {self.arm!r}: choose one of {', '.join(ARMS)}")
        for name in ("rounds", "steps", "shown", "window"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise RecipeError(f"{name}={value}: needs at least 1")
        if self.seed < 0:
            raise RecipeError(f"seed={self.seed}: needs 0 or more")
        if self.lag < 0:
            raise RecipeError(f"lag={self.lag}: needs 0 or more")
        if not 0 < self.share <= 1:
            raise RecipeError(f"share={self.share}: needs a number above 0, and 1 at most")


def rounds_of(asked: int | None, days: int | None) -> tuple[int, str]:
    """How many rounds there will be, and what to say where they are fewer than usual.

    Args:
        days: how many there are to play back; None where there is no end.

    Raises:
        RecipeError: more are asked for than there are days.
    """
    if days is None or (asked or ROUNDS) <= days:
        return asked or ROUNDS, ""
    if asked is None:
        return days, f"the log has {days} days to play back, so {days} rounds"
    raise RecipeError(
        f"rounds={asked}: the log has {days} days to play back; ask for {days} or fewer"
    )


def check_log(arm: str, log: Interactions) -> None:
    """Stop an arm that this log cannot feed.

    Raises:
        DataError: it keeps the sessions with the most play time, and no play time is known.
    """
    play = log.columns.get("play_ms")
    if ARMS[arm][0] == "rsft" and (play is None or np.isnan(play).all()):
        raise DataError(
            f"arm {arm!r} keeps the sessions with the most play time, and the log has no play_ms; "
            "use --arm all, half or frozen"
        )
