"""What items of a dataset say and show, read for a content encoder.

Texts are the columns that `item_text` knows. Images are the cover and up to five frames: the file
that the column `image` names (relative to the dataset's folder), else `images/<row>.png` or `.jpg`;
then the files of the column `frames`, a list, five of them evenly chosen (as many as the paper's).
An image that is missing or cannot be read is left out, as are addresses of the web: what is not
here is not fetched. An item that has nothing else has no token; what was left out is counted where
tokens are made (`content_cache`).

Legend: n items, P pixels.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onerec.data.dataset import Dataset
from onerec.data.item_text import text_columns
from onerec.errors import DataError, RecipeError
from onerec.tokenizer.content import Image, ItemContent

FRAMES = 5
_UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, struct.error)  # what pillow raises
_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")


class ItemReader:
    """Reads items of a dataset by row, for an encoder of images with `pixels` on a side (0: none).

    Attributes:
        columns: the text columns read.
        paths: n lists of image files, which need not exist.

    Raises:
        RecipeError: images are asked for and the package pillow is not there.
        DataError: images are asked for and the dataset has none.
    """

    def __init__(self, dataset: Dataset, *, pixels: int = 0, texts: bool = True) -> None:
        self.dataset, self.pixels = dataset, pixels
        self._texts = text_columns(dataset.items) if texts else {}
        self.columns = list(self._texts)
        self.paths: list[list[Path]] = [[] for _ in range(len(self))]
        if pixels:
            self._pillow()
            self.paths = image_paths(dataset)
            if not any(self.paths):
                raise DataError(
                    f"dataset {dataset.name!r} has no images: neither a column `image` nor files "
                    f"{dataset.path / 'images'}/<row>.png; set content.images=false"
                )

    def __len__(self) -> int:
        """n items."""
        return self.dataset.n_items

    def digests(self) -> NDArray[np.uint8]:
        """(n, 32): a hash of what each item says and shows; equal content, equal hash."""
        result = np.empty((len(self), 32), dtype=np.uint8)
        for row, paths in enumerate(self.paths):
            digest = hashlib.sha256(f"{self.pixels}\n".encode())
            for name, texts in self._texts.items():
                text = texts[row].encode("utf-8", errors="replace")
                digest.update(f"{name}:{len(text)}:".encode() + text)
            for path in paths:
                data = _bytes(path)
                digest.update(f"image:{len(data)}:".encode() + hashlib.sha256(data).digest())
            result[row] = np.frombuffer(digest.digest(), dtype=np.uint8)
        return result

    def read(self, rows: Sequence[int]) -> ItemContent:
        """The content of some items."""
        texts = {name: [column[row] for row in rows] for name, column in self._texts.items()}
        return ItemContent(texts, [self._images(row) for row in rows])

    def _images(self, row: int) -> list[Image]:
        """Those of an item's images that can be read."""
        found = (self._decoded(_bytes(path)) for path in self.paths[row])
        return [image for image in found if image is not None]

    def unreadable(self, row: int) -> list[Path]:
        """Those of an item's files that are missing or no image."""
        return [path for path in self.paths[row] if self._decoded(_bytes(path)) is None]

    def _decoded(self, data: bytes) -> Image | None:
        """The middle square of a picture, (P, P, 3); None where it cannot be read."""
        pillow, ops = self._pillow()
        try:
            with pillow.open(io.BytesIO(data)) as picture:
                square = ops.fit(picture.convert("RGB"), (self.pixels, self.pixels))
        except (*_UNREADABLE, pillow.DecompressionBombError):
            return None
        return np.array(square, dtype=np.uint8)

    @staticmethod
    def _pillow() -> tuple[Any, Any]:
        try:
            return importlib.import_module("PIL.Image"), importlib.import_module("PIL.ImageOps")
        except ImportError as error:
            raise RecipeError(
                "reading images needs the package pillow; `pip install onerec[multimodal]`, "
                "or set content.images=false"
            ) from error


def image_paths(dataset: Dataset) -> list[list[Path]]:
    """The files of each item, cover first; see the module's docstring. They need not exist."""
    items, folder = dataset.items, dataset.path
    drawn = {path.stem: path for path in sorted((folder / "images").glob("*"))
             if path.suffix.lower() in _ENDINGS}  # fmt: skip
    covers = items["image"] if "image" in items.columns else [None] * len(items)
    frames = items["frames"] if "frames" in items.columns else [None] * len(items)
    result = []
    for row, (cover, more) in enumerate(zip(covers, frames, strict=True)):
        own = [folder / cover] if isinstance(cover, str) and _is_file(cover) else []
        if not own and str(row) in drawn:
            own = [drawn[str(row)]]
        names = [name for name in _listed(more) if _is_file(name)]
        chosen = np.linspace(0, len(names) - 1, min(FRAMES, len(names))).round().astype(int)
        result.append(own + [folder / names[place] for place in chosen])
    return result


def _listed(value: object) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list | tuple | np.ndarray) else []


def _is_file(name: str) -> bool:
    return bool(name.strip()) and "://" not in name


def _bytes(path: Path) -> bytes:
    """What a file holds, nothing where it is not there."""
    try:
        return path.read_bytes()
    except OSError:
        return b""
