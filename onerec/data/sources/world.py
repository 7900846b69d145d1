"""The built-in world as a dataset folder, and the truth that lies beside its log.

`truth/` holds the settings and everything that was drawn, so the world can answer later; no table
of the dataset holds any of it. The world counts its users and items itself, in an order that says
nothing; those numbers are the original ids of the dataset.
"""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from onerec.data.dataset import Content, Dataset, dataset_path, write_dataset
from onerec.data.sql import sql_path
from onerec.errors import DataError
from onerec.world import World, WorldConfig, make_world
from onerec.world.config import DAY_MS
from onerec.world.people import (
    ACTIVE_DEGREES,
    AGE_BANDS,
    CITY_TIERS,
    DEVICES,
    GENDERS,
    active_degree,
)
from onerec.world.response import BEHAVIOURS
from onerec.world.words import CATEGORY_NAMES

Ints = NDArray[np.int64]

WORLD = "world"
SOURCE = "onerec's built-in world"
LICENCE = "Apache-2.0"
# Of the default world. Results are compared on it: it may change only together with all of them.
FINGERPRINT = "4828dbd3b858a3b3cc37d1a823943e705fac4435a2407af4eca3d6f2bd3fa043"
_TRUTH, _SETTINGS, _ARRAYS = "truth", "world.json", "world.safetensors"


def make_world_dataset(
    name: str = WORLD,
    config: WorldConfig | None = None,
    home: Path | None = None,
    *,
    covers: bool = False,
) -> Dataset:
    """Simulate a world and write it as the dataset `name`.

    Args:
        config: default is the default world, whose fingerprint is frozen.
        covers: draw the pictures into `images/` as well (slower; they can be drawn at any time).
    """
    world = make_world(config)
    tokens, mask, modality, names = world.content_tokens()

    def extra_files(folder: Path) -> None:
        truth = folder / _TRUTH
        truth.mkdir()
        save_file(world.state(), truth / _ARRAYS)
        settings = json.dumps(world.config.as_dict(), indent=2)
        (truth / _SETTINGS).write_text(settings + "\n", encoding="utf-8")
        if covers:
            _write_covers(world, folder)

    return write_dataset(
        dataset_path(name, home),
        name,
        interactions(world),
        items(world),
        users(world),
        source=SOURCE,
        licence=LICENCE,
        counts={},
        content=Content(tokens, mask, modality, names),
        extra_files=extra_files,
        duplicates="keep",
    )


def _write_covers(world: World, folder: Path) -> None:
    """One small PNG per item, named by its index in the dataset."""
    with duckdb.connect() as connection:
        ids: Any = connection.execute(
            f"SELECT item_id FROM read_parquet({sql_path(folder / 'items.parquet')}) ORDER BY item"
        ).fetchnumpy()["item_id"]
    images = folder / "images"
    images.mkdir()
    for low in range(0, len(ids), 1_000):
        for row, picture in enumerate(world.covers(ids[low : low + 1_000]), start=low):
            (images / f"{row}.png").write_bytes(png(picture))


