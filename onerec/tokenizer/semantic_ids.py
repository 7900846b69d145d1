"""Semantic ids: an item's tuple of codes, and what is done when items get the same one.

The paper (OneRec technical report, arXiv 2506.13695, §2.1) does not say what happens to items with
equal codes. Here it is a named policy, and what it met and changed is counted:

- `share`: items keep their codes and share a leaf of the trie; the leaf lists them by popularity.
- `extra_level`: one more code tells them apart, 0 where an id is unique (TIGER, arXiv 2305.05065,
  §3.1).
- `nearest_free`: of the items on one id all but one take the nearest code that is free at the last
  level; who finds none shares (`nearest_free`).
- `none`: no two items may share; a collision is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from onerec.errors import DataError, RecipeError
from onerec.tokenizer.nearest_free import LastLevel, nearest_free

POLICIES = ("share", "extra_level", "nearest_free", "none")


@dataclass(frozen=True)
class SemanticIds:
    """The semantic id of every item.

    `report` counts, before the policy: `items`, `distinct` ids, `items_sharing` an id with another
    item, `share_sharing` of all items, `largest_leaf`; and after it: `items_touched` (their codes
    changed), `share_touched` of all items, `leaves` (distinct ids of the result) and `items_left`
    (they still share an id with another item).
    """

    codes: np.ndarray  # (n_items, L) int64
    sizes: tuple[int, ...]  # N of each level
    policy: str
    report: dict[str, Any]

    @property
    def levels(self) -> int:
        """L, the number of codes of an item."""
        return len(self.sizes)

    def leaf_size(self) -> np.ndarray:
        """(n_items,) int64: how many items have this item's id, itself included."""
        group = group_rows(self.codes, self.sizes)
        sizes: np.ndarray = np.bincount(group)[group]
        return sizes


def make_semantic_ids(
    codes: np.ndarray | Tensor,
    sizes: Sequence[int],
    policy: str = "share",
    last: LastLevel | None = None,
) -> SemanticIds:
    """Turn the quantiser's codes (n_items, L) into ids under a collision policy.

    Under `extra_level` the items of an id are told apart in the order of their item numbers, and
    the level is as large as the largest leaf. `nearest_free` needs `last`.

    Raises:
        RecipeError: an unknown policy.
        DataError: policy `none` and two items with one id.
        ValueError: a code outside its level, shapes that do not agree, or `nearest_free` without
            `last`.
    """
    if policy not in POLICIES:
        raise RecipeError(
            f"collision policy {policy!r} is unknown; choose one of {', '.join(POLICIES)}"
        )
    table = codes.detach().cpu().numpy() if isinstance(codes, Tensor) else np.asarray(codes)
    table = np.ascontiguousarray(table, dtype=np.int64)
    levels = tuple(int(size) for size in sizes)
    group = group_rows(table, levels)  # (n_items,)
    counts = np.bincount(group)
    report = _before(policy, group, counts)
    if policy == "none" and report["items_sharing"]:
        sharing = counts[group] > 1
        pair = " and ".join(map(str, np.flatnonzero(group == group[sharing.argmax()])[:2]))
        raise DataError(
            f"{report['items_sharing']} of {len(table)} items share a semantic id, such as items "
            f"{pair}, and collision policy 'none' forbids it; use 'share', 'extra_level' or "
            "'nearest_free', or a larger codebook"
        )
    if policy == "extra_level":
        extra = _rank_in_group(group, counts)
        table = np.column_stack([table, extra])
        levels = (*levels, int(counts.max()))
        report |= _after(table, levels, int((extra > 0).sum()))
    if policy == "nearest_free":
        if last is None or (len(last.residual), len(last.entries)) != (len(table), levels[-1]):
            raise ValueError("policy 'nearest_free' needs the items' residuals at the last level")
        prefix = np.zeros(len(table), dtype=np.int64)
        if len(levels) > 1:
            prefix = group_rows(table[:, :-1], levels[:-1])
        moved = nearest_free(table[:, -1], prefix, last)
        touched = int((moved != table[:, -1]).sum())
        table = np.column_stack([table[:, :-1], moved])
        report |= _after(table, levels, touched)
    return SemanticIds(table, levels, policy, report)


