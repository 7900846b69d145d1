"""Words and limits of the pictures of vectors; what they show is tested in `test_tokens`."""

import pytest

from onerec.viz.code_space import MAP_GROUPS, WEBGL_FROM, shared_words
from onerec.viz.theme import COLOURS, SYMBOLS


@pytest.mark.parametrize(
    ("codes", "words"), [(0, "no code shared"), (1, "1 code shared"), (3, "3 codes shared")]
)
def test_shared_codes_in_words(codes: int, words: str) -> None:
    assert shared_words(codes) == words


def test_no_group_of_the_map_shares_colour_and_symbol_with_another() -> None:
    assert len(set(zip(COLOURS, SYMBOLS, strict=True))) >= MAP_GROUPS + 1
    assert WEBGL_FROM < 20_000
