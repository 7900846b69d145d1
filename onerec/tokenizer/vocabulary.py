"""Words of captions as numbers: what the caption loss learns to tell.

Words are lower-case runs of letters and digits; in scripts written without spaces each character is
one, so that a Chinese caption needs no segmentation. The vocabulary is the commonest words of the
texts it is fitted on; a word outside it is left out. Ours: the paper's decoder is LLaMA3, with the
word pieces of that.

Shapes: n texts, T tokens of a text.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from onerec.tokenizer.ngrams import UNSPACED

_ALONE = "".join(f"{chr(low)}-{chr(high)}" for low, high in UNSPACED)
_WORD = re.compile(rf"[{_ALONE}]|(?:(?![{_ALONE}])[^\W_])+")


def words(text: str) -> list[str]:
    """The words of a text, in order; of any script."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).lower())


@dataclass(frozen=True)
class Vocabulary:
    """Known words; the token of `known[i]` is i + 1, and 0 is padding."""

    known: tuple[str, ...]

    @classmethod
    def fit(cls, texts: Sequence[str], size: int) -> Self:
        """The `size` commonest words that stand in at least two texts; of equal ones the first in
        the alphabet. A word of one text alone cannot be told from what another item shows."""
        counts = Counter(word for text in texts for word in set(words(text)))
        common = sorted((-count, word) for word, count in counts.items() if count > 1)
        return cls(tuple(word for _, word in common[:size]))

    def __len__(self) -> int:
        """Words and padding."""
        return len(self.known) + 1

    def encode(self, texts: Sequence[str], length: int) -> NDArray[np.int64]:
        """(n, T) tokens of the first `length` known words of each text, 0 behind them."""
        token = {word: place + 1 for place, word in enumerate(self.known)}
        rows = [[token[word] for word in words(text) if word in token][:length] for text in texts]
        return padded(rows)


def padded(rows: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """Tokens of different numbers -> (n, T), T the most of them and at least 1, 0 behind."""
    grid = np.zeros((len(rows), max((1, *map(len, rows)))), dtype=np.int64)
    for line, row in zip(grid, rows, strict=True):
        line[: len(row)] = row
    return grid
