"""Bringing data in: files of one's own, or an official archive by its name."""

from __future__ import annotations

import difflib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from onerec.data.dataset import Dataset, dataset_path, write_dataset
from onerec.data.dataset import home as default_home
from onerec.data.download import Progress, checksum, download, unpack, verify
from onerec.data.readers import Source
from onerec.data.sources import amazon, files, kuairand, movielens
from onerec.data.write import check_free
from onerec.errors import DataError

if TYPE_CHECKING:
    from onerec.world.config import WorldConfig

_GROUPLENS = "https://files.grouplens.org/datasets/movielens"
_ZENODO = "https://zenodo.org/records/10439422/files"
_LICENCES = {
    "amazon": "no explicit licence; offered for research, product text belongs to its sellers",
    "kuairand": "CC BY-SA 4.0",
    "movielens": "research use, no redistribution (see the README of the archive)",
}


@dataclass(frozen=True)
class Official:
    """A published dataset: address -> checksum (empty where none is published), and how it is read.

    `patterns` are the members of its archive that are read; none where the files are no archive.
    """

    files: Mapping[str, str]
    licence: str
    sources: Callable[[Path], dict[str, Source | None]]
    patterns: tuple[str, ...] = ()
    positive: str | None = None


def _movielens(name: str, md5: str) -> Official:
    url = {f"{_GROUPLENS}/{name}.zip": f"md5:{md5}"}
    return Official(url, _LICENCES["movielens"], movielens.sources, movielens.PATTERNS)


def _kuairand(name: str, md5: str) -> Official:
    url = {f"{_ZENODO}/{name}.tar.gz": f"md5:{md5}"}
    return Official(url, _LICENCES["kuairand"], kuairand.sources, kuairand.PATTERNS)


OFFICIAL = {
    "kuairand-pure": _kuairand("KuaiRand-Pure", "0820331067a3784d9691136f772b35a7"),
    "kuairand-1k": _kuairand("KuaiRand-1K", "6b0b9c8222d67fcd4c676218edca3f1f"),
    "kuairand-27k": _kuairand("KuaiRand-27K", "3e3c799a24e2d23a4d2c757fbf9adf59"),
    "ml-100k": _movielens("ml-100k", "0e33842e24a9c977be4e0107933c0723"),
    "ml-1m": _movielens("ml-1m", "c4d9eecfca2ab87c1945afe126590906"),
    "ml-25m": _movielens("ml-25m", "6b51fb2759a8657d3bfcbfc42b592ada"),
    "ml-32m": _movielens("ml-32m", "d472be332d4daa821edc399621853b57"),
}

ALIASES = {"beauty": "amazon-2014-Beauty"}


def official(name: str) -> Official:
    """What is known of a published dataset, e.g. `ml-1m` or `amazon-2014-Beauty`.

    Raises:
        DataError: the name is unknown; the message offers the nearest.
    """
    name = ALIASES.get(name, name)
    if name in OFFICIAL:
        return OFFICIAL[name]
    maker, _, rest = name.partition("-")
    year, _, category = rest.partition("-")
    if maker == "amazon" and year in amazon.YEARS and category:
        return Official(
            dict.fromkeys(amazon.addresses(year, category), ""),
            _LICENCES["amazon"],
            partial(amazon.sources, year=year, category=category),
            positive=amazon.POSITIVE,
        )
    names = ["world", *ALIASES, *OFFICIAL, *(f"amazon-{one}-CATEGORY" for one in amazon.YEARS)]
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise DataError(f"no published dataset {name!r}; {hint}there are {', '.join(names)}")


