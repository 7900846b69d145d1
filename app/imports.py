"""Importing uploads: check what was sent, propose a column mapping, hand over to the library.

The name of an upload is never used and its ending never trusted: a Parquet file is known by its
first bytes, anything else has to read as CSV.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import duckdb
import places

from onerec.data import schema
from onerec.errors import DataError

TABLES = ("interactions", "items", "users")
ORDERS = ("timestamp", "position")
SOURCE = "uploaded in the app"
LIMIT_BYTES = 50 * 1024 * 1024  # as server.maxUploadSize, checked again here
NAME_AN_ORDER = "name one with --column timestamp=THEIRS or --column position=THEIRS"
OTHERS = {  # by their first bytes
    b"PK\x03\x04": "an Excel workbook or a zip archive",
    b"\xd0\xcf\x11\xe0": "an Excel workbook",
    b"[": "JSON",
    b"{": "JSON",
}


def columns(content: bytes, table: str) -> list[str]:
    """The column names of an upload.

    Raises:
        DataError: empty, too large, or neither Parquet nor CSV.
    """
    with tempfile.TemporaryDirectory() as folder, duckdb.connect() as connection:
        path = _save(Path(folder), table, content)
        reader = "read_parquet" if path.suffix == ".parquet" else "read_csv"
        try:
            rows = connection.execute(f"DESCRIBE SELECT * FROM {reader}(?)", [str(path)]).fetchall()
        except duckdb.Error as error:
            if path.suffix == ".csv" and _other_letters(content):
                raise DataError(
                    f"{table}: its letters are not in UTF-8 (GBK or Latin-1?); save the table as "
                    "“CSV UTF-8” and choose it again"
                ) from None
            kind = {"read_csv": "CSV", "read_parquet": "Parquet"}[reader]
            first = str(error).splitlines()[0].replace(f"{folder}/", "")[:160]
            raise DataError(
                f"{table}: not readable as {kind}; choose a table saved as CSV with a line of "
                f"column names, or as Parquet ({first})"
            ) from None
    names = [str(row[0]) for row in rows]
    if len(names) < 2:
        raise DataError(
            f"{table}: only one column, “{names[0][:40]}”; is it CSV with a line of column names?"
        )
    return names


def proposal(table: str, names: list[str]) -> dict[str, str]:
    """Ours -> theirs, as the library would map these columns by itself; "" where it would not."""
    found: dict[str, str] = {}
    for field in schema.TABLES[table]:  # type: ignore[index]
        spelled = {schema.simplify(field.name), *field.aliases}
        if field.required and table != "interactions":
            spelled.add("id")
        match = (n for n in names if schema.simplify(n) in spelled and n not in found.values())
        found[field.name] = next(match, "")
    return found


def required(table: str) -> list[str]:
    return [field.name for field in schema.TABLES[table] if field.required]  # type: ignore[index]


def unanswered(table: str, mapping: Mapping[str, str]) -> list[str]:
    """What the table needs and no column was chosen for; of the two orders one is enough."""
    missing = [ours for ours in required(table) if not mapping[ours]]
    if table == "interactions" and not any(mapping[ours] for ours in ORDERS):
        missing.append(" or ".join(ORDERS))
    return missing


def run(name: str, uploads: Mapping[str, bytes], mapping: Mapping[str, Mapping[str, str]]) -> str:
    """Import the uploads as dataset `name`; returns its name in the app.

    Raises:
        DataError: with file, row and column, as the library says it.
    """
    from onerec.data.ingest import import_files

    with tempfile.TemporaryDirectory() as folder:
        paths = {table: _save(Path(folder), table, data) for table, data in uploads.items()}
        try:
            dataset = import_files(
                paths["interactions"],
                paths.get("items"),
                paths.get("users"),
                name=name,
                home=places.home(),
                columns=overrides(mapping),
                source=SOURCE,
            )
        except DataError as error:
            raise DataError(_for_the_form(str(error), folder)) from None
    return str(dataset.name)


def _for_the_form(message: str, folder: str) -> str:
    """The library's words, with what to do in the form in place of options of the command line."""
    message = message.replace(f"{folder}/", "").replace(f"{SOURCE}:", "this upload:")
    message = message.replace(NAME_AN_ORDER, "choose a column for one of them above")
    message = re.sub(r"name it with --column (\w+)=THEIRS", r"choose it for \1 above", message)
    message = re.sub(r"is --column (\w+)=THEIRS needed", r"is another column the \1", message)
    return re.sub(r"; mend it$", "; mend the file and choose it again", message)


def overrides(mapping: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """The mapping as the library takes it: `table.ours` -> theirs, "" leaves ours out."""
    return {
        f"{table}.{ours}": theirs
        for table, columns in mapping.items()
        for ours, theirs in columns.items()
    }


def _other_letters(content: bytes) -> bool:
    """Whether this is text, but in another encoding than UTF-8."""
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return b"\0" not in content
    return False


def _save(folder: Path, table: str, content: bytes) -> Path:
    if not content:
        raise DataError(f"{table}: the file is empty; choose another")
    if len(content) > LIMIT_BYTES:
        raise DataError(
            f"{table}: {len(content) / 2**20:.0f} MB is above {LIMIT_BYTES // 2**20} MB; "
            "use `onerec data import` in a terminal for larger files"
        )
    for start, kind in OTHERS.items():
        if content.startswith(start):
            raise DataError(f"{table}: this looks like {kind}; save the table as CSV and choose it")
    path = folder / (f"{table}.parquet" if content[:4] == b"PAR1" else f"{table}.csv")
    path.write_bytes(content)
    return path
