"""Every page says what its words mean, and no meaning stands there for nobody."""

import ast
from collections.abc import Callable
from pathlib import Path

import pytest
import words
from streamlit.testing.v1 import AppTest

PAGES = sorted((Path(__file__).resolve().parents[2] / "app" / "app_pages").glob("*.py"))


def named(page: Path) -> list[str]:
    """The words that a page asks for."""
    calls = [node for node in ast.walk(ast.parse(page.read_text())) if isinstance(node, ast.Call)]
    (found,) = (
        keyword.value
        for call in calls
        for keyword in call.keywords
        if ast.unparse(call.func) == "widgets.head" and keyword.arg == "words"
    )
    return list(ast.literal_eval(found))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_names_words_that_are_explained_each_once(page: Path) -> None:
    names = named(page)
    assert len(names) == len(set(names)) >= 5
    assert set(names) <= set(words.TERMS)


def test_every_meaning_stands_on_a_page_and_is_short() -> None:
    assert set(words.TERMS) == {name for page in PAGES for name in named(page)}
    assert list(words.TERMS) == sorted(words.TERMS, key=str.casefold)
    for name, meaning in words.TERMS.items():
        assert meaning.endswith("."), name
        assert 20 < len(meaning) <= 150, name


def test_a_page_shows_them(use_home: Callable[..., Path], finished: Path) -> None:
    use_home(finished)
    app = AppTest.from_file(str(PAGES[0].with_name("tokenizer.py")), default_timeout=60).run()
    assert not app.exception
    (said,) = (text.value for text in app.markdown if "**perplexity**" in text.value)
    assert said.splitlines() == sorted(said.splitlines(), key=str.casefold)
    assert "**attention**" not in said
