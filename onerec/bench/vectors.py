"""What quantisers are compared on: the rows of a file, or items of the built-in world."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from onerec.errors import DataError
from onerec.tokenizer.content import join_vectors, mean_pool
from onerec.world.catalogue import make_catalogue
from onerec.world.config import WorldConfig
from onerec.world.tokens import content_tokens


def world_vectors(items: int) -> Tensor:
    """(items, d): the world's content tokens, pooled and scaled as the tokenizer stage does."""
    config = WorldConfig(n_items=items)
    tokens, mask, _, _ = content_tokens(config, make_catalogue(config))
    return torch.from_numpy(join_vectors([(mean_pool(tokens, mask), 1.0)]))


def read_vectors(path: Path) -> Tensor:
    """(n, d) float32 of a .npy file.

    Raises:
        DataError: the file is not there, holds no matrix of numbers, has a row that is not finite
            in float32 or whose square is not, or rows that are all equal.
    """
    try:
        found = np.load(path, allow_pickle=False)
    except OSError as error:
        raise DataError(
            f"{path}: {error.strerror or error}; give a .npy file of shape (items, width)"
        ) from error
    except (ValueError, EOFError) as error:  # numpy would advise to trust the file
        raise DataError(
            f"{path}: no array of numbers; give a .npy file of shape (items, width)"
        ) from error
    if not isinstance(found, np.ndarray) or found.ndim != 2 or found.dtype.kind not in "fiu":
        raise DataError(f"{path}: holds no matrix of numbers; give an array (items, width)")
    if not found.size:
        raise DataError(f"{path}: an array {found.shape} has no numbers; give (items, width)")
    with np.errstate(over="ignore"):
        rows = found.astype(np.float32)
        squares = np.square(rows).sum(axis=1) * len(rows)  # what a sum over rows may come to
    if len(bad := np.flatnonzero(~np.isfinite(rows).all(axis=1))):
        raise DataError(f"{path}: row {bad[0]} has a value that is not finite; mend or drop it")
    if len(bad := np.flatnonzero(~np.isfinite(squares))):
        raise DataError(
            f"{path}: row {bad[0]} is so long that squares are not finite in float32; divide the "
            "rows by a number"
        )
    if (rows == rows[0]).all():
        what = "one row is there" if len(rows) == 1 else f"all {len(rows)} rows are equal"
        raise DataError(f"{path}: {what}; there is nothing to tell apart")
    return torch.from_numpy(rows)


def refuse_few(rows: int, held_out: float, codes: int, what: str) -> None:
    """Fewer rows than a level has codes, when a share of them is held out: each starts at a row.

    Raises:
        DataError: it says how many do.
    """
    seen = rows - max(1, int(held_out * rows))
    if seen < codes:
        enough = math.ceil(codes / (1 - held_out)) + 1
        raise DataError(
            f"{what}: of {rows:,} rows {seen:,} are fitted, fewer than {codes:,} codes; "
            f"give {enough:,} or more"
        )
