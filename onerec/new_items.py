"""Content vectors of items that came after the tokenizer, as those of its own items were made.

What was learned then (n-grams, QFormer, how parts are joined) is read from the run. Nobody has
touched a new item yet: where vectors have a part of co-consumption, it stands at the mean of the
items that were fitted, as an item without a text stands at the mean of the texts.

Shapes: m new items, d the width of the run's vectors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from onerec.assembly import Setting, trained_item_qformer
from onerec.checkpoint import load_tensors
from onerec.data.item_text import as_one, same_columns
from onerec.errors import DataError, RunError
from onerec.model.item_qformer import item_vectors
from onerec.runs import Run
from onerec.tokenizer.content import (
    CO_CONSUMPTION,
    HASHED,
    OWN_TOKENS,
    QFORMER,
    ItemContent,
    Joining,
    Precomputed,
    mean_pool,
    one_token_each,
)
from onerec.tokenizer.text_encoders import MINILM, HashedNgrams, SentenceEmbeddings, TextTokens

Vectors = NDArray[np.float32]
SENTENCE = "sentence text"  # of the report's parts
READABLE = [[OWN_TOKENS], ["hashed text"], [SENTENCE]]


def new_item_vectors(
    setting: Setting, run: Run, items: pd.DataFrame, tokens: Precomputed | None = None
) -> Vectors:
    """Vectors (m, d) float32 for the quantiser of a run.

    Args:
        items: a row for each, with the text columns that the run's tokenizer read.
        tokens: where it read the dataset's own content tokens: theirs.

    Raises:
        RunError: the run has no tokenizer, or one from before this could be done.
        DataError: tokens that are missing or do not fit, or items that the run reads images of.
    """
    path, report = run.path / "tokenizer" / "content.safetensors", run.report()
    if report is None or not run.is_done("tokenize"):
        raise RunError(
            f"run {run.name!r} has no tokenizer yet; `onerec tokenize --run {run.name}` makes it"
        )
    if not path.exists():
        raise RunError(
            f"run {run.name!r} was tokenized before what encodes new items was kept; start a new "
            "run, or give their vectors"
        )
    state, made = load_tensors(path), []
    parts = report["content"]
    means = [state[f"mean_{place}"].double().numpy() for place in range(len(parts))]
    scales = [float(state[f"scale_{place}"]) for place in range(len(parts))]
    for part, mean in zip(parts, means, strict=True):
        if part["part"] == CO_CONSUMPTION:
            made.append(np.tile(mean, (len(items), 1)))
            continue
        said = part["reads"] if part["part"] == QFORMER else [part]
        if [one["part"] for one in said] not in READABLE:
            raise DataError(
                f"run {run.name!r} reads {' and '.join(one['part'] for one in said)} of its items, "
                "which cannot be made for new ones here: give their vectors"
            )
        content = _content(setting, said[0], state, items, tokens, part["part"] == QFORMER)
        there = content.mask.astype(bool).any(axis=1)
        vectors = np.tile(mean, (len(items), 1))
        if there.any():
            known = content.take(np.flatnonzero(there))
            if part["part"] == QFORMER:
                vectors[there] = item_vectors(trained_item_qformer(run), known)
            else:
                vectors[there] = mean_pool(known.tokens, known.mask)
        made.append(vectors)
    return Joining(tuple(means), tuple(scales)).join(made)


def in_words(n: int) -> str:
    """1 -> "1 new item", 2 -> "2 new items"."""
    return f"{n:,} new item{'' if n == 1 else 's'}"


def textless(run: Run, items: pd.DataFrame) -> list[str]:
    """Says how many of new items have no text that the run reads; nothing where all have one.

    They get the codes of an item without a text. For runs that `new_item_vectors` reads texts for.
    """
    columns: list[str] = []
    for part in (run.report() or {}).get("content", []):
        for one in part["reads"] if part["part"] == QFORMER else [part]:
            columns += one.get("columns") or []
    texts = as_one(same_columns(items, columns), len(items))
    if not (empty := texts.count("")):
        return []
    read = ", ".join(column.removesuffix("=") for column in columns)
    reads = f"reads {read}" if read else "reads no text of an item"
    return [
        f"{empty:,} of {in_words(len(items))} without text: this run {reads}; such an item gets "
        "the codes of one that says nothing"
    ]


def _content(
    setting: Setting,
    part: dict[str, Any],
    state: dict[str, torch.Tensor],
    items: pd.DataFrame,
    tokens: Precomputed | None,
    apart: bool,
) -> Precomputed:
    """Content tokens of the new items from one source; `apart`: each text in tokens of its own."""
    if part["part"] == OWN_TOKENS:
        need = "needs" if len(items) == 1 else "need"
        needed = f"{in_words(len(items))} {need} content tokens, as the dataset's items have"
        if tokens is None:
            raise DataError(
                f"{needed}, which no table holds: in Python give with_items(items, vectors=...) "
                "what new_item_vectors(setting, run, items, tokens) makes of theirs; or start a "
                "run that reads texts, with `--set content.tokens_weight=0`"
            )
        if len(tokens.mask) != len(items):
            raise DataError(f"{needed}; given are those of {len(tokens.mask)}")
        return tokens
    texts = same_columns(items, part["columns"])
    encoder: HashedNgrams | SentenceEmbeddings
    if part["part"] == SENTENCE:
        encoder = SentenceEmbeddings(setting.recipe.content.model or MINILM)
    else:
        own = {k.removeprefix(HASHED): v for k, v in state.items() if k.startswith(HASHED)}
        encoder = HashedNgrams.from_state(own)
    if apart:
        return TextTokens(encoder).encode(ItemContent(texts, [[] for _ in range(len(items))]))
    return one_token_each(encoder.encode(as_one(texts, len(items))))
