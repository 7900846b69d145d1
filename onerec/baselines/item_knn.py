"""Item-KNN: what users consumed together with what this user consumed.

Cosine of the items' user columns, shrunk towards 0 where few users support it (Sarwar et al. 2001;
the shrinkage is that of Ferrari Dacrema et al. 2019, "Are we really making much progress?"), the
closest neighbours of each item, and a weight per history event that falls with its age. Only
training rows make the similarity. Items that no neighbour speaks for follow by popularity.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from onerec.baselines.ranking import Histories, IntArray, rank_all, tie_order

if TYPE_CHECKING:
    from onerec.data.split import Cases, Split


@dataclass(frozen=True)
class ItemKNNConfig:
    """How similar, how many, how recent.

    `half_life` counts events of the user's own history (None: all weigh the same);
    `positives_only` takes similarity and history from positive events alone.
    """

    shrinkage: float = 10.0
    neighbours: int = 200
    half_life: float | None = 10.0
    positives_only: bool = False


# The first few already span what suits video logs (long memory) and reviews (the last event).
GRID = (
    ItemKNNConfig(),
    ItemKNNConfig(shrinkage=30.0, half_life=1.0),
    ItemKNNConfig(shrinkage=30.0, half_life=10.0, positives_only=True),
    ItemKNNConfig(half_life=3.0),
    ItemKNNConfig(shrinkage=100.0, half_life=1.0),
    ItemKNNConfig(shrinkage=0.0, half_life=0.5),
    ItemKNNConfig(shrinkage=30.0, half_life=30.0, neighbours=1000),
    ItemKNNConfig(shrinkage=30.0, half_life=2.0, positives_only=True),
)


class ItemKNN:
    """A sparse item-to-item similarity, and the history of a case as the question to it."""

    name = "item_knn"

    def __init__(
        self,
        similarity: sparse.csr_array,
        fallback: NDArray[np.float32],
        ties: Tensor,
        config: ItemKNNConfig,
    ) -> None:
        self.similarity = similarity  # (n, n) float32: row = history item, column = candidate
        self.fallback = fallback  # (n,) float32 below 0: for items without a neighbour's word
        self.ties = ties  # (n,)
        self.config = config

    def recommend(self, split: Split, cases: Cases, k: int, exclude_seen: bool = False) -> IntArray:
        """Ranked items `(M, k)` by the summed similarity to the history."""

        def score(histories: Histories) -> Tensor:
            if self.config.positives_only:
                histories = histories.where(split.log.positive[histories.rows])
            question = _question(histories, split.log.item, len(self.fallback), self.config)
            scores = (question @ self.similarity).toarray()  # (B, n)
            return torch.from_numpy(np.where(scores > 0, scores, self.fallback))

        return rank_all(score, split.log, cases, k, self.ties, exclude_seen=exclude_seen)


def fit(
    split: Split,
    config: ItemKNNConfig,
    generator: torch.Generator,
    overlap: sparse.csr_array | None = None,
) -> ItemKNN:
    """Similarity of all pairs of items that share a training user.

    Args:
        overlap: `co_users(split, config.positives_only)` where several settings are tried.

    Raises:
        ValueError: a setting that cannot work.
    """
    if config.neighbours < 1 or config.shrinkage < 0 or (config.half_life or 1.0) <= 0:
        raise ValueError(f"{config}: neighbours >= 1, shrinkage >= 0, half_life > 0 or None")
    if overlap is None:
        overlap = co_users(split, config.positives_only)
    similarity = _nearest(_cosine(overlap, config.shrinkage), config.neighbours)
    counted = split.log.item[split.train & split.log.positive]
    popularity = np.bincount(counted, minlength=split.log.n_items)
    fallback = -1.0 / (1.0 + popularity)  # grows with the count, always below any similarity
    return ItemKNN(
        similarity, fallback.astype(np.float32), tie_order(len(popularity), generator), config
    )


def co_users(split: Split, positives_only: bool) -> sparse.csr_array:
    """How many training users had both items: `(n, n)`; the diagonal is each item's own users."""
    log = split.log
    used = split.train & log.positive if positives_only else split.train
    seen = np.unique(log.user[used].astype(np.int64) * log.n_items + log.item[used])
    user, item = np.divmod(seen, log.n_items)
    table = sparse.csr_array(
        (np.ones(len(seen), dtype=np.float32), (user, item)), shape=(log.n_users, log.n_items)
    )
    return sparse.csr_array(table.T @ table)


def _cosine(overlap: sparse.csr_array, shrinkage: float) -> sparse.csr_array:
    """overlap_ij / (sqrt(users_i users_j) + shrinkage), without the diagonal."""
    norm = np.sqrt(overlap.diagonal())  # (n,)
    row = np.repeat(np.arange(len(norm)), np.diff(overlap.indptr))
    column = overlap.indices
    value = overlap.data / (norm[row] * norm[column] + np.float32(shrinkage))
    value[row == column] = 0.0
    return sparse.csr_array((value, column, overlap.indptr), shape=overlap.shape)


def _nearest(similarity: sparse.csr_array, neighbours: int) -> sparse.csr_array:
    """Only the closest neighbours of each item; all that tie at the border stay."""
    value, indptr = similarity.data, similarity.indptr
    keep = value > 0.0
    for begin, end in pairwise(indptr):
        if end - begin > neighbours:
            row = value[begin:end]
            keep[begin:end] &= row >= np.partition(row, -neighbours)[-neighbours]
    kept_before = np.concatenate([[0], np.cumsum(keep)])
    return sparse.csr_array(
        (value[keep], similarity.indices[keep], kept_before[indptr]), shape=similarity.shape
    )


def _question(
    histories: Histories, log_item: NDArray[np.int32], n_items: int, config: ItemKNNConfig
) -> sparse.csr_array:
    """Weight of every item in every history `(B, n)`, by its latest occurrence."""
    item = log_item[histories.rows]  # (H,)
    newest_first = (histories.case * n_items + item)[::-1]
    pair, latest = np.unique(newest_first, return_index=True)
    age = histories.age[::-1][latest]
    weight = np.ones(len(age)) if config.half_life is None else 0.5 ** (age / config.half_life)
    case, item = np.divmod(pair, n_items)
    return sparse.csr_array(
        (weight.astype(np.float32), (case, item)), shape=(histories.size, n_items)
    )
