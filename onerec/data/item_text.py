"""What an item says of itself in words: the text that a content encoder reads.

Title, caption, tags, category and brand, then any further column that holds sentences. Items of a
dataset without any such column get their categories as words (`author_id=17`), so that a hashed
encoder still has something to compress.
"""

import numpy as np
import pandas as pd

_FIRST = ("title", "caption", "tags", "category", "brand", "ocr", "asr")
_NO_CATEGORY = ("item", "item_id", "image", "frames", "published_at")
_NEVER = (*_NO_CATEGORY, "author_id", "duration_ms")
_SENTENCE = 25  # mean characters from which an unknown text column counts as prose
_DENSE = r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"  # kana, Chinese, hangul: as three letters


def item_texts(items: pd.DataFrame) -> tuple[list[str], list[str]]:
    """One text per row of `items`, and the names of the columns used (`name=` for categories)."""
    parts = text_columns(items)
    return _join(list(parts.values()), len(items)), list(parts)


def text_columns(items: pd.DataFrame) -> dict[str, list[str]]:
    """The text of each column used, "" where a row has none; `name=` for categories."""
    columns = [name for name in _FIRST if name in items.columns and _has_words(items[name])]
    columns += [
        str(name)
        for name in items.columns
        if name not in _FIRST and name not in _NEVER and _is_prose(items[name])
    ]
    prose = [name for name in columns if name not in ("tags", "category")]
    if prose or any(_has_letters(items[name]) for name in columns):
        return {name: items[name].map(_words).tolist() for name in columns}
    names = [str(name) for name in items.columns if name not in _NO_CATEGORY]
    texts = {name: _as_text(items[name]).tolist() for name in names}
    return {
        f"{name}=": [f"{name}={value.replace(' ', '_')}" if value else "" for value in column]
        for name, column in texts.items()
        if 1 < len(set(column)) < len(items)
    }


def empty_columns(items: pd.DataFrame) -> list[str]:
    """The columns made for words in which no item has one: they are there and not read."""
    return [name for name in _FIRST if name in items.columns and not _has_words(items[name])]


def same_columns(items: pd.DataFrame, columns: list[str]) -> dict[str, list[str]]:
    """The texts of other items in the columns that `text_columns` named; "" where one lacks."""
    found = {}
    for column in columns:
        name = column.removesuffix("=")
        words = [""] * len(items)
        if name in items.columns:
            words = items[name].map(_words).tolist()
        if column != name:
            words = [f"{name}={word.replace(' ', '_')}" if word else "" for word in words]
        found[column] = words
    return found


def as_one(texts: dict[str, list[str]], n: int) -> list[str]:
    """The texts of n items in several columns as one text each."""
    return _join(list(texts.values()), n)


def _words(value: object) -> str:
    """A cell as words: lists flattened, missing values empty."""
    if isinstance(value, np.ma.MaskedArray):  # a list with gaps, as it comes from Parquet
        value = value.compressed()
    if isinstance(value, list | tuple | np.ndarray):
        parts = (_words(part) for part in value if part is not None)
        return " ".join(part for part in dict.fromkeys(parts) if part)
    if (
        value is None
        or value is pd.NA
        or (isinstance(value, float | np.floating) and np.isnan(value))
    ):
        return ""
    return str(value)


def _as_text(column: pd.Series) -> pd.Series:
    return column.map(_words)


def _has_words(column: pd.Series) -> bool:
    return bool(_as_text(column).str.strip().ne("").any())


def _has_letters(column: pd.Series) -> bool:
    return bool(_as_text(column).str.contains(r"[^\W\d_]", regex=True).any())


def _is_prose(column: pd.Series) -> bool:
    if not pd.api.types.is_string_dtype(column) and column.dtype != object:
        return False
    text = _as_text(column.dropna().head(1_000))
    if text.empty or text.str.contains("://").any():
        return False
    length = text.str.len() + 2 * text.str.count(_DENSE)
    return bool(length.mean() >= _SENTENCE and text.nunique() > len(text) // 2)


def _join(parts: list[list[str]], n: int) -> list[str]:
    if not parts:
        return [""] * n
    return [" ".join(filter(None, row)) for row in zip(*parts, strict=True)]
