"""IWSLT14: talks in German and English, cleaned and split as fairseq's prepare-iwslt14.sh does; one manifest a part.

python recipes/iwslt14/prepare.py --data DIR --out DIR --languages de,en --parts train,valid,test --download
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from narspeech.data.corpus import command_line, language_pair, names_in
from narspeech.data.download import download as fetch
from narspeech.data.download import extract
from narspeech.data.pairs import Pair, write_pairs
from narspeech.data.parallel import Limits, Texts, aligned, cleaned, read_lines, read_segments
from narspeech.errors import ManifestError

FOLDER = "de-en"
ARCHIVE = "de-en.tgz"
# A copy of the archive that WIT3 had at wit3.fbk.eu/archive/2014-01/texts/de/en/.
MIRROR = "https://dl.fbaipublicfiles.com/fairseq/data/iwslt14"
SIZE, MD5 = 19_982_877, "10936dfdf616504ddbd844e91b94ef4a"

LANGUAGES = ("de", "en")
LIMITS = Limits(shortest=1, longest=175, ratio=1.5)
# Of the cleaned training pairs, numbered from 1, each that this divides is held out as `valid`.
HELD_OUT = 23
SETS = {
    "dev2010": "IWSLT14.TED.dev2010",
    "dev2012": "IWSLT14.TEDX.dev2012",
    "tst2010": "IWSLT14.TED.tst2010",
    "tst2011": "IWSLT14.TED.tst2011",
    "tst2012": "IWSLT14.TED.tst2012",
}
PARTS = ("train", "valid", "test", *SETS)

# Lines that tell of a talk; its title and description are sentences like the others.
TALK = re.compile("<(?:url|talkid|keywords)>")
TITLE = re.compile("</?(?:title|description)>")


def prepare(
    data: Path,
    out: Path,
    parts: Sequence[str],
    *,
    languages: tuple[str, str] = ("de", "en"),
    lower: bool = False,
    download: bool = False,
    mirror: str = MIRROR,
) -> dict[str, Path]:
    """Write `out`/<part>.jsonl for every part and return their paths by part.

    data: the folder de-en of the archive, or the one above. parts: train, valid, test, or one of the five sets that
    test joins. languages: of source and target. lower: lower case, and straight apostrophes in the five sets, as
    published scores have them. download: fetch the archive from `mirror` where the folder is missing. Raises
    ManifestError or DownloadError.
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown or sorted(languages) != sorted(LANGUAGES):
        raise ManifestError(
            f"expected parts among {', '.join(PARTS)} from de to en or back, received {', '.join(unknown) or 'them'} "
            f"from {' to '.join(languages)}: correct --parts or --languages"
        )
    folder = _folder(data, download, mirror)
    manifests = {}
    for part in dict.fromkeys(parts):
        numbered = _held_sets(folder, part, languages) if part in (*SETS, "test") else _talks(folder, part, languages)
        if lower:
            numbered = _lowered(numbered, straight=part in (*SETS, "test"))
        manifests[part] = out / f"{part}.jsonl"
        write_pairs(manifests[part], (Pair(id=name, source=texts[0], target=texts[1]) for name, texts in numbered))
    return manifests


def _talks(folder: Path, part: str, languages: Iterable[str]) -> Iterator[tuple[str, Texts]]:
    """The cleaned pairs of train or valid, named by their numbers in both together."""
    sides = (_sentences(folder / f"train.tags.de-en.{language}") for language in languages)
    for number, texts in enumerate(cleaned(aligned(*sides, "train.tags.de-en"), "train and valid", LIMITS), 1):
        if (number % HELD_OUT == 0) == (part == "valid"):
            yield f"{part}-{number:06d}", texts


def _sentences(path: Path) -> Iterator[str]:
    return (" ".join(TITLE.sub("", line).split()) for line in read_lines(path) if not TALK.search(line))


def _held_sets(folder: Path, part: str, languages: Iterable[str]) -> Iterator[tuple[str, Texts]]:
    """The pairs of one of the five sets, or of all for test; none is left out."""
    for name in SETS if part == "test" else (part,):
        sides = (read_segments(folder / f"{SETS[name]}.de-en.{language}.xml") for language in languages)
        for number, texts in enumerate(aligned(*sides, name), 1):
            yield f"{name}-{number:04d}", texts


def _lowered(numbered: Iterable[tuple[str, Texts]], *, straight: bool) -> Iterator[tuple[str, Texts]]:
    for name, texts in numbered:
        source, target = (text.replace("’", "'") if straight else text for text in texts)
        yield name, (source.lower(), target.lower())


def _folder(data: Path, download: bool, mirror: str) -> Path:
    """Where the files of the archive are."""
    first = "train.tags.de-en.de"
    for folder in (data, data / FOLDER):
        if (folder / first).is_file():
            return folder
    url = f"{mirror.rstrip('/')}/{ARCHIVE}"
    if not download:
        raise ManifestError(
            f"expected {first} in {data} or {data / FOLDER}, received neither; "
            f"correct --data, or add --download to fetch it from {url}"
        )
    root = data.parent if data.name == FOLDER else data
    archive = fetch(url, root / ARCHIVE, checksum=("md5", MD5), size=SIZE, unpack=True)
    extract(archive, root)
    if not (root / FOLDER / first).is_file():
        raise ManifestError(f"expected {FOLDER}/{first} in {archive}, received an archive without it: fetch it by hand")
    archive.unlink()
    return root / FOLDER


def main(
    data: Path,
    out: Path,
    languages: str = "de,en",
    parts: str = "train,valid,test",
    lower: bool = False,
    download: bool = False,
    mirror: str = MIRROR,
) -> None:
    """Write a JSONL manifest of pairs for parts of IWSLT14.

    Args:
        data: folder that holds de-en/, or this folder itself.
        out: folder for the manifests.
        languages: of source and target, with a comma between.
        parts: train, valid, test, or any of dev2010, dev2012, tst2010, tst2011 and tst2012, with commas between.
        lower: lower case, as published scores have it.
        download: fetch the archive where the folder is missing.
        mirror: where the archive is fetched from.
    """
    found = prepare(
        data, out, names_in(parts), languages=language_pair(languages), lower=lower, download=download, mirror=mirror
    )
    for manifest in found.values():
        print(manifest)


if __name__ == "__main__":
    command_line(main)
