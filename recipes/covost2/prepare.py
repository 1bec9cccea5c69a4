"""CoVoST 2: sentences of Common Voice 4 read aloud, and their translations; one manifest a part.

python recipes/covost2/prepare.py --data DIR --out OUT --languages en,de --parts train,dev,test --download
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from narspeech.data.corpus import (
    Utterance,
    command_line,
    describe,
    language_pair,
    names_in,
    refuse,
    sounds_by_stem,
    tidy,
    write_part,
)
from narspeech.data.download import download as fetch
from narspeech.data.download import extract
from narspeech.data.pairs import Pair, write_pairs
from narspeech.errors import ManifestError

MIRROR = "https://dl.fbaipublicfiles.com/covost"
VOICES = "https://commonvoice.mozilla.org/en/datasets"
RELEASE = "cv-corpus-4-2019-12-10"
FROM_ENGLISH = frozenset(
    {"de", "tr", "fa", "sv-SE", "mn", "zh-CN", "cy", "ca", "sl", "et", "id", "ar", "ta", "lv", "ja"}
)
INTO_ENGLISH = FROM_ENGLISH | {"fr", "es", "it", "ru", "pt", "nl"}
# The values of the column `split` that make a part: get_covost_splits.py's rule for version 2.
SPLITS = {"train": ("train", "train_covost"), "dev": ("dev",), "test": ("test",)}

Content = Literal["translation", "transcript", "pair"]


class Sentence(NamedTuple):
    """A clip by its name without suffix, what is said in it, by whom, and what that means."""

    clip: str
    transcript: str
    translation: str
    speaker: str


def prepare(
    data: Path,
    out: Path,
    parts: Sequence[str],
    *,
    languages: tuple[str, str] = ("en", "de"),
    content: Content = "translation",
    download: bool = False,
    mirror: str = MIRROR,
) -> dict[str, Path]:
    """Write `out`/<part>.jsonl for every part and return their paths by part.

    data: the folder of Common Voice 4 in the source language, or the one above. languages: of sound and text. content:
    sound with its translation, cased and punctuated; sound with its transcript in lower case; or pairs of transcript
    and translation, cased, which need no clips. download: fetch missing translations from `mirror`; clips have to be
    there. Sentences that lack a text are left out, and counted. Raises ManifestError, AudioError or DownloadError.
    """
    unknown = [part for part in parts if part not in SPLITS]
    if unknown:
        raise ManifestError(f"expected parts among {', '.join(SPLITS)}, received {', '.join(unknown)}: correct --parts")
    folder = _voices(data, languages[0])
    translations = _translations(data, folder, languages, download, mirror)
    found = join(folder / "validated.tsv", translations, parts)
    sounds = {} if content == "pair" else _clips(folder, found)
    manifests = {}
    for part, sentences in found.items():
        kept = [one for one in sentences if one.transcript.strip() and one.translation.strip()]
        if len(kept) < len(sentences):
            print(f"left out {len(sentences) - len(kept)} sentences of {part} without a text", file=sys.stderr)
        path = manifests[part] = out / f"{part}.jsonl"
        if content == "pair":
            write_pairs(path, [_pair(one) for one in kept])
        else:
            utterances = [Utterance(one.clip, sounds[one.clip], getattr(one, content), one.speaker) for one in kept]
            write_part(path, utterances, lower=content == "transcript")
    return manifests


def join(validated: Path, translations: Path, parts: Sequence[str]) -> dict[str, list[Sentence]]:
    """The sentences of every part, in the order of `validated`: an inner join by path, as get_covost_splits.py makes
    it. A path that occurs again is the same sentence again, and passed over."""
    meant: dict[str, tuple[str, str]] = {}
    for path, translation, split in _table(translations, ("path", "translation", "split")):
        meant.setdefault(path, (translation, split))
    found: dict[str, list[Sentence]] = {part: [] for part in parts}
    owner = {split: part for part in found for split in SPLITS[part]}
    for path, transcript, speaker in _table(validated, ("path", "sentence", "client_id")):
        translation, split = meant.pop(path, ("", ""))
        if split in owner:
            found[owner[split]].append(Sentence(Path(path).stem, transcript, translation, speaker))
    return found


def _pair(sentence: Sentence) -> Pair:
    transcript, translation = (tidy(text, lower=False) for text in (sentence.transcript, sentence.translation))
    return Pair(id=sentence.clip, source=transcript, target=translation)


def _voices(data: Path, language: str) -> Path:
    """The folder of Common Voice in that language."""
    folders = (data / language, data / RELEASE / language, data / language / "raw", data)
    folder = next((folder for folder in folders if (folder / "validated.tsv").is_file()), None)
    if folder is None:
        raise ManifestError(
            f"expected Common Voice 4 ({RELEASE}) with validated.tsv and clips/ in {data / language}, received none: "
            f"it cannot be fetched without your consent to its terms, so get it from {VOICES} and unpack it there"
        )
    return folder


def _translations(data: Path, folder: Path, languages: tuple[str, str], download: bool, mirror: str) -> Path:
    name = f"covost_v2.{languages[0]}_{languages[1]}.tsv"
    path = next((place / name for place in (folder, data, data / "covost2") if (place / name).is_file()), None)
    if path is not None:
        return path
    source, target = languages
    if not (target in FROM_ENGLISH if source == "en" else target == "en" and source in INTO_ENGLISH):
        raise ManifestError(
            f"expected {name} in {folder}, or languages that CoVoST 2 has: en and one of "
            f"{', '.join(sorted(FROM_ENGLISH))}, or one of {', '.join(sorted(INTO_ENGLISH))} and en; "
            f"received {source},{target}: correct --languages"
        )
    url = f"{mirror.rstrip('/')}/{name}.tar.gz"
    if not download:
        raise ManifestError(f"expected {name} in {folder} or {data}, received neither: add --download to fetch {url}")
    archive = fetch(url, data / f"{name}.tar.gz", unpack=True)
    extract(archive, data)
    if not (data / name).is_file():
        raise ManifestError(f"expected {name} in {archive}, received an archive without it: fetch it by hand")
    archive.unlink()
    return data / name


def _clips(folder: Path, found: dict[str, list[Sentence]]) -> dict[str, Path]:
    """The sounds by name without suffix."""
    clips = folder / "clips"
    sounds = sounds_by_stem(clips) if clips.is_dir() else {}
    refuse(
        [one.clip for sentences in found.values() for one in sentences if one.clip not in sounds],
        f"a clip in {clips} for every sentence",
        "without one",
    )
    return sounds


def _table(path: Path, columns: Sequence[str]) -> list[list[str]]:
    """These columns of every line. Tabs stand between, quotation marks are text, and a backslash escapes."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE, escapechar="\\", restval="")
            lacking = [name for name in columns if name not in (lines.fieldnames or ())]
            if lacking:
                raise ManifestError(
                    f"expected the columns {', '.join(columns)} in {path}, received none named {lacking}"
                )
            return [[line[name] for name in columns] for line in lines]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"expected a table of UTF-8 text in {path}, received: {error}; fetch it anew") from error


def main(
    data: Path,
    out: Path,
    languages: str = "en,de",
    parts: str = "train,dev,test",
    content: Content = "translation",
    download: bool = False,
    mirror: str = MIRROR,
) -> None:
    """Write a JSONL manifest for parts of CoVoST 2.

    Args:
        data: folder of Common Voice 4 in the source language, or the one above.
        out: folder for the manifests.
        languages: of sound and text, with a comma between.
        parts: train, dev, test, with commas between.
        content: translation or transcript of sound, or pair of the two without sound.
        download: fetch missing translations.
        mirror: where the translations are fetched from.
    """
    pair = language_pair(languages)
    found = prepare(data, out, names_in(parts), languages=pair, content=content, download=download, mirror=mirror)
    for manifest in found.values():
        print(manifest if content == "pair" else describe(manifest))


if __name__ == "__main__":
    command_line(main)
