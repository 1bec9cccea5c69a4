"""Multi30k's English captions read by espeak-ng, with their translations: SYNTHETIC speech, for trying things out.

python recipes/synthetic_st/prepare.py --data DIR --out OUT --language de --parts train-8000,val-200,test_2016_flickr
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from narspeech.data.corpus import Utterance, command_line, describe, names_in, write_part
from narspeech.data.example import read_manifest, write_manifest
from narspeech.data.pairs import Pair, read_pairs
from narspeech.profile import load_file

multi30k = load_file(Path(__file__).parents[1] / "multi30k" / "prepare.py")
synthetic = load_file(Path(__file__).parents[1] / "synthetic" / "prepare.py")


def prepare(
    data: Path, out: Path, parts: Sequence[str], *, language: str = "de", download: bool = False
) -> dict[str, Path]:
    """Write `out`/<part>.jsonl, the sound in `out`/sound, and return the manifests' paths by part.

    parts: those of Multi30k, or train-8000 for so many of a part's captions drawn at random, of which a larger number
    has the smaller's too. A caption is always read in the same way and has its id of the Multi30k recipe. data:
    Multi30k's files, or a folder that was written by this script: then its sound and its translations are taken, in
    whatever language they are. Raises ManifestError, DownloadError.
    """
    manifests = {}
    for part in dict.fromkeys(parts):
        path = manifests[part] = out / f"{part}.jsonl"
        ready = data / path.name
        if ready.is_file():
            write_manifest(path, read_manifest(ready))
            continue
        name, count = split_name(part)
        languages = ("en", language)
        found = multi30k.prepare(data, out / "text", [name], languages=languages, download=download)
        pairs = draw(read_pairs(found[name]), count)
        readings = [read(pair) for pair in pairs]
        sounds = [out / "sound" / f"{pair.id}.wav" for pair in pairs]
        synthetic.read_aloud(readings, sounds)
        utterances = [
            Utterance(pair.id, sound, pair.target, reading.speaker)
            for pair, sound, reading in zip(pairs, sounds, readings, strict=True)
        ]
        write_part(path, utterances, lower=False)
    return manifests


def split_name(part: str) -> tuple[str, int | None]:
    """train-8000: 8000 captions of train; train: all of them."""
    name, _, count = part.rpartition("-")
    return (name, int(count)) if name and count.isdecimal() else (part, None)


def draw(pairs: Sequence[Pair], count: int | None) -> list[Pair]:
    """So many of the pairs, at most all, in their order."""
    places = list(range(len(pairs)))
    random.Random(0).shuffle(places)
    return [pairs[place] for place in sorted(places[:count])]


def read(pair: Pair) -> synthetic.Reading:
    """The caption in one of espeak-ng's voices, speeds and pitches, chosen by its id."""
    return synthetic.Reading(pair.source, *synthetic.espeak(random.Random(pair.id)))


def main(
    data: Path,
    out: Path,
    language: str = "de",
    parts: str = "train-8000,val-200,test_2016_flickr",
    download: bool = False,
) -> None:
    """Let espeak-ng read captions of Multi30k and write JSONL manifests with their translations.

    Args:
        data: folder that holds <part>.<language>.gz, or multi30k/ with them; or one that was prepared so, which is
            copied as it is.
        out: folder for the sound and the manifests.
        language: of the translations, de or fr.
        parts: parts of Multi30k, with commas between; train-8000 for so many of its captions.
        download: fetch official texts that are missing.
    """
    for manifest in prepare(data, out, names_in(parts), language=language, download=download).values():
        print(describe(manifest))


if __name__ == "__main__":
    command_line(main)
