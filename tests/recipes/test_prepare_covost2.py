from __future__ import annotations

import functools
import http.server
import io
import tarfile
import threading
from pathlib import Path

import pytest

from narspeech.data.example import read_manifest
from narspeech.data.pairs import read_pairs
from narspeech.errors import ManifestError
from narspeech.profile import load_file
from tests.fakes import sing, write_wav

recipe = load_file(Path(__file__).parents[2] / "recipes" / "covost2" / "prepare.py")
# path, sentence, speaker; and what it means, in which split.
LINES = {
    "common_voice_en_1.mp3": ("“A” bad cab, said Bob.", "ann", "„Ein“ schlechtes  Taxi, sagte Bob.", "train"),
    "common_voice_en_2.mp3": ("Dad!", "bob", "Papa!", "train_covost"),
    "common_voice_en_3.mp3": ('A "cab".', "cid", 'Ein "Taxi".', "dev"),
    "common_voice_en_4.mp3": ("Add a \\\\ b", "dan", "Addiere a \\\\ b", "test"),
    "common_voice_en_5.mp3": ("Nothing.", "dan", "", "test"),
    "common_voice_en_6.mp3": ("Elsewhere.", "eve", "Anderswo.", "other"),
    "common_voice_en_7.mp3": ("Not translated.", "eve", None, None),
}
NAME = "covost_v2.en_de.tsv"


def common_voice(folder: Path, *, clips: bool = True) -> Path:
    """Common Voice's layout with sung clips."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"{speaker}\t{path}\t{text}\t2\n" for path, (text, speaker, _, _) in LINES.items()]
    (folder / "validated.tsv").write_text("client_id\tpath\tsentence\tup_votes\n" + "".join(rows), encoding="utf-8")
    for number, path in enumerate(LINES if clips else ()):
        (folder / "clips").mkdir(exist_ok=True)
        write_wav(folder / "clips" / path.replace(".mp3", ".wav"), sing("abad", seconds=0.02 * (number + 1)))
    return folder


def translations(folder: Path) -> Path:
    # One that Common Voice has not heard, and one that comes again.
    rows = [f"{path}\t{meant}\t{split}\n" for path, (_, _, meant, split) in LINES.items() if split is not None]
    rows += ["common_voice_en_9.mp3\tUngehört.\ttrain\n", "common_voice_en_2.mp3\tVati!\ttest\n"]
    (folder / NAME).write_text("path\ttranslation\tsplit\n" + "".join(rows), encoding="utf-8")
    return folder / NAME


@pytest.mark.parametrize("inside", ["", "en", "cv-corpus-4-2019-12-10/en", "en/raw"])
def test_translations_keep_case_and_punctuation(tmp_path, inside, capsys):
    translations(common_voice(tmp_path / inside))
    paths = recipe.prepare(tmp_path, tmp_path / "out", ["train", "dev", "test"])
    assert paths == {part: tmp_path / "out" / f"{part}.jsonl" for part in ("train", "dev", "test")}
    train, dev, test = (read_manifest(path) for path in paths.values())
    assert [example.text for example in train] == ["„Ein“ schlechtes Taxi, sagte Bob.", "Papa!"]
    assert [(example.id, example.speaker, example.start) for example in train] == [
        ("common_voice_en_1", "ann", 0.0),
        ("common_voice_en_2", "bob", 0.0),
    ]
    assert train[0].duration == pytest.approx(0.18)
    assert Path(train[0].audio).name == "common_voice_en_1.wav"
    assert [example.text for example in dev] == ['Ein "Taxi".']
    assert [example.text for example in test] == ["Addiere a \\ b"]
    assert "left out 1 sentences of test without a text" in capsys.readouterr().err


def test_transcripts_are_in_lower_case(tmp_path):
    translations(common_voice(tmp_path))
    path = recipe.prepare(tmp_path, tmp_path / "out", ["train"], content="transcript")["train"]
    assert [example.text for example in read_manifest(path)] == ["“a” bad cab, said bob.", "dad!"]


def test_pairs_need_no_clips(tmp_path):
    translations(common_voice(tmp_path / "en", clips=False))
    path = recipe.prepare(tmp_path, tmp_path / "out", ["train"], content="pair")["train"]
    assert [(pair.id, pair.source, pair.target) for pair in read_pairs(path)] == [
        ("common_voice_en_1", "“A” bad cab, said Bob.", "„Ein“ schlechtes Taxi, sagte Bob."),
        ("common_voice_en_2", "Dad!", "Papa!"),
    ]


def test_what_is_missing_is_named_with_the_way_to_get_it(tmp_path):
    prepare = functools.partial(recipe.prepare, tmp_path, tmp_path / "out")
    with pytest.raises(ManifestError, match=r"Common Voice 4 .* so get it from https://commonvoice"):
        prepare(["train"], download=True)
    folder = common_voice(tmp_path / "en")
    with pytest.raises(ManifestError, match=r"add --download to fetch https://dl.*/covost_v2\.en_de\.tsv\.tar\.gz"):
        prepare(["train"])
    with pytest.raises(ManifestError, match="received en,fr: correct --languages"):
        prepare(["train"], languages=("en", "fr"))
    with pytest.raises(ManifestError, match="parts among train, dev, test, received dev2"):
        prepare(["train", "dev2"])
    table = translations(tmp_path)
    (folder / "clips" / "common_voice_en_2.wav").unlink()
    with pytest.raises(ManifestError, match="received 1 without one: common_voice_en_2"):
        prepare(["train", "dev"])
    table.write_text("path\ttranslation\n", encoding="utf-8")
    with pytest.raises(ManifestError, match=r"none named \['split'\]"):
        prepare(["dev"])
    table.write_bytes(b"\xff\xfe")
    with pytest.raises(ManifestError, match="UTF-8"):
        prepare(["dev"])


def test_any_pair_that_lies_there_will_do(tmp_path):
    translations(common_voice(tmp_path)).rename(tmp_path / "covost_v2.xx_yy.tsv")
    assert recipe.prepare(tmp_path, tmp_path / "out", ["dev"], languages=("xx", "yy"))["dev"].exists()


def test_the_official_directions():
    assert len(recipe.FROM_ENGLISH) == 15
    assert len(recipe.INTO_ENGLISH) == 21


def test_translations_are_fetched(tmp_path):
    served, data = tmp_path / "served", common_voice(tmp_path / "data")
    served.mkdir()
    content = translations(served).read_bytes()
    with tarfile.open(served / f"{NAME}.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo(NAME)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(served))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        mirror = f"http://127.0.0.1:{server.server_port}"
        recipe.prepare(data, tmp_path / "out", ["dev"], download=True, mirror=mirror)
    finally:
        server.shutdown()
        server.server_close()
    assert (data / NAME).read_bytes() == content
    assert not (data / f"{NAME}.tar.gz").exists()


def test_the_command(tmp_path, capsys):
    translations(common_voice(tmp_path))
    recipe.main(tmp_path, tmp_path / "out", parts="dev, test")
    assert capsys.readouterr().out.splitlines()[0].endswith("1 utterances, 0.00 hours, 1 speakers")
    recipe.main(tmp_path, tmp_path / "pairs", parts="dev", content="pair")
    assert capsys.readouterr().out == f"{tmp_path / 'pairs' / 'dev.jsonl'}\n"
    with pytest.raises(ManifestError, match="two languages"):
        recipe.main(tmp_path, tmp_path / "out", languages="en")
