"""The recordings that a command is given: files, stdin, folders, patterns, manifests, lists of names."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from narspeech.data.audio import Audio, load_audio
from narspeech.data.example import Example, read_manifest
from narspeech.data.recordings import load_example
from narspeech.errors import ManifestError, NarspeechError

STDIN = Path("-")
# What libsndfile reads, and FFmpeg, by the ends that names of such files have: what a folder is searched for.
SUFFIXES = (
    *".wav .flac .ogg .oga .opus .mp3 .aif .aiff .aifc .au .snd .caf .w64 .rf64 .sph .nist .voc".split(),  # noqa: SIM905
    *".m4a .m4b .mp4 .m4v .mov .3gp .webm .mkv .mka .aac .wma .wmv .amr .avi .flv .wv .spx .ogv".split(),  # noqa: SIM905
)


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A recording to be read. path: its file, "-" for stdin; place: where what is written of it belongs in a tree of
    outputs, without a suffix; example: the line of the manifest that it is, which may mean a part of the file."""

    id: str
    path: Path
    place: Path
    example: Example | None = None

    @property
    def is_file(self) -> bool:
        """Whether it is the whole of a file on disk."""
        return self.example is None and self.path != STDIN

    def load(self, rate: int) -> Audio:
        """Its sound at `rate`. Raises AudioError."""
        if self.example is not None:
            return load_example(self.example, rate)
        return load_audio(sys.stdin.buffer if self.path == STDIN else self.path, target_rate=rate)


def find_recordings(names: Sequence[str], *, recursive: bool = False, root: Path | None = None) -> list[Recording]:
    """The recordings that names mean: "-" is stdin, what ends in .jsonl a manifest; a folder stands for the sound files
    below it, by name, if `recursive`, and a name that is no file, with *, ? or [], for the files that match it.

    Places: of a manifest its ids, of what was found in a folder the path below it, of another file its path as it was
    given; or of all files the path below `root`. Raises NarspeechError and ManifestError.
    """
    return [recording for name in names for recording in _expanded(name, recursive, root)]


def named_file(name: str, root: Path | None = None) -> Recording:
    """The recording in a file, which need not exist; no name has a special meaning."""
    path = Path(name)
    if path == STDIN:  # given as ./-
        path = path.absolute()
    return Recording(id=_without_suffix(path).name, path=path, place=_place(path, None, root))


def read_names(source: str, *, null: bool = False) -> list[str]:
    """The file names in a file, or on stdin where `source` is "-": a line each, blank lines left out, or with a NUL
    after each. Bytes that are no UTF-8 are kept. Raises ManifestError."""
    try:
        content = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        raise ManifestError(f"expected a readable list of file names, received {error}: check --files-from") from None
    if null:
        return [os.fsdecode(name) for name in content.split(b"\0") if name]
    if b"\0" in content:
        raise ManifestError(f"expected a file name a line in {source}, received NUL characters: give --null")
    lines = [line.removesuffix(b"\r") for line in content.split(b"\n")]
    return [os.fsdecode(line) for line in lines if line.strip()]


def _expanded(name: str, recursive: bool, root: Path | None) -> Iterator[Recording]:
    path = Path(name)
    if name == "-":
        yield Recording(id="stdin", path=STDIN, place=Path("stdin"))
    elif os.path.isdir(name):  # unlike Path's, it takes a name that cannot be looked up for none
        yield from _in_folder(path, recursive, root)
    elif path.suffix.lower() == ".jsonl":
        yield from (_from_manifest(path, example) for example in read_manifest(path))
    elif not os.path.exists(name) and glob.has_magic(name):
        found = sorted(glob.glob(name, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute patterns
        if not found:
            raise NarspeechError(f"expected files that match {name}, received none: check the pattern")
        for match in found:
            yield from _expanded(match, recursive, root)
    else:
        yield named_file(name, root)


def _in_folder(folder: Path, recursive: bool, root: Path | None) -> Iterator[Recording]:
    if not recursive:
        raise NarspeechError(f"expected sound files, received the folder {folder}: give --recursive to go through it")

    def refuse(error: OSError) -> None:
        raise NarspeechError(f"expected folders that can be read, received {error}: mend it or name another") from error

    empty = True
    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(parent, name)
            # What starts with a dot is hidden: trash, thumbnails, the shadow files of a Mac.
            if path.suffix.lower() in SUFFIXES and not name.startswith("."):
                empty = False
                yield Recording(id=path.stem, path=path, place=_place(path, folder, root))
    if empty:
        known = ", ".join(SUFFIXES)
        raise NarspeechError(f"expected sound files below {folder} ({known}), received none: check the folder")


def _from_manifest(manifest: Path, example: Example) -> Recording:
    place = Path(example.id)
    if place.is_absolute() or ".." in place.parts or "\0" in example.id or not place.name:
        raise ManifestError(
            f"expected ids in {manifest} that can name a file, received {example.id!r}: "
            "rename it, or list the sound files instead"
        )
    return Recording(id=example.id, path=Path(example.audio), place=place, example=example)


def _place(path: Path, folder: Path | None, root: Path | None) -> Path:
    if root is not None:
        inside, above = _normal(path.absolute()), _normal(root.absolute())
        if not inside.is_relative_to(above):
            raise NarspeechError(f"expected files below --root {root}, received {path}: name a folder above it")
        return _without_suffix(inside.relative_to(above))
    if folder is not None:
        return _without_suffix(path.relative_to(folder))
    normal = _normal(path)
    if ".." in normal.parts:  # there is no place above the tree
        normal = _normal(path.absolute())
    return _without_suffix(normal.relative_to(normal.anchor))


def _normal(path: Path) -> Path:
    """Without detours; a link stays a link."""
    return Path(os.path.normpath(path))


def _without_suffix(path: Path) -> Path:
    """What ends another name, as in talk.2024, tells talks apart."""
    return path.with_suffix("") if path.suffix.lower() in SUFFIXES else path
