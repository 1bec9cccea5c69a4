"""Fetching and unpacking a corpus: resumed after any interruption, checked, and never half there."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import http.client
import lzma
import os
import re
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from narspeech.errors import NarspeechError
from narspeech.files import sync_folder

CHUNK = 1 << 20
TIMEOUT = 60.0
# Answers that may differ a moment later.
TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})

Opener = Callable[..., Any]


class DownloadError(NarspeechError):
    """A file cannot be fetched, is not the file that was expected, or cannot be unpacked."""


class _InterruptedError(Exception):
    """The connection ended early: worth another try from where it stopped."""


class _Expected(NamedTuple):
    """What the finished file must be: (algorithm, hex digest), bytes; None where unknown."""

    checksum: tuple[str, str] | None
    size: int | None


def download(
    url: str,
    target: Path,
    *,
    checksum: tuple[str, str] | None = None,
    size: int | None = None,
    unpack: bool = False,
    opener: Opener = urllib.request.urlopen,
    attempts: int = 5,
    pause: float = 1.0,
) -> Path:
    """The file at `url` as `target`, which exists only once it is complete and checked.

    What arrived before an interruption stays in `target` + ".part" and is continued, in this call (up to `attempts`
    tries in a row without a new byte, after `pause` seconds, then twice that, ...) or in the next. checksum:
    (algorithm of hashlib, hex digest); size: bytes; a file that is there already is checked too. unpack: the disk
    must have room to unpack it as well, taken to need as much again (sound hardly packs). opener: called like
    `urllib.request.urlopen(request, timeout=seconds)`. Progress goes to stderr. Raises DownloadError.
    """
    expected = _Expected(checksum, size)
    if not url.startswith(("http://", "https://")):
        raise DownloadError(f"expected an http or https address, received {url}")
    if target.exists():
        complaint = _complaint(target, expected)
        if complaint:
            raise DownloadError(f"expected {target} to be {url}, received {complaint}; remove it to fetch it again")
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    resumed = part.exists()
    _fetch(url, part, expected, unpack, opener, attempts, pause)
    complaint = _complaint(part, expected)
    if complaint and resumed:
        # The earlier piece may be of another version of the file or damaged: once more, from the start.
        part.unlink()
        _fetch(url, part, expected, unpack, opener, attempts, pause)
        complaint = _complaint(part, expected)
    if complaint:
        part.unlink()
        raise DownloadError(f"expected {url} unchanged, received {complaint}; try again later or another mirror")
    _sync(part)
    part.replace(target)
    sync_folder(target.parent)
    return target


def extract(archive: Path, folder: Path, *, inside: str = "") -> Path:
    """Unpack a tar archive (plain, gz, bz2 or xz) into `folder`, which is returned.

    inside: a folder of the archive whose content is taken, e.g. "LibriSpeech". Everything is unpacked beside its
    place first and renamed when the archive has been read to its end, so a folder that appears is whole; what is
    there already is kept, files of the same name are replaced. Members that point outside, devices and the like are
    refused. Raises DownloadError.
    """
    if not hasattr(tarfile, "data_filter"):
        raise DownloadError(
            "expected a Python whose tarfile unpacks safely, received an older one; update to 3.11.4 or later"
        )
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{archive.name}.unpacking"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        _unpack(archive, temporary)
        source = temporary / inside
        if not source.is_dir():
            raise DownloadError(f"expected the folder {inside} in {archive}, received an archive without it")
        _merge(source, folder)
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        raise DownloadError(
            f"expected a whole tar archive and room to unpack it in {folder}, received {archive}: {error}; "
            "free some disk, or remove the archive to fetch it again"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _fetch(
    url: str, part: Path, expected: _Expected, unpack: bool, opener: Opener, attempts: int, pause: float
) -> None:
    failures = 0
    with _bar() as bar:
        bar.console.print(f"fetching {url}", highlight=False, soft_wrap=True)
        task = bar.add_task(url.rsplit("/", 1)[-1], total=expected.size)
        while True:
            before = _size(part)
            try:
                _continue(
                    url,
                    part,
                    expected,
                    unpack,
                    opener,
                    lambda done, total: bar.update(task, completed=done, total=total),
                )
                return
            except _InterruptedError as error:
                failures = 1 if _size(part) > before else failures + 1
                if failures >= attempts:
                    raise DownloadError(
                        f"expected all of {url}, received {_size(part):,} bytes before it failed {failures} times "
                        f"in a row ({error}); check the connection and run the same again to continue"
                    ) from error
                time.sleep(pause * 2 ** (failures - 1))


def _continue(
    url: str, part: Path, expected: _Expected, unpack: bool, opener: Opener, report: Callable[[int, int | None], object]
) -> None:
    """One connection: append to `part` from where it stands until the file is complete."""
    have = _size(part)
    request = urllib.request.Request(url, headers={"User-Agent": "narspeech", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = opener(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:
            _judge(error, url, part, have)
        return
    except (OSError, http.client.HTTPException) as error:
        raise _InterruptedError(str(error)) from error
    with response:
        if response.status == 206:
            first, total = _content_range(response.headers.get("Content-Range", ""))
            if first != have:
                part.unlink()
                raise _InterruptedError(f"the server answered from byte {first} instead of {have}")
        else:
            have, total = 0, _integer(response.headers.get("Content-Length"))
        if expected.size is not None and total is not None and total != expected.size:
            raise DownloadError(
                f"expected {expected.size:,} bytes at {url}, received an offer of {total:,}; try another mirror"
            )
        _check_room(part.parent, (total or have) * (2 if unpack else 1) - have)
        report(have, total)
        _write(response, part, have, total, report)


def _write(
    response: Any, part: Path, have: int, total: int | None, report: Callable[[int, int | None], object]
) -> None:
    try:
        file = part.open("ab" if have else "wb")
    except OSError as error:
        raise DownloadError(f"expected to write {part}, received: {error}") from error
    with file:
        while True:
            try:
                chunk = response.read(CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise _InterruptedError(str(error)) from error
            if not chunk:
                break
            try:
                file.write(chunk)
                file.flush()
            except OSError as error:
                raise DownloadError(
                    f"expected to write {part}, received: {error}; free some disk and run it again"
                ) from error
            have += len(chunk)
            report(have, total)
    if total is not None and have < total:
        raise _InterruptedError(f"the connection closed after {have:,} of {total:,} bytes")


def _judge(error: urllib.error.HTTPError, url: str, part: Path, have: int) -> None:
    """What an HTTP error means: nothing is left to fetch (return), another try is worth it, or give up."""
    if error.code == 416 and have:
        _, total = _content_range(error.headers.get("Content-Range", ""))
        if total == have:
            return
        part.unlink()
        raise _InterruptedError(f"the server has no byte {have:,}")
    if error.code in TRANSIENT:
        raise _InterruptedError(f"HTTP {error.code} {error.reason}")
    raise DownloadError(
        f"expected a file at {url}, received HTTP {error.code} {error.reason}; check the address or mirror"
    )


def _content_range(header: str) -> tuple[int | None, int | None]:
    """(first byte, bytes of the whole file) of a Content-Range header such as "bytes 5-9/10" or "bytes */10"."""
    match = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", header.strip())
    return (_integer(match[1]), _integer(match[2])) if match else (None, None)


def _integer(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None


def _complaint(path: Path, expected: _Expected) -> str:
    """How the file differs from what was expected; empty when it does not."""
    if expected.size is not None and _size(path) != expected.size:
        return f"{_size(path):,} bytes instead of {expected.size:,}"
    if expected.checksum is None:
        return ""
    algorithm, digest = expected.checksum
    found = hashlib.new(algorithm)
    with _bar() as bar, bar.open(path, "rb", description=f"checking {path.name}") as file:
        while chunk := file.read(CHUNK):
            found.update(chunk)
    if found.hexdigest() == digest.lower():
        return ""
    return f"the {algorithm} checksum {found.hexdigest()} instead of {digest}"


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DownloadError(
            f"expected {needed / 1e9:.2f} GB free in {folder}, received {free / 1e9:.2f} GB; "
            "free some or choose another folder"
        )


def _unpack(archive: Path, folder: Path) -> None:
    with _bar() as bar, bar.open(archive, "rb", description=f"unpacking {archive.name}") as packed:
        plain = _decompressed(packed, archive.suffix)
        with tarfile.open(fileobj=plain, mode="r|") as tar:
            for member in tar:
                tar.extract(member, folder, filter="data")
        # Beyond the last member stands the compressor's own check sum.
        while plain.read(CHUNK):
            pass


def _decompressed(packed: IO[bytes], suffix: str) -> IO[bytes]:
    if suffix in (".gz", ".tgz"):
        return cast("IO[bytes]", gzip.open(packed))
    if suffix in (".xz", ".txz"):
        return lzma.open(packed)
    if suffix in (".bz2", ".tbz2"):
        return bz2.open(packed)
    return packed


def _merge(source: Path, folder: Path) -> None:
    for entry in sorted(source.iterdir()):
        place = folder / entry.name
        if place.is_dir() and entry.is_dir() and not entry.is_symlink():
            _merge(entry, place)
        else:
            entry.replace(place)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _bar() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
