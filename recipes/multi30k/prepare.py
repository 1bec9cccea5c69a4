"""Multi30k: sentences that describe pictures, in English, German and French; one manifest of pairs a part.

python recipes/multi30k/prepare.py --data DIR --out DIR --languages en,de --parts train,val,test_2016_flickr --download
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from narspeech.data.corpus import command_line, language_pair, names_in, refuse
from narspeech.data.download import download as fetch
from narspeech.data.pairs import Pair, write_pairs
from narspeech.data.parallel import aligned, read_lines
from narspeech.errors import ManifestError

FOLDER = "multi30k"
MIRROR = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw"
# Sentences of the official parts, for which there is no list of checksums.
COUNTS = {"train": 29000, "val": 1014, "test_2016_flickr": 1000, "test_2017_flickr": 1000, "test_2017_mscoco": 461}


def prepare(
    data: Path,
    out: Path,
    parts: Sequence[str],
    *,
    languages: tuple[str, str] = ("en", "de"),
    download: bool = False,
    mirror: str = MIRROR,
) -> dict[str, Path]:
    """Write `out`/<part>.jsonl for every part and return their paths by part.

    data: the folder that holds <part>.<language>.gz, or without .gz, or the one above that holds multi30k/. Any two
    files in this form are a part. languages: of source and target. download: fetch official files that are missing
    from `mirror`. Case and punctuation stay; runs of spaces become one. Raises ManifestError or DownloadError.
    """
    manifests = {}
    for part in dict.fromkeys(parts):
        texts = [_read(data, f"{part}.{language}", part, download, mirror) for language in languages]
        pairs = [
            Pair(id=f"{part}-{number:05d}", source=source, target=target)
            for number, (source, target) in enumerate(aligned(*texts, part), 1)
        ]
        refuse(
            [pair.id for pair in pairs if not (pair.source and pair.target)],
            f"a text on both sides of every pair of {part}",
            "without one",
        )
        manifests[part] = out / f"{part}.jsonl"
        write_pairs(manifests[part], pairs)
    return manifests


def _read(data: Path, name: str, part: str, download: bool, mirror: str) -> list[str]:
    """The lines of one side of a part."""
    path = _find(data, name)
    if path is None:
        url = f"{mirror.rstrip('/')}/{name}.gz"
        if not download or part not in COUNTS:
            raise ManifestError(
                f"expected {name} or {name}.gz in {data} or {data / FOLDER}, received neither; "
                f"correct --data, or add --download to fetch an official part ({', '.join(COUNTS)}) from {url}"
            )
        folder = data if data.name == FOLDER else data / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        path = fetch(url, folder / f"{name}.gz")
        lines = list(read_lines(path))
        if len(lines) != COUNTS[part]:
            path.unlink()
            raise ManifestError(
                f"expected {COUNTS[part]} lines at {url}, received {len(lines)}: try again, or name another --mirror"
            )
        return lines
    return list(read_lines(path))


def _find(data: Path, name: str) -> Path | None:
    places = (folder / file for folder in (data, data / FOLDER) for file in (name, f"{name}.gz"))
    return next((path for path in places if path.is_file()), None)


def main(
    data: Path,
    out: Path,
    languages: str = "en,de",
    parts: str = "train,val,test_2016_flickr",
    download: bool = False,
    mirror: str = MIRROR,
) -> None:
    """Write a JSONL manifest of pairs for parts of Multi30k.

    Args:
        data: folder that holds <part>.<language>.gz, or multi30k/ with them.
        out: folder for the manifests.
        languages: of source and target, with a comma between.
        parts: names of parts, with commas between.
        download: fetch official parts that are missing.
        mirror: where the official files are fetched from.
    """
    found = prepare(data, out, names_in(parts), languages=language_pair(languages), download=download, mirror=mirror)
    for manifest in found.values():
        print(manifest)


if __name__ == "__main__":
    command_line(main)
