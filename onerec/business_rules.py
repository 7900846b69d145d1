"""What may stand in a list, whatever the model thinks of it: rules of the business.

Rules that are the same for everybody (a category that is off, items that are gone) take leaves out
of the trie, so the search never sees them. Rules that depend on the list or the user (seen items,
at most so many of one author) choose among what the search finds, which is asked for more and with
a wider beam until k items are there, the rules leave no more, or the beam is `WIDEST`.

Scores stay the model's own. Shapes: B users, R ranks, n items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from onerec.errors import DataError
from onerec.model.generate import Generated
from onerec.tokenizer.trie import Trie

WIDEST = 4_096  # prefixes; ours: a beam of that width of one user takes about a second on a CPU
AT_ONCE = 2**16  # prefixes of all users together that are asked for anew; ours, for memory
WIDER = 4  # times as many items are asked for when a list came out too short

Search = Callable[[Tensor, int], Generated]


@dataclass(frozen=True)
class Rules:
    """All of them together; none by default.

    `seen` False leaves out what is in the user's history. `exclude` are items by their own ids.
    `without` are values (or one) of a column of items that are off: {"category": ["music"]}; of a
    column of lists one such value is enough. `per_author` items of one author at most, 0 for no
    limit; an item without an author counts for nobody.
    """

    seen: bool = True
    exclude: Sequence[object] = ()
    without: Mapping[str, Sequence[str] | str] = field(default_factory=dict)
    per_author: int = 0

    @property
    def for_everybody(self) -> bool:
        """Whether `allowed` may leave anything out."""
        return bool(self.exclude or self.without)

    def allowed(self, items: pd.DataFrame) -> NDArray[np.bool_]:
        """(n,) bool: what is left of the catalogue for everybody.

        Raises:
            DataError: a column that the catalogue lacks, or an item that is not in it.
        """
        gone = {str(item) for item in self.exclude}
        own = items["item_id"].astype(str)
        if missing := gone - set(own):
            raise DataError(f"rule exclude: there is no item {sorted(missing)[0]!r}")
        allowed = ~own.isin(gone).to_numpy(dtype=bool)
        for name, values in self.without.items():
            off = {str(value) for value in ([values] if isinstance(values, str) else values)}
            allowed &= ~column(items, name).map(lambda cell, off=off: _has(cell, off)).to_numpy(
                dtype=bool
            )
        return allowed

    def authors(self, items: pd.DataFrame) -> Tensor | None:
        """(n,) a number for each author, -1 for none; None where there is no limit.

        Raises:
            DataError: a limit below 0, or no author_id in the catalogue.
        """
        if self.per_author < 0:
            raise DataError(f"rule per_author={self.per_author}: must be at least 1, or 0 for none")
        if not self.per_author:
            return None
        codes, _ = pd.factorize(column(items, "author_id"))
        return torch.from_numpy(codes.astype(np.int64))


def column(items: pd.DataFrame, name: str) -> pd.Series:
    """A column of the catalogue that a rule names."""
    if name not in items.columns:
        known = ", ".join(str(one) for one in items.columns if one not in ("item", "item_id"))
        raise DataError(f"rule on {name!r}: items have no such column; they have {known}")
    return items[name]


def _has(cell: object, off: set[str]) -> bool:
    if isinstance(cell, list | tuple | np.ndarray):
        return any(str(value) in off for value in cell)
    return str(cell) in off


def restricted(trie: Trie, codes: NDArray[np.int64], allowed: NDArray[np.bool_]) -> Trie | None:
    """The trie of the allowed items (n,) alone, with their own numbers; None where none is left.

    `codes` (n, L) are those of all items. The items of a leaf keep their order.
    """
    rows = torch.from_numpy(np.flatnonzero(allowed))
    if not len(rows):
        return None
    place = torch.empty(len(trie.leaf_items), dtype=torch.int64)
    place[trie.leaf_items.cpu()] = torch.arange(len(place))
    smaller = Trie(torch.from_numpy(codes)[rows], trie.sizes, -place[rows])
    smaller.leaf_items = rows[smaller.leaf_items]
    return smaller.to(trie.leaf_items.device)


def widened(
    search: Search,
    users: int,
    k: int,
    limit: int,
    authors: Tensor | None = None,
    most: int = 0,
    device: torch.device | str = "cpu",
) -> Generated:
    """The first k items of each user that the rules leave.

    Args:
        search: (rows (b,) of the users, R) -> the R best items of those users.
        users: B.
        limit: more than so many items are never asked for.
        authors, most: see `Rules`.
    """
    authors = None if authors is None else authors.to(device)
    rows, ask = torch.arange(users, device=device), k
    whole = _chosen(search(rows, ask), k, authors, most)
    while ask < limit:
        short = whole.items[:, -1] < 0
        if not short.any():
            break
        rows, ask = short.nonzero()[:, 0], min(WIDER * ask, limit)
        for some in torch.split(rows, max(1, AT_ONCE // ask)):
            again = _chosen(search(some, ask), k, authors, most)
            for name in ("items", "scores", "codes", "code_log_probs", "legal"):
                getattr(whole, name)[some] = getattr(again, name)
    return whole


def _chosen(found: Generated, k: int, authors: Tensor | None, most: int) -> Generated:
    """The first k of R ranks that exist and keep the limit per author."""
    keep = found.items >= 0  # (B, R)
    if authors is not None:
        author = authors[found.items.clamp(min=0)].where(keep, -1)
        keep = keep & ((rank_in_group(author) < most) | (author < 0))
    order = (~keep).byte().argsort(dim=1, stable=True)[:, :k]
    there = keep.gather(1, order)
    of = order[..., None].expand(-1, -1, found.codes.shape[-1])
    absent = ~there[..., None]
    return Generated(
        items=found.items.gather(1, order).masked_fill(~there, -1),
        scores=found.scores.gather(1, order).masked_fill(~there, -torch.inf),
        codes=found.codes.gather(1, of).masked_fill(absent, -1),
        code_log_probs=found.code_log_probs.gather(1, of).masked_fill(absent, -torch.inf),
        legal=there,
    )


def rank_in_group(group: Tensor) -> Tensor:
    """How many of the same number stand before each in its row: (B, R) -> (B, R)."""
    ordered, index = group.sort(dim=1, stable=True)
    rank = torch.arange(group.shape[1], device=group.device) - torch.searchsorted(ordered, ordered)
    return torch.empty_like(index).scatter_(1, index, rank)


def shortfalls(
    users: Sequence[object],
    counts: NDArray[np.int64],
    k: int,
    items: pd.DataFrame,
    rules: Rules = Rules(),
    filtered: bool = False,
) -> list[str]:
    """A line for each of a few users whose list is shorter than k, or one for all of them.

    Without `users` the lists are nobody's: histories that were typed.

    Args:
        counts: (M,) the items of each list.
        items: the catalogue.
        filtered: the recipe leaves out what is in a user's history, whatever the rules.
    """
    short = np.flatnonzero(counts < k).tolist()
    if not short:
        return []
    left = int(rules.allowed(items).sum()) if rules.for_everybody else len(items)

    def why(count: int) -> str:
        return _why(count, max(k, WIDEST), left, len(items), rules, filtered)

    if len(short) > 3:
        least = int(counts[short].min())
        return [
            f"{len(short):,} of {len(counts):,} users have fewer than {k} items "
            f"(the least: {least}): {why(least)}"
        ]
    whose = [f"user {users[row]}: " if len(users) else "" for row in short]
    return [
        f"{who}{counts[row]} of {k} items; {why(counts[row])}"
        for who, row in zip(whose, short, strict=True)
    ]


def _why(count: int, looked_at: int, left: int, n_items: int, rules: Rules, filtered: bool) -> str:
    """Why a list has `count` items: of `n_items` rules for everybody leave `left`, of which the
    search looks at `looked_at`; nobody knows the rest."""
    if not left:
        return f"the rules leave none of the catalogue's {n_items:,}: loosen one"
    said = f"the rules leave {left:,} of the catalogue's {n_items:,}"
    said = f"the catalogue has {n_items:,}" if left == n_items else said
    parts = [said if left <= looked_at else f"the search saw the {looked_at:,} most probable"]
    if count < left and (filtered or not rules.seen):
        by = "evaluate.filter_seen" if filtered else "rule seen=False"
        parts.append(f"what is in the history is left out ({by})")
    if count < left and rules.per_author:
        parts.append(f"at most {rules.per_author} may be of one author")
    if count < left <= looked_at and len(parts) == 1:
        parts.append("the search found no more")
    ruled = rules.for_everybody or rules.per_author or not (rules.seen or filtered)
    return ", ".join(parts) + (": loosen a rule for more" if ruled and count < n_items else "")
