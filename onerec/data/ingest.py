"""Bringing data in: files of one's own, or an official archive by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from onerec.data.dataset import Dataset, dataset_path, write_dataset
from onerec.data.readers import Source
from onerec.data.sources import files
from onerec.data.write import check_free


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
