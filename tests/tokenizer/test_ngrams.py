"""Hashed n-grams against the obvious loops over strings, in several scripts."""

import re
import subprocess
import sys
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from onerec.tokenizer.ngrams import character_ngrams, word_ngrams

TEXTS = [
    "The cat sat",
    "",
    "a",
    "THE  CAT!",
    "中文 视频 abc",
    "Привет мир",
    "日本語テスト",
    "视频abc猫de",
    "naïve café ①",
    "---",
    "हिन्दी वीडियो",
]


def split(text: str) -> list[str]:
    """The words of the cleaned text, by the slow way for the texts above."""
    import unicodedata

    text = unicodedata.normalize("NFKC", text).lower()
    keep = [c if unicodedata.category(c)[0] in "LNM" else " " for c in text]
    return "".join(keep).split()


def slow_characters(text: str) -> Counter[str]:
    padded = [f" {word} " for word in split(text)]
    return Counter(w[i : i + n] for w in padded for n in (3, 4, 5) for i in range(len(w) - n + 1))


def slow_words(text: str) -> Counter[tuple[str, ...]]:
    words: list[str] = []
    for word in split(text):
        words += re.findall("[\u3040-\u9fff]|[^\u3040-\u9fff]+", word)
    return Counter([(w,) for w in words] + list(pairwise(words)))


def grouped(texts: list[str], row: np.ndarray, hashes: np.ndarray) -> list[Counter[int]]:
    return [Counter(hashes[row == i].tolist()) for i in range(len(texts))]


@pytest.mark.parametrize(
    ("fast", "slow"), [(character_ngrams, slow_characters), (word_ngrams, slow_words)]
)
def test_counts_equal_the_loop_and_hashes_name_them(fast: object, slow: object) -> None:
    """One n-gram, one hash: the same within and across texts, and different for different ones."""
    found = grouped(TEXTS, *fast(TEXTS))  # type: ignore[operator]
    expected = [slow(text) for text in TEXTS]  # type: ignore[operator]
    name: dict[int, object] = {}
    for got, wanted, text in zip(found, expected, TEXTS, strict=True):
        assert sorted(got.values()) == sorted(wanted.values()), text
        alone = grouped([text], *fast([text]))[0]  # type: ignore[operator]
        assert alone == got
        for gram in wanted:
            name.setdefault(gram, None)  # type: ignore[arg-type]
    distinct = {h for counter in found for h in counter}
    assert len(distinct) == len({gram for counter in expected for gram in counter})


def test_case_and_punctuation_do_not_matter() -> None:
    one, two = grouped(["The cat", "THE,  cat!"], *word_ngrams(["The cat", "THE,  cat!"]))
    assert one == two
    assert len(one) == 3


@pytest.mark.parametrize("fast", [word_ngrams, character_ngrams])
def test_forms_of_one_letter_are_that_letter(fast: object) -> None:
    texts = ["ＣＡＴ ﬁn", "cat fin"]
    one, two = grouped(texts, *fast(texts))  # type: ignore[operator]
    assert one == two


def test_order_of_letters_and_of_words_matters() -> None:
    texts = ["abc cab", "cab abc", "acb cab"]
    one, two, three = grouped(texts, *word_ngrams(texts))
    assert len(one & two) == 2  # both words, not the pair
    assert len(one & three) == 1


def test_no_pair_reaches_into_the_next_text() -> None:
    apart = grouped(["red", "fox"], *word_ngrams(["red", "fox"]))
    assert [len(counter) for counter in apart] == [1, 1]


def test_a_cjk_character_is_a_word() -> None:
    texts = ["短视频", "视频"]
    long, short = grouped(texts, *word_ngrams(texts))
    assert len(long) == 5
    assert short <= long  # both characters and their pair


@pytest.mark.parametrize("texts", [[], [""], ["", "!!"]])
def test_nothing_to_read_gives_nothing(texts: list[str]) -> None:
    for fast in (word_ngrams, character_ngrams):
        row, hashes = fast(texts)
        assert len(row) == len(hashes) == 0


def test_a_broken_half_of_a_character_is_read() -> None:
    row, _ = word_ngrams(["ab \ud800 cd"])
    assert len(row) == 3


def test_the_hash_is_the_same_in_every_process() -> None:
    program = "from onerec.tokenizer.ngrams import word_ngrams; print(word_ngrams(['hello'])[1][0])"
    command = [sys.executable, "-c", program]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert int(found) == int(word_ngrams(["hello"])[1][0])