def with_codes(ids: SemanticIds, codes: Tensor | np.ndarray) -> SemanticIds:
    """The ids with those of new items behind them; nobody who has an id gets another one.

    codes (m, L) come from the quantiser. Under `share` and `nearest_free` a new item may share an
    id. Under `extra_level` it takes the first number that is free behind its codes.

    Raises:
        DataError: under `none` an id that is taken; under `extra_level` more items on an id than
            the last level has codes. The tokenizer has to be fitted again.
        ValueError: a code outside its level, or another number of levels.
    """
    new = codes.detach().cpu().numpy() if isinstance(codes, Tensor) else np.asarray(codes)
    new, table = np.ascontiguousarray(new, dtype=np.int64), ids.codes
    again = "fit the tokenizer again (`onerec tokenize`) on all items"
    if ids.policy == "extra_level":
        both = np.concatenate([table[:, :-1], new])
        group = group_rows(both, ids.sizes[:-1])
        rank = _rank_in_group(group, np.bincount(group))[len(table) :]
        if rank.size and rank.max() >= ids.sizes[-1]:
            raise DataError(
                f"{int(rank.max()) + 1} items on one semantic id, and its last level has "
                f"{ids.sizes[-1]} codes; {again}"
            )
        new = np.column_stack([new, rank])
    both = np.concatenate([table, new])
    group = group_rows(both, ids.sizes)
    if ids.policy == "none" and len(np.unique(group)) < len(group):
        raise DataError(
            f"a new item has a semantic id that is taken, and policy 'none' forbids it; {again}"
        )
    return SemanticIds(both, ids.sizes, ids.policy, ids.report)


def _before(policy: str, group: np.ndarray, counts: np.ndarray) -> dict[str, Any]:
    """What the report says of the quantiser's codes, and after it of a policy that keeps them."""
    sharing = counts[group] > 1
    return {
        "policy": policy,
        "items": len(group),
        "distinct": len(counts),
        "items_sharing": int(sharing.sum()),
        "share_sharing": float(sharing.mean()),
        "largest_leaf": int(counts.max()),
        "items_touched": 0,
        "share_touched": 0.0,
        "leaves": len(counts),
        "items_left": int(sharing.sum()),
    }


def _after(table: np.ndarray, sizes: Sequence[int], touched: int) -> dict[str, Any]:
    """What the report says of the ids that a policy made."""
    counts = np.bincount(group_rows(table, sizes))
    return {
        "items_touched": touched,
        "share_touched": touched / len(table),
        "leaves": len(counts),
        "items_left": int(counts[counts > 1].sum()),
    }


def group_rows(codes: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """Number the distinct rows of (n, L) codes in lexicographic order -> (n,) int64.

    Raises:
        ValueError: a code outside its level, no rows, or another number of levels than sizes.
    """
    if codes.ndim != 2 or len(codes) == 0 or codes.shape[1] != len(sizes):
        raise ValueError(f"codes have shape {codes.shape}; expected (items, {len(sizes)})")
    group = np.zeros(len(codes), dtype=np.int64)
    for level, size in enumerate(sizes):
        column = codes[:, level]
        if column.min() < 0 or column.max() >= size:
            raise ValueError(f"level {level + 1} has a code outside 0 to {size - 1}")
        group = np.unique(group * size + column, return_inverse=True)[1]  # never overflows
    return group


def _rank_in_group(group: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(n,) int64: 0 for the first row of each group, 1 for the second, and so on."""
    order = np.argsort(group, kind="stable")
    rank = np.empty(len(group), dtype=np.int64)
    rank[order] = np.arange(len(group)) - np.repeat(np.cumsum(counts) - counts, counts)
    return rank


def code_text(codes: Sequence[int]) -> str:
    """An id for people: (3, 17, 5) -> '3-17-5'."""
    return "-".join(str(int(code)) for code in codes)
