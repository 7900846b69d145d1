"""Words of others in Markdown: each sign that would do something is escaped, the rest stays."""

import pytest

from onerec import plain


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("![a](http://x/a.png)", r"!\[a\](http://x/a.png)"),
        ("a](http://x)", r"a\](http://x)"),  # it would close the link that it names
        ("$5 or $6", r"\$5 or \$6"),
        ("*a* `b` ~c~", r"\*a\* \`b\` \~c\~"),
        ("<b>5</b> & 6", r"\<b>5\</b> & 6"),
        (r"\[a](b)", r"\\\[a\](b)"),
        (":red[a] :blue 8:30", r"\:red\[a\] \:blue 8:30"),
        ("&lt; &#36; a&1", r"\&lt; \&#36; a&1"),
        ("_a_ __b__ c_d", r"\_a\_ \_\_b\_\_ c_d"),
        ("rsft_ecpo: 3 > 2, +0.5", "rsft_ecpo: 3 > 2, +0.5"),
        (3, "3"),
    ],
)
def test_markdown_in_words_does_nothing(words: object, shown: str) -> None:
    assert plain.text(words) == shown
