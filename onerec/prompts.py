"""What a recommender is asked about: a user's own history, an edited one, or one typed by hand.

history = recommender.prompts.history("u7")              # all that he did
shorter = history.take([0, 2, 3])                        # in the order that is wished
longer = shorter.plus(recommender.prompts.known_items(["i9"]), recommender.prompts.typical)
recommender.recommend_for(longer, k=10)
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch

from onerec.assembly import Setting
from onerec.data.dataset import listed_ids
from onerec.data.features import item_seconds
from onerec.data.histories import (
    History,
    Typical,
    contexts_of,
    log_of,
    places,
    static_codes,
)
from onerec.data.snapshots import make_snapshots
from onerec.errors import DataError
from onerec.model.batch import Batch
from onerec.runs import Run


class Prompts:
    """Histories over a setting, for its model on `device`.

    `run` has the vectors that lifelong histories are compressed by; `added` are items that can be
    recommended and not read.
    """

    def __init__(
        self,
        setting: Setting,
        device: torch.device,
        run: Run | None = None,
        added: pd.DataFrame | None = None,
    ) -> None:
        self.setting, self.device, self.run = setting, device, run
        self.added = set() if added is None else set(added["item_id"].astype(str))

    @cached_property
    def typical(self) -> Typical:
        """What an event does that was typed by hand."""
        return Typical.of(self.setting.split.log, self.setting.features)

    def history(self, user: object) -> History:
        """All that a user did.

        Raises:
            DataError: an id that the dataset does not hold.
        """
        (index,) = self.setting.dataset.user_index([user])
        return self.before(int(index), int(self.setting.split.log.offsets[index + 1]))

    def before(self, user: int, end: int) -> History:
        """What user number `user` did before row `end` of the log."""
        return History.of_user(self.setting.split.log, self.setting.features, user, end)

    def typed(
        self,
        items: Sequence[object],
        *,
        user: object | None = None,
        features: Mapping[str, Any] | None = None,
    ) -> History:
        """A history of items by their own ids, oldest first; none is a user who is new.

        Args:
            user: somebody whose static features are taken, but for those that are given.
            features: static features by name; see `static_codes` for those of nobody.

        Raises:
            DataError: an item, user or feature that the dataset does not hold.
        """
        dataset, known = self.setting.dataset, self.setting.features.user
        codes = static_codes(dataset, known, features or {})
        if user is not None:
            own, given = known.codes[dataset.user_index([user])[0]], features or {}
            codes = np.where([name in given for name in known.names], codes, own)
        return History.typed(self.known_items(items), self.typical, codes)

    def known_items(self, items: Sequence[object]) -> list[int]:
        """Indices of items, by their own ids, that the model can read.

        Raises:
            DataError: an item that the dataset does not hold, or one that was added later.
        """
        wanted = listed_ids(items, "item")
        for item in wanted:
            if str(item) in self.added:
                raise DataError(
                    f"item {item!r} was added after training: it can be recommended, but the model "
                    "has not learned to read it; leave it out of the history or train again"
                )
        return [int(index) for index in self.setting.dataset.item_index(wanted)]

    def batch(self, histories: Sequence[History]) -> Batch:
        """What the model reads of histories, as `Contexts.batch` of logged ones."""
        setting, wanted = self.setting, self.setting.recipe.history
        log, features, snapshots = setting.split.log, setting.features, None
        if wanted.lifelong_length:
            vectors = None if self.run is None else self.run.vectors()
            if vectors is None:
                raise DataError("lifelong histories need the tokenizer's vectors of a run on disk")
            made, own = log_of(histories, log, features)
            snapshots = make_snapshots(
                made,
                own.item,
                own.event,
                item_seconds(setting.dataset),
                torch.from_numpy(vectors).to(self.device),
                slice(0, len(histories)),
                limit=wanted.lifelong_limit,
                length=wanted.lifelong_length,
                by=wanted.lifelong_by,
            )
        contexts, made = contexts_of(
            histories,
            log,
            features,
            short_length=wanted.short_length,
            positive_length=wanted.positive_length,
            snapshots=snapshots,
            device=self.device,
        )
        user = torch.arange(len(histories))
        return contexts.batch(user, torch.from_numpy(made.offsets)[user + 1])

    def places(self, history: History) -> tuple[torch.Tensor, torch.Tensor]:
        """Which event stands where in the short and the positive pathway, -1 for padding."""
        wanted, positive = self.setting.recipe.history, self.setting.split.log.positive
        lengths = wanted.short_length, wanted.positive_length
        short, long = places(history, positive[history.row], *lengths)
        return torch.from_numpy(short), torch.from_numpy(long)

    def unread(self, history: History) -> list[str]:
        """Says how many events of a history the model does not read; nothing where it reads all.

        Lifelong histories are read whole, in clusters.
        """
        wanted = self.setting.recipe.history
        if wanted.lifelong_length:
            return []
        read = np.unique(np.concatenate([place.numpy() for place in self.places(history)]))
        unread = len(history) - int((read >= 0).sum())
        if not unread:
            return []
        return [
            f"{unread:,} of {len(history):,} events are older than what this model reads: its "
            f"newest {wanted.short_length} and {wanted.positive_length} positive ones"
        ]
