"""What all baselines share: the histories of some cases, and scores turned into ranked lists.

A baseline scores every item of the catalogue, never a sample of candidates. Equal scores are broken
by a permutation drawn once when it is fitted, so that the order of the ids decides nothing.

Legend: B cases of one chunk, M cases, H history rows of one chunk, n items, k ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:  # so that the numerics run where no reader of files is installed
    from onerec.data.dataset import Interactions
    from onerec.data.split import Cases, Split

IntArray = NDArray[np.int64]
SCORES_PER_CHUNK = 2**22  # scores held at a time: 16 MiB, and twice that where all are sorted


class Baseline(Protocol):
    """Anything that ranks the catalogue for the users of some cases."""

    name: str

    def recommend(self, split: Split, cases: Cases, k: int, exclude_seen: bool = False) -> IntArray:
        """Ranked items `(M, k)` int64, best first, -1 where there is nothing left to offer."""


@dataclass(frozen=True)
class Histories:
    """The events before the targets of B cases, case after case, oldest first."""

    size: int  # B
    rows: IntArray  # (H,) rows of the log
    case: IntArray  # (H,) to which of the B cases a row belongs
    age: IntArray  # (H,) events that came after it in the same history; 0 is the latest

    @classmethod
    def of(cls, log: Interactions, user: NDArray[Any], end: NDArray[Any]) -> Histories:
        """History of case i: the log's rows from where `user[i]` begins up to `end[i]`."""
        length = np.asarray(end - log.offsets[user], dtype=np.int64)  # (B,)
        case = np.repeat(np.arange(len(length), dtype=np.int64), length)  # (H,)
        after = np.cumsum(length)[case] - np.arange(len(case), dtype=np.int64)
        age = after - 1
        return cls(len(length), np.asarray(end, dtype=np.int64)[case] - after, case, age)

    def where(self, keep: NDArray[np.bool_]) -> Histories:
        """Only the rows that `keep` (H,) names; ages then count kept rows alone."""
        rows, case = self.rows[keep], self.case[keep]
        last = np.cumsum(np.bincount(case, minlength=self.size))
        age = last[case] - 1 - np.arange(len(case), dtype=np.int64)
        return Histories(self.size, rows, case, age)


def tie_order(n_items: int, generator: torch.Generator) -> Tensor:
    """A seeded permutation `(n,)` on the CPU: of two equal scores the higher entry comes first."""
    return torch.randperm(n_items, generator=generator, device=generator.device).cpu()


def top_k(scores: Tensor, k: int, ties: Tensor) -> Tensor:
    """The `k` best items of each row, `(B, k)` int64, by score and then by `ties`.

    The result is a total order, so it is the same on any device and in any batch. Where the score
    at rank k goes on beyond it, the whole row is sorted by score and permutation; else its first k.

    Args:
        scores: `(B, n)` float32; -inf is never offered.
        ties: `(n,)` from `tie_order`.

    Returns:
        `(B, k)`, -1 where fewer than `k` items can be offered.

    Raises:
        ValueError: a score is not a number.
    """
    ties = ties.to(scores.device)
    kept = min(k, scores.shape[1])
    values, items = scores.topk(min(kept + 1, scores.shape[1]), dim=1)  # (B, kept + 1)
    if values.isnan().any():  # not-a-number sorts above everything
        raise ValueError("a score is not a number")
    values, items, beyond = values[:, :kept], items[:, :kept], values[:, kept:]
    order = _sort_keys(values, ties[items]).argsort(dim=1, descending=True)
    best = items.gather(1, order)  # (B, kept)
    open_end = (values[:, -1:] == beyond).any(dim=1).nonzero().squeeze(1)
    if len(open_end):
        keys = _sort_keys(scores[open_end], ties.expand(len(open_end), -1))
        best[open_end] = keys.topk(kept, dim=1).indices
    best = best.masked_fill(scores.gather(1, best) == -torch.inf, -1)
    return torch.nn.functional.pad(best, (0, k - kept), value=-1)  # (B, k)


def _sort_keys(scores: Tensor, ties: Tensor) -> Tensor:
    """One integer per score that sorts by score, then by the permutation; no two are equal.

    The bits of a float32, read as a signed integer, keep its order once negative ones are turned.
    """
    bits = (scores.float() + 0.0).view(torch.int32)  # + 0.0: minus zero equals zero
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()
    return (ordered << 32) | ties


def rank_all(
    score: Callable[[Histories], Tensor],
    log: Interactions,
    cases: Cases,
    k: int,
    ties: Tensor,
    *,
    exclude_seen: bool = False,
) -> IntArray:
    """Ranked lists `(M, k)` of all cases, chunk by chunk.

    Args:
        score: gives the scores `(B, n)` float32 of every item for B histories; may be overwritten.
        exclude_seen: never offer an item of the case's own history.
    """
    lists = [np.empty((0, k), dtype=np.int64)]
    for histories in chunks(log, cases):
        scores = score(histories)  # (B, n)
        if exclude_seen:
            seen = torch.from_numpy(log.item[histories.rows].astype(np.int64))
            case = torch.from_numpy(histories.case)
            scores[case.to(scores.device), seen.to(scores.device)] = -torch.inf
        lists.append(top_k(scores, k, ties).cpu().numpy())
    return np.concatenate(lists)


def chunks(log: Interactions, cases: Cases) -> Iterator[Histories]:
    """The cases in order, as many at a time as their scores may take memory."""
    size = max(1, SCORES_PER_CHUNK // log.n_items)
    for start in range(0, len(cases.user), size):
        here = slice(start, start + size)
        yield Histories.of(log, cases.user[here], cases.end[here])
