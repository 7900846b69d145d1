"""Residual k-means: a vector becomes L codes, each level quantising what the levels before left.

OneRec technical report, arXiv 2506.13695, §2.1: C^(l) = k-means(R^(l)), s^l = argmin_k |R^(l) -
c_k|, R^(l+1) = R^(l) - c_{s^l}. The paper has L = 3 levels of N = 8192 codes; both are free here.
k-means' start, its repair of empty clusters and its number of iterations are ours: the paper is
silent.

Shapes: n items, d dimensions, L levels, N codes per level.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onerec.errors import DataError, RecipeError, RunError
from onerec.metrics import entropy_nats, perplexity, utilisation
from onerec.tokenizer.kmeans import KMeansResult, assign, kmeans
from onerec.tokenizer.stream_kmeans import kmeans_stream

Part = TypeVar("Part")

ROWS = 2**16
"""Rows of x that are held as float32 residuals at a time by transform and report."""


@dataclass(frozen=True)
class RQKmeansConfig:
    """Shape and training of the codebooks."""

    levels: int = 3
    codebook_size: int = 256
    iterations: int = 25
    init: str = "k-means++"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("levels", "codebook_size", "iterations"):
            if getattr(self, name) < 1:
                raise RecipeError(
                    f"tokenizer {name} is {getattr(self, name)}; it must be at least 1"
                )


def fitted(part: Part | None) -> Part:
    """What a quantiser has once it is fitted.

    Raises:
        RunError: it is None, so the tokenizer is not fitted yet.
    """
    if part is None:
        raise RunError("the tokenizer has no codebooks yet; fit it first (onerec tokenize)")
    return part


class RQKmeans:
    """Residual k-means with L codebooks of N codes. Works on the device of the vectors."""

    whole = ""
    """What codebooks are called that need all items at once, so that no stream fits them."""

    def __init__(self, config: RQKmeansConfig) -> None:
        self.config = config
        self._codebooks: Tensor | None = None
        self.repaired: tuple[int, ...] = ()
        """After fit: how often an empty cluster was given a new centroid, by level."""

    @property
    def codebooks(self) -> Tensor:
        """(L, N, d) float32.

        Raises:
            RunError: the tokenizer is not fitted yet.
        """
        return fitted(self._codebooks)

    @property
    def sizes(self) -> tuple[int, ...]:
        """N of each level."""
        return (self.config.codebook_size,) * self.config.levels

    def fit(self, x: Tensor) -> Self:
        """Learn the codebooks from x (n, d).

        Raises:
            RecipeError: fewer vectors than codes.
            DataError: a value that is not finite.
        """
        self._fit(x)
        return self

    def _fit(self, x: Tensor) -> Tensor:
        """Learn from x (n, d); the cluster of each row at each level, (n, L)."""
        generator = torch.Generator().manual_seed(self.config.seed)
        residual = x.detach().float().clone()  # (n, d)
        results = []
        for _ in range(self.config.levels):
            result = self._cluster(residual, generator)
            for rows, own in zip(
                torch.split(residual, ROWS), torch.split(result.labels, ROWS), strict=True
            ):
                rows -= result.centroids[own]  # in place: a view of residual
            results.append(result)
        self._codebooks = torch.stack([result.centroids for result in results])
        self.repaired = tuple(result.repaired for result in results)
        return torch.stack([result.labels for result in results], dim=1)

    def _cluster(self, residual: Tensor, generator: torch.Generator) -> KMeansResult:
        """One level."""
        return kmeans(
            residual,
            self.config.codebook_size,
            iterations=self.config.iterations,
            generator=generator,
            init=self.config.init,
        )

    def fit_stream(
        self,
        arrays: Callable[[], Iterator[NDArray[np.floating[Any]]]],
        device: torch.device | str = "cpu",
    ) -> Self:
        """Learn the codebooks from more vectors than memory holds.

        Each call of `arrays` gives the same vectors in the same order, as arrays (m, d) of any m.
        It is called L (iterations + 3) times at most: twice per level for the start, then once per
        iteration and once for the inertia. What a level has to quantise is worked out anew in each
        pass. The codebooks are those of `fit` but for rounding (and for the repair of an empty
        cluster, see `stream_kmeans`), whatever m is.

        Raises:
            RecipeError: fewer vectors than codes, or a kind that needs all items at once.
            DataError: a value that is not finite, or arrays that differ from pass to pass.
        """
        if self.whole:
            raise RecipeError(
                f"{self.whole} codebooks cannot be fitted from a stream; give `fit` the vectors, "
                "or use tokenizer.kind=rq_kmeans"
            )
        generator = torch.Generator().manual_seed(self.config.seed)
        books: list[Tensor] = []

        def residuals() -> Iterator[Tensor]:
            for array in arrays():
                residual = torch.tensor(array, dtype=torch.float32, device=device)  # a copy
                for book in books:
                    residual -= book[assign(residual, book)]
                yield residual

        repaired = []
        for _ in range(self.config.levels):
            result = kmeans_stream(
                residuals,
                self.config.codebook_size,
                iterations=self.config.iterations,
                generator=generator,
                init=self.config.init,
            )
            books.append(result.centroids)
            repaired.append(result.repaired)
        self._codebooks = torch.stack(books)
        self.repaired = tuple(repaired)
        return self

    def transform(self, x: Tensor) -> Tensor:
        """The codes of x (n, d), fitted on or not: (n, L) int64 on the device of x."""
        return residual_codes(x, self.codebooks.to(x.device))

    def fit_transform(self, x: Tensor) -> Tensor:
        """Learn from x (n, d) and return its codes (n, L)."""
        return self.fit(x).transform(x)

    def encode(self, x: Tensor) -> Tensor:
        """What the codebooks quantise: x (n, d) as float32."""
        return x.detach().float()

    def decode(self, quantised: Tensor) -> Tensor:
        """A sum of code vectors (n, d) as content: itself."""
        return quantised

    def inverse_transform(self, codes: Tensor) -> Tensor:
        """The sum of the chosen centroids: codes (n, L) -> (n, d) float32."""
        return reconstruct(codes, self.codebooks)

    def state_dict(self) -> dict[str, Tensor]:
        """What from_state needs besides the config: {"codebooks": (L, N, d)}."""
        return {"codebooks": self.codebooks}

    @classmethod
    def from_state(cls, config: RQKmeansConfig, state: dict[str, Tensor]) -> Self:
        """The fitted tokenizer again.

        Raises:
            RunError: the codebooks are not there or not of the config's shape.
        """
        books = state.get("codebooks")
        shape = (config.levels, config.codebook_size)
        if books is None or books.ndim != 3 or tuple(books.shape[:2]) != shape:
            found = "none" if books is None else str(tuple(books.shape))
            raise RunError(
                f"codebooks of shape {found} do not fit levels and codebook size {shape}; "
                "run `onerec tokenize` again"
            )
        tokenizer = cls(config)
        tokenizer._codebooks = books.float()
        return tokenizer


def residual_codes(x: Tensor, codebooks: Tensor) -> Tensor:
    """The nearest entry of each level to what the levels before left: x (n, d) -> (n, L) int64.

    Raises:
        ValueError: x is not of the codebooks' width.
        DataError: a row has a value that is not finite: no code is nearest to it.
    """
    check_rows(x, codebooks)
    codes = torch.empty(len(x), len(codebooks), dtype=torch.int64, device=x.device)
    for part, out in zip(torch.split(x, ROWS), torch.split(codes, ROWS), strict=True):
        residual = part.detach().float()
        for level, book in enumerate(codebooks):
            out[:, level] = assign(residual, book)
            residual = residual - book[out[:, level]]
    return codes


def check_rows(x: Tensor, codebooks: Tensor) -> None:
    """Refuse rows to which no code is nearest; see `residual_codes`."""
    if x.ndim != 2 or x.shape[1] != codebooks.shape[2]:
        raise ValueError(f"x is {tuple(x.shape)}; the codebooks take (n, {codebooks.shape[2]})")
    lost = ~x.isfinite().all(1)
    if lost.any():
        raise DataError(f"row {int(lost.int().argmax())} of x has a value that is not finite")


def reconstruct(codes: Tensor, codebooks: Tensor) -> Tensor:
    """codes (n, L), codebooks (L, N, d) -> (n, d): the sum over levels of the chosen centroids."""
    level = torch.arange(codes.shape[1], device=codes.device)
    return codebooks[level, codes].sum(1)  # (n, L, d) -> (n, d)


def quantisation_report(
    x: Tensor,
    codes: Tensor,
    codebooks: Tensor,
    decode: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, Any]:
    """How well the codes (n, L) of codebooks (L, N, d) stand for x (n, d).

    Where the codebooks belong to a space of their own, `decode` brings a sum of code vectors back
    to x's: then what the first l levels say is decode(their sum), and all numbers mean the same.
    `reconstruction_loss` is the mean over vectors of the squared distance to the reconstruction;
    `relative_reconstruction_loss` divides it by that of answering the mean vector for all (None
    where all vectors are equal). Per level: `used` codes, `utilisation` = used / size,
    `entropy_nats` of the codes' frequencies and its maximum ln N, `perplexity` = exp(entropy),
    `dead_codes` = size - used; and after the level: `residual_norm`, the root of the mean squared
    length of the residual, and `variance_explained` = 1 - the relative loss so far. OneRec's Table
    11 prints reconstruction loss, utilisation and entropy; how it scales the loss it does not say.
    """
    mean = sum(rows.double().sum(0) for rows in torch.split(x, ROWS)) / len(x)
    spread = 0.0  # sum over vectors of the squared distance to the mean
    left = [0.0] * len(codebooks)  # the same of the residual after each level
    for rows, own in zip(torch.split(x, ROWS), torch.split(codes, ROWS), strict=True):
        residual = rows.float()
        spread += float((residual - mean).square().sum())
        said = torch.zeros(len(rows), codebooks.shape[2], device=rows.device)
        for level, book in enumerate(codebooks):
            if decode is None:
                residual = residual - book[own[:, level]]
            else:
                said = said + book[own[:, level]]
                residual = rows.float() - decode(said)
            left[level] += float(residual.square().sum(dtype=torch.float64))
    levels = [
        _level_report(
            level, codes[:, level], codebooks.shape[1], left[level] / len(x), spread / len(x)
        )
        for level in range(len(codebooks))
    ]
    return {
        "items": len(x),
        "reconstruction_loss": left[-1] / len(x),
        "relative_reconstruction_loss": left[-1] / spread if spread > 0 else None,
        "levels": levels,
    }


def _level_report(
    level: int, codes: Tensor, size: int, left: float, spread: float
) -> dict[str, Any]:
    counts = torch.bincount(codes, minlength=size).cpu().numpy()  # (N,)
    used = int((counts > 0).sum())
    return {
        "level": level + 1,
        "size": size,
        "used": used,
        "utilisation": utilisation(counts),
        "entropy_nats": entropy_nats(counts),
        "max_entropy_nats": math.log(size),
        "perplexity": perplexity(counts),
        "dead_codes": size - used,
        "residual_norm": left**0.5,
        "variance_explained": 1 - left / spread if spread > 0 else None,
    }


def codebook_size_for(n_items: int, ceiling: int) -> int:
    """The codes per level for a catalogue: a recipe's codebook size is a ceiling.

    The largest power of two of at most a quarter of the items and at most the ceiling; at least 2.
    """
    return 1 << max(1, min(n_items // 4, ceiling).bit_length() - 1)
