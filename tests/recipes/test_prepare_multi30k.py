from __future__ import annotations

import gzip
import sys
from pathlib import Path

import pytest

from narspeech.data.pairs import Pair, read_pairs
from narspeech.errors import ManifestError
from narspeech.profile import load_file

FILE = Path(__file__).parents[2] / "recipes" / "multi30k" / "prepare.py"
recipe = load_file(FILE)


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data" / "multi30k"
    folder.mkdir(parents=True)
    for language, lines in {
        "en": "A  dog.\nTwo cats.\n",
        "de": "Ein Hund.\nZwei Katzen.\n",
        "fr": "Un chien.\n",
    }.items():
        (folder / f"val.{language}.gz").write_bytes(gzip.compress(lines.encode()))
    (folder / "own.en").write_text("Hi!")
    (folder / "own.de").write_text("Grüß Gott!\n", encoding="utf-8")
    return tmp_path / "data"


def test_pairs_keep_case_and_order(data, tmp_path):
    found = recipe.prepare(data, tmp_path / "out", ["val", "own", "val"])
    assert list(found) == ["val", "own"]
    assert read_pairs(found["val"]) == [
        Pair(id="val-00001", source="A dog.", target="Ein Hund."),
        Pair(id="val-00002", source="Two cats.", target="Zwei Katzen."),
    ]
    assert read_pairs(found["own"]) == [Pair(id="own-00001", source="Hi!", target="Grüß Gott!")]
    inside = recipe.prepare(data / "multi30k", tmp_path / "out", ["val"], languages=("de", "en"))
    assert read_pairs(inside["val"])[0].source == "Ein Hund."


def test_sides_that_do_not_fit_are_refused(data, tmp_path):
    with pytest.raises(ManifestError, match="as many texts of val on both sides, received 1 on one and more"):
        recipe.prepare(data, tmp_path / "out", ["val"], languages=("en", "fr"))
    for language in ("en", "de"):
        (data / "multi30k" / f"empty.{language}").touch()
    with pytest.raises(ManifestError, match="expected texts in empty, received none"):
        recipe.prepare(data, tmp_path / "out", ["empty"])
    (data / "multi30k" / "own.de").write_text("\n")
    with pytest.raises(ManifestError, match="received 1 without one: own-00001"):
        recipe.prepare(data, tmp_path / "out", ["own"])
    (data / "multi30k" / "val.fr.gz").write_bytes(b"no archive")
    with pytest.raises(ManifestError, match=r"UTF-8 text in .*val\.fr\.gz"):
        recipe.prepare(data, tmp_path / "out", ["val"], languages=("en", "fr"))
    with pytest.raises(ManifestError, match=r"expected train\.en or train\.en\.gz .*add --download"):
        recipe.prepare(data, tmp_path / "out", ["train"])
    with pytest.raises(ManifestError, match=r"expected mine\.en"):
        recipe.prepare(data, tmp_path / "out", ["mine"], download=True)


def test_official_files_are_fetched_and_counted(data, tmp_path, monkeypatch):
    asked = []

    def fetch(url, target):
        asked.append(url)
        target.write_bytes(gzip.compress(b"One.\nTwo.\n" if "2016" in url else b"One.\n"))
        return target

    monkeypatch.setattr(recipe, "fetch", fetch)
    monkeypatch.setitem(recipe.COUNTS, "test_2016_flickr", 2)
    found = recipe.prepare(data, tmp_path / "out", ["test_2016_flickr"], download=True, mirror="https://here/")
    assert asked == ["https://here/test_2016_flickr.en.gz", "https://here/test_2016_flickr.de.gz"]
    assert len(read_pairs(found["test_2016_flickr"])) == 2
    with pytest.raises(ManifestError, match=r"expected 29000 lines at .*train\.en\.gz, received 1"):
        recipe.prepare(data, tmp_path / "out", ["train"], download=True)
    assert not (data / "multi30k" / "train.en.gz").exists()


def test_the_command(data, tmp_path, capsys):
    recipe.main(data, tmp_path / "out", languages="en, de", parts="val")
    assert capsys.readouterr().out == f"{tmp_path / 'out' / 'val.jsonl'}\n"
    with pytest.raises(ManifestError, match="two languages"):
        recipe.main(data, tmp_path / "out", languages="en")
    assert sys.modules[recipe.__name__] is recipe