def get(
    published: str,
    /,
    source: Path | None = None,
    home: Path | None = None,
    progress: Progress | None = None,
    *,
    name: str | None = None,
    world: WorldConfig | None = None,
) -> Dataset:
    """Make a published dataset, fetched from its official address or taken from `source`.

    Args:
        published: see `official`; or `world`, which is made here and needs no network.
        source: an archive that is already there, or a folder with its files.
        home: the folder of all data; archives are kept in its `downloads`.
        progress: called while fetching.
        name: of the dataset; by default as it is published.
        world: settings of a world that is not the default one.

    Raises:
        DataError: it cannot be fetched, is damaged, or is no such dataset; or `world` is given for
            another than the world, or without a name.
    """
    name = name or published
    if published == "world":
        return _world(name, world, home)
    known = official(published)
    if world is not None:
        raise DataError(f"{published!r} is as it was published; only a world has --set")
    check_free(dataset_path(name, home), name)
    data = home or default_home()
    archives, folder = (
        _downloaded(data / "downloads", known, progress)
        if source is None
        else _given(Path(source), known)
    )
    said = [f"{url} ({_digest(url, known, archives)})" for url in known.files]
    data.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unpacked-", dir=data) as unpacked:
        if known.patterns and archives:
            folder = Path(unpacked)
            unpack(archives[0], folder, known.patterns)
        tables = known.sources(folder)
        interactions = tables["interactions"]
        assert interactions is not None
        return import_files(
            interactions,
            tables["items"],
            tables["users"],
            name=name,
            home=home,
            positive=known.positive,
            source=", ".join(said),
            licence=known.licence,
        )


def _world(name: str, config: WorldConfig | None, home: Path | None) -> Dataset:
    """The built-in world, under a name of its own where it is not the default one."""
    from onerec.data.sources.world import WORLD, make_world_dataset  # the simulation needs torch

    if config is not None and name == WORLD:
        raise DataError(f"{name!r} is the name of the default world; give another by --name")
    check_free(dataset_path(name, home), name)
    return make_world_dataset(name, config, home)


def _downloaded(
    folder: Path, known: Official, progress: Progress | None
) -> tuple[list[Path], Path]:
    """The archives of a dataset, fetched into a folder, and that folder."""
    archives = [
        download(url, folder / PurePosixPath(url).name, expected, progress)
        for url, expected in known.files.items()
    ]
    return archives, folder


def _given(source: Path, known: Official) -> tuple[list[Path], Path]:
    """The archives named by `--from`, checked, and the folder of files that need no unpacking."""
    if not source.exists():
        raise DataError(f"{source}: no such file or folder")
    if source.is_dir():
        wanted = [source / PurePosixPath(url).name for url in known.files]
        archives = [path for path in wanted if path.is_file()]
    else:
        archives = [source]
    if known.patterns:
        for path in archives:
            verify(path, next(iter(known.files.values())))
    return archives, source if source.is_dir() else source.parent


def _digest(url: str, known: Official, archives: list[Path]) -> str:
    """The checksum of a file: the published one, else its own, recorded for the next reader."""
    if known.files[url]:
        return known.files[url]
    name = PurePosixPath(url).name
    path = next((path for path in archives if path.name == name), None)
    return f"sha256:{checksum(path, 'sha256')}" if path else "not read"


def import_files(
    interactions: Path | Source,
    items: Path | Source | None = None,
    users: Path | Source | None = None,
    *,
    name: str,
    home: Path | None = None,
    columns: Mapping[str, str] | None = None,
    unknown_items: str = "keep",
    duplicates: str = "merge",
    positive: str | None = None,
    source: str = "",
    licence: str = "",
) -> Dataset:
    """Make the dataset `name` out of files; see `files.load` and `dataset.write_dataset`."""
    path = dataset_path(name, home)
    check_free(path, name)
    tables = files.load(interactions, items, users, columns)
    label = interactions.label if isinstance(interactions, Source) else Path(interactions).name
    return write_dataset(
        path,
        name,
        tables.interactions,
        tables.items,
        tables.users,
        source=source or label,
        licence=licence,
        mapping=tables.mapping,
        ignored=tables.ignored,
        counts=tables.counts,
        unknown_items=unknown_items,
        duplicates=duplicates,
        positive=positive,
    )
