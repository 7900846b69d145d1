"""What codes are worth beyond reconstruction: do items that share a prefix belong together?

    levels = code_quality(codes, category, neighbour_pairs, consumed_pairs)

The items that share their first l codes are a group. Per level: purity and mutual information with
the items' categories, and the share of pairs of items that lie in one group: of items near each
other in content, and of items that the same people consume. Each number stands beside what chance
gives for groups and categories, or ends of pairs, of the same sizes; finer groups are purer and
split more pairs by chance alone. All of this is ours; the papers print reconstruction and use.

Shapes: n items, L levels, P pairs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onerec.tokenizer.distances import chunk_rows

Ints = NDArray[np.int64]

DRAWS = 5  # shuffles of the categories that stand for chance


def prefix_groups(codes: Ints) -> list[Ints]:
    """The group of each item by its first l codes, for l = 1 to L: codes (n, L) -> L of (n,)."""
    group = np.zeros(len(codes), dtype=np.int64)
    groups = []
    for column in codes.T:
        joined = np.stack([group, column.astype(np.int64)], axis=1)
        group = np.unique(joined, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
        groups.append(group)
    return groups


def contingency(first: Ints, second: Ints) -> tuple[Ints, Ints, Ints]:
    """Cells of the table of two groupings (n,) that hold items: row, column and count."""
    columns = int(second.max(initial=0)) + 1
    cell, count = np.unique(first * columns + second, return_counts=True)
    return cell // columns, cell % columns, count.astype(np.int64)


def purity(group: Ints, category: Ints) -> float:
    """The share of items whose category is the commonest of their group."""
    row, _, count = contingency(group, category)
    best = np.zeros(int(row.max(initial=-1)) + 1, dtype=np.int64)
    np.maximum.at(best, row, count)
    return float(best.sum() / max(1, len(group)))


def information_nats(group: Ints, category: Ints) -> float:
    """Mutual information of two groupings (n,), in nats, by their frequencies."""
    row, column, count = contingency(group, category)
    n = len(group)
    rows, columns = np.bincount(group), np.bincount(category)
    share = count / n
    return float((share * np.log(count * n / (rows[row] * columns[column].astype(float)))).sum())


def adjusted_rand(first: Ints, second: Ints) -> float:
    """How far two groupings of the same items agree (Hubert and Arabie 1985): 1 equal, 0 chance."""
    _, _, count = contingency(first, second)

    def pairs(sizes: Ints) -> float:
        return float((sizes * (sizes - 1.0) / 2).sum())

    together = pairs(count)
    rows, columns = pairs(np.bincount(first)), pairs(np.bincount(second))
    every = len(first) * (len(first) - 1) / 2
    expected = rows * columns / every if every else 0.0
    most = (rows + columns) / 2
    return 1.0 if most == expected else (together - expected) / (most - expected)


def pairs_kept(group: Ints, pairs: Ints) -> tuple[float, float]:
    """The share of pairs (P, 2) whose items lie in one group, and what chance gives.

    Chance pairs each first item with the second of any pair, so popular items stay popular.
    """
    first, second = group[pairs[:, 0]], group[pairs[:, 1]]
    size = int(group.max(initial=0)) + 1
    share = np.bincount(first, minlength=size) @ np.bincount(second, minlength=size)
    return float((first == second).mean()), float(share) / len(pairs) ** 2


def nearest_pairs(x: Tensor, k: int, queries: int, generator: torch.Generator) -> Ints:
    """Pairs (P, 2) of random items of x (n, d) and their k nearest others."""
    n = len(x)
    asked = torch.randperm(n, generator=generator)[: min(queries, n)].to(x.device)
    lengths, found = x.float().square().sum(1), []
    for own in torch.split(asked, chunk_rows(x, n)):
        far = lengths - 2 * x[own].float() @ x.float().T  # (q, n)
        far[torch.arange(len(own), device=x.device), own] = torch.inf
        found.append(far.topk(min(k, n - 1), largest=False).indices)
    near = torch.cat(found)  # (Q, k)
    pairs = torch.stack([asked[:, None].expand_as(near), near], dim=2).flatten(0, 1)
    return pairs.cpu().numpy().astype(np.int64)


def code_quality(
    codes: Ints,
    category: Ints | None = None,
    neighbours: Ints | None = None,
    consumed: Ints | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """A row per level; what is not given is left out.

    Args:
        codes: (n, L).
        category: (n,) from 0.
        neighbours, consumed: (P, 2) pairs of items near in content, and consumed together.

    Returns:
        Per level `groups`, `purity` and `information_nats`, `neighbours` and `consumed` (shares of
        pairs), each with its `..._chance`.
    """
    rng = np.random.default_rng(seed)
    shuffled = [] if category is None else [rng.permutation(category) for _ in range(DRAWS)]
    rows = []
    for level, group in enumerate(prefix_groups(codes), start=1):
        row: dict[str, Any] = {"level": level, "groups": int(group.max(initial=-1)) + 1}
        if category is not None:
            for name, measure in (("purity", purity), ("information_nats", information_nats)):
                row[name] = measure(group, category)
                row[f"{name}_chance"] = float(np.mean([measure(group, one) for one in shuffled]))
        for name, pairs in (("neighbours", neighbours), ("consumed", consumed)):
            if pairs is not None and len(pairs):
                row[name], row[f"{name}_chance"] = pairs_kept(group, pairs)
        rows.append(row)
    return rows
