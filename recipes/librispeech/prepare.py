"""LibriSpeech and mini-LibriSpeech: one manifest a part, fetched from OpenSLR where a part is missing.

python recipes/librispeech/prepare.py --data DIR --out DIR --parts train-clean-5,dev-clean-2 --download
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from narspeech.data.corpus import Utterance, command_line, describe, names_in, refuse, sounds_by_stem, write_part
from narspeech.data.download import download as fetch
from narspeech.data.download import extract
from narspeech.errors import ManifestError

FOLDER = "LibriSpeech"
MIRROR = "https://www.openslr.org/resources"


class Archive(NamedTuple):
    """An official archive: the number of its OpenSLR resource and its checksum in that resource's md5sum.txt."""

    resource: int
    md5: str


ARCHIVES = {
    "train-clean-5": Archive(31, "5df7d4e78065366204ca6845bb08f490"),
    "dev-clean-2": Archive(31, "6d7ab67ac6a1d2c993d050e16d61080d"),
    "train-clean-100": Archive(12, "2a93770f6d5c6c964bc36631d331a522"),
    "train-clean-360": Archive(12, "c0e676e450a7ff2f54aeade5171606fa"),
    "train-other-500": Archive(12, "d1a0fd59409feb2c614ce4d30c387708"),
    "dev-clean": Archive(12, "42e2234ba48799c1f50f24a7926300a1"),
    "dev-other": Archive(12, "c8d0bcc9cca99d4f8b62fcc847357931"),
    "test-clean": Archive(12, "32fa31d27d2e1cad72775fee3f4849a9"),
    "test-other": Archive(12, "fb5a50374b501bb3bac4815ee91d3135"),
}


def prepare(
    data: Path, out: Path, parts: Sequence[str], *, download: bool = False, mirror: str = MIRROR
) -> dict[str, Path]:
    """Write `out`/<part>.jsonl for every part and return their paths by part.

    data: the folder that holds the parts, or the one above that holds LibriSpeech/. Any folder there in LibriSpeech's
    layout is a part. download: fetch missing official parts from `mirror`. Raises ManifestError, AudioError or
    DownloadError.
    """
    missing = [part for part in dict.fromkeys(parts) if _find(data, part) is None]
    # All the names are checked before the first of many gigabytes is fetched.
    for part in missing:
        if part not in ARCHIVES:
            raise ManifestError(
                f"expected a folder of {data} or an official part ({', '.join(ARCHIVES)}), received {part!r}; "
                "correct --parts"
            )
        if not download:
            raise ManifestError(
                f"expected {part} in {data} or {data / FOLDER}, received neither; "
                f"correct --data, or add --download to fetch it from {_url(mirror, part)}"
            )
    for part in missing:
        _fetch(data, part, mirror)
    return {part: write_part(out / f"{part}.jsonl", _utterances(_require(data, part))) for part in dict.fromkeys(parts)}


def _find(data: Path, part: str) -> Path | None:
    if not part or Path(part).name != part:
        return None
    return next((folder for folder in (data / part, data / FOLDER / part) if folder.is_dir()), None)


def _require(data: Path, part: str) -> Path:
    folder = _find(data, part)
    if folder is None:
        raise ManifestError(f"expected {part} in {data}, received an archive without it; fetch it by hand")
    return folder


def _fetch(data: Path, part: str, mirror: str) -> None:
    holds_parts = data.name == FOLDER or any((data / name).is_dir() for name in ARCHIVES)
    root = data if holds_parts else data / FOLDER
    url = _url(mirror, part)
    archive = fetch(url, root / Path(url).name, checksum=("md5", ARCHIVES[part].md5), unpack=True)
    extract(archive, root, inside=FOLDER)
    archive.unlink()


def _url(mirror: str, part: str) -> str:
    return f"{mirror.rstrip('/')}/{ARCHIVES[part].resource}/{part}.tar.gz"


def _utterances(folder: Path) -> list[Utterance]:
    """All utterances of <part>/<speaker>/<chapter>, each with its sound and text; anything left over is an error."""
    utterances: list[Utterance] = []
    problems: list[str] = []
    for chapter in sorted(path for path in folder.glob("*/*") if path.is_dir()):
        speaker = chapter.parent.name
        sounds = sounds_by_stem(chapter)
        texts = _texts(chapter / f"{speaker}-{chapter.name}.trans.txt")
        problems += [f"{name} in {chapter} has a transcript but no sound" for name in texts.keys() - sounds.keys()]
        problems += [f"{sounds[name]} has no transcript" for name in sounds.keys() - texts.keys()]
        utterances += [Utterance(name, sounds[name], text, speaker) for name, text in texts.items() if name in sounds]
    refuse(sorted(problems), f"a sound and a transcript for every utterance of {folder}", "that lack one")
    return utterances


def _texts(path: Path) -> dict[str, str]:
    """The lines "id WORDS ..." of a .trans.txt by id; none when the file is missing."""
    if not path.exists():
        return {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"expected UTF-8 transcripts in {path}, received: {error}") from error
    return {name: text for name, _, text in (line.strip().partition(" ") for line in lines) if name}


def main(
    data: Path, out: Path, parts: str = "train-clean-5,dev-clean-2", download: bool = False, mirror: str = MIRROR
) -> None:
    """Write a JSONL manifest for parts of LibriSpeech.

    Args:
        data: folder that holds the parts, or LibriSpeech/ with them.
        out: folder for the manifests.
        parts: names of parts, with commas between.
        download: fetch official parts that are missing.
        mirror: where OpenSLR's resources are fetched from.
    """
    for manifest in prepare(data, out, names_in(parts), download=download, mirror=mirror).values():
        print(describe(manifest))


if __name__ == "__main__":
    command_line(main)
