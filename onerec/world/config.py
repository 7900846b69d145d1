"""How large a world is and how it behaves: the settings a person may turn.

The numbers that were fitted to logs are constants beside the code that uses them, and
`onerec.bench.world` shows how well they fit. They are no settings: change one and all is new.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from onerec.errors import RecipeError

DAY_MS = 86_400_000


@dataclass(frozen=True)
class WorldConfig:
    """The settings of a world; the same settings make the same world, byte for byte.

    Attributes:
        n_items: videos in the catalogue.
        n_users: people; together they make about `n_users * mean_history` events.
        days: length of the log.
        seed: of everything that is drawn.
        off_content_share: the part of the variance of affinity that the content of an item does not
            tell: the bond to an author and a style that only shared consumption shows.
        old_interest_weight: how likely a new interest is one that the person had before.
        interest_days: how long an interest lasts on average.
        mean_history: events per user over all days, on average.
        start_ms: when the first day begins, in milliseconds since 1970.
    """

    n_items: int = 5_000
    n_users: int = 4_400
    days: int = 30
    seed: int = 0
    off_content_share: float = 0.3
    old_interest_weight: float = 0.4
    interest_days: float = 12.0
    mean_history: float = 57.0
    start_ms: int = 1_767_225_600_000  # 2026-01-01

    def __post_init__(self) -> None:
        for name, least in (("n_items", 500), ("n_users", 10), ("days", 2)):
            if getattr(self, name) < least:
                raise RecipeError(f"{name}={getattr(self, name)}: a world needs at least {least}")
        for name in ("off_content_share", "old_interest_weight"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise RecipeError(f"{name}={getattr(self, name)}: must lie between 0 and 1")
        for name in ("interest_days", "mean_history"):
            if not getattr(self, name) > 0:
                raise RecipeError(f"{name}={getattr(self, name)}: must be above 0")

    def stream(self, name: str) -> np.random.Generator:
        """The random numbers of one part of the world: no part moves when another draws more."""
        return np.random.default_rng([self.seed, *name.encode()])

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain JSON values."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}
