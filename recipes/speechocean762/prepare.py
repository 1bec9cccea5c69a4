"""speechocean762: manifests of train, test, and test without the sentences that occur in train.

python recipes/speechocean762/prepare.py --data DIR --out DIR --parts train,test,test-unseen
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from narspeech.data.corpus import Utterance, command_line, describe, names_in, refuse, sounds_by_stem, tidy, write_part
from narspeech.data.download import download as fetch
from narspeech.data.download import extract
from narspeech.errors import ManifestError

FOLDER = "speechocean762"
MIRROR = "https://www.openslr.org/resources"
RESOURCE = "101/speechocean762.tar.gz"
# OpenSLR publishes no checksum for it; its authors' Kaldi recipe tells the archive by its length.
ARCHIVE_BYTES = 520_810_923
PARTS = ("train", "test", "test-unseen")


def prepare(
    data: Path, out: Path, parts: Sequence[str] = PARTS, *, download: bool = False, mirror: str = MIRROR
) -> dict[str, Path]:
    """Write `out`/<part>.jsonl for every part and return their paths by part.

    data: the corpus root (train/, test/, WAVE/), or the folder above. Part "test-unseen" is "test" without the
    sentences that also occur in "train": report both. download: fetch the corpus from `mirror` if it is missing.
    Raises ManifestError, AudioError or DownloadError.
    """
    for part in parts:
        if part not in PARTS:
            raise ManifestError(f"expected parts among {', '.join(PARTS)}, received {part!r}; correct --parts")
    root = _find(data)
    if root is None and download:
        archive = fetch(f"{mirror.rstrip('/')}/{RESOURCE}", data / Path(RESOURCE).name, size=ARCHIVE_BYTES, unpack=True)
        extract(archive, data)
        archive.unlink()
        root = _find(data)
    if root is None:
        raise ManifestError(
            f"expected train/wav.scp and test/wav.scp in {data} or {data / FOLDER}, received neither; "
            f"correct --data, or add --download to fetch {MIRROR}/{RESOURCE}"
        )
    return {part: write_part(out / f"{part}.jsonl", _utterances(root, part)) for part in dict.fromkeys(parts)}


def _find(data: Path) -> Path | None:
    return next(
        (root for root in (data, data / FOLDER) if all((root / part / "wav.scp").is_file() for part in PARTS[:2])), None
    )


def _utterances(root: Path, part: str) -> list[Utterance]:
    if part == "test-unseen":
        seen = {tidy(text) for text in _table(root / "train" / "text").values()}
        return [utterance for utterance in _utterances(root, "test") if tidy(utterance.text) not in seen]
    paths, texts, speakers = (_table(root / part / name) for name in ("wav.scp", "text", "utt2spk"))
    sounds = _sounds(root, paths)
    tables: dict[str, Mapping[str, object]] = {"sound": sounds, "text": texts, "speaker": speakers}
    names = sorted(paths.keys() | texts.keys() | speakers.keys())
    problems = [
        f"{name} ({paths.get(name, 'not in wav.scp')}) has no {what}"
        for name in names
        for what, table in tables.items()
        if name not in table
    ]
    refuse(problems, f"a sound, a text and a speaker for every utterance of {root / part}", "lacking")
    return [Utterance(name, sounds[name], texts[name], speakers[name]) for name in names]


def _sounds(root: Path, paths: dict[str, str]) -> dict[str, Path]:
    """The sound of every utterance that has one, found by its name without suffix: a copy may be re-encoded."""
    folders: dict[Path, dict[str, Path]] = {}
    sounds: dict[str, Path] = {}
    for name, listed in paths.items():
        path = root / listed
        if path.parent not in folders:
            folders[path.parent] = sounds_by_stem(path.parent) if path.parent.is_dir() else {}
        if path.stem in folders[path.parent]:
            sounds[name] = folders[path.parent][path.stem]
    return sounds


def _table(path: Path) -> dict[str, str]:
    """A Kaldi table "id value" as a dictionary; a line without a value is left out."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"expected a readable UTF-8 file {path}, received: {error}") from error
    pairs = (line.split(maxsplit=1) for line in lines)
    return {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}


def main(data: Path, out: Path, parts: str = ",".join(PARTS), download: bool = False, mirror: str = MIRROR) -> None:
    """Write JSONL manifests for speechocean762.

    Args:
        data: corpus root with train/, test/ and WAVE/, or the folder above.
        out: folder for the manifests.
        parts: names of parts, with commas between.
        download: fetch the corpus if it is missing.
        mirror: where OpenSLR's resources are fetched from.
    """
    for manifest in prepare(data, out, names_in(parts), download=download, mirror=mirror).values():
        print(describe(manifest))


if __name__ == "__main__":
    command_line(main)
