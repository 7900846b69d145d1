"""Words that others wrote (in a link, in a name, in an item's title), shown as they stand.

Streamlit draws messages and titles as markdown: without this a link could put a picture of another
server into the page, and two prices in a title would become a formula.
"""

from __future__ import annotations

import re

_ACTIVE = re.compile(r"([\\`*\[$~])")


def text(words: object) -> str:
    """The words so that markdown shows them as they stand; `_` within a name needs nothing."""
    return _ACTIVE.sub(r"\\\1", str(words))
