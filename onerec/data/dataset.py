"""A dataset is a folder of Parquet files: what is in it, and how it is opened, listed and deleted.

The events are in `log`, making the folder is in `write`, cutting the log into parts in `split`,
turning events into model inputs in `features` and `batches`.
Legend: n items, N_M content tokens per item, d their width.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load_file

from onerec.data.log import Interactions, positive_rows, read_log
from onerec.data.schema import BEHAVIOURS
from onerec.data.sql import columns_of, quote, sql_path
from onerec.data.write import FORMAT, NewDataset, TableLike, is_name, write_folder
from onerec.errors import DataError
from onerec.run_files import cursor

__all__ = [
    "BEHAVIOURS",
    "Content",
    "Dataset",
    "Interactions",
    "dataset_path",
    "delete_dataset",
    "home",
    "list_datasets",
    "open_dataset",
    "positive_rows",
    "write_dataset",
]

Array = npt.NDArray[Any]
LONGEST = 80  # characters of an id that is told: a whole history, given in its place, has millions


@dataclass(frozen=True)
class Content:
    """Content tokens of the items: tokens (n, N_M, d) float32, mask (n, N_M) bool, modality (N_M,)
    int64 into `names`."""

    tokens: Array
    mask: Array
    modality: Array
    names: tuple[str, ...]


@dataclass(frozen=True)
class Dataset:
    """An opened dataset folder. `info` is its dataset.json, `log` its events."""

    name: str
    path: Path
    info: dict[str, Any]
    log: Interactions

    @property
    def n_users(self) -> int:
        return self.log.n_users

    @property
    def n_items(self) -> int:
        return self.log.n_items

    @property
    def fingerprint(self) -> str:
        return str(self.info["fingerprint"])

    @property
    def behaviours(self) -> tuple[str, ...]:
        """The behaviours that the log knows anything of, in the order of BEHAVIOURS."""
        return tuple(name for name in BEHAVIOURS if name in self.log.columns)

    @cached_property
    def items(self) -> pd.DataFrame:
        """One row per item; row i is item i. A missing list is an empty one."""
        return _read_frame(self.path / "items.parquet")

    @cached_property
    def users(self) -> pd.DataFrame:
        """One row per user; row u is user u."""
        return _read_frame(self.path / "users.parquet")

    def content(self) -> Content | None:
        """The content tokens that came with the dataset, or None.

        Raises:
            DataError: the file cannot be read, lacks an array, or does not fit the items.
        """
        path = self.path / "content.safetensors"
        if not path.exists():
            return None
        try:
            arrays = load_file(path)
        except (OSError, SafetensorError) as error:
            raise DataError(f"{path}: cannot be read ({error}); make the dataset again") from error
        names = tuple(self.info.get("modalities", ()))
        _check_content(path, arrays, self.n_items, len(names))
        return Content(
            tokens=arrays["tokens"].astype(np.float32),
            mask=arrays["mask"].astype(bool),
            modality=arrays["modality"],
            names=names,
        )

    def user_index(self, ids: Iterable[object]) -> Array:
        """Dense indices (k,) int64 of original user ids, which are compared as text."""
        return _find(ids, self._user_rows, f"user of dataset {self.name!r}")

    def item_index(self, ids: Iterable[object]) -> Array:
        """Dense indices (k,) int64 of original item ids, which are compared as text."""
        return _find(ids, self._item_rows, f"item of dataset {self.name!r}")

    @cached_property
    def _user_rows(self) -> dict[str, int]:
        return {str(known): row for row, known in enumerate(self.users["user_id"])}

    @cached_property
    def _item_rows(self) -> dict[str, int]:
        return {str(known): row for row, known in enumerate(self.items["item_id"])}


def home() -> Path:
    """The folder of all data: ONEREC_HOME, else ./data."""
    return Path(os.environ.get("ONEREC_HOME") or "data")


def dataset_path(name: str, home_folder: Path | None = None) -> Path:
    """Where the dataset of that name stands or would stand."""
    return (home_folder or home()) / "datasets" / name


def open_dataset(name_or_path: str | Path, home: Path | None = None) -> Dataset:
    """Open a dataset by name (under `home`) or by the path of its folder.

    Raises:
        DataError: it is not there or damaged; the message says which command makes it.
    """
    path = Path(name_or_path)
    if not (path / "dataset.json").is_file():
        path = dataset_path(str(name_or_path), home)
    if not (path / "dataset.json").is_file():
        raise DataError(_missing(str(name_or_path), home))
    try:
        info = json.loads((path / "dataset.json").read_text(encoding="utf-8"))
        if info["format"] != FORMAT:
            raise DataError(f"{path}: format {info['format']}, this version reads {FORMAT}")
        return Dataset(
            name=info["name"],
            path=path,
            info=info,
            log=read_log(path / "interactions.parquet", info),
        )
    except (OSError, ValueError, KeyError, duckdb.Error) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{path}: damaged dataset ({reason}); delete it and import it again"
        ) from error


def list_datasets(home: Path | None = None) -> list[dict[str, Any]]:
    """The dataset.json of every finished dataset under `home`, by name."""
    found = []
    for file in sorted(dataset_path("", home).glob("[!.]*/dataset.json")):
        try:
            found.append({**json.loads(file.read_text(encoding="utf-8")), "path": str(file.parent)})
        except (OSError, ValueError):
            found.append({"name": file.parent.name, "path": str(file.parent), "damaged": True})
    return found


def delete_dataset(name: str, home: Path | None = None) -> None:
    """Remove a dataset folder; it disappears from the list at once."""
    path = dataset_path(name, home)
    if not is_name(name) or not path.is_dir():
        raise DataError(_missing(name, home))
    doomed = path.with_name(f".{name}.deleted")
    shutil.rmtree(doomed, ignore_errors=True)
    path.replace(doomed)
    shutil.rmtree(doomed)


def write_dataset(
    path: Path,
    name: str,
    interactions: TableLike,
    items: TableLike | None,
    users: TableLike | None,
    *,
    source: str,
    licence: str = "",
    mapping: dict[str, dict[str, str]] | None = None,
    ignored: dict[str, list[str]] | None = None,
    counts: dict[str, Any] | None = None,
    content: Content | None = None,
    extra_files: Callable[[Path], None] | None = None,
    unknown_items: str = "keep",
    duplicates: str = "merge",
    positive: str | None = None,
) -> Dataset:
    """Make a dataset folder out of tables with our column names, and open it.

    The folder is built beside `path` under a temporary name and renamed at the end: after a failure
    (a full disk included) nothing is left.

    Args:
        path: the folder to make, usually `dataset_path(name)`.
        interactions: `user_id`, `item_id`, and `timestamp` (ms) or `position`; behaviours as bool
            or 0/1, unknown as NULL, NaN or -1.
        items, users: one row per `item_id`, `user_id`; None where there is none.
        mapping: table -> ours -> theirs, for `describe`.
        ignored: table -> columns of the source that were not read.
        counts: what the source counted while reading.
        content: content tokens, row by row as `items`; they are put in the order of the dataset.
        extra_files: called with the temporary folder; may add files.
        unknown_items: `keep` gives an item that `items` lacks an empty row, `drop` drops its rows.
        duplicates: `merge` makes rows with the same user, item, time and position one, in which a
            behaviour holds where one of them shows it; `keep` leaves them.
        positive: the rule for positives, where the source knows better than the default.

    Raises:
        DataError: the name is taken, or the tables are no dataset.
    """
    new = NewDataset(
        name=name,
        source=source,
        licence=licence,
        mapping=mapping or {},
        ignored=ignored or {},
        counts=counts or {},
        unknown_items=unknown_items,
        duplicates=duplicates,
        positive=positive,
    )
    arrays = None
    if content is not None:
        arrays = {"tokens": content.tokens, "mask": content.mask, "modality": content.modality}
        new.modalities = list(content.names)
    write_folder(Path(path), new, interactions, items, users, arrays, extra_files)
    return open_dataset(path)


def _check_content(path: Path, arrays: dict[str, Array], items: int, names: int) -> None:
    """Tokens (n, N_M, d), mask (n, N_M) and modality (N_M,) of a file agree with the dataset."""
    if missing := [name for name in ("tokens", "mask", "modality") if name not in arrays]:
        raise DataError(f"{path}: has no array {missing[0]!r}; make the dataset again")
    tokens, mask, modality = arrays["tokens"], arrays["mask"], arrays["modality"]
    found = f"{path}: tokens {tokens.shape}, mask {mask.shape} and modality {modality.shape}"
    if tokens.ndim != 3 or mask.shape != tokens.shape[:2] or modality.shape != mask.shape[1:]:
        raise DataError(f"{found} do not agree; give (n, N_M, d), (n, N_M) and (N_M,)")
    if len(tokens) != items:
        raise DataError(f"{found} are of {len(tokens)} items, the dataset has {items}")
    if names and modality.size and not 0 <= modality.min() <= modality.max() < names:
        raise DataError(
            f"{path}: modality goes from {modality.min()} to {modality.max()}, "
            f"dataset.json names {names}; number them from 0"
        )


def _read_frame(path: Path) -> pd.DataFrame:
    with cursor() as connection:
        try:
            columns = [
                f"coalesce({quote(name)}, []) AS {quote(name)}"
                if type_.endswith("[]")
                else quote(name)
                for name, type_ in columns_of(connection, sql_path(path)).items()
            ]
            return connection.execute(f"SELECT {', '.join(columns)} FROM {sql_path(path)}").df()
        except duckdb.Error as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"{path}: cannot be read ({reason}); import it again") from error


def listed_ids(ids: Iterable[object], what: str) -> list[object]:
    """The ids as a list; one alone, which would be read letter by letter, is refused."""
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        raise DataError(f"{what} ids are asked for as a list: give [{ids!r}] instead of {ids!r}")
    return list(ids)


def _find(ids: Iterable[object], rows: dict[str, int], what: str) -> Array:
    wanted = listed_ids(ids, what.split()[0])
    found = [rows.get(str(one)) for one in wanted]
    for one, row in zip(wanted, found, strict=True):
        if row is None:
            known = f"ids look like {next(iter(rows))!r}" if rows else "it holds none"
            said = repr(one)
            said = f"{said[:LONGEST]}..." if len(said) > LONGEST else said
            raise DataError(f"{said} is no {what}; {known}")
    return np.array(found, dtype=np.int64)


def _missing(name: str, home_folder: Path | None) -> str:
    there: Sequence[str] = [info["name"] for info in list_datasets(home_folder)]
    known = f"there are {', '.join(there)}" if there else "there are none yet"
    return (
        f"no dataset {name!r} under {dataset_path('', home_folder)} ({known}); make it with "
        f"`onerec data get` or `onerec data import --interactions F --items F --name {name}`"
    )
