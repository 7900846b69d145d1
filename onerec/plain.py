"""Words that others wrote (in a link, in a name, in an item's title), shown as they stand.

Pages and the `how` of a figure are Markdown: without this a link could put a picture of another
server into the page, two prices in a title would become a formula, and ":red" would be a colour.
A short code of an emoji, as ":tada:", stays one: no escape of Streamlit's stops it.
"""

import re

_ACTIVE = re.compile(r"[\\`*\[\]$~<]|[:&](?=[a-zA-Z#])|(?<![^\W_])_|_(?![^\W_])")


def text(words: object) -> str:
    """The words so that Markdown shows them as they stand; `_` within a name needs nothing."""
    return _ACTIVE.sub(r"\\\g<0>", str(words))
