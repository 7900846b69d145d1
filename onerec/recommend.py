"""From a finished run to recommendations.

    recommender = Recommender.load(run)
    recommender.recommend(users, k)                          # from all that they did
    recommender.recommend_for(["i3", "i7"], k)               # from a history typed by hand
    recommender.recommend_for([], k, features={"city": "north"}, rules=Rules(per_author=1))
    recommender.sample_for(["i3", "i7"], 20, power=4.0, seed=0)
    recommender.with_items(items)                            # new items, without training

It is what evaluation, the command line, the app and notebooks call; there is no second way to make
a list. Frames carry in `attrs["notes"]` a line for each thing that could not be done as asked.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from onerec.assembly import (
    Setting,
    load_semantic_ids,
    make_trie,
    refuse_ids,
    setting_of,
    trained_model,
    trained_quantiser,
    with_new_items,
)
from onerec.business_rules import WIDEST, Rules, restricted, shortfalls, widened
from onerec.common import autocast, evaluating, generator, pick_device, spread
from onerec.data.batches import Contexts, case_batches
from onerec.data.histories import History
from onerec.data.split import Cases
from onerec.errors import DataError
from onerec.lifelong import with_lifelong
from onerec.lists import Lists, at_least_one, nothing_for, stacked
from onerec.model.batch import Batch
from onerec.model.diverse import diverse_beam_search
from onerec.model.generate import Generated, beam_search
from onerec.model.onerec import OneRec
from onerec.model.power import drawn
from onerec.new_items import new_item_vectors
from onerec.prompts import Prompts
from onerec.runs import Run, open_run
from onerec.tokenizer.quantiser import Quantiser
from onerec.tokenizer.semantic_ids import SemanticIds
from onerec.tokenizer.trie import Trie

BATCH = 256  # users generated for at once; lists do not depend on it

Asked = History | Sequence[object]  # a history, or the ids of its items, oldest first
Search = Callable[..., Generated]


class Recommender:
    """A trained model with all that it needs to answer for a user of its dataset.

    A caller that has the setting's `contexts` on the device hands them over; they are large.
    `search` makes lists, as `beam_search` does. Row i of `items` is item i.
    """

    def __init__(
        self,
        setting: Setting,
        ids: SemanticIds,
        popularity: NDArray[np.int64],
        model: OneRec,
        device: torch.device,
        contexts: Contexts | None = None,
        run: Run | None = None,
    ) -> None:
        missing = setting.recipe.history.lifelong_length and setting.snapshots is None
        assert not missing, "the model reads lifelong histories: see onerec.lifelong.with_lifelong"
        self.setting, self.ids, self.device, self.run = setting, ids, device, run
        self.popularity, self.model = popularity, model.to(device)
        self.trie: Trie = make_trie(ids, popularity).to(device)
        self.contexts = setting.contexts(device) if contexts is None else contexts
        self.added: pd.DataFrame | None = None  # items that the model was not trained with
        self.search: Search = beam_search

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
        return cls(with_lifelong(setting, run, chosen), ids, popularity, model, chosen, run=run)

    @property
    def items(self) -> pd.DataFrame:
        """The catalogue with the items that were added."""
        known = self.setting.dataset.items
        return known if self.added is None else pd.concat([known, self.added], ignore_index=True)

    @cached_property
    def prompts(self) -> Prompts:
        """Histories that stand in no log, and what the model reads of them."""
        return Prompts(self.setting, self.device, self.run, self.added)

    # ---------------------------------------------------------------------- lists

    def recommend(
        self,
        users: Sequence[object],
        k: int = 10,
        *,
        rules: Rules | None = None,
        workers: int = 1,
    ) -> pd.DataFrame:
        """Lists for users by their own ids, from everything they have done.

        Returns:
            A frame [user_id, rank, item_id, item, score, lp_1..lp_L], best first for each user.

        Raises:
            DataError: an id that the dataset does not hold, or a rule that makes no sense.
        """
        at_least_one(k=k, workers=workers)
        index = self.setting.dataset.user_index(users)
        none = np.zeros(len(index) + 1, dtype=np.int64)
        cases = Cases(index, self.setting.split.log.offsets[index + 1], none, none[:0])
        most, rules = min(k, self.trie.n_items), rules or Rules()
        lists = self.lists(cases, most, rules=rules, workers=workers)
        return self.frame(users, lists, k, rules)

    def recommend_for(
        self,
        history: Asked,
        k: int = 10,
        *,
        user: object | None = None,
        features: Mapping[str, Any] | None = None,
        rules: Rules | None = None,
        beam: int | None = None,
        groups: int = 1,
        penalty: float = 1.0,
    ) -> pd.DataFrame:
        """A list for a history typed by hand, or edited; columns as `recommend` without user_id.

        Args:
            history: ids of items, oldest first, or a `History`. None at all: a user who is new.
            user, features: whose static features; see `typed`.
            beam: the recipe's unless given, and at least k.
            groups, penalty: of diverse beams; one group is plain beam search, penalty at least 0.

        Raises:
            DataError: an item or feature that the dataset does not hold, or a rule without sense.
        """
        at_least_one(k=k)
        one, most = self._history(history, user, features), min(k, self.trie.n_items)
        lists = self.lists_for([one], most, rules=rules, beam=beam, groups=groups, penalty=penalty)
        frame = self.frame([], lists, k, rules).drop(columns="user_id")
        frame.attrs["notes"] = [*self.prompts.unread(one), *frame.attrs["notes"]]
        return frame

    def sample_for(
        self,
        history: Asked,
        n: int = 10,
        *,
        user: object | None = None,
        features: Mapping[str, Any] | None = None,
        rules: Rules | None = None,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        power: float | None = None,
        beam: int | None = None,
        seed: int = 0,
    ) -> pd.DataFrame:
        """`n` items drawn for a history, with replacement; none of it where a list has none of it.

        With `power` items are drawn from p^power, exactly where `beam` is None; temperature, top_k
        and top_p act code by code and belong to the other way of drawing.

        Returns:
            A frame [draw, item_id, item, score, drawn]: the model's log-probability, and that with
            which the item was drawn. `attrs["lost"]` bounds what p^power a beam has missed.

        Raises:
            DataError: as `recommend_for`, or settings that cannot be drawn with.
        """
        at_least_one(n=n, beam=1 if beam is None else beam)
        one, rules = self._history(history, user, features), rules or Rules()
        if rules.per_author:
            raise DataError("rule per_author is for lists: draws do not know of one another")
        trie = self._left(rules, one.item if self._hides(rules) else None)
        with autocast(self.device):
            found, lost = drawn(
                self.model,
                self.prompts.batch([one]),
                trie,
                group=n,
                generator=generator(seed, self.device),
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                power=power,
                beam=beam,
            )
        items = found.items[0].cpu().numpy()
        columns: dict[str, object] = {"draw": np.arange(1, len(items) + 1)}
        columns |= {"item_id": self.items["item_id"].to_numpy()[items], "item": items}
        columns |= {"score": found.model[0].cpu().numpy(), "drawn": found.drawn[0].cpu().numpy()}
        frame = pd.DataFrame(columns)
        notes = self._shortfalls([], np.array([len(frame)]), n, rules)
        frame.attrs |= {"lost": lost, "notes": [*self.prompts.unread(one), *notes]}
        return frame

    def with_items(
        self, items: pd.DataFrame, vectors: Any = None, quantiser: Quantiser | None = None
    ) -> "Recommender":
        """A recommender that may also recommend new items; nothing is trained.

        The saved quantiser gives them codes, and they join the trie: as new leaves, or behind the
        items that have such a code already, since nobody has taken them yet. The model was never
        shown them, so they come up as far as their codes are likely, and no history may hold them.

        Args:
            items: a row each with `item_id`, and of other columns of the catalogue what is known.
            vectors: (m, d) float32 content, as `run.vectors()`; None makes it of the texts.
            quantiser: None takes that of the run.

        Raises:
            DataError, RunError: see `assembly.with_new_items` and `new_items.new_item_vectors`.
        """
        refuse_ids(self.items["item_id"], items)
        if (quantiser is None or vectors is None) and self.run is None:
            raise DataError("new items need the quantiser of a run on disk, or one given")
        if vectors is None:
            vectors = new_item_vectors(self.setting, cast(Run, self.run), items)
        quantiser = quantiser or trained_quantiser(cast(Run, self.run))
        same = copy.copy(self)
        vars(same).pop("prompts", None)  # they know which items were added
        same.ids = with_new_items(self.ids, self.items["item_id"], items, vectors, quantiser)
        nobody = np.zeros(len(items), dtype=np.int64)
        same.popularity = np.concatenate([self.popularity, nobody])
        same.trie = make_trie(same.ids, same.popularity).to(self.device)
        first = len(self.ids.codes)
        numbered = items.assign(item=np.arange(first, first + len(items)))
        same.added = numbered if self.added is None else pd.concat([self.added, numbered])
        return same

    def frame(
        self, users: Sequence[object], lists: Lists, k: int, rules: Rules | None = None
    ) -> pd.DataFrame:
        """Lists of users as rows; `attrs["notes"]` says whose are shorter than k."""
        frame = lists.frame(users, self.items["item_id"].to_numpy())
        frame.attrs["notes"] = self._shortfalls(users, (lists.items >= 0).sum(1), k, rules)
        return frame

    def lists(
        self,
        cases: Cases,
        k: int,
        *,
        constrained: bool = True,
        beam: int | None = None,
        rules: Rules | None = None,
        workers: int = 1,
    ) -> Lists:
        """Lists for evaluation cases; `constrained=False` generates without the trie.

        `beam` is the recipe's unless given, and at least k. `workers` threads share the batches on
        a CPU; the lists do not depend on their number.
        """
        trie, hidden = self._left(rules or Rules()), self._hides(rules or Rules())

        def generate(part: tuple[slice, torch.Tensor, torch.Tensor]) -> Generated:
            _, user, end = part
            seen, batch = self.seen(user, end) if hidden else None, self.contexts.batch(user, end)
            if rules is not None:
                return self._by_rules(batch, k, trie, seen, rules, beam)
            return self._search(batch, k, self.trie, seen, beam, constrained=constrained)

        with evaluating(self.model):
            parts = spread(generate, case_batches(self.contexts, cases, BATCH), workers)
        return stacked(parts, k, len(self.ids.sizes))

    def lists_for(
        self,
        histories: Sequence[History],
        k: int,
        *,
        rules: Rules | None = None,
        beam: int | None = None,
        groups: int = 1,
        penalty: float = 1.0,
    ) -> Lists:
        """Lists for histories that need not be anybody's; see `recommend_for`."""
        at_least_one(k=k, groups=groups, beam=1 if beam is None else beam)
        if not 0 <= penalty < math.inf:
            raise DataError(f"penalty={penalty}: must be at least 0 and finite")
        rules, seen = rules or Rules(), None
        trie = self._left(rules)
        if not histories:
            return stacked([], k, len(self.ids.sizes))
        if self._hides(rules) and any(map(len, histories)):
            each = [torch.from_numpy(np.unique(one.item) + 1) for one in histories]
            seen = torch.nn.utils.rnn.pad_sequence(each, batch_first=True).to(self.device)
        batch, diverse = self.prompts.batch(histories), (groups, penalty)
        found = self._by_rules(batch, k, trie, seen, rules, beam, diverse)
        return stacked([found], k, len(self.ids.sizes))

    def _history(
        self, asked: Asked, user: object | None, features: Mapping[str, Any] | None
    ) -> History:
        if isinstance(asked, History):
            return asked
        return self.prompts.typed(asked, user=user, features=features)

    def _hides(self, rules: Rules) -> bool:
        """Whether what is in a history stays out of what is made for it."""
        return self.setting.recipe.evaluate.filter_seen or not rules.seen

    def _left(self, rules: Rules, seen: NDArray[np.int64] | None = None) -> Trie | None:
        """The trie that rules for everybody leave, without items `seen`; None for an empty one."""
        if not rules.for_everybody and (seen is None or not len(seen)):
            return self.trie
        allowed = rules.allowed(self.items)
        if seen is not None:
            allowed[seen] = False
        return restricted(self.trie, self.ids.codes, allowed)

    def _shortfalls(
        self, users: Sequence[object], counts: NDArray[np.int64], k: int, rules: Rules | None
    ) -> list[str]:
        filtered = self.setting.recipe.evaluate.filter_seen
        return shortfalls(users, counts, k, self.items, rules or Rules(), filtered)

    def _by_rules(
        self,
        batch: Batch,
        k: int,
        trie: Trie | None,
        seen: torch.Tensor | None,
        rules: Rules,
        beam: int | None = None,
        diverse: tuple[int, float] = (1, 0.0),
    ) -> Generated:
        """The first k items that rules leave, by a search that widens until they are there."""
        if trie is None:
            return nothing_for(batch.size, k, len(self.ids.sizes), self.device)
        authors = rules.authors(self.items)
        groups = diverse[0]  # which may all be at the same items: then one search is not enough
        given = self.setting.recipe.evaluate.beam if beam is None else beam
        plain = groups == 1 and seen is None and authors is None and trie is self.trie
        limit = k if plain else max(k + (groups > 1), min(trie.n_items, WIDEST))

        def search(rows: torch.Tensor, count: int) -> Generated:
            part = batch if len(rows) == batch.size else batch.mapped(lambda table: table[rows])
            left_out = None if seen is None else seen[rows]
            wide = beam if count == k else max(given, count * groups)
            return self._search(part, count, trie, left_out, wide, diverse)

        most = rules.per_author
        return widened(search, batch.size, k, limit, authors, most, self.device)

    def _search(
        self,
        batch: Batch,
        k: int,
        trie: Trie,
        seen: torch.Tensor | None,
        beam: int | None,
        diverse: tuple[int, float] = (1, 0.0),
        *,
        constrained: bool = True,
    ) -> Generated:
        wide = max(k, self.setting.recipe.evaluate.beam if beam is None else beam)
        asked = self.model, batch, trie
        how: dict[str, Any] = {"k": k, "beam": wide, "exclude": seen}
        with autocast(self.device):
            if diverse[0] > 1:
                return diverse_beam_search(*asked, groups=diverse[0], penalty=diverse[1], **how)
            return self.search(*asked, constrained=constrained, **how)

    def seen(self, user: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
        """Items (as item + 1) of each user's history, padded with 0: (B, X)."""
        log = self.setting.split.log
        begin, stop = log.offsets[user.numpy()], end.numpy()
        width = int((stop - begin).max(initial=1))
        rows = begin[:, None] + np.arange(width)
        inside = rows < stop[:, None]
        seen = log.item[np.minimum(rows, len(log.item) - 1)].astype(np.int64) + 1
        return torch.from_numpy(np.where(inside, seen, 0)).to(self.device)
