"""Fetching an official archive: progress, resume, checksum; and opening one without harm.

A download goes to `<name>.part` and is renamed when its checksum holds. An interrupted one goes on
from where it stopped, if the server can.
"""

from __future__ import annotations

import hashlib
import http.client
import shutil
import tarfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import IO, TypeAlias

from onerec.errors import DataError

Progress: TypeAlias = Callable[[int, int | None], None]
"""Called with the bytes that are there and the bytes in all (None if unknown)."""

_CHUNK = 1 << 20
_TIMEOUT_SECONDS = 60


def checksum(path: Path, kind: str = "md5") -> str:
    """The hex digest of a file, read in pieces."""
    digest = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()


def verify(path: Path, expected: str) -> None:
    """Refuse a file whose checksum is not `kind:hex`; an empty `expected` asks nothing.

    Raises:
        DataError: it differs.
    """
    if not expected:
        return
    kind, _, digest = expected.partition(":")
    found = checksum(path, kind)
    if found != digest:
        raise DataError(
            f"{path}: {kind} {found}, expected {digest}; the file is damaged or another, remove it "
            "and get it again"
        )


def download(url: str, target: Path, expected: str = "", progress: Progress | None = None) -> Path:
    """Fetch `url` into the file `target`, going on from a partial one.

    Args:
        expected: "md5:..." or "sha256:..."; empty where the publisher names none.

    Raises:
        DataError: the address does not answer, the disk is full or the checksum differs. What was
            fetched stays for the next try, except after a wrong checksum.
    """
    if target.exists():
        verify(target, expected)
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".part")
    try:
        _fetch(url, partial, progress)
    except (OSError, urllib.error.URLError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or repr(error)
        raise DataError(
            f"{url}: cannot be fetched ({reason}); run the same command again to go on, or fetch "
            "it by hand and give --from PATH"
        ) from error
    try:
        verify(partial, expected)
    except DataError:
        partial.unlink()
        raise
    partial.replace(target)
    return target


def _fetch(url: str, partial: Path, progress: Progress | None) -> None:
    have = partial.stat().st_size if partial.exists() else 0
    headers = {"User-Agent": "onerec"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_SECONDS
        )
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # nothing is left to fetch: the checksum will tell
            return
        raise
    with answer:
        resumed = answer.status == 206
        have = have if resumed else 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else None
        with partial.open("ab" if resumed else "wb") as file:
            while block := answer.read(_CHUNK):
                file.write(block)
                have += len(block)
                if progress is not None:
                    progress(have, total)
    if total is not None and have < total:
        raise OSError(f"the connection ended after {have} of {total} bytes")


def unpack(archive: Path, folder: Path, patterns: Sequence[str]) -> list[Path]:
    """Unpack the members whose file name matches a pattern, flat, into `folder`.

    Only plain files are taken, and under their bare name; still an archive with any member that
    points outside is refused as a whole, because its maker meant harm.

    Raises:
        DataError: no archive, or a member that would be written outside its folder.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                return [
                    _write(zipped.open(one), folder / PurePosixPath(one).name)
                    for one in _chosen(archive, zipped.namelist(), patterns)
                ]
        with tarfile.open(archive) as tarred:
            members = {member.name: member for member in tarred}
            return [
                _write(tarred.extractfile(members[one]), folder / PurePosixPath(one).name)
                for one in _chosen(archive, list(members), patterns)
                if members[one].isfile()
            ]
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise DataError(f"{archive}: cannot be unpacked ({error}); get it again") from error


def _chosen(archive: Path, names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    for name in names:
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or (path.parts and ":" in path.parts[0]):
            raise DataError(
                f"{archive}: member {name!r} would be written outside its folder; nothing was "
                "unpacked, do not trust this archive"
            )
    return [
        name
        for name in names
        if any(fnmatch(PurePosixPath(name).name, pattern) for pattern in patterns)
    ]


def _write(source: IO[bytes] | None, path: Path) -> Path:
    assert source is not None  # only plain files are asked for
    with source, path.open("wb") as file:
        shutil.copyfileobj(source, file, _CHUNK)
    return path
