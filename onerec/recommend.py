"""From a finished run to recommendations.

`Recommender.load(run).recommend(users, k)` is what evaluation, the command line, the app and
notebooks call; there is no second way to make a list.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from onerec.assembly import (
    Setting,
    load_semantic_ids,
    make_trie,
    setting_of,
    trained_model,
)
from onerec.common import autocast, evaluating, pick_device, spread
from onerec.data.batches import case_batches
from onerec.data.split import Cases
from onerec.errors import DataError
from onerec.lifelong import with_lifelong
from onerec.model.generate import Generated, beam_search
from onerec.model.onerec import OneRec
from onerec.runs import Run, open_run
from onerec.tokenizer.semantic_ids import SemanticIds
from onerec.tokenizer.trie import Trie

BATCH = 256  # users generated for at once; lists do not depend on it


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


class Recommender:
    """A trained model with all that it needs to answer for a user of its dataset."""

    def __init__(
        self,
        setting: Setting,
        ids: SemanticIds,
        popularity: NDArray[np.int64],
        model: OneRec,
        device: torch.device,
    ) -> None:
        missing = setting.recipe.history.lifelong_length and setting.snapshots is None
        assert not missing, "the model reads lifelong histories: see onerec.lifelong.with_lifelong"
        self.setting, self.ids, self.device = setting, ids, device
        self.popularity = popularity
        self.trie: Trie = make_trie(ids, popularity).to(device)
        self.model = model.to(device)
        self.contexts = setting.contexts(device)

    @classmethod
    def load(
        cls, run: Run | str | Path, home: Path | None = None, device: str = "auto"
    ) -> "Recommender":
        """The recommender of a run.

        Raises:
            RunError: the run is missing, not trained, damaged, or its dataset has changed.
        """
        run = run if isinstance(run, Run) else open_run(run, home)
        setting = setting_of(run, home)
        ids, popularity = load_semantic_ids(run)
        model, chosen = trained_model(run, setting, ids), pick_device(device)
        return cls(with_lifelong(setting, run, chosen), ids, popularity, model, chosen)

    def recommend(self, users: Sequence[object], k: int = 10) -> pd.DataFrame:
        """Lists for users by their own ids, from everything they have done.

        Returns:
            A frame [user_id, rank, item_id, item, score, lp_1..lp_L], best first for each user.

        Raises:
            DataError: an id that the dataset does not hold.
        """
        if k < 1:
            raise DataError(f"k={k}: ask for at least one item")
        index = self.setting.dataset.user_index(users)
        offsets = self.setting.split.log.offsets
        none = np.zeros(len(index) + 1, dtype=np.int64)
        cases = Cases(index, offsets[index + 1], none, none[:0])
        lists = self.lists(cases, k)
        item_ids = self.setting.dataset.items["item_id"].to_numpy()
        row, place = np.nonzero(lists.items >= 0)
        items = lists.items[row, place]
        columns: dict[str, object] = {
            "user_id": np.asarray(users, dtype=object)[row],
            "rank": place + 1,
            "item_id": item_ids[items],
            "item": items,
            "score": lists.scores[row, place],
        }
        for level in range(lists.code_log_probs.shape[2]):
            columns[f"lp_{level + 1}"] = lists.code_log_probs[row, place, level]
        return pd.DataFrame(columns)

    def lists(
        self,
        cases: Cases,
        k: int,
        *,
        constrained: bool = True,
        beam: int | None = None,
        workers: int = 1,
    ) -> Lists:
        """Lists for evaluation cases; `constrained=False` generates without the trie.

        `beam` is the recipe's unless given, and at least k. `workers` threads share the batches on
        a CPU; the lists do not depend on their number.
        """
        evaluate = self.setting.recipe.evaluate

        def generate(part: tuple[slice, torch.Tensor, torch.Tensor]) -> Generated:
            _, user, end = part
            with autocast(self.device):
                return beam_search(
                    self.model,
                    self.contexts.batch(user, end),
                    self.trie,
                    k=k,
                    beam=max(k, evaluate.beam if beam is None else beam),
                    constrained=constrained,
                    exclude=self.seen(user, end) if evaluate.filter_seen else None,
                )

        with evaluating(self.model):
            parts = spread(generate, case_batches(self.contexts, cases, BATCH), workers)
        return _stack(parts, k, len(self.ids.sizes))

    def seen(self, user: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
        """Items (as item + 1) of each user's history, padded with 0: (B, X)."""
        log = self.setting.split.log
        begin, stop = log.offsets[user.numpy()], end.numpy()
        width = int((stop - begin).max(initial=1))
        rows = begin[:, None] + np.arange(width)
        inside = rows < stop[:, None]
        seen = log.item[np.minimum(rows, len(log.item) - 1)].astype(np.int64) + 1
        return torch.from_numpy(np.where(inside, seen, 0)).to(self.device)


def _stack(parts: list[Generated], k: int, levels: int) -> Lists:
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
