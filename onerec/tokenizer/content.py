"""From what an item says and shows to the vector that is quantised.

A `ContentEncoder` reads texts and images of items and gives each content tokens, a few vectors of
d numbers: `text_encoders`, `image_encoders` and `mini_cpm` hold some, and `Precomputed` brings its
own. A modality that an item lacks has no token: it is masked, not zero. `mean_pool` makes one
vector of an item's tokens, `join_vectors` puts vectors of several sources side by side,
`join_tokens` tokens of several encoders. Nothing is read or written here.

Shapes: B or n items, N_M tokens of an item, d (the paper's d_t) their width, T states of one text
or image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onerec.errors import DataError

Floats = NDArray[np.floating[Any]]
Vectors = NDArray[np.float32]
Image = NDArray[np.uint8]  # (P, P, 3), red, green and blue


QFORMER, OWN_TOKENS = "QFormer", "content tokens"  # parts of what is quantised, in reports
CO_CONSUMPTION = "co-consumption of training positives"
HASHED = "hashed."  # before the names of what hashed n-grams have learned


@dataclass(frozen=True)
class ItemContent:
    """What B items say and show.

    Attributes:
        texts: by name (title, caption, tags, ocr, asr, ...), B each; "" where an item has none.
        images: B lists, the cover first and then frames, (P, P, 3) uint8 each; P is what the
            encoder's `pixels` asks for.
    """

    texts: Mapping[str, Sequence[str]]
    images: Sequence[Sequence[Image]]

    def __len__(self) -> int:
        return len(self.images)


class ContentEncoder(Protocol):
    """Items in, content tokens out."""

    @property
    def name(self) -> str:
        """What report.json calls it; names everything that decides the tokens (a key of caches)."""

    @property
    def dim(self) -> int:
        """d of a token."""

    @property
    def pixels(self) -> int:
        """Sides of the images that it reads, 0 where it reads none."""

    def encode(self, content: ItemContent) -> Precomputed:
        """Tokens (B, N_M, d) and mask (B, N_M); N_M may differ from batch to batch."""


@dataclass(frozen=True)
class Precomputed:
    """Content tokens of n items: tokens (n, N_M, d) and mask (n, N_M), true = a token.

    Raises:
        DataError: shapes that do not agree, or a token that is not finite.
    """

    tokens: Floats
    mask: NDArray[np.bool_]
    name: str = "precomputed"

    def __post_init__(self) -> None:
        if self.tokens.ndim != 3 or self.mask.shape != self.tokens.shape[:2]:
            raise DataError(
                f"content tokens {self.tokens.shape} and mask {self.mask.shape} do not agree; "
                "expected (items, tokens, dim) and (items, tokens)"
            )
        bad = not_finite(self.tokens, self.mask)
        if bad is not None:
            raise DataError(
                f"content tokens of item {bad} are not all finite; mend them or mask them out"
            )

    @property
    def dim(self) -> int:
        """d of a token."""
        return int(self.tokens.shape[2])

    def vectors(self) -> Vectors:
        """(n, d): the mean of each item's tokens."""
        return mean_pool(self.tokens, self.mask)

    def take(self, rows: NDArray[np.int64]) -> Precomputed:
        """Some of the items (indices), in the order asked for."""
        return Precomputed(self.tokens[rows], self.mask[rows], self.name)


def not_finite(tokens: Floats, mask: NDArray[Any]) -> int | None:
    """The first item with a token that is there and not finite."""
    bad = (~np.isfinite(tokens).all(axis=2) & mask.astype(bool)).any(axis=1)
    return int(bad.argmax()) if bad.any() else None


def shorten(states: Floats, limit: int) -> Floats:
    """States (T, d) -> at most `limit` (>= 1): means of stretches of about one length, so that
    nothing that was said is cut off; what is short enough stays as it is."""
    count = len(states)
    if count <= limit:
        return states
    starts = np.arange(limit) * count // limit
    lengths = np.diff(np.append(starts, count))
    means: Floats = np.add.reduceat(states, starts, axis=0) / lengths[:, None]
    return means


