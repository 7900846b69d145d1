"""What the encoder reads: user features and events, turned into one sequence of states.

Four pathways (V1 section 2.2): a static one of length 1, the most recent events of any kind, the
positive events over a longer time, and the whole history in clusters, which a QFormer reads. Each
ends in Dense(LeakyReLU(Dense(.))), the last before its QFormer; the sequence is
[h_u; h_s; h_p; h_l] + e_pos.

An event is its item (video embedding, semantic codes or both), the item's content vector, author,
tag, time gap, play time, duration and the multi-hot label of what the user did. A feature that a
dataset lacks has cardinality 0 and then neither parameters nor cost.

Shapes: B batch, T events, S encoder states, D width, L levels, N codes per level, F static
features, K behaviours, n items.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onerec.model import packing
from onerec.model.batch import Batch, Events
from onerec.model.packing import Packing
from onerec.model.products import Linear
from onerec.model.qformer import QFormer
from onerec.model.sizes import feature_widths

__all__ = [
    "Batch",
    "CodeEmbedding",
    "EventFeatures",
    "Events",
    "ItemTable",
    "Pathways",
    "StaticFeatures",
    "Vocabulary",
    "age",
    "dense_pair",
    "feature_widths",
]


@dataclass
class Vocabulary:
    """What the model can read and say, as cardinalities; index 0 (unknown) is not counted.

    `sizes` holds N for each level; 0 of anything else leaves that feature out. `item_input` picks
    what stands for an item in an event: its own embedding, the sum of its code embeddings, or both
    (the paper: "vid (or the SID)"). `content_dim` is the width of the items' content vectors, read
    through one learned product (ours: it tells items apart without a weight per item, which is what
    overfits on small catalogues). `tied_output` lets the output heads be the code embeddings.
    """

    sizes: tuple[int, ...]
    n_items: int
    user_features: tuple[int, ...] = ()
    n_authors: int = 0
    n_tags: int = 0
    n_time: int = 0
    n_play: int = 0
    n_duration: int = 0
    behaviours: int = 0
    content_dim: int = 0
    item_input: Literal["both", "codes", "item"] = "both"
    tied_output: bool = False


class ItemTable(nn.Module):
    """What is known of each item; row 0 is padding, item i is row i + 1. Not saved with weights.

    `codes` (n + 1, L), `author`, `tag`, `duration` (n + 1,), all int64; 0 is unknown but in codes.
    `content` (n + 1, d) float, what the tokenizer quantised; d is 0 where it is not read.
    """

    codes: Tensor
    author: Tensor
    tag: Tensor
    duration: Tensor
    content: Tensor

    def __init__(
        self,
        codes: Tensor,
        author: Tensor | None = None,
        tag: Tensor | None = None,
        duration: Tensor | None = None,
        content: Tensor | None = None,
    ) -> None:
        super().__init__()
        nothing = torch.zeros(len(codes), dtype=torch.int64)
        for name, column in (("author", author), ("tag", tag), ("duration", duration)):
            self.register_buffer(name, nothing if column is None else column, persistent=False)
        self.register_buffer("codes", codes, persistent=False)
        content = torch.zeros(len(codes), 0) if content is None else content
        self.register_buffer("content", content, persistent=False)

    def __len__(self) -> int:
        """Number of items n, without the padding row."""
        return len(self.codes) - 1


class CodeEmbedding(nn.Module):
    """One table for the codes of all levels: events and the decoder's input read the same rows.

    Sharing is ours. A code means the same on both sides, so histories train what the decoder reads;
    and the last level, which the decoder never reads, is trained by histories alone.
    """

    offsets: Tensor

    def __init__(self, sizes: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.sizes = sizes
        self.table = nn.Embedding(sum(sizes), width)
        starts = [sum(sizes[:level]) for level in range(len(sizes))]
        self.register_buffer("offsets", torch.tensor(starts), persistent=False)

    def forward(self, codes: Tensor, first: int = 0) -> Tensor:
        """Codes (..., l) of levels first..first+l-1 -> (..., l, D)."""
        rows = codes + self.offsets[first : first + codes.shape[-1]]
        return F.embedding(rows, self.table.weight)

    def total(self, codes: Tensor) -> Tensor:
        """Codes (..., L) -> the sum over levels (..., D), in one kernel."""
        if torch.compiler.is_compiling():
            return self.forward(codes).sum(-2)  # in one kernel with what comes after
        rows = (codes + self.offsets).flatten(0, -2)
        total = F.embedding_bag(rows, self.table.weight, mode="sum")
        return total.view(*codes.shape[:-1], total.shape[-1])

    def rows(self) -> tuple[Tensor, ...]:
        """The table split into levels, (N_l, D) each."""
        return torch.split(self.table.weight, list(self.sizes))


def dense_pair(inputs: int, width: int) -> nn.Sequential:
    """Dense(LeakyReLU(Dense(.))): the end of every pathway."""
    return nn.Sequential(Linear(inputs, width), nn.LeakyReLU(), Linear(width, width))


class EventFeatures(nn.Module):
    """Embeds and concatenates what is known of an event; all event pathways share the tables."""

    def __init__(self, vocabulary: Vocabulary, width: int) -> None:
        super().__init__()
        author, other, _ = feature_widths(width)
        tables = {
            "item": (vocabulary.n_items if vocabulary.item_input != "codes" else 0, width),
            "author": (vocabulary.n_authors, author),
            "tag": (vocabulary.n_tags, other),
            "time": (vocabulary.n_time, other),
            "play": (vocabulary.n_play, other),
            "duration": (vocabulary.n_duration, other),
        }
        self.tables = nn.ModuleDict(
            {name: nn.Embedding(count + 1, dim) for name, (count, dim) in tables.items() if count}
        )
        self.label = Linear(vocabulary.behaviours, other) if vocabulary.behaviours else None
        self.reads_codes = vocabulary.item_input != "item"
        dim = vocabulary.content_dim
        self.content = Linear(dim, width, bias=False) if dim else None
        widths = {name: dim for name, (count, dim) in tables.items() if count}
        widths |= {"codes": width} if self.reads_codes else {}
        widths |= {"content": width} if dim else {}
        widths |= {"label": other} if self.label is not None else {}
        ends = list(accumulate(widths.values()))
        self.columns = {n: slice(e - w, e) for (n, w), e in zip(widths.items(), ends, strict=True)}
        self.dim: int = ends[-1]

    def forward(self, events: Events, items: ItemTable, codes: CodeEmbedding) -> Tensor:
        """Events of any shape (...) -> (..., dim)."""
        own = self._of_events(events)  # a cluster has a tag and a duration that its item has not
        parts = self._of_items(events.item, items, codes) | own
        return torch.cat([parts[name] for name in self.columns], dim=-1)

    def _of_items(self, item: Tensor, items: ItemTable, codes: CodeEmbedding) -> dict[str, Tensor]:
        """What is known of items (...), index + 1."""
        index = {"item": item}
        index |= {name: getattr(items, name)[item] for name in ("author", "tag", "duration")}
        found = {n: self.tables[n](value) for n, value in index.items() if n in self.tables}
        if self.reads_codes:
            found["codes"] = codes.total(items.codes[item])
        if self.content is not None:
            found["content"] = self.content(items.content[item])
        return found

    def _of_events(self, events: Events) -> dict[str, Tensor]:
        """What is known of events beyond their items."""
        index = {name: getattr(events, name) for name in events.own}
        found = {n: self.tables[n](value) for n, value in index.items() if n in self.tables}
        if self.label is not None:
            found["label"] = self.label(events.label)
        return found

    def products(
        self, sides: list[Events], layers: list[Linear], items: ItemTable, codes: CodeEmbedding
    ) -> list[Tensor]:
        """`layer(forward(events))` for each of `sides` (T,) and its own of `layers` -> (T, D) each.

        A product of columns side by side is the sum of their products. What is known of an item
        depends on the item alone, so it is multiplied once for all its events; the tables of time
        and play (and of whatever else is an event's own) are multiplied as tables. Nothing is put
        side by side.
        """
        unique, where = torch.unique(torch.cat([e.item for e in sides]), return_inverse=True)
        of_items = self._of_items(unique, items, codes)
        known = torch.cat(list(of_items.values()), dim=-1)  # (U, columns of items)
        weights = []
        for events, layer in zip(sides, layers, strict=True):
            parts = {name: layer.weight[:, self.columns[name]] for name in of_items}
            parts |= {n: torch.zeros_like(part) for n, part in parts.items() if n in events.own}
            weights.append(torch.cat(list(parts.values()), 1))
        rows = F.linear(known, torch.cat(weights)).chunk(len(sides), dim=-1)  # (U, D) each
        places = where.split([len(events.item) for events in sides])
        given = zip(sides, layers, rows, places, strict=True)
        return [self.total(events, layer, row, place) for events, layer, row, place in given]

    def total(self, events: Events, layer: Linear, row: Tensor, place: Tensor) -> Tensor:
        """Products of events (T,) -> (T, D): their items', at `place` of `row`, and their own."""
        total = F.embedding(place, row) + layer.bias
        for name in events.own:
            if name in self.tables:
                table = self.tables[name].get_parameter("weight")
                rows_of = F.linear(table, layer.weight[:, self.columns[name]])
                total = total + F.embedding(getattr(events, name), rows_of)
        if self.label is not None:
            columns = layer.weight[:, self.columns["label"]]
            total = total + F.linear(self.label(events.label), columns)
        return total


class StaticFeatures(nn.Module):
    """User features, embedded and concatenated; without any it is one learned state."""

    def __init__(self, cardinalities: tuple[int, ...], width: int) -> None:
        super().__init__()
        dim = feature_widths(width)[2]
        self.tables = nn.ModuleList(nn.Embedding(count + 1, dim) for count in cardinalities)
        self.dense = dense_pair(dim * len(cardinalities), width) if cardinalities else None
        self.constant = None if cardinalities else nn.Parameter(torch.empty(width))

    def forward(self, static: Tensor) -> Tensor:
        """(B, F) -> (B, D)."""
        if self.dense is None:
            assert self.constant is not None
            return self.constant.expand(len(static), -1)
        parts = [table(column) for table, column in zip(self.tables, static.unbind(1), strict=True)]
        state: Tensor = self.dense(torch.cat(parts, dim=-1))
        return state


class Pathways(nn.Module):
    """Static, short-term, positive and lifelong pathways, joined with learned positions.

    The position of an event counts back from the newest, so that it depends neither on the side of
    the padding nor on its length (ours). Events older than the table share its last position. The
    lifelong pathway is there where a `qformer` is; its states have the positions of its queries. A
    user without a lifelong history has none of these states, and a batch may come without them.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        width: int,
        short_length: int,
        positive_length: int,
        qformer: QFormer | None = None,
    ) -> None:
        super().__init__()
        self.width = width
        self.features = EventFeatures(vocabulary, width)
        self.static = StaticFeatures(vocabulary.user_features, width)
        lengths = {"short": short_length, "positive": positive_length}
        lengths["lifelong"] = 0 if qformer is None else len(qformer.queries)
        self.dense = nn.ModuleDict(
            {
                name: dense_pair(self.features.dim, width)
                for name, length in lengths.items()
                if length
            }
        )
        self.position = nn.ModuleDict(
            {name: nn.Embedding(length, width) for name, length in lengths.items() if length}
        )
        self.static_position = nn.Parameter(torch.empty(width))
        self.qformer = qformer
        self.reads_all = False  # gradients, of 0, of what has nothing to read

    def forward(
        self, batch: Batch, items: ItemTable, codes: CodeEmbedding
    ) -> tuple[Tensor, Packing]:
        """Encoder input, tokens (T, D) or (B, S, D), and where in the grid (B, S) they stand.

        The static state always exists. Whether the padding stays: see `onerec.model.packing`.
        """
        static = self.static(batch.static) + self.static_position  # (B, D)
        given = {name: cast("Events | None", getattr(batch, name)) for name in self.dense}
        sides = {n: e for n, e in given.items() if e is not None and e.item.shape[1]}
        if self.reads_all and len(sides) < len(given):
            static = static + 0.0 * sum(p.sum() for p in self.parameters())
        tokens, masks, rows = [static], [torch.ones_like(static[:, :1], dtype=torch.bool)], []
        for name, (hidden, inner) in self._sides(sides, items, codes).items():
            if name == "lifelong":
                assert self.qformer is not None
                hidden, inner = self.qformer(hidden, inner)
                place = torch.arange(inner.mask.shape[1], device=hidden.device)
                place = place.expand(inner.mask.shape)
            else:
                place = age(inner.mask)
            tokens.append(hidden + self._position(name, inner.pack(place[..., None])[..., 0]))
            masks.append(inner.mask)
            rows.append(inner.rows)
        mask = torch.cat(masks, dim=1)
        if not packing.packs(static.device, self.width):
            return torch.cat([static[:, None], *tokens[1:]], dim=1), Packing(mask)
        places, begin = [torch.arange(len(mask), device=mask.device) * mask.shape[1]], 1
        for part, own in zip(masks[1:], rows, strict=True):
            assert own is not None
            length = part.shape[1]
            places.append(own // length * mask.shape[1] + own % length + begin)
            begin += length
        packed = Packing(mask, torch.cat(places)).filled(torch.cat(tokens))
        return packing.rounded(*packed)

    def _sides(
        self, sides: dict[str, Events], items: ItemTable, codes: CodeEmbedding
    ) -> dict[str, tuple[Tensor, Packing]]:
        """Dense(LeakyReLU(Dense(.))) of each pathway's events, tokens of a grid, and its places."""
        masks = {name: events.item > 0 for name, events in sides.items()}
        dense = {name: cast(nn.Sequential, self.dense[name]) for name in sides}
        if not sides or not packing.packs(self.static_position.device, self.width):
            return {
                name: (
                    dense[name](self.features(events, items, codes)),
                    Packing(mask),
                )
                for (name, events), mask in zip(sides.items(), masks.values(), strict=True)
            }
        picks = [mask.flatten().nonzero()[:, 0] for mask in masks.values()]
        picked = [side.picked(pick) for side, pick in zip(sides.values(), picks, strict=True)]
        first = [cast(Linear, layers[0]) for layers in dense.values()]
        products = self.features.products(picked, first, items, codes)
        return {
            name: (dense[name][1:](product), Packing(masks[name], pick))
            for name, pick, product in zip(sides, picks, products, strict=True)
        }

    def _position(self, name: str, age: Tensor) -> Tensor:
        """The learned position of events of that age (...) -> (..., D)."""
        table = cast(nn.Embedding, self.position[name])
        position: Tensor = table(age.clamp(max=table.num_embeddings - 1))
        return position


def age(mask: Tensor) -> Tensor:
    """How many events of the row are newer: mask (B, T), oldest first -> (B, T), newest = 0."""
    count = mask.long()
    return (count.sum(1, keepdim=True) - count.cumsum(1)).clamp(min=0)
