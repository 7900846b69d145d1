"""Downloads that go on where they stopped, checksums, and archives that mean harm."""

import hashlib
import io
import socket
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from onerec.data.download import checksum, download, unpack, verify
from onerec.errors import DataError

BODY = bytes(range(256)) * 20_000  # 5 MB: several pieces
MD5 = "md5:" + hashlib.md5(BODY).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves BODY; breaks off after `break_after` bytes; may not know how to resume."""

    break_after = len(BODY)
    knows_ranges = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/archive.zip"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        self.server.asked.append(wanted)
        if self.path != "/archive.zip":
            self.send_error(404)
            return
        resumes = bool(wanted) and self.server.knows_ranges
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if resumes else 0
        if start >= len(BODY):
            self.send_error(416)
            return
        self.send_response(206 if resumes else 200)
        self.send_header("Content-Length", str(len(BODY) - start))
        self.end_headers()
        self.wfile.write(BODY[start : self.server.break_after])

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as one:
        thread = threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield one
        one.shutdown()
        thread.join()


def test_a_download_shows_progress_and_is_checked(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    target = download(
        server.url,
        tmp_path / "d" / "archive.zip",
        MD5,
        lambda done, total: seen.append((done, total)),
    )
    assert target.read_bytes() == BODY
    assert seen[-1] == (len(BODY), len(BODY))
    assert seen == sorted(seen)
    assert [path.name for path in target.parent.iterdir()] == ["archive.zip"]
    download(server.url, target, MD5)
    assert len(server.asked) == 1  # what is there is not fetched again


def test_an_interrupted_download_goes_on(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "archive.zip"
    server.break_after = 2_000_000
    with pytest.raises(DataError, match="run the same command again to go on"):
        download(server.url, target, MD5)
    assert not target.exists()
    server.break_after = len(BODY)
    seen: list[int] = []
    download(server.url, target, MD5, lambda done, _: seen.append(done))
    assert server.asked == ["", "bytes=2000000-"]
    assert seen[0] > 2_000_000
    assert target.read_bytes() == BODY


def test_a_server_that_cannot_resume_starts_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "archive.zip.part").write_bytes(b"x" * 1000)
    server.knows_ranges = False
    assert download(server.url, tmp_path / "archive.zip", MD5).read_bytes() == BODY


def test_a_partial_file_that_is_whole_is_taken(server: Server, tmp_path: Path) -> None:
    (tmp_path / "archive.zip.part").write_bytes(BODY)
    assert download(server.url, tmp_path / "archive.zip", MD5).read_bytes() == BODY


def test_a_wrong_checksum_is_refused_and_removed(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"md5 [0-9a-f]{32}, expected 0123"):
        download(server.url, tmp_path / "archive.zip", "md5:0123")
    assert list(tmp_path.iterdir()) == []


def test_an_address_that_does_not_answer(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing: cannot be fetched \(Not Found\).*--from PATH"):
        download(server.url.replace("archive.zip", "missing"), tmp_path / "a")
    with pytest.raises(DataError, match="cannot be fetched"):
        download("http://127.0.0.1:9/nobody-listens", tmp_path / "a")


def test_an_answer_that_is_no_http(tmp_path: Path) -> None:
    """http.client has errors of its own, which are no OSError."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"no HTTP at all\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/a"
        with pytest.raises(DataError, match=r"cannot be fetched .*run the same command again"):
            download(url, tmp_path / "a")
        thread.join()


def test_checksums(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"a")
    assert checksum(path) == "0cc175b9c0f1b6a831c399e269772661"
    verify(path, "")
    verify(path, "sha256:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb")
    with pytest.raises(DataError, match="damaged or another"):
        verify(path, "md5:0")


def zip_of(path: Path, members: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return path


def tar_of(path: Path, members: dict[str, str], link: tuple[str, str] | None = None) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, text in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
        if link is not None:
            member = tarfile.TarInfo(link[0])
            member.type, member.linkname = tarfile.SYMTYPE, link[1]
            archive.addfile(member)
    return path


@pytest.mark.parametrize("make", [zip_of, tar_of])
def test_only_what_is_asked_for_is_unpacked(make: object, tmp_path: Path) -> None:
    assert callable(make)
    archive = make(
        tmp_path / "a.bin", {"d/log_1.csv": "1", "d/other.csv": "2", "d/e/log_2.csv": "3"}
    )
    folder = tmp_path / "out"
    folder.mkdir()
    found = unpack(archive, folder, ["log_*.csv"])
    assert sorted(path.name for path in found) == ["log_1.csv", "log_2.csv"]
    assert sorted(path.name for path in folder.iterdir()) == ["log_1.csv", "log_2.csv"]
    assert (folder / "log_2.csv").read_text() == "3"


@pytest.mark.parametrize("make", [zip_of, tar_of])
@pytest.mark.parametrize("name", ["../evil.csv", "/tmp/evil.csv", "d/../../evil.csv", "C:/evil"])
def test_a_member_that_points_outside_refuses_the_whole(
    make: object, name: str, tmp_path: Path
) -> None:
    assert callable(make)
    archive = make(tmp_path / "a.bin", {"good.csv": "1", name: "2"})
    folder = tmp_path / "in" / "out"
    folder.mkdir(parents=True)
    with pytest.raises(DataError, match="would be written outside its folder"):
        unpack(archive, folder, ["*"])
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.bin", "in", "out"]


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    archive = tar_of(tmp_path / "a.tgz", {"good.csv": "1"}, link=("evil.csv", "/etc/passwd"))
    folder = tmp_path / "out"
    folder.mkdir()
    assert [path.name for path in unpack(archive, folder, ["*.csv"])] == ["good.csv"]


def test_what_is_no_archive_or_half_of_one(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(b"neither")
    with pytest.raises(DataError, match="cannot be unpacked"):
        unpack(path, tmp_path, ["*"])
    whole = tar_of(tmp_path / "a.tgz", {"good.csv": "1" * 10_000}).read_bytes()
    (tmp_path / "half.tgz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cannot be unpacked"):
        unpack(tmp_path / "half.tgz", tmp_path, ["*"])
