"""IWSLT14 in the layout of its archive, made here: prepared, and run from end to end."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

import pytest

from narspeech.data.pairs import Pair, read_pairs
from narspeech.errors import ConfigError, ManifestError
from narspeech.profile import load_file
from narspeech.run import main
from narspeech.tasks.families import AUTOREGRESSIVE, FAMILIES
from tests.recipes.tiny import words
from tests.train.songs import sentences

FOLDER = Path(__file__).parents[2] / "recipes" / "iwslt14"
prepare = load_file(FOLDER / "prepare.py")
RECIPE = FOLDER / "recipe.py"

TALK = "<url>http://talks/{0}</url>\n<keywords>word, {0}</keywords>\n<talkid>{0}</talkid>\n"
TITLE = "<title>Talk {0}</title>\n<description>TALK: About {0}.</description>\n"
SEGMENTS = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<mteval>\n<{kind} setid="{name}" srclang="{language}">\n'
    '<doc docid="1" genre="lectures">\n<url>http://talks/1</url>\n<talkid>1</talkid>\n<title>A title</title>\n'
    "{segments}</doc>\n</{kind}>\n</mteval>\n"
)


def write_archive(folder: Path, talks: dict[str, list[str]], held: list[str]) -> Path:
    """de-en/ as the archive has it: two talks by language; each of the five sets has the `held` texts."""
    folder.mkdir(parents=True)
    for language, lines in talks.items():
        half = len(lines) // 2
        content = "".join(
            TALK.format(number) + TITLE.format(number) + "".join(f" {line} \n" for line in part)
            for number, part in enumerate((lines[:half], lines[half:]))
        )
        (folder / f"train.tags.de-en.{language}").write_text(content, encoding="utf-8")
        for number, name in enumerate(prepare.SETS.values()):
            texts = [f"{text} {language} {number}" for text in held]
            segments = "".join(f'<seg id="{place}"> {text} </seg>\n' for place, text in enumerate(texts, 1))
            content = SEGMENTS.format(kind="srcset", name=name, language=language, segments=segments)
            (folder / f"{name}.de-en.{language}.xml").write_text(content, encoding="utf-8")
    return folder


@pytest.fixture
def data(tmp_path):
    german = [f"Satz {number}, der Erste." for number in range(58)]
    english = [f"Sentence {number}, the first." for number in range(58)]
    german[3], english[3] = "Zu lang wird dies alles im Vergleich.", "Too long."
    german[4] = ""
    german[5] = english[5] = "word " * 176
    write_archive(tmp_path / "data" / "de-en", {"de": german, "en": english}, ["It’s R&amp;D.", "Two"])
    return tmp_path / "data"


def test_talks_are_cleaned_and_each_23rd_pair_is_held_out(data, tmp_path, capsys):
    found = prepare.prepare(data, tmp_path / "out", ["train", "valid", "train"])
    assert list(found) == ["train", "valid"]
    train, valid = (read_pairs(found[part]) for part in ("train", "valid"))
    # 58 lines, a title and a description of two talks, and three pairs out of limits.
    assert (len(train), len(valid)) == (57, 2)
    assert "59 of 62 pairs are kept" in capsys.readouterr().err
    assert [pair.id for pair in valid] == ["valid-000023", "valid-000046"]
    assert [pair.id for pair in train[21:23]] == ["train-000022", "train-000024"]
    assert train[:2] == [
        Pair(id="train-000001", source="Talk 0", target="Talk 0"),
        Pair(id="train-000002", source="TALK: About 0.", target="TALK: About 0."),
    ]
    assert train[2].source == "Satz 0, der Erste."
    # The 23rd that is left: two lines of the talk and three that fell out come before it.
    assert valid[0] == Pair(id="valid-000023", source="Satz 23, der Erste.", target="Sentence 23, the first.")
    assert not [pair for pair in train if "<" in pair.source or "http" in pair.source]


def test_the_test_joins_five_sets_and_leaves_nothing_out(data, tmp_path):
    found = prepare.prepare(data / "de-en", tmp_path / "out", ["test", "tst2011"], languages=("en", "de"))
    test = read_pairs(found["test"])
    names = ("dev2010", "dev2012", "tst2010", "tst2011", "tst2012")
    assert [pair.id for pair in test] == [f"{name}-000{place}" for name in names for place in (1, 2)]
    assert test[0] == Pair(id="dev2010-0001", source="It’s R&D. en 0", target="It’s R&D. de 0")
    assert read_pairs(found["tst2011"]) == test[6:8]


def test_lower_case_has_straight_apostrophes_in_the_sets(data, tmp_path):
    found = prepare.prepare(data, tmp_path / "out", ["train", "dev2010"], lower=True)
    assert read_pairs(found["dev2010"])[0].target == "it's r&d. en 0"
    assert read_pairs(found["train"])[2].source == "satz 0, der erste."


def test_what_does_not_fit_is_refused(data, tmp_path):
    with pytest.raises(ManifestError, match=r"parts among train, valid, test, dev2010.*, received tst2013 from de to"):
        prepare.prepare(data, tmp_path / "out", ["tst2013"])
    for languages in (("de", "fr"), ("de", "de")):
        with pytest.raises(ManifestError, match=f"from de to {languages[1]}: correct"):
            prepare.prepare(data, tmp_path / "out", ["train"], languages=languages)
    with pytest.raises(
        ManifestError, match=r"expected train\.tags\.de-en\.de .*--download to fetch it from https://dl"
    ):
        prepare.prepare(tmp_path, tmp_path / "out", ["train"])
    path = data / "de-en" / "train.tags.de-en.en"
    path.write_text(path.read_text() + "One more.\n")
    with pytest.raises(ManifestError, match=r"as many texts of train\.tags\.de-en on both sides, received 62 on one"):
        prepare.prepare(data, tmp_path / "out", ["train"])
    assert not list((tmp_path / "out").iterdir())
    (data / "de-en" / "IWSLT14.TED.tst2010.de-en.de.xml").unlink()
    with pytest.raises(ManifestError, match=r"segments of UTF-8 text in .*tst2010"):
        prepare.prepare(data, tmp_path / "out", ["test"])


def test_the_archive_is_fetched_checked_and_unpacked(data, tmp_path, monkeypatch, capsys):
    packed = tmp_path / "packed.tgz"
    with tarfile.open(packed, "w:gz") as tar:
        tar.add(data / "de-en", "de-en")
    asked = []

    def fetch(url, target, **given):
        asked.append((url, given))
        target.parent.mkdir(parents=True)
        target.write_bytes(packed.read_bytes())
        return target

    monkeypatch.setattr(prepare, "fetch", fetch)
    new = tmp_path / "new"
    prepare.main(new, tmp_path / "out", parts="test, valid", download=True, mirror="https://here/")
    assert asked == [
        ("https://here/de-en.tgz", {"checksum": ("md5", prepare.MD5), "size": 19982877, "unpack": True}),
    ]
    assert capsys.readouterr().out.split() == [str(tmp_path / "out" / f"{part}.jsonl") for part in ("test", "valid")]
    assert [path.name for path in new.iterdir()] == ["de-en"]
    prepare.prepare(new, tmp_path / "out", ["train"], download=True)
    assert len(asked) == 1
    assert len(bytes.fromhex(prepare.MD5)) == hashlib.md5().digest_size
    with tarfile.open(packed, "w:gz") as tar:
        tar.add(data / "de-en" / "train.tags.de-en.en", "other/train.tags.de-en.en")
    with pytest.raises(ManifestError, match="received an archive without it"):
        prepare.prepare(tmp_path / "newer", tmp_path / "out", ["train"], download=True)


def test_profiles_are_all_families_both_ways_and_in_lower_case():
    profiles = load_file(RECIPE).PROFILES
    assert list(profiles) == [f"{family}{suffix}" for suffix in ("", "_de", "_lower") for family in FAMILIES]
    for suffix, name, lower in (
        ("", "iwslt14-de-en", False),
        ("_de", "iwslt14-en-de", False),
        ("_lower", "iwslt14-de-en-lower", True),
    ):
        (source,), config = profiles[f"cmlm{suffix}"]()
        assert (source.name, source.prepare.keywords["lower"]) == (name, lower)
        assert source.parts() == {"train": ["train"], "dev": ["valid"], "test": ["test"]}
        assert config == profiles["cmlm"]().config
        assert profiles[f"cmlm{suffix}"].__name__ == f"cmlm{suffix}"
    epochs = {family: profiles[family]().config.train.epochs for family in FAMILIES}
    assert {family for family in FAMILIES if epochs[family] == 100} == AUTOREGRESSIVE
    assert set(epochs.values()) == {100, 250}


def test_a_profile_runs_from_end_to_end_and_another_learns_from_its_teacher(tmp_path):
    talks = sentences(60, 1)
    turned = [text[::-1].title() for text in talks]
    data = write_archive(tmp_path / "data" / "de-en", {"de": talks, "en": turned}, ["bad cab", "dab"])
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    stages = "prepare,train,average,distill"
    given = ["--data", str(data), *words(data__held_out=2)]
    assert main([f"{RECIPE}:ar_lower", "--out", str(teacher), "--stages", stages, *given]) == 0
    given += ["--distilled", str(teacher / "distilled"), "--decode.beams", "1"]
    assert main([f"{RECIPE}:glat_lower", "--out", str(student), *given, "--decode.candidates", "1,2"]) == 0
    scores = json.loads((student / "scores.json").read_text())
    assert {part: list(found) for part, found in scores.items()} == {
        "iwslt14-de-en-lower-test": ["nat-2", "nat-2-candidates2"]
    }
    assert scores["iwslt14-de-en-lower-test"]["nat-2"]["utterances"] == 10
    with pytest.raises(ConfigError, match="other sources"):
        main([f"{RECIPE}:glat", "--out", str(student), *given])
