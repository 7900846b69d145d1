"""The tree of all legal semantic ids, as tensors: which codes may follow a prefix.

Level l of the tree has one node for each distinct prefix of l codes, numbered in lexicographic
order of the prefixes; node 0 of level 0 is the empty prefix, and the nodes of level L are the
leaves. So the children of a node are consecutive, and a child's number is its place in the list of
children: no pointer is stored. Building sorts, and `legal`, `step` and `expand` gather; no Python
runs per node, per beam or per item. The trie never holds a score: it only says which continuations
exist.

Shapes: N_l codes of level l, `...` any leading shape (users, beams).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

DENSE_LIMIT = 2**24
"""A level gets a table (nodes, N_l) where it has at most this many entries (64 MiB); ours."""


class Trie(nn.Module):
    """Legal prefixes of `codes`, and the items under each leaf.

    Nothing of it enters a checkpoint (no persistent buffers): it is made again from the semantic
    ids.

    Args:
        codes: (n_items, L) semantic ids. sizes: N_l of each level; levels may differ. popularity:
            (n_items,) counts from training rows; the items of a leaf come in this order. None takes
            all as equal. seed: breaks ties of popularity by a permutation of the items.
            dense_limit: entries of the largest dense table; a larger level is searched in its
            sorted edges.

    Raises:
        ValueError: no items, a code outside its level, or shapes that do not agree.
    """

    leaf_start: Tensor
    """(n_leaves + 1,) int64: leaf i holds leaf_items[leaf_start[i] : leaf_start[i + 1]]."""
    leaf_items: Tensor
    """(n_items,) int64 item numbers, leaf after leaf, the most popular of a leaf first."""
    leaf_codes: Tensor
    """(n_leaves, L) int64: the semantic id of each leaf, in lexicographic order."""

    def __init__(
        self,
        codes: np.ndarray | Tensor,
        sizes: Sequence[int],
        popularity: np.ndarray | Tensor | None = None,
        *,
        seed: int = 0,
        dense_limit: int = DENSE_LIMIT,
    ) -> None:
        super().__init__()
        table = torch.as_tensor(codes).detach().cpu().long()  # (n_items, L)
        self.sizes = tuple(int(size) for size in sizes)
        _check(table, self.sizes, popularity)
        nodes = torch.zeros(len(table), dtype=torch.int64)  # each item's node at the current level
        self.nodes_per_level = [1]
        self._widest: list[int] = []  # most children of one node, by level
        for level, size in enumerate(self.sizes):
            edges, nodes = torch.unique(nodes * size + table[:, level], return_inverse=True)
            self._add_level(level, edges, dense_limit)
        self._add_leaves(table, nodes, popularity, seed)

    def _add_level(self, level: int, edges: Tensor, dense_limit: int) -> None:
        """Store the edges (sorted parent * N_l + code) from level to level + 1."""
        size, n_nodes = self.sizes[level], self.nodes_per_level[level]
        start = torch.searchsorted(edges, torch.arange(n_nodes + 1) * size)
        self.register_buffer(f"edge_key_{level}", edges, persistent=False)
        self.register_buffer(f"child_start_{level}", start, persistent=False)  # (n_nodes + 1,)
        self.register_buffer(f"child_code_{level}", edges % size, persistent=False)  # (n_edges,)
        dense = None
        if n_nodes * size <= dense_limit:
            dense = torch.full((n_nodes * size,), -1, dtype=torch.int32)
            dense[edges] = torch.arange(len(edges), dtype=torch.int32)
            dense = dense.view(n_nodes, size)
        self.register_buffer(f"next_{level}", dense, persistent=False)
        self._widest.append(int(start.diff().max()))
        self.nodes_per_level.append(len(edges))

    def _add_leaves(
        self, table: Tensor, leaf: Tensor, popularity: np.ndarray | Tensor | None, seed: int
    ) -> None:
        """Sort the items by leaf, then by falling popularity, then by a seeded permutation."""
        counts = torch.zeros(len(table)) if popularity is None else torch.as_tensor(popularity)
        order = torch.randperm(len(table), generator=torch.Generator().manual_seed(seed))
        order = order[torch.argsort(counts.cpu()[order], descending=True, stable=True)]
        order = order[torch.argsort(leaf[order], stable=True)]
        sizes = torch.bincount(leaf, minlength=self.n_leaves)
        start = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
        self.register_buffer("leaf_start", start, persistent=False)
        self.register_buffer("leaf_items", order, persistent=False)
        self.register_buffer("leaf_codes", table[order[start[:-1]]], persistent=False)

    @property
    def levels(self) -> int:
        """L, the number of codes of an item."""
        return len(self.sizes)

    @property
    def n_leaves(self) -> int:
        """How many distinct semantic ids there are."""
        return self.nodes_per_level[-1]

    @property
    def n_items(self) -> int:
        """How many items the leaves hold together."""
        return len(self.leaf_items)

    def _dense(self, level: int) -> Tensor | None:
        """(n_nodes, N_l) int32: the child by each code, or -1; None on a large level."""
        table: Tensor | None = getattr(self, f"next_{level}")
        return table

    def is_dense(self, level: int) -> bool:
        """True where the level is a table, false where its sorted edges are searched."""
        return self._dense(level) is not None

    def legal(self, level: int, nodes: Tensor) -> Tensor:
        """Which codes may follow: (...,) nodes of `level` -> (..., N_l) bool. Node -1 has none."""
        dense = self._dense(level)
        if dense is not None:
            return (dense[nodes.clamp(min=0)] >= 0) & (nodes >= 0).unsqueeze(-1)  # (..., N_l)
        codes, children = self.continuations(level, nodes)  # (..., C)
        codes = codes.where(children >= 0, self.sizes[level])  # padding falls into one spare column
        mask = torch.zeros(
            *nodes.shape, self.sizes[level] + 1, dtype=torch.bool, device=nodes.device
        )
        return mask.scatter_(-1, codes, True)[..., :-1]  # (..., N_l)

    def continuations(self, level: int, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """The legal codes as lists: (...,) nodes -> codes and child nodes, both (..., C) int64.

        C is the most children that any node of the level has; what is not there is -1 in both.
        """
        start: Tensor = getattr(self, f"child_start_{level}")
        code: Tensor = getattr(self, f"child_code_{level}")
        known = nodes.clamp(min=0)
        child = start[known].unsqueeze(-1) + torch.arange(self._widest[level], device=nodes.device)
        there = (child < start[known + 1].unsqueeze(-1)) & (nodes >= 0).unsqueeze(-1)
        child = child.where(there, 0)
        return code[child].where(there, -1), child.where(there, -1)

    def step(self, level: int, nodes: Tensor, codes: Tensor) -> Tensor:
        """Follow one code each: (...,) nodes of `level`, (...,) codes -> (...,) int64 nodes below.

        -1 where the continuation is illegal, the code is outside the level, or the node is -1.
        """
        size = self.sizes[level]
        possible = (nodes >= 0) & (codes >= 0) & (codes < size)
        key = (nodes * size + codes).where(possible, 0)
        dense = self._dense(level)
        if dense is not None:
            return dense.view(-1)[key].long().where(possible, -1)
        edges: Tensor = getattr(self, f"edge_key_{level}")
        child = torch.searchsorted(edges, key).clamp(max=len(edges) - 1)
        return child.where(possible & (edges[child] == key), -1)

    def leaf_of(self, codes: Tensor) -> Tensor:
        """The leaf of each semantic id: (..., L) codes -> (...,) int64, -1 where no item has it."""
        nodes = torch.zeros(codes.shape[:-1], dtype=torch.int64, device=codes.device)
        for level in range(self.levels):
            nodes = self.step(level, nodes, codes[..., level])
        return nodes

    def is_legal(self, codes: Tensor) -> Tensor:
        """True where at least one item has the semantic id: (..., L) codes -> (...,) bool."""
        return self.leaf_of(codes) >= 0

    def items_of(self, leaf: int) -> Tensor:
        """The items of one leaf, the most popular first: (leaf size,) int64."""
        return self.leaf_items[int(self.leaf_start[leaf]) : int(self.leaf_start[leaf + 1])]

    def expand(self, leaves: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The first k items of ranked leaves, each item taking one rank.

        (..., K) leaves, best first, -1 for none -> items (..., k) and the beam (..., k) that each
        item came from, both int64 and -1 where the leaves hold fewer than k items.
        """
        known = leaves.clamp(min=0)
        first = self.leaf_start[known]  # (..., K)
        sizes = (self.leaf_start[known + 1] - first).where(leaves >= 0, 0)
        end = sizes.cumsum(-1)  # ranks before end belong to this beam or an earlier one
        rank = torch.arange(k, device=leaves.device).expand(*leaves.shape[:-1], k).contiguous()
        beam = torch.searchsorted(end, rank, right=True)  # (..., k)
        there = beam < leaves.shape[-1]
        beam = beam.where(there, 0)
        offset = rank - (end - sizes).gather(-1, beam)
        items = self.leaf_items[(first.gather(-1, beam) + offset).where(there, 0)]
        return items.where(there, -1), beam.where(there, -1)


def _check(table: Tensor, sizes: tuple[int, ...], popularity: np.ndarray | Tensor | None) -> None:
    if table.ndim != 2 or len(table) == 0 or table.shape[1] == 0:
        raise ValueError(f"codes must be (items, levels) and not empty, not {tuple(table.shape)}")
    if table.shape[1] != len(sizes):
        raise ValueError(f"codes have {table.shape[1]} levels but {len(sizes)} sizes are given")
    low, high = table.amin(0), table.amax(0)
    for level, size in enumerate(sizes):
        if low[level] < 0 or high[level] >= size:
            raise ValueError(
                f"level {level + 1} has codes {int(low[level])} to {int(high[level])}, "
                f"outside 0 to {size - 1}"
            )
    if popularity is not None and len(popularity) != len(table):
        raise ValueError(f"popularity has {len(popularity)} values for {len(table)} items")
