from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import soundfile

from narspeech.data.example import read_manifest
from narspeech.errors import ManifestError

SCRIPT = Path(__file__).parents[2] / "recipes" / "speechocean762" / "prepare.py"
spec = importlib.util.spec_from_file_location("speechocean762_prepare", SCRIPT)
recipe = importlib.util.module_from_spec(spec)
spec.loader.exec_module(recipe)

PARTS = {
    "train": {"000010011": "WE CALL IT BEAR", "000010035": "MARK IS HERE"},
    "test": {"000030012": "MARK IS  HERE", "000030024": "KATE LOVES CHINA"},
}


def corpus(root: Path, separator: str = "\t", suffix: str = ".flac") -> Path:
    for part, texts in PARTS.items():
        tables: dict[str, list[str]] = {"wav.scp": [], "text": [], "utt2spk": []}
        for name, text in texts.items():
            speaker = name[:5][-4:]
            listed = f"WAVE/SPEAKER{speaker}/{name}.WAV"
            path = (root / listed).with_suffix(suffix)
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, np.zeros(3200, np.float32), 16000)
            for table, value in zip(tables, (listed, text, speaker), strict=True):
                tables[table].append(f"{name}{separator}{value}\n")
        (root / part).mkdir()
        for table, lines in tables.items():
            (root / part / table).write_text("".join(lines))
    return root


@pytest.mark.parametrize("inside", ["", "speechocean762"])
@pytest.mark.parametrize("suffix", [".flac", ".wav", ".WAV"])
@pytest.mark.parametrize("separator", ["\t", " "])
def test_all_parts_are_written_and_the_unseen_test_leaves_out_seen_sentences(tmp_path, inside, suffix, separator):
    corpus(tmp_path / inside, separator, suffix)
    paths = recipe.prepare(tmp_path, tmp_path / "out")
    found = {part: {e.id: e.text for e in read_manifest(path)} for part, path in paths.items()}
    assert found == {
        "train": {"000010011": "we call it bear", "000010035": "mark is here"},
        "test": {"000030012": "mark is here", "000030024": "kate loves china"},
        "test-unseen": {"000030024": "kate loves china"},
    }
    example = read_manifest(paths["test-unseen"])[0]
    assert (example.speaker, example.duration) == ("0003", 0.2)
    assert example.audio.endswith(f"000030024{suffix}")


@pytest.mark.parametrize("table", ["wav.scp", "text", "utt2spk"])
def test_an_utterance_that_lacks_something_is_named(tmp_path, table):
    path = corpus(tmp_path) / "test" / table
    path.write_text(path.read_text().splitlines(keepends=True)[1])
    with pytest.raises(ManifestError, match="received 1 lacking: 000030012"):
        recipe.prepare(tmp_path, tmp_path / "out", ["test"])
    recipe.prepare(tmp_path, tmp_path / "out", ["train"])


def test_a_listed_sound_that_is_not_there_is_named(tmp_path):
    next((corpus(tmp_path) / "WAVE" / "SPEAKER0001").glob("000010011.*")).unlink()
    with pytest.raises(ManifestError, match=r"000010011 \(WAVE/SPEAKER0001/000010011.WAV\) has no sound"):
        recipe.prepare(tmp_path, tmp_path / "out", ["train"])


def test_a_missing_corpus_or_part_tells_how_to_mend_it(tmp_path):
    with pytest.raises(ManifestError, match=r"--download to fetch https://www.openslr.org/resources/101/"):
        recipe.prepare(tmp_path, tmp_path / "out")
    with pytest.raises(ManifestError, match="received 'dev'"):
        recipe.prepare(corpus(tmp_path), tmp_path / "out", ["dev"])
