from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import re
import shutil
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest

from narspeech.data.download import DownloadError, download, extract

CONTENT = bytes(range(256)) * 8000  # two reads of the downloader, and not a whole number of them
DIGEST = hashlib.md5(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `content` with ranges, as badly as `flaws` says: one flaw a request, None for none."""

    protocol_version = "HTTP/1.1"
    content: ClassVar[bytes] = CONTENT
    flaws: ClassVar[list[str]] = []
    ranges: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        type(self).ranges.append(wanted)
        flaw = type(self).flaws.pop(0) if type(self).flaws else ""
        total = len(self.content)
        first = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and flaw != "no ranges" else 0
        if flaw.isdecimal():
            self.send_response(int(flaw))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if wanted and flaw != "no ranges" and first >= total:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{total}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        first = first - 1 if flaw == "wrong place" else first
        body = self.content[first:]
        self.send_response(206 if wanted and flaw != "no ranges" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Range", f"bytes {first}-{total - 1}/{total}")
        self.end_headers()
        if flaw == "truncated":
            body = body[: len(body) // 2]
            self.close_connection = True
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = False  # joined when the server closes

    def handle_error(self, *_: object) -> None:
        """A client that hangs up early is part of the tests."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Handler]]:
    handler = type("Fresh", (Handler,), {"flaws": [], "ranges": []})
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server(("127.0.0.1", 0), handler) as listening:
        handler.url = f"http://127.0.0.1:{listening.server_address[1]}/corpus.tar.gz"
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield handler
        listening.shutdown()
        thread.join()


def fetch(server: type[Handler], folder: Path, **options: object) -> Path:
    return download(server.url, folder / "new" / "corpus.tar.gz", pause=0.0, **options)


def test_a_whole_file_arrives_and_nothing_else_stays(server, tmp_path):
    path = fetch(server, tmp_path, checksum=("md5", DIGEST.upper()), size=len(CONTENT))
    assert path.read_bytes() == CONTENT
    assert [file.name for file in path.parent.iterdir()] == ["corpus.tar.gz"]
    assert fetch(server, tmp_path, checksum=("md5", DIGEST)) == path
    assert server.ranges == [None]


def test_a_partial_file_is_continued_by_range(server, tmp_path):
    part = tmp_path / "new" / "corpus.tar.gz.part"
    part.parent.mkdir()
    part.write_bytes(CONTENT[:1000])
    assert fetch(server, tmp_path, checksum=("md5", DIGEST)).read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-"]
    assert not part.exists()


def test_a_partial_file_that_is_complete_needs_no_byte(server, tmp_path):
    part = tmp_path / "new" / "corpus.tar.gz.part"
    part.parent.mkdir()
    part.write_bytes(CONTENT)
    assert fetch(server, tmp_path, checksum=("md5", DIGEST)).read_bytes() == CONTENT
    assert server.ranges == [f"bytes={len(CONTENT)}-"]


@pytest.mark.parametrize("stale", [b"x" * 1000, CONTENT + b"x"])
def test_a_partial_file_of_another_version_is_fetched_anew(server, tmp_path, stale):
    part = tmp_path / "new" / "corpus.tar.gz.part"
    part.parent.mkdir()
    part.write_bytes(stale)
    assert fetch(server, tmp_path, checksum=("md5", DIGEST)).read_bytes() == CONTENT


@pytest.mark.parametrize("flaw", ["no ranges", "wrong place"])
def test_a_server_that_ignores_the_range_is_believed_about_the_place(server, tmp_path, flaw):
    server.flaws.extend(["truncated", flaw])
    assert fetch(server, tmp_path, checksum=("md5", DIGEST)).read_bytes() == CONTENT


@pytest.mark.parametrize("flaw", ["truncated", "503", "429"])
def test_an_interruption_is_tried_again_from_where_it_stopped(server, tmp_path, flaw):
    server.flaws.append(flaw)
    assert fetch(server, tmp_path, checksum=("md5", DIGEST)).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={len(CONTENT) // 2}-" if flaw == "truncated" else None]


def test_only_tries_without_a_new_byte_count(server, tmp_path):
    server.flaws.extend(["truncated"] * 6)
    assert fetch(server, tmp_path, checksum=("md5", DIGEST), attempts=2).read_bytes() == CONTENT
    assert len(server.ranges) == 7


def test_giving_up_keeps_what_arrived_for_the_next_run(server, tmp_path):
    server.flaws.extend(["truncated", "503", "503"])
    with pytest.raises(DownloadError, match=r"1,024,000 bytes .* run the same again to continue"):
        fetch(server, tmp_path, checksum=("md5", DIGEST), attempts=3)
    assert not (tmp_path / "new" / "corpus.tar.gz").exists()
    assert fetch(server, tmp_path, checksum=("md5", DIGEST)).read_bytes() == CONTENT
    assert server.ranges[-1] == "bytes=1024000-"


def test_a_wrong_checksum_is_an_error_and_leaves_no_file(server, tmp_path):
    with pytest.raises(DownloadError, match=f"md5 checksum {DIGEST} instead of {'0' * 32}"):
        fetch(server, tmp_path, checksum=("md5", "0" * 32))
    assert list((tmp_path / "new").iterdir()) == []


def test_a_wrong_size_is_an_error_before_anything_is_fetched(server, tmp_path):
    with pytest.raises(DownloadError, match=r"expected 5 bytes .* 2,048,000"):
        fetch(server, tmp_path, size=5)
    assert list((tmp_path / "new").iterdir()) == []


def test_an_existing_file_that_is_another_is_not_replaced(server, tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "corpus.tar.gz").write_bytes(b"mine")
    with pytest.raises(DownloadError, match="remove it"):
        fetch(server, tmp_path, checksum=("md5", DIGEST))
    assert (tmp_path / "new" / "corpus.tar.gz").read_bytes() == b"mine"


def test_a_missing_file_is_told_at_once(server, tmp_path):
    server.flaws.append("404")
    with pytest.raises(DownloadError, match="HTTP 404"):
        fetch(server, tmp_path)
    assert server.ranges == [None]


def test_no_connection_is_one_sentence(tmp_path):
    def opener(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    with pytest.raises(DownloadError, match="no route to host"):
        download("http://nowhere.invalid/a", tmp_path / "a", opener=opener, attempts=2, pause=0.0)
    with pytest.raises(DownloadError, match="http or https"):
        download("file:///etc/hosts", tmp_path / "a")


@pytest.mark.parametrize(("unpack", "free", "fits"), [(False, 2_048_000, True), (True, 2_048_000, False)])
def test_a_full_disk_is_told_before_anything_is_fetched(server, tmp_path, monkeypatch, unpack, free, fits):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    if fits:
        assert fetch(server, tmp_path, unpack=unpack).read_bytes() == CONTENT
    else:
        with pytest.raises(DownloadError, match="GB free"):
            fetch(server, tmp_path, unpack=unpack)


def archive(path: Path, members: dict[str, bytes | tarfile.TarInfo], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    ("suffix", "mode"), [(".tar.gz", "w:gz"), (".tar.xz", "w:xz"), (".tar.bz2", "w:bz2"), (".tar", "w")]
)
def test_extract_merges_what_lies_inside(tmp_path, suffix, mode):
    packed = archive(tmp_path / f"a{suffix}", {"Top/part/one.txt": b"1", "Top/README": b"new", "other": b"x"}, mode)
    root = tmp_path / "root"
    (root / "part").mkdir(parents=True)
    (root / "part" / "kept.txt").write_bytes(b"kept")
    (root / "README").write_bytes(b"old")
    assert extract(packed, root, inside="Top") == root
    files = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert files == {"part/one.txt": b"1", "part/kept.txt": b"kept", "README": b"new"}


def test_extract_clears_what_a_killed_run_left(tmp_path):
    packed = archive(tmp_path / "a.tar.gz", {"part/one.txt": b"1"})
    left = tmp_path / "root" / ".a.tar.gz.unpacking" / "part"
    left.mkdir(parents=True)
    (left / "half.txt").write_bytes(b"")
    extract(packed, tmp_path / "root")
    assert [path.name for path in (tmp_path / "root").rglob("*")] == ["part", "one.txt"]


def link(target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo("part/link")
    member.type, member.linkname = tarfile.SYMTYPE, target
    return member


@pytest.mark.parametrize("evil", [{"../out.txt": b"1"}, {"part/link": link("/etc")}, {"part/link": link("../../out")}])
def test_extract_refuses_what_points_outside(tmp_path, evil):
    packed = archive(tmp_path / "a.tar.gz", {"part/good.txt": b"1"} | evil)
    with pytest.raises(DownloadError, match=r"a\.tar\.gz"):
        extract(packed, tmp_path / "root")
    assert list((tmp_path / "root").iterdir()) == []
    assert not (tmp_path / "out.txt").exists()


@pytest.mark.parametrize("kept", [0, 10, 0.5, -9, -1])
def test_a_truncated_archive_leaves_nothing(tmp_path, kept):
    whole = archive(tmp_path / "whole.tar.gz", {f"part/{n}.txt": str(n).encode() * 999 for n in range(50)}).read_bytes()
    packed = tmp_path / "a.tar.gz"
    packed.write_bytes(whole[: int(len(whole) * kept) if isinstance(kept, float) else kept])
    with pytest.raises(DownloadError, match="whole tar archive"):
        extract(packed, tmp_path / "root")
    assert list((tmp_path / "root").iterdir()) == []


def test_a_damaged_archive_or_one_of_something_else_is_an_error(tmp_path):
    packed = tmp_path / "a.tar.gz"
    packed.write_bytes(b"<html>not found</html>")
    with pytest.raises(DownloadError, match="whole tar archive"):
        extract(packed, tmp_path / "root")
    packed.write_bytes(gzip.compress(b"no tar at all" * 100))
    with pytest.raises(DownloadError, match="whole tar archive"):
        extract(packed, tmp_path / "root")
    archive(packed, {"part/one.txt": b"1"})
    with pytest.raises(DownloadError, match="expected the folder Top"):
        extract(packed, tmp_path / "root", inside="Top")
    with pytest.raises(DownloadError, match="missing"):
        extract(tmp_path / "missing.tar.gz", tmp_path / "root")
