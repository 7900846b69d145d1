"""What an item says of itself in words: the text that a content encoder reads.

Title, caption, tags, category and brand, then any further column that holds sentences. Items of a
dataset without any such column get their categories as words (`author_id=17`), so that a hashed
encoder still has something to compress.
"""

import numpy as np
import pandas as pd

_FIRST = ("title", "caption", "tags", "category", "brand")
_NEVER = ("item", "item_id", "image", "author_id", "duration_ms", "published_at")
_SENTENCE = 25  # mean characters from which an unknown text column counts as prose


def item_texts(items: pd.DataFrame) -> tuple[list[str], list[str]]:
    """One text per row of `items`, and the names of the columns used (`name=` for categories)."""
    columns = [name for name in _FIRST if name in items.columns and items[name].notna().any()]
    columns += [
        str(name)
        for name in items.columns
        if name not in _FIRST and name not in _NEVER and _is_prose(items[name])
    ]
    prose = [name for name in columns if name not in ("tags", "category")]
    if prose or any(_has_letters(items[name]) for name in columns):
        parts = [items[name].map(_words) for name in columns]
        return _join(parts, len(items)), columns
    names = [
        str(name)
        for name in items.columns
        if name not in ("item", "item_id", "image", "published_at")
    ]
    names = [name for name in names if 1 < _as_text(items[name]).nunique() < len(items)]
    parts = [
        _as_text(items[name]).map(lambda v, n=name: "" if v == "" else f"{n}={v.replace(' ', '_')}")
        for name in names
    ]
    return _join(parts, len(items)), [f"{name}=" for name in names]


def _words(value: object) -> str:
    """A cell as words: lists flattened, missing values empty."""
    if isinstance(value, list | tuple | np.ndarray):
        return " ".join(dict.fromkeys(_words(part) for part in value if part is not None))
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return ""
    return str(value)


def _as_text(column: pd.Series) -> pd.Series:
    return column.map(_words)


def _has_letters(column: pd.Series) -> bool:
    return bool(_as_text(column).str.contains(r"[^\W\d_]", regex=True).any())


def _is_prose(column: pd.Series) -> bool:
    if not pd.api.types.is_string_dtype(column) and column.dtype != object:
        return False
    text = _as_text(column.dropna().head(1_000))
    if text.empty or text.str.contains("://").any():
        return False
    return bool(text.str.len().mean() >= _SENTENCE and text.nunique() > len(text) // 2)


def _join(parts: list[pd.Series], n: int) -> list[str]:
    if not parts:
        return [""] * n
    return [" ".join(filter(None, row)) for row in zip(*parts, strict=True)]