def png(picture: NDArray[np.uint8]) -> bytes:
    """A picture (height, width, 3) as the bytes of a PNG file, without a library for it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    height, width, _ = picture.shape
    unfiltered = np.zeros((height, 1 + 3 * width), dtype=np.uint8)  # each row begins with filter 0
    unfiltered[:, 1:] = picture.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(unfiltered.tobytes(), 6))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


def interactions(world: World) -> dict[str, NDArray[Any]]:
    """The log as columns of a dataset, (N,) each."""
    log = world.simulate()
    names = ("timestamp", *BEHAVIOURS, "play_ms", "duration_ms")
    return {"user_id": log["user"], "item_id": log["item"], **{name: log[name] for name in names}}


def items(world: World) -> pd.DataFrame:
    """What the platform shows of its videos, n rows."""
    catalogue = world.catalogue
    published = world.config.start_ms + (catalogue.published_day * float(DAY_MS)).astype(np.int64)
    return pd.DataFrame(
        {
            "item_id": np.arange(catalogue.n_items),
            "caption": world.captions(),
            "category": world.categories(),
            "tags": world.tags(),
            "author_id": catalogue.author,
            "duration_ms": catalogue.duration_ms,
            "published_at": published,
        }
    )


def users(world: World) -> pd.DataFrame:
    """What the platform knows of its users, U rows."""
    people = world.people
    degree = active_degree(people, world.config.stream("active degree"))
    return pd.DataFrame(
        {
            "user_id": np.arange(people.n_users),
            "age_band": np.array(AGE_BANDS)[people.age_band],
            "gender": np.array(GENDERS)[people.gender],
            "device": np.array(DEVICES)[people.device],
            "city_tier": np.array(CITY_TIERS)[people.city_tier],
            "active_degree": np.array(ACTIVE_DEGREES)[degree],
            "declared_category": np.array(CATEGORY_NAMES)[people.declared_category],
        }
    )


class KnownWorld:
    """A world and the dataset it left: the truth, addressed by the dataset's dense indices."""

    def __init__(self, world: World, dataset: Dataset) -> None:
        self.world = world
        self.dataset = dataset
        self.user = dataset.users["user_id"].to_numpy(np.int64)  # dense -> the world's number
        self.item = dataset.items["item_id"].to_numpy(np.int64)
        self._dense_item = np.argsort(self.item)

    def oracle(self, users: Ints, k: int, ends: Ints | None = None) -> Ints:
        """The k items most likely to be each user's next logged positive, (M, k) dense.

        Args:
            users: (M,) dense.
            ends: (M,) rows of the log; what stands before counts as history, and the row itself
                says when the user comes back. Default: where the last tenth of the log begins.
        """
        log = self.dataset.log
        if ends is None:
            time = log.columns["timestamp"]
            start, stop = log.offsets[users], log.offsets[users + 1]
            cut = np.sort(time)[int(0.9 * len(time))]
            before = np.concatenate([[0], np.cumsum(time < cut)])
            ends = start + before[stop] - before[start]
        rows, had = self._had(users, ends)
        seen = rows, self.item[had]
        days = self._days(users, ends)
        return self._dense_item[self.world.oracle(self.user[users], k, days, seen)]

    def truth(self, users: Ints, ends: Ints, items: Ints) -> dict[str, NDArray[np.float64]]:
        """What would come of showing items (M, K), dense, to users at the row `ends`: (M, K) each.

        See `World.truth`; earlier showings of an item count as repeats. -1 (no item) is worth 0.
        """
        there = items >= 0
        rows, had = self._had(users, ends)
        pairs = rows * self.dataset.n_items + had  # (H,)
        asked = np.arange(len(users))[:, None] * self.dataset.n_items + np.maximum(items, 0)
        pairs.sort()
        repeats = np.searchsorted(pairs, asked, side="right") - np.searchsorted(pairs, asked)
        found = self.world.truth(
            self.user[users], self.item[np.maximum(items, 0)], self._days(users, ends), repeats
        )
        return {name: value * there for name, value in found.items()}

    def truth_of_all(self, users: Ints, ends: Ints) -> dict[str, NDArray[np.float64]]:
        """The same of every item, by dense index: (M, n) each. Earlier showings count."""
        rows, had = self._had(users, ends)
        repeats = np.zeros((len(users), self.dataset.n_items), dtype=np.int64)
        np.add.at(repeats, (rows, self.item[had]), 1)
        found = self.world.truth_of_all(self.user[users], self._days(users, ends), repeats)
        return {name: value[:, self.item] for name, value in found.items()}

    def _days(self, users: Ints, ends: Ints) -> NDArray[np.float64]:
        """When the users come back: the time of row `ends`, or of their last one."""
        log = self.dataset.log
        start, stop = log.offsets[users], log.offsets[users + 1]
        at = np.clip(ends, start, np.maximum(stop - 1, start))
        days: NDArray[np.float64] = (
            log.columns["timestamp"][at] - self.world.config.start_ms
        ) / DAY_MS
        return days

    def _had(self, users: Ints, ends: Ints) -> tuple[Ints, Ints]:
        """What was shown before: place of the user and dense item, (H,) each."""
        log = self.dataset.log
        start = log.offsets[users]
        length = ends - start
        rows = np.repeat(np.arange(len(users)), length)
        place = np.arange(len(rows)) - np.repeat(np.cumsum(length) - length, length)
        return rows, log.item[np.repeat(start, length) + place].astype(np.int64)

    def random(self, users: Ints, k: int, generator: torch.Generator) -> Ints:
        """k different items for each user, all equally likely, (M, k) dense."""
        seed = int(torch.randint(2**62, (), generator=generator))
        return self.world.random(self.user[users], k, np.random.default_rng(seed))


def world_of(dataset: Dataset) -> KnownWorld | None:
    """The world that the dataset came from; None where it came from elsewhere."""
    truth = dataset.path / _TRUTH
    if not (truth / _SETTINGS).is_file():
        return None
    try:
        config = WorldConfig(**json.loads((truth / _SETTINGS).read_text(encoding="utf-8")))
        world = World.from_state(config, load_file(truth / _ARRAYS))
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise DataError(
            f"{truth}: damaged ({error}); make it again with `onerec data delete {dataset.name}` "
            f"and `onerec data get {dataset.name}`"
        ) from error
    return KnownWorld(world, dataset)
