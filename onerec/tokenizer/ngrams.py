"""Texts to hashed n-grams, for any language, without Python per n-gram.

All texts become one array of code points; words, word pairs and pieces of 3 to 5 characters are
then hashed in numpy. The hash is arithmetic on 64 bits and so the same in every process. Left out:
stemming, stop words, word segmentation (each character of a script written without spaces is taken
as a word).

Shapes: n texts, c characters of all texts together, w words, g n-grams.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CHARACTERS = (3, 4, 5)
SPACE = np.uint32(32)
_PRIME = np.uint64(0x100000001B3)  # odd, so that multiplying loses nothing
UNSPACED = (
    (0x3040, 0x30FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)
"""Hiragana, Katakana and the Chinese characters: ranges of code points, both ends included."""

Hashes = NDArray[np.uint64]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class _Text:
    """Cleaned texts behind one another, with one space before and after each word."""

    code: NDArray[np.uint32]  # (c,)
    row: Rows  # (c,) the text of each character
    space: NDArray[np.bool_]  # (c,)
    unspaced: NDArray[np.bool_]  # (c,) a character that is a word of its own


def word_ngrams(texts: Sequence[str]) -> tuple[Rows, Hashes]:
    """Words and pairs of neighbouring words: the text (g,) and the hash (g,) of each."""
    text = _clean(texts)
    alone = text.unspaced
    begins = ~text.space & (_before(text.space, True) | alone | _before(alone, False))
    inside = ~text.space
    start = np.flatnonzero(begins[inside])  # (w,) places among the word characters
    if len(start) == 0:
        return np.empty(0, np.int64), np.empty(0, np.uint64)
    code, row = text.code[inside].astype(np.uint64), text.row[inside]
    length = np.diff(np.append(start, len(code)))
    place = np.arange(len(code)) - np.repeat(start, length)  # of a character in its word
    word = _mix(np.add.reduceat(code * _powers(int(length.max()))[place], start))  # (w,)
    of = row[start]
    pair = _mix(word[:-1] * _PRIME + word[1:])[of[:-1] == of[1:]]
    return np.concatenate([of, of[:-1][of[:-1] == of[1:]]]), np.concatenate([word, pair])


def character_ngrams(texts: Sequence[str]) -> tuple[Rows, Hashes]:
    """Pieces of 3, 4 and 5 characters within a word and one space on either side of it.

    Returns:
        The text (g,) and the hash (g,) of each.
    """
    text = _clean(texts)
    spaces = np.concatenate([[0], np.cumsum(text.space)])  # spaces before each place
    code = text.code.astype(np.uint64)
    rows, hashes = [], []
    for n in CHARACTERS:
        count = len(code) - n + 1
        if count <= 0:
            continue
        at = np.arange(count)
        at = at[spaces[at + n - 1] == spaces[at + 1]]  # no space but at the ends
        powers = _powers(n)
        total = np.full(len(at), n, dtype=np.uint64)
        for i in range(n):
            total += code[at + i] * powers[i]
        rows.append(text.row[at + 1])  # a space between two texts belongs to both
        hashes.append(_mix(total))
    if not rows:
        return np.empty(0, np.int64), np.empty(0, np.uint64)
    return np.concatenate(rows), np.concatenate(hashes)


def _clean(texts: Sequence[str]) -> _Text:
    """Lower case, Unicode form NFKC; what is no letter, mark or digit becomes one space."""
    parts = [f" {unicodedata.normalize('NFKC', text).lower()} " for text in texts]
    joined = "".join(parts).encode("utf-32-le", errors="replace")
    code = np.frombuffer(joined, dtype="<u4").astype(np.uint32)
    row = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    kinds, kind = np.unique(code, return_inverse=True)
    word = np.array([unicodedata.category(chr(c))[0] in "LNM" for c in kinds], dtype=bool)
    alone = np.zeros(len(kinds), dtype=bool)
    for low, high in UNSPACED:
        alone |= word & (kinds >= low) & (kinds <= high)
    space = ~word[kind]
    keep = ~(space & _before(space, False))
    code = np.where(space, SPACE, code)
    return _Text(code[keep], row[keep], space[keep], alone[kind][keep])


def _before(flags: NDArray[np.bool_], first: bool) -> NDArray[np.bool_]:
    """Each place holds the flag of the place before it."""
    return np.concatenate([[first], flags[:-1]])


def _powers(count: int) -> Hashes:
    """(count,) 1, P, P^2, ... modulo 2^64."""
    steps = np.full(count, _PRIME)
    steps[0] = 1
    return np.multiply.accumulate(steps)


def _mix(x: Hashes) -> Hashes:
    """Spread the bits over all 64: the finaliser of splitmix64 (Steele et al. 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
