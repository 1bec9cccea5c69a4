from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from narspeech.data.example import Example, read_manifest
from narspeech.errors import AudioError, ManifestError, NarspeechError

SCRIPT = Path(__file__).parents[2] / "recipes" / "manifest" / "prepare.py"
spec = importlib.util.spec_from_file_location("manifest_prepare", SCRIPT)
recipe = importlib.util.module_from_spec(spec)
spec.loader.exec_module(recipe)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with recordings 0.wav .. 9.wav of one second."""
    (tmp_path / "wav").mkdir()
    for number in range(10):
        soundfile.write(tmp_path / "wav" / f"{number}.wav", np.zeros(16000, np.float32), 16000)
    return tmp_path


def listing(path: Path, rows: list[dict[str, object]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
        return path
    separator = "," if path.suffix == ".csv" else "\t"
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, *([str(row.get(name, "")) for name in names] for row in rows)]
    path.write_text("\n".join(separator.join(line) for line in lines) + "\n", encoding="utf-8-sig")
    return path


def every(paths: dict[str, Path]) -> dict[str, Example]:
    return {example.id: example for path in paths.values() for example in read_manifest(path)}


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv"])
def test_what_is_missing_is_filled_in(data, suffix):
    rows = [{"audio": f"wav/{n}.wav", "text": f"Number  {n}"} for n in range(10)]
    rows[0] |= {"id": "first", "start": 0.25, "duration": 0.5, "speaker": "ann"}
    rows[1] |= {"start": 0.4}
    paths = recipe.prepare(listing(data / f"my{suffix}", rows), data / "out", held_out=0.2)
    assert [len(read_manifest(paths[part])) for part in ("train", "dev")] == [8, 2]
    found = every(paths)
    audio = str(data / "wav" / "0.wav")
    assert found["first"] == Example(id="first", audio=audio, text="number 0", duration=0.5, start=0.25, speaker="ann")
    assert (found["1"].start, found["1"].duration, found["1"].speaker) == (0.4, 0.6, None)
    assert found["2"].duration == 1.0


def test_case_is_kept_on_request_and_quoted_text_is_read(data):
    (data / "my.csv").write_text('audio,text\nwav/0.wav,"Well, YES"\nwav/1.wav,no\n')
    found = every(recipe.prepare(data / "my.csv", data / "out", lower=False, held_out=0.5))
    assert found["0"].text == "Well, YES"


def test_a_line_ends_where_it_ends(data):
    (data / "my.tsv").write_text("audio\ttext\nwav/0.wav\tone\u2028two\x1cthree\r\nwav/1.wav\tno\n", newline="")
    found = every(recipe.prepare(data / "my.tsv", data / "out", held_out=0.5))
    assert {key: example.text.split() for key, example in found.items()} == {"0": ["one", "two", "three"], "1": ["no"]}


def test_pieces_of_one_recording_get_numbered_ids(data):
    rows = [{"audio": "wav/0.wav", "text": "a", "start": n / 4, "duration": 0.25} for n in range(4)]
    found = every(recipe.prepare(listing(data / "my.jsonl", rows), data / "out", held_out=0.25))
    assert sorted(found) == ["0-0001", "0-0002", "0-0003", "0-0004"]


def test_whole_speakers_are_held_out_and_always_the_same(data):
    rows = [{"audio": f"wav/{n}.wav", "text": "a", "speaker": f"s{n % 5}"} for n in range(10)]
    path = listing(data / "my.csv", rows)
    paths = recipe.prepare(path, data / "out", held_out=0.2)
    train, dev = (read_manifest(paths[part]) for part in ("train", "dev"))
    assert (len(train), len(dev)) == (8, 2)
    assert len({example.speaker for example in dev}) == 1
    alone = recipe.prepare(path, data / "alone", ["train"], held_out=0.2)
    assert {example.id for example in read_manifest(alone["train"])} == {example.id for example in train}
    before = paths["train"].stat().st_mtime_ns
    recipe.prepare(path, data / "out", held_out=0.2)
    assert paths["train"].stat().st_mtime_ns == before


def test_one_speaker_alone_is_split_by_utterance(data):
    rows = [{"audio": f"wav/{n}.wav", "text": "a", "speaker": "s"} for n in range(10)]
    paths = recipe.prepare(listing(data / "my.csv", rows), data / "out", held_out=0.3)
    assert len(read_manifest(paths["dev"])) == 3


def test_a_folder_of_listings_is_taken_as_it_is(data):
    folder = data / "lists"
    folder.mkdir()
    for part, numbers in {"train": range(5), "dev": range(5, 7), "test": range(7, 10)}.items():
        listing(folder / f"{part}.csv", [{"audio": f"../wav/{n}.wav", "text": "a"} for n in numbers])
    paths = recipe.prepare(folder, data / "out", ["train", "dev", "test"])
    assert [len(read_manifest(path)) for path in paths.values()] == [5, 2, 3]
    with pytest.raises(ManifestError, match="received 'other'"):
        recipe.prepare(folder, data / "out", ["other"])
    (folder / "dev.csv").unlink()
    assert len(read_manifest(recipe.prepare(folder, data / "split", held_out=0.2)["dev"])) == 1
    everything = recipe.prepare(folder, data / "all", ["train"], held_out=0)
    assert len(read_manifest(everything["train"])) == 5
    with pytest.raises(ManifestError, match="received 'dev'"):
        recipe.prepare(folder, data / "all", ["dev"], held_out=0)


def test_the_listing_is_never_overwritten(data):
    path = listing(data / "train.jsonl", [{"audio": "wav/0.wav", "text": "a"}, {"audio": "wav/1.wav", "text": "b"}])
    before = path.read_bytes()
    with pytest.raises(ManifestError, match="out to differ"):
        recipe.prepare(path, data)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": " "}, "line 2 has no text"),
        ({"audio": ""}, "line 2 has no audio"),
        ({"audio": "wav/none.wav"}, r"none\.wav"),
        ({"id": "a b"}, "white space"),
        ({"id": "1"}, r"1 \(2 times\)"),
        ({"start": "soon"}, "start 'soon'"),
        ({"start": -1}, "start '-1'"),
        ({"start": 1.0}, "beyond the end: line 2"),
        ({"duration": 0}, "duration '0'"),
        ({"duration": "inf"}, "duration 'inf'"),
        ({"start": 0.5, "duration": 0.7}, r"line 2 \(1.20 s of 1.00 s\)"),
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_wrong_row_is_named(data, row, message, suffix):
    first = {"audio": "wav/0.wav", "text": "a"} | row
    rows = [first, {"audio": "wav/1.wav", "text": "b"}]
    message = message.replace("line 2", "line 1") if suffix == ".jsonl" else message
    with pytest.raises(ManifestError, match=message):
        recipe.prepare(listing(data / f"my{suffix}", rows), data / "out")
    assert not (data / "out").exists()


def test_all_wrong_rows_are_named_at_once(data):
    rows = [
        {"audio": "wav/0.wav", "text": ""},
        {"audio": "wav/none.wav", "text": "b"},
        {"audio": "wav/1.wav", "text": "c"},
        {"audio": "wav/gone.wav", "text": "", "start": -1},
    ]
    with pytest.raises(ManifestError) as refused:
        recipe.prepare(listing(data / "my.jsonl", rows), data / "out")
    told = str(refused.value)
    assert "received 3 without: line 1 has no text; line 2 names " in told
    assert (
        f"line 4 names {data / 'wav' / 'gone.wav'}, which does not exist and has no text and has the start '-1'" in told
    )


def test_an_end_just_beyond_the_recording_is_cut_back(data):
    rows = [{"audio": f"wav/{n}.wav", "text": "a", "duration": 1.05} for n in range(2)]
    found = every(recipe.prepare(listing(data / "my.csv", rows), data / "out", held_out=0.5))
    assert found["0"].duration == 1.0


def test_an_unreadable_sound_is_named(data):
    (data / "wav" / "0.wav").write_bytes(b"RIFF")
    rows = [{"audio": f"wav/{n}.wav", "text": "a"} for n in range(2)]
    with pytest.raises(AudioError, match=r"0\.wav"):
        recipe.prepare(listing(data / "my.csv", rows), data / "out")


def test_unknown_columns_are_told_and_ignored(data):
    rows = [{"audio": f"wav/{n}.wav", "text": "a", "strat": 0} for n in range(2)]
    with pytest.warns(UserWarning, match=r"ignored \['strat'\]"):
        recipe.prepare(listing(data / "my.csv", rows), data / "out", held_out=0.5)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("my.csv", "path,sentence\na,b\n"),
        ("my.csv", "audio,text\na,b,c\n"),
        ("my.csv", ""),
        ("my.csv", "audio,text\n"),
        ("my.jsonl", "[1]\n"),
        ("my.jsonl", "{\n"),
        ("my.jsonl", "\n"),
        ("my.txt", "a b\n"),
    ],
)
def test_a_malformed_listing_is_refused(data, name, content):
    (data / name).write_text(content)
    with pytest.raises(NarspeechError, match="expected"):
        recipe.prepare(data / name, data / "out")
    with pytest.raises(ManifestError, match="expected"):
        recipe.prepare(data / "nowhere", data / "out")
