"""WMT14: English and German from the files of fairseq's prepare-wmt14en2de.sh; one manifest of pairs a part.

python recipes/wmt14/prepare.py --data DIR --out DIR --parts europarl-v7,newstest2013,newstest2014 --download
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from narspeech.data.corpus import command_line, language_pair, names_in
from narspeech.data.download import download as fetch
from narspeech.data.download import extract
from narspeech.data.pairs import Pair, write_pairs
from narspeech.data.parallel import Limits, Texts, aligned, cleaned, printable, read_lines, read_segments
from narspeech.errors import ManifestError

FOLDER = "wmt14"
# fairseq counts byte pairs; words and marks are counted here, as a vocabulary comes later.
LIMITS = Limits(shortest=1, longest=250, ratio=1.5)


class Archive(NamedTuple):
    """Where an official archive is, and its checksum and bytes where these are public."""

    url: str
    checksum: tuple[str, str]
    size: int | None = None


class Part(NamedTuple):
    """The archive of a part, and its files in there by `language` and, of a test, `side` (src or ref)."""

    archive: str
    path: str
    training: bool = False


# Sizes and sha256 by TensorFlow Datasets, md5 by sacrebleu.
ARCHIVES = {
    "training-parallel-europarl-v7.tgz": Archive(
        "https://www.statmt.org/wmt13/training-parallel-europarl-v7.tgz",
        ("sha256", "0224c7c710c8a063dfd893b0cc0830202d61f4c75c17eb8e31836103d27d96e7"),
        657_632_379,
    ),
    "training-parallel-commoncrawl.tgz": Archive(
        "https://www.statmt.org/wmt13/training-parallel-commoncrawl.tgz",
        ("sha256", "c7a74e2ea01ac6c920123108627e35278d4ccb5701e15428ffa34de86fa3a9e5"),
        918_311_367,
    ),
    "training-parallel-nc-v9.tgz": Archive(
        "https://www.statmt.org/wmt14/training-parallel-nc-v9.tgz",
        ("sha256", "cb8953f292298e6877ae433c98912b927cb0766b303f4540512ddd286c748485"),
        80_418_416,
    ),
    "training-parallel-nc-v12.tgz": Archive(
        "https://data.statmt.org/wmt17/translation-task/training-parallel-nc-v12.tgz",
        ("sha256", "2b45f30ef1d550d302fd17dd3a5cbe19134ccc4c2cf50c2dae534aee600101a2"),
        168_591_139,
    ),
    "dev.tgz": Archive(
        "https://data.statmt.org/wmt17/translation-task/dev.tgz", ("md5", "9b1aa63c1cf49dccdd20b962fe313989")
    ),
    "test-full.tgz": Archive("https://www.statmt.org/wmt14/test-full.tgz", ("md5", "a8cd784e006feb32ac6f3d9ec7eb389a")),
}
PARTS = {
    "europarl-v7": Part("training-parallel-europarl-v7.tgz", "training/europarl-v7.de-en.{language}", True),
    "commoncrawl": Part("training-parallel-commoncrawl.tgz", "commoncrawl.de-en.{language}", True),
    "news-commentary-v9": Part("training-parallel-nc-v9.tgz", "training/news-commentary-v9.de-en.{language}", True),
    "news-commentary-v12": Part("training-parallel-nc-v12.tgz", "training/news-commentary-v12.de-en.{language}", True),
    "newstest2013": Part("dev.tgz", "dev/newstest2013.{language}"),
    "newstest2014": Part("test-full.tgz", "test-full/newstest2014-deen-{side}.{language}.sgm"),
}
TRAIN = ("europarl-v7", "commoncrawl", "news-commentary-v12")


def prepare(
    data: Path,
    out: Path,
    parts: Sequence[str],
    *,
    languages: tuple[str, str] = ("en", "de"),
    download: bool = False,
    mirror: str | None = None,
) -> dict[str, Path]:
    """Write `out`/<part>.jsonl for every part, pair by pair, and return their paths by part.

    data: the folder where the archives are unpacked, or the one above that holds wmt14/. languages: of source and
    target. download: fetch the archives of missing parts, from `mirror` if there is one. Training parts are cleaned.
    Raises ManifestError or DownloadError.
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown or sorted(languages) != ["de", "en"]:
        raise ManifestError(
            f"expected parts among {', '.join(PARTS)} from en to de or back, received {', '.join(unknown) or 'them'} "
            f"from {' to '.join(languages)}: correct --parts or --languages"
        )
    # All that is missing is named before the first of many gigabytes is fetched.
    missing = [part for part in dict.fromkeys(parts) if _find(data, part, languages) is None]
    if missing and not download:
        part = PARTS[missing[0]]
        raise ManifestError(
            f"expected {part.path.format(language=languages[0], side='src')} in {data} or {data / FOLDER}, received "
            f"neither; correct --data, or add --download to fetch {ARCHIVES[part.archive].url}"
        )
    for archive in dict.fromkeys(PARTS[part].archive for part in missing):
        _fetch(data, archive, mirror)
    manifests = {}
    for part in dict.fromkeys(parts):
        pairs = (
            Pair(id=f"{part}-{number:07d}", source=source, target=target)
            for number, (source, target) in enumerate(_texts(data, part, languages), 1)
        )
        manifests[part] = out / f"{part}.jsonl"
        write_pairs(manifests[part], pairs)
    return manifests


def _texts(data: Path, part: str, languages: tuple[str, str]) -> Iterator[Texts]:
    """Both sides of a part, one pair at a time; those of training are made printable and cleaned."""
    paths = _find(data, part, languages)
    if paths is None:
        raise ManifestError(f"expected {part} in {data}, received an archive without it: fetch it by hand")
    read = read_segments if paths[0].suffix == ".sgm" else read_lines
    if not PARTS[part].training:
        return aligned(read(paths[0]), read(paths[1]), part)
    source, target = (map(printable, read(path)) for path in paths)
    return cleaned(aligned(source, target, part), part, LIMITS)


def _find(data: Path, part: str, languages: tuple[str, str]) -> tuple[Path, Path] | None:
    """The files of source and target, or None where one is missing."""
    for folder in (data, data / FOLDER):
        source, target = (
            folder / PARTS[part].path.format(language=language, side=side)
            for language, side in zip(languages, ("src", "ref"), strict=True)
        )
        if source.is_file() and target.is_file():
            return source, target
    return None


def _fetch(data: Path, name: str, mirror: str | None) -> None:
    root = data if data.name == FOLDER else data / FOLDER
    url, checksum, size = ARCHIVES[name]
    if mirror is not None:
        url = f"{mirror.rstrip('/')}/{name}"
    archive = fetch(url, root / name, checksum=checksum, size=size, unpack=True)
    extract(archive, root)
    archive.unlink()


def main(
    data: Path,
    out: Path,
    languages: str = "en,de",
    parts: str = ",".join((*TRAIN, "newstest2013", "newstest2014")),
    download: bool = False,
    mirror: str | None = None,
) -> None:
    """Write a JSONL manifest of pairs for parts of WMT14.

    Args:
        data: folder where the archives are unpacked, or wmt14/ with them.
        out: folder for the manifests.
        languages: of source and target, with a comma between.
        parts: europarl-v7, commoncrawl, news-commentary-v9, news-commentary-v12, newstest2013, newstest2014, with
            commas between.
        download: fetch the archives of missing parts.
        mirror: where all the archives lie, if not at their official places.
    """
    found = prepare(data, out, names_in(parts), languages=language_pair(languages), download=download, mirror=mirror)
    for manifest in found.values():
        print(manifest)


if __name__ == "__main__":
    command_line(main)