def stack_states(states: Sequence[Sequence[Floats]], dim: int, name: str) -> Precomputed:
    """Of B items lists of (T, d) -> tokens (B, N_M, d) in half precision, one behind another."""
    lengths = [sum(len(part) for part in parts) for parts in states]
    tokens = np.zeros((len(states), max(lengths, default=0), dim), dtype=np.float16)
    for row, parts in zip(tokens, states, strict=True):
        begin = 0
        for part in parts:
            row[begin : begin + len(part)] = part
            begin += len(part)
    mask = np.arange(tokens.shape[1]) < np.array(lengths, dtype=np.int64)[:, None]
    return Precomputed(tokens, mask, name)


def one_token_each(vectors: Vectors) -> Precomputed:
    """One vector of each text (n, 1, d) as its token; a text without a word (zeros) has none."""
    return Precomputed(vectors, np.asarray(vectors.any(axis=2)))


def join_tokens(parts: Sequence[Precomputed]) -> Precomputed:
    """Tokens of several encoders as one (n, sum of N_M, sum of d), each in dimensions of its own.

    What reads them by a matrix so has one matrix per encoder. Masked places move to the end, and
    those that all items lack are left out. A single part stays as it is.
    """
    if len(parts) == 1:
        return parts[0]
    n, width = len(parts[0].mask), sum(part.dim for part in parts)
    mask = np.concatenate([part.mask.astype(bool) for part in parts], axis=1)
    count = mask.sum(axis=1)
    tokens = np.zeros((n, int(count.max(initial=0)), width), dtype=np.float16)
    begin, first = np.zeros(n, dtype=np.int64), 0
    for part in parts:
        there = part.mask.astype(bool)
        item, place = np.nonzero(there)
        to = begin[item] + (np.cumsum(there, axis=1) - 1)[item, place]
        tokens[item, to, first : first + part.dim] = part.tokens[item, place]
        begin, first = begin + there.sum(axis=1), first + part.dim
    ordered = np.arange(tokens.shape[1]) < count[:, None]
    return Precomputed(tokens, ordered, " + ".join(part.name for part in parts))


def mean_pool(tokens: Floats, mask: NDArray[np.bool_] | NDArray[np.integer[Any]]) -> Vectors:
    """Mean of an item's tokens: (n, N_M, d), mask (n, N_M) -> (n, d) float32, zeros for none."""
    keep = mask.astype(bool)
    total = np.where(keep[..., None], tokens, 0).sum(axis=1, dtype=np.float32)
    mean: Vectors = total / np.maximum(keep.sum(axis=1), 1)[:, None].astype(np.float32)
    return mean


@dataclass(frozen=True)
class Joining:
    """How vectors of several sources become one: the mean (d_i,) and the scale of each part."""

    means: tuple[NDArray[np.float64], ...]
    scales: tuple[float, ...]

    @classmethod
    def fitted(
        cls, parts: Sequence[tuple[Floats, float]], fit: NDArray[np.bool_] | None = None
    ) -> Joining:
        """Of parts (n, d_i) with their weights; mean and length are those of the rows in `fit`.

        A scale is the weight over the mean length of centred rows; 0 for a part without any spread.
        """
        means, scales = [], []
        for vectors, weight in parts:
            known = vectors if fit is None else vectors[fit]
            mean = known.mean(axis=0, dtype=np.float64)
            length = np.linalg.norm(known - mean, axis=1).mean()
            means.append(mean)
            scales.append(float(weight / length) if length > 0 else 0.0)
        return cls(tuple(means), tuple(scales))

    def join(self, parts: Sequence[Floats]) -> Vectors:
        """Centred, scaled and side by side: each (n, d_i) -> (n, sum of d_i)."""
        given = zip(parts, self.means, self.scales, strict=True)
        return np.concatenate([((v - mean) * s).astype(np.float32) for v, mean, s in given], axis=1)


def join_vectors(
    parts: Sequence[tuple[Floats, float]], fit: NDArray[np.bool_] | None = None
) -> Vectors:
    """Vectors of several sources side by side: each (n, d_i) with its weight -> (n, sum of d_i).

    Each part is centred and divided by the mean length of its rows, then multiplied by its weight;
    a part without any spread becomes zeros. Mean and length come from the rows in `fit` (default:
    all).
    """
    return Joining.fitted(parts, fit).join([vectors for vectors, _ in parts])
