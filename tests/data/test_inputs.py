"""The recordings that names mean: files, folders, patterns, manifests, lists."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from narspeech.data.example import Example, write_manifest
from narspeech.data.inputs import Recording, find_recordings, named_file, read_names
from narspeech.errors import AudioError, ManifestError, NarspeechError
from tests import fakes


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with empty files that are called like sound, in two folders with the same stems."""
    monkeypatch.chdir(tmp_path)
    for name in ("talks/b/x.wav", "talks/a/x.FLAC", "talks/y.mp3", "talks/notes.txt", "talks/.z.wav", "talks/.d/z.wav"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    return tmp_path


def places(found: list[Recording]) -> dict[str, str]:
    return {str(recording.path): str(recording.place) for recording in found}


def test_a_folder_is_gone_through_by_name(here: Path) -> None:
    expected = {"talks/y.mp3": "y", "talks/a/x.FLAC": "a/x", "talks/b/x.wav": "b/x"}
    found = find_recordings(["talks"], recursive=True)
    assert list(places(found).items()) == list(expected.items())
    assert [recording.id for recording in found] == ["y", "x", "x"]
    assert places(find_recordings([str(here / "talks/")], recursive=True)) == {
        str(here / name): place for name, place in expected.items()
    }
    assert places(find_recordings(["talks"], recursive=True, root=here)) == {
        name: f"talks/{place}" for name, place in expected.items()
    }


def test_a_folder_needs_recursive_and_sound(here: Path) -> None:
    with pytest.raises(NarspeechError, match="received the folder talks: give --recursive"):
        find_recordings(["talks"])
    (here / "empty").mkdir()
    with pytest.raises(NarspeechError, match=r"sound files below empty \(\.wav.*received none"):
        find_recordings(["empty"], recursive=True)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_cannot_be_read_is_told(here: Path) -> None:
    (here / "talks/a").chmod(0)
    with pytest.raises(NarspeechError, match="folders that can be read"):
        find_recordings(["talks"], recursive=True)
    (here / "talks/a").chmod(0o700)


def test_named_files_keep_their_path(here: Path) -> None:
    found = find_recordings(["talks/b/x.wav", "./talks//y.mp3", "absent.wav", "talk.2024", str(here / "a.wav")])
    assert places(found) == {
        "talks/b/x.wav": "talks/b/x",
        "talks/y.mp3": "talks/y",
        "absent.wav": "absent",
        "talk.2024": "talk.2024",  # not the same as talk.2025
        str(here / "a.wav"): str(here / "a").lstrip("/"),
    }
    assert [recording.id for recording in found] == ["x", "y", "absent", "talk.2024", "a"]
    (above,) = find_recordings(["../else/a.wav"])
    assert above.place == Path(str(here.parent / "else/a").lstrip("/"))


def test_a_root_shortens_places(here: Path) -> None:
    assert places(find_recordings([str(here / "talks/b/x.wav"), "talks/y.mp3"], root=here / "talks")) == {
        str(here / "talks/b/x.wav"): "b/x",
        "talks/y.mp3": "y",
    }
    with pytest.raises(NarspeechError, match=r"files below --root talks, received other\.wav"):
        find_recordings(["other.wav"], root=Path("talks"))


def test_patterns(here: Path) -> None:
    found = find_recordings(["talks/**/x.*"])
    assert places(found) == {"talks/a/x.FLAC": "talks/a/x", "talks/b/x.wav": "talks/b/x"}
    assert places(find_recordings(["talk*"], recursive=True)) == places(find_recordings(["talks"], recursive=True))
    (here / "[x].wav").touch()  # a file wins over the pattern
    assert places(find_recordings(["[x].wav"])) == {"[x].wav": "[x]"}
    with pytest.raises(NarspeechError, match=r"files that match \*\.ogg, received none"):
        find_recordings(["*.ogg"])


def test_a_manifest_names_parts_of_files(tmp_path: Path) -> None:
    fakes.write_wav(tmp_path / "a.wav", 0.1 * fakes.noise([3 * fakes.RATE]).data[0])
    part = Example(id="spk/u1", audio=str(tmp_path / "a.wav"), text="ignored", duration=0.5, start=1.0)
    write_manifest(tmp_path / "m.jsonl", [part])
    (found,) = find_recordings([str(tmp_path / "m.jsonl")])
    assert (found.id, found.path, found.place) == ("spk/u1", tmp_path / "a.wav", Path("spk/u1"))
    assert found.load(fakes.RATE).duration == 0.5
    write_manifest(tmp_path / "m.jsonl", [Example(id="u", audio=part.audio, text="", duration=9.0)])
    (found,) = find_recordings([str(tmp_path / "m.jsonl")])
    with pytest.raises(AudioError, match=r"expected 9\.00 s"):  # cut short since
        found.load(fakes.RATE)


@pytest.mark.parametrize("id", ["../up", "/etc/x", "a/../../b", ".", "a\0b"])
def test_an_id_that_leads_out_of_the_tree_is_refused(id: str, tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.jsonl", [Example(id=id, audio="a.wav", text="", duration=1.0)])
    with pytest.raises(ManifestError, match="that can name a file"):
        find_recordings([str(tmp_path / "m.jsonl")])


def stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))


def test_stdin_is_a_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fakes.write_wav(tmp_path / "a.wav", 0.1 * fakes.noise([fakes.RATE]).data[0])
    stdin(monkeypatch, path.read_bytes())
    (found,) = find_recordings(["-"])
    assert (found.id, str(found.path), str(found.place)) == ("stdin", "-", "stdin")
    assert found.load(fakes.RATE).duration == 1.0
    monkeypatch.chdir(tmp_path)
    Path("-").write_bytes(path.read_bytes())
    assert find_recordings(["./-"])[0].load(fakes.RATE).duration == 1.0  # a file of that name, and not the spent stdin


@pytest.mark.parametrize(
    ("content", "settings", "expected"),
    [
        (b"a.wav\n\n dir/b c.wav\r\n-x.wav", {}, ["a.wav", " dir/b c.wav", "-x.wav"]),
        (b"a\nb.wav\0-\0", {"null": True}, ["a\nb.wav", "-"]),
        (b"caf\xe9.wav\n", {}, [os.fsdecode(b"caf\xe9.wav")]),
        (b"", {}, []),
    ],
)
def test_lists_of_names(
    content: bytes, settings: dict[str, Any], expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "list").write_bytes(content)
    assert read_names(str(tmp_path / "list"), **settings) == expected
    stdin(monkeypatch, content)
    assert read_names("-", **settings) == expected


def test_lists_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"list of file names, received .*check --files-from"):
        read_names(str(tmp_path / "absent"))
    (tmp_path / "list").write_bytes(b"a.wav\0b.wav\0")
    with pytest.raises(ManifestError, match="give --null"):
        read_names(str(tmp_path / "list"))


def test_a_listed_name_has_no_special_meaning(here: Path) -> None:
    assert named_file("talks/*.wav", None).path == Path("talks/*.wav")
    assert named_file("-", None).path == here / "-"
