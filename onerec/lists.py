"""Generated lists of many users, in arrays: what a search gives, batch after batch put together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from onerec.errors import DataError
from onerec.model.generate import Generated


@dataclass(frozen=True)
class Lists:
    """Generated lists of M users: items (M, k), -1 where fewer are legal; scores (M, k) are
    unmasked log-probabilities of the whole code, code_log_probs (M, k, L) those of each level."""

    items: NDArray[np.int64]
    scores: NDArray[np.float32]
    code_log_probs: NDArray[np.float32]
    legal: NDArray[np.bool_]

    def take(self, rows: NDArray[Any]) -> "Lists":
        """The lists of some of the users."""
        return Lists(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def frame(self, users: Sequence[object], item_ids: NDArray[Any]) -> pd.DataFrame:
        """A row for each item that is there: user_id, rank, item_id, item, score, lp_1..lp_L.

        `users` (M,) are their own ids, none where the lists are nobody's; `item_ids` (n,).
        """
        row, place = np.nonzero(self.items >= 0)
        items = self.items[row, place]
        columns: dict[str, object] = {
            "user_id": np.asarray(users, dtype=object)[row] if len(users) else None,
            "rank": place + 1,
            "item_id": item_ids[items],
            "item": items,
            "score": self.scores[row, place],
        }
        for level in range(self.code_log_probs.shape[2]):
            columns[f"lp_{level + 1}"] = self.code_log_probs[row, place, level]
        return pd.DataFrame(columns)


def nothing_for(users: int, k: int, levels: int, device: torch.device) -> Generated:
    """Lists without an item, for so many users."""
    item = torch.full((users, k), -1, device=device)
    score = torch.full((users, k), -torch.inf, device=device)
    codes = item[..., None].expand(-1, -1, levels)
    return Generated(item, score, codes, score[..., None].expand(codes.shape), item >= 0)


def stacked(parts: list[Generated], k: int, levels: int) -> Lists:
    """The lists of all parts, one user after the other; none of no parts."""
    if not parts:
        return Lists(
            np.zeros((0, k), dtype=np.int64),
            np.zeros((0, k), dtype=np.float32),
            np.zeros((0, k, levels), dtype=np.float32),
            np.zeros((0, k), dtype=np.bool_),
        )
    return Lists(
        torch.cat([part.items for part in parts]).cpu().numpy(),
        torch.cat([part.scores for part in parts]).float().cpu().numpy(),
        torch.cat([part.code_log_probs for part in parts]).float().cpu().numpy(),
        torch.cat([part.legal for part in parts]).cpu().numpy(),
    )


def at_least_one(**numbers: object) -> None:
    """Refuse, by its name, a number that a list cannot be asked with.

    Raises:
        DataError: a number is no whole one, or below 1.
    """
    for name, value in numbers.items():
        if not isinstance(value, int | np.integer) or isinstance(value, bool):
            raise DataError(f"{name}={value!r}: give a whole number of at least 1")
        if value < 1:
            what = "ask for at least one item" if name == "k" else "must be at least 1"
            raise DataError(f"{name}={value}: {what}")
