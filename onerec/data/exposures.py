"""From the log to P-Score's pairs: what was shown to whom, what was known then, what came of it.

`Exposures.rows` makes pairs of logged rows, with their labels, for training and measuring;
`Exposures.candidates` makes pairs of contexts and any items, for scoring what a policy generates.
Both give the same features of the same moment.

Shapes: B contexts, M candidates, K behaviours, N rows of the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onerec.data.batches import Contexts, EpochSampler
from onerec.data.log import Interactions
from onerec.data.schema import BEHAVIOURS, POSITIVE, SPLITS
from onerec.data.split import Split
from onerec.data.statistics import Statistics
from onerec.reward.pscore import Pairs

Ints = NDArray[np.int64]

ENOUGH = 20  # events with and without a behaviour, below which it cannot be learned; ours


@dataclass(frozen=True)
class Learnable:
    """Behaviours that a log can teach, and why others were left out."""

    names: tuple[str, ...]
    left_out: dict[str, str]


def with_positive(log: Interactions) -> Interactions:
    """The log with a column `positive`, where it has no behaviour of its own."""
    if any(name in log.columns for name in BEHAVIOURS):
        return log
    columns = {**log.columns, POSITIVE: log.positive.astype(np.int8)}
    return Interactions(**{**vars(log), "columns": columns})


def learnable(log: Interactions, train: NDArray[np.bool_]) -> Learnable:
    """Which behaviours have both outcomes in the training rows, in the order of the schema."""
    names, left_out = [], {}
    for name in (*BEHAVIOURS, POSITIVE):
        if name not in log.columns:
            continue
        values = log.columns[name][train]
        yes, no = int((values == 1).sum()), int((values == 0).sum())
        if min(yes, no) >= ENOUGH:
            names.append(name)
        else:
            left_out[name] = f"{yes} events with it and {no} without in training; needs {ENOUGH}"
    return Learnable(tuple(names), left_out)


class Exposures:
    """Builds `Pairs` over one log.

    Args:
        contexts: of the same log; its device is that of the pairs.
        split: says which rows are trained on.
        behaviours: the towers, columns of the log.
    """

    def __init__(self, contexts: Contexts, split: Split, behaviours: Sequence[str]) -> None:
        log = with_positive(split.log)
        self.contexts, self.split = contexts, split
        self.behaviours = tuple(behaviours)
        self.statistics = Statistics(log, split.train, behaviours)
        values = np.stack([log.columns[name] for name in behaviours], axis=1)  # (N, K)
        self._yes, self._known = values == 1, values >= 0
        self._item = log.item.astype(np.int64)
        self._user = log.user.astype(np.int64)
        # row 0 is padding, as in the item table
        table = np.concatenate([np.zeros_like(self.statistics.item[:1]), self.statistics.item])
        self._item_table = torch.from_numpy(table).to(contexts.device)

    def rows(self, rows: Ints) -> Pairs:
        """Logged rows (B,) as one candidate each, with what came of them."""
        user = self._user[rows]
        pairs = self._pairs(user, rows, torch.from_numpy(self._item[rows] + 1)[:, None])
        at_the_time = torch.from_numpy(self.statistics.item_at(rows))[:, None]
        pairs.item_statistics = at_the_time.to(self.contexts.device)
        pairs.label = self._put(self._yes[rows].astype(np.float32)[:, None])
        pairs.known = self._put(self._known[rows][:, None])
        return pairs

    def candidates(self, user: Ints, end: Ints, items: Tensor) -> Pairs:
        """Contexts (B,), (B,) and items (B, M) by index, -1 for none."""
        return self._pairs(user, end, items + 1)

    def training_rows(self) -> Ints:
        """Rows that may be trained on: with something before them, and an outcome that is known."""
        rows = np.flatnonzero(self.split.train)
        has_past = rows > self.split.log.offsets[self._user[rows]]
        return rows[has_past & self._known[rows].any(axis=1)].astype(np.int64)

    def valid_rows(self, limit: int | None = None) -> Ints:
        """Rows after the training rows and before a user's test targets, at most `limit` of them.

        Only of users that are tested, since only their split says where valid ends.
        """
        split = self.split
        begin, end = split.train_end[split.test.user], split.test.end
        length = np.maximum(end - begin, 0)
        first = np.cumsum(length) - length
        rows = np.repeat(begin - first, length) + np.arange(int(length.sum()))
        rows = rows[self._known[rows].any(axis=1)].astype(np.int64)
        if limit is not None and len(rows) > limit:
            rows = rows[(np.arange(limit) * len(rows)) // limit]
        return rows

    def test_rows(self) -> Ints:
        """Rows from each tested user's test targets on, but those that are of no part."""
        split, log = self.split, self.split.log
        rows = np.arange(len(log))
        end = np.full(log.n_users, len(log), dtype=np.int64)
        end[split.test.user] = split.test.end
        later = rows >= end[self._user]
        if split.rule == "given":
            later &= log.columns["split"] == SPLITS.index("test")
        return np.flatnonzero(later & self._known.any(axis=1)).astype(np.int64)

    def outcomes(self, rows: Ints) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """What came of rows (B,): yes (B, K) and whether it is known (B, K)."""
        return self._yes[rows], self._known[rows]

    def _pairs(self, user: Ints, end: Ints, items: Tensor) -> Pairs:
        items = items.to(self.contexts.device)
        batch = self.contexts.batch(torch.from_numpy(user), torch.from_numpy(end))
        nothing = torch.zeros(*items.shape, 0, device=items.device)
        return Pairs(
            batch=batch,
            items=items,
            user_statistics=self._put(self.statistics.user_at(user, end)),
            item_statistics=self._item_table[items],
            label=nothing,
            known=nothing.bool(),
        )

    def _put(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.contexts.device)


class ExposureBatches:
    """step -> Pairs of training rows, in an order drawn anew each epoch."""

    def __init__(self, exposures: Exposures, batch_size: int, seed: int) -> None:
        self.exposures = exposures
        self.training = exposures.training_rows()
        self.sampler = EpochSampler(len(self.training), batch_size, seed)

    def __call__(self, step: int) -> Pairs:
        return self.exposures.rows(self.training[self.sampler(step)])
