"""Content tokens of a dataset's items, encoded once: batch by batch, kept by a hash of the content.

A cache is a folder per encoder with parts, safetensors files of the tokens, the mask and the hashes
of some items. A part is written after each batch, so a process that is stopped goes on where it
was, another run or dataset with the same items finds them, and an item whose text or image changes
is encoded again. A part that is damaged counts as not there. Deleting the folder costs time alone.

Legend: n items, N_M tokens of an item, d their width.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from onerec.data.item_content import ItemReader
from onerec.errors import DataError
from onerec.tokenizer.content import ContentEncoder, Precomputed

FORMAT = 1
BATCH = 256  # items of a part
_NAMES = ("tokens", "mask", "images")

Array = npt.NDArray[Any]
Tell = Callable[[int, int], None]
"""Items that are encoded, of how many that had to be."""


@dataclass(frozen=True)
class Encoded:
    """Tokens of all items, how many of each one's images were read (n,), and how many different
    items were `encoded` now and `found` in the cache."""

    content: Precomputed
    images: Array
    encoded: int
    found: int


def encode_items(
    encoder: ContentEncoder,
    reader: ItemReader,
    folder: Path | None = None,
    tell: Tell = lambda done, of: None,
    batch: int = BATCH,
) -> Encoded:
    """Content tokens of all items of a dataset; items of equal content are encoded once.

    Args:
        folder: of all caches; without one nothing is kept.
        tell: called after each batch, and may raise to stop; what was encoded until then is kept.

    Raises:
        DataError: an item whose tokens are not finite, or a disk that is full.
    """
    keys, first, inverse = np.unique(
        reader.digests(), axis=0, return_index=True, return_inverse=True
    )
    parts = _Parts(None if folder is None else folder / _folder_name(encoder), len(keys))
    parts.find({key.tobytes(): place for place, key in enumerate(keys)})
    missing = np.flatnonzero(parts.part < 0)
    missing = missing[np.argsort(first[missing], kind="stable")]  # in the order of the items
    for begin in range(0, len(missing), batch):
        some = missing[begin : begin + batch]
        parts.add(some, keys[some], *_encoded(encoder, reader, first[some].tolist()))
        tell(begin + len(some), len(missing))
    content, images = parts.gather(inverse.reshape(-1), encoder)
    return Encoded(content, images, len(missing), len(keys) - len(missing))


def _encoded(
    encoder: ContentEncoder, reader: ItemReader, rows: list[int]
) -> tuple[Precomputed, Array]:
    """Tokens of some items, and how many images of each were read."""
    content = reader.read(rows)
    try:
        encoded = encoder.encode(content)
    except DataError as error:
        raise _named(error, encoder, reader, rows) from error
    assert encoded.tokens.shape[::2] == (len(rows), encoder.dim)
    return encoded, np.array([len(images) for images in content.images], dtype=np.int64)


def _named(
    error: DataError, encoder: ContentEncoder, reader: ItemReader, rows: list[int]
) -> DataError:
    """The error with the item that it is about: the first that fails alone, else the batch."""
    ids = reader.dataset.items["item_id"]
    if len(rows) > 1:
        for row in rows:
            try:
                encoder.encode(reader.read([row]))
            except DataError as own:
                return DataError(f"item {ids.iloc[row]}: {encoder.name}: {own}")
        return DataError(
            f"items {ids.iloc[rows[0]]} to {ids.iloc[rows[-1]]}: {encoder.name}: {error}"
        )
    return DataError(f"item {ids.iloc[rows[0]]}: {encoder.name}: {error}")


def _folder_name(encoder: ContentEncoder) -> str:
    return hashlib.sha256(f"{FORMAT}\n{encoder.name}".encode()).hexdigest()[:16]


class _Parts:
    """Parts in a folder or, without one, in memory; `part` says where each of `count` items is."""

    def __init__(self, folder: Path | None, count: int) -> None:
        self.folder = folder
        self.part, self.row = np.full(count, -1), np.zeros(count, dtype=np.int64)
        self.arrays: list[dict[str, Array]] = []

    def find(self, wanted: dict[bytes, int]) -> None:
        """Read what is there of the wanted hashes, each with its place among all."""
        for path in [] if self.folder is None else sorted(self.folder.glob("*.safetensors")):
            try:
                with safe_open(path, framework="np") as file:
                    keys = [key.tobytes() for key in file.get_tensor("keys")]
                    rows = [row for row, key in enumerate(keys) if key in wanted]
                    if rows:
                        arrays = {name: file.get_tensor(name) for name in _NAMES}
                        self._keep([wanted[keys[row]] for row in rows], rows, arrays)
            except (OSError, SafetensorError):
                continue

    def add(self, places: Array, keys: Array, encoded: Precomputed, images: Array) -> None:
        """A new part."""
        arrays = {
            "tokens": np.ascontiguousarray(encoded.tokens),
            "mask": np.ascontiguousarray(encoded.mask, dtype=bool),
            "images": images,
        }
        self._keep(places, np.arange(len(places)), arrays)
        if self.folder is None:
            return
        name = hashlib.sha256(keys.tobytes()).hexdigest()[:24]
        path = self.folder / f"{name}.safetensors"
        temporary = path.with_name(f".{name}.{os.getpid()}.tmp")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file({**arrays, "keys": np.ascontiguousarray(keys)}, temporary)
            os.replace(temporary, path)
        except (OSError, SafetensorError) as error:
            raise DataError(f"{path}: cannot be written ({error}); free some disk space") from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()

    def gather(self, items: Array, encoder: ContentEncoder) -> tuple[Precomputed, Array]:
        """Content and images read of items (n,), given by place; parts may differ in N_M.

        N_M is what these items need: a part may hold others, of another dataset, with more tokens.
        """
        width = max(self._widths(), default=0)
        kind = self.arrays[0]["tokens"].dtype if self.arrays else np.float16
        tokens = np.zeros((len(items), width, encoder.dim), dtype=kind)
        mask, images = np.zeros(tokens.shape[:2], dtype=bool), np.zeros(len(items), dtype=np.int64)
        for number, arrays in enumerate(self.arrays):
            to = np.flatnonzero(self.part[items] == number)
            rows, own = self.row[items[to]], min(width, arrays["mask"].shape[1])
            tokens[to, :own] = arrays["tokens"][rows, :own]
            mask[to, :own] = arrays["mask"][rows, :own]
            images[to] = arrays["images"][rows]
        return Precomputed(tokens, mask, encoder.name), images

    def _widths(self) -> Iterator[int]:
        """Places up to the last token of an item that is taken, of each part."""
        for number, arrays in enumerate(self.arrays):
            used = arrays["mask"][self.row[self.part == number]].any(axis=0)
            yield int(np.flatnonzero(used).max(initial=-1)) + 1

    def _keep(self, places: Any, rows: Any, arrays: dict[str, Array]) -> None:
        self.part[places], self.row[places] = len(self.arrays), rows
        self.arrays.append(arrays)
