"""WMT14 in the layout of its archives, made here: prepared, and run from end to end."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from narspeech.data.pairs import Pair, read_pairs
from narspeech.errors import ManifestError
from narspeech.profile import load_file
from narspeech.run import main
from narspeech.tasks.families import FAMILIES
from tests.recipes.tiny import words
from tests.train.songs import sentences

FOLDER = Path(__file__).parents[2] / "recipes" / "wmt14"
prepare = load_file(FOLDER / "prepare.py")
RECIPE = FOLDER / "recipe.py"
SGM = '<{set} setid="newstest2014">\n<doc docid="1">\n<p>\n{segments}</p>\n</doc>\n</{set}>\n'


def write_corpus(folder: Path, texts: dict[str, dict[str, list[str]]]) -> Path:
    """The unpacked archives with the lines of each part by language."""
    for part, sides in texts.items():
        for language, lines in sides.items():
            for side in ("src", "ref"):
                path = folder / prepare.PARTS[part].path.format(language=language, side=side)
                path.parent.mkdir(parents=True, exist_ok=True)
                segments = "".join(f'<seg id="{place}">{line}</seg>\n' for place, line in enumerate(lines, 1))
                sgm = SGM.format(set={"src": "srcset", "ref": "refset"}[side], segments=segments)
                path.write_text(sgm if path.suffix == ".sgm" else "".join(f"{line}\n" for line in lines), "utf-8")
    return folder


TEXTS = {
    "europarl-v7": {
        "en": ["A first\u200b sentence.", "", "Far too long for that, I think."],
        "de": ["Ein  erster Satz.", "Leer.", "Kurz."],
    },
    "commoncrawl": {"en": ["Cheap\rhotels"], "de": ["Billige Hotels"]},
    "news-commentary-v9": {"en": ["Nine"], "de": ["Neun"]},
    "news-commentary-v12": {"en": ["Twelve"], "de": ["Zwölf"]},
    "newstest2013": {"en": ["One, two and three", "Dev"], "de": ["Eins", "Dev"]},
    "newstest2014": {"en": ["It’s R&amp;D."], "de": ["Es ist F&amp;E."]},
}


@pytest.fixture
def data(tmp_path):
    return write_corpus(tmp_path / "data", TEXTS)


def test_training_parts_are_cleaned_and_the_others_stay_as_they_are(data, tmp_path, capsys):
    found = prepare.prepare(data, tmp_path / "out", [*prepare.PARTS, "commoncrawl"])
    assert list(found) == list(prepare.PARTS)
    pairs = {part: read_pairs(path) for part, path in found.items()}
    assert pairs["europarl-v7"] == [
        Pair(id="europarl-v7-0000001", source="A first sentence.", target="Ein erster Satz.")
    ]
    assert "europarl-v7: 1 of 3 pairs are kept" in capsys.readouterr().err
    assert pairs["commoncrawl"][0].source == "Cheap hotels"
    assert [pairs[f"news-commentary-{version}"][0].target for version in ("v9", "v12")] == ["Neun", "Zwölf"]
    assert [pair.source for pair in pairs["newstest2013"]] == TEXTS["newstest2013"]["en"]
    assert pairs["newstest2014"] == [Pair(id="newstest2014-0000001", source="It’s R&D.", target="Es ist F&E.")]


def test_the_other_direction_reads_the_other_side_of_the_test(data, tmp_path):
    for name in ("src.en", "ref.de"):
        (data / "test-full" / f"newstest2014-deen-{name}.sgm").unlink()
    found = prepare.prepare(data, tmp_path / "out", ["newstest2014", "commoncrawl"], languages=("de", "en"))
    assert read_pairs(found["newstest2014"])[0].source == "Es ist F&E."
    assert read_pairs(found["commoncrawl"])[0].source == "Billige Hotels"
    with pytest.raises(ManifestError, match=r"expected test-full/newstest2014-deen-src\.en\.sgm in "):
        prepare.prepare(data, tmp_path / "out", ["newstest2014"])


def test_a_part_is_written_pair_by_pair(data, tmp_path, monkeypatch):
    """Whatever the number of pairs, a pair is written before the next is read."""
    path = data / "commoncrawl.de-en.en"
    for side in (path, path.with_suffix(".de")):
        side.write_text("".join(f"Line {number}\n" for number in range(50)))
    read, steps = prepare.read_lines, []

    def lines(path):
        for line in read(path):
            steps.append("read")
            yield line

    def write_pairs(_, pairs):
        for _ in pairs:
            steps.append("write")

    monkeypatch.setattr(prepare, "read_lines", lines)
    monkeypatch.setattr(prepare, "write_pairs", write_pairs)
    prepare.prepare(data, tmp_path / "out", ["commoncrawl"])
    assert steps == ["read", "read", "write"] * 50


def test_what_does_not_fit_is_refused(data, tmp_path):
    with pytest.raises(ManifestError, match=r"parts among europarl-v7, .*, received newstest2015 from en to de"):
        prepare.prepare(data, tmp_path / "out", ["newstest2015"], download=True)
    with pytest.raises(ManifestError, match="received them from en to fr"):
        prepare.prepare(data, tmp_path / "out", ["commoncrawl"], languages=("en", "fr"))
    path = data / "commoncrawl.de-en.de"
    path.write_text("Billige Hotels\nUnd mehr\n")
    with pytest.raises(ManifestError, match="as many texts of commoncrawl on both sides, received 1 on one"):
        prepare.prepare(data, tmp_path / "out", ["commoncrawl"])
    path.unlink()
    with pytest.raises(
        ManifestError, match=r"add --download to fetch https://www\.statmt\.org/wmt13/training-parallel-c"
    ):
        prepare.prepare(data, tmp_path / "out", ["europarl-v7", "commoncrawl"])
    assert not list((tmp_path / "out").iterdir())


def test_only_the_archives_of_missing_parts_are_fetched(data, tmp_path, monkeypatch, capsys):
    asked = []

    def fetch(url, target, **given):
        asked.append((url, target.name, given))
        target.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(target, "w:gz") as tar:
            tar.add(data / "training", "training")
        return target

    monkeypatch.setattr(prepare, "fetch", fetch)
    new = tmp_path / "new"
    prepare.main(new, tmp_path / "out", parts="europarl-v7, europarl-v7", download=True)
    name = "training-parallel-europarl-v7.tgz"
    archive = prepare.ARCHIVES[name]
    given = {"checksum": archive.checksum, "size": 657632379, "unpack": True}
    assert asked == [(f"https://www.statmt.org/wmt13/{name}", name, given)]
    assert capsys.readouterr().out == f"{tmp_path / 'out' / 'europarl-v7.jsonl'}\n"
    assert [path.name for path in (new / "wmt14").iterdir()] == ["training"]
    prepare.prepare(new, tmp_path / "out", ["europarl-v7"], download=True)
    assert len(asked) == 1
    with pytest.raises(ManifestError, match=r"expected commoncrawl in .*an archive without it"):
        prepare.prepare(new, tmp_path / "out", ["commoncrawl"], download=True, mirror="http://here/")
    assert asked[1][0] == "http://here/training-parallel-commoncrawl.tgz"


def test_every_archive_has_a_checksum():
    sizes = {"sha256": 32, "md5": 16}
    for archive in prepare.ARCHIVES.values():
        algorithm, digest = archive.checksum
        assert len(bytes.fromhex(digest)) == sizes[algorithm]
    assert {part.archive for part in prepare.PARTS.values()} == set(prepare.ARCHIVES)


def test_profiles_are_all_families_both_ways_and_with_either_news_commentary():
    profiles = load_file(RECIPE).PROFILES
    assert list(profiles) == [f"{family}{suffix}" for suffix in ("", "_en", "_v9") for family in FAMILIES]
    for suffix, name, news in (
        ("", "wmt14-en-de", "v12"),
        ("_en", "wmt14-de-en", "v12"),
        ("_v9", "wmt14-en-de-nc-v9", "v9"),
    ):
        (source,), config = profiles[f"dag{suffix}"]()
        train = ["europarl-v7", "commoncrawl", f"news-commentary-{news}"]
        assert source.name == name
        assert source.parts() == {"train": train, "test": ["newstest2014"], "dev": ["newstest2013"]}
        assert {*train, *source.test, *source.dev} <= set(prepare.PARTS)
        assert config == profiles["dag"]().config
    assert profiles["ar"]().config.train.epochs < profiles["cmlm"]().config.train.epochs


def test_a_profile_runs_from_end_to_end(tmp_path):
    counts = {"europarl-v7": 20, "commoncrawl": 8, "news-commentary-v12": 8, "newstest2013": 5, "newstest2014": 3}
    texts = {}
    for seed, (part, count) in enumerate(counts.items()):
        lines = sentences(count, seed)
        texts[part] = {"en": lines, "de": [line[::-1].title() for line in lines]}
    data, out = write_corpus(tmp_path / "wmt14", texts), tmp_path / "out"
    given = ["--data", str(data.parent), "--out", str(out), *words(decode__beams=1)]
    assert main([f"{RECIPE}:cmlm", *given, "--decode.candidates", "2"]) == 0
    scores = json.loads((out / "scores.json").read_text())
    assert {part: list(found) for part, found in scores.items()} == {"wmt14-en-de-newstest2014": ["cmlm-2-candidates2"]}
    assert len((out / "manifests" / "wmt14-en-de" / "europarl-v7.jsonl").read_text().splitlines()) == 20
